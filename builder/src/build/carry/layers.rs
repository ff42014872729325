//! The layers of carried images: which files each has, and how it is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use kfs_fs::blob::{BlobReader, BlobSource};
use kfs_fs::digest::{DiffId, Digest, VerifyReader};
use kfs_fs::filesystem::ImageFs;
use kfs_fs::layer::writer::{LayerWriter, NewLayer, WriteError};
use kfs_fs::layer::{Entry, Kind};
use kfs_fs::oci::Layer;
use kfs_fs::oci::manifest::Descriptor;
use kfs_fs::oci::store::Part;
use serde::{Deserialize, Serialize};

use super::resolve::Resolved;
use super::{CarryError, MAX_LAYERS, created_by};
use crate::build::schedule::Site;
use crate::cache::{self, Hit};
use crate::cluster::files::FilesError;
use crate::cluster::registry_tree::{RegistryTree, TreeFile, blob_path};
use crate::interrupt::Interrupts;
use crate::view::View;

/// A layer that is to be there.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its place among the new layers.
    pub(super) number: usize,
    /// What it is called.
    pub(super) title: String,
    /// By their paths.
    files: BTreeMap<String, Content>,
}

/// What a file of a layer holds.
#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    Blob(Box<Descriptor>, Arc<dyn BlobSource>),
}

impl Content {
    fn digest(&self) -> Digest {
        match self {
            Self::Bytes(bytes) => Digest::of(bytes),
            Self::Blob(descriptor, _) => descriptor.digest,
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob(descriptor, _) => descriptor.size,
        }
    }
}

/// A blob that is read, and the place where its bytes come from.
#[derive(Clone, Copy)]
struct Reading<'p> {
    blob: &'p dyn BlobSource,
    place: usize,
}

/// What is known of a blob that an earlier layer holds.
#[derive(Serialize, Deserialize)]
struct Note {
    /// Under this name `kfs prune` finds what a record needs.
    layer: Descriptor,
    diff_id: DiffId,
}

/// Distributes images, which are in order, over layers.
pub(super) fn plan(
    images: &[Resolved],
    tree: Option<&RegistryTree<'_>>,
) -> Result<Vec<Planned>, FilesError> {
    let mut groups: BTreeMap<usize, Vec<&Resolved>> = BTreeMap::new();
    for (at, image) in images.iter().enumerate() {
        let group = if images.len() > MAX_LAYERS { bucket(&image.tree.repository) } else { at };
        groups.entry(group).or_default().push(image);
    }
    let mut placed = BTreeSet::new();
    let mut planned = Vec::new();
    for (number, group) in groups.into_values().enumerate() {
        let mut files = BTreeMap::new();
        for image in &group {
            for (path, file) in image.tree.files() {
                let content = match file {
                    TreeFile::Link(digest) => Content::Bytes(digest.to_string().into_bytes()),
                    TreeFile::Blob(digest) => {
                        let blob = content(image, digest);
                        let has = |tree: &RegistryTree<'_>| tree.has_blob(digest, blob.size());
                        if tree.map_or(Ok(false), has)? || !placed.insert(digest) {
                            continue;
                        }
                        blob
                    }
                };
                files.insert(path, content);
            }
        }
        let names: Vec<String> = group.iter().map(|image| image.name.to_string()).collect();
        planned.push(Planned { number, title: format!("IMAGE {}", names.join(" ")), files });
    }
    Ok(planned)
}

fn bucket(repository: &str) -> usize {
    let hex = Digest::of(repository.as_bytes()).hex();
    usize::from_str_radix(&hex[..4], 16).expect("hexadecimal digits") % MAX_LAYERS
}

fn content(image: &Resolved, digest: Digest) -> Content {
    match (image.json.get(&digest), image.layers.get(&digest)) {
        (Some(json), _) => Content::Bytes(json.clone()),
        (None, Some(layer)) => {
            Content::Blob(Box::new(layer.descriptor.clone()), layer.blob.clone())
        }
        (None, None) => unreachable!("a tree names what was resolved"),
    }
}

impl Planned {
    /// What makes it another layer: nothing but its files and the form that it is stored in.
    fn key(&self, site: &Site<'_>) -> Digest {
        let form = format!("{:?}", site.options.compression);
        let files = self.files.iter().map(|(path, content)| format!("{path} {}", content.digest()));
        let files = files.collect::<Vec<_>>().join("\n");
        cache::key(Digest::of(b"kfs-carried-1"), &[&form, &files])
    }
}

