//! What came of a measurement: figures that a script can read, and those that stand for all runs.

use kfs_fs::oci::Image;
use serde::{Deserialize, Serialize};

use super::seconds;
use super::side::{Clocked, Kind};
use super::tool::Tool;
use super::touched::{PathBytes, Touched};
use crate::machine::Machine;
use crate::proxy::Seen;

/// All of a measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The image as the user named it.
    pub image: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Its layers, bottom first.
    pub layers: Vec<Layer>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The net between tools and registry.
    pub net: String,
    /// Whether the page cache was dropped before cold and second starts.
    pub caches_dropped: bool,
    /// What it was measured on.
    pub machine: Machine,
    /// kfs, and the tools beside it.
    pub sides: Vec<Side>,
}

/// A layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// Digest of its blob.
    pub digest: String,
    /// What it is.
    pub media_type: String,
    /// Bytes of its blob.
    pub size: u64,
}

/// All runs of a tool.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// The tool.
    pub tool: Tool,
    /// What it says of its version.
    pub versions: Vec<String>,
    /// What its command runs in: `chroot` or `container`.
    pub runs_in: String,
    /// The runtime of its containers, if the tool's own choice does not work here.
    pub runtime: Option<String>,
    /// Why there are no more runs.
    pub error: Option<String>,
    /// As many as were wanted, unless there is an error.
    pub runs: Vec<Run>,
}

/// A run: three starts, each from what the one before left.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Cold, second, warm.
    pub starts: Vec<Start>,
    /// What the command read of the image in all of them; only kfs knows.
    pub touched: Option<Touched>,
}

/// From the first process to the command's exit.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// What there was.
    pub kind: Kind,
    /// How long it took.
    pub seconds: f64,
    /// Of all processes, the clearing away after the exit included.
    pub cpu_seconds: f64,
    /// Of the largest process up to then, in bytes.
    pub peak_memory: u64,
    /// Requests that came to the registry.
    pub requests: usize,
    /// Bytes of answers' bodies.
    pub bytes: u64,
    /// What the time consists of, in this order.
    pub phases: Vec<Phase>,
    /// The requests.
    pub log: Vec<Request>,
}

/// A part of a start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// When it began, in seconds since the start's beginning.
    pub began: f64,
    /// How long it took.
    pub seconds: f64,
    /// Requests that came in it; in the last phase those after it, too.
    pub requests: usize,
    /// Bytes of their answers' bodies, whenever they came.
    pub bytes: u64,
}

/// A request; times are seconds since the start's beginning.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What it is for, for people.
    pub what: String,
    /// Method and target.
    pub request: String,
    /// As the header has it.
    pub range: Option<String>,
    /// The answer's status; 0 if there was none.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// Number of the connection.
    pub connection: u64,
    /// When the connection was made, if it was made for this request.
    pub connected: Option<f64>,
    /// When the request came.
    pub asked: f64,
    /// When the answer began.
    pub answered: f64,
    /// When it was passed on to its end.
    pub ended: f64,
}

impl From<&kfs_fs::oci::Layer> for Layer {
    fn from(layer: &kfs_fs::oci::Layer) -> Self {
        let descriptor = &layer.descriptor;
        let (digest, media_type) = (descriptor.digest.to_string(), descriptor.media_type.clone());
        Self { digest, media_type, size: descriptor.size }
    }
}

impl Side {
    pub(super) fn new(tool: Tool, versions: Vec<String>) -> Self {
        let runs_in = tool.runs_in().to_owned();
        Self { tool, versions, runs_in, runtime: None, error: None, runs: Vec::new() }
    }

    /// The start of a kind whose time is the median; with the run that it belongs to. None if
    /// there are no runs.
    pub fn median(&self, kind: Kind) -> Option<(&Run, &Start)> {
        let of = |run: &'_ Run| run.starts.iter().position(|start| start.kind == kind);
        let mut all: Vec<(&Run, &Start)> =
            self.runs.iter().filter_map(|run| Some((run, &run.starts[of(run)?]))).collect();
        all.sort_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
        // Of an even number the slower one: a figure that was measured, and not too good.
        all.get(all.len() / 2).copied()
    }
}

