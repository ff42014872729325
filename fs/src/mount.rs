//! The life of a mount: checks, the server process, its state on disk, the end.
//!
//! ```text
//! STORE/mounts.lock         held while mounts are added or swept, never while one is served
//! STORE/mounts/<id>/lock    held (flock) by the server as long as it lives
//!                  /state.json   written by rename; gone once the mount has ended
//!                  /log     what the server has to say, bounded
//!                  /lower   writable mounts: where the image was mounted until the overlay held it
//!                  /upper   writable mounts: the changes, unless the user named a place for them
//!                  /work    writable mounts: overlayfs's own
//! ```
//!
//! The invariant: a mount's directory belongs to whoever holds its `lock`. The server does from
//! before it exists (its parent hands it the locked file) until it has removed the directory; a
//! directory whose lock is free was left by a server that was killed, and whoever meets it clears
//! it away, dead mounts and droppable changes included.
//!
//! A writable mount is kernel overlayfs over the image, and nothing but the overlay is visible:
//! the image's own mount point is detached as soon as the overlay holds it. So one plain umount
//! ends overlay, image and server, whoever does it.

mod directory;
mod error;
mod log;
mod mountinfo;
mod overlay;
mod process;
mod server;
mod umount;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use self::error::MountError;
pub use self::log::LogFile;
pub use self::process::Process;
pub use self::server::{Pending, ServerFailure, report_failure, report_ready};

use self::directory::MountDir;
use self::mountinfo::MountInfo;
use crate::digest::Digest;
use crate::error::{AtPath, PathError};

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
    /// The server; 0 as long as it has not started.
    pub pid: u32,
    /// When the server started, in clock ticks since boot: with `pid` it names one process.
    pub start_ticks: u64,
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
        let live = self.sweep()?;
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
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            device: None,
        };
        let pending = Pending::new(dir, state, lock);
        pending.write_state()?;
        drop(guard);
        Ok(pending)
    }

    /// All mounts that are served, in the order of their mount points. Those whose server was
    /// killed are cleared away.
    pub fn list(&self) -> Result<Vec<Mount>, MountError> {
        if !self.dir.exists() {
            return Ok(Vec::new());
        }
        let guard = self.lock()?;
        let live = self.sweep()?;
        drop(guard);
        let mut mounts: Vec<Mount> = live
            .into_iter()
            .filter(|state| state.pid != 0)
            .map(|state| {
                // The mount may be in another namespace than ours; it is in its server's.
                let table = MountInfo::of_process(state.pid).unwrap_or_default();
                Mount { attached: table.top_is(&state), state }
            })
            .collect();
        mounts.sort_by(|a, b| a.state.mountpoint.cmp(&b.state.mountpoint));
        Ok(mounts)
    }

    /// Unmounts what kfs mounted at `mountpoint` and waits until its server is gone.
    ///
    /// With `lazy`, a mount that is busy is detached, and its server ends with its last user.
    pub fn unmount(&self, mountpoint: &Path, lazy: bool) -> Result<State, MountError> {
        umount::unmount(self, mountpoint, lazy)
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

    /// Clears away what killed servers left and returns the others' states. What cannot be
    /// cleared away is logged and stays for the next time: it is no reason to refuse a mount
    /// somewhere else. Needs [`Mounts::lock`].
    fn sweep(&self) -> Result<Vec<State>, MountError> {
        let mut live = Vec::new();
        for dir in self.directories()? {
            if let Some(lock) = dir.try_lock()? {
                if let Err(error) = dir.clear_stale(lock) {
                    tracing::warn!("a mount whose server was killed is not cleared: {error}");
                }
            } else if let Some(state) = dir.read_state()? {
                live.push(state);
            }
        }
        Ok(live)
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
    let dead = |error: &io::Error| error.raw_os_error() == Some(nix::libc::ENOTCONN);
    match fs::read_dir(&resolved) {
        Ok(mut entries) => match entries.next() {
            None => Ok(resolved),
            Some(_) => Err(MountError::NotEmpty(resolved)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(MountError::NotADirectory(resolved))
        }
        Err(error) if dead(&error) => Err(MountError::Dead(resolved)),
        Err(source) => Err(PathError { action: "read", path: resolved, source }.into()),
    }
}

/// What `df` and `mount` show as the source of a mount of `image`.
fn source_name(image: &str) -> OsString {
    // mount(2) takes no longer string than a page; and the table is read by people.
    OsString::from(image.chars().take(200).collect::<String>())
}
