//! What a step wrote, as the entries of a layer.
//!
//! Reads the upper directory of an overlay (the kernel's Documentation/filesystems/overlayfs.rst)
//! and tells it in the words of a layer (OCI image spec, layer.md): a whiteout becomes an empty
//! file `.wh.NAME`, an opaque directory is followed by an empty file `.wh..wh..opq` inside it.
//! Parents come before their children, and siblings in the order of the bytes of their names (a
//! whiteout in the place of what it hides), so equal uppers give equal layers. The content of files
//! is not read here.
//!
//! The upper must not be mounted, or at least not be written to, while it is read.

use std::collections::HashMap;
use std::collections::hash_map;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};
use kfs_fs::layer::{Device, Entry, Kind, Timestamp};

/// What a name starts with that says that something is gone (OCI image spec, layer.md).
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The file that says that nothing of the layers below is in its directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// Names and values of extended attributes, in the order of the names.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Where overlayfs keeps its own attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayXattrs {
    /// `trusted.overlay.*`: mounts made by root.
    Trusted,
    /// `user.overlay.*`: mounts made in a user namespace (option `userxattr`).
    User,
}

impl OverlayXattrs {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }
}

/// The metadata of a rootfs's own directory, `/`, before a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootMetadata {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Without overlayfs's own.
    pub xattrs: Xattrs,
}

impl RootMetadata {
    /// The metadata of the directory at `path`.
    pub fn of(path: &Path, overlay: OverlayXattrs) -> Result<Self, DiffError> {
        let metadata = fs::symlink_metadata(path).at("stat", path)?;
        Ok(Self {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            xattrs: Attributes::read(path, overlay)?.kept,
        })
    }
}

/// One entry of the layer to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What the layer says.
    pub entry: Entry,
    /// The file with the content of a [`Kind::File`] of the upper; `None` for all else,
    /// whiteouts included.
    pub content: Option<PathBuf>,
}

/// Why an upper cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// A file has a name that means something else in a layer.
    #[error(
        "/{} cannot be stored in a layer: names that start with \".wh.\" say that a file is gone; \
         rename or remove it in this step",
        String::from_utf8_lossy(.0)
    )]
    ReservedName(Vec<u8>),
    /// Overlayfs redirects and partial copies are switched off in our mounts; found anyway.
    #[error(
        "/{} was written by an overlay mount with other options (attribute {attribute})",
        String::from_utf8_lossy(path)
    )]
    ForeignOverlay {
        /// The file in the upper.
        path: Vec<u8>,
        /// The attribute that gives it away.
        attribute: String,
    },
    /// The upper could not be read.
    #[error(transparent)]
    Read(#[from] PathError),
}

/// The changes in `upper`. `before` is what `/` was before the step: an entry for `/` itself
/// comes first if its mode, owner or attributes are other now. (Its time alone, which any file
/// made in `/` moves, is no change: no other builder records it.)
pub fn changes(upper: &Path, before: &RootMetadata, overlay: OverlayXattrs) -> Changes {
    Changes {
        upper: upper.to_owned(),
        overlay,
        start: Some(before.clone()),
        pending: Vec::new(),
        links: HashMap::new(),
        skipped: Vec::new(),
    }
}

/// An iterator over the changes of a step; holds the names of the directories that are being
/// read, and the first name of each file with several.
#[derive(Debug)]
pub struct Changes {
    upper: PathBuf,
    overlay: OverlayXattrs,
    /// What `/` was; taken by the first call of `next`.
    start: Option<RootMetadata>,
    /// What comes next, last first.
    pending: Vec<Pending>,
    /// Device and inode of a file with several names, and its first name.
    links: HashMap<(u64, u64), Vec<u8>>,
    skipped: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Pending {
    /// A path of the upper.
    Path(Vec<u8>),
    /// A marker, with the time it gets.
    Marker(Vec<u8>, Timestamp),
}

impl Iterator for Changes {
    type Item = Result<Change, DiffError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(before) = self.start.take() {
            match self.root(&before) {
                Ok(None) => {}
                Ok(Some(change)) => return Some(Ok(change)),
                Err(error) => return Some(Err(error)),
            }
        }
        while let Some(pending) = self.pending.pop() {
            match pending {
                Pending::Marker(path, mtime) => return Some(Ok(marker(path, mtime))),
                Pending::Path(path) => match self.read(path) {
                    Ok(None) => {}
                    Ok(Some(change)) => return Some(Ok(change)),
                    Err(error) => {
                        self.pending.clear();
                        return Some(Err(error));
                    }
                },
            }
        }
        None
    }
}

