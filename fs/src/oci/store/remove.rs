//! Removing images, and the blobs that no other image needs.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::{Part, Store, StoreError};
use crate::cache;
use crate::digest::Digest;
use crate::error::{AtPath, PathError};
use crate::indexes;
use crate::oci::image::ImageError;
use crate::oci::layout::{FoundBy, Layout, label, ref_name};
use crate::oci::manifest::{Descriptor, Index, MANIFEST, REF_NAME};
use crate::oci::walk::closure;
use crate::trace::Traces;

/// What a removal did.
#[derive(Debug, Default)]
pub struct Removal {
    /// Names that are gone.
    pub untagged: Vec<String>,
    /// Blobs that are gone, the manifest's last.
    pub deleted: Vec<Digest>,
    /// Why the blobs are still there although the last name is gone. The image is then kept
    /// without a name and can be removed later by its digest.
    pub kept: Option<Kept>,
}

/// Why blobs were not deleted.
#[derive(Debug)]
pub enum Kept {
    /// A process is loading or building.
    Writers,
    /// The image is mounted, by mounts of these ids.
    Mounted(Vec<String>),
    /// It cannot be told which blobs another image needs.
    Unreadable {
        /// The other image.
        image: String,
        /// What is wrong with it.
        error: ImageError,
    },
}

impl std::fmt::Display for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Writers => f.write_str("another process is loading or building images"),
            Self::Mounted(ids) => write!(f, "the image is mounted ({})", ids.join(", ")),
            Self::Unreadable { image, error } => {
                write!(f, "image {image} is broken and may need them: {error}")
            }
        }
    }
}

impl Store {
    /// Removes a name, and with the last one the image. By an id, an image with several names is
    /// removed only by `force`.
    pub fn remove(&self, query: &str, force: bool) -> Result<Removal, StoreError> {
        let (mut removal, doomed) = self.remove_from_index(|layout, index| {
            let (found, by) = layout.find(query)?;
            let removal =
                Removal { untagged: untag(index, found, by, query, force)?, ..Removal::default() };
            if index.manifests.iter().any(|entry| entry.digest == found.digest) {
                return Ok((removal, None));
            }
            let mut nameless = found.clone();
            nameless.annotations.remove(REF_NAME);
            // It keeps a nameless entry until its blobs are gone, so that they stay reachable if
            // they are kept or this process is killed.
            index.manifests.push(nameless.clone());
            Ok((removal, Some(nameless)))
        })?;
        if let Some(doomed) = doomed {
            self.delete(&doomed, &mut removal)?;
        }
        Ok(removal)
    }

