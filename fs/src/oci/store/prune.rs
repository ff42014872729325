//! Removing what nothing needs: images without a name, blobs of no image, build cache, indexes.
//!
//! Runs beside mounts, whose images keep all they have, and not beside writers. What points to
//! something else goes after it, so that a prune that was killed can be done again.

mod caches;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::remove::LiveMount;
use super::{Part, Store, StoreError};
use crate::cache::Cache;
use crate::digest::Digest;
use crate::error::{AtPath, PathError};
use crate::layer::index::LayerIndex;
use crate::oci::image::ImageError;
use crate::oci::layout::{Layout, label, ref_name};
use crate::oci::manifest::{Descriptor, Index, MANIFEST, REF_NAME};
use crate::oci::walk::closure;
use crate::printable;
use crate::tree::Tree;

/// What can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An image: its place in the list.
    Image,
    /// A blob that no image has.
    Blob,
    /// What the build cache knows of a step, or a cache that builds keep: what RUNs mount, the
    /// repositories that were fetched from.
    BuildCache,
    /// The index of a layer or image.
    Index,
    /// What was fetched of a layer that a registry has.
    Cache,
}

/// What is to be removed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Images without a name, and blobs that nothing needs.
    pub images: bool,
    /// Images with names too, unless they are mounted; and all of the build cache.
    pub all: bool,
    /// Records of the build cache whose layer is gone, and with `all_build_cache` the others.
    pub build_cache: bool,
    /// See `build_cache`.
    pub all_build_cache: bool,
    /// Indexes of layers that no image of the store has, and those of other versions.
    pub indexes: bool,
    /// What was fetched of layers that no image has, and with `all_cache` of all.
    pub cache: bool,
    /// See `cache`.
    pub all_cache: bool,
    /// Nothing that came to the store after this; of what was fetched, nothing used after it.
    pub before: Option<SystemTime>,
    /// So many bytes of layers may stay in the build cache, the newest.
    pub keep: u64,
}

/// Something that is removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// What it is.
    pub kind: Kind,
    /// A name, a digest or a file name.
    pub name: String,
    /// Bytes that it frees.
    pub bytes: u64,
    /// The file; none for an image, which is no more than its blobs, and for what was fetched.
    #[serde(skip)]
    path: Option<PathBuf>,
}

impl Pruned {
    fn file(kind: Kind, name: String, entry: &Entry) -> Self {
        Self { kind, name, bytes: entry.metadata.len(), path: Some(entry.path.clone()) }
    }
}

/// What a record of the build cache says, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct Record {
    /// None in a record that only marks that there are others.
    pub(super) layer: Option<Descriptor>,
}

/// A file of a directory.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) metadata: Metadata,
}

/// The regular files of a directory by name; names that are no text are not ours.
pub(super) fn files(dir: &Path) -> Result<Vec<Entry>, PathError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", dir)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.at("read", dir)?;
        let path = entry.path();
        let metadata = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.at("stat", &path)?,
        };
        if let (Some(name), true) = (entry.file_name().to_str(), metadata.is_file()) {
            files.push(Entry { name: name.to_owned(), path, metadata });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// The digest of the blob in a file of this name.
pub(super) fn digest_of(name: &str) -> Option<Digest> {
    format!("sha256:{name}").parse().ok()
}

impl Store {
    /// Removes what nothing needs, or with `dry_run` only finds it.
    pub fn prune(&self, wanted: &Wanted, dry_run: bool) -> Result<Vec<Pruned>, StoreError> {
        let writers = self.lock_file("writers.lock")?;
        match writers.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Busy { dir: self.root.clone() });
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).at("lock", &self.root.join("writers.lock")).map_err(Into::into);
            }
        }
        if dry_run {
            let layout = self.layout()?;
            return Ok(Prune::plan(self, wanted, &layout)?.items);
        }
        let made_again = self.free_what_is_made_again(wanted)?;
        let names = self.take_names(wanted)?;
        // The index stays locked while blobs go: no image may be given a name meanwhile. It is
        // written after that, which may need the space that is free then.
        self.remove_from_index(|layout, index| {
            let plan = Prune::plan(self, wanted, layout)?;
            plan.apply()?;
            index.manifests = plan.kept;
            let mut items = made_again;
            items.extend(plan.items);
            for item in &mut items {
                if let Some(names) = names.get(&item.name) {
                    item.name = names.join(", ");
                }
            }
            Ok(items)
        })
    }

    /// Where images lose their names, which takes writing: first makes room on a full disk.
    fn free_what_is_made_again(&self, wanted: &Wanted) -> Result<Vec<Pruned>, StoreError> {
        if !(wanted.images && wanted.all) {
            return Ok(Vec::new());
        }
        let layout = self.layout()?;
        let mut plan = Prune::plan(self, wanted, &layout)?;
        plan.items.retain(|item| match item.kind {
            Kind::Index | Kind::BuildCache | Kind::Cache => true,
            Kind::Image | Kind::Blob => false,
        });
        plan.unsought.clear();
        plan.apply()?;
        Ok(plan.items)
    }

    /// Makes images nameless that are to go although they have names: so they stay reachable if
    /// this process is killed. Returns the names by what the images are called without.
    fn take_names(&self, wanted: &Wanted) -> Result<HashMap<String, Vec<String>>, StoreError> {
        let mut names: HashMap<String, Vec<String>> = HashMap::new();
        if !(wanted.images && wanted.all) {
            return Ok(names);
        }
        self.remove_from_index(|layout, index: &mut Index| {
            let doomed = Prune::new(self, wanted, layout)?.doomed();
            for entry in &mut index.manifests {
                if doomed.contains(&entry.digest)
                    && let Some(name) = entry.annotations.remove(REF_NAME)
                {
                    names.entry(label(entry)).or_default().push(printable::text(&name));
                }
            }
            // An entry each is one too many.
            let mut seen = HashSet::new();
            index.manifests.retain(|entry| ref_name(entry).is_some() || seen.insert(entry.digest));
            Ok(())
        })?;
        Ok(names)
    }
}

