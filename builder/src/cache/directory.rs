//! Directories of the build cache that outlive builds and that builds take turns at, or share:
//! those of `RUN --mount=type=cache`, and the repositories that `ADD` has fetched from.
//!
//! Each has a `lock-N` for each `data-N`; the time of the lock says when it was used.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use kfs_fs::error::{AtPath, PathError};

use crate::interrupt::{Interrupted, Interrupts};
use crate::kubefile::Sharing;

/// How often it is looked whether one is free.
const PAUSE: Duration = Duration::from_millis(50);

/// A directory that was taken; nobody else has it, or all share it, as long as the value lives.
#[derive(Debug)]
pub(crate) struct CacheDirectory {
    data: PathBuf,
    _lock: File,
}

impl CacheDirectory {
    /// Where its content lies, once somebody has put it there.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }
}

/// Takes a directory in the way it is to be shared.
pub(crate) fn take<E: From<PathError> + From<Interrupted>>(
    directory: &Path,
    sharing: Sharing,
    interrupts: &Interrupts,
) -> Result<CacheDirectory, E> {
    fs::create_dir_all(directory).at("make directory", directory)?;
    let open = |name: &str| {
        let path = directory.join(name);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        file.at("open", &path)
    };
    let busy = |result: Result<(), TryLockError>, path: &Path| match result {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).at("lock", path),
    };
    let used = |lock: &File| lock.set_modified(SystemTime::now()).at("set time of", directory);
    if sharing == Sharing::Private {
        // The first that nobody has.
        for number in 0.. {
            let lock = open(&format!("lock-{number}"))?;
            if !busy(lock.try_lock(), directory)? {
                used(&lock)?;
                let data = directory.join(format!("data-{number}"));
                return Ok(CacheDirectory { data, _lock: lock });
            }
        }
    }
    let lock = open("lock-0")?;
    let take = || match sharing {
        Sharing::Locked => lock.try_lock(),
        Sharing::Shared | Sharing::Private => lock.try_lock_shared(),
    };
    while busy(take(), directory)? {
        interrupts.check()?;
        thread::sleep(PAUSE);
    }
    used(&lock)?;
    Ok(CacheDirectory { data: directory.join("data-0"), _lock: lock })
}
