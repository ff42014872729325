//! A mount's directory in the store: what lies in it, and how it is cleared away.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::mountinfo::MountInfo;
use super::{MountError, State, overlay};
use crate::content::Stats;
use crate::error::{AtPath, PathError};
use crate::fuse::{self, Greeting};

/// `STORE/mounts/<id>`
#[derive(Clone, Debug)]
pub(super) struct MountDir(PathBuf);

impl MountDir {
    pub(super) fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes a new one in `mounts` and locks it.
    pub(super) fn create(mounts: &Path) -> Result<(Self, File), MountError> {
        loop {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let path = mounts.join(format!("{:x}", now.as_nanos()));
            // The changes in it may hold what other users must not read or run.
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                result => result.at("create", &path)?,
            }
            let dir = Self(path);
            let path = dir.lock_path();
            let lock = File::create_new(&path).at("create", &path)?;
            lock.lock_shared().at("lock", &path)?;
            return Ok((dir, lock));
        }
    }

    pub(super) fn id(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.0.join("lock")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(super) fn lower(&self) -> PathBuf {
        self.0.join("lower")
    }

    /// Where the changes of a writable mount go, and where overlayfs works.
    pub(super) fn upper_and_work(&self, state: &State) -> (PathBuf, PathBuf) {
        match &state.upper {
            Some(upper) => (upper.clone(), overlay::work_beside(upper)),
            None => (self.0.join("upper"), self.0.join("work")),
        }
    }

    /// Takes the lock; `None` while supervisor or server live. A directory without a lock file is
    /// one that was not wholly removed.
    pub(super) fn try_lock(&self) -> Result<Option<StaleLock>, PathError> {
        let path = self.lock_path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some(StaleLock(None)));
            }
            file => file.at("open", &path)?,
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(StaleLock(Some(file)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(PathError { action: "lock", path, source }),
        }
    }

    /// `None` before the state is written, and after the end of the mount.
    pub(super) fn read_state(&self) -> Result<Option<State>, MountError> {
        let path = self.state_path();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.at("read", &path)?,
        };
        let state = serde_json::from_slice(&text);
        state.map(Some).map_err(|source| MountError::State { path, source })
    }

    pub(super) fn write_state(&self, state: &State) -> Result<(), MountError> {
        let path = self.state_path();
        let text = serde_json::to_vec_pretty(state)
            .map_err(|source| MountError::State { path: path.clone(), source })?;
        let new = self.0.join("state.new");
        fs::write(&new, text).at("write", &new)?;
        fs::rename(&new, &path).at("rename", &new)?;
        Ok(())
    }

    /// Clears away what a killed server left: its mounts, its changes if nobody wants them, and
    /// the directory.
    pub(super) fn clear_stale(&self, lock: StaleLock) -> Result<(), MountError> {
        let state = match self.read_state() {
            Ok(state) => state,
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        };
        self.unmount_all(state.as_ref())?;
        self.remove(state.as_ref())?;
        drop(lock);
        Ok(())
    }

    /// Detaches what is mounted for `state`.
    pub(super) fn unmount_all(&self, state: Option<&State>) -> Result<(), MountError> {
        if let Some(state) = state
            && MountInfo::own()?.top_is(state)
        {
            fuse::unmount(&state.mountpoint, true)?;
        }
        if MountInfo::own()?.top(&self.lower()).is_some() {
            fuse::unmount(&self.lower(), true)?;
        }
        Ok(())
    }

    /// Where the server says what it reads.
    pub(super) fn write_stats(&self, stats: &Stats) -> Result<(), PathError> {
        let new = self.0.join("stats.new");
        let json = serde_json::to_vec(stats).expect("plain numbers");
        fs::write(&new, json).at("write", &new)?;
        let path = self.stats_path();
        fs::rename(&new, &path).at("rename", &path)
    }

    /// What the server says that it reads; none if it says nothing yet.
    pub(super) fn read_stats(&self) -> Option<Stats> {
        serde_json::from_slice(&fs::read(self.stats_path()).ok()?).ok()
    }

    fn stats_path(&self) -> PathBuf {
        self.0.join("stats.json")
    }

    pub(super) fn write_greeting(&self, greeting: &Greeting) -> Result<(), PathError> {
        let path = self.greeting_path();
        fs::write(&path, greeting.as_bytes()).at("write", &path)
    }

    pub(super) fn read_greeting(&self) -> Result<Greeting, PathError> {
        let path = self.greeting_path();
        fs::read(&path).and_then(Greeting::from_bytes).at("read", &path)
    }

    /// Which files the kernel reads by itself.
    pub(super) fn passthrough(&self) -> PathBuf {
        self.0.join("passthrough")
    }

    /// What the log ends with.
    pub(super) fn last_log_line(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().next_back().unwrap_or_default().to_owned()
    }

    /// The program that was asked to take over.
    pub(super) fn upgrade_asked(&self) -> Option<PathBuf> {
        fs::read(self.upgrade_path()).ok().map(|path| PathBuf::from(OsString::from_vec(path)))
    }

    /// Asks `program`, an absolute path, to take over. The supervisor has to be told.
    pub(super) fn ask_upgrade(&self, program: &Path) -> Result<(), PathError> {
        remove_file(&self.upgrade_failed_path())?;
        let new = self.0.join("upgrade.new");
        fs::write(&new, program.as_os_str().as_bytes()).at("write", &new)?;
        fs::rename(&new, self.upgrade_path()).at("rename", &new)
    }

    /// Tells who asked for it how the upgrade went: why it did not, if it did not.
    pub(super) fn answer_upgrade(&self, failure: Option<&str>) -> Result<(), PathError> {
        if let Some(failure) = failure {
            let path = self.upgrade_failed_path();
            fs::write(&path, failure).at("write", &path)?;
        }
        remove_file(&self.upgrade_path())
    }

    /// The answer, once it is there.
    pub(super) fn upgrade_answer(&self) -> Option<Result<(), String>> {
        if self.upgrade_path().exists() {
            return None;
        }
        Some(fs::read_to_string(self.upgrade_failed_path()).map_or(Ok(()), Err))
    }

    /// Removes the directory and all that is in it. The lock goes last: as long as it is there
    /// nobody else touches the rest. The state goes first: the mount has ended.
    pub(super) fn remove(&self, state: Option<&State>) -> Result<(), PathError> {
        remove_file(&self.state_path())?;
        remove_file(&self.0.join("state.new"))?;
        if let Some(upper) = state.and_then(|state| state.upper.as_ref()) {
            remove_tree(&overlay::work_beside(upper))?;
        }
        remove_tree(&self.0.join("upper"))?;
        remove_tree(&self.0.join("work"))?;
        // Not as a tree: if the image were still mounted there, this is an error.
        remove_dir(&self.lower())?;
        for path in [self.greeting_path(), self.upgrade_path(), self.upgrade_failed_path()] {
            remove_file(&path)?;
        }
        for name in ["upgrade.new", "stats.json", "stats.new", "passthrough"] {
            remove_file(&self.0.join(name))?;
        }
        remove_file(&self.log())?;
        remove_file(&self.lock_path())?;
        remove_dir(&self.0)
    }

    fn greeting_path(&self) -> PathBuf {
        self.0.join("greeting")
    }

    fn upgrade_path(&self) -> PathBuf {
        self.0.join("upgrade")
    }

    fn upgrade_failed_path(&self) -> PathBuf {
        self.0.join("upgrade.failed")
    }

    fn state_path(&self) -> PathBuf {
        self.0.join("state.json")
    }
}

/// The lock of a directory whose processes are gone.
#[derive(Debug)]
pub(super) struct StaleLock(#[expect(dead_code, reason = "held, not read")] Option<File>);

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn remove_file(path: &Path) -> Result<(), PathError> {
    gone_is_fine(fs::remove_file(path)).at("remove", path)
}

fn remove_dir(path: &Path) -> Result<(), PathError> {
    gone_is_fine(fs::remove_dir(path)).at("remove", path)
}

fn remove_tree(path: &Path) -> Result<(), PathError> {
    gone_is_fine(fs::remove_dir_all(path)).at("remove", path)
}
