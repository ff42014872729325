//! The directory of a measurement: mounts, stores and roots of all sides lie in it, and nothing of
//! it stays.
//!
//! The directory is locked for as long as its process lives. One that can be locked was left by a
//! process that was killed, and the next measurement clears it away.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kfs_fs::error::{AtPath, PathError};
use nix::mount::{MntFlags, umount2};
use nix::sys::prctl::set_child_subreaper;
use nix::unistd::geteuid;

use crate::process;

/// How the names of these directories start.
const NAME: &str = "kfs-bench.";

/// How long processes may take to end by themselves.
const PATIENCE: Duration = Duration::from_secs(2);

/// A directory that is cleared away with its value, mounts and processes included.
///
/// All processes that this one has when the value is dropped are taken for its own.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// A new directory in `$TMPDIR`, else in `/var/tmp`, which is meant for what is large. Those of
    /// measurements that were killed go away.
    pub fn new() -> Result<Self, PathError> {
        let parent = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let parent = parent.map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
        Self::new_in(&parent, &format!("{NAME}{}", std::process::id()))
    }

    /// Another new directory, with a short path, for what is small.
    pub fn short() -> Result<Self, PathError> {
        Self::new_in(Path::new("/tmp"), &format!("{NAME}s{}", std::process::id()))
    }

    fn new_in(parent: &Path, name: &str) -> Result<Self, PathError> {
        let parent = parent.canonicalize().at("resolve", parent)?;
        sweep(&parent);
        let path = parent.join(name);
        DirBuilder::new().mode(0o700).create(&path).at("create", &path)?;
        let lock = File::open(&path).at("open", &path)?;
        lock.lock().at("lock", &path)?;
        // Processes in the background come to this one when their parents end.
        set_child_subreaper(true).at("become the reaper of processes in", &path)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new directory in it.
    pub fn directory(&self, name: &str) -> Result<PathBuf, PathError> {
        let path = self.path.join(name);
        fs::create_dir(&path).at("create", &path)?;
        Ok(path)
    }

    /// Removes a directory that was made in it, and ends what runs and is mounted there.
    pub fn remove(&self, dir: &Path) -> Result<(), PathError> {
        // Servers end with their mounts.
        unmount_below(dir);
        process::reap(PATIENCE);
        process::end_children();
        unmount_below(dir);
        if let Some(place) = mounts_below(dir).first() {
            // A removal that went through a mount would be one of something else.
            let busy = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
            return Err(busy).at("unmount", place);
        }
        fs::remove_dir_all(dir).at("remove", dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove(&self.path) {
            tracing::warn!("a part of the measurement stays: {error}");
        }
    }
}

/// Clears away what killed processes of this user left.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = entry.file_name().as_bytes().starts_with(NAME.as_bytes());
        let own = entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == geteuid().as_raw());
        if named
            && own
            && let Ok(lock) = File::open(&path)
            && lock.try_lock().is_ok()
        {
            unmount_below(&path);
            if mounts_below(&path).is_empty() {
                // What cannot be removed is no reason not to measure.
                fs::remove_dir_all(&path).ok();
            }
        }
    }
}

/// Unmounts what is mounted in a directory, also if it is in use.
fn unmount_below(dir: &Path) {
    for place in mounts_below(dir).iter().rev() {
        if geteuid().is_root() {
            // Whether it worked shows when the directory is removed.
            umount2(place, MntFlags::MNT_DETACH).ok();
        } else {
            Command::new("fusermount3").args(["-u", "-z", "--"]).arg(place).status().ok();
        }
    }
}

/// What is mounted in a directory, the outer before the inner.
fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let places = table.lines().filter_map(|line| Some(unescaped(line.split(' ').nth(4)?)));
    let mut places: Vec<PathBuf> = places.filter(|place| place.starts_with(dir)).collect();
    places.sort();
    places
}

/// A path of mountinfo, where blanks and the like are octal numbers (proc_pid_mountinfo(5)).
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let number = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mounts_are_read() {
        assert_eq!(unescaped(r"/a\040b\134"), Path::new(r"/a b\"));
        assert_eq!(unescaped(r"/plain123"), Path::new("/plain123"));
    }
}
