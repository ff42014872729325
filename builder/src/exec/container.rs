//! Container isolation: the rootfs is `/`, with fresh `/dev`, `/proc` and `/sys`, and the host's
//! name resolution.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::{chdir, fchdir, pivot_root};

use crate::rootfs::{RootDir, magic_path};

use super::extra_mounts::Sources;
use super::kernel_files::{mask, mount_dev, mount_proc};
use super::mounts::{bind, mount_new, own_mount, place, set_flags};
use super::wire::{Failure, Job, OrFail};

/// Parts of /sys that tell about the host (the list of Docker and podman).
const MASKED: [&str; 2] = ["/sys/firmware", "/sys/devices/virtual/powercap"];

/// A resolv.conf or hosts file is never near this long; the rest would not be used by libc.
pub(super) const MAX_NAME_FILE: u64 = 1 << 20;

/// Makes the rootfs `/` of this process, which must be alone in its mount namespace.
pub(super) fn enter(job: &Job) -> Result<(), Failure> {
    let root = own_mount(Path::new(&job.rootfs))?;
    let sources = Sources::open(&job.world.mounts)?;
    copy_name_files(&root, job)?;
    mount_dev(&root, job.world.shm_size)?;
    mount_proc(&root)?;
    mount_sys(&root)?;
    sources.mount(&root, &root, &job.world.mounts)?;
    pivot(&root)
}

/// Puts private copies of the host's resolver files on the rootfs's: a step may write to them
/// (package scripts do), and neither the host nor the layer is changed by that.
fn copy_name_files(root: &RootDir, job: &Job) -> Result<(), Failure> {
    let hosts = name_file(Path::new("/etc/hosts"))?;
    let mut hosts = hosts.unwrap_or_else(|| b"127.0.0.1 localhost\n::1 localhost\n".to_vec());
    if hosts.last().is_some_and(|last| *last != b'\n') {
        hosts.push(b'\n');
    }
    hosts.extend_from_slice(format!("127.0.0.1 {}\n", job.hostname).as_bytes());
    for (address, name) in &job.world.hosts {
        hosts.extend_from_slice(format!("{address} {name}\n").as_bytes());
    }
    let resolv = name_file(Path::new("/etc/resolv.conf"))?;
    // The copies need a file system to lie on. /dev gets its own mount later; until then it
    // lends its place.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_new("tmpfs", &place(root, "/dev")?, flags, "mode=755,size=8m")
        .or_fail("mount a tmpfs on", root.outside(Path::new("/dev")))?;
    let lent = place(root, "/dev")?;
    for (name, content) in [("hosts", Some(hosts)), ("resolv.conf", resolv)] {
        let Some(content) = content else { continue };
        let copy = magic_path(&lent).join(name);
        fs::write(&copy, content).or_fail("write a copy of", Path::new("/etc").join(name))?;
        let path = Path::new("/etc").join(name);
        match root.open_at(&path, OFlag::O_PATH) {
            Ok(target) => bind(&copy, &target, MsFlags::empty()).or_fail("bind", &path)?,
            // A rootfs that hides the place (see `LiveRootfs`) goes without.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(error) => return Err(error).or_fail("open", root.outside(&path)),
        }
    }
    umount2(&magic_path(&lent), MntFlags::MNT_DETACH).or_fail("umount", "/dev")
}

/// A resolver file of the host.
pub(super) fn name_file(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let root = RootDir::open(Path::new("/")).map_err(|error| error.source).or_fail("open", "/")?;
    let file = root.open_file_opt(path).map_err(|error| error.source).or_fail("open", path)?;
    let Some(file) = file else { return Ok(None) };
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_NAME_FILE), &mut content)
        .or_fail("read", path)?;
    Ok(Some(content))
}

fn mount_sys(root: &RootDir) -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let target = place(root, "/sys")?;
    match mount_new("sysfs", &target, flags, "") {
        Ok(()) => {}
        // In a user namespace, where the network namespace belongs to another one.
        Err(Errno::EPERM) => {
            bind(Path::new("/sys"), &target, MsFlags::MS_REC).or_fail("bind", "/sys")?;
            set_flags(&magic_path(&place(root, "/sys")?), flags).or_fail("protect", "/sys")?;
        }
        Err(error) => return Err(error).or_fail("mount sysfs on", root.outside("/sys".as_ref())),
    }
    let null = place(root, "/dev/null")?;
    for path in MASKED {
        match root.open_at(Path::new(path), OFlag::O_PATH) {
            Ok(hidden) => mask(&hidden, &null).or_fail("mask", path)?,
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error).or_fail("open", path),
        }
    }
    Ok(())
}

/// Changes `/`, and lets go of the old one with all its mounts (pivot_root(2), `"."` twice).
fn pivot(root: &RootDir) -> Result<(), Failure> {
    let root_fd: OwnedFd = root
        .open_at(Path::new("/"), OFlag::O_PATH | OFlag::O_DIRECTORY)
        .or_fail("open", root.path())?;
    fchdir(&root_fd).or_fail("enter", root.path())?;
    pivot_root(".", ".").or_fail("make the root of the step", root.path())?;
    umount2(".", MntFlags::MNT_DETACH).or_fail("let go of", "the host's root")?;
    chdir("/").or_fail("enter", "/")
}
