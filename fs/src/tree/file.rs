//! The image index on disk: records of inodes, names, extents and xattrs.

use std::io;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::merge::MergedTree;
use crate::digest::Digest;
use crate::layer::Timestamp;
use crate::layer::index::Xattr;
use crate::mapped::{self, Format, MappedFile};

const FORMAT: Format = Format { magic: *b"KFSTREE\0", version: 3, sections: 7 };
const LAYERS: usize = 0;
const SUMMARY: usize = 1;
const INODES: usize = 2;
const NAMES: usize = 3;
const EXTENTS: usize = 4;
const XATTRS: usize = 5;
const STRINGS: usize = 6;

/// What overlayfs knows an opaque directory by, on mounts that root made.
pub(crate) const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

pub(super) const S_IFREG: u32 = 0o100_000;
pub(super) const S_IFDIR: u32 = 0o040_000;
pub(super) const S_IFLNK: u32 = 0o120_000;
pub(super) const S_IFCHR: u32 = 0o020_000;
pub(super) const S_IFBLK: u32 = 0o060_000;
pub(super) const S_IFIFO: u32 = 0o010_000;
pub(super) const S_IFMT: u32 = 0o170_000;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct SummaryRecord {
    pub(super) bytes: U64,
}

/// 72 bytes. `first` and `count` are the names of a directory, the extents of a file, or the
/// target string of a symlink.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct InodeRecord {
    pub(super) mode: U32,
    pub(super) nlink: U32,
    pub(super) uid: U32,
    pub(super) gid: U32,
    pub(super) device: U32,
    pub(super) nanos: U32,
    pub(super) seconds: I64,
    pub(super) size: U64,
    pub(super) first: U64,
    pub(super) count: U32,
    /// Of a directory: its parent's place.
    pub(super) parent: U32,
    pub(super) first_xattr: U32,
    pub(super) xattr_count: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct NameRecord {
    pub(super) at: U64,
    pub(super) len: U32,
    pub(super) inode: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentRecord {
    pub(super) file_offset: U64,
    pub(super) content_offset: U64,
    pub(super) len: U64,
    pub(super) layer: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct XattrRecord {
    pub(super) name: U64,
    pub(super) value: U64,
    pub(super) name_len: U32,
    pub(super) value_len: U32,
}

/// An image index that points outside itself.
#[derive(Debug, thiserror::Error)]
#[error("image index {} is damaged ({what}); delete it, it will be made again", path.display())]
pub struct Damaged {
    path: PathBuf,
    what: &'static str,
}

/// The open index of an image.
#[derive(Debug)]
pub struct Tree {
    file: MappedFile,
    path: PathBuf,
}

/// An inode of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    /// Type and permission bits.
    pub mode: u32,
    /// How many names it has; for a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number as Linux encodes it in 32 bits.
    pub device: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Size in bytes; of a symlink, that of its target.
    pub size: u64,
    /// What it is.
    pub kind: InodeKind,
    first: u64,
    count: u32,
    parent: u32,
    first_xattr: u32,
    xattr_count: u32,
}

/// The kind of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device or FIFO.
    Special,
}

