//! `/dev` and `/proc` as a step sees them, in either isolation.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknod, umask};
use nix::unistd::mkdir;

use crate::rootfs::{RootDir, magic_path};

use super::mounts::{bind, mount_new, open_path, place, set_flags};
use super::wire::{Failure, OrFail};

/// The device nodes of every container, with their numbers (OCI runtime spec, config-linux.md,
/// "Default Devices").
pub(super) const NODES: [(&str, u64, u64); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Name and target (same place, "Dev symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Parts of /proc that tell about the host (the list of Docker and podman).
const MASKED: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// Parts of /proc that control the host.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

const NO_PROGRAMS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// What `/dev/shm` may hold, in bytes: Docker's and podman's default.
const SHM_SIZE: u64 = 64 << 20;

/// Mounts a small `/dev` over the root's.
pub(super) fn mount_dev(root: &RootDir, shm_size: Option<u64>) -> Result<(), Failure> {
    // Opened now: in host isolation the new /dev hides them.
    let host: Vec<_> = NODES.map(|(name, ..)| open_path(&Path::new("/dev").join(name))).into();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_STRICTATIME;
    mount_new("tmpfs", &place(root, "/dev")?, flags, "mode=755,size=64k")
        .or_fail("mount a tmpfs on", root.outside(Path::new("/dev")))?;
    let dev = place(root, "/dev")?;
    let old_mask = umask(Mode::empty());
    for ((name, major, minor), host) in NODES.into_iter().zip(host) {
        make_node(&dev, name, makedev(major, minor), host)?;
    }
    for (name, target) in LINKS {
        symlink(target, magic_path(&dev).join(name)).or_fail("make link", name)?;
    }
    for directory in ["pts", "shm", "mqueue"] {
        let mode = Mode::from_bits_truncate(0o755);
        mkdir(&magic_path(&dev).join(directory), mode).or_fail("make directory", directory)?;
    }
    umask(old_mask);
    let no_exec = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount_new("devpts", &place(root, "/dev/pts")?, no_exec, options)
        // In a user namespace group 5 may not be mapped.
        .or_else(|_| {
            let pts = root.open_at(Path::new("/dev/pts"), OFlag::O_PATH)?;
            mount_new("devpts", &pts, no_exec, "newinstance,ptmxmode=0666,mode=0620")
        })
        .or_fail("mount devpts on", "/dev/pts")?;
    let shm = format!("mode=1777,size={}", shm_size.unwrap_or(SHM_SIZE));
    mount_new("tmpfs", &place(root, "/dev/shm")?, NO_PROGRAMS, &shm)
        .or_fail("mount a tmpfs on", "/dev/shm")?;
    match mount_new("mqueue", &place(root, "/dev/mqueue")?, NO_PROGRAMS, "") {
        // A kernel without POSIX message queues; the calls themselves then say so.
        Ok(()) | Err(Errno::ENODEV) => Ok(()),
        Err(error) => Err(error).or_fail("mount mqueue on", "/dev/mqueue"),
    }
}

fn make_node(
    dev: &OwnedFd,
    name: &str,
    number: u64,
    host: nix::Result<OwnedFd>,
) -> Result<(), Failure> {
    let path = magic_path(dev).join(name);
    match mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), number) {
        Ok(()) => Ok(()),
        // In a user namespace: show the host's own.
        Err(Errno::EPERM) => {
            let source = host.or_fail("open", Path::new("/dev").join(name))?;
            File::create(&path).or_fail("create", Path::new("/dev").join(name))?;
            let target = open_path(&path).or_fail("open", &path)?;
            bind(&magic_path(&source), &target, MsFlags::empty())
                .or_fail("bind", Path::new("/dev").join(name))
        }
        Err(error) => Err(error).or_fail("make device", Path::new("/dev").join(name)),
    }
}

/// Mounts the `/proc` of the pid namespace over the root's, without what belongs to the host.
/// The root's `/dev/null` must be there.
pub(super) fn mount_proc(root: &RootDir) -> Result<(), Failure> {
    mount_new("proc", &place(root, "/proc")?, NO_PROGRAMS, "")
        .or_fail("mount proc on", root.outside(Path::new("/proc")))?;
    for name in READ_ONLY {
        if let Some(place) = existing(root, name)? {
            let path = Path::new("/proc").join(name);
            bind(&magic_path(&place), &place, MsFlags::empty()).or_fail("bind", &path)?;
            let bound = root.open_at(&path, OFlag::O_PATH).or_fail("open", &path)?;
            set_flags(&magic_path(&bound), NO_PROGRAMS | MsFlags::MS_RDONLY)
                .or_fail("make read-only", &path)?;
        }
    }
    let null = place(root, "/dev/null")?;
    for name in MASKED {
        if let Some(place) = existing(root, name)? {
            mask(&place, &null).or_fail("mask", Path::new("/proc").join(name))?;
        }
    }
    Ok(())
}

/// Hides a file behind `null`, a directory behind an empty one.
pub(super) fn mask(place: &OwnedFd, null: &OwnedFd) -> nix::Result<()> {
    if fstat(place)?.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR {
        let flags = NO_PROGRAMS | MsFlags::MS_RDONLY;
        mount_new("tmpfs", place, flags, "mode=755,size=0k,nr_inodes=2")
    } else {
        bind(&magic_path(null), place, MsFlags::empty())
    }
}

fn existing(root: &RootDir, name: &str) -> Result<Option<OwnedFd>, Failure> {
    let path = Path::new("/proc").join(name);
    match root.open_at(&path, OFlag::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error).or_fail("open", path),
    }
}
