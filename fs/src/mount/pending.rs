//! A mount on its way from the process that was asked for it to its supervisor.
//!
//! `kfs mount` starts its own program again as the supervisor and gives it, as standard input,
//! the locked lock file (so the lock passes over without a gap), as standard output a pipe for
//! one line of JSON (ready, or why not), and as standard error the log. In the foreground the
//! process that was called is the supervisor.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::directory::MountDir;
use super::server::{Outcome, PATIENCE, ServerFailure};
use super::supervisor::{ServerCommand, Supervisor};
use super::{MountError, Mounts, State};
use crate::error::AtPath;

/// How long a supervisor may take to clear away what did not become a mount.
const TO_CLEAR: Duration = Duration::from_secs(10);

/// A mount that is not served yet. Dropping it removes its directory.
#[derive(Debug)]
pub struct Pending {
    dir: MountDir,
    state: State,
    /// None once another process has it.
    lock: Option<File>,
}

impl Pending {
    pub(super) fn new(dir: MountDir, state: State, lock: File) -> Self {
        Self { dir, state, lock: Some(lock) }
    }

    /// In the supervisor: takes over the mount `id` that the parent prepared.
    ///
    /// Detaches the process from its terminal and its directory and closes the descriptors it
    /// inherited; call it before anything is opened.
    pub fn adopt(mounts: &Mounts, id: &str) -> Result<Self, MountError> {
        leave_the_caller().map_err(MountError::SetUp)?;
        let dir = MountDir::at(mounts.dir.join(id));
        let path = dir.lock_path();
        let lock = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(MountError::SetUp)?);
        let (ours, expected) =
            (lock.metadata().at("stat", &path)?, path.metadata().at("stat", &path)?);
        if (ours.dev(), ours.ino()) != (expected.dev(), expected.ino()) {
            return Err(MountError::NotHandedOver(path));
        }
        match dir.read_state()? {
            Some(state) => Ok(Self { dir, state, lock: Some(lock) }),
            None => Err(MountError::NotHandedOver(path)),
        }
    }

    /// The mount.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where supervisor and server log to.
    pub fn log_path(&self) -> PathBuf {
        self.dir.log()
    }

    pub(super) fn write_state(&self) -> Result<(), MountError> {
        self.dir.write_state(&self.state)
    }

    /// Starts `supervisor`, which must call [`Pending::adopt`], [`Pending::supervise`] and
    /// [`report_ready`] or [`report_failure`], and waits until the mount answers.
    pub fn start(mut self, mut supervisor: Command) -> Result<State, MountError> {
        let path = self.dir.log();
        let log = File::options().create(true).append(true).open(&path).at("open", &path)?;
        let lock = self.lock.take().expect("taken only here, and this consumes");
        let command = supervisor.stdin(Stdio::from(lock)).stdout(Stdio::piped());
        let child = command.stderr(Stdio::from(log)).spawn();
        // The command holds a copy of the lock.
        drop(supervisor);
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                self.remove_dir();
                return Err(MountError::Start(error));
            }
        };
        let outcome = self.wait_for(&mut child);
        if !matches!(outcome, Ok(Outcome::Ready(_))) {
            self.clear_after(&mut child);
        }
        match outcome? {
            Outcome::Ready(state) => Ok(*state),
            Outcome::Failed(failure) => Err(MountError::Server(failure)),
            Outcome::Prepared => Err(MountError::Died { log: String::new() }),
        }
    }

    fn wait_for(&self, child: &mut Child) -> Result<Outcome, MountError> {
        let mut pipe = child.stdout.take().expect("the command was given a pipe");
        // The supervisor has the same patience with its server, and says so.
        let patience = PATIENCE + TO_CLEAR;
        if !readable(&pipe, patience).map_err(MountError::Start)? {
            return Err(MountError::Slow { seconds: patience.as_secs() });
        }
        let mut line = String::new();
        read_line(&mut pipe, &mut line).map_err(MountError::Start)?;
        if line.is_empty() {
            return Err(MountError::Died { log: self.dir.last_log_line() });
        }
        serde_json::from_str(&line).map_err(|error| MountError::Start(error.into()))
    }

    /// Ends a supervisor that is of no use and clears away what it leaves.
    fn clear_after(&self, child: &mut Child) {
        let ended = end(child);
        let cleared = match self.dir.try_lock() {
            Ok(Some(lock)) => self.dir.clear_stale(lock),
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::warn!("end of the supervisor: {error}");
        }
        if let Err(error) = cleared {
            tracing::warn!("{error}");
        }
    }

    /// In the supervisor: mounts, and has the mount served by processes that `server` starts,
    /// one after the other as they are killed, until somebody unmounts it, or until SIGTERM,
    /// SIGINT or SIGHUP: the first unmounts (detaching the mount if it is busy, and waiting for
    /// its users), the second cuts the users off. `ready` is called when the mount answers; when
    /// that fails, all is undone.
    ///
    /// Blocks those signals for the calling thread; call it while there is but one.
    pub fn supervise(
        mut self,
        server: &ServerCommand<'_>,
        ready: impl FnOnce(&State) -> io::Result<()>,
    ) -> Result<(), MountError> {
        let mut lock = self.lock.take();
        let mount = Supervisor::mount(self.dir.clone(), self.state.clone(), lock.take(), server);
        let supervisor = mount.inspect_err(|_| self.remove_dir())?;
        supervisor.run(ready)
    }

    fn remove_dir(&self) {
        if let Err(error) = self.dir.remove(Some(&self.state)) {
            tracing::warn!("{error}");
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.lock.is_some() {
            self.remove_dir();
        }
    }
}

/// In the supervisor: tells the parent that the mount answers, and lets go of the pipe.
pub fn report_ready(state: &State) -> io::Result<()> {
    report(&Outcome::Ready(Box::new(state.clone())))
}

/// In the supervisor: tells the parent why there will be no mount.
pub fn report_failure(failure: ServerFailure) -> io::Result<()> {
    report(&Outcome::Failed(failure))
}

fn report(outcome: &Outcome) -> io::Result<()> {
    let mut line = serde_json::to_vec(outcome)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()?;
    let null = File::options().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(())
}

/// Lets a supervisor clear away what it made, and then ends it anyway.
fn end(child: &mut Child) -> io::Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    match nix::sys::signal::kill(pid, Signal::SIGTERM) {
        Ok(()) | Err(nix::Error::ESRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > TO_CLEAR {
            child.kill()?;
            child.wait()?;
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn readable(pipe: &ChildStdout, patience: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    loop {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, timeout) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(n) => return Ok(n > 0),
        }
    }
}

/// Reads one line of bounded length.
fn read_line(pipe: &mut ChildStdout, line: &mut String) -> io::Result<()> {
    const LONGEST: u64 = 64 << 10;
    BufReader::new(pipe.take(LONGEST)).read_line(line).map(drop)
}

/// A supervisor or server must not keep alive what the shell or script that called `kfs mount`
/// had open, nor end with its terminal, nor keep the directory busy that it was started in.
pub(super) fn leave_the_caller() -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd > 2)
        .collect();
    for fd in open {
        match nix::unistd::close(fd) {
            // The descriptor the list was read through.
            Ok(()) | Err(nix::Error::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // A program that is run by way of a link of /proc would be called after the link.
    nix::sys::prctl::set_name(c"kfs")?;
    // Fails only for a process that leads its group, which a child of ours does not.
    nix::unistd::setsid()?;
    std::env::set_current_dir("/")
}
