//! From the sources of a COPY to what they match in the context.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use kfs_fs::layer::Kind;

use super::pattern::{Pattern, is_pattern};
use super::{CopyError, Fetched, Request};
use crate::context::{Context, Lookup, LookupError};
use crate::kubefile::{Heredoc, Source};

/// One thing that is copied.
#[derive(Debug)]
pub(super) enum Match<'a> {
    /// Of the context, or fetched.
    Path(Found<'a>),
    /// A file whose content is in the build file.
    Inline(&'a Heredoc),
    /// All that is in an archive or a repository, and what that was called.
    Tree(Context, String),
}

/// A path that matched.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Where it is.
    pub(super) context: &'a Context,
    /// The path that was named, patterns filled in, relative to the context, without `..`; empty
    /// for the context itself.
    pub(super) named: PathBuf,
    /// How many components at its start do not count as parents (before `/./`).
    pub(super) pivot: usize,
    /// The same on this machine, symlinks of its parents resolved, not those of the last name.
    pub(super) path: PathBuf,
    /// What `path` says if it is a symlink.
    pub(super) link: Option<PathBuf>,
    /// `path` with its own symlink resolved as well; none if it is no symlink, or leads nowhere.
    pub(super) target: Option<PathBuf>,
    /// Whether it is a directory, symlinks followed.
    pub(super) is_directory: bool,
    /// Whether a pattern matched it.
    pub(super) wild: bool,
}

/// What the sources match, in their order.
pub(super) fn matches<'a>(request: &Request<'a>) -> Result<Vec<Match<'a>>, CopyError> {
    let mut matches = Vec::new();
    let mut unmatched = Vec::new();
    for source in request.sources {
        match source {
            Source::Inline(heredoc) => matches.push(Match::Inline(heredoc)),
            Source::Path(text) => {
                let before = matches.len();
                add_matches(request, text, &mut matches)?;
                if matches.len() == before {
                    unmatched.push(format!("{text:?}"));
                }
            }
        }
    }
    // A pattern may match nothing as long as another source is there (as in BuildKit):
    // `COPY package.json yarn.lock* ./`. With nothing at all buildah and Docker's older builder
    // fail, as kfs does, BuildKit does not.
    if matches.is_empty() {
        return Err(CopyError::NoMatch(unmatched.join(", ")));
    }
    Ok(matches)
}

/// Adds what one source matches; an archive that is to be unpacked is what is in it.
fn add_matches<'a>(
    request: &Request<'a>,
    text: &str,
    matches: &mut Vec<Match<'a>>,
) -> Result<(), CopyError> {
    let fetched = request.fetched.get(text);
    let context = fetched.map_or(request.context, |fetched| &fetched.context);
    let sources = Sources { context, recursive: request.parents };
    let found = match fetched {
        None => sources.find(text)?,
        // A name, whatever characters are in it.
        Some(Fetched { file: Some(name), .. }) => {
            sources.found(PathBuf::from(name), false)?.into_iter().collect()
        }
        Some(Fetched { file: None, context, .. }) => {
            matches.push(Match::Tree(context.clone(), text.to_owned()));
            return Ok(());
        }
    };
    let unpack = request.unpack.filter(|_| fetched.is_none_or(|fetched| fetched.unpack));
    for one in found {
        let file = one.target.as_deref().unwrap_or(&one.path);
        let tree = match unpack {
            Some(unpack) if !one.is_directory => unpack(file)?,
            _ => None,
        };
        matches.push(match tree {
            Some(tree) => Match::Tree(tree, one.named.display().to_string()),
            None => Match::Path(one),
        });
    }
    Ok(())
}

struct Sources<'a> {
    context: &'a Context,
    /// `**` stands for any number of directories.
    recursive: bool,
}

/// Why nothing is found under a name.
enum NotFound {
    /// The nearest path that exists.
    Missing(PathBuf),
    /// The line of the ignore file that hides it.
    Ignored(String),
}

