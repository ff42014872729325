//! What can go wrong with a mount.

use std::io;
use std::path::PathBuf;

use super::process::Process;
use crate::error::PathError;
use crate::fuse::FuseError;

/// Why a mount could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such mount point.
    #[error("mount point {} does not exist", .0.display())]
    Missing(PathBuf),
    /// The mount point is something else.
    #[error("mount point {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The place for the changes is something else.
    #[error("{} is not a directory", .0.display())]
    UpperNotADirectory(PathBuf),
    /// What is in it would be hidden.
    #[error("mount point {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A file system whose server died lies there, and it is none of ours.
    #[error("mount point {} holds a mount whose server is gone", .0.display())]
    Dead(PathBuf),
    /// kfs mounted there already.
    #[error("{image} is already mounted at {}", mountpoint.display())]
    AlreadyMounted {
        /// Where.
        mountpoint: PathBuf,
        /// The image.
        image: String,
    },
    /// overlayfs is not for other users than root.
    #[error("a writable mount is for root only")]
    WritableNeedsRoot,
    /// Two mounts must not share a directory of changes.
    #[error("the changes of the mount at {} are in {}", mountpoint.display(), upper.display())]
    UpperInUse {
        /// The directory.
        upper: PathBuf,
        /// The mount that uses it.
        mountpoint: PathBuf,
    },
    /// The directory of changes lies inside the mount point or the other way round.
    #[error("{} and the mount point {} overlap", upper.display(), mountpoint.display())]
    UpperOverlaps {
        /// The directory.
        upper: PathBuf,
        /// Where.
        mountpoint: PathBuf,
    },
    /// overlayfs does not take the directory for its changes.
    #[error("{} (on {fs_type}) cannot hold an overlay's changes: {source}", upper.display())]
    UnsuitableUpper {
        /// The directory.
        upper: PathBuf,
        /// The type of its file system as in `/proc/mounts`.
        fs_type: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// overlayfs may not be mounted here, or the kernel has none.
    #[error("overlayfs at {}: {source}", mountpoint.display())]
    Overlay {
        /// Where.
        mountpoint: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No mount of kfs is there.
    #[error("{} is not a mount of kfs", .0.display())]
    NotMounted(PathBuf),
    /// The mount is used.
    #[error("{} is in use{}", mountpoint.display(), name_users(users, submounts))]
    Busy {
        /// Where.
        mountpoint: PathBuf,
        /// Processes with their working directory, root, program or files in it.
        users: Vec<Process>,
        /// What is mounted below it.
        submounts: Vec<PathBuf>,
    },
    /// Something else was mounted on top.
    #[error("another file system is mounted over {}", .0.display())]
    Covered(PathBuf),
    /// It is not in this mount namespace, and its server cannot be asked to end it.
    #[error(
        "{} is mounted in another mount namespace, and signal its server, process {pid}: {source}",
        mountpoint.display()
    )]
    OtherNamespace {
        /// Where.
        mountpoint: PathBuf,
        /// The server.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// It was unmounted and its server still runs.
    #[error(
        "{} is unmounted, but process {pid} still serves whoever uses it (a process with an open \
         file in it, or another mount namespace)",
        mountpoint.display()
    )]
    StillServed {
        /// Where.
        mountpoint: PathBuf,
        /// The server.
        pid: u32,
    },
    /// FUSE.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// A file of the store, or the mount point.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The state file is not what this program writes.
    #[error("state file {}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        source: serde_json::Error,
    },
    /// `kfs __serve` was called by somebody else than `kfs mount`.
    #[error("{} is not locked by the process that calls", .0.display())]
    NotHandedOver(PathBuf),
    /// The server process could not be started, or talked to.
    #[error("start of the server: {0}")]
    Start(io::Error),
    /// The server ended before it was ready.
    #[error("the server ended before the mount was ready{}", quote(log))]
    Died {
        /// Last line of its log.
        log: String,
    },
    /// The server did not get ready.
    #[error("the server did not get ready within {seconds} s")]
    Slow {
        /// How long it was waited for.
        seconds: u64,
    },
    /// A signal came before the mount was ready.
    #[error("interrupted by {0}")]
    Interrupted(nix::sys::signal::Signal),
    /// The server died, and the kernel cannot send again what it left unanswered.
    #[error("the server ended ({status}); this kernel cannot go on with another (Linux 6.9 can)")]
    CannotResend {
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// Servers died one after the other.
    #[error("the server ended ({status}) and those after it do not live either{}", quote(log))]
    GivenUp {
        /// How the first of them ended.
        status: std::process::ExitStatus,
        /// Last line of the log.
        log: String,
    },
    /// Another program did not take over.
    #[error("{} is served as before: {reason}", mountpoint.display())]
    Upgrade {
        /// Where.
        mountpoint: PathBuf,
        /// What the supervisor says.
        reason: String,
    },
    /// A server can be replaced only by its supervisor.
    #[error("the supervisor of the mount at {} is gone", .0.display())]
    Unsupervised(PathBuf),
    /// The kernel is too old for another server.
    #[error("this kernel cannot go on with another server (Linux 6.9 can)")]
    NoResend,
    /// The server said why it could not serve.
    #[error("{}", .0.message)]
    Server(super::ServerFailure),
    /// Signals could not be blocked, or threads not started.
    #[error("set-up of the server: {0}")]
    SetUp(io::Error),
    /// The connection to the kernel broke.
    #[error("FUSE session: {0}")]
    Session(io::Error),
}

/// ": sh (12), vim (13) and 2 more"
fn name_users(users: &[Process], submounts: &[PathBuf]) -> String {
    const SHOWN: usize = 4;
    let named: Vec<String> = users
        .iter()
        .map(|user| format!("{} ({})", user.name, user.pid))
        .chain(submounts.iter().map(|path| format!("mount {}", path.display())))
        .collect();
    match named.len() {
        0 => String::new(),
        n if n <= SHOWN => format!(" by {}", named.join(", ")),
        n => format!(" by {} and {} more", named[..SHOWN].join(", "), n - SHOWN),
    }
}

fn quote(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!(": {log}") }
}
