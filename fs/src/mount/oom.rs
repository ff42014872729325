//! Who goes when memory runs out: the server, which is replaced, rather than the supervisor.

use std::fs;
use std::io;

const PATH: &str = "/proc/self/oom_score_adj";

/// As of other processes that hold a system together (udevd has -1000, which means "never").
const PROTECTED: &str = "-900";

/// This process as one of the last to be killed. Only root may have that; others stay as they
/// are.
#[derive(Debug)]
pub(super) struct Protection {
    /// What the process had before; none if nothing was changed.
    before: Option<String>,
}

impl Protection {
    /// Protects this process.
    pub(super) fn new() -> Self {
        let protect = || -> io::Result<String> {
            let before = fs::read_to_string(PATH)?;
            fs::write(PATH, PROTECTED)?;
            Ok(before)
        };
        let before = protect().inspect_err(|error| {
            tracing::debug!("the supervisor is killed like others when memory runs out: {error}");
        });
        Self { before: before.ok() }
    }

    /// Starts a child with what this process had before: children inherit.
    pub(super) fn lifted<T>(&self, start: impl FnOnce() -> T) -> T {
        let Some(before) = &self.before else { return start() };
        let set = |value: &str| {
            if let Err(error) = fs::write(PATH, value) {
                tracing::debug!("write {PATH}: {error}");
            }
        };
        set(before);
        let result = start();
        set(PROTECTED);
        result
    }
}