/// What goes and what stays.
struct Prune<'a> {
    store: &'a Store,
    wanted: &'a Wanted,
    layout: &'a Layout,
    mounts: Vec<LiveMount>,
    items: Vec<Pruned>,
    /// Images that stay.
    kept: Vec<Descriptor>,
    /// Blobs that stay.
    needed: HashSet<Digest>,
    /// Layers of which all goes that was fetched.
    forgotten: HashSet<Digest>,
    /// Blobs of which nobody needs to know where they can be had.
    unsought: Vec<Digest>,
}

impl<'a> Prune<'a> {
    fn new(store: &'a Store, wanted: &'a Wanted, layout: &'a Layout) -> Result<Self, StoreError> {
        let mounts = store.live_mounts()?;
        let kept = layout.index.manifests.clone();
        let (items, needed, forgotten) = (Vec::new(), HashSet::new(), HashSet::new());
        let unsought = Vec::new();
        Ok(Self { store, wanted, layout, mounts, items, kept, needed, forgotten, unsought })
    }

    fn plan(store: &'a Store, wanted: &'a Wanted, layout: &'a Layout) -> Result<Self, StoreError> {
        let mut plan = Self::new(store, wanted, layout)?;
        let doomed = if wanted.images { plan.doomed() } else { HashSet::new() };
        plan.images(&doomed)?;
        plan.build_cache()?;
        if wanted.images || wanted.build_cache {
            plan.blobs()?;
        }
        if wanted.indexes {
            plan.indexes()?;
        }
        if wanted.cache {
            plan.cache()?;
        }
        Ok(plan)
    }

    fn is_old(&self, metadata: &Metadata) -> bool {
        let Some(before) = self.wanted.before else { return true };
        metadata.modified().is_ok_and(|modified| modified < before)
    }

    /// The images that go.
    fn doomed(&self) -> HashSet<Digest> {
        let named: HashSet<Digest> = self
            .kept
            .iter()
            .filter(|entry| ref_name(entry).is_some())
            .map(|entry| entry.digest)
            .collect();
        let goes = |entry: &&Descriptor| {
            let is_old = match fs::metadata(self.store.blob_path(entry.digest)) {
                Ok(metadata) => self.is_old(&metadata),
                // The rest of a removal that was not finished.
                Err(_) => true,
            };
            (self.wanted.all || !named.contains(&entry.digest)) && is_old && !self.is_mounted(entry)
        };
        self.kept.iter().filter(goes).map(|entry| entry.digest).collect()
    }

    fn is_mounted(&self, image: &Descriptor) -> bool {
        // One whose state cannot be read may be of any image.
        let blobs = closure(self.layout, image).unwrap_or_else(|_| vec![image.clone()]);
        let is_of = |digest| blobs.iter().any(|blob| blob.digest == digest);
        self.mounts.iter().any(|mount| mount.manifest.is_none_or(is_of))
    }

