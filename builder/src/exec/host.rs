//! Host isolation: the host's tools on a rootfs that has none.
//!
//! Every mount is read-only and without device nodes, except the rootfs, a private `/tmp` and
//! `/var/tmp`, and a private `/dev`. `/run` is hidden: the sockets of the host's daemons lie
//! there. Reading the host's files is what this isolation is for, and stays possible; so does the
//! host's network, as in container isolation, and with it a socket that a daemon keeps elsewhere
//! or in the abstract name space.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::MsFlags;

use crate::rootfs::{RootDir, magic_path};

use super::container::name_file;
use super::extra_mounts::Sources;
use super::kernel_files::{NODES, mask, mount_dev, mount_proc};
use super::mounts::{
    Mount, bind, mount_id, mount_new, mounts, open_path, own_mount, place, set_flags,
};
use super::wire::{Failure, Job, OrFail};

/// Directories in whose place the step gets an empty one of its own, and whether it may write
/// there.
const HIDDEN: [(&str, bool); 4] =
    [("/tmp", true), ("/var/tmp", true), ("/run", false), ("/var/run", false)];

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Shuts this process, which must be alone in its mount namespace, out of the host's files.
/// Returns the rootfs.
pub(super) fn enter(job: &Job) -> Result<RootDir, Failure> {
    let path = Path::new(&job.rootfs);
    let rootfs = own_mount(path)?;
    let resolv = name_file(Path::new(RESOLV_CONF))?;
    let resolv_path = fs::canonicalize(RESOLV_CONF).ok();
    let host = RootDir::open(Path::new("/")).map_err(|error| error.source).or_fail("open", "/")?;
    let sources = Sources::open(&job.world.mounts)?;
    let mut writable = hide_directories()?;
    mount_dev(&host, job.world.shm_size)?;
    // A device node is a mount of its own where it had to be bound (in a user namespace).
    let nodes = NODES.map(|(name, ..)| format!("/dev/{name}"));
    let mounts = ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"].map(str::to_owned);
    for private in mounts.into_iter().chain(nodes) {
        writable.insert(mount_id(place(&host, &private)?)?);
    }
    if let (Some(content), Some(path)) = (resolv, resolv_path) {
        restore_file(&path, &content)?;
    }
    let rootfs = bring_back(rootfs)?;
    writable.insert(mount_id(&rootfs)?);
    writable.extend(sources.mount(&host, &rootfs, &job.world.mounts)?);
    protect(&host, &writable)?;
    mount_proc(&host)?;
    Ok(rootfs)
}

/// Whether a file of the host cannot be seen in host isolation; `path` has no links in it.
pub fn is_hidden(path: &Path) -> bool {
    let directories = HIDDEN.iter().filter_map(|(directory, _)| fs::canonicalize(directory).ok());
    directories.into_iter().any(|directory| path.starts_with(directory))
}

/// Leaves all as it is, but for `/proc`, which has to show this pid namespace. Returns the rootfs.
pub(super) fn stay(job: &Job) -> Result<RootDir, Failure> {
    let rootfs = own_mount(Path::new(&job.rootfs))?;
    let host = RootDir::open(Path::new("/")).map_err(|error| error.source).or_fail("open", "/")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_new("proc", &place(&host, "/proc")?, flags, "").or_fail("mount proc on", "/proc")?;
    Sources::open(&job.world.mounts)?.mount(&host, &rootfs, &job.world.mounts)?;
    Ok(rootfs)
}

/// Returns the mounts on which the step may write.
fn hide_directories() -> Result<HashSet<u64>, Failure> {
    let mut writable = HashSet::new();
    let mut hidden = HashSet::new();
    for (directory, may_write) in HIDDEN {
        // Missing, or a link to one that is hidden already.
        let Ok(path) = fs::canonicalize(directory) else { continue };
        if path == Path::new("/") || !hidden.insert(path.clone()) {
            continue;
        }
        let target = open_path(&path).or_fail("open", &path)?;
        let options = if may_write { "mode=1777" } else { "mode=755" };
        mount_new("tmpfs", &target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, options)
            .or_fail("mount a tmpfs on", &path)?;
        if may_write {
            writable.insert(mount_id(open_path(&path).or_fail("open", &path)?)?);
        }
    }
    Ok(writable)
}

