//! Which files a COPY puts where.
//!
//! Two rules (see [`CopyRule`]):
//!
//! - **docker**: a directory source means its contents. The destination is a directory if it ends
//!   in `/`, is one in the image, or receives several files; else it is the new name of the one
//!   file. A symlink that is named directly is followed, within the context.
//! - **kubefile**: the destination is always a directory, and every source lands in it under its
//!   own name; but a source with the same name as the destination lands *at* the destination, so
//!   that `COPY charts charts` does not nest. A symlink stays one.
//!
//! ```text
//! patterns --sources--> matches in the context --landing--> (source, path in the image) --> items
//! ```
//!
//! Below the destination a directory goes where a symlink of the image leads; anything else takes
//! the place of what is there, also of a directory, which is told.
//!
//! With `--parents` a source lands below the destination under the whole path that was named, or
//! under what of it stands after a `/./`, by either rule.
//!
//! The context is read, the image is only asked through a callback, nothing is written.

mod landing;
mod mode;
mod owner;
mod pattern;
mod sources;
mod walk;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};
use kfs_fs::layer::{Entry, Timestamp};

use crate::context::{Context, ContextError};
use crate::diff::WHITEOUT;
use crate::kubefile::{CopyRule, Source};
use crate::view::{ImageFile, Stamp};
pub use landing::Difference;
pub(crate) use landing::parents;
pub use mode::{BadMode, Mode};
pub use owner::{Owner, OwnerError, ReadFile};
pub use pattern::BadPattern;
pub(crate) use pattern::Class;

/// Permission bits of directories that COPY makes where the source has none to take them from.
const MADE_DIRECTORY: u32 = 0o755;
/// Permission bits of a heredoc's file.
const MADE_FILE: u32 = 0o644;

/// What a path of the image is, symlinks resolved within the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing, and the path at which it would be made: for a symlink to nothing, its target.
    Absent(Vec<u8>),
    /// A directory.
    Directory(Vec<u8>),
    /// Anything else.
    Other(Vec<u8>),
}

impl Place {
    /// Its path once symlinks are resolved, without a leading slash.
    pub fn path(&self) -> &[u8] {
        let (Self::Absent(path) | Self::Directory(path) | Self::Other(path)) = self;
        path
    }
}

/// Asks the image what a path is: no leading slash, no `.`, `..` or empty components. Fails with
/// `ELOOP` where symlinks lead to each other, and with `ENOTDIR` where they lead below a file.
pub type Look<'a> = dyn FnMut(&[u8]) -> Result<Place, PathError> + 'a;

/// A COPY with its variables expanded.
pub struct Request<'a> {
    /// Paths, patterns and heredocs.
    pub sources: &'a [Source],
    /// As written; relative to `working_dir`.
    pub dest: &'a str,
    /// Absolute.
    pub working_dir: &'a str,
    /// Which rule holds.
    pub rule: CopyRule,
    /// Where the sources are.
    pub context: &'a Context,
    /// Sources that were fetched from elsewhere, by what is written.
    pub fetched: &'a BTreeMap<String, Fetched>,
    /// Makes the tree in an archive of the context that is to be unpacked; none for other files.
    pub unpack: Option<&'a Unpack<'a>>,
    /// `--parents`: sources keep their directories.
    pub parents: bool,
    /// `--exclude`: patterns of what is left out, relative to each source.
    pub exclude: &'a [String],
    /// Whom the items and the directories made for them belong to; none for root, or for the
    /// owner that the context says where that keeps them.
    pub owner: Option<Owner>,
    /// What becomes of the permission bits of files and directories of the context; those in an
    /// archive keep theirs, as in BuildKit.
    pub mode: Option<Mode>,
    /// Modification time of what has none in the context.
    pub made_at: Timestamp,
}

/// Makes the tree in an archive, by its path on this machine; none if the file is none.
pub type Unpack<'a> = dyn Fn(&Path) -> Result<Option<Context>, PathError> + 'a;

/// A source that was brought to this machine.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// What was fetched is all that is in it.
    pub context: Context,
    /// The name of the one file; none if the whole tree was asked for.
    pub file: Option<String>,
    /// Whether it is unpacked if it is an archive.
    pub unpack: bool,
}

/// One member of the new layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyItem {
    /// What the layer says of it.
    pub entry: Entry,
    /// Where a file's bytes come from.
    pub content: Content,
    /// Changes with any change of what is copied, where that is known without reading it.
    pub stamp: Option<Stamp>,
}

/// Where an item's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// It has none.
    None,
    /// A file of the context, by its path on this machine. It may have changed since its size was
    /// taken: whoever reads it has to check.
    File(PathBuf),
    /// A file of an image or of another stage.
    Image(ImageFile),
    /// The lines of a heredoc.
    Inline(Vec<u8>),
}

