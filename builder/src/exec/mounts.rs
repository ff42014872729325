//! Mounts on paths of a root: the target is opened inside the root first, then named by its
//! descriptor, so no link of the rootfs can lead a mount astray.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use crate::rootfs::{RootDir, magic_path};

use super::wire::{Failure, OrFail};

const NONE: Option<&str> = None;

/// Mounts a new file system of type `kind` on `target`.
pub(super) fn mount_new(
    kind: &str,
    target: &OwnedFd,
    flags: MsFlags,
    options: &str,
) -> nix::Result<()> {
    mount(Some(kind), &magic_path(target), Some(kind), flags, Some(options))
}

/// Binds what is at `source` on `target`; `flags` may add `MS_REC`.
pub(super) fn bind(source: &Path, target: &OwnedFd, flags: MsFlags) -> nix::Result<()> {
    mount(Some(source), &magic_path(target), NONE, MsFlags::MS_BIND | flags, NONE)
}

/// Sets the flags of the mount whose root is at `path`, and of no other.
pub(super) fn set_flags(path: &Path, flags: MsFlags) -> nix::Result<()> {
    mount(NONE, path, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, NONE)
}

/// Makes the directory `path` a mount of its own, without device nodes, and opens it.
///
/// Without `nodev`, a device node in an image would open the host's device.
pub(super) fn own_mount(path: &Path) -> Result<RootDir, Failure> {
    let below = open_path(path).or_fail("open", path)?;
    bind(path, &below, MsFlags::empty()).or_fail("bind", path)?;
    let keep = flags_of(path)?;
    set_flags(path, keep | MsFlags::MS_NODEV).or_fail("remount without devices", path)?;
    RootDir::open(path).map_err(|error| error.source).or_fail("open", path)
}

/// What is now at `path` of the root: after a mount, its root.
pub(super) fn place(root: &RootDir, path: &str) -> Result<OwnedFd, Failure> {
    root.open_at(Path::new(path), OFlag::O_PATH).or_fail("open", root.outside(Path::new(path)))
}

/// An `O_PATH` descriptor of a host path.
pub(super) fn open_path(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// The flags of the mount whose root is at `path`.
fn flags_of(path: &Path) -> Result<MsFlags, Failure> {
    let id = mount_id(&open_path(path).or_fail("open", path)?)?;
    let mounts = mounts()?;
    Ok(mounts.iter().find(|mount| mount.id == id).map_or(MsFlags::empty(), |mount| mount.flags))
}

/// The number of the mount that `fd` is on (proc_pid_fdinfo(5)).
pub(super) fn mount_id(fd: impl AsFd) -> Result<u64, Failure> {
    let path = PathBuf::from(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()));
    let text = fs::read_to_string(&path).or_fail("read", &path)?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))
        .or_fail("find mnt_id in", &path)
}

/// A mount of this namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    /// Its own flags, not those of its file system.
    pub(super) flags: MsFlags,
}

/// The mounts of this namespace, in the order they were made.
pub(super) fn mounts() -> Result<Vec<Mount>, Failure> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read(path).or_fail("read", path)?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// One line of mountinfo (proc_pid_mountinfo(5)): id, parent, device, root, path, flags, ...
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let path = PathBuf::from(unescape(fields.nth(3)?));
    let flags = fields.next()?.split(|byte| *byte == b',').map(flag).collect();
    Some(Mount { id, path, flags })
}

fn flag(name: &[u8]) -> MsFlags {
    match name {
        b"ro" => MsFlags::MS_RDONLY,
        b"nosuid" => MsFlags::MS_NOSUID,
        b"nodev" => MsFlags::MS_NODEV,
        b"noexec" => MsFlags::MS_NOEXEC,
        b"noatime" => MsFlags::MS_NOATIME,
        b"nodiratime" => MsFlags::MS_NODIRATIME,
        b"relatime" => MsFlags::MS_RELATIME,
        // "rw", and what a bind remount leaves alone.
        _ => MsFlags::empty(),
    }
}

/// Blank, tab, newline and backslash are written in octal there.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let Some(byte) = octal {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read() {
        let line =
            b"36 35 98:0 /mnt1 /mnt\\0402\\134x rw,nosuid,noatime master:1 - ext3 /dev/root rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.path.as_path()), (36, Path::new("/mnt 2\\x")));
        assert_eq!(mount.flags, MsFlags::MS_NOSUID | MsFlags::MS_NOATIME);
        assert!(parse(b"").is_none());
        assert!(!mounts().unwrap().is_empty());
    }

    #[test]
    fn a_descriptor_knows_its_mount() {
        let proc = mount_id(open_path(Path::new("/proc")).unwrap()).unwrap();
        let root = mount_id(open_path(Path::new("/")).unwrap()).unwrap();
        assert_ne!(proc, root);
        assert!(mounts().unwrap().iter().any(|mount| mount.id == proc));
    }
}