    /// Deletes a nameless image's blobs and then its entry, if nothing is in the way.
    fn delete(&self, doomed: &Descriptor, removal: &mut Removal) -> Result<(), StoreError> {
        let writers = self.lock_file("writers.lock")?;
        match writers.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                removal.kept = Some(Kept::Writers);
                return Ok(());
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).at("lock", &self.root.join("writers.lock")).map_err(Into::into);
            }
        }
        // The index stays locked while blobs go: no image may be given a name meanwhile.
        self.remove_from_index(|layout, index| {
            let is_doomed = |entry: &Descriptor| entry.digest == doomed.digest;
            if index.manifests.iter().any(|entry| is_doomed(entry) && ref_name(entry).is_some()) {
                return Ok(());
            }
            // Of a broken image, what it consists of is not known; at least its manifest goes.
            let blobs = closure(layout, doomed).unwrap_or_else(|_| vec![doomed.clone()]);
            let others: Vec<_> =
                index.manifests.iter().filter(|entry| !is_doomed(entry)).cloned().collect();
            match self.needed(layout, &others, &blobs)? {
                Err(kept) => removal.kept = Some(kept),
                Ok(needed) => {
                    removal.deleted = self.delete_blobs(&blobs, &needed)?;
                    index.manifests = others;
                }
            }
            Ok(())
        })
    }

    /// The blobs of all other images and of live mounts, or why `blobs` have to stay.
    fn needed(
        &self,
        layout: &Layout,
        others: &[Descriptor],
        blobs: &[Descriptor],
    ) -> Result<Result<HashSet<Digest>, Kept>, StoreError> {
        let mounts = self.live_mounts()?;
        let uses = |mount: &&LiveMount| {
            mount.manifest.is_none_or(|digest| blobs.iter().any(|blob| blob.digest == digest))
        };
        let users: Vec<_> = mounts.iter().filter(uses).map(|mount| mount.id.clone()).collect();
        if !users.is_empty() {
            return Ok(Err(Kept::Mounted(users)));
        }
        let mut roots = others.to_vec();
        for digest in mounts.iter().filter_map(|mount| mount.manifest) {
            // Other tools may have taken a mounted image out of the index.
            if let Some(blob) = layout.blob(digest)? {
                roots.push(Descriptor::new(MANIFEST, digest, blob.size()));
            }
        }
        let mut needed = HashSet::new();
        for image in &roots {
            match closure(layout, image) {
                Ok(blobs) => needed.extend(blobs.iter().map(|blob| blob.digest)),
                // What is not there needs nothing.
                Err(ImageError::Missing { digest, .. }) if digest == image.digest => {}
                Err(error) => return Ok(Err(Kept::Unreadable { image: label(image), error })),
            }
        }
        Ok(Ok(needed))
    }

    /// What points to blobs goes last: after a crash the rest can still be found.
    fn delete_blobs(
        &self,
        blobs: &[Descriptor],
        needed: &HashSet<Digest>,
    ) -> Result<Vec<Digest>, PathError> {
        let mut deleted = Vec::new();
        for blob in blobs.iter().map(|blob| blob.digest).filter(|blob| !needed.contains(blob)) {
            let path = self.blob_path(blob);
            match fs::remove_file(&path) {
                Ok(()) => deleted.push(blob),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).at("remove", &path),
            }
        }
        // Layers in a registry have no blob here, but an index and a cache.
        let gone: HashSet<_> = blobs.iter().map(|blob| blob.digest).collect();
        let gone = &gone - needed;
        for blob in &gone {
            self.forget_remotes(*blob)?;
        }
        indexes::forget(&self.dir(Part::Indexes), &gone)?;
        let traces = Traces::new(&self.dir(Part::Traces));
        for blob in &gone {
            traces.remove(*blob)?;
        }
        if let Err(error) = cache::forget(&self.dir(Part::Cache), &gone) {
            // The image is gone all the same, and what is left goes when room is made.
            tracing::warn!("{error}");
        }
        Ok(deleted)
    }

    /// The mounts that processes serve.
    pub(super) fn live_mounts(&self) -> Result<Vec<LiveMount>, PathError> {
        #[derive(Deserialize)]
        struct State {
            manifest_digest: Digest,
            image: Option<String>,
        }
        let dir = self.dir(Part::Mounts);
        let mut mounts = Vec::new();
        for entry in fs::read_dir(&dir).at("read", &dir)? {
            let entry = entry.at("read", &dir)?;
            let path = entry.path();
            if !is_locked(&path.join("lock"))? {
                continue;
            }
            let state = fs::read(path.join("state.json"))
                .ok()
                .and_then(|json| serde_json::from_slice::<State>(&json).ok());
            mounts.push(LiveMount {
                id: entry.file_name().to_string_lossy().into_owned(),
                manifest: state.as_ref().map(|state| state.manifest_digest),
                image: state.and_then(|state| state.image),
            });
        }
        mounts.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(mounts)
    }
}

/// A mount that a process serves.
pub(super) struct LiveMount {
    id: String,
    /// None when its state cannot be read: it may then be any image's.
    pub(super) manifest: Option<Digest>,
    /// The image as the user named it.
    pub(super) image: Option<String>,
}

/// Whether a process holds a lock on the file.
fn is_locked(path: &Path) -> Result<bool, PathError> {
    let file = match File::open(path) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(false);
        }
        file => file.at("open", path)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    }
}

/// Takes names out of the index, as many as Docker would.
fn untag(
    index: &mut Index,
    found: &Descriptor,
    by: FoundBy,
    query: &str,
    force: bool,
) -> Result<Vec<String>, StoreError> {
    let names: Vec<String> = match by {
        FoundBy::Name => ref_name(found).map(str::to_owned).into_iter().collect(),
        FoundBy::Digest => {
            let same = index.manifests.iter().filter(|entry| entry.digest == found.digest);
            same.filter_map(ref_name).map(str::to_owned).collect()
        }
    };
    if names.len() > 1 && !force {
        return Err(StoreError::SeveralNames { id: query.to_owned(), names });
    }
    index.manifests.retain(|entry| {
        let nameless = ref_name(entry).is_none() && entry.digest == found.digest;
        !nameless && !ref_name(entry).is_some_and(|name| names.iter().any(|gone| gone == name))
    });
    Ok(names)
}