impl Run {
    pub(super) fn new(
        clocked: &[Clocked],
        seen: &[Seen],
        touched: Option<Touched>,
        image: &Image,
    ) -> Self {
        let paths = touched.as_ref().map_or(&[][..], |touched| &touched.paths);
        let starts = clocked.iter().enumerate().map(|(number, start)| {
            let until = clocked.get(number + 1).map_or(u64::MAX, |next| next.began);
            let own = seen.iter().filter(|seen| (start.began..until).contains(&seen.asked));
            Start::new(start, &own.collect::<Vec<_>>(), image, paths)
        });
        Self { starts: starts.collect(), touched }
    }
}

impl Start {
    fn new(clocked: &Clocked, seen: &[&Seen], image: &Image, paths: &[PathBytes]) -> Self {
        let since = |at| seconds(clocked.began, at);
        let mut began = clocked.began;
        let last = clocked.phases.len().saturating_sub(1);
        let phases = clocked.phases.iter().enumerate().map(|(number, phase)| {
            let until = if number == last { u64::MAX } else { phase.at };
            let own: Vec<_> =
                seen.iter().filter(|seen| (began..until).contains(&seen.asked)).collect();
            let (from, ended) = (began, phase.at.max(began));
            began = ended;
            Phase {
                name: phase.name.clone(),
                began: since(from),
                seconds: seconds(from, ended),
                requests: own.len(),
                bytes: own.iter().map(|seen| seen.bytes).sum(),
            }
        });
        let phases: Vec<Phase> = phases.collect();
        let log = seen.iter().map(|seen| {
            let ended = seen.ended.unwrap_or(clocked.gone);
            Request {
                what: what(seen, image, paths),
                request: seen.request.clone(),
                range: seen.range.clone(),
                status: seen.status,
                bytes: seen.bytes,
                connection: seen.connection,
                connected: seen.connected.map(since),
                asked: since(seen.asked),
                answered: since(seen.answered.unwrap_or(ended)),
                ended: since(ended),
            }
        });
        Self {
            kind: clocked.kind,
            seconds: phases.iter().map(|phase| phase.seconds).sum(),
            cpu_seconds: clocked.cpu_seconds,
            peak_memory: clocked.peak_memory,
            requests: seen.len(),
            bytes: seen.iter().map(|seen| seen.bytes).sum(),
            phases,
            log: log.collect(),
        }
    }
}

/// What a request is for: manifest, config, or a layer and the files that were read there.
fn what(seen: &Seen, image: &Image, paths: &[PathBytes]) -> String {
    let Some((_, digest)) = seen.request.rsplit_once("/blobs/") else {
        return if seen.request.contains("/manifests/") { "manifest" } else { "other" }.to_owned();
    };
    if digest == image.manifest.config.digest.to_string() {
        return "config".to_owned();
    }
    let is_it = |layer: &kfs_fs::oci::Layer| layer.descriptor.digest.to_string() == digest;
    let Some(number) = image.layers.iter().position(is_it) else {
        return "another blob".to_owned();
    };
    let layer = format!("layer {}", number + 1);
    let Some((start, end)) = seen.range.as_deref().and_then(bounds) else { return layer };
    let read_there = paths.iter().filter(|path| {
        let there = |(of, range): &(usize, std::ops::Range<u64>)| {
            *of == number && range.start < end && range.end > start
        };
        path.ranges.iter().any(there)
    });
    let names: Vec<&str> = read_there.map(|path| path.path.as_str()).collect();
    match names[..] {
        [] => layer,
        [name] => format!("{layer}: {name}"),
        [name, ref others @ ..] => format!("{layer}: {name} and {} more", others.len()),
    }
}

/// Start and end of a range that has both.
fn bounds(range: &str) -> Option<(u64, u64)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?))
}
