//! The build context: the directory whose files COPY may take, without those that its ignore file
//! hides. To COPY they are as good as not there. The tree of an image or of another stage can stand
//! in its place; its paths are then absolute paths of that tree.
//!
//! Symlinks are resolved with the context as their root, as if in a chroot; so is `..`: nothing
//! outside the context can be named.

mod ignore;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kfs_fs::error::{AtPath, PathError};
use kfs_fs::filesystem::ReadError;
use kfs_fs::layer::{Device, Kind, Timestamp};
use nix::unistd::{AccessFlags, access};

use crate::cluster::files::Files;
use crate::copy::{BadPattern, Content, Owner};
use crate::diff::Xattrs;
use crate::view::{Seen, Stamp, View, at_path};
pub use ignore::Ignore;

/// As many symlinks as Linux follows in one lookup.
const MAX_LINKS: usize = 40;

/// Why an ignore file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// A line of the ignore file is malformed.
    #[error("{}:{line}: {problem}", file.display())]
    Pattern {
        /// The ignore file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: BadPattern,
    },
    /// There is nothing after a `!`.
    #[error("{}:{line}: a pattern has to follow the !", file.display())]
    Nothing {
        /// The ignore file.
        file: PathBuf,
        /// From 1.
        line: usize,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Symlinks that lead to each other.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("too many symlinks")]
    Loop,
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Where a lookup in the context ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The path on this machine.
    Exists(PathBuf),
    /// The longest part that exists, relative to the context.
    Missing(PathBuf),
    /// It is there, but hidden by this line of the ignore file.
    Ignored(String),
}

/// A directory and what of it is to be seen.
#[derive(Clone, Debug)]
pub struct Context {
    root: PathBuf,
    /// None for a directory of this machine.
    image: Option<View>,
    /// Of an archive: the directories that it has files in but does not describe, without a
    /// leading slash.
    archive: Option<Arc<HashSet<Vec<u8>>>>,
    ignore: Ignore,
}

impl Context {
    /// Opens a directory, all of which can be seen.
    pub fn open(directory: &Path) -> Result<Self, PathError> {
        let root = directory.canonicalize().at("open the build context", directory)?;
        fs::read_dir(&root).at("read the build context", directory)?;
        Ok(Self { root, image: None, archive: None, ignore: Ignore::default() })
    }

    /// All of an image or stage.
    pub(crate) fn of_image(view: View) -> Self {
        let (root, image) = (PathBuf::from("/"), Some(view));
        Self { root, image, archive: None, ignore: Ignore::default() }
    }

    /// All that is in an archive; `implied` are the directories (without a leading slash) that it
    /// may have files in without describing them.
    pub(crate) fn of_archive(view: View, implied: HashSet<Vec<u8>>) -> Self {
        Self { archive: Some(Arc::new(implied)), ..Self::of_image(view) }
    }

    /// Whether it is an archive that is unpacked.
    pub(crate) fn is_archive(&self) -> bool {
        self.archive.is_some()
    }

    /// Whether it is an archive that says something of its root: unpacked, the destination gets
    /// that (as tar does it, and Docker).
    pub(crate) fn has_own_root(&self) -> Result<bool, PathError> {
        Ok(self.is_archive() && !self.is_implied(&self.root)?)
    }

    /// Whether a path is a directory of an archive that no member describes.
    pub(crate) fn is_implied(&self, path: &Path) -> Result<bool, PathError> {
        let bytes = path.as_os_str().as_bytes();
        let name = bytes.strip_prefix(b"/").unwrap_or(bytes);
        if !self.archive.as_ref().is_some_and(|implied| implied.contains(name)) {
            return Ok(false);
        }
        // Some are named only as the place of a marker.
        let made = |seen: &Seen| {
            let never = Timestamp { seconds: 0, nanos: 0 };
            seen.mode == 0o755 && seen.owner == Owner::ROOT && seen.mtime == never
        };
        Ok(self.stat(path)?.is_some_and(|seen| seen.is_directory() && made(&seen)))
    }

    /// The image that it is, if it is one.
    pub(crate) fn view(&self) -> Option<&View> {
        self.image.as_ref()
    }

    /// Whether all that is in the directory can be seen.
    pub(crate) fn hides_nothing(&self) -> bool {
        self.ignore.is_empty()
    }

