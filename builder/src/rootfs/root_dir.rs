//! Paths inside a root directory: links are followed, never out of the root.
//!
//! A rootfs comes from an image, so any of its directories may be a link to `/etc` of the host.
//! Every lookup below goes through `openat2(RESOLVE_IN_ROOT)`, where the kernel treats the root
//! as `/` for absolute links and for `..`.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::Mode;

/// As many links as the kernel follows in one lookup (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// An open directory that is `/` for the paths asked of it.
#[derive(Debug)]
pub struct RootDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// Where a path of a root leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Relative to the root; no component is a link, unless nothing is there.
    pub path: PathBuf,
    /// Whether something is there.
    pub exists: bool,
}

impl RootDir {
    /// Opens the directory at `path`, which itself is looked up as any path of the host.
    pub fn open(path: &Path) -> Result<Self, PathError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty()).at("open", path)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens `path` with `flags`, following links inside the root.
    pub fn open_at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlag::RESOLVE_IN_ROOT)
    }

    /// Opens the regular file `path` for reading; `None` if there is none. Nothing else is opened:
    /// a device node of an image would be a device of the host, and a FIFO would hang the build.
    pub fn open_file_opt(&self, path: &Path) -> Result<Option<File>, PathError> {
        let found = match self.open_at(path, OFlag::O_PATH) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
            Err(error) => return Err(error).at("open", &self.outside(path)),
        };
        if !found.metadata().at("stat", &self.outside(path))?.is_file() {
            return Ok(None);
        }
        File::open(magic_path(&found)).at("open", &self.outside(path)).map(Some)
    }

    /// Whether the root has an executable `/bin/sh`.
    pub fn has_shell(&self) -> bool {
        let Ok(fd) = self.open_at(Path::new("/bin/sh"), OFlag::O_PATH) else { return false };
        nix::sys::stat::fstat(&fd).is_ok_and(|stat| {
            stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFREG && stat.st_mode & 0o111 != 0
        })
    }

    /// Follows the links of `path`; what lies behind a component that is missing is taken as it
    /// is written. `ELOOP` and `ENOTDIR` as for any lookup.
    pub fn locate(&self, path: &Path) -> nix::Result<Located> {
        let mut todo: VecDeque<OsString> = names(path);
        let mut found = PathBuf::new();
        let mut exists = true;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                found.pop();
                // What is above a missing directory may be there again.
                exists = exists || self.no_links(&found).is_ok();
                continue;
            }
            let next = found.join(&name);
            if exists {
                match self.no_links(&next) {
                    Ok(fd) => {
                        if let Some(target) = link_target(fd.as_fd())? {
                            links += 1;
                            if links > MAX_LINKS {
                                return Err(Errno::ELOOP);
                            }
                            if target.as_bytes().starts_with(b"/") {
                                found = PathBuf::new();
                            }
                            for name in names(Path::new(&target)).into_iter().rev() {
                                todo.push_front(name);
                            }
                            continue;
                        }
                    }
                    Err(Errno::ENOENT) => exists = false,
                    Err(error) => return Err(error),
                }
            }
            found = next;
        }
        Ok(Located { path: found, exists })
    }

    /// `path` as the host sees it, for messages.
    pub fn outside(&self, path: &Path) -> PathBuf {
        self.path.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Where the root was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn no_links(&self, path: &Path) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        self.resolve(path, OFlag::O_PATH | OFlag::O_NOFOLLOW, resolve)
    }

    fn resolve(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        openat2(&self.fd, path, how)
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A path for what `fd` has open: for the system calls that take a path only. Needs `/proc`.
pub(crate) fn magic_path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// The components that count: names and `..`.
fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The target, if `fd` is a link.
fn link_target(fd: BorrowedFd<'_>) -> nix::Result<Option<OsString>> {
    match readlinkat(fd, OsStr::new("")) {
        Ok(target) => Ok(Some(target)),
        // What the kernel says of an O_PATH descriptor that is no link.
        Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Turns an errno into the error type of IO.
pub(crate) fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::skip::skip;

    fn root() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path()).unwrap();
        (dir, root)
    }

    fn executable(path: &Path) {
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_shell_is_found_through_links_of_the_root_only() {
        let (dir, root) = root();
        assert!(!root.has_shell());
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        symlink("/usr/bin", dir.path().join("bin")).unwrap();
        symlink("dash", dir.path().join("usr/bin/sh")).unwrap();
        // `dash` is in the host's /usr/bin, but not in the root's.
        assert!(!root.has_shell());
        executable(&dir.path().join("usr/bin/dash"));
        assert!(root.has_shell());
    }

    #[test]
    fn locate_follows_links_and_keeps_a_missing_tail() {
        let (dir, root) = root();
        fs::create_dir_all(dir.path().join("real/etc")).unwrap();
        symlink("/real/etc", dir.path().join("etc")).unwrap();
        symlink("../../run/stub/resolv.conf", dir.path().join("real/etc/resolv.conf")).unwrap();
        let at = |path: &str| {
            let located = root.locate(Path::new(path)).unwrap();
            (located.path.to_str().unwrap().to_owned(), located.exists)
        };
        assert_eq!(at("/etc"), ("real/etc".to_owned(), true));
        assert_eq!(at("/etc/resolv.conf"), ("run/stub/resolv.conf".to_owned(), false));
        assert_eq!(at("/etc/../../.."), (String::new(), true));
        assert_eq!(at("/none/../real"), ("real".to_owned(), true));
        symlink("loop", dir.path().join("loop")).unwrap();
        assert_eq!(root.locate(Path::new("/loop")), Err(Errno::ELOOP));
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(root.locate(Path::new("/file/below")), Err(Errno::ENOTDIR));
    }

    #[test]
    fn no_device_is_opened() {
        use nix::sys::stat::{SFlag, makedev, mknod};
        let (dir, root) = root();
        // Number 254 of the miscellaneous devices is nobody's: to open it is an error.
        let mode = Mode::from_bits_truncate(0o600);
        if let Err(errno) = mknod(&dir.path().join("dev"), SFlag::S_IFCHR, mode, makedev(10, 254)) {
            return skip(format_args!("cannot make a device: {errno}"));
        }
        assert!(root.open_file_opt(Path::new("/dev")).unwrap().is_none());
    }

    #[test]
    fn a_fifo_is_no_file_and_does_not_hang() {
        let (dir, root) = root();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        assert!(root.open_file_opt(Path::new("/fifo")).unwrap().is_none());
        assert!(root.open_file_opt(Path::new("/none")).unwrap().is_none());
    }
}
