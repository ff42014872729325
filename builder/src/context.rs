//! The build context: the directory whose files COPY may take, without those that its ignore file
//! hides. To COPY they are as good as not there.
//!
//! Symlinks are resolved with the context as their root, as if in a chroot; so is `..`: nothing
//! outside the context can be named.

mod ignore;

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};

use crate::copy::BadPattern;
use ignore::Ignore;

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
    ignore: Ignore,
}

impl Context {
    /// Opens a directory, all of which can be seen.
    pub fn open(directory: &Path) -> Result<Self, PathError> {
        let root = directory.canonicalize().at("open the build context", directory)?;
        fs::read_dir(&root).at("read the build context", directory)?;
        Ok(Self { root, ignore: Ignore::default() })
    }

    /// Hides what the ignore file says. That is the first that exists of `FILE.dockerignore` beside
    /// the build file, and of `.containerignore` and `.dockerignore` in the directory.
    pub fn with_ignore_file(self, build_file: &Path) -> Result<Self, ContextError> {
        Ok(Self { ignore: Ignore::find(&self.root, build_file)?, ..self })
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
            let Some(meta) = lstat(&path)? else { return Ok(Lookup::Missing(at)) };
            if let Some(line) = self.hidden_by(&next, meta.is_dir())? {
                return Ok(Lookup::Ignored(line));
            }
            if !meta.is_symlink() || (rest.is_empty() && !follow) {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(LookupError::Loop);
            }
            let target = fs::read_link(&path).at("read the symlink", &path)?;
            if target.is_absolute() {
                at.clear();
            }
            rest.extend(parts(&target).rev());
        }
        Ok(Lookup::Exists(self.root.join(at)))
    }

    /// The names in a directory of the context that are not hidden, sorted by their bytes.
    pub(crate) fn list(&self, directory: &Path) -> Result<Vec<OsString>, PathError> {
        let mut names = list(directory)?;
        if self.ignore.is_empty() {
            return Ok(names);
        }
        let relative = directory.strip_prefix(&self.root).unwrap_or(directory);
        let mut failed = None;
        names.retain(|name| {
            let hidden = lstat(&directory.join(name)).and_then(|meta| {
                self.hidden_by(&relative.join(name), meta.is_some_and(|meta| meta.is_dir()))
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
            for name in list(&self.root.join(&directory))? {
                let path = directory.join(name);
                if self.ignore.line(&path).is_none() {
                    return Ok(true);
                }
                let is_directory = lstat(&self.root.join(&path))?.is_some_and(|meta| meta.is_dir());
                if is_directory && self.ignore.may_show_below(&path) {
                    open.push(path);
                }
            }
        }
        Ok(false)
    }
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
pub(crate) fn lstat(path: &Path) -> Result<Option<Metadata>, PathError> {
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