    /// The directory `root` of this context without what the patterns hide, in which the rules of
    /// an ignore file hold.
    pub(crate) fn excluding(&self, root: &Path, patterns: &[String]) -> Result<Self, ContextError> {
        let ignore = Ignore::parse(PathBuf::from("--exclude"), patterns.join("\n").as_bytes())?;
        Ok(Self { root: root.to_owned(), image: self.image.clone(), archive: None, ignore })
    }

    /// Whether an ignore rule hides what is at a path below the root, and all below that.
    pub(crate) fn hides(&self, path: &Path) -> Result<bool, PathError> {
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        let is_directory = self.stat(path)?.is_some_and(|seen| seen.is_directory());
        Ok(self.hidden_by(relative, is_directory)?.is_some())
    }

    /// Whether what is copied keeps its owner: it does from an image, not from this machine.
    pub(crate) fn keeps_owners(&self) -> bool {
        self.image.is_some()
    }

    /// Hides what the ignore file says. That is the first that exists of `FILE.dockerignore` beside
    /// the build file, and of `.containerignore` and `.dockerignore` in the directory.
    pub fn with_ignore_file(self, build_file: &Path) -> Result<Self, ContextError> {
        Ok(Self { ignore: Ignore::find(&self.root, build_file)?, ..self })
    }

    /// All of it, to be searched.
    pub(crate) fn files(&self) -> Files<'_> {
        self.image.as_ref().map_or(Files::Directory(&self.root), Files::Built)
    }

    /// The directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Resolves symlinks of all components, of the last only if `follow`.
    pub(crate) fn lookup(&self, named: &Path, follow: bool) -> Result<Lookup, LookupError> {
        let mut at = PathBuf::new();
        let mut links = 0;
        let mut rest: Vec<OsString> = parts(named).rev().collect();
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let path = self.root.join(&next);
            let Some(seen) = self.stat(&path)? else { return Ok(Lookup::Missing(at)) };
            if let Some(line) = self.hidden_by(&next, seen.is_directory())? {
                return Ok(Lookup::Ignored(line));
            }
            let target = match seen.kind {
                Some(Kind::Symlink(target)) if !rest.is_empty() || follow => {
                    PathBuf::from(OsString::from_vec(target))
                }
                _ => {
                    at = next;
                    continue;
                }
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(LookupError::Loop);
            }
            if target.is_absolute() {
                at.clear();
            }
            rest.extend(parts(&target).rev());
        }
        Ok(Lookup::Exists(self.root.join(at)))
    }

    /// What is at a path below the root, hidden or not; symlinks are not followed.
    pub(crate) fn stat(&self, path: &Path) -> Result<Option<Seen>, PathError> {
        match &self.image {
            None => lstat(path)?.map(|meta| seen(path, &meta)).transpose(),
            Some(view) => in_image(path, |path| view.stat(path)),
        }
    }

    /// The extended attributes of what is at a path that Docker and buildah copy: what a file may
    /// do, and what users add. All others (ACLs, SELinux labels) belong to the machine.
    pub(crate) fn xattrs(&self, path: &Path) -> Result<Xattrs, PathError> {
        let kept = |name: &[u8]| {
            matches!(name, b"security.capability" | b"security.ima") || name.starts_with(b"user.")
        };
        let mut xattrs = match &self.image {
            None => xattrs(path, kept)?,
            Some(view) => in_image(path, |path| view.xattrs(path))?,
        };
        xattrs.retain(|(name, _)| kept(name));
        xattrs.sort();
        Ok(xattrs)
    }

    /// The content of the regular file at a path.
    pub(crate) fn content(&self, path: &Path) -> Result<Content, PathError> {
        match &self.image {
            None => {
                access(path, AccessFlags::R_OK).at("read", path)?;
                Ok(Content::File(path.to_owned()))
            }
            Some(view) => {
                let file = in_image(path, |path| view.image_file(path))?;
                let missing = || io::Error::from(io::ErrorKind::NotFound);
                file.map(Content::Image).ok_or_else(missing).at("read", path)
            }
        }
    }

    /// All names in a directory below the root, sorted by their bytes.
    fn names(&self, directory: &Path) -> Result<Vec<OsString>, PathError> {
        match &self.image {
            None => list(directory),
            Some(view) => {
                let names = in_image(directory, |path| view.list(path))?;
                Ok(names.into_iter().map(OsString::from_vec).collect())
            }
        }
    }

    /// The names in a directory of the context that are not hidden, sorted by their bytes.
    pub(crate) fn list(&self, directory: &Path) -> Result<Vec<OsString>, PathError> {
        let mut names = self.names(directory)?;
        if self.ignore.is_empty() {
            return Ok(names);
        }
        let relative = directory.strip_prefix(&self.root).unwrap_or(directory);
        let mut failed = None;
        names.retain(|name| {
            let hidden = self.stat(&directory.join(name)).and_then(|seen| {
                self.hidden_by(&relative.join(name), seen.is_some_and(|seen| seen.is_directory()))
            });
            hidden.map_or_else(
                |error| {
                    failed = Some(error);
                    false
                },
                |line| line.is_none(),
            )
        });
        failed.map_or(Ok(names), Err)
    }

    /// The line of the ignore file that hides a path, if one does. A directory is there as long as
    /// anything in it is.
    fn hidden_by(&self, path: &Path, is_directory: bool) -> Result<Option<String>, PathError> {
        let Some(line) = self.ignore.line(path) else { return Ok(None) };
        if is_directory && self.ignore.may_show_below(path) && self.shows_below(path)? {
            return Ok(None);
        }
        Ok(Some(self.ignore.shown(line)))
    }

    /// Whether anything below a hidden directory is shown.
    fn shows_below(&self, directory: &Path) -> Result<bool, PathError> {
        let mut open = vec![directory.to_owned()];
        while let Some(directory) = open.pop() {
            for name in self.names(&self.root.join(&directory))? {
                let path = directory.join(name);
                if self.ignore.line(&path).is_none() {
                    return Ok(true);
                }
                let is_directory =
                    self.stat(&self.root.join(&path))?.is_some_and(|seen| seen.is_directory());
                if is_directory && self.ignore.may_show_below(&path) {
                    open.push(path);
                }
            }
        }
        Ok(false)
    }
}

