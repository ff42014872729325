//! From the sources of a COPY to what they match in the context.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};

use super::pattern::{Pattern, is_pattern};
use super::{CopyError, Request};
use crate::kubefile::{Heredoc, Source};

/// As many symlinks as Linux follows in one lookup.
const MAX_LINKS: usize = 40;

/// One thing that is copied.
#[derive(Debug)]
pub(super) enum Match<'a> {
    /// Of the context.
    Path(Found),
    /// A file whose content is in the build file.
    Inline(&'a Heredoc),
}

/// A path that matched.
#[derive(Debug)]
pub(super) struct Found {
    /// The path that was named, patterns filled in, relative to the context, without `..`; empty
    /// for the context itself.
    pub(super) named: PathBuf,
    /// The same on this machine, symlinks of its parents resolved, not those of the last name.
    pub(super) path: PathBuf,
    /// `path` with its own symlink resolved as well; none if it is no symlink.
    pub(super) target: Option<PathBuf>,
    /// Whether it is a directory, symlinks followed.
    pub(super) is_directory: bool,
}

/// What the sources match, in their order.
pub(super) fn matches<'a>(request: &Request<'a>) -> Result<Vec<Match<'a>>, CopyError> {
    let context = Context { root: request.context };
    let mut matches = Vec::new();
    let mut unmatched = Vec::new();
    for source in request.sources {
        match source {
            Source::Inline(heredoc) => matches.push(Match::Inline(heredoc)),
            Source::Path(text) => {
                let found = context.find(text)?;
                if found.is_empty() {
                    unmatched.push(format!("{text:?}"));
                }
                matches.extend(found.into_iter().map(Match::Path));
            }
        }
    }
    // A pattern may match nothing as long as another source is there (as in BuildKit):
    // `COPY package.json yarn.lock* ./`.
    if matches.is_empty() {
        return Err(CopyError::NoMatch(unmatched.join(", ")));
    }
    Ok(matches)
}

struct Context<'a> {
    root: &'a Path,
}

/// Where a lookup in the context ends.
enum Lookup {
    /// The path on this machine.
    Exists(PathBuf),
    /// The longest part that exists, relative to the context.
    Missing(PathBuf),
}

impl Context<'_> {
    /// What a source matches. A source without wildcards has to exist.
    fn find(&self, text: &str) -> Result<Vec<Found>, CopyError> {
        let clean = clean(text);
        let mut named = vec![PathBuf::new()];
        let mut wild = false;
        for part in &clean {
            if is_pattern(part) {
                wild = true;
                let pattern = Pattern::new(part)?;
                named = self.children(&named, &pattern)?;
            } else {
                named.iter_mut().for_each(|path| path.push(part));
            }
        }
        let mut found = Vec::new();
        for path in named {
            match self.found(path)? {
                Ok(one) => found.push(one),
                // A name after a wildcard need not be in every directory.
                Err(_) if wild => {}
                Err(nearest) => {
                    let nearest = match nearest.display().to_string() {
                        empty if empty.is_empty() => "the context itself".to_owned(),
                        path => path,
                    };
                    return Err(CopyError::Missing { pattern: text.to_owned(), nearest });
                }
            }
        }
        Ok(found)
    }

    /// Looks a named path up; the inner error is the nearest path that exists.
    fn found(&self, named: PathBuf) -> Result<Result<Found, PathBuf>, CopyError> {
        let path = match self.lookup(&named, false)? {
            Lookup::Exists(path) => path,
            Lookup::Missing(nearest) => return Ok(Err(nearest)),
        };
        let is_link = lstat(&path)?.is_some_and(|meta| meta.is_symlink());
        let target = match is_link.then(|| self.lookup(&named, true)).transpose()? {
            None => None,
            Some(Lookup::Exists(target)) => Some(target),
            // A link to nothing is an error only where it has to be followed.
            Some(Lookup::Missing(_)) => None,
        };
        let end = target.as_deref().unwrap_or(&path);
        let is_directory = lstat(end)?.is_some_and(|meta| meta.is_dir());
        Ok(Ok(Found { named, path, target, is_directory }))
    }

    /// The entries of directories whose names match, sorted.
    fn children(&self, named: &[PathBuf], pattern: &Pattern) -> Result<Vec<PathBuf>, CopyError> {
        let mut children = Vec::new();
        for directory in named {
            let Lookup::Exists(path) = self.lookup(directory, true)? else { continue };
            if !lstat(&path)?.is_some_and(|meta| meta.is_dir()) {
                continue;
            }
            for name in list(&path)? {
                if pattern.matches(&name.to_string_lossy()) {
                    children.push(directory.join(name));
                }
            }
        }
        Ok(children)
    }

    /// Resolves symlinks of all components, of the last only if `follow`, with the context as `/`.
    fn lookup(&self, named: &Path, follow: bool) -> Result<Lookup, CopyError> {
        let mut at = PathBuf::new();
        let mut links = 0;
        let mut rest: Vec<OsString> = parts(named).rev().collect();
        while let Some(name) = rest.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let path = self.root.join(&at).join(&name);
            let Some(meta) = lstat(&path)? else { return Ok(Lookup::Missing(at)) };
            if !meta.is_symlink() || (rest.is_empty() && !follow) {
                at.push(name);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(CopyError::Loop(named.to_owned()));
            }
            let target = fs::read_link(&path).at("read the symlink", &path)?;
            if target.is_absolute() {
                at.clear();
            }
            rest.extend(parts(&target).rev());
        }
        Ok(Lookup::Exists(self.root.join(at)))
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

/// The parts of a source, `.` and `..` resolved as text; `..` stops at the context, as in Docker.
fn clean(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}

/// What is at a path; none if nothing is, or if a parent is no directory.
pub(super) fn lstat(path: &Path) -> Result<Option<Metadata>, PathError> {
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
pub(super) fn list(path: &Path) -> Result<Vec<OsString>, PathError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).at("read the directory", path)? {
        names.push(entry.at("read the directory", path)?.file_name());
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}
