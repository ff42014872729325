//! The life of a mount: checks, the server process, its state on disk, the end.
//!
//! ```text
//! STORE/mounts.lock         held while mounts are added or swept, never while one is served
//! STORE/mounts/<id>/lock    held (flock, shared) by supervisor and server as long as they live
//!                  /state.json   written by rename; gone once the mount has ended
//!                  /greeting     how the kernel greeted the first server, for those after it
//!                  /stats.json   what the server has read, a moment ago
//!                  /passthrough  which files the kernel reads by itself, for servers after this
//!                  /log     what they have to say, bounded
//!                  /upgrade      the program that is asked to take over, and `.failed`: why not
//!                  /lower   writable mounts: where the image was mounted until the overlay held it
//!                  /upper   writable mounts: the changes, unless the user named a place for them
//!                  /work    writable mounts: overlayfs's own
//! ```
//!
//! A mount has two processes. The server answers the kernel; when it dies, the supervisor, which
//! holds the device, starts another, and users of the mount notice a pause. When the supervisor
//! dies, the server goes on to the end of the mount or of its own. When both are gone, the mount
//! is dead.
//!
//! The invariant: a mount's directory belongs to whoever holds its `lock`. Supervisor and server
//! do from before they exist (the parent hands over the locked file) until the directory is
//! removed; a directory whose lock is free was left by processes that were killed, and whoever
//! meets it clears it away, dead mounts and droppable changes included.
//!
//! A writable mount is kernel overlayfs over the image, and nothing but the overlay is visible:
//! the image's own mount point is detached as soon as the overlay holds it. So one plain umount
//! ends overlay, image and server, whoever does it.

mod chores;
mod directory;
mod error;
mod log;
mod mountinfo;
mod oom;
mod overlay;
mod pending;
mod process;
mod server;
mod supervisor;
mod umount;
mod upgrade;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use self::error::MountError;
pub use self::log::LogFile;
pub use self::pending::{Pending, report_failure, report_ready};
pub use self::process::Process;
pub use self::server::{Reporter, Server, ServerFailure};
pub use self::supervisor::ServerCommand;

use self::directory::MountDir;
pub(crate) use self::mountinfo::MountInfo;
use crate::content::Stats;
use crate::digest::Digest;
use crate::error::{AtPath, PathError};

/// The mounts of kfs that this process sees: device number (`major:minor`) and mount point.
pub fn visible_mounts() -> Result<Vec<(String, PathBuf)>, PathError> {
    Ok(MountInfo::own()?.of_kfs())
}

/// What to mount, where, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// The image as the user named it.
    pub image: String,
    /// Digest of its manifest.
    pub manifest_digest: Digest,
    /// An empty directory.
    pub mountpoint: PathBuf,
    /// Whether it can be written to.
    pub access: Access,
}

/// Whether a mount can be written to, and where the changes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It cannot.
    ReadOnly,
    /// It can; the changes are dropped at the end.
    Scratch,
    /// It can; the changes are kept in this directory, in the form of an overlayfs upper layer.
    Upper(PathBuf),
}

/// A mount as its `state.json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name of its directory.
    pub id: String,
    /// The image as the user named it.
    pub image: String,
    /// Digest of its manifest.
    pub manifest_digest: Digest,
    /// Where it is mounted, absolute and without symbolic links.
    pub mountpoint: PathBuf,
    /// Whether it can be written to.
    pub rw: bool,
    /// Where the changes are kept; none: they are dropped at the end.
    pub upper: Option<PathBuf>,
    /// The supervisor, which takes signals; 0 as long as it has not started.
    pub pid: u32,
    /// When it started, in clock ticks since boot: with `pid` it names one process.
    pub start_ticks: u64,
    /// The server; 0 as long as the mount does not answer.
    pub server_pid: u32,
    /// How many servers died, or were replaced, before this one.
    pub restarts: u32,
    /// When the last of them was replaced, RFC 3339.
    pub restarted: Option<String>,
    /// Why the mount is dead, if the supervisor gave it up.
    pub failure: Option<String>,
    /// When the mount was made, RFC 3339.
    pub started: String,
    /// Device number of what is mounted, `major:minor` as in mountinfo; none until it is.
    pub device: Option<String>,
}

/// A mount that is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Its state.
    #[serde(flatten)]
    pub state: State,
    /// False after a lazy unmount: nobody can enter it any more, and it ends with its last user.
    pub attached: bool,
}

/// What there is, and what was there.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Mounts that are served, in the order of their mount points.
    pub mounts: Vec<Mount>,
    /// Those that were dead, and are gone now.
    pub cleared: Vec<State>,
}

/// What was found in the directories of mounts.
#[derive(Debug, Default)]
struct Swept {
    live: Vec<State>,
    /// Mounts that had been complete, and whose processes were gone.
    cleared: Vec<State>,
}

/// The mounts of one store.
#[derive(Clone, Debug)]
pub struct Mounts {
    dir: PathBuf,
}

impl Mounts {
    /// Those of the store at `store`, an absolute path. Nothing is read yet.
    pub fn new(store: &Path) -> Self {
        Self { dir: store.join("mounts") }
    }

