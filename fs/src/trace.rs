//! Traces: what a run read first, and in which order.
//!
//! A trace belongs to a manifest, and lies as `STORE/traces/<manifest>.json`. It names files and
//! not spans, so that it can be carried to another machine, or to the same image in another
//! format. It is a hint and no more: whatever it says, only bytes that are verified get anywhere.

use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{AtPath, PathError};
use crate::unnamed::UnnamedFile;

/// The version of the form.
const VERSION: u32 = 1;

/// Entries of a trace. A start of a large program touches some thousands.
pub const MOST_ENTRIES: usize = 65_536;

/// Bytes of a trace's file: room for that many long paths.
const LARGEST: u64 = 32 << 20;

/// What a run read first, in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    version: u32,
    /// Digest of the image's manifest.
    pub manifest: Digest,
    /// The first reads.
    pub entries: Vec<TraceEntry>,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEntry {
    /// From the root, starting with a slash.
    pub path: String,
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub size: u64,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read or written.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It is not a trace.
    #[error("{what} is no trace: {source}")]
    Json {
        /// Where it comes from.
        what: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// It is in a form that is not known.
    #[error("{what} is a trace of version {version}, which is not known")]
    Version {
        /// Where it comes from.
        what: String,
        /// What it says.
        version: u32,
    },
    /// It has too much.
    #[error("{what} is longer than a trace may be: {MOST_ENTRIES} entries in {LARGEST} bytes")]
    TooLong {
        /// Where it comes from.
        what: String,
    },
}

impl Trace {
    /// A trace of the image with this manifest.
    pub fn new(manifest: Digest, entries: Vec<TraceEntry>) -> Self {
        Self { version: VERSION, manifest, entries }
    }

    /// Reads a trace; `what` names it in messages.
    pub fn read(from: impl Read, what: &str) -> Result<Self, TraceError> {
        let what = what.to_owned();
        let mut json = Vec::new();
        let read = from.take(LARGEST + 1).read_to_end(&mut json);
        read.at("read", Path::new(&what))?;
        if json.len() as u64 > LARGEST {
            return Err(TraceError::TooLong { what });
        }
        let trace: Self = match serde_json::from_slice(&json) {
            Ok(trace) => trace,
            Err(source) => return Err(TraceError::Json { what, source }),
        };
        match trace.version {
            VERSION if trace.entries.len() <= MOST_ENTRIES => Ok(trace),
            VERSION => Err(TraceError::TooLong { what }),
            version => Err(TraceError::Version { what, version }),
        }
    }

    /// How much of files it names, in bytes.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.size).fold(0, u64::saturating_add)
    }
}

/// The traces of a store.
#[derive(Clone, Debug)]
pub struct Traces {
    dir: PathBuf,
}

impl Traces {
    /// The traces in `dir`, which need not be there.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The trace of an image, if there is one.
    pub fn load(&self, manifest: Digest) -> Result<Option<Trace>, TraceError> {
        let path = self.path(manifest);
        match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => Trace::read(file.at("open", &path)?, &path.display().to_string()).map(Some),
        }
    }

    /// Keeps a trace in the place of the one that the image had.
    pub fn save(&self, trace: &Trace) -> Result<(), TraceError> {
        fs::create_dir_all(&self.dir).at("create", &self.dir)?;
        let path = self.path(trace.manifest);
        let json = serde_json::to_vec(trace).expect("plain data");
        let new = UnnamedFile::new_in(&self.dir).at("create", &path)?;
        new.file().write_all(&json).at("write", &path)?;
        new.file().sync_all().at("write", &path)?;
        new.persist(&path).at("write", &path)?;
        Ok(())
    }

    /// Removes the trace of an image, if there is one.
    pub fn remove(&self, manifest: Digest) -> Result<(), PathError> {
        let path = self.path(manifest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.at("remove", &path),
        }
    }

    fn path(&self, manifest: Digest) -> PathBuf {
        self.dir.join(format!("{}.json", manifest.hex()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace() -> Trace {
        let entry = |path: &str, offset| TraceEntry { path: path.to_owned(), offset, size: 9 };
        Trace::new(Digest::of(b"m"), vec![entry("/usr/bin/x", 0), entry("/ä", 1 << 40)])
    }

    #[test]
    fn what_is_saved_is_loaded_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let traces = Traces::new(&dir.path().join("traces"));
        assert_eq!(traces.load(trace().manifest).unwrap(), None);
        traces.save(&trace()).unwrap();
        assert_eq!(traces.load(trace().manifest).unwrap(), Some(trace()));
        assert_eq!(traces.load(Digest::of(b"n")).unwrap(), None);
        traces.remove(trace().manifest).unwrap();
        traces.remove(trace().manifest).unwrap();
        assert_eq!(traces.load(trace().manifest).unwrap(), None);
    }

    #[test]
    fn what_is_no_trace_is_refused() {
        let read = |text: &str| Trace::read(text.as_bytes(), "it").unwrap_err().to_string();
        let manifest = Digest::of(b"m");
        assert!(read("{}").starts_with("it is no trace"));
        let text = format!(r#"{{"version":2,"manifest":"{manifest}","entries":[]}}"#);
        assert!(read(&text).contains("version 2"));
        let entry = r#"{"path":"/x","offset":0,"size":-1}"#;
        let text = format!(r#"{{"version":1,"manifest":"{manifest}","entries":[{entry}]}}"#);
        assert!(read(&text).starts_with("it is no trace"));
        let entries = vec![r#"{"path":"/x","offset":0,"size":1}"#; MOST_ENTRIES + 1].join(",");
        let text = format!(r#"{{"version":1,"manifest":"{manifest}","entries":[{entries}]}}"#);
        assert!(read(&text).contains("longer"));
    }
}