impl Changes {
    /// The sockets met so far: a layer cannot hold them, so they are left out.
    pub fn skipped(&self) -> &[Vec<u8>] {
        &self.skipped
    }

    /// Where `path` lies in the upper.
    fn at(&self, path: &[u8]) -> PathBuf {
        self.upper.join(OsStr::from_bytes(path))
    }

    fn root(&mut self, before: &RootMetadata) -> Result<Option<Change>, DiffError> {
        let now = RootMetadata::of(&self.upper, self.overlay)?;
        self.push_children(&[])?;
        if now == *before {
            return Ok(None);
        }
        let metadata = fs::symlink_metadata(&self.upper).at("stat", &self.upper)?;
        Ok(Some(change(Vec::new(), Kind::Directory, &metadata, now.xattrs)))
    }

    /// The change at `path`, whose children, if any, are then pending; `None` for a socket.
    fn read(&mut self, path: Vec<u8>) -> Result<Option<Change>, DiffError> {
        let file = self.at(&path);
        let metadata = fs::symlink_metadata(&file).at("stat", &file)?;
        let attributes = Attributes::read(&file, self.overlay)?;
        attributes.check(&path)?;
        if attributes.whiteout && metadata.is_file() && metadata.len() == 0
            || metadata.file_type().is_char_device() && metadata.rdev() == 0
        {
            return Ok(Some(marker(whiteout_of(&path), mtime(&metadata))));
        }
        if !metadata.is_dir()
            && metadata.nlink() > 1
            && let Some(first) = self.first_name(&metadata, &path)
        {
            return Ok(Some(change(path, Kind::Hardlink(first), &metadata, attributes.kept)));
        }
        let Some(kind) = kind(&file, &metadata)? else {
            self.skipped.push(path);
            return Ok(None);
        };
        if kind == Kind::Directory {
            self.push_children(&path)?;
            if attributes.opaque {
                let marker = join(&path, OPAQUE);
                self.pending.push(Pending::Marker(marker, mtime(&metadata)));
            }
        }
        let content = (kind == Kind::File).then_some(file);
        Ok(Some(Change { content, ..change(path, kind, &metadata, attributes.kept) }))
    }

    /// The name under which the file was met first, unless that is `path`. Sockets have none.
    fn first_name(&mut self, metadata: &Metadata, path: &[u8]) -> Option<Vec<u8>> {
        if metadata.file_type().is_socket() {
            return None;
        }
        match self.links.entry((metadata.dev(), metadata.ino())) {
            hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            hash_map::Entry::Vacant(place) => {
                place.insert(path.to_vec());
                None
            }
        }
    }

    fn push_children(&mut self, path: &[u8]) -> Result<(), DiffError> {
        let directory = self.at(path);
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).at("read", &directory)? {
            names.push(entry.at("read", &directory)?.file_name().into_vec());
        }
        names.sort_unstable();
        for name in names.into_iter().rev() {
            let child = join(path, &name);
            if name.starts_with(WHITEOUT) {
                return Err(DiffError::ReservedName(child));
            }
            self.pending.push(Pending::Path(child));
        }
        Ok(())
    }
}

/// The extended attributes of a file of an upper.
#[derive(Debug, Default)]
struct Attributes {
    /// Those of the file itself.
    kept: Xattrs,
    /// The directory hides what is below it.
    opaque: bool,
    /// The file stands for "gone" (the form without device nodes, Linux 6.7).
    whiteout: bool,
    /// An attribute of a feature that is off in our mounts.
    foreign: Option<&'static str>,
}