impl Content {
    /// Opens it for reading; what has no content is empty.
    pub fn open(&self) -> Result<Box<dyn Read + '_>, PathError> {
        Ok(match self {
            Self::None => Box::new(std::io::empty()),
            Self::File(path) => Box::new(File::open(path).at("open", path)?),
            Self::Image(file) => Box::new(file.reader()),
            Self::Inline(bytes) => Box::new(&bytes[..]),
        })
    }
}

/// What a COPY does.
#[derive(Debug)]
pub struct Resolved {
    /// Sorted by path, parents before their children; no path twice.
    pub items: Vec<CopyItem>,
    /// What was named, for the history.
    pub kind: SourceKind,
    /// What the other rule would have done, if it is not the same.
    pub difference: Option<Difference>,
    /// Sockets of the context, which no layer can hold, relative to it.
    pub skipped: Vec<PathBuf>,
    /// Directories of the image that are gone, as something else was copied to their place.
    pub replaced: Vec<Vec<u8>>,
    /// Whether an item has its time from the request.
    pub makes_times: bool,
}

impl Resolved {
    /// The same, unless an item has a name that means something else in a layer.
    pub fn storable(self) -> Result<Self, CopyError> {
        let is_reserved = |item: &&CopyItem| {
            let name = item.entry.path.rsplit(|byte| *byte == b'/').next();
            name.is_some_and(|name| name.starts_with(WHITEOUT))
        };
        match self.items.iter().find(is_reserved) {
            Some(item) => Err(CopyError::ReservedName(item.entry.path.clone())),
            None => Ok(self),
        }
    }
}

/// What a COPY's sources are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// One that is not a directory.
    File,
    /// One directory.
    Directory,
    /// Several.
    Multi,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Directory => "dir",
            Self::Multi => "multi",
        })
    }
}

/// Why a COPY cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Nothing in the context has this name.
    #[error("source {pattern:?} is not in the context ({nearest} is the nearest that exists)")]
    Missing {
        /// As written.
        pattern: String,
        /// The longest part of it that exists.
        nearest: String,
    },
    /// The ignore file hides it.
    #[error("source {pattern:?} is hidden by {line}")]
    Ignored {
        /// As written.
        pattern: String,
        /// The line of the ignore file.
        line: String,
    },
    /// None of the patterns matches.
    #[error("no file of the context matches {0}")]
    NoMatch(String),
    /// A pattern is malformed.
    #[error(transparent)]
    Pattern(#[from] BadPattern),
    /// A symlink whose target is not in the context.
    #[error("source {link:?} is a symlink to {target:?}, which is not in the context")]
    Dangling {
        /// In the context.
        link: PathBuf,
        /// As the link says.
        target: PathBuf,
    },
    /// Symlinks that lead to each other.
    #[error("source {0:?} leads through too many symlinks")]
    Loop(PathBuf),
    /// A socket: no layer can hold one.
    #[error("{0:?} in the context is a socket, which no image can hold")]
    Socket(PathBuf),
    /// A pattern of `--exclude` is malformed.
    #[error("--exclude: {0}")]
    Exclude(#[source] ContextError),
    /// Several sources, and a destination that is no directory.
    #[error(
        "several sources need a destination that is a directory: write {0:?} with a / at its end"
    )]
    NeedsSlash(String),
    /// The destination, or a parent of it, is a file in the image.
    #[error("destination {dest:?}: {path:?} is not a directory in the image")]
    NotDirectory {
        /// As written.
        dest: String,
        /// In the image.
        path: String,
    },
    /// By the kubefile rule a file or symlink that has the destination's name lands at it, and the
    /// image has a directory there. (Below the destination it would replace the directory.)
    #[error("destination {0:?} is a directory in the image, and {1:?} is none")]
    NotFile(String, String),
    /// Two sources need the same path as a file and as a directory.
    #[error("{0:?} would be a file and a directory at once")]
    Conflict(String),
    /// A name that says in a layer that a file is gone.
    #[error(
        "/{} cannot be stored in a layer: names that start with \".wh.\" say that a file is gone; \
         rename it or leave it out",
        String::from_utf8_lossy(.0)
    )]
    ReservedName(Vec<u8>),
    /// The context cannot be read.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Finds out what a COPY adds to the image.
pub fn resolve(request: &Request<'_>, look: &mut Look<'_>) -> Result<Resolved, CopyError> {
    let matches = sources::matches(request)?;
    let mut image = landing::Image::new(look);
    let taken = landing::land(request, request.rule, &matches, &mut image)?;
    let difference = if request.parents {
        // There is one rule for these.
        None
    } else {
        let other = landing::land(request, request.rule.other(), &matches, &mut image);
        landing::difference(request.rule, &taken, &other)
    };
    let kind = match &taken[..] {
        [landing] if landing.is_directory() => SourceKind::Directory,
        [_] => SourceKind::File,
        _ => SourceKind::Multi,
    };
    let mut items = walk::Items::new(request);
    for landing in &taken {
        items.add(landing, &mut image)?;
    }
    Ok(items.finish(kind, difference))
}

#[cfg(test)]
mod tests;
