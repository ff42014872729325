//! The build's side of the sandbox: starts it, tells it the job, reads output and reply.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kfs_fs::error::AtPath;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::interrupt::{Interrupted, Interrupts};
use crate::rootfs::RootDir;

use super::child::{ASK, KILL};
use super::tail::Tail;
use super::wire::{Failure, Job, Reply, SANDBOX_ARGUMENT, Stage};
use super::{Command, ExecError, Executor, Isolation, Outcome, Status, host};

/// Where the host's tools are when nobody says otherwise (the default of Debian's login(1)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How often pid 1 is asked to have all processes end, which it does once.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Runs commands in namespaces of their own, by executing this program again.
///
/// The program's `main` must call [`child_main`](super::child_main) when its first argument is
/// [`SANDBOX_ARGUMENT`]. All that a command started is gone when [`Executor::run`] returns, and
/// also when this process, or the thread that called it, ends before.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
    host_path: OsString,
    rootfs_first: bool,
    grace: Duration,
    interrupts: Arc<Interrupts>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A sandbox that executes the running program.
    pub fn new() -> Self {
        Self::with_program("/proc/self/exe")
    }

    /// A sandbox that executes `program`, a kfs.
    pub fn with_program(program: impl Into<PathBuf>) -> Self {
        let interrupts = Arc::default();
        let host_path = DEFAULT_PATH.into();
        let (program, grace) = (program.into(), Duration::ZERO);
        Self { program, host_path, rootfs_first: false, grace, interrupts }
    }

    /// Sets where programs of the host are looked up; the rootfs's `bin` comes after it.
    pub fn host_path(mut self, path: impl Into<OsString>) -> Self {
        self.host_path = path.into();
        self
    }

    /// Has programs of the host looked up after those of the rootfs's `bin`.
    pub fn rootfs_first(mut self, first: bool) -> Self {
        self.rootfs_first = first;
        self
    }

    /// Sets how long a command, and what it started, may take to end when they are asked to
    /// (SIGTERM) because of an interrupt; not at all if nobody says so.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets what ends a command before its time; then all that it started is gone, too.
    pub fn interrupts(mut self, interrupts: Arc<Interrupts>) -> Self {
        self.interrupts = interrupts;
        self
    }

    /// Turns a command into what the sandbox is told, everything decided.
    fn job(&self, command: &Command) -> Result<Job, ExecError> {
        check_nul(command)?;
        if command.argv.is_empty() {
            return Err(ExecError::Empty);
        }
        let rootfs = command.rootfs.canonicalize().at("open", &command.rootfs);
        let rootfs = rootfs.map_err(ExecError::Rootfs)?;
        let isolation = resolve(command.isolation, &rootfs)?;
        let mut env = command.env.clone();
        let home = match isolation {
            Isolation::Host | Isolation::None => {
                env.retain(|(name, _)| name != "PATH");
                let path = host::path_variable(&self.host_path, &rootfs, self.rootfs_first);
                env.push(("PATH".into(), path));
                // The caller's own home is not the step's to read settings from.
                OsString::from("/tmp")
            }
            Isolation::Auto | Isolation::Container => command.user.home.clone(),
        };
        if !env.iter().any(|(name, _)| name == "HOME") {
            env.push(("HOME".into(), home));
        }
        Ok(Job {
            rootfs: rootfs.into_os_string(),
            isolation,
            argv: command.argv.clone(),
            env,
            cwd: command.cwd.clone().into_os_string(),
            user: command.user.clone(),
            hostname: command.hostname.clone(),
            world: command.world.clone(),
        })
    }

    fn start(&self) -> io::Result<(Child, UnixStream, io::PipeReader)> {
        let (ours, theirs) = UnixStream::pair()?;
        let (reader, writer) = io::pipe()?;
        // The command is dropped here with its ends of socket and pipe: an end of file must be
        // seen when the sandbox dies.
        let child = std::process::Command::new(&self.program)
            .arg(SANDBOX_ARGUMENT)
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::from(writer.try_clone()?))
            .stderr(Stdio::from(writer))
            .spawn()?;
        Ok((child, ours, reader))
    }
}

impl Executor for Sandbox {
    fn run(&self, command: &Command, output: &mut dyn FnMut(&[u8])) -> Result<Outcome, ExecError> {
        let job = self.job(command)?;
        let begin = Instant::now();
        let start_error = |source| ExecError::Start { program: self.program.clone(), source };
        let (child, socket, reader) = self.start().map_err(start_error)?;
        let mut child = EndOnDrop(child);
        let sent = send(&socket, &job);
        let reader = Interruptible { reader, sandbox: self, pid: child.pid(), deadline: None };
        let tail = Tail::of(reader, output).map_err(output_error)?;
        let status = child.0.wait().map_err(start_error)?;
        // It may have ended as it was asked to.
        self.interrupts.check()?;
        let reply = receive(&socket).map_err(start_error)?;
        let Some(reply) = reply else {
            return Err(ended_without_reply(sent, status, tail, start_error));
        };
        let status = match reply {
            Reply::Exited(code) => Status::Exited(code),
            Reply::Signaled(signal) => Status::Signaled(signal),
            Reply::Killed(signal) => {
                return Err(ExecError::Killed { how: Status::Signaled(signal).to_string() });
            }
            Reply::Failed(failure) => return Err(error(&failure)),
        };
        Ok(Outcome { status, tail: tail.into_lines(), duration: begin.elapsed() })
    }
}