impl Attributes {
    fn read(path: &Path, overlay: OverlayXattrs) -> Result<Self, DiffError> {
        let mut attributes = Self::default();
        let names = match xattr::list(path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(attributes),
            Err(error) => return Err(error).at("list attributes of", path)?,
        };
        for name in names {
            // Gone between the two calls cannot be: nobody writes to the upper.
            let value = xattr::get(path, &name).at("read attributes of", path)?.unwrap_or_default();
            let name = name.into_vec();
            match name.strip_prefix(overlay.prefix()) {
                None if is_of_the_host(&name) => {}
                None => attributes.kept.push((name, value)),
                Some(b"opaque") => attributes.opaque = value == b"y",
                Some(b"whiteout") => attributes.whiteout = true,
                Some(b"redirect") => attributes.foreign = Some("redirect"),
                Some(b"metacopy") => attributes.foreign = Some("metacopy"),
                // Notes of overlayfs to itself: origin, impure, nlink, uuid, ...
                Some(_) => {}
            }
        }
        attributes.kept.sort_unstable();
        Ok(attributes)
    }

    fn check(&self, path: &[u8]) -> Result<(), DiffError> {
        match self.foreign {
            None => Ok(()),
            Some(attribute) => Err(DiffError::ForeignOverlay {
                path: path.to_vec(),
                attribute: format!("overlay.{attribute}"),
            }),
        }
    }
}

/// Whether an attribute says something about this machine only: labels of its security modules, and
/// what it has signed. What a program may do goes with the file.
fn is_of_the_host(name: &[u8]) -> bool {
    name.starts_with(b"security.") && !matches!(name, b"security.capability" | b"security.ima")
}

/// `None` for a socket.
fn kind(file: &Path, metadata: &Metadata) -> Result<Option<Kind>, DiffError> {
    let is = metadata.file_type();
    let device = || Device {
        // The numbers of a device are 32 bits wide in the kernel.
        major: u32::try_from(nix::sys::stat::major(metadata.rdev())).unwrap_or(u32::MAX),
        minor: u32::try_from(nix::sys::stat::minor(metadata.rdev())).unwrap_or(u32::MAX),
    };
    Ok(Some(if is.is_file() {
        Kind::File
    } else if is.is_dir() {
        Kind::Directory
    } else if is.is_symlink() {
        Kind::Symlink(fs::read_link(file).at("read link", file)?.into_os_string().into_vec())
    } else if is.is_char_device() {
        Kind::CharDevice(device())
    } else if is.is_block_device() {
        Kind::BlockDevice(device())
    } else if is.is_fifo() {
        Kind::Fifo
    } else {
        return Ok(None);
    }))
}

fn change(path: Vec<u8>, kind: Kind, metadata: &Metadata, xattrs: Xattrs) -> Change {
    let size = if kind == Kind::File { metadata.len() } else { 0 };
    let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777);
    let entry = Entry { path, kind, mode, uid, gid, mtime: mtime(metadata), size, xattrs };
    Change { entry, content: None }
}

/// An empty file that says something by its name alone.
fn marker(path: Vec<u8>, mtime: Timestamp) -> Change {
    let (kind, xattrs) = (Kind::File, Vec::new());
    let entry = Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, size: 0, xattrs };
    Change { entry, content: None }
}

fn mtime(metadata: &Metadata) -> Timestamp {
    let nanos = u32::try_from(metadata.mtime_nsec()).expect("nanoseconds are below 10^9");
    Timestamp { seconds: metadata.mtime(), nanos }
}

