//! What a stage's rootfs holds now, read without mounting it: the base image, and above it the
//! layers of the stage as a delta.

use std::collections::BTreeSet;
use std::io::{self, Cursor};
use std::sync::Arc;

use kfs_fs::error::PathError;
use kfs_fs::filesystem::{ImageFs, Ino, ReadError};
use kfs_fs::layer::{Device, Entry, Kind, Timestamp};
use kfs_fs::tree::Metadata;

use crate::copy::{Owner, Place};
use crate::diff::Xattrs;

/// As many symlinks are followed as Linux would (`MAXSYMLINKS`).
const MAX_HOPS: u32 = 40;
/// A file that is read whole may not be larger, in bytes. The largest that is asked for are
/// `/etc/passwd` and `/etc/group`.
const MAX_FILE: usize = 16 << 20;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFREG: u32 = 0o100_000;
const S_IFIFO: u32 = 0o010_000;
/// How much of a file is read at once, in bytes.
const CHUNK: usize = 1 << 18;

/// A base and a delta, either of which may lack.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub(crate) base: Option<Arc<ImageFs>>,
    pub(crate) delta: Option<Arc<ImageFs>>,
}

/// What is at a path of an image or of a context.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// None for a socket.
    pub(crate) kind: Option<Kind>,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) owner: Owner,
    pub(crate) mtime: Timestamp,
    /// In bytes.
    pub(crate) size: u64,
    /// What names of the same file have in common; none for a file with one name.
    pub(crate) inode: Option<(u64, u64)>,
    /// Of a file of this machine.
    pub(crate) stamp: Option<Stamp>,
}

/// What changes with any change of a file of this machine, beside its size and modification time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Seconds and nanoseconds of the last change of any kind.
    pub(crate) changed: (i64, i64),
}

impl Seen {
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == Some(Kind::Directory)
    }
}

/// A file of an image.
#[derive(Clone, Debug)]
pub struct ImageFile {
    fs: Arc<ImageFs>,
    ino: Ino,
}

impl PartialEq for ImageFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fs, &other.fs) && self.ino == other.ino
    }
}

impl Eq for ImageFile {}

impl ImageFile {
    pub(crate) fn new(fs: Arc<ImageFs>, ino: Ino) -> Self {
        Self { fs, ino }
    }

    /// What no other file or directory has.
    pub(crate) fn identity(&self) -> (u64, u64) {
        (Arc::as_ptr(&self.fs) as u64, self.ino.0)
    }

    /// At most `len` bytes at `offset`; none only at or behind the end.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
        self.fs.read(self.ino, offset, len)
    }

    /// Reads it from its start.
    pub(crate) fn reader(&self) -> impl std::io::Read + use<> {
        ImageReader { file: self.clone(), offset: 0, rest: Cursor::default() }
    }
}

struct ImageReader {
    file: ImageFile,
    /// Of what is read next.
    offset: u64,
    rest: Cursor<Vec<u8>>,
}

impl std::io::Read for ImageReader {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.position() == self.rest.get_ref().len() as u64 {
            let ImageFile { fs, ino } = &self.file;
            let chunk = fs.read(*ino, self.offset, CHUNK).map_err(std::io::Error::other)?;
            self.offset += chunk.len() as u64;
            self.rest = Cursor::new(chunk);
        }
        self.rest.read(buf)
    }
}

/// Something in a view.
#[derive(Clone, Copy, Debug)]
enum Node {
    /// A directory of the base, the delta, or both.
    Directory { base: Option<Ino>, delta: Option<Ino> },
    /// Anything else, of the delta or of the base.
    Leaf { in_delta: bool, ino: Ino, mode: u32 },
}

/// Where a lookup ends.
#[derive(Debug)]
enum Found {
    /// At a node, and its path without symlinks and leading slash.
    Node(Node, Vec<u8>),
    /// At nothing: the path, likewise, under which it would be made.
    Absent(Vec<u8>),
    /// Symlinks lead to each other.
    Loop,
    /// Something that is no directory has names below it.
    BelowFile,
}

