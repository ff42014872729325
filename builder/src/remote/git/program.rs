//! Running `git`, so that neither a repository nor the user's settings make it do anything else
//! than it is asked to.
//!
//! - Of the environment only what it needs to reach a server is passed on: no `GIT_DIR` and the
//!   like.
//! - It never asks: no terminal, no dialogue, SSH in batch mode.
//! - It speaks https, http, ssh and git; what else a repository or a redirect may lead to (`ext::`,
//!   `file:`) is refused.
//! - Hooks, the file system monitor, submodules and background maintenance are off.
//! - What works on files of a repository does not read the user's settings, so that filters and
//!   line ends are the same for everybody.
//! - It is ended, with all that it started, at a deadline or when the build is.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::super::{Depot, RemoteError};
use super::GitUrl;

/// How long one call may take: as long as a large repository takes on a slow line.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// How often it is looked whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// More than any answer that is asked for has, in bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// So much of what it complains is kept, in bytes.
const MAX_COMPLAINT: usize = 4 << 10;

/// What it needs to find programs, credentials, agents, proxies and certificates.
const PASSED_ON: [&str; 20] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "XDG_CONFIG_HOME",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GNUPGHOME",
];

/// Settings that go before those of the user and of the repository.
const SETTINGS: [&str; 15] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "core.autocrlf=false",
    "core.symlinks=true",
    "core.attributesFile=/dev/null",
    "credential.interactive=false",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    // A pack appears as a whole; loose objects one by one.
    "fetch.unpackLimit=1",
    "gc.auto=0",
    "maintenance.auto=false",
    "http.lowSpeedLimit=1",
    "http.lowSpeedTime=60",
    // The store may belong to somebody else.
    "safe.directory=*",
];

/// What a call works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// A server, with the user's settings.
    Network,
    /// Repositories of this machine that kfs has made.
    Here,
}

/// Calls of git for one source.
pub(super) struct Git<'a> {
    url: &'a GitUrl,
    depot: Depot<'a>,
    reach: Reach,
    variables: Vec<(&'static str, &'a OsStr)>,
}

impl<'a> Git<'a> {
    pub(super) fn new(url: &'a GitUrl, depot: Depot<'a>, reach: Reach) -> Self {
        Self { url, depot, reach, variables: Vec::new() }
    }

    /// In this repository.
    pub(super) fn repository(self, path: &'a Path) -> Self {
        self.with("GIT_DIR", path)
    }

    /// With this index file.
    pub(super) fn index(self, path: &'a Path) -> Self {
        self.with("GIT_INDEX_FILE", path)
    }

    /// With files here.
    pub(super) fn work_tree(self, path: &'a Path) -> Self {
        self.with("GIT_WORK_TREE", path)
    }

    fn with(mut self, name: &'static str, path: &'a Path) -> Self {
        self.variables.push((name, path.as_os_str()));
        self
    }

    /// Runs it; what it answers.
    pub(super) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Vec<u8>, RemoteError> {
        let mut child = self.command(args).spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RemoteError::NoGit(self.url.shown()),
            _ => self.failed(format!("git cannot be run: {error}")),
        })?;
        let stdout = child.stdout.take().expect("it is a pipe");
        let stderr = child.stderr.take().expect("it is a pipe");
        let (ended, answer, complaint) = thread::scope(|scope| {
            let answer = scope.spawn(move || read_some(stdout));
            let complaint = scope.spawn(move || read_last(stderr));
            let ended = self.wait(&mut child);
            let joined = "the reader does not panic";
            (ended, answer.join().expect(joined), complaint.join().expect(joined))
        });
        if ended?.success() {
            return answer.map_err(|error| self.failed(format!("git's answer: {error}")));
        }
        let complaint = String::from_utf8_lossy(&complaint);
        let lines: Vec<_> = complaint.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let text = lines.join("; ").replace(&self.url.repository, &self.url.shown());
        Err(self.failed(text))
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new("git");
        command.env_clear();
        command.envs(PASSED_ON.iter().filter_map(|name| Some((name, env::var_os(name)?))));
        if let Some(agent) = self.depot.agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        if env::var_os("GIT_SSH_COMMAND").is_none() {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30");
        }
        command.envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_ASKPASS", ""), ("LC_ALL", "C")]);
        match self.reach {
            Reach::Network => command.env("GIT_ALLOW_PROTOCOL", "https:http:ssh:git"),
            Reach::Here => command
                .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
                .env("GIT_ALLOW_PROTOCOL", "file"),
        };
        command.envs(self.variables.iter().copied());
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.args(args).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // With what it starts it can then be ended as one.
        command.process_group(0);
        command
    }

    fn wait(&self, child: &mut Child) -> Result<std::process::ExitStatus, RemoteError> {
        let started = Instant::now();
        let failed = |error: io::Error| self.failed(format!("git cannot be waited for: {error}"));
        loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                return Ok(status);
            }
            let stop = match self.depot.interrupts.check() {
                Err(interrupted) => Some(interrupted.into()),
                Ok(()) if started.elapsed() > DEADLINE => {
                    let minutes = DEADLINE.as_secs() / 60;
                    Some(self.failed(format!("git has not ended after {minutes} minutes")))
                }
                Ok(()) => None,
            };
            if let Some(error) = stop {
                let group = i32::try_from(child.id()).map(Pid::from_raw);
                if let Ok(group) = group {
                    // It fails if all have ended meanwhile.
                    killpg(group, Signal::SIGKILL).ok();
                }
                child.wait().map_err(failed)?;
                return Err(error);
            }
            thread::sleep(PAUSE);
        }
    }

    fn failed(&self, reason: String) -> RemoteError {
        RemoteError::Git { url: self.url.shown(), reason }
    }
}

/// All that comes, unless it is too much.
fn read_some(stdout: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stdout.take(MAX_ANSWER + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_ANSWER {
        return Err(io::Error::other("it is too long"));
    }
    Ok(bytes)
}

/// The end of what comes; a pipe that breaks has come to its end.
fn read_last(mut stderr: impl Read) -> Vec<u8> {
    let (mut last, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stderr.read(&mut piece) {
        last.extend_from_slice(&piece[..n]);
        let surplus = last.len().saturating_sub(MAX_COMPLAINT);
        last.drain(..surplus);
    }
    last
}
