//! The supervisor: the process that holds `/dev/fuse`, so that a mount outlives its server.
//!
//! It mounts, starts the server, and starts another one when that is killed or crashes. In the
//! meantime the kernel keeps its users waiting; the new server maps the same indexes and asks the
//! kernel to send again what the old one left unanswered. Inode numbers are places in the index,
//! so all that the kernel knows stays true.
//!
//! It does as little as can be, so that little can kill it: one thread, no image, no network, and
//! it never touches the mount, whose server may be gone.
//!
//! ```text
//! kfs mount ── lock, pipe ──> supervisor ── device, socket ──> server
//!                 <- Ready or Failed          Ready or Failed ->        the first
//!                                             Prepared -> <- go  Ready ->  those after it
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, socketpair};

use super::directory::MountDir;
use super::mountinfo::MountInfo;
use super::oom::Protection;
use super::server::{GO, Outcome, PATIENCE, RELEASE};
use super::{MountError, State, process, source_name};
use crate::error::AtPath;
use crate::fuse::{self, FuseError};

/// The longest message of a server, in bytes.
const LONGEST: usize = 64 << 10;

/// How long a server may take to see that it was unmounted before it is killed.
const TO_NOTICE: Duration = Duration::from_secs(1);

/// The program that serves, to be executed again even when its file was replaced or removed.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// Makes the command that runs a program (the first argument) as the server of the mount; it
/// calls [`Server::adopt`](super::Server::adopt).
pub type ServerCommand<'a> = dyn Fn(&Path) -> Command + 'a;

/// A mount from its first server to its end.
pub(super) struct Supervisor<'a> {
    dir: MountDir,
    state: State,
    /// Held as long as this process lives.
    lock: Option<File>,
    command: &'a ServerCommand<'a>,
    program: PathBuf,
    /// Kept open so that `program` can refer to it.
    program_file: Option<File>,
    device: OwnedFd,
    signals: SignalFd,
    backoff: Backoff,
    protection: Protection,
    /// Signals that asked for the end: the first unmounts, the second cuts off.
    asked: u32,
    /// When a server that was unmounted has to be gone.
    end_by: Option<Instant>,
}

struct Running {
    child: Child,
    control: OwnedFd,
    /// When it told that it serves.
    ready: Option<Instant>,
}

impl Running {
    /// Has the server fail those who wait for a network, who would keep the mount busy.
    fn release(&self) {
        // A server that is dead, or has much to read still, is as good without.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if let Err(error) = nix::sys::socket::send(self.control.as_raw_fd(), RELEASE, flags) {
            tracing::debug!("release those who wait: {error}");
        }
    }
}

fn asks_for_the_end(signal: Signal) -> bool {
    !matches!(signal, Signal::SIGCHLD | Signal::SIGUSR1)
}

enum Wake {
    Signal(Signal),
    Message(Outcome),
    /// The server closed its end.
    Closed,
    Timeout,
}

/// What a signal means for whoever waits for something.
enum Asked {
    Nothing,
    Look,
    CutOff,
}

impl<'a> Supervisor<'a> {
    /// Mounts. From here on the mount is cleared away when this value goes before its first
    /// server is ready.
    pub(super) fn mount(
        dir: MountDir,
        mut state: State,
        lock: Option<File>,
        command: &'a ServerCommand<'a>,
    ) -> Result<Self, MountError> {
        // Before the state says whom to signal.
        let signals = block_signals().map_err(|error| MountError::SetUp(error.into()))?;
        state.pid = std::process::id();
        state.start_ticks = process::start_ticks(state.pid).unwrap_or_default();
        dir.write_state(&state)?;
        let at = if state.rw {
            let lower = dir.lower();
            std::fs::create_dir(&lower).at("create", &lower)?;
            lower
        } else {
            state.mountpoint.clone()
        };
        let device = fuse::mount_device(&at, &source_name(&state.image))?;
        Ok(Self {
            dir,
            state,
            lock,
            command,
            program: PathBuf::from(OWN_PROGRAM),
            program_file: None,
            device,
            signals,
            backoff: Backoff::default(),
            protection: Protection::new(),
            asked: 0,
            end_by: None,
        })
    }

