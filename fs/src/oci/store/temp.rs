//! Temporary files and directories that leave nothing to clean by hand: each is locked (flock)
//! by the process that made it for as long as it is used. A lock dies with its process, so what
//! can be locked is left over.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::error::{AtPath, PathError};
use crate::mount::MountInfo;

/// A directory that is removed with its value.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

/// A file that is removed with its value unless it was given a name.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    /// Holds the lock.
    file: File,
    kept: bool,
}

impl TempDir {
    pub(super) fn new(parent: &Path) -> Result<Self, PathError> {
        let make = |path: &Path| {
            fs::create_dir(path)?;
            File::open(path)
        };
        if let Err(error) = spread(parent) {
            tracing::debug!("directories in {} lie together: {error}", parent.display());
        }
        let (path, lock) = create(parent, make)?;
        Ok(Self { path, _lock: lock })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!("temporary directory stays until the store is opened again: {error}");
        }
    }
}

impl TempFile {
    pub(super) fn new(parent: &Path) -> Result<Self, PathError> {
        let make =
            |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
        let (path, file) = create(parent, make)?;
        Ok(Self { path, file, kept: false })
    }

    /// Its path, until it is given another.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for reading and writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes at the file's position.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), PathError> {
        self.file.write_all(bytes).at("write", &self.path)
    }

    /// Brings the content to disk and gives it the name `target`, in place of a file that had
    /// it.
    pub fn persist(mut self, target: &Path) -> Result<(), PathError> {
        self.file.sync_all().at("sync", &self.path)?;
        fs::rename(&self.path, target).at("rename to", target)?;
        self.kept = true;
        // A new name is on disk when its directory is.
        let parent = target.parent().expect("a file of the store lies in a directory");
        File::open(parent).and_then(|dir| dir.sync_all()).at("sync", parent)
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            let path = self.path.display();
            tracing::warn!("temporary file {path} stays until the store is opened again: {error}");
        }
    }
}

/// Has directories that are made in `parent` lie in different places of the disk, each with its
/// files, where the file system knows of that (ext4; chattr(1), `T`). Else they share a place, and
/// for minutes after a directory of many files was removed, ext4 goes around each of their inodes
/// for each new file (`recently_deleted` in its ialloc.c): steps of a build that write many files
/// took twice as long.
fn spread(parent: &Path) -> io::Result<()> {
    let dir = File::open(parent)?;
    let flags = ioctl_getflags(&dir)?;
    if !flags.contains(IFlags::TOPDIR) {
        ioctl_setflags(&dir, flags | IFlags::TOPDIR)?;
    }
    Ok(())
}

/// Makes an entry under a fresh name and locks it.
fn create(
    parent: &Path,
    make: impl Fn(&Path) -> io::Result<File>,
) -> Result<(PathBuf, File), PathError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!(".kfs-{}-{number}", std::process::id()));
        let file = match make(&path) {
            Ok(file) => file,
            // Left by a process with our number (or one of another PID namespace), or swept
            // between its making and its opening.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound
                ) && parent.is_dir() =>
            {
                continue;
            }
            Err(error) => return Err(error).at("create", &path),
        };
        match file.try_lock() {
            Ok(()) if is_at(&file, &path)? => return Ok((path, file)),
            // Another process sweeps it already: it was there without a lock for a moment.
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
        }
    }
}

/// Whether `path` still is this file.
pub(super) fn is_at(file: &File, path: &Path) -> Result<bool, PathError> {
    let ours = file.metadata().at("stat", path)?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("stat", path),
    }
}

/// Removes what no process uses any more. What cannot be removed stays and is logged: it must
/// not keep the store from being used.
pub(super) fn sweep(dir: &Path) -> Result<(), PathError> {
    for entry in fs::read_dir(dir).at("read", dir)? {
        let path = entry.at("read", dir)?.path();
        if let Err(error) = sweep_entry(&path) {
            tracing::warn!("left over and not removed: {error}");
        }
    }
    Ok(())
}

/// How many entries no process uses.
pub(super) fn left_over(dir: &Path) -> Result<usize, PathError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.at("read", dir)?,
    };
    let mut left = 0;
    for entry in entries {
        // One that goes away meanwhile is not left over.
        let open = File::open(entry.at("read", dir)?.path());
        left += usize::from(open.is_ok_and(|file| file.try_lock_shared().is_ok()));
    }
    Ok(left)
}

fn sweep_entry(path: &Path) -> Result<(), PathError> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.at("stat", path)?.file_type(),
    };
    if !kind.is_dir() && !kind.is_file() {
        // Never made here.
        return Ok(());
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.at("open", path)?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(error).at("lock", path),
    }
    // Its maker may have removed it, and the name may be another one's by now.
    match is_at(&file, path)? {
        false => Ok(()),
        true if kind.is_dir() => remove_tree(path),
        true => fs::remove_file(path).at("remove", path),
    }
}

/// Removes a directory, except where a mount lies in it: what is mounted is not ours to delete.
fn remove_tree(path: &Path) -> Result<(), PathError> {
    let resolved = fs::canonicalize(path).at("resolve", path)?;
    if let Some(mount_point) = MountInfo::own()?.at_or_below(&resolved) {
        let error = io::Error::new(io::ErrorKind::ResourceBusy, "something is mounted there");
        return Err(PathError { action: "remove", path: mount_point.to_owned(), source: error });
    }
    match fs::remove_dir_all(path) {
        // Work directories of overlays have mode 0, which keeps all but root from listing them.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path).at("remove", path)
        }
        result => result.at("remove", path),
    }
}

/// Gives the owner all rights to the directories of a tree.
fn open_up(dir: &Path) -> Result<(), PathError> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).at("change mode of", dir)?;
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        if entry.file_type().at("stat", dir)?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_spread_where_the_file_system_can_do_that() {
        let dir = tempfile::tempdir().unwrap();
        let [probe, parent] = ["probe", "parent"].map(|name| dir.path().join(name));
        fs::create_dir(&probe).unwrap();
        fs::create_dir(&parent).unwrap();
        let made = TempDir::new(&parent).unwrap();
        assert!(made.path().is_dir());
        let is_set = ioctl_getflags(File::open(&parent).unwrap())
            .is_ok_and(|flags| flags.contains(IFlags::TOPDIR));
        assert_eq!(is_set, spread(&probe).is_ok());
    }

    #[test]
    fn what_is_in_use_survives_a_sweep_and_the_rest_does_not() {
        let parent = tempfile::tempdir().unwrap();
        let dir = TempDir::new(parent.path()).unwrap();
        let file = TempFile::new(parent.path()).unwrap();
        fs::write(parent.path().join("1-0"), "left").unwrap();
        fs::create_dir_all(parent.path().join("1-1/w/work")).unwrap();
        sweep(parent.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        left.sort();
        let mut used = vec![dir.path().to_owned(), file.path().to_owned()];
        used.sort();
        assert_eq!(left, used);
        drop((dir, file));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_persisted_file_stays() {
        let parent = tempfile::tempdir().unwrap();
        let mut file = TempFile::new(parent.path()).unwrap();
        file.write_all(b"x").unwrap();
        let target = parent.path().join("kept");
        file.persist(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"x");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_temporary_directory_without_its_parent() {
        let parent = tempfile::tempdir().unwrap();
        let error = TempDir::new(&parent.path().join("gone")).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }
}
