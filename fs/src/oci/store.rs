//! The image store: a plain OCI image layout that skopeo, umoci and buildah read and write as
//! `oci:DIR:TAG`, and beside it what kfs makes of the images.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/    the layout
//! remotes/<hex>                            repositories where a blob can be had that is not here
//! indexes/  cache/  build-cache/           made from blobs, can be made again
//! mounts/<id>/{lock,state.json}            live mounts
//! traces/                                  what was read first of images
//! tmp/                                     each entry locked by the process that uses it
//! index.lock                               held to change index.json
//! reserve                                  space to change it on a full disk
//! writers.lock                             shared: blobs are being added; exclusive: removed
//! ```
//!
//! Several processes share a store without a daemon. Whoever holds two locks took
//! `writers.lock` first or only tries for it. What is read needs no lock: files appear whole, by
//! rename.

mod check;
mod prune;
mod remotes;
mod remove;
mod reserve;
mod temp;
mod users;
mod write;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use check::{Check, Finding, Health, Severity};
pub use prune::{Kind, Pruned, Wanted};
pub use remove::{Kept, Removal};
pub use temp::{TempDir, TempFile};
pub use write::{Expected, Writer};
pub(crate) use write::{Stage, each_piece, input_error};

use super::Image;
use super::archive::ArchiveError;
use super::find::{self, Lookup, Remote};
use super::image::ImageError;
use super::layout::{self, Layout, LayoutError, Selection, ref_name};
use super::manifest::{Descriptor, Index, MAX_JSON, REF_NAME};
use super::reference::{Name, ReferenceError};
use super::registry::RegistryError;
use crate::blob::{BlobSource, FileBlob};
use crate::cache::CacheError;
use crate::digest::{Digest, Mismatch};
use crate::error::{AtPath, PathError};
use crate::mount::MountError;

const LAYOUT_JSON: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const EMPTY_INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
/// What may lie in a directory that becomes a store: what an interrupted creation leaves, and
/// what file systems put in their root.
const NOT_FOREIGN: [&str; 4] = ["index.lock", "writers.lock", "tmp", "lost+found"];

/// A store's directory. Cheap to clone; holds no lock and no open file.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    lookup: Lookup,
}

/// The directories beside the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Indexes of layers and images.
    Indexes,
    /// Spans that were fetched and verified.
    Cache,
    /// Layers of build steps, by key.
    BuildCache,
    /// Where blobs can be had that are not here.
    Remotes,
    /// One directory a mount.
    Mounts,
    /// What was read first of images, by manifest.
    Traces,
    /// [`TempDir`]s and [`TempFile`]s.
    Tmp,
}