    /// Serves until the end of the mount; `ready` is called when it answers.
    pub(super) fn run(
        mut self,
        ready: impl FnOnce(&State) -> io::Result<()>,
    ) -> Result<(), MountError> {
        let first = self.first().and_then(|mut running| {
            let told = ready(&self.state).map_err(MountError::Start);
            told.inspect_err(|_| end(&mut running.child)).map(|()| running)
        });
        match first {
            Ok(running) => {
                let result = self.watch(running);
                if let Err(error) = &result {
                    self.bury(error);
                    return result;
                }
                self.dir.remove(Some(&self.state))?;
                drop(self.lock);
                result
            }
            Err(error) => {
                self.clear();
                Err(error)
            }
        }
    }

    /// Starts the first server, whose failure is the mount's.
    fn first(&mut self) -> Result<Running, MountError> {
        let mut running = self.spawn()?;
        let outcome = self.first_outcome(&running);
        if !matches!(outcome, Ok(Outcome::Ready(_))) {
            end(&mut running.child);
        }
        match outcome? {
            Outcome::Ready(state) => {
                self.state = *state;
                running.ready = Some(Instant::now());
                Ok(running)
            }
            Outcome::Failed(failure) => Err(MountError::Server(failure)),
            Outcome::Prepared => Err(MountError::Died { log: String::new() }),
        }
    }

