//! What a stage's rootfs holds now, read without mounting it: the base image, and above it the
//! layers of the stage as a delta.

use std::sync::Arc;

use kfs_fs::error::PathError;
use kfs_fs::filesystem::{ImageFs, Ino, ReadError};
use kfs_fs::tree::{self, Metadata};

use crate::copy::Place;

/// As many symlinks are followed as Linux would (`MAXSYMLINKS`).
const MAX_HOPS: u32 = 40;
/// A file that is read whole may not be larger, in bytes. The largest that is asked for are
/// `/etc/passwd` and `/etc/group`.
const MAX_FILE: usize = 16 << 20;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// A base and a delta, either of which may lack.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) base: Option<Arc<ImageFs>>,
    pub(crate) delta: Option<Arc<ImageFs>>,
}

/// Something in a view.
#[derive(Clone, Copy, Debug)]
enum Node {
    /// A directory of the base, the delta, or both.
    Directory { base: Option<Ino>, delta: Option<Ino> },
    /// Anything else, of the delta or of the base.
    Leaf { in_delta: bool, ino: Ino, mode: u32 },
}

/// A node and its path without symlinks and leading slash.
type Found = (Node, Vec<u8>);

impl View {
    /// What a path leads to, symlinks followed from the root of the view.
    pub(crate) fn place(&self, path: &[u8]) -> Result<Place, ReadError> {
        Ok(match self.find(path, true)? {
            None => Place::Absent,
            Some((Node::Directory { .. }, path)) => Place::Directory(path),
            Some((Node::Leaf { .. }, _)) => Place::Other,
        })
    }

    /// The metadata of the directory at a path, in which symlinks are not followed.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<Option<Metadata>, ReadError> {
        let mut node = self.root();
        for name in names(path) {
            match self.child(node, name)? {
                Some(child @ Node::Directory { .. }) => node = child,
                _ => return Ok(None),
            }
        }
        let Node::Directory { base, delta } = node else { return Ok(None) };
        let (fs, ino) = match (&self.delta, delta, &self.base, base) {
            (Some(delta), Some(ino), ..) => (delta, ino),
            (_, _, Some(base), Some(ino)) => (base, ino),
            _ => return Ok(None),
        };
        let attr = fs.attr(ino)?;
        let (mode, uid, gid, mtime) = (attr.mode & 0o7777, attr.uid, attr.gid, attr.mtime);
        Ok(Some(Metadata { mode, uid, gid, mtime, xattrs: xattrs(fs, ino)? }))
    }

    /// The content of the file at a path; none if there is no file.
    pub(crate) fn file(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let Some((Node::Leaf { in_delta, ino, .. }, _)) = self.find(path, true)? else {
            return Ok(None);
        };
        let fs = if in_delta { &self.delta } else { &self.base };
        match fs.as_ref().map(|fs| fs.read(ino, 0, MAX_FILE)) {
            // A device or the like has no content.
            Some(Err(ReadError::WrongKind(_))) | None => Ok(None),
            Some(content) => content.map(Some),
        }
    }

    fn root(&self) -> Node {
        let root = |fs: &Option<Arc<ImageFs>>| fs.as_ref().map(|_| Ino::ROOT);
        Node::Directory { base: root(&self.base), delta: root(&self.delta) }
    }

    fn find(&self, path: &[u8], follow: bool) -> Result<Option<Found>, ReadError> {
        let mut stack: Vec<(Node, Vec<u8>)> = Vec::new();
        let mut todo: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
        let mut hops = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                stack.pop();
                continue;
            }
            let here = stack.last().map_or_else(|| self.root(), |(node, _)| *node);
            let Some(child) = self.child(here, &name)? else { return Ok(None) };
            match self.target(child)? {
                Some(target) if follow || !todo.is_empty() => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        stack.clear();
                    }
                    todo.extend(names(&target).rev().map(<[u8]>::to_vec));
                }
                _ => stack.push((child, name)),
            }
        }
        let node = stack.last().map_or_else(|| self.root(), |(node, _)| *node);
        let path = stack.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(&b'/');
        Ok(Some((node, path)))
    }

    /// The target of a symlink.
    fn target(&self, node: Node) -> Result<Option<Vec<u8>>, ReadError> {
        let Node::Leaf { in_delta, ino, mode } = node else { return Ok(None) };
        let fs = if in_delta { &self.delta } else { &self.base };
        match fs {
            Some(fs) if mode & S_IFMT == S_IFLNK => Ok(Some(fs.readlink(ino)?.to_vec())),
            _ => Ok(None),
        }
    }

    /// What a directory has under a name, by the rules of overlayfs.
    fn child(&self, directory: Node, name: &[u8]) -> Result<Option<Node>, ReadError> {
        let Node::Directory { base, delta } = directory else { return Ok(None) };
        let mut below = match (&self.base, base) {
            (Some(fs), Some(dir)) => fs.lookup(dir, name)?,
            _ => None,
        };
        if let (Some(fs), Some(dir)) = (&self.delta, delta) {
            // A directory that hides what is below it.
            if fs.is_opaque(dir)? {
                below = None;
            }
            if let Some(attr) = fs.lookup(dir, name)? {
                if attr.mode & S_IFMT == S_IFDIR {
                    let below = below.filter(|attr| attr.mode & S_IFMT == S_IFDIR);
                    let base = below.map(|attr| attr.ino);
                    return Ok(Some(Node::Directory { base, delta: Some(attr.ino) }));
                }
                let whiteout = attr.mode & S_IFMT == S_IFCHR && attr.rdev == 0;
                let leaf = Node::Leaf { in_delta: true, ino: attr.ino, mode: attr.mode };
                return Ok((!whiteout).then_some(leaf));
            }
        }
        Ok(below.map(|attr| match attr.mode & S_IFMT {
            S_IFDIR => Node::Directory { base: Some(attr.ino), delta: None },
            _ => Node::Leaf { in_delta: false, ino: attr.ino, mode: attr.mode },
        }))
    }
}

/// What overlayfs says by attributes is said anew by who mounts the delta.
fn xattrs(fs: &ImageFs, ino: Ino) -> Result<Vec<(Vec<u8>, Vec<u8>)>, ReadError> {
    let mut xattrs = Vec::new();
    for name in fs.xattr_names(ino)?.into_iter().filter(|name| *name != tree::OPAQUE_XATTR) {
        let value = fs.xattr(ino, name)?.unwrap_or_default();
        xattrs.push((name.to_vec(), value.to_vec()));
    }
    Ok(xattrs)
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// A read error as one at a path of the image.
pub(crate) fn at_path(path: &[u8], error: ReadError) -> PathError {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::Path::new("/").join(std::ffi::OsStr::from_bytes(path));
    PathError { action: "read", path, source: std::io::Error::other(error) }
}