impl Part {
    const ALL: [Self; 7] = [
        Self::Indexes,
        Self::Cache,
        Self::BuildCache,
        Self::Remotes,
        Self::Mounts,
        Self::Traces,
        Self::Tmp,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Indexes => "indexes",
            Self::Cache => "cache",
            Self::BuildCache => "build-cache",
            Self::Remotes => "remotes",
            Self::Mounts => "mounts",
            Self::Traces => "traces",
            Self::Tmp => "tmp",
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file of the store could not be read or written.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The store, or an image in it or to be copied to it, is broken or missing.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A text that shall become a name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store may not be changed.
    #[error("store {} cannot be written: {source}", dir.display())]
    NotWritable {
        /// The store.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory is full of something else.
    #[error("{} is no image store and not empty: it has {found:?}", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// One of the entries.
        found: String,
    },
    /// The list of images would be too long to be read again.
    #[error("{} would become longer than {MAX_JSON} bytes", path.display())]
    Full {
        /// The list.
        path: PathBuf,
    },
    /// Bytes that were to be stored could not be read.
    #[error("read {what}: {source}")]
    Input {
        /// Where they come from.
        what: String,
        /// What the system or the decompressor said.
        source: io::Error,
    },
    /// Bytes that were to be stored are not what they should be.
    #[error(transparent)]
    Corrupt(#[from] Mismatch),
    /// The uncompressed layer is not what the config says.
    #[error(
        "layer {layer} is corrupt: its tar stream has digest {found}, the config says {expected}"
    )]
    DiffId {
        /// The layer's blob.
        layer: Digest,
        /// The diffID in the config.
        expected: Digest,
        /// That of the stream.
        found: Digest,
    },
    /// What was fetched could not be removed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// What is mounted could not be looked at.
    #[error(transparent)]
    Mounts(Box<MountError>),
    /// Something is to be removed while somebody adds.
    #[error("another process is loading or building images in {}", dir.display())]
    Busy {
        /// The store.
        dir: PathBuf,
    },
    /// It cannot be told which blobs an image needs.
    #[error("image {image} is broken and may need what would be removed: {source}")]
    Undecided {
        /// The image.
        image: String,
        /// What is wrong with it.
        source: Box<ImageError>,
    },
    /// Only names with a tag can be given to an image.
    #[error("{0:?} has a digest, give a name with a tag")]
    DigestInName(String),
    /// An id was given for an image that has several names.
    #[error("image {id} has several names: {}", layout::list(names))]
    SeveralNames {
        /// As it was typed.
        id: String,
        /// The names.
        names: Vec<String>,
    },
    /// What was to be imported is no tar.
    #[error("{what} is no tar archive{}", compression.map(|how| format!(", it is compressed with {how}")).unwrap_or_default())]
    NotATar {
        /// Where it comes from.
        what: String,
        /// A compression that is not known.
        compression: Option<&'static str>,
    },
}

impl StoreError {
    /// Whether bytes that were to be stored are others than their digest names.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt(_))
    }

    /// Whether there is no room for what was to be stored.
    pub(crate) fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let Self::Path(error) = self else { return false };
        matches!(error.source.kind(), QuotaExceeded | StorageFull)
    }
}

impl StoreError {
    fn mounts(error: MountError) -> Self {
        Self::Mounts(Box::new(error))
    }
}

impl From<RegistryError> for StoreError {
    fn from(error: RegistryError) -> Self {
        Self::Layout(error.into())
    }
}

impl From<ArchiveError> for StoreError {
    fn from(error: ArchiveError) -> Self {
        Self::Layout(error.into())
    }
}

/// An image of the store, for lists.
#[derive(Debug)]
pub struct ImageSummary {
    /// The name it is kept under; none for an image whose name went to another one.
    pub name: Option<String>,
    /// Digest of its manifest or index.
    pub digest: Digest,
    /// What could be read of it.
    pub details: Result<ImageDetails, LayoutError>,
}

/// What a list shows of an image.
#[derive(Clone, Debug)]
pub struct ImageDetails {
    /// Digest of the config: Docker's image id.
    pub id: Digest,
    /// RFC 3339, as the config has it.
    pub created: Option<String>,
    /// Bytes of config and layers as they are stored.
    pub size: u64,
    /// How many layers are only known, and read from a registry when they are needed.
    pub remote_layers: usize,
    /// How many layers there are.
    pub layers: usize,
}

