//! The kernel's side: FUSE requests become calls of [`ImageFs`], and threads answer them.
//!
//! This module alone names the FUSE library. It translates and decides nothing: what a request
//! means is in `filesystem`, which is testable without a kernel.
//!
//! A merged tree never changes, and everything here serves one aim, that the kernel never asks
//! twice: names, attributes and misses are valid for ever, `open` and `opendir` are answered
//! ENOSYS (from then on the kernel opens on its own and keeps page and directory cache), and
//! directories are read together with the attributes of what is in them. The mount is read-only
//! for the kernel too, else each read would make it drop the attributes for the access time.

mod requests;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use nix::mount::{MntFlags, MsFlags};

use self::requests::Adapter;
use crate::filesystem::ImageFs;

/// The type of a kfs mount in `/proc/mounts`.
pub const FS_TYPE: &str = "fuse.kfs";

const DEVICE: &str = "/dev/fuse";

/// What the kernel reads ahead of a sequential reader, in KiB. Its default of 128 costs a fifth
/// of the throughput; above 1024, mapped files (which fault here and there) read too much.
const READ_AHEAD_KIB: &str = "512";

/// Why an image could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    /// The kernel has no FUSE, or the device node is not there.
    #[error("{DEVICE} is missing: {0}")]
    NoDevice(io::Error),
    /// The device node may not be opened.
    #[error("{DEVICE} may not be opened: {0}")]
    DeviceDenied(io::Error),
    /// mount(2) or fusermount3 says no for lack of privilege.
    #[error("mounting at {} is not permitted", .0.display())]
    Denied(PathBuf),
    /// The program that mounts for users other than root is not installed.
    #[error("fusermount3 is not installed")]
    NoFusermount,
    /// Any other failure of the mount.
    #[error("mount at {}: {source}", mountpoint.display())]
    Mount {
        /// Where.
        mountpoint: PathBuf,
        /// What the system, or fusermount3, said.
        source: io::Error,
    },
    /// The mount is there but the first request was not answered as it should.
    #[error("start of the FUSE session: {0}")]
    Session(io::Error),
    /// The unmount failed.
    #[error("unmount {}: {source}", mountpoint.display())]
    Unmount {
        /// Where.
        mountpoint: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The threads that answer the kernel for one image.
///
/// They end when the file system is unmounted everywhere. Dropping this does not end them.
#[derive(Debug)]
pub struct Session(BackgroundSession);

impl Session {
    /// Blocks until the file system is unmounted and its last user is gone.
    pub fn join(self) -> io::Result<()> {
        self.0.join()
    }
}

/// Answers the requests that come from `device`, an open `/dev/fuse` that is mounted already.
pub fn serve(fs: Arc<ImageFs>, device: OwnedFd) -> Result<Session, FuseError> {
    let session = fuser::Session::from_fd(Adapter(fs), device, SessionACL::All, config())
        .map_err(FuseError::Session)?;
    session.spawn().map(Session).map_err(FuseError::Session)
}

/// An image mounted and served by this process. Dropping it detaches the mount; the threads end
/// when its last user is gone.
#[derive(Debug)]
pub struct Mounted {
    /// None once it was waited for.
    session: Option<Session>,
    mountpoint: PathBuf,
    attached: bool,
}

/// Mounts `fs` read-only at `mountpoint`, which must be a directory, and serves it with threads
/// of this process. `name` is what `df` and `mount` show as the source.
///
/// Root mounts for everybody, with set-user-id programs and device nodes as the image has them;
/// other users mount through fusermount3, for themselves alone and without either.
pub fn mount(fs: Arc<ImageFs>, mountpoint: &Path, name: &OsStr) -> Result<Mounted, FuseError> {
    let session = if nix::unistd::geteuid().is_root() {
        mount_as_root(fs, mountpoint, name)?
    } else {
        mount_as_user(fs, mountpoint, name)?
    };
    raise_read_ahead(mountpoint);
    Ok(Mounted { session: Some(session), mountpoint: mountpoint.to_owned(), attached: true })
}

impl Mounted {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Takes the mount out of the tree of this mount namespace. Whoever uses it, or mounted
    /// something on top of it, keeps it alive.
    pub fn detach(&mut self) -> Result<(), FuseError> {
        unmount(&self.mountpoint, true)?;
        self.attached = false;
        Ok(())
    }

    /// Blocks until somebody unmounted it and its last user is gone.
    pub fn wait(mut self) -> io::Result<()> {
        match self.session.take() {
            Some(session) => session.join(),
            None => Ok(()),
        }
    }

    /// Unmounts and waits for the threads. If the mount is busy that is an error, and it is
    /// detached.
    pub fn unmount(self) -> Result<(), FuseError> {
        unmount(&self.mountpoint, false)?;
        self.wait().map_err(FuseError::Session)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // When the threads have ended somebody unmounted it, and another mount may lie there now.
        let serving = self.session.as_ref().is_some_and(|session| !session.0.guard.is_finished());
        if self.attached
            && serving
            && let Err(error) = self.detach()
        {
            tracing::warn!("{error}");
        }
    }
}

/// Unmounts what is mounted at `mountpoint`; `lazy` detaches it even when it is busy.
///
/// Users other than root go through fusermount3, which unmounts only what they mounted.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), FuseError> {
    let failed = |source| FuseError::Unmount { mountpoint: mountpoint.to_owned(), source };
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match nix::mount::umount2(mountpoint, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(nix::Error::EPERM) if !nix::unistd::geteuid().is_root() => {
            let mut command = std::process::Command::new("fusermount3");
            command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mountpoint);
            let output = command.output().map_err(failed)?;
            if output.status.success() {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let kind = if text.contains("busy") {
                io::ErrorKind::ResourceBusy
            } else {
                io::ErrorKind::Other
            };
            Err(failed(io::Error::new(kind, text)))
        }
        Err(error) => Err(failed(error.into())),
    }
}