/// Ends the sandbox on every way out of `run`; what is asked of one that has ended is nothing.
struct EndOnDrop(Child);

impl EndOnDrop {
    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a pid is positive"))
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // The signal that has it end all that it started, before it ends itself. Either may
            // fail only if the process has ended in between, which is the aim.
            kill(self.pid(), KILL).ok();
            drop(self.0.wait());
        }
    }
}

/// A reader that fails with [`Interrupted`] when a signal has come, and the command was asked to
/// end and has not in time.
struct Interruptible<'a> {
    reader: io::PipeReader,
    sandbox: &'a Sandbox,
    /// The sandbox's process.
    pid: Pid,
    /// When the command has to be gone; none before a signal.
    deadline: Option<Instant>,
}

impl Read for Interruptible<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.sandbox.interrupts.wait(self.reader.as_fd()) {
            Err(error) if !self.has_more() => Err(error),
            Ok(()) | Err(_) => self.reader.read(buf),
        }
    }
}

impl Interruptible<'_> {
    /// Whether there is more output, or its end, after a signal and before the command has to be
    /// gone.
    fn has_more(&mut self) -> bool {
        let grace = self.sandbox.grace;
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + grace);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Pid 1 may not listen yet. That the sandbox has ended is what is wanted.
            kill(self.pid, ASK).ok();
            let timeout = PollTimeout::try_from(left.min(ASK_AGAIN)).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.reader.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, timeout).is_ok_and(|ready| ready > 0) {
                return true;
            }
        }
    }
}

fn output_error(error: io::Error) -> ExecError {
    match error.downcast::<Interrupted>() {
        Ok(interrupted) => interrupted.into(),
        Err(error) => ExecError::Output(error),
    }
}

fn send(mut socket: &UnixStream, job: &Job) -> io::Result<()> {
    let text = serde_json::to_vec(job)?;
    socket.write_all(&text)?;
    socket.shutdown(Shutdown::Write)
}

/// What the sandbox said; the blanks it sends in between are no reply.
fn receive(mut socket: &UnixStream) -> io::Result<Option<Reply>> {
    let mut text = Vec::new();
    match socket.read_to_end(&mut text) {
        Ok(_) => {}
        // It died before it read the whole job.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error),
    }
    let text = text.trim_ascii();
    if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_slice(text)?)) }
}

fn ended_without_reply(
    sent: io::Result<()>,
    status: ExitStatus,
    tail: Tail,
    start_error: impl Fn(io::Error) -> ExecError,
) -> ExecError {
    use std::os::unix::process::ExitStatusExt;
    match (status.signal(), sent) {
        (Some(signal), _) => ExecError::Killed { how: Status::Signaled(signal).to_string() },
        (None, Err(source)) if source.kind() != io::ErrorKind::BrokenPipe => start_error(source),
        (None, _) => {
            // Its last words: it is no kfs, or it panicked.
            let said = tail.into_lines().join("; ");
            start_error(io::Error::other(format!("it ended with {status} and said {said:?}")))
        }
    }
}

fn resolve(isolation: Isolation, rootfs: &Path) -> Result<Isolation, ExecError> {
    let root = RootDir::open(rootfs).map_err(ExecError::Rootfs)?;
    Ok(isolation.resolve(&root))
}

impl Isolation {
    /// What `Auto` means for this rootfs; the others mean themselves.
    pub fn resolve(self, root: &RootDir) -> Self {
        match self {
            Self::Auto if root.has_shell() => Self::Container,
            Self::Auto => Self::Host,
            Self::Container | Self::Host | Self::None => self,
        }
    }
}

fn check_nul(command: &Command) -> Result<(), ExecError> {
    let has_nul = |text: &OsStr| text.as_bytes().contains(&0);
    if command.argv.iter().any(|argument| has_nul(argument)) {
        return Err(ExecError::Nul("an argument of the command"));
    }
    if command.env.iter().any(|(name, value)| has_nul(name) || has_nul(value)) {
        return Err(ExecError::Nul("a variable of the environment"));
    }
    if has_nul(command.cwd.as_os_str()) {
        return Err(ExecError::Nul("the working directory"));
    }
    Ok(())
}

fn error(failure: &Failure) -> ExecError {
    let (source, path) = (failure.error(), failure.path());
    let action = failure.action.clone();
    match failure.stage {
        Stage::WorkingDirectory => ExecError::WorkingDirectory { path, source },
        Stage::Program => ExecError::Program { program: path, source },
        Stage::Setup if source.kind() == io::ErrorKind::PermissionDenied => {
            ExecError::NotPermitted { action, path, source }
        }
        Stage::Setup => ExecError::Setup { action, path, source },
    }
}
