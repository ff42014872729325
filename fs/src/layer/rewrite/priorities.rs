//! Which files of an image are to be fetched first, as somebody saw them used.

use std::collections::HashSet;

use serde::Deserialize;

use crate::layer::tar;

/// More paths are refused: a run that touches so many gains nothing from their order.
const MAX_PATHS: usize = 1 << 20;

/// Paths in the order in which they are wanted, each once, relative to the root.
#[derive(Clone, Debug, Default)]
pub struct Priorities {
    paths: Vec<Vec<u8>>,
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PrioritiesError {
    /// A path makes no sense.
    #[error("line {line}: {what}")]
    Path {
        /// Counted from 1; in JSON the number of the entry.
        line: usize,
        /// The problem.
        what: tar::Problem,
    },
    /// What starts like JSON is none.
    #[error("neither a list of paths nor a trace in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// There is no end to it.
    #[error("more than {MAX_PATHS} paths")]
    TooMany,
}

#[derive(Deserialize)]
struct Trace {
    entries: Vec<Touched>,
}

#[derive(Deserialize)]
struct Touched {
    path: String,
}

impl Priorities {
    /// Reads a list: a path a line, or a trace in JSON, `{"entries":[{"path":...}]}`.
    pub fn parse(text: &[u8]) -> Result<Self, PrioritiesError> {
        if text.trim_ascii_start().starts_with(b"{") {
            let trace: Trace = serde_json::from_slice(text)?;
            return Self::of(trace.entries.iter().map(|entry| entry.path.as_bytes()));
        }
        Self::of(text.split(|byte| *byte == b'\n'))
    }

    fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, PrioritiesError> {
        let mut seen = HashSet::new();
        let mut paths = Vec::new();
        for (number, line) in (1..).zip(lines) {
            let path = tar::clean_path(line)
                .map_err(|what| PrioritiesError::Path { line: number, what })?;
            if !path.is_empty() && seen.insert(path.clone()) {
                paths.push(path);
            }
            if paths.len() > MAX_PATHS {
                return Err(PrioritiesError::TooMany);
            }
        }
        Ok(Self { paths })
    }

    /// Whether nothing is wanted first.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The paths.
    pub fn paths(&self) -> &[Vec<u8>] {
        &self.paths
    }

    /// Leaves out the paths that a layer has; those below it cannot show theirs.
    pub(crate) fn without(&self, found: &HashSet<Vec<u8>>) -> Self {
        let paths = self.paths.iter().filter(|path| !found.contains(*path));
        Self { paths: paths.cloned().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_traces() {
        let expected = [b"bin/sh".to_vec(), b"etc/x y".to_vec()];
        let list = Priorities::parse(b"/bin/sh\n\netc/./x y\nbin//sh\n").unwrap();
        assert_eq!(list.paths(), expected);
        let json = br#" {"version":1,"entries":[{"path":"/bin/sh","at":1},{"path":"etc/x y"}]}"#;
        assert_eq!(Priorities::parse(json).unwrap().paths(), expected);
        assert!(Priorities::parse(b"\n").unwrap().is_empty());
        let bad = Priorities::parse(b"a\n../b").unwrap_err().to_string();
        assert!(bad.starts_with("line 2: "), "{bad}");
        assert!(Priorities::parse(b"{").is_err());
    }
}
