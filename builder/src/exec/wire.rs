//! What the build and its sandbox processes tell each other: one job down, one reply up, as JSON
//! over a socket that is the sandbox's standard input.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Isolation, User, World};

/// The hidden first argument that turns the program into a sandbox process.
pub const SANDBOX_ARGUMENT: &str = "__run";
/// The argument after it in the process that becomes pid 1 of the sandbox.
pub(super) const INIT_ARGUMENT: &str = "init";

/// Everything the sandbox has to know; all is decided before it starts.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// Absolute, without links.
    pub(super) rootfs: OsString,
    /// `Auto` is resolved before.
    pub(super) isolation: Isolation,
    /// Never empty.
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    /// Inside the rootfs.
    pub(super) cwd: OsString,
    pub(super) user: User,
    pub(super) hostname: String,
    pub(super) world: World,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The command exited with this status.
    Exited(i32),
    /// The command was ended by this signal.
    Signaled(i32),
    /// Pid 1 of the sandbox was killed by this signal, and everything in it with it.
    Killed(i32),
    /// The command did not start.
    Failed(Failure),
}

/// What a sandbox process could not do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) stage: Stage,
    /// A verb.
    pub(super) action: String,
    pub(super) path: OsString,
    pub(super) errno: i32,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// The sandbox could not be set up.
    Setup,
    /// The working directory of the step is missing or no directory.
    WorkingDirectory,
    /// The program of the step cannot be executed.
    Program,
}

impl Failure {
    pub(super) fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }

    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }
}

/// Names what was tried and where.
pub(super) trait OrFail<T> {
    fn or_fail(self, action: &str, path: impl AsRef<Path>) -> Result<T, Failure>;
}

impl<T> OrFail<T> for Result<T, Errno> {
    fn or_fail(self, action: &str, path: impl AsRef<Path>) -> Result<T, Failure> {
        self.map_err(|errno| failure(action, path.as_ref(), errno as i32))
    }
}

impl<T> OrFail<T> for io::Result<T> {
    fn or_fail(self, action: &str, path: impl AsRef<Path>) -> Result<T, Failure> {
        // An IO error without a number is bad data: a job cut short.
        self.map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(Errno::EBADMSG as i32);
            failure(action, path.as_ref(), errno)
        })
    }
}

fn failure(action: &str, path: &Path, errno: i32) -> Failure {
    Failure { stage: Stage::Setup, action: action.to_owned(), path: path.into(), errno }
}
