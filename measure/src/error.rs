//! What ends a measurement.

use std::io;

use kfs_fs::error::PathError;
use kfs_fs::filesystem::{OpenError, ReadError};
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::trace::TraceError;

/// Why something cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The system refuses something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// A command that is measured failed.
    #[error("{command}: {how}")]
    Command {
        /// Its first words.
        command: String,
        /// Its status and its last lines.
        how: String,
    },
    /// A tool to compare with is not there.
    #[error("{0} is not installed")]
    Missing(&'static str),
    /// The image lacks the program.
    #[error("the image has no program {0}")]
    NoProgram(String),
    /// The process that measures one side failed.
    #[error("{0}")]
    Side(String),
    /// A build that is measured failed.
    #[error("{said}")]
    Build {
        /// The code with which it ended; none if a signal has ended it.
        code: Option<i32>,
        /// What it said last.
        said: String,
    },
    /// The user wants it to end, by this signal.
    #[error("interrupted")]
    Interrupted(i32),
    /// The image's description cannot be read.
    #[error(transparent)]
    Image(#[from] LayoutError),
    /// The image cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The image cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was read of it is not known.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

impl MeasureError {
    /// What the system refuses.
    pub(crate) fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }
}