/// `/etc/resolv.conf` is often a link into `/run`, which is empty now.
fn restore_file(path: &Path, content: &[u8]) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).or_fail("make directory", parent)?;
    fs::write(path, content).or_fail("write", path)
}

/// The rootfs may lie in a directory that is hidden now: binds it to its old path again.
fn bring_back(rootfs: RootDir) -> Result<RootDir, Failure> {
    let path = rootfs.path().to_owned();
    let id = mount_id(&rootfs)?;
    let reachable = open_path(&path).ok().map(mount_id).transpose()? == Some(id);
    if reachable {
        return Ok(rootfs);
    }
    fs::create_dir_all(&path).or_fail("make directory", &path)?;
    let target = open_path(&path).or_fail("open", &path)?;
    bind(&magic_path(&rootfs), &target, MsFlags::empty()).or_fail("bind", &path)?;
    RootDir::open(&path).map_err(|error| error.source).or_fail("open", &path)
}

/// Makes every mount that can be reached, but those in `writable`, read-only; one that refuses
/// is hidden, and if it cannot be hidden either, the step does not run.
fn protect(host: &RootDir, writable: &HashSet<u64>) -> Result<(), Failure> {
    let null = place(host, "/dev/null")?;
    for mount in mounts()? {
        if writable.contains(&mount.id) || !is_reachable(&mount)? {
            continue;
        }
        let flags = mount.flags | MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
        if set_flags(&mount.path, flags).is_err() {
            let place = open_path(&mount.path).or_fail("open", &mount.path)?;
            mask(&place, &null).or_fail("hide what cannot be made read-only", &mount.path)?;
        }
    }
    check(writable)
}

/// Reads the kernel's list again: nothing that can be reached may be writable.
fn check(writable: &HashSet<u64>) -> Result<(), Failure> {
    for mount in mounts()? {
        let safe = mount.flags.contains(MsFlags::MS_RDONLY) || writable.contains(&mount.id);
        // A mask of a file is a bind of our own /dev/null.
        if !safe && is_reachable(&mount)? && !is_null(&mount.path) {
            return Err(io::Error::from_raw_os_error(nix::libc::EROFS))
                .or_fail("protect", &mount.path);
        }
    }
    Ok(())
}

fn is_null(path: &Path) -> bool {
    let null = nix::sys::stat::makedev(1, 3);
    nix::sys::stat::stat(path).is_ok_and(|stat| stat.st_rdev == null)
}

/// Whether the mount is what its path leads to: another may lie on it or on a parent.
fn is_reachable(mount: &Mount) -> Result<bool, Failure> {
    match open_path(&mount.path) {
        Ok(fd) => Ok(mount_id(fd)? == mount.id),
        // The path is hidden by another mount, or leads through a dead or forbidden one: where
        // we do not come with all privileges, the command does not come with fewer.
        Err(
            Errno::ENOENT
            | Errno::ENOTDIR
            | Errno::EACCES
            | Errno::ELOOP
            | Errno::ENOTCONN
            | Errno::ESTALE
            | Errno::EIO
            | Errno::EHOSTDOWN,
        ) => Ok(false),
        Err(error) => Err(error).or_fail("open", &mount.path),
    }
}

/// Where programs are looked up: on the host, and in the rootfs's `bin`.
pub(super) fn path_variable(host: &OsStr, rootfs: &Path, rootfs_first: bool) -> OsString {
    let own = rootfs.join("bin").into_os_string();
    let (mut path, last) =
        if rootfs_first { (own, host.to_owned()) } else { (host.to_owned(), own) };
    if !path.is_empty() && !last.is_empty() {
        path.push(":");
    }
    path.push(last);
    path
}