    /// Divides images and their blobs into those that go and those that stay.
    fn images(&mut self, doomed: &HashSet<Digest>) -> Result<(), StoreError> {
        let is_doomed = |entry: &Descriptor| doomed.contains(&entry.digest);
        let (gone, kept) = std::mem::take(&mut self.kept).into_iter().partition(is_doomed);
        self.kept = kept;
        let gone: Vec<Descriptor> = gone;
        self.items.extend(gone.iter().map(|image| Pruned {
            kind: Kind::Image,
            name: label(image),
            bytes: 0,
            path: None,
        }));
        let mut roots = self.kept.clone();
        for digest in self.mounts.iter().filter_map(|mount| mount.manifest) {
            // Other tools may have taken a mounted image out of the index.
            if let Some(blob) = self.layout.blob(digest)? {
                roots.push(Descriptor::new(MANIFEST, digest, blob.size()));
            }
        }
        for image in &roots {
            match closure(self.layout, image) {
                Ok(blobs) => self.needed.extend(blobs.iter().map(|blob| blob.digest)),
                // What is not there needs nothing.
                Err(ImageError::Missing { digest, .. }) if digest == image.digest => {}
                Err(error) => {
                    let image = label(image);
                    return Err(StoreError::Undecided { image, source: Box::new(error) });
                }
            }
        }
        Ok(())
    }

    /// The newest records stay as long as their layers fit in what may be kept. A layer that an
    /// image has takes nothing.
    fn build_cache(&mut self) -> Result<(), StoreError> {
        let mut records = files(&self.store.dir(Part::BuildCache))?;
        records.sort_by_key(|entry| std::cmp::Reverse(entry.metadata.modified().ok()));
        let everything = self.wanted.all_build_cache || self.wanted.all;
        let (mut room, mut kept) = (self.wanted.keep, HashSet::new());
        for entry in records {
            let json = fs::read(&entry.path).at("read", &entry.path)?;
            let record = serde_json::from_slice(&json).unwrap_or(Record { layer: None });
            let layer = record.layer.filter(|layer| self.store.blob_path(layer.digest).exists());
            let bytes = match &layer {
                Some(layer) if !self.needed.contains(&layer.digest) => layer.size,
                Some(_) | None => 0,
            };
            let fits = layer.as_ref().is_some_and(|layer| kept.contains(&layer.digest))
                || bytes <= room && self.wanted.keep > 0;
            let stale = layer.is_none() && json != b"{}";
            let goes = self.wanted.build_cache
                && self.is_old(&entry.metadata)
                && (stale || everything && !fits);
            if goes {
                self.items.push(Pruned::file(Kind::BuildCache, entry.name.clone(), &entry));
            } else if let Some(layer) = layer
                && kept.insert(layer.digest)
            {
                room = room.saturating_sub(bytes);
            }
        }
        self.needed.extend(kept);
        if self.wanted.build_cache && everything {
            for entry in files(&self.store.dir(Part::BuildCache).join("explain"))? {
                if self.is_old(&entry.metadata) {
                    let name = format!("explain/{}", entry.name);
                    self.items.push(Pruned::file(Kind::BuildCache, name, &entry));
                }
            }
            self.mounted_caches(room)?;
        }
        Ok(())
    }

    /// The caches that builds mount, but for the newest that fit in the room that is left.
    fn mounted_caches(&mut self, mut room: u64) -> Result<(), StoreError> {
        for cache in caches::unused(&self.store.dir(Part::BuildCache).join("mounts"))? {
            let is_old = self.wanted.before.is_none_or(|before| cache.used < before);
            if is_old && (self.wanted.keep == 0 || cache.bytes > room) {
                self.items.push(Pruned {
                    kind: Kind::BuildCache,
                    name: format!("mounts/{}", cache.name),
                    bytes: cache.bytes,
                    path: Some(cache.path),
                });
            } else {
                room = room.saturating_sub(cache.bytes);
            }
        }
        Ok(())
    }