impl Store {
    /// Opens a store for writing: makes what lacks, and removes what killed processes left.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self::open_readonly(root);
        store.create().map_err(|error| store.writable(error))?;
        temp::sweep(&store.dir(Part::Tmp))?;
        Ok(store)
    }

    /// Opens a store for reading: makes nothing, so that a store on a read-only file system can
    /// be used. A store that is not there is an empty one.
    pub fn open_readonly(root: &Path) -> Self {
        Self { root: root.to_owned(), lookup: Lookup::default() }
    }

    /// The same store, that finds images in this way (without, only those that it has).
    pub fn with_lookup(mut self, lookup: Lookup) -> Self {
        self.lookup = lookup;
        self
    }

    /// How images are found.
    pub fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    fn create(&self) -> Result<(), StoreError> {
        let root = &self.root;
        fs::create_dir_all(root).at("create", root)?;
        if !root.join("oci-layout").exists() {
            self.check_not_foreign()?;
        }
        let make = |dir: PathBuf| fs::create_dir_all(&dir).at("create", &dir);
        make(self.dir(Part::Tmp))?;
        let lock = self.lock_index()?;
        for (name, content) in [("oci-layout", LAYOUT_JSON), ("index.json", EMPTY_INDEX)] {
            let path = root.join(name);
            if !path.exists() {
                self.write_file(&path, content.as_bytes())?;
            }
        }
        drop(lock);
        make(root.join("blobs/sha256"))?;
        for part in Part::ALL {
            make(self.dir(part))?;
        }
        // Tells a version that is not known before anything is written.
        Layout::open(root)?;
        Ok(())
    }

    fn check_not_foreign(&self) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.root).at("read", &self.root)? {
            let name = entry.at("read", &self.root)?.file_name();
            if !NOT_FOREIGN.iter().any(|known| name == *known) {
                let found = name.to_string_lossy().into_owned();
                return Err(StoreError::Foreign { dir: self.root.clone(), found });
            }
        }
        Ok(())
    }

    /// Names the store, rather than a file in it, where it may not be written.
    fn writable(&self, error: StoreError) -> StoreError {
        use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        match error {
            StoreError::Path(PathError { source, .. })
                if matches!(
                    source.kind(),
                    PermissionDenied | ReadOnlyFilesystem | NotADirectory | AlreadyExists
                ) =>
            {
                StoreError::NotWritable { dir: self.root.clone(), source }
            }
            other => other,
        }
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One of the directories beside the layout.
    pub fn dir(&self, part: Part) -> PathBuf {
        self.root.join(part.name())
    }

    /// The layout as it is now. Layers that are not in it are read where they can be had; for all
    /// else nothing is asked of the network.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let mut layout = self.local_layout()?;
        layout.remote = Remote::new(self);
        Ok(layout)
    }

    fn local_layout(&self) -> Result<Layout, LayoutError> {
        match Layout::open(&self.root) {
            Err(LayoutError::Path(error)) if error.source.kind() == io::ErrorKind::NotFound => {
                Ok(self.empty_layout())
            }
            Err(LayoutError::NotALayout { dir, missing }) => {
                // Nothing was stored in an empty directory yet.
                match self.check_not_foreign() {
                    Ok(()) => Ok(self.empty_layout()),
                    Err(_) => Err(LayoutError::NotALayout { dir, missing }),
                }
            }
            other => other,
        }
    }

    fn empty_layout(&self) -> Layout {
        let blobs = layout::Blobs::Directory(self.root.clone());
        Layout::new(&self.root, Index::default(), blobs)
    }

    /// Reads the image of this name or id (see [`Layout::select`]).
    pub fn image(&self, query: &str) -> Result<Image, StoreError> {
        Ok(self.layout()?.image(query)?)
    }

    /// All images, in the order of the layout. A broken one is listed with its error.
    pub fn images(&self) -> Result<Vec<ImageSummary>, StoreError> {
        let layout = self.layout()?;
        let summary = |descriptor: &Descriptor| ImageSummary {
            name: ref_name(descriptor).map(str::to_owned),
            digest: descriptor.digest,
            details: layout.image_at(&layout::label(descriptor), descriptor).map(|image| {
                let sizes = image.layers.iter().map(|layer| layer.descriptor.size);
                let remote = image.layers.iter().filter(|layer| layer.blob.is_remote());
                ImageDetails {
                    id: image.manifest.config.digest,
                    created: image.config.created,
                    remote_layers: remote.count(),
                    layers: image.layers.len(),
                    size: sizes.fold(image.manifest.config.size, u64::saturating_add),
                }
            }),
        };
        Ok(layout.descriptors().iter().map(summary).collect())
    }

    /// Gives an image of the store another name, which is taken from the image that had it.
    pub fn tag(&self, query: &str, name: &str) -> Result<(), StoreError> {
        let name = tag_name(name)?;
        self.change_index(|layout, index| {
            let (found, _) = layout.find(query)?;
            put_entries(index, vec![(Some(name.to_string()), found.clone())]);
            Ok(())
        })
    }

    /// A blob of the store; it is not verified.
    pub fn blob(&self, digest: Digest) -> Result<Arc<dyn BlobSource>, PathError> {
        Ok(Arc::new(FileBlob::open(&self.blob_path(digest))?))
    }

    /// Where the store keeps a blob, whether it has it or not.
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        layout::blob_path(&self.root, digest)
    }

    /// Whether a blob is here, as large as it has to be.
    pub(crate) fn has(&self, descriptor: &Descriptor) -> bool {
        let metadata = fs::metadata(self.blob_path(descriptor.digest));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == descriptor.size)
    }

    /// A directory that goes away with its value, or at the next opening of the store if this
    /// process is killed.
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        TempDir::new(&self.dir(Part::Tmp)).map_err(|error| self.writable(error.into()))
    }

    /// A file that goes away with its value unless it is kept, or at the next opening of the
    /// store if this process is killed.
    pub fn temp_file(&self) -> Result<TempFile, StoreError> {
        TempFile::new(&self.dir(Part::Tmp)).map_err(|error| self.writable(error.into()))
    }

    /// Takes part in writing: as long as the value lives, no blob is removed from the store.
    /// Whoever adds blobs, or is about to use an image for longer, holds one.
    pub fn writer(&self) -> Result<Writer, StoreError> {
        Writer::new(self).map_err(|error| self.writable(error))
    }

    fn lock_file(&self, name: &str) -> Result<File, PathError> {
        let path = self.root.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.open(&path).at("open", &path)
    }

    /// Waits for the right to change `index.json`; it ends with the file.
    fn lock_index(&self) -> Result<File, PathError> {
        let file = self.lock_file("index.lock")?;
        file.lock().at("lock", &self.root.join("index.lock"))?;
        Ok(file)
    }

    fn write_file(&self, path: &Path, content: &[u8]) -> Result<(), PathError> {
        let mut file = TempFile::new(&self.dir(Part::Tmp))?;
        file.write_all(content)?;
        file.persist(path)
    }

    /// Changes `index.json` under its lock; nothing is written when `change` ends in an error.
    fn change_index<T>(
        &self,
        change: impl FnOnce(&Layout, &mut Index) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.change_and_write(change, |path, json| self.write_file(path, json))
    }

    /// The same for a change by which something is removed, which a full disk does not hinder.
    fn remove_from_index<T>(
        &self,
        change: impl FnOnce(&Layout, &mut Index) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        self.change_and_write(change, |path, json| match self.write_file(path, json) {
            Err(error)
                if matches!(error.source.kind(), QuotaExceeded | StorageFull)
                    && self.release_reserve()? =>
            {
                self.write_file(path, json)
            }
            written => written,
        })
    }

    fn change_and_write<T>(
        &self,
        change: impl FnOnce(&Layout, &mut Index) -> Result<T, StoreError>,
        write: impl Fn(&Path, &[u8]) -> Result<(), PathError>,
    ) -> Result<T, StoreError> {
        let lock = self.lock_index().map_err(|error| self.writable(error.into()))?;
        let layout = self.layout()?;
        let mut index = layout.index.clone();
        let result = change(&layout, &mut index)?;
        let json = serde_json::to_vec(&index).expect("an index is plain data");
        let path = self.root.join("index.json");
        // Nobody could read it any more.
        if json.len() as u64 > MAX_JSON {
            return Err(StoreError::Full { path });
        }
        write(&path, &json).map_err(|error| self.writable(error.into()))?;
        self.hold_reserve(json.len());
        drop(lock);
        Ok(result)
    }
}

