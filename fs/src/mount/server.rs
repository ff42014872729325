//! The server: one process for one mount, from hand-over to the end.
//!
//! `kfs mount` starts its own program again and gives it, as standard input, the locked lock
//! file (so the lock passes over without a gap), as standard output a pipe for one line of JSON
//! (ready, or why not), and as standard error the log. In the foreground the same code runs in
//! the process that was called.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;

use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal};
use serde::{Deserialize, Serialize};

use super::directory::MountDir;
use super::mountinfo::MountInfo;
use super::overlay::Overlay;
use super::{MountError, Mounts, State, process, source_name};
use crate::error::AtPath;
use crate::filesystem::ImageFs;
use crate::fuse::{self, FuseError, Mounted};

/// How long `kfs mount` waits for its server, in seconds. The index exists by then; what is left
/// takes milliseconds on a machine that does anything at all.
const PATIENCE: u16 = 60;

/// Why a server could not serve, in the words and with the exit code that the user is to get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFailure {
    /// Exit code.
    pub code: u8,
    /// One line.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

/// The line from the server to its parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ready(State),
    Failed(ServerFailure),
}

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

    /// In the server: takes over the mount `id` that the parent prepared.
    ///
    /// Detaches the process from its terminal and closes the descriptors it inherited; call it
    /// before anything is opened.
    pub fn adopt(mounts: &Mounts, id: &str) -> Result<Self, MountError> {
        close_inherited().map_err(MountError::SetUp)?;
        // Fails only for a process that leads its group, which a child of `start` does not.
        nix::unistd::setsid().map_err(|error| MountError::SetUp(error.into()))?;
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

    /// Where the server logs to.
    pub fn log_path(&self) -> PathBuf {
        self.dir.log()
    }

    pub(super) fn write_state(&self) -> Result<(), MountError> {
        self.dir.write_state(&self.state)
    }

    /// Starts `server`, which must call [`Pending::adopt`], [`Pending::serve`] and
    /// [`report_ready`] or [`report_failure`], and waits until the mount answers.
    pub fn start(mut self, mut server: Command) -> Result<State, MountError> {
        let path = self.dir.log();
        let log = File::options().create(true).append(true).open(&path).at("open", &path)?;
        let lock = self.lock.take().expect("taken only here, and this consumes");
        let child =
            server.stdin(Stdio::from(lock)).stdout(Stdio::piped()).stderr(Stdio::from(log)).spawn();
        // The command holds a copy of the lock.
        drop(server);
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
            Outcome::Ready(state) => Ok(state),
            Outcome::Failed(failure) => Err(MountError::Server(failure)),
        }
    }

    fn wait_for(&self, child: &mut Child) -> Result<Outcome, MountError> {
        let mut pipe = child.stdout.take().expect("the command was given a pipe");
        if !readable(&pipe).map_err(MountError::Start)? {
            return Err(MountError::Slow { seconds: PATIENCE });
        }
        let mut line = String::new();
        read_line(&mut pipe, &mut line).map_err(MountError::Start)?;
        if line.is_empty() {
            let log = std::fs::read_to_string(self.dir.log()).unwrap_or_default();
            let log = log.lines().next_back().unwrap_or_default().to_owned();
            return Err(MountError::Died { log });
        }
        serde_json::from_str(&line).map_err(|error| MountError::Start(error.into()))
    }

    /// Ends a server that is of no use and clears away what it leaves.
    fn clear_after(&self, child: &mut Child) {
        // It may have ended by itself, which is what is wanted.
        let ended = child.kill().and_then(|()| child.wait());
        let cleared = match self.dir.try_lock() {
            Ok(Some(lock)) => self.dir.clear_stale(lock),
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            tracing::warn!("end of the server: {error}");
        }
        if let Err(error) = cleared {
            tracing::warn!("{error}");
        }
    }

    /// Mounts `fs` and serves it in this process until somebody unmounts it, or until SIGTERM,
    /// SIGINT or SIGHUP: the first unmounts (detaching the mount if it is busy, and waiting for
    /// its users), the second cuts the users off. `ready` is called when the mount answers; when
    /// that fails, all is undone.
    ///
    /// Blocks those signals for the calling thread and the threads it starts from then on; call
    /// it while there is but one.
    pub fn serve(
        mut self,
        fs: ImageFs,
        ready: impl FnOnce(&State) -> io::Result<()>,
    ) -> Result<(), MountError> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().map_err(|error| MountError::SetUp(error.into()))?;
        self.state.pid = std::process::id();
        self.state.start_ticks = process::start_ticks(self.state.pid).unwrap_or_default();
        self.write_state()?;

        let mounted = self.mount(Arc::new(fs))?;
        if let Err(error) = self.announce(ready) {
            // The image goes with `mounted`.
            if self.state.rw {
                self.unmount_or_detach();
            }
            return Err(error);
        }

        let (events, event) = mpsc::channel();
        let ended = events.clone();
        let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.to_owned()).spawn(body).map_err(MountError::SetUp)
        };
        spawn("session", Box::new(move || send(&ended, Event::Ended(mounted.wait()))))?;
        spawn("signals", Box::new(move || forward_signals(&signals, &events)))?;
        loop {
            match event.recv().expect("the signal thread never ends") {
                Event::Ended(result) => return result.map_err(MountError::Session),
                Event::Signal { first: true } => self.unmount_or_detach(),
                Event::Signal { first: false } => return Ok(()),
            }
        }
    }

    fn mount(&self, fs: Arc<ImageFs>) -> Result<Mounted, MountError> {
        let name = source_name(&self.state.image);
        let mountpoint = &self.state.mountpoint;
        if !self.state.rw {
            return Ok(fuse::mount(fs, mountpoint, &name)?);
        }
        let lower = self.dir.lower();
        std::fs::create_dir(&lower).at("create", &lower)?;
        let mut mounted = fuse::mount(fs, &lower, &name)?;
        let (upper, work) = self.dir.upper_and_work(&self.state);
        let overlay = Overlay { lower: &lower, upper: &upper, work: &work, mountpoint };
        overlay.mount(&name)?;
        // The overlay keeps the image's file system alive, and its end is the image's.
        mounted.detach().inspect_err(|_| self.unmount_or_detach())?;
        Ok(mounted)
    }

    fn announce(&mut self, ready: impl FnOnce(&State) -> io::Result<()>) -> Result<(), MountError> {
        // Only a mount that answers is listed.
        self.state.mountpoint.metadata().at("stat", &self.state.mountpoint)?;
        let table = MountInfo::own()?;
        self.state.device = table.top(&self.state.mountpoint).map(|entry| entry.device.clone());
        self.write_state()?;
        ready(&self.state).map_err(MountError::Start)
    }

    fn unmount_or_detach(&self) {
        let mountpoint = &self.state.mountpoint;
        if !MountInfo::own().is_ok_and(|table| table.top_is(&self.state)) {
            return;
        }
        match fuse::unmount(mountpoint, false) {
            Err(FuseError::Unmount { source, .. })
                if source.kind() == io::ErrorKind::ResourceBusy =>
            {
                tracing::warn!(
                    "{} is in use: it is detached and served until its last user is gone; \
                     a second signal cuts the users off",
                    mountpoint.display()
                );
                if let Err(error) = fuse::unmount(mountpoint, true) {
                    tracing::warn!("{error}");
                }
            }
            Err(error) => tracing::warn!("{error}"),
            Ok(()) => {}
        }
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

enum Event {
    Ended(io::Result<()>),
    Signal { first: bool },
}

fn send(events: &Sender<Event>, event: Event) {
    if events.send(event).is_err() {
        tracing::debug!("an event came after the end");
    }
}

fn forward_signals(signals: &SigSet, events: &Sender<Event>) {
    let mut first = true;
    loop {
        match signals.wait() {
            Ok(_) => send(events, Event::Signal { first }),
            Err(error) => tracing::warn!("wait for a signal: {error}"),
        }
        first = false;
    }
}

/// In the server: tells the parent that the mount answers, and lets go of the pipe.
pub fn report_ready(state: &State) -> io::Result<()> {
    report(&Outcome::Ready(state.clone()))
}

/// In the server: tells the parent why there will be no mount.
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

fn readable(pipe: &ChildStdout) -> io::Result<bool> {
    let timeout = PATIENCE * 1000;
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

/// A server must not keep alive what the shell or script that called `kfs mount` had open.
fn close_inherited() -> io::Result<()> {
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
    Ok(())
}
