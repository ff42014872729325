//! Writing the image index: the names that count become records.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::file::{
    ExtentRecord, InodeRecord, NameRecord, OPAQUE_XATTR, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO,
    S_IFLNK, S_IFMT, S_IFREG, SummaryRecord, XattrRecord,
};
use super::merge::{Metadata, Names, Problem, Source, TreeError};
use crate::layer::Device;
use crate::layer::index::{EntryView, LayerIndex, ViewKind};
use crate::mapped::Content;

/// What overlayfs keeps in xattrs, and in a user namespace: an image is not to steer an overlay
/// that is mounted over it.
const OVERLAY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

/// Puts the records together, breadth first, so that a directory's inodes are neighbours too.
pub(super) fn serialise(
    names: &Names<'_>,
    layers: &[&LayerIndex],
) -> Result<Vec<Content>, TreeError> {
    let children = Children::of(names);
    let mut writer = Writer::new(names, layers);
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
    fn new(names: &Names<'_>, layers: &'a [&'a LayerIndex]) -> Self {
        let inodes = names.sources.len();
        Self {
            layers,
            inodes: Vec::with_capacity(inodes),
            names: Vec::with_capacity(names.nodes.len()),
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
        let mut record = self.record(inode, names)?;
        if record.mode.get() & S_IFMT == S_IFDIR {
            record.parent = parent.into();
            record.nlink = (2 + self.subdirectories(node, names, children)).into();
            self.directories.push((node, place));
            if names.opaque.binary_search(&node).is_ok() {
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

    fn record(&mut self, inode: u32, names: &Names<'_>) -> Result<InodeRecord, TreeError> {
        let (layer, entry) = match names.sources[inode as usize] {
            Source::Implied(place) => {
                return self.implied(place.map(|place| &names.metadata[place as usize]));
            }
            Source::Whiteout => return Ok(InodeRecord { mode: S_IFCHR.into(), ..empty() }),
            Source::Entry { layer, entry } => (layer, entry),
        };
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
        let kept = |(name, _): &(&[u8], &[u8])| {
            !OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix))
        };
        for (name, value) in index.xattrs(&entry)?.into_iter().filter(kept) {
            self.add_xattr(&mut record, name, value)?;
        }
        Ok(record)
    }

    fn implied(&mut self, metadata: Option<&Metadata>) -> Result<InodeRecord, TreeError> {
        let first_xattr = number(self.xattrs.len())?.into();
        let Some(metadata) = metadata else {
            return Ok(InodeRecord { mode: (S_IFDIR | 0o755).into(), first_xattr, ..empty() });
        };
        let mut record = InodeRecord {
            mode: (S_IFDIR | (metadata.mode & 0o7777)).into(),
            uid: metadata.uid.into(),
            gid: metadata.gid.into(),
            seconds: metadata.mtime.seconds.into(),
            nanos: metadata.mtime.nanos.into(),
            first_xattr,
            ..empty()
        };
        for (name, value) in &metadata.xattrs {
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
        let digests = self.layers.iter().flat_map(|layer| *layer.id().digest().as_bytes());
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