/// A name that an image can be given.
pub(super) fn tag_name(text: &str) -> Result<Name, StoreError> {
    let name: Name = text.parse()?;
    match name.digest() {
        None => Ok(name),
        Some(_) => Err(StoreError::DigestInName(text.to_owned())),
    }
}

/// Adds entries; a name goes from the entry that had it to the new one, to the last of several.
/// The image that loses its last name stays, without one: its blobs can then still be found and
/// removed.
pub(super) fn put_entries(index: &mut Index, entries: Vec<(Option<String>, Descriptor)>) {
    let names = entries.iter().enumerate();
    let owners: HashMap<String, usize> =
        names.filter_map(|(at, (name, _))| Some((name_key(name.as_ref()?), at))).collect();
    let is_taken = |entry: &Descriptor| {
        ref_name(entry).is_some_and(|name| owners.contains_key(&name_key(name)))
    };
    let (mut nameless, mut kept): (Vec<_>, Vec<_>) = index.manifests.drain(..).partition(is_taken);
    let mut named = HashSet::new();
    for (at, (name, mut entry)) in entries.into_iter().enumerate() {
        match name.filter(|name| owners.get(&name_key(name)) == Some(&at)) {
            Some(name) => {
                entry.annotations.insert(REF_NAME.to_owned(), name);
                named.insert(entry.digest);
                kept.push(entry);
            }
            None => nameless.push(entry),
        }
    }
    // A name makes a nameless entry of the same image superfluous.
    kept.retain(|entry| ref_name(entry).is_some() || !named.contains(&entry.digest));
    let mut there: HashSet<Digest> = kept.iter().map(|entry| entry.digest).collect();
    for mut entry in nameless {
        if there.insert(entry.digest) {
            entry.annotations.remove(REF_NAME);
            kept.push(entry);
        }
    }
    index.manifests = kept;
}

