//! Running the command of a step on a rootfs.
//!
//! [`Executor`] is the seam: [`Sandbox`] runs the command for real, tests of the build use a
//! fake. What the sandbox shuts out is told in `container` and `host`, and in `privileges`.

mod cgroup;
mod child;
mod container;
mod extra_mounts;
mod host;
mod kernel_files;
mod limits;
mod mounts;
mod network;
mod privileges;
mod sandbox;
mod seccomp;
mod tail;
mod user;
mod wire;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kfs_fs::error::PathError;
use serde::{Deserialize, Serialize};

use crate::interrupt::Interrupted;

pub use cgroup::{Cgroup, CgroupError, Limits};
pub use child::child_main;
pub use host::is_hidden;
pub use limits::{UlimitError, parse_ulimit};
pub use sandbox::Sandbox;
pub use user::{User, UserError};
pub use wire::SANDBOX_ARGUMENT;

/// Runs commands on a rootfs.
pub trait Executor {
    /// Runs `command` to its end, and to the end of everything it started. Each line of its
    /// output (standard output and error in the order written, without the newline; lines over
    /// 8 KiB in pieces) goes to `output` as it comes.
    ///
    /// That the command fails is an [`Outcome`], that it could not be run an error.
    fn run(&self, command: &Command, output: &mut dyn FnMut(&[u8])) -> Result<Outcome, ExecError>;
}

/// A command and the world it sees.
#[derive(Clone, Debug)]
pub struct Command {
    /// The merged rootfs on the host.
    pub rootfs: PathBuf,
    /// Program and arguments; a program without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment: nothing is inherited. With the host's tools `PATH` is replaced (see
    /// [`Sandbox::host_path`]); `HOME` is added where it is missing.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory, inside the rootfs.
    pub cwd: PathBuf,
    /// Who runs it.
    pub user: User,
    /// How far it is shut in.
    pub isolation: Isolation,
    /// Name of the machine that it sees.
    pub hostname: String,
    /// What else it sees and may take.
    pub world: World,
}

/// What a command sees beside its rootfs, and how much it may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct World {
    /// Made after `/dev`, `/proc` and `/sys`, in this order but for those below another one.
    pub mounts: Vec<Mount>,
    /// It has no network but a loopback of its own.
    pub no_network: bool,
    /// More lines of `/etc/hosts`: address and name.
    pub hosts: Vec<(String, String)>,
    /// The most that `/dev/shm` may hold, in bytes; 64 MiB without.
    pub shm_size: Option<u64>,
    /// Resource limits, by their names in limits.conf(5).
    pub ulimits: Vec<Ulimit>,
    /// Control groups that it runs in, by their directories on the host.
    pub cgroups: Vec<PathBuf>,
}

/// Something that is mounted for a command. Its place must be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// In the rootfs, absolute.
    pub target: PathBuf,
    /// What it is.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Bind {
        /// On the host.
        path: PathBuf,
        /// It cannot be written.
        read_only: bool,
    },
    /// A file system in memory, with at most so many bytes.
    Tmpfs(Option<u64>),
    /// A file in memory, which is on no disk.
    File {
        /// What is in it.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// Contents are secrets: none of them is shown.
impl std::fmt::Debug for MountSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bind { path, read_only } => write!(f, "Bind({path:?}, {read_only})"),
            Self::Tmpfs(size) => write!(f, "Tmpfs({size:?})"),
            Self::File { mode, uid, gid, .. } => write!(f, "File({mode:o}, {uid}, {gid})"),
        }
    }
}

/// A resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, ...
    pub name: String,
    /// What holds.
    pub soft: u64,
    /// How far the command may raise it.
    pub hard: u64,
}

/// How far a step is shut in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// [`Container`](Self::Container) if the rootfs has a `/bin/sh`, else [`Host`](Self::Host): for
    /// Kubefiles.
    #[default]
    Auto,
    /// The rootfs is `/`.
    Container,
    /// The host's tools; the rootfs is the current directory and almost the only place that can
    /// be written to. For cluster images, whose rootfs has no tools of its own.
    Host,
    /// The host's tools; the rootfs is the current directory. The command may do what the user
    /// may, but it ends with the run, and so do its mounts.
    None,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its status.
    pub status: Status,
    /// The last lines of its output, fit to be printed.
    pub tail: Vec<String>,
    /// Wall time from start to end, the sandbox's own included.
    pub duration: Duration,
}

/// The status of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// It was ended by this signal.
    Signaled(i32),
}

impl Status {
    /// Whether it exited with 0.
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Exited(code) => write!(f, "exit status {code}"),
            Self::Signaled(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no command.
    #[error("the command is empty")]
    Empty,
    /// A NUL byte in an argument, variable or directory.
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
    /// The rootfs is not there.
    #[error(transparent)]
    Rootfs(PathError),
    /// The working directory is missing or no directory.
    #[error("working directory {} of the step: {source}", path.display())]
    WorkingDirectory {
        /// Inside the rootfs.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program could not be executed.
    #[error("execute {}: {source}", program.display())]
    Program {
        /// As given.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This process may not make namespaces.
    #[error(
        "{action} {}: {source}; running a step needs root, or a user namespace that maps root",
        path.display()
    )]
    NotPermitted {
        /// A verb.
        action: String,
        /// What it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The sandbox could not be set up.
    #[error("set up the sandbox: {action} {}: {source}", path.display())]
    Setup {
        /// A verb.
        action: String,
        /// What it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The processes of the sandbox were killed from outside (or for lack of memory).
    #[error("the step was killed from outside ({how})")]
    Killed {
        /// How the sandbox ended.
        how: String,
    },
    /// The sandbox's process could not be started or talked to.
    #[error("start the sandbox ({}): {source}", program.display())]
    Start {
        /// The program that is to become the sandbox.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A signal asks the build to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The output of the command could not be read.
    #[error("read the output of the step: {0}")]
    Output(io::Error),
}