/// A run of a file's bytes in the content of one of the image's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Place of the layer in the image, bottom first.
    pub layer: usize,
    /// Where it starts in the file.
    pub file_offset: u64,
    /// Where it starts in the layer's content.
    pub content_offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Tree {
    /// Where the index of the image of these layers lies below the store's `indexes` directory.
    pub fn path(indexes: &Path, layers: &[Digest]) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for layer in layers {
            hasher.update(layer.as_bytes());
        }
        indexes.join(format!("{}.tree", hasher.finalize()))
    }

    /// Opens the index of the image of these layers; `None` when it has to be made.
    pub fn open(indexes: &Path, layers: &[Digest]) -> io::Result<Option<Self>> {
        let path = Self::path(indexes, layers);
        let Some(file) = MappedFile::open(&path, FORMAT)? else { return Ok(None) };
        let known = layers.iter().map(Digest::as_bytes).eq(file.records::<[u8; 32]>(LAYERS));
        let usable = known && !file.records::<InodeRecord>(INODES).is_empty();
        Ok(usable.then_some(Self { file, path }))
    }

    /// The layers of the image whose index lies at `path`; none if it is not a whole index.
    pub(crate) fn layers(path: &Path) -> io::Result<Vec<Digest>> {
        let file = MappedFile::open(path, FORMAT)?;
        let records = file.as_ref().map_or(&[][..], |file| file.records::<[u8; 32]>(LAYERS));
        Ok(records.iter().copied().map(Digest::from_bytes).collect())
    }

    /// Writes a merged tree under its name and opens it.
    pub fn create(indexes: &Path, layers: &[Digest], merged: MergedTree) -> io::Result<Self> {
        mapped::write(&Self::path(indexes, layers), FORMAT, merged.0)?;
        Self::open(indexes, layers)?
            .ok_or_else(|| io::Error::other("a new image index cannot be read back"))
    }

    /// Whether all of the index is as it was written. Reads all of it.
    pub(crate) fn is_intact(&self) -> bool {
        self.file.is_intact()
    }

    /// Whether the file at `path` is an index that another version of this program made.
    pub(crate) fn is_of_another_version(path: &Path) -> io::Result<bool> {
        MappedFile::is_of_another_version(path, FORMAT)
    }

    /// How many inodes there are.
    pub fn inode_count(&self) -> usize {
        self.file.records::<InodeRecord>(INODES).len()
    }

    /// Sum of the sizes of all files in bytes, each hard-linked file once.
    pub fn bytes(&self) -> u64 {
        self.file.records::<SummaryRecord>(SUMMARY).first().map_or(0, |record| record.bytes.get())
    }

    /// The inode at a place, the root being at 0.
    pub fn inode(&self, place: usize) -> Result<Inode, Damaged> {
        let records = self.file.records::<InodeRecord>(INODES);
        let record = records.get(place).ok_or_else(|| self.damaged("no such inode"))?;
        let kind = match record.mode.get() & S_IFMT {
            S_IFREG => InodeKind::File,
            S_IFDIR => InodeKind::Directory,
            S_IFLNK => InodeKind::Symlink,
            _ => InodeKind::Special,
        };
        Ok(Inode {
            mode: record.mode.get(),
            nlink: record.nlink.get(),
            uid: record.uid.get(),
            gid: record.gid.get(),
            device: record.device.get(),
            mtime: Timestamp { seconds: record.seconds.get(), nanos: record.nanos.get() },
            size: record.size.get(),
            kind,
            first: record.first.get(),
            count: record.count.get(),
            parent: record.parent.get(),
            first_xattr: record.first_xattr.get(),
            xattr_count: record.xattr_count.get(),
        })
    }

    /// The inode at a place that a name of the directory at `parent` leads to. A directory comes
    /// behind the one it lies in, so that no damage makes a walk go in circles.
    pub fn child(&self, parent: usize, place: usize) -> Result<Inode, Damaged> {
        let inode = self.inode(place)?;
        let misplaced = place <= parent || self.parent(&inode) != parent;
        if inode.kind == InodeKind::Directory && misplaced {
            return Err(self.damaged("a directory lies in another one than it says"));
        }
        Ok(inode)
    }

    /// The place of a directory's parent; the root is its own.
    pub fn parent(&self, directory: &Inode) -> usize {
        directory.parent as usize
    }

    /// The place of the inode that has this name in a directory.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<usize>, Damaged> {
        let names = self.names(directory)?;
        let (mut low, mut high) = (0, names.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.string(names[middle].at.get(), names[middle].len.get())?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(names[middle].inode.get() as usize)),
            }
        }
        Ok(None)
    }

    /// The name at a place of a directory, and its inode's place; sorted by name.
    pub fn name(&self, directory: &Inode, place: usize) -> Result<Option<(&[u8], usize)>, Damaged> {
        let Some(record) = self.names(directory)?.get(place) else { return Ok(None) };
        let name = self.string(record.at.get(), record.len.get())?;
        Ok(Some((name, record.inode.get() as usize)))
    }

    /// The target of a symlink.
    pub fn target(&self, symlink: &Inode) -> Result<&[u8], Damaged> {
        if symlink.kind != InodeKind::Symlink {
            return Err(self.damaged("not a symlink"));
        }
        self.string(symlink.first, symlink.count)
    }

    /// The extents of a file that end after `offset`, in the order of their file offsets.
    pub fn extents_from(
        &self,
        file: &Inode,
        offset: u64,
    ) -> Result<impl Iterator<Item = Extent> + '_, Damaged> {
        let is_file = file.kind == InodeKind::File;
        let (first, count) = if is_file { (file.first, file.count) } else { (0, 0) };
        let records = self.slice::<ExtentRecord>(EXTENTS, first, count)?;
        let end = |record: &ExtentRecord| record.file_offset.get().saturating_add(record.len.get());
        let skipped = records.partition_point(|record| end(record) <= offset);
        Ok(records[skipped..].iter().map(|record| Extent {
            layer: record.layer.get() as usize,
            file_offset: record.file_offset.get(),
            content_offset: record.content_offset.get(),
            len: record.len.get(),
        }))
    }

    /// Names and values of an inode's xattrs, in the order of the names.
    pub fn xattrs(
        &self,
        inode: &Inode,
    ) -> Result<impl Iterator<Item = Result<Xattr<'_>, Damaged>> + '_, Damaged> {
        let first = u64::from(inode.first_xattr);
        let records = self.slice::<XattrRecord>(XATTRS, first, inode.xattr_count)?;
        Ok(records.iter().map(|record| {
            let name = self.string(record.name.get(), record.name_len.get())?;
            Ok((name, self.string(record.value.get(), record.value_len.get())?))
        }))
    }

    fn names(&self, directory: &Inode) -> Result<&[NameRecord], Damaged> {
        if directory.kind != InodeKind::Directory {
            return Err(self.damaged("not a directory"));
        }
        self.slice(NAMES, directory.first, directory.count)
    }

    fn slice<T: FromBytes + Immutable + KnownLayout>(
        &self,
        section: usize,
        first: u64,
        count: u32,
    ) -> Result<&[T], Damaged> {
        let records = self.file.records::<T>(section);
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let end = first.saturating_add(count as usize);
        records.get(first..end).ok_or_else(|| self.damaged("a range lies outside"))
    }

    fn string(&self, at: u64, len: u32) -> Result<&[u8], Damaged> {
        self.slice(STRINGS, at, len)
    }

    fn damaged(&self, what: &'static str) -> Damaged {
        Damaged { path: self.path.clone(), what }
    }
}