/// The same for all spellings of a name.
fn name_key(name: &str) -> String {
    match name.parse::<Name>() {
        Ok(name) => match name.digest() {
            Some(digest) => format!("{}@{digest}", name.canonical()),
            None => name.canonical(),
        },
        Err(_) => name.to_owned(),
    }
}

/// Finds the image that a source names.
pub(super) fn select(
    source: &super::reference::Source,
    store: &Store,
) -> Result<Selection, LayoutError> {
    use super::reference::Source;
    let typed = source.to_string();
    match source {
        Source::Store(query) => find::named(store, query, &typed),
        Source::Registry(name) => find::named(store, &name.to_string(), &typed),
        Source::Layout { .. } | Source::OciArchive { .. } | Source::DockerArchive { .. } => {
            let (layout, tag) = layout_of(source, store)?;
            layout.select(tag, &typed)
        }
    }
}

/// Finds the image that a source names, which is to be copied or sent elsewhere.
pub(super) fn select_as_it_is(
    source: &super::reference::Source,
    store: &Store,
) -> Result<Selection, LayoutError> {
    use super::reference::Source;
    match source {
        Source::Store(query) => find::as_it_is(store, query, &source.to_string()),
        Source::Registry(_)
        | Source::Layout { .. }
        | Source::OciArchive { .. }
        | Source::DockerArchive { .. } => select(source, store),
    }
}

/// Where a source's images are, and which of them it names.
pub(super) fn layout_of<'a>(
    source: &'a super::reference::Source,
    store: &Store,
) -> Result<(Layout, Option<&'a str>), LayoutError> {
    use super::archive::{self, Format};
    use super::reference::Source;
    let (mut layout, tag) = match source {
        Source::Store(query) => (store.layout()?, Some(query)),
        Source::Registry(_) => (store.layout()?, None),
        Source::Layout { dir, tag } => (Layout::open(dir)?, tag.as_ref()),
        Source::OciArchive { file, tag } => (archive::open(file, Some(Format::Oci))?, tag.as_ref()),
        Source::DockerArchive { file, tag } => {
            (archive::open(file, Some(Format::Docker))?, tag.as_ref())
        }
    };
    layout.platform.clone_from(&store.lookup.platform);
    Ok((layout, tag.map(String::as_str)))
}

#[cfg(test)]
mod tests;
