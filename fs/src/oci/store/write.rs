//! Adding blobs and images. A blob gets its name only when all of it is on disk and is what it
//! should be; an image gets its name only when all of its blobs have theirs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::path::PathBuf;

use super::{Store, StoreError, TempDir, TempFile, put_entries, tag_name};
use crate::blob::{BlobReader, from_any_place};
use crate::digest::{Digest, Found, Hasher, Mismatch};
use crate::error::AtPath;
use crate::layer::writer::NewLayer;
use crate::oci::Layer;
use crate::oci::manifest::Descriptor;

/// How much is copied at once, in bytes.
const CHUNK: usize = 1 << 18;

/// The right to add to a store. While one lives in any process, no blob is removed.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    /// Holds the shared lock.
    _lock: File,
}

/// What is known of a blob before it is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Its digest.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

impl From<&Descriptor> for Expected {
    fn from(descriptor: &Descriptor) -> Self {
        Self { digest: Some(descriptor.digest), size: Some(descriptor.size) }
    }
}

impl Deref for Writer {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Writer {
    pub(super) fn new(store: &Store) -> Result<Self, StoreError> {
        let lock = store.lock_file("writers.lock")?;
        lock.lock_shared().at("lock", &store.root.join("writers.lock"))?;
        Ok(Self { store: store.clone(), _lock: lock })
    }

    /// Stores what `reader` gives, up to its end; `what` names it in messages. A blob that is
    /// there already is replaced, which heals a damaged one. Returns digest and size in bytes.
    pub fn put_blob(
        &self,
        reader: impl Read,
        expected: Expected,
        what: &str,
    ) -> Result<(Digest, u64), StoreError> {
        let (file, digest, size) = receive(&self.store, reader, expected, what, &|_| {})?;
        file.persist(&self.store.blob_path(digest))?;
        Ok((digest, size))
    }

    /// Starts to collect the blobs of images that shall appear together or not at all.
    pub(crate) fn stage(&self) -> Result<Stage<'_>, StoreError> {
        Ok(Stage { writer: self, dir: self.store.temp_dir()?, blobs: BTreeMap::new() })
    }

    /// Takes in a layer that was just written.
    pub fn put_layer(&self, new: NewLayer) -> Result<Layer, StoreError> {
        let NewLayer { descriptor, diff_id, blob, index: _, plain: _, times: _ } = new;
        let path = self.store.blob_path(descriptor.digest);
        blob.as_file().sync_data().at("write", &path)?;
        blob.persist(&path).map_err(|error| error.error).at("write", &path)?;
        let blob = self.store.blob(descriptor.digest)?;
        Ok(Layer { descriptor, diff_id, blob, ztoc: None })
    }

    /// Copies a layer that lies elsewhere: in a layout, an archive or a registry.
    pub fn take_in(&self, layer: &Layer) -> Result<(), StoreError> {
        let descriptor = &layer.descriptor;
        if self.has(descriptor) {
            return Ok(());
        }
        let what = format!("layer {} ({})", descriptor.digest, layer.blob.location());
        from_any_place(layer.blob.as_ref(), StoreError::is_corrupt, || {
            let reader = BlobReader::new(layer.blob.clone());
            self.put_blob(reader, Expected::from(descriptor), &what).map(drop)
        })
    }

    /// Stores bytes that are at hand.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let (digest, _) = self.put_blob(bytes, Expected::default(), "bytes")?;
        Ok(digest)
    }

    /// Stores a manifest or index, whose blobs are stored already, under a name if it has one. The
    /// image that had the name loses it. Returns the manifest's digest.
    pub fn add_image(
        &self,
        name: Option<&str>,
        manifest: &[u8],
        media_type: &str,
    ) -> Result<Digest, StoreError> {
        let name = name.map(tag_name).transpose()?.map(|name| name.to_string());
        let digest = self.put_bytes(manifest)?;
        let descriptor = Descriptor::new(media_type, digest, manifest.len() as u64);
        self.add_entries(vec![(name, descriptor)])?;
        Ok(digest)
    }

    /// Adds all entries or none. A name is set as it is.
    pub(crate) fn add_entries(
        &self,
        entries: Vec<(Option<String>, Descriptor)>,
    ) -> Result<(), StoreError> {
        self.store.change_index(|_, index| {
            put_entries(index, entries);
            Ok(())
        })
    }
}

