//! Processes and what they cost.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kfs_fs::error::AtPath as _;
use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeVal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::MeasureError;

/// How many of the last lines of a command that failed are told.
const TAIL: usize = 4;

/// What all processes that ended below this one took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    /// Of all of them, in user and system mode.
    pub(crate) cpu_seconds: f64,
    /// Of the largest one (`ru_maxrss`), in bytes.
    pub(crate) peak_memory: u64,
}

/// The usage so far. The peak is that since this process began.
pub(crate) fn usage() -> Result<Usage, MeasureError> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)
        .map_err(|error| MeasureError::system("ask what processes took", error))?;
    // Microseconds have room in a double for some centuries.
    #[allow(clippy::cast_precision_loss)]
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let peak_memory = u64::try_from(usage.max_rss()).unwrap_or_default() << 10;
    Ok(Usage {
        cpu_seconds: seconds(usage.user_time()) + seconds(usage.system_time()),
        peak_memory,
    })
}

/// Runs a command to its end with no input, its output into files in `dir`: a process that it
/// leaves behind would keep a pipe open. What it wrote to standard output.
pub(crate) fn run(command: &mut Command, dir: &Path) -> Result<Vec<u8>, MeasureError> {
    redirect(command, dir)?;
    let mut child = command.spawn().map_err(|error| failed(command, error.to_string()))?;
    let status = child.wait().map_err(|error| failed(command, error.to_string()))?;
    match status.success() {
        true => Ok(fs::read(dir.join("out")).at("read", dir)?),
        false => Err(failed(command, format!("{status}{}", tail(dir)))),
    }
}

/// Has a command read nothing and write into files in `dir`.
pub(crate) fn redirect(command: &mut Command, dir: &Path) -> Result<(), MeasureError> {
    let file = |name: &str| {
        let path = dir.join(name);
        File::create(&path).at("create", &path)
    };
    command.stdin(Stdio::null()).stdout(file("out")?).stderr(file("said")?);
    Ok(())
}

/// A command failed.
pub(crate) fn failed(command: &Command, how: String) -> MeasureError {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let text = words.join(" ");
    let command = match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    };
    MeasureError::Command { command, how }
}

/// The last lines that were written into `dir`, each after a blank.
pub(crate) fn tail(dir: &Path) -> String {
    let read = |name| fs::read(dir.join(name)).unwrap_or_default();
    let said = read("said");
    let said = if said.trim_ascii().is_empty() { read("out") } else { said };
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(TAIL)..];
    last.iter().map(|line| format!(": {line}")).collect()
}

/// Waits until this process has no children; whether it came to that in time.
pub(crate) fn reap(patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) if Instant::now() >= until => return false,
            Ok(WaitStatus::StillAlive) => thread::sleep(Duration::from_millis(1)),
            // Another one that ended, or a signal.
            Ok(_) | Err(_) => {}
        }
    }
}

/// Kills all processes below this one and waits until they are gone.
pub(crate) fn end_children() {
    // The orphans of those that are killed come to this process if it is a subreaper: until there
    // are none.
    for _ in 0..100 {
        for pid in children().unwrap_or_default() {
            // It may have ended already.
            kill(pid, Signal::SIGKILL).ok();
        }
        if reap(Duration::from_millis(50)) {
            return;
        }
    }
}

fn children() -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let text = fs::read_to_string(task?.path().join("children"))?;
        pids.extend(text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_says_how() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = run(&mut command, dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("exit status: 3: two"), "{error}");
        assert_eq!(run(Command::new("echo").arg("x"), dir.path()).unwrap(), b"x\n");
        let before = usage().unwrap();
        run(
            Command::new("sh").args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]),
            dir.path(),
        )
        .unwrap();
        let after = usage().unwrap();
        assert!(after.cpu_seconds > before.cpu_seconds && after.peak_memory > 0);
    }
}
