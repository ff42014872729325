//! Where each source lands in the image: the two rules, and how they differ.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::sources::{Found, Match};
use super::{CopyError, Look, Place, Request};
use crate::config::join;
use crate::context::Context;
use crate::kubefile::{CopyRule, Heredoc};

/// One source and its place.
#[derive(Debug)]
pub(super) struct Landing<'a> {
    pub(super) what: Landed<'a>,
    /// In the image, no leading slash; for a directory the path that its contents are put below.
    pub(super) at: Vec<u8>,
    /// As the user named it, for messages.
    named: String,
    /// Directories of the source above it that land too (`--parents`), and where.
    pub(super) above: Vec<(PathBuf, Vec<u8>)>,
}

/// What lands.
#[derive(Debug)]
pub(super) enum Landed<'a> {
    /// A directory of a context. With `whole` it lands itself, with mode and times; else only
    /// its contents do.
    Directory { context: &'a Context, path: &'a Path, whole: bool },
    /// Anything else of a context, and whether a pattern matched it.
    File { context: &'a Context, path: &'a Path, wild: bool },
    /// A heredoc.
    Inline(&'a Heredoc),
}

impl Landing<'_> {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.what, Landed::Directory { .. })
    }
}

/// The image as COPY sees it: asked once a path, directories that exist are remembered.
pub(super) struct Image<'a, 'b> {
    look: &'a mut Look<'b>,
    /// Paths of directories that the image has, symlinks resolved.
    directories: BTreeSet<Vec<u8>>,
}

impl<'a, 'b> Image<'a, 'b> {
    pub(super) fn new(look: &'a mut Look<'b>) -> Self {
        Self { look, directories: BTreeSet::from([Vec::new()]) }
    }

    /// Whether the image has this directory; asks nothing.
    pub(super) fn has_directory(&self, path: &[u8]) -> bool {
        self.directories.contains(path)
    }

    /// What is at a path whose parents are known. A symlink that leads nowhere, as to itself or
    /// below a file, is something else than a directory, and can be replaced.
    pub(super) fn place(&mut self, path: &[u8]) -> Result<Place, CopyError> {
        use nix::libc::{ELOOP, ENOTDIR};
        match self.follow(path) {
            Err(CopyError::Path(error))
                if matches!(error.source.raw_os_error(), Some(ELOOP | ENOTDIR)) =>
            {
                Ok(Place::Other(path.to_owned()))
            }
            place => place,
        }
    }

    /// Where a path leads whose parents are known.
    fn follow(&mut self, path: &[u8]) -> Result<Place, CopyError> {
        let place = (self.look)(path)?;
        match &place {
            Place::Directory(real) => self.remember(real),
            Place::Absent(real) | Place::Other(real) if real != path => {
                for parent in parents(real) {
                    if let Place::Directory(real) = (self.look)(parent)? {
                        self.remember(&real);
                    }
                }
            }
            Place::Absent(_) | Place::Other(_) => {}
        }
        Ok(place)
    }

    /// Finds an absolute path, symlinks followed, also those that lead to nothing (as BuildKit
    /// does it).
    fn locate(&mut self, dest: &str, absolute: &str) -> Result<Destination, CopyError> {
        let mut named = Vec::new();
        let mut place = Place::Directory(Vec::new());
        for name in absolute.split('/').filter(|name| !name.is_empty()) {
            named = child(place.path(), name.as_bytes());
            place = match place {
                Place::Directory(_) => self.follow(&named)?,
                Place::Absent(_) => Place::Absent(named.clone()),
                Place::Other(path) => {
                    let path = String::from_utf8_lossy(&path).into_owned();
                    return Err(CopyError::NotDirectory { dest: dest.to_owned(), path });
                }
            };
        }
        Ok(Destination { place, named })
    }

    fn remember(&mut self, path: &[u8]) {
        self.directories.extend(parents(path).map(<[u8]>::to_vec));
        self.directories.insert(path.to_owned());
    }
}

/// Where the destination of a COPY leads.
struct Destination {
    /// With all symlinks followed.
    place: Place,
    /// With all but that of the last name followed.
    named: Vec<u8>,
}

/// The directories above a path, highest first, without the root.
pub(crate) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    slashes.map(|(i, _)| &path[..i])
}

/// `name` below `directory`.
pub(super) fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_owned();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Where the sources land by `rule`.
pub(super) fn land<'a>(
    request: &Request<'_>,
    rule: CopyRule,
    matches: &'a [Match<'a>],
    image: &mut Image<'_, '_>,
) -> Result<Vec<Landing<'a>>, CopyError> {
    if request.parents {
        return with_parents(request, matches, image);
    }
    match rule {
        CopyRule::Docker => docker(request, matches, image),
        CopyRule::Kubefile => kubefile(request, matches, image),
    }
}

