//! The one place where a failure becomes words and an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the operation failed |
//! | 2 | wrong usage |
//! | 3 | an image, path or mount that was named does not exist |
//! | 4 | a mount point is busy or not empty |
//! | 5 | content does not match its digest, or its format is broken |

use std::error::Error;
use std::fmt::Write as _;
use std::process::ExitCode;

/// How a command failed: exit code, message, and what the user can do.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

/// Exit code: something named does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// Exit code: a mount point is in use.
pub(crate) const BUSY: u8 = 4;
/// Exit code: content is not what its digest or format says.
pub(crate) const CORRUPT: u8 = 5;

impl Failure {
    /// A plain failure.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), hint: None }
    }

    /// A failure with the whole chain of an error's causes in its message.
    pub(crate) fn from_error(error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Errors that print their source already would say it twice.
            if !message.contains(&text) {
                write!(message, ": {text}").expect("writing to a string does not fail");
            }
            source = cause.source();
        }
        Self::new(message)
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Prints the failure to stderr.
    pub(crate) fn print(&self) -> ExitCode {
        eprintln!("kfs: {}", self.message);
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}
