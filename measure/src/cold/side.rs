//! One side of one run, in a process of its own: what that process and all below it take is what
//! the side took.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use serde::{Deserialize, Serialize};

use super::tool::Tool;
use crate::clock::{self, Micros};
use crate::{MeasureError, machine, process};

/// The first argument of such a process; the second is a `Spec`.
pub const ARGUMENT: &str = "__bench-side";

/// How long what a tool leaves in the background may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) tool: Tool,
    /// This program.
    pub(super) program: PathBuf,
    /// An empty directory.
    pub(super) dir: PathBuf,
    /// Another empty directory, with a short path: podman wants one of at most 50 characters.
    pub(super) short: PathBuf,
    /// The runtime of containers; none for the tool's own choice.
    pub(super) runtime: Option<String>,
    /// The image as a name in a registry of this machine.
    pub(super) image: String,
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    /// Where the command starts.
    pub(super) directory: String,
    /// Whether to drop the page cache where a start wants that.
    pub(super) drop_caches: bool,
}

/// What a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Nothing.
    Cold,
    /// What the cold one left on disk, and nothing in memory.
    Second,
    /// The same, some of it in memory.
    Warm,
}

impl Kind {
    /// In this order they are measured.
    pub const ALL: [Self; 3] = [Self::Cold, Self::Second, Self::Warm];
}

/// The end of a phase.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) at: Micros,
}

impl Ended {
    pub(super) fn new(name: &str, at: Micros) -> Self {
        Self { name: name.to_owned(), at }
    }

    pub(super) fn now(name: &str) -> Self {
        Self::new(name, clock::now())
    }
}

/// A start, as the clock saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Clocked {
    pub(super) kind: Kind,
    pub(super) began: Micros,
    /// One after the other; the last ends with the command.
    pub(super) phases: Vec<Ended>,
    /// When nothing of it was left but what is on disk.
    pub(super) gone: Micros,
    pub(super) cpu_seconds: f64,
    /// Of the largest process up to then, in bytes.
    pub(super) peak_memory: u64,
}

/// Such a process: measures, and prints what came of it.
#[allow(clippy::print_stdout)] // That is how it answers.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let spec: Option<Spec> = args.last().and_then(|text| serde_json::from_str(text.to_str()?).ok());
    let answer = match spec.map(|spec| measure(&spec)) {
        Some(Ok(starts)) => Ok(starts),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("no measurement is given".to_owned()),
    };
    println!("{}", serde_json::to_string(&answer).expect("data with names as keys"));
    ExitCode::from(u8::from(answer.is_err()))
}

fn measure(spec: &Spec) -> Result<Vec<Clocked>, MeasureError> {
    set_child_subreaper(true).map_err(|error| MeasureError::system("reap processes", error))?;
    Kind::ALL.into_iter().map(|kind| start(spec, kind)).collect()
}

fn start(spec: &Spec, kind: Kind) -> Result<Clocked, MeasureError> {
    if spec.drop_caches && kind != Kind::Warm {
        machine::drop_caches()?;
    }
    let before = process::usage()?;
    let began = clock::now();
    let phases = spec.tool.start(spec, kind)?;
    spec.tool.stop(spec)?;
    if !process::reap(PATIENCE) {
        let name = spec.tool.name();
        return Err(MeasureError::Side(format!("{name} leaves processes that do not end")));
    }
    let after = process::usage()?;
    Ok(Clocked {
        kind,
        began,
        phases,
        gone: clock::now(),
        cpu_seconds: after.cpu_seconds - before.cpu_seconds,
        peak_memory: after.peak_memory,
    })
}
