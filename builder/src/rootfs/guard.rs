//! Cuts a build that is killed off from its own mounts.
//!
//! A build serves its mounts itself. When it is killed while one of its threads waits for an answer
//! that another had begun, the thread that waits cannot die, for the answer may still come; and the
//! mount does not fail, for the process has `/dev/fuse` open as long as that thread lives. So a
//! process beside the build, the guard, forces the mounts off when the build's threads die.
//!
//! The guard is this program, executed again. Its parent is a thread that only waits for it, which
//! nothing can keep from dying; the kernel tells the guard of that death.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use kfs_fs::mount::visible_mounts;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use super::io_error;
use crate::exec::SANDBOX_ARGUMENT;

/// Second argument of the guard.
pub(crate) const GUARD_ARGUMENT: &str = "guard";

/// The guard of what this process mounts as long as the value lives.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Its end is the guard's.
    input: Option<ChildStdin>,
    parent: Option<JoinHandle<()>>,
}

impl Guard {
    /// Starts a guard and waits until it is ready.
    pub(crate) fn start() -> io::Result<Self> {
        let (ready, is_ready) = mpsc::channel();
        let parent = thread::Builder::new().name("kfs-guarded".into());
        let parent = parent.spawn(move || run_guard(&ready))?;
        let input = is_ready.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        Ok(Self { input: Some(input), parent: Some(parent) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.input = None;
        if self.parent.take().is_some_and(|parent| parent.join().is_err()) {
            tracing::warn!("the thread that waits for the guard of mounts panicked");
        }
    }
}

const WAITS: &str = "who starts a guard waits for the answer";

/// Runs a guard to its end.
fn run_guard(ready: &mpsc::Sender<io::Result<ChildStdin>>) {
    // Signals are for the threads that answer them; the guard inherits this.
    if let Err(errno) = SigSet::all().thread_block() {
        let told = ready.send(Err(io_error(errno)));
        return assert!(told.is_ok(), "{WAITS}");
    }
    let mut command = Command::new("/proc/self/exe");
    command.args([SANDBOX_ARGUMENT, GUARD_ARGUMENT]).current_dir("/").process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let started = command.spawn().and_then(|mut guard| {
        let mut said = [0];
        guard.stdout.as_mut().expect("it is piped").read_exact(&mut said)?;
        Ok((guard.stdin.take().expect("it is piped"), guard))
    });
    let told = match started {
        Ok((input, mut guard)) => {
            let told = ready.send(Ok(input));
            if let Err(error) = guard.wait() {
                tracing::warn!("wait for the guard of mounts: {error}");
            }
            told
        }
        Err(error) => ready.send(Err(error)),
    };
    assert!(told.is_ok(), "{WAITS}");
}

/// The guard: waits for the other process's end, and forces off what it has mounted.
pub(crate) fn main() -> ExitCode {
    match watch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn watch() -> io::Result<()> {
    SigSet::all().thread_block().map_err(io_error)?;
    let mut death = SigSet::empty();
    death.add(Signal::SIGUSR1);
    let death = SignalFd::new(&death).map_err(io_error)?;
    prctl::set_pdeathsig(Signal::SIGUSR1).map_err(io_error)?;
    // Those of others, which this namespace was made with.
    let others: HashSet<String> = mounts()?.into_iter().map(|(device, _)| device).collect();
    // A parent that died before it could be watched does not read this.
    io::stdout().write_all(b".")?;
    io::stdout().flush()?;
    let input = io::stdin();
    let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
    poll(&mut [wanted(death.as_fd()), wanted(input.as_fd())], PollTimeout::NONE)
        .map_err(io_error)?;
    for (_, path) in mounts()?.into_iter().filter(|(device, _)| !others.contains(device)) {
        match umount2(&path, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
            // One that is gone meanwhile needs nothing, and nobody could be told of more.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn mounts() -> io::Result<Vec<(String, std::path::PathBuf)>> {
    visible_mounts().map_err(io::Error::other)
}
