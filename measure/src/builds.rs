//! `kfs bench build`: what the steps of a build take, as the build itself tells it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::MeasureError;
use crate::files::median;
use crate::machine::Machine;
use crate::process;

/// How often it is looked whether the user wants an end.
const GLANCE: Duration = Duration::from_millis(50);

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// How often it was built.
    pub runs: usize,
    /// Of all stages, in the order of the file.
    pub steps: Vec<Step>,
}

/// A step; its times are medians, in seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Name of the stage; empty if there is one only.
    pub stage: String,
    /// From 1.
    pub index: u64,
    /// The instruction.
    pub text: String,
    /// All of it.
    pub seconds: f64,
    /// Bytes of its layer, if it has one.
    pub size: Option<u64>,
    /// What the layer took, if it has one.
    pub layer: Option<LayerTimes>,
}

/// What a layer took. Digests, compression and writing are the work of several threads at a time,
/// so that together they may be more than what passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerTimes {
    /// The command of a RUN.
    pub run: f64,
    /// Finding what it changed.
    pub diff: f64,
    /// Digests.
    pub hash: f64,
    /// Compression.
    pub compress: f64,
    /// Writing the blob.
    pub write: f64,
}

/// A line of `kfs build --progress=json`, as far as it is of use here.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line {
    Step {
        #[serde(default)]
        stage: String,
        index: u64,
        text: String,
    },
    Written {
        #[serde(default)]
        stage: String,
        index: u64,
        #[serde(flatten)]
        times: LayerTimes,
    },
    Done {
        #[serde(default)]
        stage: String,
        seconds: f64,
        size: Option<u64>,
    },
    Committed {
        #[serde(default)]
        stage: String,
        index: u64,
        size: u64,
    },
    #[serde(other)]
    Other,
}

/// Builds so many times with a command that tells what happens as JSON to its standard error.
/// `tell` is told the number of each run; `check` fails when the user wants an end.
pub fn measure(
    command: &mut Command,
    runs: usize,
    tell: &mut dyn FnMut(usize),
    check: &dyn Fn() -> Result<(), MeasureError>,
) -> Result<Report, MeasureError> {
    let mut all = Vec::new();
    for run in 1..=runs {
        tell(run);
        all.push(steps_of(&build(command, check)?));
    }
    Ok(Report { machine: Machine::this(), runs, steps: medians(&all) })
}

/// What a build says.
fn build(
    command: &mut Command,
    check: &dyn Fn() -> Result<(), MeasureError>,
) -> Result<Vec<String>, MeasureError> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| process::failed(command, error.to_string()))?;
    let stderr = BufReader::new(child.stderr.take().expect("it was asked for"));
    let (say, said) = mpsc::channel();
    thread::spawn(move || {
        // Output of RUN is JSON, too, but what ends the build need not be text.
        for line in stderr.split(b'\n').map_while(Result::ok) {
            if say.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut lines = Vec::new();
    loop {
        match said.recv_timeout(GLANCE) {
            Ok(line) => lines.push(line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Err(error) = check() {
            // It tidies up by itself.
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
            kill(pid, Signal::SIGTERM).ok();
            child.wait().ok();
            return Err(error);
        }
    }
    let status = child.wait().map_err(|error| process::failed(command, error.to_string()))?;
    if !status.success() {
        let said = lines.iter().filter(|line| !line.starts_with("{\"event\""));
        let said: Vec<&str> = said.map(|line| line.strip_prefix("kfs: ").unwrap_or(line)).collect();
        return Err(MeasureError::Build { code: status.code(), said: said.join("\n") });
    }
    Ok(lines)
}

/// Stage and number: what is one step in all runs.
type Key = (String, u64);

fn steps_of(lines: &[String]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // Stages that are built at the same time tell their steps between each other's.
    let mut open: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        match serde_json::from_str(line) {
            Ok(Line::Step { stage, index, text }) => {
                open.insert(stage.clone(), steps.len());
                steps.push(Step { stage, index, text, ..Step::default() });
            }
            // A layer may be written while the next step goes on.
            Ok(Line::Written { stage, index, times }) => {
                if let Some(step) = find(&mut steps, &stage, index) {
                    step.layer = Some(times);
                }
            }
            Ok(Line::Committed { stage, index, size }) => {
                if let Some(step) = find(&mut steps, &stage, index) {
                    step.size = Some(size);
                }
            }
            Ok(Line::Done { stage, seconds, size }) => {
                if let Some(number) = open.get(&stage) {
                    (steps[*number].seconds, steps[*number].size) = (seconds, size);
                }
            }
            Ok(Line::Other) | Err(_) => {}
        }
    }
    steps
}

fn find<'s>(steps: &'s mut [Step], stage: &str, index: u64) -> Option<&'s mut Step> {
    steps.iter_mut().find(|step| step.stage == stage && step.index == index)
}

fn medians(runs: &[Vec<Step>]) -> Vec<Step> {
    let key = |step: &Step| -> Key { (step.stage.clone(), step.index) };
    let mut of: BTreeMap<Key, Vec<&Step>> = BTreeMap::new();
    runs.iter().flatten().for_each(|step| of.entry(key(step)).or_default().push(step));
    let Some(first) = runs.first() else { return Vec::new() };
    let steps = first.iter().map(|step| {
        let same = &of[&key(step)];
        let time = |get: &dyn Fn(&Step) -> f64| {
            median(&same.iter().map(|step| get(step)).collect::<Vec<_>>())
        };
        let part =
            |get: fn(&LayerTimes) -> f64| time(&|step: &Step| step.layer.as_ref().map_or(0.0, get));
        let layer = step.layer.map(|_| LayerTimes {
            run: part(|times| times.run),
            diff: part(|times| times.diff),
            hash: part(|times| times.hash),
            compress: part(|times| times.compress),
            write: part(|times| times.write),
        });
        Step { seconds: time(&|step| step.seconds), layer, ..step.clone() }
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_steps() {
        let lines = [
            r#"{"event":"step","index":1,"total":2,"text":"FROM a","stage":"x"}"#,
            r#"{"event":"step","index":1,"total":1,"text":"FROM b","stage":"y"}"#,
            r#"{"event":"done","seconds":0.5,"layer":null,"size":null,"cached":false,"stage":"x"}"#,
            r#"{"event":"step","index":2,"total":2,"text":"RUN c","stage":"x"}"#,
            r#"{"event":"output","line":"hello","stage":"x"}"#,
            r#"{"event":"written","index":2,"run":1,"diff":2,"hash":3,"compress":4,"write":5,"stage":"x"}"#,
            r#"{"event":"done","seconds":9,"layer":"sha256:1","size":7,"cached":false,"stage":"x"}"#,
            "no JSON",
        ];
        let steps = steps_of(&lines.map(str::to_owned));
        let texts: Vec<_> = steps.iter().map(|step| (step.text.as_str(), step.seconds)).collect();
        assert_eq!(texts, [("FROM a", 0.5), ("FROM b", 0.0), ("RUN c", 9.0)]);
        let times = LayerTimes { run: 1.0, diff: 2.0, hash: 3.0, compress: 4.0, write: 5.0 };
        assert_eq!((steps[2].layer, steps[2].size), (Some(times), Some(7)));
        let mut faster = steps.clone();
        faster[2].seconds = 1.0;
        let steps = medians(&[faster.clone(), steps, faster]);
        assert_eq!((steps[2].seconds, steps[2].layer), (1.0, Some(times)));
    }
}