impl Site<'_> {
    /// The layer, and whether it was made before.
    pub(super) fn layer(
        &self,
        planned: &Planned,
        noted: &Noted<'_>,
    ) -> Result<(Hit, bool), CarryError> {
        self.options.interrupts.check()?;
        let key = planned.key(self);
        if let Some(mut hit) = self.cache.find(key)? {
            if self.options.timestamp.is_some() {
                hit.created = self.created();
            }
            self.cache.use_step(&hit);
            return Ok((hit, true));
        }
        let written = self.write_layer(planned, noted);
        // What failed because of a signal says so.
        self.options.interrupts.check()?;
        let new = written.map_err(|source| {
            let image = planned.title.trim_start_matches("IMAGE ").to_owned();
            CarryError::Fetch { image, source }
        })?;
        let layer = self.writer.put_layer(new)?;
        let (created, created_by) = (self.created(), created_by(&planned.title));
        let hit = Hit { layer, created, created_by, key, from: None };
        self.cache.record(&hit, None)?;
        self.cache.use_step(&hit);
        for content in planned.files.values() {
            if let Content::Blob(descriptor, _) = content {
                noted.note(descriptor.digest, &hit.layer)?;
            }
        }
        Ok((hit, false))
    }

    /// Writes a layer. Where a place delivers a damaged blob, it is written once more with what the
    /// blob's next place has: what is in a layer cannot be taken out again.
    fn write_layer(&self, planned: &Planned, noted: &Noted<'_>) -> Result<NewLayer, WriteError> {
        loop {
            let mut reading = None;
            let written = self.write_once(planned, noted, &mut reading);
            match (&written, reading) {
                (Err(error), Some(Reading { blob, place }))
                    if error.damage().is_some_and(|damage| blob.distrust(place, damage)) => {}
                _ => return written,
            }
        }
    }

    /// `reading` is left at the blob that was read last.
    fn write_once<'p>(
        &self,
        planned: &'p Planned,
        noted: &Noted<'_>,
        reading: &mut Option<Reading<'p>>,
    ) -> Result<NewLayer, WriteError> {
        let indexes = self.writer.dir(Part::Indexes);
        let mut writer = LayerWriter::create(&self.work, &indexes, self.options.compression)?;
        let mut directories = BTreeSet::new();
        for (path, content) in &planned.files {
            for (end, _) in path.match_indices('/') {
                if directories.insert(&path[..end]) {
                    let entry = entry(&path[..end], Kind::Directory, 0);
                    writer.append(&entry, &mut io::empty())?;
                }
            }
            let entry = entry(path, Kind::File, content.size());
            match content {
                Content::Bytes(bytes) => writer.append(&entry, &mut &bytes[..])?,
                Content::Blob(descriptor, blob) => {
                    *reading = Some(Reading { blob: blob.as_ref(), place: blob.place() });
                    let reader = noted.open(descriptor, blob);
                    let reader = Interruptible { reader, interrupts: &self.options.interrupts };
                    let (digest, size) = (descriptor.digest, descriptor.size);
                    let mut reader = VerifyReader::new(reader, digest, size);
                    writer.append(&entry, &mut reader)?;
                    // The digest is looked at behind the last byte.
                    let path = path.clone().into_bytes();
                    let end = reader.read(&mut [0]);
                    end.map_err(|source| WriteError::Content { path, source })?;
                }
            }
        }
        writer.finish()
    }
}

/// A file or directory of the tree: the same in every build.
fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    let (path, mtime) = (path.as_bytes().to_vec(), Default::default());
    Entry { path, kind, mode, uid: 0, gid: 0, mtime, size, xattrs: Vec::new() }
}

/// Blobs that layers of earlier builds hold: what was fetched once need not be fetched again when
/// it has to lie in another layer.
pub(super) struct Noted<'a> {
    site: &'a Site<'a>,
    open: Mutex<HashMap<Digest, Arc<ImageFs>>>,
}

impl<'a> Noted<'a> {
    pub(super) fn new(site: &'a Site<'a>) -> Self {
        Self { site, open: Mutex::default() }
    }

