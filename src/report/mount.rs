//! What the user is told about mounts.

use kfs_fs::fuse::FuseError;
use kfs_fs::mount::{MountError, ServerFailure};

use super::{BUSY, CORRUPT, Failure, NOT_FOUND};

impl From<Failure> for ServerFailure {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, message: failure.message, hint: failure.hint }
    }
}

impl From<ServerFailure> for Failure {
    fn from(failure: ServerFailure) -> Self {
        Self { code: failure.code, message: failure.message, hint: failure.hint }
    }
}

impl From<MountError> for Failure {
    // One arm an error: a table, however long.
    #[allow(clippy::too_many_lines)]
    fn from(error: MountError) -> Self {
        let failure = Self::from_error(&error);
        match error {
            MountError::Missing(dir) => failure
                .code(NOT_FOUND)
                .hint(format!("create it with `mkdir -p {}`", dir.display())),
            MountError::NotADirectory(_) => failure.hint("give an empty directory"),
            MountError::UpperNotADirectory(_) => failure.hint("give a directory with --upper"),
            MountError::NotEmpty(_) => {
                failure.code(BUSY).hint("a mount would hide what is in it; give an empty directory")
            }
            MountError::Dead(dir) => {
                failure.code(BUSY).hint(format!("detach it with `umount -l {}`", dir.display()))
            }
            MountError::AlreadyMounted { mountpoint, .. } => failure
                .code(BUSY)
                .hint(format!("unmount it with `kfs umount {}`", mountpoint.display())),
            MountError::WritableNeedsRoot => failure.hint(
                "run as root, or inside `unshare --user --map-root-user --mount`; \
                 without --rw any user can mount",
            ),
            MountError::UpperInUse { .. } => {
                failure.code(BUSY).hint("give each mount its own --upper directory")
            }
            MountError::UpperOverlaps { .. } => {
                failure.hint("give an --upper directory outside of the mount point")
            }
            MountError::UnsuitableUpper { .. } => {
                failure.hint("keep the changes on ext4, xfs, btrfs or tmpfs: --upper DIR")
            }
            MountError::Overlay { .. } => failure.hint(
                "overlayfs needs CAP_SYS_ADMIN and the kernel's overlay module (`modprobe overlay`)",
            ),
            MountError::NotMounted(_) => {
                failure.code(NOT_FOUND).hint("`kfs mounts` lists what is mounted")
            }
            MountError::Busy { mountpoint, .. } => failure.code(BUSY).hint(format!(
                "end that, or detach the mount with `kfs umount --lazy {}`",
                mountpoint.display()
            )),
            MountError::Covered(dir) => failure
                .code(BUSY)
                .hint(format!("unmount that first, with `umount {}`", dir.display())),
            MountError::OtherNamespace { pid, .. } => {
                failure.hint(format!("as root, `kill {pid}` unmounts it"))
            }
            MountError::StillServed { pid, .. } => failure.code(BUSY).hint(format!(
                "it ends with its last user; `kill {pid}`, given twice, cuts the users off"
            )),
            MountError::Fuse(error) => failure.fuse_hint(&error),
            MountError::Server(server) => server.into(),
            MountError::State { path, .. } => {
                failure.code(CORRUPT).hint(format!("remove {}", path.display()))
            }
            MountError::Path(error) => error.into(),
            MountError::NotHandedOver(_)
            | MountError::Start(_)
            | MountError::Died { .. }
            | MountError::Slow { .. }
            | MountError::SetUp(_)
            | MountError::CannotResend { .. }
            | MountError::GivenUp { .. }
            | MountError::Session(_) => failure,
            MountError::Interrupted(signal) => {
                failure.code(128 + u8::try_from(signal as i32).unwrap_or_default())
            }
            MountError::Upgrade { .. } => failure,
            MountError::Unsupervised(_) | MountError::NoResend => failure.hint("unmount, and mount again"),
        }
    }
}

impl Failure {
    fn fuse_hint(self, error: &FuseError) -> Self {
        match error {
            FuseError::NoDevice(_) => {
                self.hint("load FUSE with `modprobe fuse`; a container needs `--device /dev/fuse`")
            }
            FuseError::DeviceDenied(_) => {
                self.hint("run as root, or let users open it: `chmod 666 /dev/fuse`")
            }
            FuseError::Denied(_) => {
                self.hint("run as root; a container needs `--cap-add SYS_ADMIN --device /dev/fuse`")
            }
            FuseError::NoFusermount => {
                self.hint("install it (Debian: `apt install fuse3`), or run as root")
            }
            FuseError::Mount { .. } | FuseError::Session(_) | FuseError::Unmount { .. } => self,
        }
    }
}
