//! The server: the process that answers the kernel for one mount, as long as it lives.
//!
//! The supervisor gives it, as standard input, the mounted `/dev/fuse`, and as standard output a
//! socket for messages (see there). The first server of a mount makes it complete; those after
//! it only go on, and whatever they cannot do (say that they are there, for want of space) is no
//! reason not to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::chores::Chores;
use super::directory::MountDir;
use super::mountinfo::MountInfo;
use super::overlay::Overlay;
use super::pending::leave_the_caller;
use super::{MountError, Mounts, State, source_name};
use crate::error::AtPath;
use crate::filesystem::ImageFs;
use crate::fuse::{self, Greeting, Ready, Session, Through};
use crate::trace::Traces;

/// How long a server may take to get ready. The index exists by then; what is left takes
/// milliseconds on a machine that does anything at all.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What the supervisor sends when the predecessor is gone.
pub(super) const GO: &[u8] = b"go";

/// What the supervisor sends when it was asked to end the mount: nobody may wait for a network.
pub(super) const RELEASE: &[u8] = b"release";

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

/// What a server, or a supervisor, has to say to who started it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// All is there to go on where the predecessor stops.
    Prepared,
    /// The mount answers.
    Ready(Box<State>),
    Failed(ServerFailure),
}

/// A mount that this process is to serve.
#[derive(Debug)]
pub struct Server {
    dir: MountDir,
    state: State,
    device: OwnedFd,
    control: OwnedFd,
    /// Shared with the supervisor: the directory is in use as long as one of them lives.
    lock: File,
}

impl Server {
    /// Takes over the mount `id` from the supervisor.
    ///
    /// Detaches the process from its terminal and its directory and closes the descriptors it
    /// inherited; call it before anything is opened.
    pub fn adopt(mounts: &Mounts, id: &str) -> Result<Self, MountError> {
        leave_the_caller().map_err(MountError::SetUp)?;
        let dir = MountDir::at(mounts.dir.join(id));
        let path = dir.lock_path();
        let lock = File::open(&path).at("open", &path)?;
        lock.lock_shared().at("lock", &path)?;
        let state = dir.read_state()?.ok_or(MountError::NotHandedOver(path))?;
        let take = |from: &dyn AsFd| from.as_fd().try_clone_to_owned().map_err(MountError::SetUp);
        let (device, control) = (take(&io::stdin())?, take(&io::stdout())?);
        let null = File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(MountError::SetUp)?;
        nix::unistd::dup2_stdin(&null).map_err(|error| MountError::SetUp(error.into()))?;
        nix::unistd::dup2_stdout(&null).map_err(|error| MountError::SetUp(error.into()))?;
        Ok(Self { dir, state, device, control, lock })
    }

    /// The mount.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where this process logs to.
    pub fn log_path(&self) -> PathBuf {
        self.dir.log()
    }

    /// A way to tell the supervisor that [`Server::serve`] will not be called, or failed.
    pub fn reporter(&self) -> io::Result<Reporter> {
        self.control.try_clone().map(Reporter)
    }

    /// Serves `fs` until the mount ends. What is read first is kept in `traces`, if there are any.
    /// With `passthrough`, the kernel reads large files by itself once they are whole in the cache.
    pub fn serve(
        self,
        mut fs: ImageFs,
        traces: Option<Traces>,
        passthrough: bool,
    ) -> Result<(), MountError> {
        let manifest = self.state.manifest_digest;
        // What lies here already needs no trace.
        let traces = traces.filter(|_| fs.is_remote());
        if traces.is_some() {
            fs.record_first_reads();
        }
        let Self { dir, state, device, control, lock } = self;
        let control = Reporter(control);
        let (fs, supervisor) = (Arc::new(fs), state.pid);
        // Only a mount that was complete has a device number.
        let session = if state.device.is_none() {
            let through = first_through(&fs, &dir, passthrough);
            first(fs.clone(), (device, through), &dir, state, &control)?
        } else {
            again(fs.clone(), device, &dir, state, &control)?
        };
        let chores = Chores::start(fs, dir.clone(), control.0, traces.map(|to| (to, manifest)))?;
        let ended = session.join();
        chores.end();
        ended.map_err(MountError::Session)?;
        // What the supervisor does at the end, if it is there.
        if std::os::unix::process::parent_id() != supervisor {
            dir.remove(dir.read_state()?.as_ref())?;
        }
        drop(lock);
        Ok(())
    }
}

