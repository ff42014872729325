//! The image index on disk: records of inodes, names, extents and xattrs.

use std::io;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::merge::{MergedTree, Metadata, Names, Problem, Source, TreeError};
use crate::digest::Digest;
use crate::layer::index::{EntryView, LayerIndex, ViewKind, Xattr};
use crate::layer::{Device, Timestamp};
use crate::mapped::{self, Format, MappedFile};

pub(super) use crate::mapped::Content;

const FORMAT: Format = Format { magic: *b"KFSTREE\0", version: 1, sections: 7 };
const LAYERS: usize = 0;
const SUMMARY: usize = 1;
const INODES: usize = 2;
const NAMES: usize = 3;
const EXTENTS: usize = 4;
const XATTRS: usize = 5;
const STRINGS: usize = 6;

/// What overlayfs knows an opaque directory by, on mounts that root made.
pub const OPAQUE_XATTR: &[u8] = b"trusted.overlay.opaque";

const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFMT: u32 = 0o170_000;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SummaryRecord {
    bytes: U64,
}

/// 72 bytes. `first` and `count` are the names of a directory, the extents of a file, or the
/// target string of a symlink.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct InodeRecord {
    mode: U32,
    nlink: U32,
    uid: U32,
    gid: U32,
    device: U32,
    nanos: U32,
    seconds: I64,
    size: U64,
    first: U64,
    count: U32,
    /// Of a directory: its parent's place.
    parent: U32,
    first_xattr: U32,
    xattr_count: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NameRecord {
    at: U64,
    len: U32,
    inode: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtentRecord {
    file_offset: U64,
    content_offset: U64,
    len: U64,
    layer: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct XattrRecord {
    name: U64,
    value: U64,
    name_len: U32,
    value_len: U32,
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

    /// How many names a directory has.
    pub fn name_count(&self, directory: &Inode) -> usize {
        if directory.kind == InodeKind::Directory { directory.count as usize } else { 0 }
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

/// Puts the records together, breadth first, so that a directory's inodes are neighbours too.
pub(super) fn serialise(
    names: &Names<'_>,
    layers: &[&LayerIndex],
) -> Result<Vec<Content>, TreeError> {
    let children = Children::of(names);
    let mut writer = Writer::new(names.sources.len(), layers);
    writer.enter(0, 0, names, &children)?;
    let mut next = 0;
    // `enter` adds directories behind the one at hand.
    while let Some((node, place)) = writer.directories.get(next).copied() {
        writer.names_of(node, place, names, &children)?;
        next += 1;
    }
    Ok(writer.into_contents())
}

/// The children of every node, sorted by name.
struct Children {
    /// Where a node's children start in `sorted`; one more than there are nodes.
    starts: Vec<u32>,
    sorted: Vec<u32>,
}

impl Children {
    fn of(names: &Names<'_>) -> Self {
        let nodes = &names.nodes;
        let mut starts = vec![0u32; nodes.len() + 1];
        for (parent, _, _) in &nodes[1..] {
            starts[*parent as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut free = starts.clone();
        let mut sorted = vec![0; nodes.len() - 1];
        for (node, (parent, _, _)) in (0u32..).zip(nodes).skip(1) {
            sorted[free[*parent as usize] as usize] = node;
            free[*parent as usize] += 1;
        }
        for range in starts.windows(2) {
            sorted[range[0] as usize..range[1] as usize]
                .sort_unstable_by_key(|node| nodes[*node as usize].1);
        }
        Self { starts, sorted }
    }

    fn of_node(&self, node: u32) -> &[u32] {
        let node = node as usize;
        &self.sorted[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

struct Writer<'a> {
    layers: &'a [&'a LayerIndex],
    inodes: Vec<InodeRecord>,
    names: Vec<NameRecord>,
    extents: Vec<ExtentRecord>,
    xattrs: Vec<XattrRecord>,
    strings: Vec<u8>,
    bytes: u64,
    /// The place of each inode of the merge, once it has one.
    places: Vec<Option<u32>>,
    /// Directories whose names are still to be written: node and place.
    directories: Vec<(u32, u32)>,
}

impl<'a> Writer<'a> {
    fn new(inodes: usize, layers: &'a [&'a LayerIndex]) -> Self {
        Self {
            layers,
            inodes: Vec::new(),
            names: Vec::new(),
            extents: Vec::new(),
            xattrs: Vec::new(),
            strings: Vec::new(),
            bytes: 0,
            places: vec![None; inodes],
            directories: Vec::new(),
        }
    }

    fn names_of(
        &mut self,
        node: u32,
        place: u32,
        names: &Names<'_>,
        children: &Children,
    ) -> Result<(), TreeError> {
        let children_of = children.of_node(node);
        self.inodes[place as usize].first = (self.names.len() as u64).into();
        self.inodes[place as usize].count = number(children_of.len())?.into();
        for child in children_of {
            let name = names.nodes[*child as usize].1;
            let inode = self.enter(*child, place, names, children)?;
            let (at, len) = self.string(name)?;
            self.names.push(NameRecord { at, len, inode: inode.into() });
        }
        Ok(())
    }

    /// The place of a node's inode, which is written when its first name is met.
    fn enter(
        &mut self,
        node: u32,
        parent: u32,
        names: &Names<'_>,
        children: &Children,
    ) -> Result<u32, TreeError> {
        let inode = names.nodes[node as usize].2;
        if let Some(place) = self.places[inode as usize] {
            let record = &mut self.inodes[place as usize];
            record.nlink = (record.nlink.get() + 1).into();
            return Ok(place);
        }
        let place = number(self.inodes.len())?;
        self.places[inode as usize] = Some(place);
        let mut record = match names.sources[inode as usize] {
            Source::Implied(None) => implied_directory(),
            Source::Implied(Some(below)) => self.directory_below(&names.below[below])?,
            Source::Whiteout => InodeRecord { mode: S_IFCHR.into(), ..empty() },
            Source::Entry { layer, entry } => self.record(layer, entry)?,
        };
        if record.mode.get() & S_IFMT == S_IFDIR {
            record.parent = parent.into();
            record.nlink = (2 + self.subdirectories(node, names, children)).into();
            self.directories.push((node, place));
            if names.opaque.binary_search(&node).is_ok() {
                // An implied directory has none yet.
                if record.xattr_count.get() == 0 {
                    record.first_xattr = number(self.xattrs.len())?.into();
                }
                self.add_xattr(&mut record, OPAQUE_XATTR, b"y")?;
            }
        }
        self.inodes.push(record);
        Ok(place)
    }

    fn subdirectories(&self, node: u32, names: &Names<'_>, children: &Children) -> u32 {
        let is_directory = |child: &&u32| {
            let inode = names.nodes[**child as usize].2;
            match names.sources[inode as usize] {
                Source::Implied(_) => true,
                Source::Whiteout => false,
                Source::Entry { layer, entry } => self.layers[layer as usize]
                    .entry(entry as usize)
                    .is_ok_and(|entry| entry.kind == ViewKind::Directory),
            }
        };
        let count = children.of_node(node).iter().filter(is_directory).count();
        u32::try_from(count).expect("there are no more than 2^32 nodes")
    }

    fn directory_below(&mut self, metadata: &Metadata) -> Result<InodeRecord, TreeError> {
        let mut record = InodeRecord {
            mode: (S_IFDIR | (metadata.mode & 0o7777)).into(),
            uid: metadata.uid.into(),
            gid: metadata.gid.into(),
            seconds: metadata.mtime.seconds.into(),
            nanos: metadata.mtime.nanos.into(),
            first_xattr: number(self.xattrs.len())?.into(),
            ..empty()
        };
        for (name, value) in &metadata.xattrs {
            self.add_xattr(&mut record, name, value)?;
        }
        Ok(record)
    }

    fn record(&mut self, layer: u32, entry: u32) -> Result<InodeRecord, TreeError> {
        let index = self.layers[layer as usize];
        let entry = index.entry(entry as usize)?;
        let (kind, device) = match entry.kind {
            ViewKind::File => (S_IFREG, 0),
            ViewKind::Directory => (S_IFDIR, 0),
            ViewKind::Symlink => (S_IFLNK, 0),
            ViewKind::CharDevice => (S_IFCHR, device(index, &entry)?),
            ViewKind::BlockDevice => (S_IFBLK, device(index, &entry)?),
            ViewKind::Fifo => (S_IFIFO, 0),
            ViewKind::Hardlink => unreachable!("hard links have their target's inode"),
        };
        let mut record = InodeRecord {
            mode: (kind | entry.mode).into(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            device: device.into(),
            nanos: entry.mtime.nanos.into(),
            seconds: entry.mtime.seconds.into(),
            size: entry.size.into(),
            first_xattr: number(self.xattrs.len())?.into(),
            ..empty()
        };
        match entry.kind {
            ViewKind::File => self.add_extents(index, layer, &entry, &mut record)?,
            ViewKind::Symlink => {
                record.size = (entry.link.len() as u64).into();
                (record.first, record.count) = self.string(entry.link)?;
            }
            _ => {}
        }
        // An image is not to steer an overlay that is mounted over it.
        let kept = |(name, _): &(&[u8], &[u8])| !name.starts_with(OVERLAY_XATTRS);
        for (name, value) in index.xattrs(&entry)?.into_iter().filter(kept) {
            self.add_xattr(&mut record, name, value)?;
        }
        Ok(record)
    }

    fn add_xattr(
        &mut self,
        record: &mut InodeRecord,
        name: &[u8],
        value: &[u8],
    ) -> Result<(), TreeError> {
        let ((name, name_len), (value, value_len)) = (self.string(name)?, self.string(value)?);
        self.xattrs.push(XattrRecord { name, value, name_len, value_len });
        record.xattr_count = (record.xattr_count.get() + 1).into();
        Ok(())
    }

    fn add_extents(
        &mut self,
        index: &LayerIndex,
        layer: u32,
        entry: &EntryView<'_>,
        record: &mut InodeRecord,
    ) -> Result<(), TreeError> {
        let first = self.extents.len();
        self.extents.extend(index.extents(entry)?.map(|extent| ExtentRecord {
            file_offset: extent.file_offset.into(),
            content_offset: extent.content_offset.into(),
            len: extent.len.into(),
            layer: layer.into(),
        }));
        record.first = (first as u64).into();
        record.count = number(self.extents.len() - first)?.into();
        self.bytes = self.bytes.saturating_add(entry.size);
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(U64, U32), TreeError> {
        let at = self.strings.len() as u64;
        self.strings.extend_from_slice(bytes);
        Ok((at.into(), number(bytes.len())?.into()))
    }

    fn into_contents(self) -> Vec<Content> {
        let digests = self.layers.iter().flat_map(|layer| *layer.summary().digest.as_bytes());
        let summary = SummaryRecord { bytes: self.bytes.into() };
        vec![
            Content::Bytes(digests.collect()),
            Content::Bytes(summary.as_bytes().to_vec()),
            Content::Bytes(self.inodes.as_bytes().to_vec()),
            Content::Bytes(self.names.as_bytes().to_vec()),
            Content::Bytes(self.extents.as_bytes().to_vec()),
            Content::Bytes(self.xattrs.as_bytes().to_vec()),
            Content::Bytes(self.strings),
        ]
    }
}

/// An inode with one name and nothing else.
fn empty() -> InodeRecord {
    let zero = U32::new(0);
    InodeRecord {
        mode: zero,
        nlink: 1.into(),
        uid: zero,
        gid: zero,
        device: zero,
        nanos: zero,
        seconds: 0.into(),
        size: 0.into(),
        first: 0.into(),
        count: zero,
        parent: zero,
        first_xattr: zero,
        xattr_count: zero,
    }
}

/// A directory of which nothing is known.
fn implied_directory() -> InodeRecord {
    InodeRecord { mode: (S_IFDIR | 0o755).into(), ..empty() }
}

/// A device number in the 32 bits of Linux' `new_encode_dev`: 12 bits major, 20 bits minor.
fn device(index: &LayerIndex, entry: &EntryView<'_>) -> Result<u32, TreeError> {
    let Device { major, minor } = entry.device;
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(TreeError::Entry {
            layer: index.summary().digest,
            path: entry.path.to_owned(),
            what: Problem::Device,
        });
    }
    Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

fn number(n: usize) -> Result<u32, TreeError> {
    u32::try_from(n).map_err(|_| TreeError::TooMany)
}
