//! From landings to the members of a layer: walks directories, makes parents.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};
use kfs_fs::layer::{Device, Entry, Kind, Timestamp};
use nix::unistd::{AccessFlags, access};

use super::landing::{Image, Landed, Landing, child};
use super::{Content, CopyError, CopyItem, MADE_DIRECTORY, MADE_FILE, Request};
use crate::context::lstat;

/// The items of a COPY by their path, as if its sources were copied one after the other: a later
/// file replaces an earlier one at the same path.
pub(super) struct Items<'a> {
    request: &'a Request<'a>,
    /// Sorted by bytes, so a directory comes before what is in it.
    items: BTreeMap<Vec<u8>, CopyItem>,
    /// Sockets that were not named, relative to the context.
    skipped: Vec<PathBuf>,
}

impl<'a> Items<'a> {
    pub(super) fn new(request: &'a Request<'a>) -> Self {
        Self { request, items: BTreeMap::new(), skipped: Vec::new() }
    }

    /// The items, and the sockets that are not among them.
    pub(super) fn finish(self) -> (Vec<CopyItem>, Vec<PathBuf>) {
        (self.items.into_values().collect(), self.skipped)
    }

    /// Adds a source, all that is below it, and the directories above it that `image` lacks.
    pub(super) fn add(
        &mut self,
        landing: &Landing<'_>,
        image: &Image<'_, '_>,
    ) -> Result<(), CopyError> {
        let at = &landing.at;
        for (i, _) in at.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.make_directory(&at[..i], image)?;
        }
        match &landing.what {
            Landed::Inline(heredoc) => {
                let bytes = heredoc.content.clone().into_bytes();
                let mut entry = self.made(at, Kind::File, self.request.mode.unwrap_or(MADE_FILE));
                entry.size = bytes.len() as u64;
                self.insert(CopyItem { entry, content: Content::Inline(bytes) })
            }
            Landed::File { path, wild: false } if is_socket(path)? => {
                Err(CopyError::Socket(self.relative(path).to_owned()))
            }
            Landed::File { path, .. } => self.insert_path(path, at).map(|_| ()),
            Landed::Directory { path, whole: true } => self.walk(path, at, true),
            Landed::Directory { path, whole: false } => {
                self.make_directory(at, image)?;
                self.walk(path, at, false)
            }
        }
    }

    /// Adds what is below a directory, and with `whole` the directory.
    fn walk(&mut self, path: &Path, at: &[u8], whole: bool) -> Result<(), CopyError> {
        if whole {
            self.insert_path(path, at)?;
        }
        // A list and not recursion: depth is the context's, the stack is not.
        let mut open = vec![(path.to_owned(), at.to_owned())];
        while let Some((directory, at)) = open.pop() {
            for name in self.request.context.list(&directory)? {
                let path = directory.join(&name);
                let at = child(&at, name.as_bytes());
                if self.insert_path(&path, &at)? {
                    open.push((path, at));
                }
            }
        }
        Ok(())
    }

    /// Adds one path of the context; tells whether it is a directory.
    fn insert_path(&mut self, path: &Path, at: &[u8]) -> Result<bool, CopyError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let meta = lstat(path)?.ok_or_else(missing).at("stat", path)?;
        let Some(kind) = kind(path, &meta)? else {
            self.skipped.push(self.relative(path).to_owned());
            return Ok(false);
        };
        let content = match kind {
            Kind::File => {
                access(path, AccessFlags::R_OK).at("read", path)?;
                Content::File(path.to_owned())
            }
            _ => Content::None,
        };
        let own_mode = meta.mode() & 0o7777;
        let (mode, xattrs) = match kind {
            Kind::Symlink(_) => (0o777, Vec::new()),
            _ => (self.request.mode.unwrap_or(own_mode), xattrs(path)?),
        };
        let is_directory = kind == Kind::Directory;
        let size = if kind == Kind::File { meta.len() } else { 0 };
        let entry = Entry { mtime: mtime(&meta), size, xattrs, ..self.made(at, kind, mode) };
        self.insert(CopyItem { entry, content })?;
        Ok(is_directory)
    }

    fn relative<'p>(&self, path: &'p Path) -> &'p Path {
        path.strip_prefix(self.request.context.root()).unwrap_or(path)
    }

    /// Adds a directory that no source describes, unless it is there.
    fn make_directory(&mut self, at: &[u8], image: &Image<'_, '_>) -> Result<(), CopyError> {
        match self.items.get(at) {
            None if image.has_directory(at) => Ok(()),
            None => {
                let entry = self.made(at, Kind::Directory, MADE_DIRECTORY);
                self.insert(CopyItem { entry, content: Content::None })
            }
            Some(item) if item.entry.kind == Kind::Directory => Ok(()),
            Some(_) => Err(conflict(at)),
        }
    }

    fn insert(&mut self, item: CopyItem) -> Result<(), CopyError> {
        let at = item.entry.path.clone();
        let is_directory = |item: &CopyItem| item.entry.kind == Kind::Directory;
        match self.items.get(&at) {
            Some(old) if is_directory(old) != is_directory(&item) => Err(conflict(&at)),
            _ => {
                self.items.insert(at, item);
                Ok(())
            }
        }
    }

    /// An entry of this COPY's owner and time.
    fn made(&self, at: &[u8], kind: Kind, mode: u32) -> Entry {
        let owner = self.request.owner;
        Entry {
            path: at.to_owned(),
            kind,
            mode,
            uid: owner.uid,
            gid: owner.gid,
            mtime: self.request.made_at,
            size: 0,
            xattrs: Vec::new(),
        }
    }
}

/// What a path of the context is in a layer; none for a socket.
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

fn is_socket(path: &Path) -> Result<bool, PathError> {
    Ok(lstat(path)?.is_some_and(|meta| meta.file_type().is_socket()))
}

fn conflict(at: &[u8]) -> CopyError {
    CopyError::Conflict(String::from_utf8_lossy(at).into_owned())
}

fn mtime(meta: &Metadata) -> Timestamp {
    let nanos = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
    Timestamp { seconds: meta.mtime(), nanos }
}

fn device(path: &Path, meta: &Metadata) -> Result<Device, PathError> {
    let number =
        |part: u64| u32::try_from(part).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    Ok(Device {
        major: number(nix::sys::stat::major(meta.rdev())).at("read the device number of", path)?,
        minor: number(nix::sys::stat::minor(meta.rdev())).at("read the device number of", path)?,
    })
}

/// Names and values, as in [`Entry::xattrs`].
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The attributes that Docker and buildah keep: what a file may do, and what users add. All others
/// (ACLs, SELinux labels) belong to this machine.
fn xattrs(path: &Path) -> Result<Attributes, PathError> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error).at("list the attributes of", path),
    };
    let kept = |name: &OsStr| {
        matches!(name.as_bytes(), b"security.capability" | b"security.ima")
            || name.as_bytes().starts_with(b"user.")
    };
    let mut xattrs = Vec::new();
    for name in names.filter(|name| kept(name)) {
        if let Some(value) = xattr::get(path, &name).at("read an attribute of", path)? {
            xattrs.push((name.into_vec(), value));
        }
    }
    xattrs.sort();
    Ok(xattrs)
}