fn config() -> Config {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut config = Config::default();
    // More than one, so that a read that waits for the disk does not hold up a lookup; each
    // costs stack and buffer.
    config.n_threads = Some(cores.clamp(2, 4));
    config.clone_fd = true;
    config
}

fn mount_as_root(fs: Arc<ImageFs>, mountpoint: &Path, name: &OsStr) -> Result<Session, FuseError> {
    let device = open_device()?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let result = nix::mount::mount(
        Some(name),
        mountpoint,
        Some(FS_TYPE),
        MsFlags::MS_RDONLY,
        Some(options.as_str()),
    );
    match result {
        Ok(()) => {}
        Err(nix::Error::EPERM) => return Err(FuseError::Denied(mountpoint.to_owned())),
        Err(nix::Error::ENODEV) => {
            return Err(FuseError::NoDevice(nix::Error::ENODEV.into()));
        }
        Err(error) => {
            let mountpoint = mountpoint.to_owned();
            return Err(FuseError::Mount { mountpoint, source: error.into() });
        }
    }
    serve(fs, device.into()).inspect_err(|_| {
        if let Err(error) = unmount(mountpoint, true) {
            tracing::warn!("{error}");
        }
    })
}

fn mount_as_user(fs: Arc<ImageFs>, mountpoint: &Path, name: &OsStr) -> Result<Session, FuseError> {
    drop(open_device()?);
    let mut config = config();
    // fusermount3 splits its options at commas.
    let name = name.to_string_lossy().replace('\\', r"\\").replace(',', r"\,");
    config.mount_options = vec![
        MountOption::FSName(name),
        MountOption::Subtype("kfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
    ];
    let session = fuser::Session::new(Adapter(fs), mountpoint, &config).map_err(|source| {
        match source.kind() {
            io::ErrorKind::NotFound => FuseError::NoFusermount,
            io::ErrorKind::PermissionDenied => FuseError::Denied(mountpoint.to_owned()),
            _ => FuseError::Mount { mountpoint: mountpoint.to_owned(), source },
        }
    })?;
    session.spawn().map(Session).map_err(FuseError::Session)
}

fn open_device() -> Result<File, FuseError> {
    File::options().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => FuseError::DeviceDenied(error),
        _ => FuseError::NoDevice(error),
    })
}

/// The kernel takes this from nobody but root, by way of sysfs; without it the mount is slower
/// to read and no less right.
fn raise_read_ahead(mountpoint: &Path) {
    let raise = || -> io::Result<()> {
        let device = nix::sys::stat::stat(mountpoint)?.st_dev;
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB)
    };
    if let Err(error) = raise() {
        tracing::debug!("read-ahead of {} stays at its default: {error}", mountpoint.display());
    }
}