fn docker<'a>(
    request: &Request<'_>,
    matches: &'a [Match<'a>],
    image: &mut Image<'_, '_>,
) -> Result<Vec<Landing<'a>>, CopyError> {
    let dest = request.dest;
    let Destination { place, .. } = image.locate(dest, &join(request.working_dir, dest))?;
    let at = place.path();
    let is_file = |m: &Match<'_>| match m {
        Match::Path(found) => !found.is_directory,
        Match::Inline(_) => true,
        Match::Tree(..) => false,
    };
    let slash = matches!(dest.rsplit('/').next(), Some("" | "." | ".."));
    let into = slash || matches!(place, Place::Directory(_));
    let several = request.sources.len() > 1 || matches.len() > 1;
    if several && !into && matches.iter().any(is_file) {
        return Err(CopyError::NeedsSlash(dest.to_owned()));
    }
    if matches!(place, Place::Other(_)) && (slash || !matches.iter().all(is_file)) {
        let path = String::from_utf8_lossy(at).into_owned();
        return Err(CopyError::NotDirectory { dest: dest.to_owned(), path });
    }
    let land = |one: &'a Match<'a>| {
        let named = shown(one);
        let what = match one {
            Match::Inline(heredoc) => Landed::Inline(heredoc),
            Match::Tree(context, _) => contents(context),
            Match::Path(found) => {
                let (context, path) = (found.context, followed(found)?);
                if found.is_directory {
                    Landed::Directory { context, path, whole: false }
                } else {
                    Landed::File { context, path, wild: found.wild }
                }
            }
        };
        let named_there = into && !matches!(what, Landed::Directory { .. });
        let at = if named_there { child(at, &name(one).unwrap_or_default()) } else { at.to_vec() };
        Ok(Landing { what, at, named, above: Vec::new() })
    };
    matches.iter().map(land).collect()
}

/// The path of a source with its symlink followed.
fn followed<'a>(found: &'a Found<'_>) -> Result<&'a Path, CopyError> {
    match (&found.target, &found.link) {
        (Some(target), _) => Ok(target),
        (None, None) => Ok(&found.path),
        (None, Some(target)) => {
            Err(CopyError::Dangling { link: found.named.clone(), target: target.clone() })
        }
    }
}

fn kubefile<'a>(
    request: &Request<'_>,
    matches: &'a [Match<'a>],
    image: &mut Image<'_, '_>,
) -> Result<Vec<Landing<'a>>, CopyError> {
    let dest = request.dest;
    let absolute = join(request.working_dir, dest);
    let Destination { place, named: replaced } = image.locate(dest, &absolute)?;
    let at = place.path();
    // `.` and `..` have no name that a source could have too.
    let dest_name = dest.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let land = |one: &'a Match<'a>| {
        let named = shown(one);
        let name = name(one);
        let same = name.as_deref() == Some(dest_name.as_bytes());
        let what = match one {
            Match::Inline(heredoc) => Landed::Inline(heredoc),
            Match::Tree(context, _) => contents(context),
            Match::Path(found) if found.is_directory && found.link.is_none() => {
                let whole = name.is_some();
                Landed::Directory { context: found.context, path: &found.path, whole }
            }
            Match::Path(Found { context, path, wild, .. }) => {
                Landed::File { context, path, wild: *wild }
            }
        };
        let is_directory = matches!(what, Landed::Directory { .. });
        match (&place, same) {
            (Place::Directory(_), true) if !is_directory => {
                return Err(CopyError::NotFile(dest.to_owned(), named));
            }
            (Place::Other(_), _) if is_directory || !same => {
                let path = String::from_utf8_lossy(at).into_owned();
                return Err(CopyError::NotDirectory { dest: dest.to_owned(), path });
            }
            _ => {}
        }
        let at = match name {
            Some(name) if !same => child(at, &name),
            // It takes the place of a symlink, as it may be one itself.
            Some(_) if !is_directory => replaced.clone(),
            _ => at.to_vec(),
        };
        Ok(Landing { what, at, named, above: Vec::new() })
    };
    matches.iter().map(land).collect()
}

