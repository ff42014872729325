//! From the sources of a COPY to what they match in the context.

use std::path::{Path, PathBuf};

use super::pattern::{Pattern, is_pattern};
use super::{CopyError, Request};
use crate::context::{Context, Lookup, LookupError, lstat};
use crate::kubefile::{Heredoc, Source};

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
    /// Whether a pattern matched it.
    pub(super) wild: bool,
}

/// What the sources match, in their order.
pub(super) fn matches<'a>(request: &Request<'a>) -> Result<Vec<Match<'a>>, CopyError> {
    let sources = Sources { context: request.context };
    let mut matches = Vec::new();
    let mut unmatched = Vec::new();
    for source in request.sources {
        match source {
            Source::Inline(heredoc) => matches.push(Match::Inline(heredoc)),
            Source::Path(text) => {
                let found = sources.find(text)?;
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

struct Sources<'a> {
    context: &'a Context,
}

/// Why nothing is found under a name.
enum NotFound {
    /// The nearest path that exists.
    Missing(PathBuf),
    /// The line of the ignore file that hides it.
    Ignored(String),
}

impl Sources<'_> {
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
            match self.found(path, wild)? {
                Ok(one) => found.push(one),
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
    fn found(&self, named: PathBuf, wild: bool) -> Result<Result<Found, NotFound>, CopyError> {
        let path = match self.lookup(&named, false)? {
            Lookup::Exists(path) => path,
            Lookup::Missing(nearest) => return Ok(Err(NotFound::Missing(nearest))),
            Lookup::Ignored(line) => return Ok(Err(NotFound::Ignored(line))),
        };
        let is_link = lstat(&path)?.is_some_and(|meta| meta.is_symlink());
        let target = match is_link.then(|| self.lookup(&named, true)).transpose()? {
            None => None,
            Some(Lookup::Exists(target)) => Some(target),
            // A link to nothing is an error only where it has to be followed.
            Some(Lookup::Missing(_) | Lookup::Ignored(_)) => None,
        };
        let end = target.as_deref().unwrap_or(&path);
        let is_directory = lstat(end)?.is_some_and(|meta| meta.is_dir());
        Ok(Ok(Found { named, path, target, is_directory, wild }))
    }

    /// The entries of directories whose names match, sorted.
    fn children(&self, named: &[PathBuf], pattern: &Pattern) -> Result<Vec<PathBuf>, CopyError> {
        let mut children = Vec::new();
        for directory in named {
            let Lookup::Exists(path) = self.lookup(directory, true)? else { continue };
            if !lstat(&path)?.is_some_and(|meta| meta.is_dir()) {
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
