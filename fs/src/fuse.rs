//! The kernel's side: FUSE requests become calls of [`ImageFs`], and threads answer them.
//!
//! This module and its parts alone name the FUSE library. It translates and decides nothing: what a
//! request means is in `filesystem`, which is testable without a kernel.
//!
//! A merged tree never changes, and everything here serves one aim, that the kernel never asks
//! twice: names, attributes and misses are valid for ever, `open` and `opendir` are answered
//! ENOSYS (from then on the kernel opens on its own and keeps page and directory cache), and
//! directories are read together with the attributes of what is in them. (Where large files are to
//! be read without us, `open` has to be answered: see [`Through`].) The mount is read-only
//! for the kernel too, else each read would make it drop the attributes for the access time.

mod device;
mod requests;
mod session;
mod through;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::MntFlags;

pub use self::device::mount_device;
pub use self::session::{Greeting, Ready, Session};
pub use self::through::Through;
use crate::filesystem::ImageFs;

/// The type of a kfs mount in `/proc/mounts`.
pub const FS_TYPE: &str = "fuse.kfs";

const DEVICE: &str = "/dev/fuse";

/// What the kernel reads ahead of a sequential reader, in KiB: two requests. Its default of 128
/// costs a fifth of the throughput; above 1024, mapped files (which fault here and there) read too much.
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
/// of this process: when it is killed, the mount dies. `name` is what `df` and `mount` show as
/// the source. Who may use the mount: see [`mount_device`].
pub fn mount(fs: Arc<ImageFs>, mountpoint: &Path, name: &OsStr) -> Result<Mounted, FuseError> {
    mount_through(fs, mountpoint, name, None)
}

/// As [`mount`]; with `through`, the kernel reads large files by itself.
pub fn mount_through(
    fs: Arc<ImageFs>,
    mountpoint: &Path,
    name: &OsStr,
    through: Option<Arc<Through>>,
) -> Result<Mounted, FuseError> {
    let device = mount_device(mountpoint, name)?;
    let start = || Ready::first(fs, device, through)?.0.start();
    let session = start().inspect_err(|_| {
        if let Err(error) = unmount(mountpoint, true) {
            tracing::warn!("{error}");
        }
    })?;
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
        let serving = self.session.as_ref().is_some_and(|session| !session.is_finished());
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

/// Lets the kernel read ahead of whoever reads files in sequence, farther than it does by itself.
///
/// It takes this from nobody but root, by way of sysfs; without it the mount is slower
/// to read and no less right.
pub fn raise_read_ahead(mountpoint: &Path) {
    let raise = || -> io::Result<()> {
        let device = nix::sys::stat::stat(mountpoint)?.st_dev;
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB)
    };
    if let Err(error) = raise() {
        tracing::debug!("read-ahead of {} stays at its default: {error}", mountpoint.display());
    }
}