/// Asks an image about an absolute path.
fn in_image<T>(
    path: &Path,
    ask: impl FnOnce(&[u8]) -> Result<T, ReadError>,
) -> Result<T, PathError> {
    let bytes = path.as_os_str().as_bytes();
    ask(bytes).map_err(|error| at_path(bytes, error))
}

/// The components of a path without root and `.`.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// What is at a path; none if nothing is, or if a parent is no directory.
fn lstat(path: &Path) -> Result<Option<Metadata>, PathError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta)),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).at("stat", path),
    }
}

/// What a layer says of a file of this machine.
fn seen(path: &Path, meta: &Metadata) -> Result<Seen, PathError> {
    let several = meta.nlink() > 1 && !meta.is_dir();
    Ok(Seen {
        kind: kind(path, meta)?,
        mode: meta.mode() & 0o7777,
        owner: Owner { uid: meta.uid(), gid: meta.gid() },
        mtime: Timestamp {
            seconds: meta.mtime(),
            nanos: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        },
        size: meta.len(),
        inode: several.then_some((meta.dev(), meta.ino())),
        stamp: Some(Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }),
    })
}

/// What a path of this machine is in a layer; none for a socket.
fn kind(path: &Path, meta: &Metadata) -> Result<Option<Kind>, PathError> {
    let file_type = meta.file_type();
    Ok(Some(if file_type.is_file() {
        Kind::File
    } else if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        let target = fs::read_link(path).at("read the symlink", path)?;
        Kind::Symlink(target.into_os_string().into_vec())
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else if file_type.is_char_device() {
        Kind::CharDevice(device(path, meta)?)
    } else if file_type.is_block_device() {
        Kind::BlockDevice(device(path, meta)?)
    } else {
        return Ok(None);
    }))
}

fn device(path: &Path, meta: &Metadata) -> Result<Device, PathError> {
    let number =
        |part: u64| u32::try_from(part).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    Ok(Device {
        major: number(nix::sys::stat::major(meta.rdev())).at("read the device number of", path)?,
        minor: number(nix::sys::stat::minor(meta.rdev())).at("read the device number of", path)?,
    })
}

/// All extended attributes of a file of this machine that pass the filter.
fn xattrs(path: &Path, kept: impl Fn(&[u8]) -> bool) -> Result<Xattrs, PathError> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list the attributes of", path),
    };
    let mut xattrs = Vec::new();
    for name in names.filter(|name| kept(name.as_bytes())) {
        if let Some(value) = xattr::get(path, &name).at("read an attribute of", path)? {
            xattrs.push((name.into_vec(), value));
        }
    }
    Ok(xattrs)
}

/// The names in a directory, sorted by their bytes.
fn list(path: &Path) -> Result<Vec<OsString>, PathError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).at("read the directory", path)? {
        names.push(entry.at("read the directory", path)?.file_name());
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}

#[cfg(test)]
mod tests;