/// Tells the supervisor how it goes.
#[derive(Debug)]
pub struct Reporter(OwnedFd);

impl Reporter {
    /// Tells why there is nothing to be served.
    pub fn failed(&self, failure: ServerFailure) -> Result<(), MountError> {
        self.tell(&Outcome::Failed(failure))
    }

    fn tell(&self, outcome: &Outcome) -> Result<(), MountError> {
        let message = serde_json::to_vec(outcome).map_err(|error| MountError::Start(error.into()));
        match nix::unistd::write(&self.0, &message?) {
            Ok(_) => Ok(()),
            Err(error) => Err(MountError::Start(error.into())),
        }
    }

    /// Waits until the predecessor is gone. A supervisor that is gone itself took the place of
    /// nobody.
    fn wait_for_go(&self) -> Result<(), MountError> {
        let mut buffer = [0; GO.len()];
        loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Err(nix::Error::EINTR) => {}
                Ok(n) if &buffer[..n] == GO => return Ok(()),
                Ok(_) => return Err(MountError::Start(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Err(MountError::Start(error.into())),
            }
        }
    }
}

/// Without the privilege for it the kernel would refuse each file anew.
fn first_through(fs: &Arc<ImageFs>, dir: &MountDir, wanted: bool) -> Option<Arc<Through>> {
    if !wanted || !nix::unistd::geteuid().is_root() {
        return None;
    }
    Through::first(fs, &dir.passthrough()).unwrap_or_else(|error| {
        tracing::warn!("large files are read by way of the server: {error}");
        None
    })
}

/// Completes a mount and serves it.
fn first(
    fs: Arc<ImageFs>,
    (device, through): (OwnedFd, Option<Arc<Through>>),
    dir: &MountDir,
    mut state: State,
    control: &Reporter,
) -> Result<Session, MountError> {
    let (ready, greeting) = Ready::first(fs.clone(), device, through)?;
    dir.write_greeting(&greeting)?;
    let session = ready.start()?;
    if state.rw {
        let lower = dir.lower();
        read_ahead(&fs, &lower);
        let (upper, work) = dir.upper_and_work(&state);
        let mountpoint = &state.mountpoint;
        let overlay = Overlay { lower: &lower, upper: &upper, work: &work, mountpoint };
        overlay.mount(&source_name(&state.image))?;
        // The overlay keeps the image's file system alive, and its end is the image's.
        fuse::unmount(&lower, true)?;
    } else {
        read_ahead(&fs, &state.mountpoint);
    }
    // Only a mount that answers is listed.
    state.mountpoint.metadata().at("stat", &state.mountpoint)?;
    let table = MountInfo::own()?;
    state.device = table.top(&state.mountpoint).map(|entry| entry.device.clone());
    state.server_pid = std::process::id();
    dir.write_state(&state)?;
    control.tell(&Outcome::Ready(Box::new(state)))?;
    Ok(session)
}

/// Whoever maps a file faults here and there, and what the kernel reads around each fault would
/// have to be fetched: the longer way is for what lies here.
fn read_ahead(fs: &ImageFs, at: &Path) {
    if !fs.is_remote() {
        fuse::raise_read_ahead(at);
    }
}

/// Goes on with a mount whose server died, or is about to be ended.
fn again(
    fs: Arc<ImageFs>,
    device: OwnedFd,
    dir: &MountDir,
    mut state: State,
    control: &Reporter,
) -> Result<Session, MountError> {
    let greeting: Greeting = dir.read_greeting()?;
    let journal = dir.passthrough();
    let through = Through::again(&fs, &journal).at("open", &journal)?;
    let ready = Ready::again(fs, device, &greeting, through.clone())?;
    control.tell(&Outcome::Prepared)?;
    control.wait_for_go()?;
    if let Some(through) = through {
        through.go_on().at("read", &journal)?;
    }
    ready.ask_again()?;
    let session = ready.start()?;
    state.server_pid = std::process::id();
    state.restarts += 1;
    state.restarted = Some(humantime::format_rfc3339_seconds(SystemTime::now()).to_string());
    if let Err(error) = dir.write_state(&state) {
        tracing::warn!("the mount goes on, but its state is not noted: {error}");
    }
    control.tell(&Outcome::Ready(Box::new(state)))?;
    Ok(session)
}