impl<'a> Sources<'a> {
    /// What a source matches. A source without wildcards has to exist.
    fn find(&self, text: &str) -> Result<Vec<Found<'a>>, CopyError> {
        let pivot = text.rfind("/./").map_or(0, |at| clean(&text[..at]).len());
        let mut named = vec![PathBuf::new()];
        let mut wild = false;
        for part in clean(text) {
            if self.recursive && part == "**" {
                wild = true;
                named = self.below(named)?;
            } else if is_pattern(part) {
                wild = true;
                let pattern = Pattern::new(part)?;
                named = self.children(&named, &pattern)?;
            } else {
                named.iter_mut().for_each(|path| path.push(part));
            }
        }
        let mut found = Vec::new();
        for path in named {
            match self.found(path, wild)? {
                Ok(one) => found.push(Found { pivot, ..one }),
                // A name after a wildcard need not be in every directory.
                Err(_) if wild => {}
                Err(NotFound::Ignored(line)) => {
                    return Err(CopyError::Ignored { pattern: text.to_owned(), line });
                }
                Err(NotFound::Missing(nearest)) => {
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

    /// Looks a named path up.
    fn found(&self, named: PathBuf, wild: bool) -> Result<Result<Found<'a>, NotFound>, CopyError> {
        let path = match self.lookup(&named, false)? {
            Lookup::Exists(path) => path,
            Lookup::Missing(nearest) => return Ok(Err(NotFound::Missing(nearest))),
            Lookup::Ignored(line) => return Ok(Err(NotFound::Ignored(line))),
        };
        let link = match self.context.stat(&path)?.and_then(|seen| seen.kind) {
            Some(Kind::Symlink(target)) => Some(PathBuf::from(OsString::from_vec(target))),
            _ => None,
        };
        let target = match link.as_ref().map(|_| self.lookup(&named, true)).transpose()? {
            None => None,
            Some(Lookup::Exists(target)) => Some(target),
            // A link to nothing is an error only where it has to be followed.
            Some(Lookup::Missing(_) | Lookup::Ignored(_)) => None,
        };
        let end = target.as_deref().unwrap_or(&path);
        let is_directory = self.context.stat(end)?.is_some_and(|seen| seen.is_directory());
        let (context, pivot) = (self.context, 0);
        Ok(Ok(Found { context, named, pivot, path, link, target, is_directory, wild }))
    }

    /// The entries of directories whose names match, sorted.
    fn children(&self, named: &[PathBuf], pattern: &Pattern) -> Result<Vec<PathBuf>, CopyError> {
        let mut children = Vec::new();
        for directory in named {
            let Lookup::Exists(path) = self.lookup(directory, true)? else { continue };
            if !self.context.stat(&path)?.is_some_and(|seen| seen.is_directory()) {
                continue;
            }
            for name in self.context.list(&path)? {
                if pattern.matches(&name.to_string_lossy()) {
                    children.push(directory.join(name));
                }
            }
        }
        Ok(children)
    }

    /// The directories themselves, and all directories below them.
    fn below(&self, directories: Vec<PathBuf>) -> Result<Vec<PathBuf>, CopyError> {
        let mut all = Vec::new();
        let mut open: Vec<_> = directories.into_iter().rev().collect();
        while let Some(directory) = open.pop() {
            let Lookup::Exists(path) = self.lookup(&directory, false)? else { continue };
            if !self.context.stat(&path)?.is_some_and(|seen| seen.is_directory()) {
                continue;
            }
            let names = self.context.list(&path)?;
            open.extend(names.into_iter().rev().map(|name| directory.join(name)));
            all.push(directory);
        }
        Ok(all)
    }

    fn lookup(&self, named: &Path, follow: bool) -> Result<Lookup, CopyError> {
        self.context.lookup(named, follow).map_err(|error| match error {
            LookupError::Loop => CopyError::Loop(named.to_owned()),
            LookupError::Path(error) => error.into(),
        })
    }
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