/// Blobs that are not in the store yet. They go away with the value, or at the next opening of
/// the store if this process is killed.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    writer: &'a Writer,
    dir: TempDir,
    /// With their sizes in bytes.
    blobs: BTreeMap<Digest, u64>,
}

impl Stage<'_> {
    /// As [`Writer::put_blob`]; calls `copied` with the number of bytes of each piece.
    pub(crate) fn put_blob(
        &mut self,
        reader: impl Read,
        expected: Expected,
        what: &str,
        copied: &dyn Fn(u64),
    ) -> Result<(Digest, u64), StoreError> {
        let (file, digest, size) = receive(&self.writer.store, reader, expected, what, copied)?;
        file.persist(&self.path(digest))?;
        self.blobs.insert(digest, size);
        Ok((digest, size))
    }

    /// Size in bytes of a blob that was put here.
    pub(crate) fn size_of(&self, digest: Digest) -> Option<u64> {
        self.blobs.get(&digest).copied()
    }

    /// Where a blob lies meanwhile.
    pub(crate) fn path(&self, digest: Digest) -> PathBuf {
        self.dir.path().join(digest.hex())
    }

    /// Moves all blobs to the store, then gives the images their names.
    pub(crate) fn commit(
        self,
        entries: Vec<(Option<String>, Descriptor)>,
    ) -> Result<(), StoreError> {
        let store = &self.writer.store;
        for digest in self.blobs.keys() {
            let target = store.blob_path(*digest);
            fs::rename(self.path(*digest), &target).at("rename to", &target)?;
        }
        let blobs = store.root.join("blobs/sha256");
        File::open(&blobs).and_then(|dir| dir.sync_all()).at("sync", &blobs)?;
        self.writer.add_entries(entries)
    }
}

/// Copies a reader to a temporary file, up to its end, and checks what it was.
fn receive(
    store: &Store,
    reader: impl Read,
    expected: Expected,
    what: &str,
    copied: &dyn Fn(u64),
) -> Result<(TempFile, Digest, u64), StoreError> {
    let mut file = store.temp_file()?;
    let mut hasher = Hasher::new();
    let mut size = 0;
    // One byte too many is enough to know.
    let most = expected.size.map_or(u64::MAX, |size| size.saturating_add(1));
    each_piece(reader.take(most), what, |piece| {
        size += piece.len() as u64;
        hasher.update(piece);
        file.write_all(piece)?;
        copied(piece.len() as u64);
        Ok(())
    })?;
    let digest = hasher.finish();
    check(expected, digest, size)?;
    Ok((file, digest, size))
}

/// Passes on what a reader has, piece by piece, up to its end.
pub(crate) fn each_piece(
    mut reader: impl Read,
    what: &str,
    mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => take(&chunk[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(input_error(error, what)),
        }
    }
}

/// A verifying reader's mismatch stays one.
pub(crate) fn input_error(error: io::Error, what: &str) -> StoreError {
    match error.downcast::<Mismatch>() {
        Ok(mismatch) => mismatch.into(),
        Err(source) => StoreError::Input { what: what.to_owned(), source },
    }
}

fn check(expected: Expected, digest: Digest, size: u64) -> Result<(), Mismatch> {
    let wanted = expected.digest.unwrap_or(digest);
    if let Some(limit) = expected.size.filter(|limit| *limit != size) {
        return Err(Mismatch { expected: wanted, found: Found::Size(limit, size) });
    }
    if wanted != digest {
        return Err(Mismatch { expected: wanted, found: Found::Digest(digest) });
    }
    Ok(())
}
