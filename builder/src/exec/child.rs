//! The sandbox's own processes: this program, executed again.
//!
//! ```text
//! kfs build ──── __run ─────────── __run init ──────────── the command
//!               new namespaces     pid 1 in them: mounts,   a plain child
//!                                  no privileges, reaps
//! ```
//! Each is executed, never only forked: the build has threads. Each asks to be killed with its
//! parent; pid 1 takes its whole pid namespace with it. Output goes through untouched; what there
//! is to tell goes over the socket at standard input.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, fchdir, sethostname, setsid};

use crate::interrupt::ENDING;
use crate::rootfs::{RootDir, guard};

use super::mounts::{bind, open_path, set_flags};
use super::wire::{Failure, INIT_ARGUMENT, Job, OrFail, Reply, SANDBOX_ARGUMENT, Stage};
use super::{Isolation, container, host, limits, network, privileges};

/// The signal that has the sandbox ask all that the command started to end.
pub(super) const ASK: Signal = Signal::SIGUSR1;

/// The signal that has the sandbox kill all that the command started. It is none that comes from
/// elsewhere: what ends a process group or a service goes to the sandbox as well as to the build.
pub(super) const KILL: Signal = Signal::SIGUSR2;

/// The process's own program, also if the file was replaced.
const SELF: &str = "/proc/self/exe";

/// The whole life of a sandbox process. To be called first thing in `main`, before any thread
/// is started, when the first argument is [`SANDBOX_ARGUMENT`].
#[allow(clippy::print_stderr)] // It is a `main`.
pub fn child_main() -> ExitCode {
    let second = std::env::args_os().nth(2);
    if second.as_ref().is_some_and(|argument| argument == guard::GUARD_ARGUMENT) {
        return guard::main();
    }
    let is_init = second.is_some_and(|argument| argument == INIT_ARGUMENT);
    match take_socket() {
        Ok(socket) => {
            let result = if is_init { init(&socket).map(Some) } else { outer(&socket) };
            let reply = match result {
                Ok(None) => return ExitCode::SUCCESS,
                Ok(Some(reply)) => reply,
                Err(failure) => Reply::Failed(failure),
            };
            // Nobody to tell: the build is gone, and so are we.
            let told = serde_json::to_writer(&socket, &reply).is_ok();
            if told { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(_) => {
            eprintln!("kfs: {SANDBOX_ARGUMENT} is for kfs's own use");
            ExitCode::from(2)
        }
    }
}

/// Takes the socket from standard input; a dead peer ends us here.
fn take_socket() -> io::Result<UnixStream> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // The parent may have died before the line above could tell the kernel. A blank is nothing
    // to a reader of JSON.
    (&socket).write_all(b" ")?;
    Ok(socket)
}

/// Makes the namespaces, starts pid 1 in them and waits for it, which tells all there is to tell.
fn outer(socket: &UnixStream) -> Result<Option<Reply>, Failure> {
    close_inherited(socket).or_fail("close", "inherited descriptors")?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS,
    )
    .or_fail("make namespaces for", "the step")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .or_fail("make private", "/")?;
    let program = protect_program()?;
    let mut signals = SigSet::empty();
    ENDING.into_iter().chain([Signal::SIGCHLD, ASK, KILL]).for_each(|signal| signals.add(signal));
    signals.thread_block().or_fail("hold back signals of", "the step")?;
    let child = Command::new(&program)
        .arg0("kfs")
        .args([SANDBOX_ARGUMENT, INIT_ARGUMENT])
        .env_clear()
        .stdin(Stdio::inherit())
        .spawn()
        .or_fail("execute", &program)?;
    let status = attend(child, &signals).or_fail("wait for", "pid 1 of the step")?;
    // Killed from outside, it could not tell the build.
    Ok(status.signal().map(Reply::Killed))
}

/// Waits for pid 1, and asks it to end or kills it when the build says so. It is gone only when all
/// processes of its namespace are. What a terminal, timeout(1) or a service manager sends to the
/// build and to this process is for the build to judge.
fn attend(mut child: Child, signals: &SigSet) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        match signals.wait()? {
            KILL => child.kill()?,
            ASK => {
                let pid = i32::try_from(child.id()).expect("a pid is positive");
                kill(Pid::from_raw(pid), ASK)?;
            }
            _ => {}
        }
    }
}

