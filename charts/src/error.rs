//! What can go wrong with a chart.

use std::path::PathBuf;

use crate::template::{Fault, Place};

/// Why a chart could not be loaded or rendered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// Why it could not be.
        source: std::io::Error,
    },
    /// A symbolic link leads to where the chart must not reach.
    #[error("{}: the link leads out of {}", path.display(), root.display())]
    LinkOut {
        /// The link.
        path: PathBuf,
        /// What it must stay within.
        root: PathBuf,
    },
    /// Neither a file, a directory, nor a link to one of these.
    #[error("{}: not a regular file", path.display())]
    Irregular {
        /// What it is called.
        path: PathBuf,
    },
    /// An archive holds what cannot be part of a chart.
    #[error("{archive}: {message}")]
    Archive {
        /// The archive.
        archive: String,
        /// What is wrong with it.
        message: String,
    },
    /// A file, or all together, is bigger than Helm takes.
    #[error("{name}: larger than {limit} bytes")]
    TooBig {
        /// The file, or the chart.
        name: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A file of the chart does not say what it must.
    #[error("{file}: {message}")]
    Invalid {
        /// The file, below the chart's parent.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// The chart says that it needs others that are not in its `charts/`.
    #[error("{chart}: found in Chart.yaml, but missing in charts/: {}", missing.join(", "))]
    MissingDependencies {
        /// The chart.
        chart: String,
        /// Their names.
        missing: Vec<String>,
    },
    /// The chart is a library: it has nothing to render.
    #[error("{chart}: library charts cannot be rendered")]
    Library {
        /// The chart.
        chart: String,
    },
    /// The chart is not for this version of Kubernetes.
    #[error("{chart} requires kubeVersion {constraint}, which {version} is not")]
    KubeVersion {
        /// The chart.
        chart: String,
        /// What it says.
        constraint: String,
        /// What was asked for.
        version: String,
    },
    /// An option has no sense.
    #[error("{option}: {message}")]
    Option {
        /// Which.
        option: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// Values that the charts' schemas do not allow.
    #[error("values don't meet the schema of {chart}:\n{}", faults.join("\n"))]
    Schema {
        /// The chart, with the charts that it is part of.
        chart: String,
        /// Where in the values, and what is wrong there.
        faults: Vec<String>,
    },
    /// A template could not be read or run.
    #[error("{file}:{line}: {message}{}", calls(called_from))]
    Template {
        /// The template's file, as in `# Source`.
        file: String,
        /// From 1.
        line: u32,
        /// What is wrong there.
        message: String,
        /// From where it was called, innermost first: file and line.
        called_from: Vec<(String, u32)>,
    },
    /// A rendered document is no YAML.
    #[error("{file}: rendered YAML: {message}")]
    Document {
        /// The template's file.
        file: String,
        /// What is wrong with what it gave.
        message: String,
    },
    /// The thread that renders died.
    #[error("rendering stopped unexpectedly")]
    Thread,
}

fn calls(called_from: &[(String, u32)]) -> String {
    called_from.iter().map(|(file, line)| format!("\n  called from {file}:{line}")).collect()
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        let mut places =
            fault.places.into_iter().map(|Place { file, line }| (file.to_string(), line));
        let (file, line) = places.next().unwrap_or_default();
        Error::Template { file, line, message: fault.message, called_from: places.collect() }
    }
}
