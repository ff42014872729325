//! The index of a layer: what every format becomes.
//!
//! A mapped file (see `mapped`) of four tables:
//!
//! - **entries**, in the order of the tar stream, each with its range of extents and xattrs
//! - **extents**: where a run of a file's bytes lies in the layer's *content*, which is the
//!   uncompressed stream (for formats with a TOC: the chunks, one after another)
//! - **spans**: the content cut into pieces that are decoded and verified as a whole
//! - **strings**: paths, link targets, xattrs, and deflate windows (zstd-compressed)
//!
//! The entries are kept as they come, so that making an index needs memory for one entry only.

mod build;

use std::io;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Device, Timestamp};
use crate::blob::{BlobSource, FileBlob};
use crate::digest::{DiffId, Digest};
use crate::mapped::{Format, MappedFile};

pub use build::IndexBuilder;

const FORMAT: Format = Format { magic: *b"KFSLAYER", version: 1, sections: 6 };
const SUMMARY: usize = 0;
const ENTRIES: usize = 1;
const EXTENTS: usize = 2;
const XATTRS: usize = 3;
const SPANS: usize = 4;
const STRINGS: usize = 5;

/// Content of a stored (uncompressed) span, in bytes. Small, as a read hashes whole spans.
pub(super) const STORED_SPAN: u64 = 256 << 10;

/// A run of a file's bytes in a layer's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts in the file.
    pub file_offset: u64,
    /// Where it starts in the content.
    pub content_offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// How a span is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    Stored,
    /// Deflate data from a checkpoint on.
    Deflate,
    /// One or several whole zstd frames.
    Zstd,
    /// As it is, in the file of unpacked spans beside the index: the blob has no place to start
    /// decoding from that is near enough.
    Unpacked,
}

const CODINGS: [Coding; 4] = [Coding::Stored, Coding::Deflate, Coding::Zstd, Coding::Unpacked];

/// A piece of a layer's content that is decoded and verified as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts in the content.
    pub content_offset: u64,
    /// Its length in the content.
    pub content_len: u64,
    /// Where its stored bytes start in the blob, or in the file of unpacked spans.
    pub blob_offset: u64,
    /// How many they are.
    pub blob_len: u64,
    /// How they are stored.
    pub coding: Coding,
    /// For deflate: how many high bits of the byte before `blob_offset` belong to it.
    pub bits: u8,
    /// Its blake3 hash, in the content's form. Not sha256: the index is made locally from a
    /// stream whose sha256 was checked, and blake3 takes a quarter of the time.
    pub hash: [u8; 32],
}

