//! What can go wrong with a new layer, and what can only be told.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::digest::Mismatch;
use crate::layer::tar::Problem;
use crate::printable;

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The compressor has no such level.
    #[error("{compressor} has no compression level {level}, only {min} to {max}")]
    Level {
        /// `zstd` or `gzip`.
        compressor: &'static str,
        /// What was asked for.
        level: i64,
        /// Lowest level.
        min: i32,
        /// Highest level.
        max: i32,
    },
    /// The entry has no form in a tar stream.
    #[error("{} cannot be put into a layer: {what}", of(path))]
    Entry {
        /// [`Entry::path`](crate::layer::Entry::path).
        path: Vec<u8>,
        /// Why.
        what: Problem,
    },
    /// A file's content cannot be read.
    #[error("read {}: {source}", of(path))]
    Content {
        /// [`Entry::path`](crate::layer::Entry::path).
        path: Vec<u8>,
        /// What the system said.
        source: io::Error,
    },
    /// A file's content ends before its size.
    #[error("{} changed while it was read: it ends after {found} of {size} bytes", of(path))]
    Short {
        /// [`Entry::path`](crate::layer::Entry::path).
        path: Vec<u8>,
        /// [`Entry::size`](crate::layer::Entry::size).
        size: u64,
        /// Bytes that were there.
        found: u64,
    },
    /// The blob cannot be written.
    #[error("write layer in {}: {source}", dir.display())]
    Blob {
        /// Where its temporary file lies.
        dir: PathBuf,
        /// What the system or the compressor said.
        source: io::Error,
    },
    /// The index cannot be written.
    #[error("write index of new layer in {}: {source}", dir.display())]
    Index {
        /// Where indexes lie.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier error left the stream unfinished.
    #[error("the layer was given up after an earlier error")]
    GivenUp,
}

impl WriteError {
    /// What differs, if the content of a file is not what its digest names.
    pub fn damage(&self) -> Option<&Mismatch> {
        let Self::Content { source, .. } = self else { return None };
        source.get_ref()?.downcast_ref()
    }
}

/// Why a layer of a format with a table of contents has none: the table could not tell all of
/// it. Such a layer is a plain one of the same compression, which every tool reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plain {
    /// A name, link target or name of an xattr that is not UTF-8, in the entry with this path:
    /// the table is JSON. (The original writers put another name there.)
    Name(Vec<u8>),
    /// Two entries with this path: readers refuse such a table.
    Duplicate(Vec<u8>),
    /// The entry with this path has a time before the year 0 or after 9999.
    Time(Vec<u8>),
    /// The entry with this path has headers that the original readers do not know.
    Odd(Vec<u8>),
    /// The sparse file with this path has holes that would take too long to write.
    Sparse(Vec<u8>),
    /// So many entries that the original readers refuse the table.
    TooLarge,
}

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, what) = match self {
            Self::Name(path) => (path, "has a name that is not UTF-8"),
            Self::Duplicate(path) => (path, "is there twice"),
            Self::Time(path) => (path, "has a time beyond the year 9999"),
            Self::Odd(path) => (path, "has tar headers that its readers do not know"),
            Self::Sparse(path) => (path, "is a sparse file with too large holes"),
            Self::TooLarge => {
                return f.write_str("its table of contents would be too large for its readers");
            }
        };
        write!(f, "no table of contents can be made: {} {what}", of(path))
    }
}

/// What failed behind a stream.
#[derive(Debug)]
pub(super) enum Failure {
    Blob(io::Error),
    Index(io::Error),
}

fn of(path: &[u8]) -> String {
    format!("/{}", printable::name(path))
}