impl View {
    /// What a path leads to, symlinks followed from the root of the view, also where they lead to
    /// nothing.
    pub(crate) fn place(&self, path: &[u8]) -> Result<Place, PathError> {
        let failed = |errno: nix::errno::Errno| Err(path_error(path, errno.into()));
        Ok(match self.find(path).map_err(|error| at_path(path, error))? {
            Found::Absent(path) => Place::Absent(path),
            Found::Node(Node::Directory { .. }, path) => Place::Directory(path),
            Found::Node(Node::Leaf { .. }, path) => Place::Other(path),
            Found::Loop => return failed(nix::errno::Errno::ELOOP),
            Found::BelowFile => return failed(nix::errno::Errno::ENOTDIR),
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
        match (&self.delta, delta, &self.base, base) {
            (Some(delta), Some(ino), ..) => delta.metadata(ino).map(Some),
            (_, _, Some(base), Some(ino)) => base.metadata(ino).map(Some),
            _ => Ok(None),
        }
    }

    /// The same as an entry of a layer.
    pub(crate) fn directory_entry(&self, path: &[u8]) -> Result<Option<Entry>, ReadError> {
        let found = self.directory(path)?;
        Ok(found.map(|Metadata { mode, uid, gid, mtime, xattrs }| {
            let (path, kind) = (path.to_owned(), Kind::Directory);
            Entry { path, kind, mode, uid, gid, mtime, size: 0, xattrs }
        }))
    }

    /// What a path leads to, symlinks followed from the root of the view; of an empty view,
    /// nothing.
    pub(crate) fn found(&self, path: &[u8]) -> Result<Option<(Seen, ImageFile)>, ReadError> {
        let Found::Node(_, at) = self.find(path)? else { return Ok(None) };
        Ok(self.stat(&at)?.zip(self.image_file(&at)?))
    }

    /// Whether the last name of a path is that of a symlink.
    pub(crate) fn is_link(&self, path: &[u8]) -> Result<bool, ReadError> {
        let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let Found::Node(_, directory) = self.find(&path[..at])? else { return Ok(false) };
        let seen = self.stat(&[&directory, &b"/"[..], &path[at..]].concat())?;
        Ok(seen.is_some_and(|seen| matches!(seen.kind, Some(Kind::Symlink(_)))))
    }

    /// The names in the directory that a path leads to, sorted; none if it leads to no directory.
    pub(crate) fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, ReadError> {
        match self.find(path)? {
            Found::Node(Node::Directory { .. }, path) => self.list(&path),
            _ => Ok(Vec::new()),
        }
    }

    /// The content of the file at a path; none if there is no file.
    pub(crate) fn file(&self, path: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let Found::Node(Node::Leaf { in_delta, ino, .. }, _) = self.find(path)? else {
            return Ok(None);
        };
        let fs = if in_delta { &self.delta } else { &self.base };
        match fs.as_ref().map(|fs| fs.read(ino, 0, MAX_FILE)) {
            // A device or the like has no content.
            Some(Err(ReadError::WrongKind(_))) | None => Ok(None),
            Some(content) => content.map(Some),
        }
    }

    /// What is at a path in which symlinks are not followed.
    fn node(&self, path: &[u8]) -> Result<Option<Node>, ReadError> {
        let mut node = self.root();
        for name in names(path) {
            match self.child(node, name)? {
                Some(child) => node = child,
                None => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// The inode behind a node; none for the root of an empty view.
    fn inode(&self, node: Node) -> Option<(&Arc<ImageFs>, Ino)> {
        let (in_delta, ino) = match node {
            Node::Directory { delta: Some(ino), .. } => (true, ino),
            Node::Directory { base, .. } => (false, base?),
            Node::Leaf { in_delta, ino, .. } => (in_delta, ino),
        };
        let fs = if in_delta { &self.delta } else { &self.base };
        fs.as_ref().map(|fs| (fs, ino))
    }

    /// What is at a path in which symlinks are not followed.
    pub(crate) fn stat(&self, path: &[u8]) -> Result<Option<Seen>, ReadError> {
        let Some((fs, ino)) = self.node(path)?.and_then(|node| self.inode(node)) else {
            return Ok(None);
        };
        let attr = fs.attr(ino)?;
        let device = || Device {
            major: u32::try_from(nix::sys::stat::major(attr.rdev.into())).unwrap_or(u32::MAX),
            minor: u32::try_from(nix::sys::stat::minor(attr.rdev.into())).unwrap_or(u32::MAX),
        };
        let kind = match attr.mode & S_IFMT {
            S_IFDIR => Some(Kind::Directory),
            S_IFREG => Some(Kind::File),
            S_IFLNK => Some(Kind::Symlink(fs.readlink(ino)?.to_vec())),
            S_IFCHR => Some(Kind::CharDevice(device())),
            S_IFBLK => Some(Kind::BlockDevice(device())),
            S_IFIFO => Some(Kind::Fifo),
            _ => None,
        };
        let several = attr.nlink > 1 && attr.mode & S_IFMT != S_IFDIR;
        Ok(Some(Seen {
            kind,
            mode: attr.mode & 0o7777,
            owner: Owner { uid: attr.uid, gid: attr.gid },
            mtime: attr.mtime,
            size: attr.size,
            // Each image numbers for itself.
            inode: several.then(|| (Arc::as_ptr(fs).addr() as u64, ino.0)),
            stamp: None,
        }))
    }

    /// The names in the directory at a path, sorted; symlinks in the path are not followed.
    pub(crate) fn list(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, ReadError> {
        let Some(node @ Node::Directory { base, delta }) = self.node(path)? else {
            return Err(ReadError::NotADirectory(0));
        };
        let mut names = BTreeSet::new();
        for (fs, ino) in [(&self.base, base), (&self.delta, delta)] {
            let (Some(fs), Some(ino)) = (fs, ino) else { continue };
            let mut place = 0;
            while let Some(entry) = fs.entry_at(ino, place)? {
                names.insert(entry.name);
                place += 1;
            }
        }
        let mut shown = Vec::new();
        for name in names {
            if self.child(node, name)?.is_some() {
                shown.push(name.to_vec());
            }
        }
        Ok(shown)
    }

    /// The extended attributes at a path in which symlinks are not followed.
    pub(crate) fn xattrs(&self, path: &[u8]) -> Result<Xattrs, ReadError> {
        let Some((fs, ino)) = self.node(path)?.and_then(|node| self.inode(node)) else {
            return Ok(Vec::new());
        };
        let mut xattrs = Vec::new();
        for name in fs.xattr_names(ino)? {
            if let Some(value) = fs.xattr(ino, name)? {
                xattrs.push((name.to_vec(), value.to_vec()));
            }
        }
        Ok(xattrs)
    }

    /// The file at a path in which symlinks are not followed.
    pub(crate) fn image_file(&self, path: &[u8]) -> Result<Option<ImageFile>, ReadError> {
        let found = self.node(path)?.and_then(|node| self.inode(node));
        Ok(found.map(|(fs, ino)| ImageFile::new(fs.clone(), ino)))
    }

    fn root(&self) -> Node {
        let root = |fs: &Option<Arc<ImageFs>>| fs.as_ref().map(|_| Ino::ROOT);
        Node::Directory { base: root(&self.base), delta: root(&self.delta) }
    }

    fn find(&self, path: &[u8]) -> Result<Found, ReadError> {
        // None for what is not there.
        let mut stack: Vec<(Option<Node>, Vec<u8>)> = Vec::new();
        let mut todo: Vec<Vec<u8>> = names(path).rev().map(<[u8]>::to_vec).collect();
        let mut hops = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                stack.pop();
                continue;
            }
            let child = match stack.last().map_or_else(|| Some(self.root()), |(node, _)| *node) {
                None => None,
                Some(Node::Leaf { .. }) => return Ok(Found::BelowFile),
                Some(directory) => self.child(directory, &name)?,
            };
            match child.map(|child| self.target(child)).transpose()?.flatten() {
                None => stack.push((child, name)),
                Some(target) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Ok(Found::Loop);
                    }
                    if target.starts_with(b"/") {
                        stack.clear();
                    }
                    todo.extend(names(&target).rev().map(<[u8]>::to_vec));
                }
            }
        }
        let node = stack.last().map_or_else(|| Some(self.root()), |(node, _)| *node);
        let path = stack.into_iter().map(|(_, name)| name).collect::<Vec<_>>().join(&b'/');
        Ok(match node {
            Some(node) => Found::Node(node, path),
            None => Found::Absent(path),
        })
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

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// A read error as one at a path of the image.
pub(crate) fn at_path(path: &[u8], error: ReadError) -> PathError {
    path_error(path, io::Error::other(error))
}

fn path_error(path: &[u8], source: io::Error) -> PathError {
    use std::os::unix::ffi::OsStrExt;
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = std::path::Path::new("/").join(std::ffi::OsStr::from_bytes(path));
    PathError { action: "read", path, source }
}