/// What an index says of its layer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the tar stream.
    pub diff_id: DiffId,
    /// Size of the blob.
    pub blob_len: u64,
    /// Length of the content.
    pub content_len: u64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SummaryRecord {
    digest: [u8; 32],
    diff_id: [u8; 32],
    blob_len: U64,
    content_len: U64,
    unpacked_len: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct EntryRecord {
    path: StringRef,
    link: StringRef,
    size: U64,
    seconds: I64,
    nanos: U32,
    mode: U32,
    uid: U32,
    gid: U32,
    major: U32,
    minor: U32,
    kind: U32,
    extent_count: U32,
    first_extent: U64,
    first_xattr: U64,
    xattr_count: U32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct StringRef {
    at: U64,
    len: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExtentRecord {
    file_offset: U64,
    content_offset: U64,
    len: U64,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct XattrRecord {
    name: StringRef,
    value: StringRef,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SpanRecord {
    content_offset: U64,
    content_len: U64,
    blob_offset: U64,
    blob_len: U64,
    window: StringRef,
    coding: U32,
    bits: U32,
    hash: [u8; 32],
}

/// An index whose tables point outside themselves.
#[derive(Debug, thiserror::Error)]
#[error("layer index {} is damaged ({what}); delete it, it will be made again", path.display())]
pub struct Damaged {
    path: PathBuf,
    what: &'static str,
}

/// The open index of a layer.
#[derive(Debug)]
pub struct LayerIndex {
    file: MappedFile,
    path: PathBuf,
    summary: Summary,
    unpacked: Option<FileBlob>,
}

/// An entry as it lies in the index.
#[derive(Clone, Copy, Debug)]
pub struct EntryView<'a> {
    /// See [`Entry::path`](super::Entry::path).
    pub path: &'a [u8],
    /// What it is; a link's target lies in `link`.
    pub kind: ViewKind,
    /// Target of a symlink or hard link, else empty.
    pub link: &'a [u8],
    /// See [`Entry::mode`](super::Entry::mode).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Size of a regular file in bytes.
    pub size: u64,
    /// Of a device, else 0:0.
    pub device: Device,
    first_extent: u64,
    extent_count: u32,
    first_xattr: u64,
    xattr_count: u32,
}

/// Name and value of an xattr.
pub type Xattr<'a> = (&'a [u8], &'a [u8]);

/// The kind of an [`EntryView`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Another name of an entry.
    Hardlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A FIFO.
    Fifo,
}

const KINDS: [ViewKind; 7] = [
    ViewKind::File,
    ViewKind::Directory,
    ViewKind::Symlink,
    ViewKind::Hardlink,
    ViewKind::CharDevice,
    ViewKind::BlockDevice,
    ViewKind::Fifo,
];

impl LayerIndex {
    /// Where the index of the layer with this digest lies below the store's `indexes` directory.
    pub fn path(indexes: &Path, digest: Digest) -> PathBuf {
        indexes.join(format!("{}.layer", digest.hex()))
    }

    /// All files that the index of the layer with this digest may consist of.
    pub(crate) fn paths(indexes: &Path, digest: Digest) -> [PathBuf; 2] {
        [Self::path(indexes, digest), unpacked_path(indexes, digest)]
    }

    /// Opens the index of the layer with this digest; `None` when it has to be made: there is
    /// none, it is of another version, or it was cut short.
    pub fn open(indexes: &Path, digest: Digest) -> io::Result<Option<Self>> {
        let path = Self::path(indexes, digest);
        let Some(file) = MappedFile::open(&path, FORMAT)? else { return Ok(None) };
        let Some(record) = file.records::<SummaryRecord>(SUMMARY).first() else { return Ok(None) };
        let summary = Summary {
            digest: Digest::from_bytes(record.digest),
            diff_id: DiffId::new(Digest::from_bytes(record.diff_id)),
            blob_len: record.blob_len.get(),
            content_len: record.content_len.get(),
        };
        let unpacked = match record.unpacked_len.get() {
            0 => None,
            len => match FileBlob::open(&unpacked_path(indexes, digest)) {
                Ok(unpacked) if unpacked.size() == len => Some(unpacked),
                _ => return Ok(None),
            },
        };
        Ok((summary.digest == digest).then_some(Self { file, path, summary, unpacked }))
    }

    /// The file that holds the unpacked spans, if there are any.
    pub fn unpacked(&self) -> Option<&FileBlob> {
        self.unpacked.as_ref()
    }

    /// What the index says of the layer as a whole.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.file.records::<EntryRecord>(ENTRIES).len()
    }

    /// Whether the layer has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many spans there are.
    pub fn span_count(&self) -> usize {
        self.file.records::<SpanRecord>(SPANS).len()
    }

    /// The entry with this number, in tar order.
    pub fn entry(&self, number: usize) -> Result<EntryView<'_>, Damaged> {
        let records = self.file.records::<EntryRecord>(ENTRIES);
        let record = records.get(number).ok_or_else(|| self.damaged("no such entry"))?;
        let kind = KINDS.get(record.kind.get() as usize);
        Ok(EntryView {
            path: self.string(record.path)?,
            kind: *kind.ok_or_else(|| self.damaged("unknown kind of entry"))?,
            link: self.string(record.link)?,
            mode: record.mode.get(),
            uid: record.uid.get(),
            gid: record.gid.get(),
            mtime: Timestamp { seconds: record.seconds.get(), nanos: record.nanos.get() },
            size: record.size.get(),
            device: Device { major: record.major.get(), minor: record.minor.get() },
            first_extent: record.first_extent.get(),
            extent_count: record.extent_count.get(),
            first_xattr: record.first_xattr.get(),
            xattr_count: record.xattr_count.get(),
        })
    }

    /// The extents of an entry of this index, in the order of their file offsets.
    pub fn extents(
        &self,
        entry: &EntryView<'_>,
    ) -> Result<impl Iterator<Item = Extent> + '_, Damaged> {
        let records = self.file.records::<ExtentRecord>(EXTENTS);
        let records = slice(records, entry.first_extent, entry.extent_count);
        let records = records.ok_or_else(|| self.damaged("no such extents"))?;
        Ok(records.iter().map(|record| Extent {
            file_offset: record.file_offset.get(),
            content_offset: record.content_offset.get(),
            len: record.len.get(),
        }))
    }

    /// Names and values of the xattrs of an entry of this index, in the order of their names.
    pub fn xattrs(&self, entry: &EntryView<'_>) -> Result<Vec<Xattr<'_>>, Damaged> {
        let records = self.file.records::<XattrRecord>(XATTRS);
        let records = slice(records, entry.first_xattr, entry.xattr_count);
        let records = records.ok_or_else(|| self.damaged("no such xattrs"))?;
        records.iter().map(|r| Ok((self.string(r.name)?, self.string(r.value)?))).collect()
    }

    /// The number of the span that holds this offset of the content; `None` past the end.
    pub fn span_at(&self, content_offset: u64) -> Option<usize> {
        let spans = self.file.records::<SpanRecord>(SPANS);
        let after = spans.partition_point(|span| span.content_offset.get() <= content_offset);
        let number = after.checked_sub(1)?;
        let span = &spans[number];
        let inside = content_offset.checked_sub(span.content_offset.get())?;
        (inside < span.content_len.get()).then_some(number)
    }

    /// The span with this number.
    pub fn span(&self, number: usize) -> Result<Span, Damaged> {
        let record = self.span_record(number)?;
        let coding = CODINGS.get(record.coding.get() as usize);
        Ok(Span {
            content_offset: record.content_offset.get(),
            content_len: record.content_len.get(),
            blob_offset: record.blob_offset.get(),
            blob_len: record.blob_len.get(),
            coding: *coding.ok_or_else(|| self.damaged("unknown coding of a span"))?,
            bits: u8::try_from(record.bits.get()).map_err(|_| self.damaged("bad bit count"))?,
            hash: record.hash,
        })
    }

    /// The zstd-compressed deflate window before a span; empty if it needs none.
    pub fn window(&self, number: usize) -> Result<&[u8], Damaged> {
        self.string(self.span_record(number)?.window)
    }

    fn span_record(&self, number: usize) -> Result<&SpanRecord, Damaged> {
        let records = self.file.records::<SpanRecord>(SPANS);
        records.get(number).ok_or_else(|| self.damaged("no such span"))
    }

    fn string(&self, reference: StringRef) -> Result<&[u8], Damaged> {
        let strings = self.file.section(STRINGS);
        slice(strings, reference.at.get(), reference.len.get())
            .ok_or_else(|| self.damaged("a string lies outside"))
    }

    fn damaged(&self, what: &'static str) -> Damaged {
        Damaged { path: self.path.clone(), what }
    }
}

/// Where the unpacked spans of a layer lie.
fn unpacked_path(indexes: &Path, digest: Digest) -> PathBuf {
    indexes.join(format!("{}.content", digest.hex()))
}

/// `count` items from `first` on, if they are there.
fn slice<T>(items: &[T], first: u64, count: u32) -> Option<&[T]> {
    let first = usize::try_from(first).ok()?;
    items.get(first..first.checked_add(count as usize)?)
}

#[cfg(test)]
mod tests;
