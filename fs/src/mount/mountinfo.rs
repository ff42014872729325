//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{State, source_name};
use crate::error::{AtPath, PathError};
use crate::fuse::FS_TYPE;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `major:minor`
    pub(super) device: String,
    pub(super) mountpoint: PathBuf,
    pub(super) fs_type: String,
    pub(super) source: OsString,
}

impl Entry {
    fn is_of(&self, state: &State) -> bool {
        let fs_type = if state.rw { "overlay" } else { FS_TYPE };
        self.fs_type == fs_type
            && self.source == source_name(&state.image)
            && state.device.as_ref().is_none_or(|device| *device == self.device)
    }
}

/// The mounts that a process sees, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountInfo(Vec<Entry>);

impl MountInfo {
    /// What this process sees.
    pub(crate) fn own() -> Result<Self, PathError> {
        Self::read(Path::new("/proc/self/mountinfo"))
    }

    /// What process `pid` sees.
    pub(super) fn of_process(pid: u32) -> Result<Self, PathError> {
        Self::read(Path::new(&format!("/proc/{pid}/mountinfo")))
    }

    fn read(path: &Path) -> Result<Self, PathError> {
        let text = fs::read(path).at("read", path)?;
        Ok(Self(text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()))
    }

    /// What is mounted at exactly `path`; the last of several hides the others.
    pub(super) fn top(&self, path: &Path) -> Option<&Entry> {
        self.0.iter().rev().find(|entry| entry.mountpoint == path)
    }

    /// Whether the mount of `state` is what is seen at its mount point.
    pub(super) fn top_is(&self, state: &State) -> bool {
        self.top(&state.mountpoint).is_some_and(|entry| entry.is_of(state))
    }

    /// Whether the mount of `state` is there, seen or hidden by another.
    pub(super) fn has(&self, state: &State) -> bool {
        self.0.iter().any(|entry| entry.mountpoint == state.mountpoint && entry.is_of(state))
    }

    /// Device number and mount point of the mounts of kfs.
    pub(super) fn of_kfs(self) -> Vec<(String, PathBuf)> {
        let ours = self.0.into_iter().filter(|entry| entry.fs_type == FS_TYPE);
        ours.map(|entry| (entry.device, entry.mountpoint)).collect()
    }

    /// A mount point at or below `path`.
    pub(crate) fn at_or_below(&self, path: &Path) -> Option<&Path> {
        let points = self.0.iter().map(|entry| entry.mountpoint.as_path());
        points.into_iter().find(|point| point.starts_with(path))
    }

    /// Mount points below `path`.
    pub(super) fn below(&self, path: &Path) -> Vec<PathBuf> {
        let below = |entry: &&Entry| entry.mountpoint != path && entry.mountpoint.starts_with(path);
        self.0.iter().filter(below).map(|entry| entry.mountpoint.clone()).collect()
    }

    /// The type of the file system that `path` (absolute, without symbolic links) lies on.
    pub(super) fn fs_type_of(&self, path: &Path) -> Option<&str> {
        let covering = path.ancestors().find_map(|dir| self.top(dir));
        covering.map(|entry| entry.fs_type.as_str())
    }
}

/// `36 35 98:0 /root /mount/point opts [optional...] - type source options`
fn parse_line(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = text(fields.nth(2)?);
    let mountpoint = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.by_ref().find(|field| *field == b"-")?;
    let fs_type = text(fields.next()?);
    let source = OsString::from_vec(unescape(fields.next()?));
    Some(Entry { device, mountpoint, fs_type, source })
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

/// The kernel writes blank, tab, newline, backslash and `#` as a backslash and three octal
/// digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> MountInfo {
        let lines: [&[u8]; 4] = [
            b"1 0 8:1 / / rw - ext4 /dev/sda1 rw",
            br"36 1 0:52 / /a\040b\134c ro,relatime shared:1 master:2 - fuse.kfs img\0401 ro,fd=4",
            b"37 1 0:53 / /a\\040b\\134c rw - overlay img rw",
            b"38 37 0:54 / /a\\040b\\134c/proc rw - proc proc rw",
        ];
        MountInfo(lines.iter().filter_map(|line| parse_line(line)).collect())
    }

    #[test]
    fn the_last_mount_is_on_top_and_names_are_unescaped() {
        let table = table();
        assert_eq!(table.0.len(), 4);
        assert_eq!(table.0[1].source, "img 1");
        assert_eq!(table.0[1].fs_type, "fuse.kfs");
        let top = table.top(Path::new(r"/a b\c")).unwrap();
        assert_eq!((top.device.as_str(), top.fs_type.as_str()), ("0:53", "overlay"));
        assert_eq!(table.below(Path::new(r"/a b\c")), [Path::new(r"/a b\c/proc")]);
        assert!(table.top(Path::new("/a")).is_none());
        assert_eq!(table.at_or_below(Path::new(r"/a b\c/d")), None);
        assert_eq!(table.at_or_below(Path::new(r"/a b\c")), Some(Path::new(r"/a b\c")));
    }

    #[test]
    fn a_path_lies_on_the_nearest_mount_above() {
        let table = table();
        assert_eq!(table.fs_type_of(Path::new("/a b")), Some("ext4"));
        assert_eq!(table.fs_type_of(Path::new(r"/a b\c/d")), Some("overlay"));
        assert_eq!(table.fs_type_of(Path::new(r"/a b\c/proc/1")), Some("proc"));
    }

    #[test]
    fn broken_lines_are_passed_over() {
        for line in [&b""[..], b"1 2 3", b"36 35 98:0 / /mnt rw shared:1", b"1 2 3 4 5 6 -"] {
            assert_eq!(parse_line(line), None);
        }
        assert_eq!(unescape(br"a\04"), br"a\04");
        assert_eq!(unescape(br"a\999"), br"a\999");
    }
}
