//! Space that the list of images may take on a full disk, so that images can be removed from one.
//!
//! It is held by a file. Whoever removes something, and has no space left to write the list,
//! removes it; the next change of the list that finds room makes it again. A process that is killed
//! between leaves that much free space.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;

use nix::fcntl::{FallocateFlags, fallocate};

use super::Store;
use crate::error::{AtPath, PathError};

const NAME: &str = "reserve";

/// The least that is held, in bytes: some blocks for the list, and for what a file system writes
/// beside it.
const LEAST: u64 = 64 << 10;

impl Store {
    /// Holds what a list of this many bytes takes, twice: the old one goes after the new one is
    /// there. To be called with the index locked. No room for it is no error; what was held stays.
    pub(super) fn hold_reserve(&self, list: usize) {
        let wanted = LEAST.max(2 * list as u64);
        let path = self.root.join(NAME);
        let held = fs::metadata(&path).map_or(0, |file| file.len());
        if held >= wanted {
            return;
        }
        let hold = |file: &File| -> io::Result<()> {
            let size = i64::try_from(wanted).map_err(io::Error::other)?;
            fallocate(file.as_fd(), FallocateFlags::empty(), 0, size)?;
            Ok(())
        };
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        // What fails may have made it longer.
        let result = file.and_then(|file| hold(&file).or_else(|_| file.set_len(held)));
        if let Err(error) = result {
            tracing::debug!("no space is held for the list of images: {error}");
        }
    }

    /// Gives the space free, and the inode; whether there was some.
    pub(super) fn release_reserve(&self) -> Result<bool, PathError> {
        let path = self.root.join(NAME);
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.at("open", &path)?,
        };
        fs::remove_file(&path).at("remove", &path)?;
        file.set_len(0).at("truncate", &path)?;
        // Blocks can be had again when the file system has noted that they are free.
        file.sync_all().at("sync", &path)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_when_there_is_no_room_for_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let held = || fs::metadata(store.root.join(NAME)).map_or(0, |file| file.len());
        store.hold_reserve(1);
        assert_eq!(held(), LEAST);
        store.hold_reserve(50_000);
        assert_eq!(held(), 100_000);
        // More than any file system has.
        store.hold_reserve(usize::MAX / 2);
        assert_eq!(held(), 100_000);
        assert!(store.release_reserve().unwrap());
        assert!(!store.release_reserve().unwrap());
    }
}