/// `--parents`: each source lands below the destination, which is a directory, under its path.
fn with_parents<'a>(
    request: &Request<'_>,
    matches: &'a [Match<'a>],
    image: &mut Image<'_, '_>,
) -> Result<Vec<Landing<'a>>, CopyError> {
    let dest = request.dest;
    let Destination { place, .. } = image.locate(dest, &join(request.working_dir, dest))?;
    let at = place.path();
    if matches!(place, Place::Other(_)) {
        let path = String::from_utf8_lossy(at).into_owned();
        return Err(CopyError::NotDirectory { dest: dest.to_owned(), path });
    }
    let land = |one: &'a Match<'a>| {
        let named = shown(one);
        let found = match one {
            Match::Path(found) => found,
            Match::Inline(heredoc) => {
                let (what, at) = (Landed::Inline(heredoc), child(at, heredoc.name.as_bytes()));
                return Ok(Landing { what, at, named, above: Vec::new() });
            }
            Match::Tree(context, _) => {
                return Ok(Landing {
                    what: contents(context),
                    at: at.to_vec(),
                    named,
                    above: Vec::new(),
                });
            }
        };
        let (context, path) = (found.context, followed(found)?);
        let kept: Vec<_> = found.named.components().skip(found.pivot).collect();
        let mut above = Vec::new();
        let mut at = at.to_vec();
        for (i, component) in kept.iter().enumerate() {
            at = child(&at, component.as_os_str().as_bytes());
            // As many names up from the source as there are still to come.
            let parent = found.path.ancestors().nth(kept.len() - 1 - i);
            if let (Some(parent), true) = (parent, i + 1 < kept.len()) {
                // A directory goes where a symlink leads.
                if let place @ (Place::Directory(_) | Place::Absent(_)) = image.place(&at)? {
                    place.path().clone_into(&mut at);
                }
                above.push((parent.to_owned(), at.clone()));
            }
        }
        let what = if found.is_directory {
            Landed::Directory { context, path, whole: !kept.is_empty() }
        } else {
            Landed::File { context, path, wild: found.wild }
        };
        Ok(Landing { what, at, named, above })
    };
    matches.iter().map(land).collect()
}

/// All that is in a context.
fn contents(context: &Context) -> Landed<'_> {
    Landed::Directory { context, path: context.root(), whole: false }
}

/// The name that a source has in a directory; none for the context as a whole.
fn name(one: &Match<'_>) -> Option<Vec<u8>> {
    match one {
        Match::Inline(heredoc) => Some(heredoc.name.clone().into_bytes()),
        Match::Tree(..) => None,
        Match::Path(found) => found.named.file_name().map(|name| name.as_bytes().to_vec()),
    }
}

fn shown(one: &Match<'_>) -> String {
    match one {
        Match::Inline(heredoc) => format!("<<{}", heredoc.name),
        Match::Tree(_, name) => name.clone(),
        Match::Path(Found { named, .. }) if named == &PathBuf::new() => ".".to_owned(),
        Match::Path(found) => found.named.display().to_string(),
    }
}

/// What the other COPY rule would have done with the same line.
///
/// Prints as `by the kubefile rule apollo lands at charts/apollo; by the docker rule the contents
/// of apollo land at charts; "# copy=docker" at the head of the file chooses that`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The rule that holds.
    pub taken: CopyRule,
    /// The first source that differs and where it lands, as a clause.
    pub lands: String,
    /// What the other rule does with it, or why that refuses, as a clause.
    pub other: String,
    /// How many further sources differ.
    pub more: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = self.taken.other();
        write!(f, "by the {} rule {}; by the {other} rule {}", self.taken, self.lands, self.other)?;
        if self.more > 0 {
            write!(f, " (and so for {} more)", self.more)?;
        }
        write!(f, "; \"# copy={other}\" at the head of the file chooses that")
    }
}

/// Compares what was done with what the other rule would have done.
pub(super) fn difference(
    taken: CopyRule,
    landings: &[Landing<'_>],
    other: &Result<Vec<Landing<'_>>, CopyError>,
) -> Option<Difference> {
    let others = match other {
        Ok(others) => others,
        Err(error) => {
            let lands = lands(landings.first()?);
            let other = format!("it is refused: {error}");
            return Some(Difference { taken, lands, other, more: 0 });
        }
    };
    let mut differing = landings
        .iter()
        .zip(others)
        .filter(|(one, other)| one.at != other.at || source_path(one) != source_path(other));
    let (one, other) = differing.next()?;
    let (lands, other) = (lands(one), lands(other));
    Some(Difference { taken, lands, other, more: differing.count() })
}

fn source_path<'a>(landing: &Landing<'a>) -> Option<&'a Path> {
    match landing.what {
        Landed::Directory { path, .. } | Landed::File { path, .. } => Some(path),
        Landed::Inline(_) => None,
    }
}

fn lands(landing: &Landing<'_>) -> String {
    let at = String::from_utf8_lossy(&landing.at);
    let Landing { named, what, .. } = landing;
    match what {
        Landed::Directory { .. } if at.is_empty() => format!("the contents of {named} land at /"),
        Landed::Directory { whole: false, .. } => format!("the contents of {named} land at {at}"),
        _ => format!("{named} lands at {at}"),
    }
}