/// Closes what whoever started kfs left open, so that the command cannot see it.
fn close_inherited(socket: &UnixStream) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        open.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    for fd in open.into_iter().filter(|fd| *fd > 2 && *fd != socket.as_raw_fd()) {
        match nix::unistd::close(fd) {
            // The descriptor of the listing itself is closed already.
            Ok(()) | Err(Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Binds the running program read-only over its own path, and returns that.
///
/// A container can get at the file of a process that enters it (`/proc/self/exe`, CVE-2019-5736);
/// through a read-only mount it cannot write to it.
fn protect_program() -> Result<PathBuf, Failure> {
    let running = fs::metadata(SELF).or_fail("stat", SELF)?;
    if running.nlink() == 0 {
        // Replaced by another version during the build: nothing is left there to protect.
        return Ok(PathBuf::from(SELF));
    }
    let path = fs::read_link(SELF).or_fail("read link", SELF)?;
    let found = fs::metadata(&path).or_fail("stat", &path)?;
    if (found.dev(), found.ino()) != (running.dev(), running.ino()) {
        return Err(Errno::ESTALE).or_fail("find the running program at", &path);
    }
    let target = open_path(&path).or_fail("open", &path)?;
    bind(&path, &target, MsFlags::empty()).or_fail("bind", &path)?;
    set_flags(&path, MsFlags::MS_RDONLY).or_fail("make read-only", &path)?;
    Ok(path)
}

/// Pid 1 of the sandbox: sets it up, starts the command, reaps until that one ends, or all have
/// that were asked to. When this process then ends, the kernel kills whatever is left behind.
fn init(socket: &UnixStream) -> Result<Reply, Failure> {
    // What is made for the command must not depend on who started the build.
    let of_the_caller = umask(Mode::from_bits_truncate(0o022));
    // Whatever the build, or who started it, holds back: the command begins with nothing held.
    SigSet::empty().thread_set_mask().or_fail("let signals through to", "the step")?;
    // A session of its own has no terminal: the command can neither prompt nor type there.
    setsid().or_fail("start a session for", "the step")?;
    let job = read_job(socket).or_fail("read", "the job")?;
    sethostname(&job.hostname).or_fail("set host name", &job.hostname)?;
    for cgroup in &job.world.cgroups {
        // 0 is whoever writes it (cgroups(7)).
        let processes = cgroup.join("cgroup.procs");
        fs::write(&processes, "0").or_fail("enter the control group", &processes)?;
    }
    if job.world.no_network {
        network::leave()?;
    }
    let root = match job.isolation {
        Isolation::Container | Isolation::Auto => {
            container::enter(&job)?;
            RootDir::open(Path::new("/")).map_err(|error| error.source).or_fail("open", "/")?
        }
        Isolation::Host => host::enter(&job)?,
        Isolation::None => host::stay(&job)?,
    };
    enter_directory(&root, &job.cwd)?;
    let null = fs::File::open("/dev/null").or_fail("open", "/dev/null")?;
    dup2_stdin(&null).or_fail("close", "standard input")?;
    limits::set(&job.world.ulimits)?;
    match job.isolation {
        Isolation::Container | Isolation::Auto => privileges::drop_to(&job.user)?,
        Isolation::Host => {
            // What is set-user-ID there is of the host.
            prctl::set_no_new_privs().or_fail("give up set-user-ID programs for", "the step")?;
            privileges::drop_to(&job.user)?;
        }
        // What it writes is the user's, on this machine.
        Isolation::None => drop(umask(of_the_caller)),
    }
    // A change of user clears it.
    prctl::set_pdeathsig(Signal::SIGKILL).or_fail("die with", "kfs")?;
    // Neither its memory nor its descriptors are the command's business.
    prctl::set_dumpable(false).or_fail("hide", "pid 1 of the step")?;
    (&*socket).write_all(b" ").or_fail("reach", "kfs")?;
    let command = start(&job)?;
    wait_for(command).or_fail("wait for", &job.argv[0])
}

fn read_job(socket: &UnixStream) -> io::Result<Job> {
    let mut text = Vec::new();
    (&*socket).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn enter_directory(root: &RootDir, cwd: &OsStr) -> Result<(), Failure> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let entered: nix::Result<()> =
        root.open_at(Path::new(cwd), flags).and_then(|fd: OwnedFd| fchdir(&fd));
    entered
        .or_fail("enter", cwd)
        .map_err(|failure| Failure { stage: Stage::WorkingDirectory, ..failure })
}

fn start(job: &Job) -> Result<Pid, Failure> {
    let (program, arguments) = job.argv.split_first().expect("the build checked it");
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(job.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::inherit())
        .spawn()
        .or_fail("execute", program)
        .map_err(|failure| Failure { stage: Stage::Program, ..failure })?;
    let pid = i32::try_from(child.id()).expect("a pid is positive");
    Ok(Pid::from_raw(pid))
}

/// Reaps every orphan, and returns how `command` ended. When it is told to, it asks all processes
/// to end, and waits until they have.
fn wait_for(command: Pid) -> nix::Result<Reply> {
    let mut signals = SigSet::empty();
    [Signal::SIGCHLD, ASK].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block()?;
    let (mut reply, mut asked) = (None, false);
    loop {
        let left = reap(command, &mut reply)?;
        if !left || (reply.is_some() && !asked) {
            return reply.ok_or(Errno::ECHILD);
        }
        if signals.wait()? == ASK && !asked {
            asked = true;
            // -1 is all processes of the namespace but this one. There may be none any more.
            kill(Pid::from_raw(-1), Signal::SIGTERM).ok();
        }
    }
}

/// Reaps all that have ended, and notes how `command` has. Returns whether any are left.
fn reap(command: Pid, reply: &mut Option<Reply>) -> nix::Result<bool> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Ok(true),
            Ok(WaitStatus::Exited(pid, status)) if pid == command => {
                *reply = Some(Reply::Exited(status));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                *reply = Some(Reply::Signaled(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ECHILD) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
