//! The writable layer: kernel overlayfs over the mounted image.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;

use super::mountinfo::MountInfo;
use super::{MountError, State};
use crate::error::{AtPath, PathError};

/// Resolves the directory that is to keep the changes. It may be missing, its parent may not.
pub(super) fn check_upper(
    path: &Path,
    mountpoint: &Path,
    live: &[State],
) -> Result<PathBuf, MountError> {
    let upper = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = std::path::absolute(path).at("resolve", path)?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(MountError::NotADirectory(path));
            };
            fs::canonicalize(parent).at("resolve", parent)?.join(name)
        }
        upper => upper.at("resolve", path)?,
    };
    if upper.exists() && !upper.is_dir() {
        return Err(MountError::UpperNotADirectory(upper));
    }
    if upper.starts_with(mountpoint) || mountpoint.starts_with(&upper) {
        return Err(MountError::UpperOverlaps { upper, mountpoint: mountpoint.to_owned() });
    }
    if let Some(state) = live.iter().find(|state| state.upper.as_ref() == Some(&upper)) {
        return Err(MountError::UpperInUse { upper, mountpoint: state.mountpoint.clone() });
    }
    Ok(upper)
}

/// The directory overlayfs works in, which must be on the file system of `upper`.
pub(super) fn work_beside(upper: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(upper.file_name().unwrap_or_default());
    name.push(".kfs-work");
    upper.with_file_name(name)
}

/// The three directories of an overlay and where it is mounted.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    pub(super) lower: &'a Path,
    pub(super) upper: &'a Path,
    pub(super) work: &'a Path,
    pub(super) mountpoint: &'a Path,
}

impl Overlay<'_> {
    /// Makes `upper` and `work` where they are missing and mounts; `name` is the source in the
    /// mount table. What was made is removed again when the mount fails.
    pub(super) fn mount(&self, name: &OsStr) -> Result<(), MountError> {
        let made = make_dir(self.upper)?;
        let result = self.mount_on_upper(name);
        if result.is_err() {
            remove_made(self.work);
            if made {
                remove_made(self.upper);
            }
        }
        result
    }

    fn mount_on_upper(&self, name: &OsStr) -> Result<(), MountError> {
        if fs::read_dir(self.upper).at("read", self.upper)?.next().is_none() {
            copy_root(self.lower, self.upper)?;
        }
        make_dir(self.work)?;
        // The directories stay open until mount(2) has looked at their paths.
        let (lower, _lower) = option_path(self.lower)?;
        let (upper, _upper) = option_path(self.upper)?;
        let (work, _work) = option_path(self.work)?;
        let mut options = OsString::from("lowerdir=");
        options.push(lower);
        options.push(",upperdir=");
        options.push(upper);
        options.push(",workdir=");
        options.push(work);
        // No trusted.overlay.* of an image may send a reader somewhere else, and the upper can
        // be read without its lower. One device and one inode number a file, before and after
        // its first change: xino.
        options.push(",index=off,metacopy=off,redirect_dir=nofollow,xino=on");
        if in_user_namespace() {
            options.push(",userxattr");
        }
        let flags = MsFlags::empty();
        nix::mount::mount(Some(name), self.mountpoint, Some("overlay"), flags, Some(&*options))
            .map_err(|error| self.explain(error))
    }

    fn explain(&self, error: nix::Error) -> MountError {
        let source = io::Error::from(error);
        // What overlayfs says of a file system that cannot hold its changes; the lower is ours
        // and the options are constant.
        if matches!(error, nix::Error::EINVAL | nix::Error::EOPNOTSUPP | nix::Error::EROFS) {
            let table = MountInfo::own().unwrap_or_default();
            let fs_type = table.fs_type_of(self.upper).unwrap_or("an unknown file system");
            return MountError::UnsuitableUpper {
                upper: self.upper.to_owned(),
                fs_type: fs_type.to_owned(),
                source,
            };
        }
        MountError::Overlay { mountpoint: self.mountpoint.to_owned(), source }
    }
}

/// Removes a directory that was made for a mount that failed.
fn remove_made(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("remove {}: {error}", dir.display());
    }
}

/// Makes a directory that only its owner can enter; false if it was there.
fn make_dir(path: &Path) -> Result<bool, PathError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.at("create", path).map(|()| true),
    }
}

/// The root directory of an overlay shows the attributes of its upper: a fresh one gets the
/// image's.
fn copy_root(lower: &Path, upper: &Path) -> Result<(), PathError> {
    let root = lower.metadata().at("stat", lower)?;
    std::os::unix::fs::chown(upper, Some(root.uid()), Some(root.gid())).at("chown", upper)?;
    fs::set_permissions(upper, fs::Permissions::from_mode(root.mode() & 0o7777))
        .at("chmod", upper)?;
    let modified = root.modified().at("stat", lower)?;
    let times = fs::FileTimes::new().set_accessed(modified).set_modified(modified);
    let dir = File::open(upper).at("open", upper)?;
    dir.set_times(times).at("set the times of", upper)
}

/// How a path is written in the options of mount(2): as it is, or, when it holds what separates
/// options and layers or is long (all options must fit in a page), by way of a descriptor.
fn option_path(path: &Path) -> Result<(PathBuf, Option<File>), PathError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() < 1000 && !bytes.iter().any(|byte| b",:\\\"".contains(byte)) {
        return Ok((path.to_owned(), None));
    }
    let dir = File::open(path).at("open", path)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())), Some(dir)))
}

/// Whether this process is in another user namespace than the first, where overlayfs may not
/// write `trusted.*` attributes.
fn in_user_namespace() -> bool {
    // The first one maps all 2^32 - 1 ids to themselves (user_namespaces(7)).
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().ne(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_go_by_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("plain");
        assert_eq!(option_path(&plain).unwrap().0, plain);
        let odd = dir.path().join("a,b:c\\d");
        fs::create_dir(&odd).unwrap();
        let (path, open) = option_path(&odd).unwrap();
        assert!(open.is_some());
        assert_eq!(fs::canonicalize(path).unwrap(), odd.canonicalize().unwrap());
    }

    #[test]
    fn work_is_a_hidden_sibling() {
        assert_eq!(work_beside(Path::new("/x/changes")), Path::new("/x/.changes.kfs-work"));
    }
}
