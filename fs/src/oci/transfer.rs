//! Whole images between registries and the store.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::find::{Lookup, Pull};
use super::image::{ImageError, choose_manifest, read_index};
use super::layout::{LayoutError, Selection};
use super::manifest::{Descriptor, is_index, is_manifest};
use super::reference::{Name, Source};
use super::registry::{Pushed, Reference, Registries};
use super::store::{Store, StoreError, each_piece};
use super::walk::whole_closure;
use crate::blob::{BlobReader, BlobSource, from_any_place};
use crate::digest::{Digest, Found, Hasher, Mismatch};
use crate::error::AtPath;
use crate::parallel::in_parallel;

/// Blobs that are transferred at once.
const AT_ONCE: usize = 4;
/// How much is copied at once, in bytes.
const CHUNK: usize = 1 << 18;

/// What a transfer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// Blobs that were there already, mounted ones included.
    pub there: usize,
    /// Blobs that were sent or fetched.
    pub moved: usize,
}

/// Fetches an image with all its layers: what the registry has under the name now. With `all`,
/// that of each platform. Calls `copied` with the number of bytes of each piece. What was fetched
/// of a layer before a break, or before this process was killed, is not fetched again.
pub fn pull(
    store: &Store,
    name: &Name,
    all: bool,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<Transferred, StoreError> {
    let lookup = Lookup { pull: Pull::Always, ..store.lookup().clone() };
    let store = store.clone().with_lookup(lookup);
    // Until all is there, nobody removes a part of it.
    let writer = store.writer()?;
    let selection = super::select(&Source::Registry(name.clone()), &store)?;
    let mut wanted = vec![selection.descriptor.clone()];
    if all && is_index(&selection.descriptor.media_type) {
        let index = read_index(&selection.layout, &selection.descriptor);
        wanted = index.map_err(|error| broken(&selection, error))?.manifests;
        // An attestation is a manifest as well, but no image.
        wanted.retain(|child| child.platform.as_ref().is_none_or(|it| it.os != "unknown"));
    }
    let mut layers: Vec<Descriptor> = Vec::new();
    for descriptor in &wanted {
        let followed = selection.layout.follow(selection.descriptor.digest, descriptor.digest);
        followed.map_err(|error| broken(&selection, error))?;
        let image = selection.layout.image_at(&selection.typed, descriptor)?;
        layers.extend(image.layers.into_iter().map(|layer| layer.descriptor));
    }
    // A layer that several platforms have, or one has twice, is fetched once.
    let mut seen = HashSet::new();
    layers.retain(|layer| seen.insert(layer.digest));
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    store.record_remotes(name, &digests)?;
    let missing: Vec<Descriptor> =
        layers.iter().filter(|layer| !store.has(layer)).cloned().collect();
    let (moved, there) = (missing.len(), layers.len() - missing.len());
    in_parallel(&missing, AT_ONCE, |layer| fetch(&store, &selection, layer, copied))?;
    drop(writer);
    Ok(Transferred { digest: selection.descriptor.digest, there, moved })
}

/// Fetches a layer by way of a file that outlives this process.
fn fetch(
    store: &Store,
    selection: &Selection,
    layer: &Descriptor,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<(), StoreError> {
    let path = store.partial_path(layer.digest);
    let mut file = store.lock_partial(layer.digest)?;
    let target = store.blob_path(layer.digest);
    if store.has(layer) {
        // Another process fetched it meanwhile.
        return Ok(fs::remove_file(&path).at("remove", &path)?);
    }
    let blob = selection.layout.blob_of(layer).map_err(|error| broken(selection, error))?;
    let mut fetch = || {
        let resumed = file.metadata().at("stat", &path)?.len() > 0;
        let mut result = fetch_rest(&blob, layer, &mut file, &path, copied);
        if resumed && matches!(result, Err(StoreError::Corrupt(_))) {
            // What an earlier process left may be damaged.
            file.set_len(0).at("truncate", &path)?;
            result = fetch_rest(&blob, layer, &mut file, &path, copied);
        }
        if let Err(StoreError::Corrupt(_)) = result {
            file.set_len(0).at("truncate", &path)?;
        }
        result
    };
    let result = from_any_place(blob.as_ref(), StoreError::is_corrupt, &mut fetch);
    let result = result.and_then(|()| Ok(file.sync_all().at("write", &path)?));
    // A disk that a part of a layer fills is of no use to anybody.
    if result.as_ref().is_err_and(|error| error.is_corrupt() || error.is_full()) {
        fs::remove_file(&path).at("remove", &path)?;
    }
    result?;
    fs::rename(&path, &target).at("rename to", &target)?;
    // A new name is on disk when its directory is.
    let dir = target.parent().expect("a blob lies in a directory");
    File::open(dir).and_then(|dir| dir.sync_all()).at("sync", dir)?;
    Ok(())
}

fn fetch_rest(
    blob: &Arc<dyn BlobSource>,
    layer: &Descriptor,
    file: &mut File,
    path: &Path,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<(), StoreError> {
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    file.seek(SeekFrom::Start(0)).at("seek", path)?;
    loop {
        let n = file.read(&mut chunk).at("read", path)?;
        if n == 0 {
            break;
        }
        hasher.update(&chunk[..n]);
        at += n as u64;
    }
    let what = blob.location();
    each_piece(BlobReader::starting_at(blob.clone(), at), &what, |piece| {
        hasher.update(piece);
        file.write_all(piece).at("write", path)?;
        at += piece.len() as u64;
        copied(piece.len() as u64);
        Ok(())
    })?;
    let expected = layer.digest;
    if at != layer.size {
        return Err(Mismatch { expected, found: Found::Size(layer.size, at) }.into());
    }
    match hasher.finish() {
        digest if digest == expected => Ok(()),
        digest => Err(Mismatch { expected, found: Found::Digest(digest) }.into()),
    }
}

/// Pushes an image: what the registry lacks of it, and then its name. Of an index, the image for
/// the platform that is wanted, or with `all` the whole. Layers that are in another registry pass
/// through without being stored. Calls `copied` with the number of bytes of each piece.
pub fn push(
    store: &Store,
    selection: &Selection,
    registries: &Registries,
    name: &Name,
    all: bool,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<Transferred, StoreError> {
    let fail = |error| broken(selection, error);
    let layout = &selection.layout;
    let top = match all {
        true => selection.descriptor.clone(),
        false => choose_manifest(layout, &selection.descriptor).map_err(fail)?,
    };
    let repository = registries.repository(name).map_err(LayoutError::from)?;
    let all = whole_closure(layout, &top).map_err(fail)?;
    let is_json = |blob: &&Descriptor| is_manifest(&blob.media_type) || is_index(&blob.media_type);
    let (manifests, blobs): (Vec<_>, Vec<_>) = all.iter().partition(is_json);
    let moved = AtomicUsize::new(0);
    in_parallel(&blobs, AT_ONCE, |blob| {
        let open = || layout.blob_of(blob).map_err(|error| broken(selection, error));
        let from = store.remotes(blob.digest)?;
        let how =
            repository.push_blob(blob, &from, open, &store.upload_path(blob.digest), &|bytes| {
                copied(bytes)
            })?;
        moved.fetch_add(usize::from(how == Pushed::Sent), Relaxed);
        Ok::<_, StoreError>(())
    })?;
    for manifest in manifests {
        let reference = match manifest.digest == top.digest {
            true => Reference::of(name),
            false => Reference::Digest(manifest.digest),
        };
        let json = layout.json(manifest).map_err(fail)?;
        let pushed = repository.push_manifest(&reference, &manifest.media_type, json);
        pushed.map_err(LayoutError::from)?;
    }
    let digests: Vec<Digest> = all.iter().map(|blob| blob.digest).collect();
    store.record_remotes(name, &digests)?;
    let moved = moved.into_inner();
    Ok(Transferred { digest: top.digest, there: blobs.len() - moved, moved })
}

fn broken(selection: &Selection, source: ImageError) -> LayoutError {
    LayoutError::Image { name: selection.typed.clone(), source: Box::new(source) }
}
