//! The caches that builds mount (`RUN --mount=type=cache`), and the git repositories that they have
//! fetched from: one directory each below `build-cache/mounts`, with a `lock-N` for each `data-N`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{AtPath, PathError};

/// A cache that no build has mounted.
pub(super) struct MountCache {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Of its files, in bytes.
    pub(super) bytes: u64,
    /// When a build took it last.
    pub(super) used: SystemTime,
}

/// The caches in a directory that are not in use, those that were used last first.
pub(super) fn unused(dir: &Path) -> Result<Vec<MountCache>, PathError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", dir)?,
    };
    let mut caches = Vec::new();
    for entry in entries {
        let entry = entry.at("read", dir)?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().at("stat", &path)?.is_dir()
            && let Some(used) = last_use(&path)?
        {
            caches.push(MountCache { name, bytes: size(&path)?, used, path });
        }
    }
    caches.sort_by_key(|cache| std::cmp::Reverse(cache.used));
    Ok(caches)
}

/// When a cache was used last; none if it is in use.
fn last_use(cache: &Path) -> Result<Option<SystemTime>, PathError> {
    let mut used = SystemTime::UNIX_EPOCH;
    for lock in super::files(cache)? {
        let file = File::open(&lock.path).at("open", &lock.path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).at("lock", &lock.path),
        }
        used = used.max(lock.metadata.modified().at("stat", &lock.path)?);
    }
    Ok(Some(used))
}

fn size(tree: &Path) -> Result<u64, PathError> {
    let (mut bytes, mut open) = (0, vec![tree.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).at("read", &dir)? {
            let entry = entry.at("read", &dir)?;
            let metadata = entry.metadata().at("stat", &entry.path())?;
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}
