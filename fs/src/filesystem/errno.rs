//! The one place where errors become errno.

use nix::errno::Errno;

use super::ReadError;

impl ReadError {
    /// The errno that the kernel is told. Only what the caller did wrong has an errno of its own;
    /// whatever is wrong with the image is EIO.
    pub fn errno(&self) -> i32 {
        let errno = match self {
            Self::NoInode(_) => Errno::ESTALE,
            Self::NotADirectory(_) => Errno::ENOTDIR,
            Self::IsADirectory(_) => Errno::EISDIR,
            Self::WrongKind(_) => Errno::EINVAL,
            Self::Span(_) | Self::Tree(_) | Self::NoContent { .. } => Errno::EIO,
        };
        errno as i32
    }
}