    fn first_outcome(&self, running: &Running) -> Result<Outcome, MountError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.wait(Some(running), Some(deadline))? {
                Wake::Message(outcome) => return Ok(outcome),
                Wake::Closed => return Err(MountError::Died { log: self.dir.last_log_line() }),
                Wake::Timeout => return Err(MountError::Slow { seconds: PATIENCE.as_secs() }),
                Wake::Signal(Signal::SIGCHLD | Signal::SIGUSR1) => {}
                Wake::Signal(signal) => return Err(MountError::Interrupted(signal)),
            }
        }
    }

    /// Watches over the servers until the mount ends.
    fn watch(&mut self, mut running: Running) -> Result<(), MountError> {
        loop {
            // Before waiting: a server that died while it took over has had its signal by now.
            if let Some(status) = running.child.try_wait().map_err(MountError::SetUp)? {
                if status.success() || !self.is_connected() {
                    return Ok(());
                }
                match self.replace(&running, status)? {
                    Some(successor) => running = successor,
                    None => return Ok(()),
                }
                continue;
            }
            let signal = match self.wait(None, self.end_by)? {
                Wake::Signal(signal) => signal,
                Wake::Timeout | Wake::Message(_) | Wake::Closed => {
                    end(&mut running.child);
                    return Ok(());
                }
            };
            if asks_for_the_end(signal) {
                running.release();
            }
            match self.understand(signal) {
                Asked::CutOff => {
                    end(&mut running.child);
                    return Ok(());
                }
                Asked::Look if !self.is_connected() => {
                    self.end_by = Some(Instant::now() + TO_NOTICE);
                }
                Asked::Look => self.upgrade(&mut running),
                Asked::Nothing => {}
            }
        }
    }

    /// Starts servers in the place of one that died until one serves; `None` if that is not
    /// wanted any more.
    fn replace(
        &mut self,
        dead: &Running,
        status: ExitStatus,
    ) -> Result<Option<Running>, MountError> {
        tracing::warn!("server {} ended with {status}", dead.child.id());
        if !self.dir.read_greeting().is_ok_and(|greeting| greeting.can_resend()) {
            return Err(MountError::CannotResend { status });
        }
        let mut lived = dead.ready.map_or(Duration::ZERO, |ready| ready.elapsed());
        let mut killed = status.signal() == Some(Signal::SIGKILL as i32);
        while let Some(pause) = self.backoff.after(lived, killed) {
            if self.pause(pause)? {
                return Ok(None);
            }
            match self.successor(None) {
                Ok(running) => {
                    let restarts = self.state.restarts;
                    tracing::info!("server {} goes on; restarts: {restarts}", running.child.id());
                    return Ok(Some(running));
                }
                Err(MountError::Interrupted(_)) => return Ok(None),
                Err(error) => tracing::warn!("a new server does not serve: {error}"),
            }
            (lived, killed) = (Duration::ZERO, false);
        }
        Err(MountError::GivenUp { status, log: self.dir.last_log_line() })
    }

    /// Lets time pass; true if the users are to be cut off.
    fn pause(&mut self, pause: Duration) -> Result<bool, MountError> {
        let until = Instant::now() + pause;
        loop {
            match self.wait(None, Some(until))? {
                Wake::Signal(signal) => {
                    if let Asked::CutOff = self.understand(signal) {
                        return Ok(true);
                    }
                }
                Wake::Timeout | Wake::Message(_) | Wake::Closed => return Ok(false),
            }
        }
    }

    /// Starts a server that goes on where another one stopped. One that still runs is ended only
    /// when the new one is prepared.
    fn successor(&mut self, old: Option<&mut Child>) -> Result<Running, MountError> {
        let mut running = self.spawn()?;
        let state = self.hand_over(&running, old).inspect_err(|_| end(&mut running.child))?;
        self.state = state;
        running.ready = Some(Instant::now());
        Ok(running)
    }

    fn hand_over(
        &mut self,
        running: &Running,
        mut old: Option<&mut Child>,
    ) -> Result<State, MountError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.wait(Some(running), Some(deadline))? {
                Wake::Message(Outcome::Prepared) => {
                    if let Some(old) = old.take() {
                        end(old);
                    }
                    let told = nix::unistd::write(&running.control, GO);
                    told.map_err(|error| MountError::Start(error.into()))?;
                }
                Wake::Message(Outcome::Ready(state)) => return Ok(*state),
                Wake::Message(Outcome::Failed(failure)) => {
                    return Err(MountError::Server(failure));
                }
                Wake::Closed => return Err(MountError::Died { log: self.dir.last_log_line() }),
                Wake::Timeout => return Err(MountError::Slow { seconds: PATIENCE.as_secs() }),
                Wake::Signal(signal) => {
                    if let Asked::CutOff = self.understand(signal) {
                        return Err(MountError::Interrupted(signal));
                    }
                }
            }
        }
    }

    /// Lets another program take over, if somebody asks for that.
    fn upgrade(&mut self, running: &mut Running) {
        let Some(program) = self.dir.upgrade_asked() else { return };
        let result = self.upgrade_to(&program, running);
        if let Err(error) = &result {
            tracing::warn!("{} does not take over: {error}", program.display());
        }
        let reason = result.err().map(|error| error.to_string());
        if let Err(error) = self.dir.answer_upgrade(reason.as_deref()) {
            tracing::warn!("{error}");
        }
    }

    fn upgrade_to(&mut self, program: &Path, running: &mut Running) -> Result<(), MountError> {
        if !self.dir.read_greeting()?.can_resend() {
            return Err(MountError::NoResend);
        }
        let file = File::open(program).at("open", program)?;
        // Whatever becomes of the file's name, this is what later servers are started from.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let before = std::mem::replace(&mut self.program, path);
        match self.successor(Some(&mut running.child)) {
            Ok(successor) => {
                tracing::info!("{} serves from now on", program.display());
                *running = successor;
                self.program_file = Some(file);
                Ok(())
            }
            Err(error) => {
                self.program = before;
                Err(error)
            }
        }
    }

    fn spawn(&self) -> Result<Running, MountError> {
        let start = || {
            let flags = SockFlag::SOCK_CLOEXEC;
            let (control, theirs) =
                socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
            let mut command = (self.command)(&self.program);
            command.stdin(Stdio::from(self.device.try_clone()?)).stdout(Stdio::from(theirs));
            // The command holds copies of the descriptors, and goes with them.
            let child = self.protection.lifted(|| command.spawn())?;
            Ok(Running { child, control, ready: None })
        };
        start().map_err(MountError::Start)
    }

    /// Waits for a signal, for a message of `server`, or until `deadline`.
    fn wait(
        &self,
        server: Option<&Running>,
        deadline: Option<Instant>,
    ) -> Result<Wake, MountError> {
        let failed = |error: nix::Error| MountError::SetUp(error.into());
        loop {
            let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(server.map(|to| PollFd::new(to.control.as_fd(), PollFlags::POLLIN)));
            match poll(&mut fds, timeout(deadline)) {
                Ok(0) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    return Ok(Wake::Timeout);
                }
                Ok(0) | Err(nix::Error::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(failed(error)),
            }
            if let Some(info) = self.signals.read_signal().map_err(failed)? {
                let signal = Signal::try_from(info.ssi_signo.cast_signed()).map_err(failed)?;
                return Ok(Wake::Signal(signal));
            }
            if let Some(server) = server {
                return receive(&server.control);
            }
        }
    }

    fn understand(&mut self, signal: Signal) -> Asked {
        match signal {
            Signal::SIGCHLD => Asked::Nothing,
            Signal::SIGUSR1 => Asked::Look,
            _ => {
                self.asked += 1;
                if self.asked > 1 {
                    return Asked::CutOff;
                }
                self.unmount_or_detach();
                Asked::Look
            }
        }
    }

    /// Whether the file system is mounted, or used, anywhere. The kernel is asked only now and
    /// then: whoever waits for the answer is woken by each request.
    fn is_connected(&self) -> bool {
        let mut fds = [PollFd::new(self.device.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let error = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR));
        polled.is_ok() && !error
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

    /// Takes away a mount that never was ready.
    fn clear(&self) {
        let cleared = self.dir.unmount_all(Some(&self.state));
        if let Err(error) = cleared.and_then(|()| Ok(self.dir.remove(Some(&self.state))?)) {
            tracing::warn!("{error}");
        }
    }

    /// Notes in the state why the mount is dead. It stays where it is: its users are to see an
    /// error, and not an empty directory.
    fn bury(&mut self, error: &MountError) {
        tracing::error!("{error}");
        self.state.failure = Some(error.to_string());
        if let Err(error) = self.dir.write_state(&self.state) {
            tracing::warn!("{error}");
        }
    }
}