    fn key(digest: Digest) -> Digest {
        cache::key(Digest::of(b"kfs-carried-blob-1"), &[&digest.to_string()])
    }

    fn note(&self, digest: Digest, layer: &Layer) -> Result<(), CarryError> {
        let note = Note { layer: layer.descriptor.clone(), diff_id: layer.diff_id };
        Ok(self.site.cache.put_note(Self::key(digest), &note)?)
    }

    /// The nearest place that has the blob. An earlier layer that cannot be read is as good as
    /// none.
    fn open(&self, descriptor: &Descriptor, blob: &Arc<dyn BlobSource>) -> Box<dyn Read + '_> {
        if blob.is_remote()
            && let Some(reader) = self.earlier(descriptor.digest)
        {
            return reader;
        }
        Box::new(BlobReader::new(blob.clone()))
    }

    fn earlier(&self, digest: Digest) -> Option<Box<dyn Read + '_>> {
        let note: Note = self.site.cache.note(Self::key(digest)).ok()??;
        let fs = self.layer(note)?;
        let view = View { base: Some(fs), delta: None };
        let file = view.image_file(blob_path(digest).as_bytes()).ok()??;
        Some(Box::new(file.reader()))
    }

    fn layer(&self, note: Note) -> Option<Arc<ImageFs>> {
        let Note { layer: descriptor, diff_id } = note;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fs) = open.get(&descriptor.digest) {
            return Some(fs.clone());
        }
        let writer = self.site.writer;
        let blob = writer.blob(descriptor.digest).ok()?;
        let digest = descriptor.digest;
        let layer = Layer { descriptor, diff_id, blob, ztoc: None };
        let indexes = writer.dir(Part::Indexes);
        let reading = self.site.options.reading.clone();
        let fs = ImageFs::open_over(&[layer], &indexes, &self.site.work, &mut |_| None, reading);
        let fs = Arc::new(fs.ok()?);
        open.insert(digest, fs.clone());
        Some(fs)
    }
}

/// Fails when a signal has come.
pub(super) struct Interruptible<'a> {
    pub(super) reader: Box<dyn Read + 'a>,
    pub(super) interrupts: &'a Interrupts,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.interrupts.check().map_err(io::Error::other)?;
        self.reader.read(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::registry_tree::TreeImage;

    /// An image of a manifest of its own and a config that all have.
    fn image(number: usize) -> Resolved {
        let (manifest, config) = (format!("manifest {number}").into_bytes(), b"config".to_vec());
        let (top, shared) = (Digest::of(&manifest), Digest::of(&config));
        Resolved {
            name: format!("r.io/a/{number}:1").parse().unwrap(),
            tree: TreeImage {
                repository: format!("a/{number}"),
                tag: Some("1".to_owned()),
                top,
                manifests: vec![top],
                blobs: vec![shared],
            },
            json: [(top, manifest), (shared, config)].into(),
            layers: BTreeMap::new(),
        }
    }

    fn planned(images: usize) -> Vec<Planned> {
        plan(&(0..images).map(image).collect::<Vec<_>>(), None).unwrap()
    }

    /// How many layers have each blob, and how many layers there are.
    fn blobs(planned: &[Planned]) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for path in planned.iter().flat_map(|layer| layer.files.keys()) {
            if path.ends_with("/data") {
                *counts.entry(&path[..]).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn images_have_layers_of_their_own_until_they_are_too_many() {
        assert_eq!(planned(0).len(), 0);
        assert_eq!(planned(MAX_LAYERS).len(), MAX_LAYERS);
        let many = planned(3 * MAX_LAYERS);
        assert!((MAX_LAYERS / 2..=MAX_LAYERS).contains(&many.len()), "{}", many.len());
        assert!(many.iter().map(|layer| layer.number).eq(0..many.len()));
        for planned in [planned(5), many] {
            let counts = blobs(&planned);
            assert!(counts.values().all(|count| *count == 1), "{counts:?}");
        }
        assert_eq!(blobs(&planned(5)).len(), 6);
    }

    #[test]
    fn an_image_more_leaves_most_layers_as_they_are() {
        let titles = |images: usize| -> BTreeSet<String> {
            planned(images).into_iter().map(|layer| layer.title).collect()
        };
        let (before, after) = (titles(150), titles(151));
        assert!(before.difference(&after).count() <= 1);
    }
}