    /// Blobs that neither an image nor the build cache needs: manifests after what they name.
    fn blobs(&mut self) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        for entry in files(&self.store.root.join("blobs/sha256"))? {
            let Some(digest) = digest_of(&entry.name) else { continue };
            if !self.needed.contains(&digest) && self.is_old(&entry.metadata) {
                gone.push((digest, entry));
            }
        }
        let doomed: HashSet<&str> = self
            .items
            .iter()
            .filter(|item| item.kind == Kind::Image)
            .map(|item| &*item.name)
            .collect();
        let is_manifest = |digest: &Digest| {
            let listed = self.layout.index.manifests.iter().find(|entry| entry.digest == *digest);
            listed.is_some_and(|entry| doomed.contains(&*label(entry)))
        };
        gone.sort_by_key(|(digest, _)| is_manifest(digest));
        let gone =
            gone.iter().map(|(digest, entry)| Pruned::file(Kind::Blob, digest.to_string(), entry));
        let gone: Vec<_> = gone.collect();
        self.items.extend(gone);
        for entry in files(&self.store.dir(Part::Remotes))? {
            let hex = entry.name.split('.').next().unwrap_or_default();
            let digest = digest_of(hex).filter(|digest| !self.needed.contains(digest));
            self.unsought.extend(digest.filter(|_| self.is_old(&entry.metadata)));
        }
        Ok(())
    }

    /// Indexes of layers that stay, and of images all of whose layers do.
    fn indexes(&mut self) -> Result<(), StoreError> {
        let Some(mounted) = self.layers_mounted_from_elsewhere() else {
            tracing::warn!("the indexes stay: an image that is mounted cannot be read");
            return Ok(());
        };
        let is_needed = |digest| self.needed.contains(&digest) || mounted.contains(&digest);
        let (mut gone, mut trees, mut kept) = (Vec::new(), Vec::new(), HashSet::new());
        for entry in files(&self.store.dir(Part::Indexes))? {
            if Path::new(&entry.name).extension() == Some(OsStr::new("tree")) {
                trees.push(entry);
                continue;
            }
            let layer = digest_of(entry.name.split('.').next().unwrap_or_default());
            if layer.is_some_and(is_needed) {
                kept.extend(LayerIndex::id_of(&entry.name).map(|id| id.digest()));
            } else {
                gone.push(entry);
            }
        }
        for entry in trees {
            let layers = Tree::layers(&entry.path).at("read", &entry.path)?;
            if layers.is_empty() || !layers.iter().all(|layer| kept.contains(layer)) {
                gone.push(entry);
            }
        }
        gone.retain(|entry| self.is_old(&entry.metadata));
        let gone = gone.iter().map(|entry| Pruned::file(Kind::Index, entry.name.clone(), entry));
        self.items.extend(gone);
        Ok(())
    }

    /// Layers of mounted images that lie outside of the store; their indexes are in it.
    fn layers_mounted_from_elsewhere(&self) -> Option<HashSet<Digest>> {
        let mut layers = HashSet::new();
        for mount in &self.mounts {
            let manifest = mount.manifest?;
            if self.needed.contains(&manifest) {
                continue;
            }
            let source = mount.image.as_ref()?.parse().ok()?;
            let image = crate::oci::open_manifest(&source, manifest, self.store).ok()?;
            layers.extend(image.layers.iter().map(|layer| layer.descriptor.digest));
        }
        Some(layers)
    }

    /// What was fetched of layers. It may go at any time: who needs it fetches it again.
    fn cache(&mut self) -> Result<(), StoreError> {
        for layer in self.fetched().usage()? {
            let unused = layer
                .last_used
                .is_none_or(|used| self.wanted.before.is_none_or(|before| used < before));
            if unused && (self.wanted.all_cache || !self.needed.contains(&layer.layer)) {
                self.forgotten.insert(layer.layer);
                self.items.push(Pruned {
                    kind: Kind::Cache,
                    name: layer.layer.to_string(),
                    bytes: layer.bytes,
                    path: None,
                });
            }
        }
        Ok(())
    }

    fn fetched(&self) -> Cache {
        let (dir, indexes) = (self.store.dir(Part::Cache), self.store.dir(Part::Indexes));
        Cache::new(&dir, &indexes, u64::MAX)
    }

    fn apply(&self) -> Result<(), StoreError> {
        if !self.forgotten.is_empty() {
            self.fetched().forget(|layer| self.forgotten.contains(&layer))?;
        }
        for digest in &self.unsought {
            self.store.forget_remotes(*digest)?;
        }
        for path in self.items.iter().filter_map(|item| item.path.as_ref()) {
            match fs::remove_file(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                    // It goes as a whole: no build is to find the half of a cache.
                    let grave = self.store.temp_dir()?;
                    fs::rename(path, grave.path().join("cache")).at("move away", path)?;
                }
                result => result.at("remove", path)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
