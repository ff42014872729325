//! `kfs bench cold-start`: from an empty store to a command's exit, and again from what that left.
//!
//! ```text
//! this process:  origin <- proxy (shape, record) <-+
//!                                                  | http
//! one process a side and run:   tool, its processes
//! ```
//!
//! The sides take turns, so that whatever else the machine does meets all of them. Requests and
//! phases have the same clock; a request belongs to the phase in which it came.

mod report;
mod side;
mod tool;
mod touched;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use kfs_fs::oci::Image;
use nix::unistd::geteuid;

pub use report::{Layer, Phase, Report, Request, Run, Side, Start};
pub use side::{ARGUMENT, Kind, main};
pub use tool::{Tool, ToolError};
pub use touched::{PathBytes, Touched};

use crate::machine::Machine;
use crate::proxy::{Proxy, Shape};
use crate::scratch::Scratch;
use crate::{MeasureError, clock};
use side::{Clocked, Spec};

/// PATH of a command whose image says nothing of it (as containers/common has it).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The runtime that asks least of a machine.
const RUNC: &str = "runc";

/// How often it is looked whether the user wants an end.
const GLANCE: Duration = Duration::from_millis(20);

/// What to measure.
#[derive(Debug)]
pub struct Options<'a> {
    /// This program, which is started for each side.
    pub program: PathBuf,
    /// The version that it says it has.
    pub version: String,
    /// The image as the user named it.
    pub name: String,
    /// What the image is.
    pub image: &'a Image,
    /// The registry that has it.
    pub origin: SocketAddr,
    /// Its name there: `REPOSITORY:TAG` or `REPOSITORY@DIGEST`.
    pub repository: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The tools to compare with.
    pub against: Vec<Tool>,
    /// The net between them and the registry.
    pub net: Shape,
    /// How often all is measured.
    pub runs: usize,
}

/// What happens, for the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The run, counted from 1.
    pub run: usize,
    /// The side that begins.
    pub tool: Tool,
}

/// Measures in `scratch`. Before each side `tell` is told; `check` fails when the user wants it to
/// end. A tool that fails is left out of further runs, and its side says why; if kfs fails that is
/// the end.
pub fn measure(
    options: &Options<'_>,
    scratch: &Scratch,
    tell: &mut dyn FnMut(Step),
    check: &dyn Fn() -> Result<(), MeasureError>,
) -> Result<Report, MeasureError> {
    let proxy = Proxy::start("127.0.0.1:0", options.origin, options.net)
        .map_err(|error| MeasureError::system("start a proxy", error))?;
    let mut sides = vec![Side::new(Tool::Kfs, vec![options.version.clone()])];
    for tool in &options.against {
        sides.push(Side::new(*tool, tool.versions()?));
    }
    let short = Scratch::short()?;
    let bench = Bench { options, proxy: &proxy, scratch, short: &short, check };
    for run in 1..=options.runs {
        for side in sides.iter_mut().filter(|side| side.error.is_none()) {
            tell(Step { run, tool: side.tool });
            match bench.run_of(side) {
                Ok(run) => side.runs.push(run),
                Err(error @ MeasureError::Interrupted(_)) => return Err(error),
                Err(error) if side.tool == Tool::Kfs => return Err(error),
                Err(error) => side.error = Some(error.to_string()),
            }
        }
    }
    Ok(Report {
        image: options.name.clone(),
        digest: options.image.digest.to_string(),
        layers: options.image.layers.iter().map(Layer::from).collect(),
        command: options.command.clone(),
        net: options.net.to_string(),
        caches_dropped: geteuid().is_root(),
        machine: Machine::this(),
        sides,
    })
}

/// What all runs have in common.
struct Bench<'a> {
    options: &'a Options<'a>,
    proxy: &'a Proxy,
    scratch: &'a Scratch,
    short: &'a Scratch,
    check: &'a dyn Fn() -> Result<(), MeasureError>,
}

impl Bench<'_> {
    /// A run of a side. If podman's first one fails, it is done again with runc: its own runtime
    /// may want more than this machine allows.
    fn run_of(&self, side: &mut Side) -> Result<Run, MeasureError> {
        match self.measured(side) {
            Err(MeasureError::Side(error))
                if side.tool == Tool::Podman
                    && side.runs.is_empty()
                    && side.runtime.is_none()
                    && tool::in_path(RUNC) =>
            {
                side.runtime = Some(RUNC.to_owned());
                // What failed for another reason does so again, and that is told.
                self.measured(side).map_err(|_| MeasureError::Side(error))
            }
            measured => measured,
        }
    }

    fn measured(&self, side: &Side) -> Result<Run, MeasureError> {
        let (dir, short) = (self.scratch.directory("side")?, self.short.directory("side")?);
        let measured = self.measure_in(side, &dir, &short);
        self.scratch.remove(&dir)?;
        self.short.remove(&short)?;
        measured
    }

    fn measure_in(&self, side: &Side, dir: &Path, short: &Path) -> Result<Run, MeasureError> {
        let Options { program, image, repository, command, .. } = self.options;
        let config = &image.config.config;
        let directory = match config.working_dir.as_str() {
            "" => "/".to_owned(),
            directory => directory.to_owned(),
        };
        let spec = Spec {
            tool: side.tool,
            program: program.clone(),
            dir: dir.to_owned(),
            short: short.to_owned(),
            runtime: side.runtime.clone(),
            image: format!("{}/{repository}", self.proxy.address()),
            command: command.clone(),
            env: environment(&config.env),
            directory,
            drop_caches: geteuid().is_root(),
        };
        self.proxy.clear();
        let clocked = run_side(&spec, self.check)?;
        let seen = self.proxy.seen("");
        let touched = match side.tool {
            Tool::Kfs => touched::of(&dir.join("store"), image)?,
            Tool::Podman | Tool::Buildah | Tool::SkopeoUmoci => None,
        };
        Ok(Run::new(&clocked, &seen, touched, image))
    }
}

/// The variables of an image, with those that every command has.
fn environment(image: &[String]) -> Vec<(String, String)> {
    let pairs = image.iter().filter_map(|pair| pair.split_once('='));
    let mut env: Vec<(String, String)> =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for (name, value) in [("PATH", PATH), ("HOME", "/root")] {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    env
}

/// Has a side measured by a process of its own.
fn run_side(
    spec: &Spec,
    check: &dyn Fn() -> Result<(), MeasureError>,
) -> Result<Vec<Clocked>, MeasureError> {
    let failed = |error| MeasureError::system("start a measurement", error);
    let text = serde_json::to_string(spec).expect("data with names as keys");
    let mut command = Command::new(&spec.program);
    command.args([ARGUMENT, &text]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut stdout = child.stdout.take().expect("it was asked for");
    let reader = thread::spawn(move || {
        let mut answer = Vec::new();
        stdout.read_to_end(&mut answer).map(|_| answer)
    });
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if let Err(error) = check() {
            // What it has started goes with the scratch directory.
            child.kill().map_err(failed)?;
            child.wait().map_err(failed)?;
            return Err(error);
        }
        thread::sleep(GLANCE);
    };
    // It may have been ended by the signal that ends this process, too.
    check()?;
    let answer = reader.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
    let answer: Result<Vec<Clocked>, String> = serde_json::from_slice(&answer.map_err(failed)?)
        .map_err(|_| MeasureError::Side(format!("its measurement ended with {status}")))?;
    answer.map_err(MeasureError::Side)
}

/// Seconds from one time to another.
fn seconds(from: clock::Micros, to: clock::Micros) -> f64 {
    Duration::from_micros(to.saturating_sub(from)).as_secs_f64()
}
