//! `/dev/fuse`: opened and mounted, by root with mount(2), by others through fusermount3.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::MsFlags;

use super::{DEVICE, FS_TYPE, FuseError};
use crate::sys;

/// Mounts a file system at `mountpoint` that whoever reads the returned device serves; until then
/// its users wait.
///
/// Root mounts for everybody, with set-user-id programs and device nodes as the image has them;
/// other users mount through fusermount3, for themselves alone and without either.
pub fn mount_device(mountpoint: &Path, name: &OsStr) -> Result<OwnedFd, FuseError> {
    let device = open_device()?;
    if nix::unistd::geteuid().is_root() {
        mount_as_root(device, mountpoint, name)
    } else {
        drop(device);
        mount_as_user(mountpoint, name)
    }
}

fn mount_as_root(device: File, mountpoint: &Path, name: &OsStr) -> Result<OwnedFd, FuseError> {
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
        Ok(()) => Ok(device.into()),
        Err(nix::Error::EPERM) => Err(FuseError::Denied(mountpoint.to_owned())),
        Err(nix::Error::ENODEV) => Err(FuseError::NoDevice(nix::Error::ENODEV.into())),
        Err(error) => {
            let mountpoint = mountpoint.to_owned();
            Err(FuseError::Mount { mountpoint, source: error.into() })
        }
    }
}

/// fusermount3 opens the device, mounts, and sends the descriptor through the socket whose number
/// it finds in its environment.
fn mount_as_user(mountpoint: &Path, name: &OsStr) -> Result<OwnedFd, FuseError> {
    let failed = |source| FuseError::Mount { mountpoint: mountpoint.to_owned(), source };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|error| failed(error.into()))?;
    let mut command = Command::new("fusermount3");
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    command.arg("-o").arg(user_options(name)).arg("--").arg(mountpoint);
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FuseError::NoFusermount,
        _ => failed(error),
    })?;
    drop(theirs);
    if output.status.success() {
        return sys::receive_descriptor(&ours).map_err(failed);
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.contains("ermission") || text.contains("permitted") {
        return Err(FuseError::Denied(mountpoint.to_owned()));
    }
    Err(failed(io::Error::other(text)))
}

/// fusermount3 splits its options at commas.
fn user_options(name: &OsStr) -> std::ffi::OsString {
    let mut options = b"ro,nosuid,nodev,default_permissions,subtype=kfs,fsname=".to_vec();
    for &byte in name.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            options.push(b'\\');
        }
        options.push(byte);
    }
    std::os::unix::ffi::OsStringExt::from_vec(options)
}

fn open_device() -> Result<File, FuseError> {
    File::options().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => FuseError::DeviceDenied(error),
        _ => FuseError::NoDevice(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_commas_are_one_option() {
        let options = user_options(OsStr::new("oci:/a,b\\c:v1"));
        let options = options.to_str().unwrap();
        assert!(options.ends_with(r",fsname=oci:/a\,b\\c:v1"), "{options}");
    }
}