/// The path of a name in a directory, which is empty for the root.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn whiteout_of(path: &[u8]) -> Vec<u8> {
    let split = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    [&path[..split], WHITEOUT, &path[split..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip::skip;

    /// An upper in a plain directory, with attributes that need no privileges.
    struct Upper(tempfile::TempDir);

    impl Upper {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn mark(&self, path: &str, name: &str, value: &[u8]) {
            xattr::set(self.0.path().join(path), name, value).unwrap();
        }

        fn changes(&self) -> Changes {
            let before = RootMetadata::of(self.0.path(), OverlayXattrs::User).unwrap();
            changes(self.0.path(), &before, OverlayXattrs::User)
        }

        fn paths(&self) -> Vec<String> {
            let path = |change: Result<Change, _>| change.unwrap().entry.path;
            self.changes().map(|change| String::from_utf8(path(change)).unwrap()).collect()
        }
    }

    #[test]
    fn parents_come_first_and_siblings_in_byte_order() {
        let upper = Upper::new();
        for path in ["b", "a/z", "a/Z", "a.b", "\u{e9}", "a/b/c"] {
            upper.file(path, "");
        }
        assert_eq!(upper.paths(), ["a", "a/Z", "a/b", "a/b/c", "a/z", "a.b", "b", "\u{e9}"]);
        assert_eq!(upper.paths(), upper.paths());
    }

    #[test]
    fn marks_of_the_overlay_become_names_and_nothing_else() {
        let upper = Upper::new();
        upper.file("dir/gone", "");
        upper.mark("dir/gone", "user.overlay.whiteout", b"");
        upper.mark("dir", "user.overlay.opaque", b"x");
        upper.file("opaque/new", "text");
        upper.mark("opaque", "user.overlay.opaque", b"y");
        upper.mark("opaque/new", "user.overlay.origin", b"\0");
        upper.mark("opaque/new", "user.note", b"kept");
        let expected = ["dir", "dir/.wh.gone", "opaque", "opaque/.wh..wh..opq", "opaque/new"];
        assert_eq!(upper.paths(), expected);
        let all: Vec<_> = upper.changes().map(Result::unwrap).collect();
        assert_eq!(all[4].entry.xattrs, [(b"user.note".to_vec(), b"kept".to_vec())]);
        assert_eq!(all[4].entry.size, 4);
        assert_eq!(
            (&all[1].entry.kind, all[1].entry.size, &all[1].content),
            (&Kind::File, 0, &None)
        );
        assert!(all[2].entry.xattrs.is_empty());
    }

    #[test]
    fn labels_of_the_host_stay_behind() {
        let upper = Upper::new();
        let file = upper.file("file", "");
        for (name, value) in [("security.selinux", &b"label"[..]), ("security.ima", b"\x04\x04")] {
            if let Err(error) = xattr::set(&file, name, value) {
                return skip(format_args!("cannot set an attribute {name}: {error}"));
            }
        }
        upper.mark("", "security.selinux", b"label");
        let root = RootMetadata::of(upper.0.path(), OverlayXattrs::User).unwrap();
        assert_eq!(root.xattrs, []);
        let all: Vec<_> = upper.changes().map(Result::unwrap).collect();
        let names: Vec<_> = all[0].entry.xattrs.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, [b"security.ima"]);
    }

    #[test]
    fn names_of_one_file_stay_one_file() {
        let upper = Upper::new();
        let file = upper.file("m", "12345");
        fs::hard_link(&file, upper.0.path().join("a")).unwrap();
        fs::hard_link(&file, upper.0.path().join("z")).unwrap();
        // Not its other names: one file elsewhere does not count.
        upper.file("n", "12345");
        let kinds: Vec<_> = upper.changes().map(|change| change.unwrap().entry.kind).collect();
        let link = Kind::Hardlink(b"a".to_vec());
        assert_eq!(kinds, [Kind::File, link.clone(), Kind::File, link]);
    }

    #[test]
    fn what_a_layer_cannot_say_is_an_error_and_the_end() {
        let upper = Upper::new();
        upper.file("a/.wh.x", "");
        upper.file("b", "");
        let all: Vec<_> = upper.changes().collect();
        assert_eq!(all.len(), 1);
        let error = all[0].as_ref().unwrap_err().to_string();
        assert!(error.starts_with("/a/.wh.x cannot be stored"), "{error}");
        let upper = Upper::new();
        upper.file("d/x", "");
        upper.mark("d", "user.overlay.redirect", b"/other");
        let error = upper.changes().next().unwrap().unwrap_err().to_string();
        assert!(error.contains("/d was written by an overlay mount"), "{error}");
    }

    #[test]
    fn a_missing_upper_is_an_error_that_names_it() {
        let upper = Upper::new();
        let gone = upper.0.path().join("gone");
        let before = RootMetadata::of(upper.0.path(), OverlayXattrs::User).unwrap();
        let mut all = changes(&gone, &before, OverlayXattrs::User);
        assert!(all.next().unwrap().unwrap_err().to_string().contains("gone"));
        assert!(all.next().is_none());
    }
}