    /// Checks `request` and makes the mount's directory; the next is to serve it.
    pub fn prepare(&self, request: Request) -> Result<Pending, MountError> {
        fs::create_dir_all(&self.dir).at("create", &self.dir)?;
        let guard = self.lock()?;
        let live = self.sweep()?.live;
        let mountpoint = check_mountpoint(&request.mountpoint, &live)?;
        let rw = request.access != Access::ReadOnly;
        if rw && !nix::unistd::geteuid().is_root() {
            return Err(MountError::WritableNeedsRoot);
        }
        let upper = match &request.access {
            Access::ReadOnly | Access::Scratch => None,
            Access::Upper(upper) => Some(overlay::check_upper(upper, &mountpoint, &live)?),
        };
        let (dir, lock) = MountDir::create(&self.dir)?;
        let state = State {
            id: dir.id(),
            image: request.image,
            manifest_digest: request.manifest_digest,
            mountpoint,
            rw,
            upper,
            pid: 0,
            start_ticks: 0,
            server_pid: 0,
            restarts: 0,
            restarted: None,
            failure: None,
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            device: None,
        };
        let pending = Pending::new(dir, state, lock);
        pending.write_state()?;
        drop(guard);
        Ok(pending)
    }

    /// All mounts. Dead ones are cleared away.
    pub fn list(&self) -> Result<Listing, MountError> {
        if !self.dir.exists() {
            return Ok(Listing::default());
        }
        let guard = self.lock()?;
        let Swept { live, cleared } = self.sweep()?;
        drop(guard);
        let mut mounts: Vec<Mount> = live
            .into_iter()
            .filter(|state| state.server_pid != 0)
            .map(|state| {
                // The mount may be in another namespace than ours; it is in its server's.
                let of = |pid| MountInfo::of_process(pid);
                let table = of(state.pid).or_else(|_| of(state.server_pid)).unwrap_or_default();
                Mount { attached: table.top_is(&state), state }
            })
            .collect();
        mounts.sort_by(|a, b| a.state.mountpoint.cmp(&b.state.mountpoint));
        Ok(Listing { mounts, cleared })
    }

    /// How many mounts there are, alive and dead. Changes nothing.
    pub fn count(&self) -> Result<(usize, usize), MountError> {
        let (mut live, mut dead) = (0, 0);
        for dir in self.directories()? {
            match dir.try_lock()? {
                Some(_) => dead += 1,
                None => live += 1,
            }
        }
        Ok((live, dead))
    }

    /// Unmounts what kfs mounted at `mountpoint`, dead or alive, and waits until its processes are
    /// gone.
    ///
    /// With `lazy`, a mount that is busy is detached, and its server ends with its last user.
    pub fn unmount(&self, mountpoint: &Path, lazy: bool) -> Result<(), MountError> {
        umount::unmount(self, mountpoint, lazy)
    }

    /// What the server of a mount has read, at most a second ago; none if it did not say so yet.
    pub fn stats(&self, state: &State) -> Option<Stats> {
        MountDir::at(self.dir.join(&state.id)).read_stats()
    }

    /// Has `program` serve a mount in the place of the program that does now; whoever uses the
    /// mount notices a pause. If it cannot, the mount stays as it is. The state after that.
    pub fn upgrade(&self, state: &State, program: &Path) -> Result<State, MountError> {
        upgrade::upgrade(self, state, program)
    }

    /// The directories of all mounts.
    fn directories(&self) -> Result<Vec<MountDir>, MountError> {
        let mut directories = Vec::new();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(directories),
            entries => entries.at("read", &self.dir)?,
        };
        for entry in entries {
            directories.push(MountDir::at(entry.at("read", &self.dir)?.path()));
        }
        Ok(directories)
    }

    /// Clears away what killed processes left. What cannot be cleared away is logged and stays for
    /// the next time: it is no reason to refuse a mount somewhere else. Needs [`Mounts::lock`].
    fn sweep(&self) -> Result<Swept, MountError> {
        let mut swept = Swept::default();
        for dir in self.directories()? {
            if let Some(lock) = dir.try_lock()? {
                let state = dir.read_state().ok().flatten();
                match dir.clear_stale(lock) {
                    Ok(()) => swept.cleared.extend(state.filter(|state| state.device.is_some())),
                    Err(error) => tracing::warn!("a dead mount is not cleared away: {error}"),
                }
            } else if let Some(state) = dir.read_state()? {
                swept.live.push(state);
            }
        }
        Ok(swept)
    }

    /// Excludes other processes from adding and sweeping mounts until the file is dropped.
    fn lock(&self) -> Result<File, PathError> {
        let path = self.dir.with_extension("lock");
        let file = File::options().create(true).append(true).open(&path).at("open", &path)?;
        file.lock().at("lock", &path)?;
        Ok(file)
    }
}

/// The mount point as the kernel will name it. It must be there, empty, and not in use.
fn check_mountpoint(path: &Path, live: &[State]) -> Result<PathBuf, MountError> {
    let resolved = match fs::canonicalize(path) {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MountError::Missing(path.to_owned()));
        }
        Err(error) => return Err(Err::<(), _>(error).at("resolve", path).unwrap_err().into()),
    };
    let table = MountInfo::own()?;
    let holds = |state: &&State| {
        // One without a device is being mounted right now.
        state.mountpoint == resolved && (state.device.is_none() || table.top_is(state))
    };
    if let Some(state) = live.iter().find(holds) {
        return Err(MountError::AlreadyMounted {
            mountpoint: resolved,
            image: state.image.clone(),
        });
    }
    umount::detach_dead(&resolved)?;
    match fs::read_dir(&resolved) {
        Ok(mut entries) => match entries.next() {
            None => Ok(resolved),
            Some(_) => Err(MountError::NotEmpty(resolved)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(MountError::NotADirectory(resolved))
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOTCONN) => {
            Err(MountError::Dead(resolved))
        }
        Err(source) => Err(PathError { action: "read", path: resolved, source }.into()),
    }
}

/// What `df` and `mount` show as the source of a mount of `image`.
fn source_name(image: &str) -> OsString {
    // mount(2) takes no longer string than a page; and the table is read by people.
    OsString::from(image.chars().take(200).collect::<String>())
}
