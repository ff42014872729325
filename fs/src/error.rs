//! IO errors that name their path, and the one place where errors become errno.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::filesystem::ReadError;

/// An IO error, what was tried, and where.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct PathError {
    /// The verb: "open", "read", "rename".
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Adds the path to an IO result.
pub trait AtPath<T> {
    /// Names what was tried (`action`, a verb) and where.
    fn at(self, action: &'static str, path: &Path) -> Result<T, PathError>;
}

impl<T, E: Into<io::Error>> AtPath<T> for Result<T, E> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, PathError> {
        self.map_err(|error| PathError { action, path: path.to_owned(), source: error.into() })
    }
}

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