fn block_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGUSR1]
    {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, so that the deadline has passed when poll returns.
    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}

fn receive(control: &OwnedFd) -> Result<Wake, MountError> {
    let mut buffer = vec![0; LONGEST];
    let len = match nix::unistd::read(control, &mut buffer) {
        Ok(0) | Err(nix::Error::ECONNRESET) => return Ok(Wake::Closed),
        result => result.map_err(|error| MountError::Start(error.into()))?,
    };
    let outcome = serde_json::from_slice(&buffer[..len]);
    outcome.map(Wake::Message).map_err(|error| MountError::Start(error.into()))
}

/// Kills a server and waits until it is gone.
fn end(child: &mut Child) {
    // It may have ended by itself, which is what is wanted.
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::warn!("end of the server: {error}");
    }
}

/// How soon a server is replaced. Being killed is no fault of the server; one that dies by itself
/// as soon as it serves, or before, will do that again.
#[derive(Debug, Default)]
struct Backoff {
    /// In a row.
    short_lives: u32,
}

impl Backoff {
    /// A server that served so long did not fail at the request that its predecessor failed at.
    const LONG_ENOUGH: Duration = Duration::from_millis(100);
    /// The last of them comes after about six seconds.
    const MOST_SHORT_LIVES: u32 = 12;
    /// Whoever kills (the kernel, for want of memory) gets some rest, 160 ms, but not the mount.
    const MOST_KILLED: u32 = 5;

    /// How long to wait after a server that served for `lived` and then died, by SIGKILL or
    /// otherwise; `None`: there is no use.
    fn after(&mut self, lived: Duration, killed: bool) -> Option<Duration> {
        if lived >= Self::LONG_ENOUGH {
            self.short_lives = 0;
            return Some(Duration::ZERO);
        }
        self.short_lives += 1;
        if killed {
            self.short_lives = self.short_lives.min(Self::MOST_KILLED);
        }
        let doubled = Duration::from_millis(5 << self.short_lives.min(10));
        (self.short_lives <= Self::MOST_SHORT_LIVES).then(|| doubled.min(Duration::from_secs(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_lives_is_replaced_at_once_for_ever() {
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            assert_eq!(backoff.after(Duration::from_millis(200), false), Some(Duration::ZERO));
        }
    }

    #[test]
    fn one_that_dies_at_once_is_replaced_ever_later_and_then_no_more() {
        let mut backoff = Backoff::default();
        let after = || backoff.after(Duration::from_millis(3), false);
        let pauses: Vec<_> = std::iter::from_fn(after).take(100).collect();
        assert_eq!(pauses.len(), 12);
        assert_eq!(pauses[..2], [Duration::from_millis(10), Duration::from_millis(20)]);
        assert!(pauses.is_sorted() && pauses[11] == Duration::from_secs(1));
        let sum: Duration = pauses.iter().sum();
        assert!((5..8).contains(&sum.as_secs()), "{sum:?}");
        // A good life makes up for them.
        let mut backoff = Backoff::default();
        for _ in 0..11 {
            backoff.after(Duration::ZERO, false).unwrap();
        }
        backoff.after(Duration::from_secs(1), false).unwrap();
        assert_eq!(backoff.after(Duration::ZERO, false), Some(Duration::from_millis(10)));
    }

    #[test]
    fn one_that_is_killed_is_replaced_soon_and_always() {
        let mut backoff = Backoff::default();
        for _ in 0..1000 {
            let pause = backoff.after(Duration::ZERO, true).unwrap();
            assert!(pause <= Duration::from_millis(160));
        }
    }
}
