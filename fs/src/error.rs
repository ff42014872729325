//! IO errors that name their path.

use std::io;
use std::path::{Path, PathBuf};

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
