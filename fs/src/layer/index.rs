//! The index of a layer: what every format becomes.
//!
//! A mapped file (see `mapped`) of these tables:
//!
//! - **entries**, in the order of the tar stream, each with its range of extents and xattrs
//! - **extents**: where a run of a file's bytes lies in the layer's *content*, which is the
//!   uncompressed stream (for formats with a TOC: the chunks, one after another)
//! - **spans**: the content cut into pieces that are decoded and verified as a whole
//! - **blocks**: of spans that are stored as they are, the hash of each block (see `blocks`), so
//!   that a part can be read and verified without the rest
//! - **chunks**: the numbers of those spans that have a sha256 digest of their content, sorted by
//!   it, so that a span can be found by what it holds
//! - **strings**: paths, link targets, xattrs, and deflate windows (zstd-compressed)
//!
//! The entries are kept as they come, so that making an index needs memory for one entry only.

mod build;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Device, Timestamp};
use crate::blob::{BlobSource, FileBlob};
use crate::blocks::{BLOCK, Node};
use crate::digest::{DiffId, Digest};
use crate::mapped::{Format, MappedFile};

pub use build::{Flood, IndexBuilder};

const FORMAT: Format = Format { magic: *b"KFSLAYER", version: 5, sections: 8 };
const SUMMARY: usize = 0;
const ENTRIES: usize = 1;
const EXTENTS: usize = 2;
const XATTRS: usize = 3;
const SPANS: usize = 4;
const CHUNKS: usize = 5;
const BLOCKS: usize = 6;
const STRINGS: usize = 7;

/// Content of a stored (uncompressed) span, in bytes. Small, as a registry is asked for all of a
/// span.
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
    /// zstd frames from the start of one on; what comes after the content is not looked at.
    Zstd,
    /// As it is, in the file of unpacked spans beside the index: the blob has no place to start
    /// decoding from that is near enough.
    Unpacked,
    /// gzip members from the start of one on; what comes after the content is not looked at.
    Gzip,
}

const CODINGS: [Coding; 5] =
    [Coding::Stored, Coding::Deflate, Coding::Zstd, Coding::Unpacked, Coding::Gzip];

/// What a span is held against when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanDigest {
    /// blake3 of its content: of an index made here, from a stream whose sha256 was checked.
    /// blake3 takes a quarter of the time.
    Blake3([u8; 32]),
    /// sha256 of its content: from a table of contents inside the layer.
    Sha256(Digest),
    /// sha256 of its stored bytes, the byte that [`Span::bits`] are of included: from a SOCI
    /// index.
    StoredSha256(Digest),
}

impl SpanDigest {
    fn to_record(self) -> (u32, [u8; 32]) {
        match self {
            Self::Blake3(hash) => (0, hash),
            Self::Sha256(digest) => (1, *digest.as_bytes()),
            Self::StoredSha256(digest) => (2, *digest.as_bytes()),
        }
    }

    fn from_record(kind: u32, bytes: [u8; 32]) -> Option<Self> {
        match kind {
            0 => Some(Self::Blake3(bytes)),
            1 => Some(Self::Sha256(Digest::from_bytes(bytes))),
            2 => Some(Self::StoredSha256(Digest::from_bytes(bytes))),
            _ => None,
        }
    }
}

impl fmt::Display for SpanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blake3(hash) => write!(f, "blake3:{}", blake3::Hash::from_bytes(*hash)),
            Self::Sha256(digest) => digest.fmt(f),
            Self::StoredSha256(digest) => write!(f, "{digest} (as stored)"),
        }
    }
}

/// A piece of a layer's content that is decoded and verified as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it starts in the content.
    pub content_offset: u64,
    /// Its length in the content.
    pub content_len: u64,
    /// Where its stored bytes start in the blob, or in the file of unpacked spans. Several spans
    /// may lie in the same stored bytes.
    pub blob_offset: u64,
    /// How many they are.
    pub blob_len: u64,
    /// How they are stored.
    pub coding: Coding,
    /// For deflate: how many high bits of the byte before `blob_offset` belong to it.
    pub bits: u8,
    /// Where its content starts inside what the stored bytes decode to.
    pub inner_offset: u64,
    /// What it is held against.
    pub digest: SpanDigest,
}

impl Span {
    /// Where its stored bytes lie: spans that have the same are decoded together.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.blob_offset, self.blob_len)
    }

    /// Whether its bytes are stored as they are, and hashed so that blocks of it can be verified.
    fn has_blocks(&self) -> bool {
        let is_stored = match self.coding {
            Coding::Stored | Coding::Unpacked => self.inner_offset == 0 && self.bits == 0,
            Coding::Deflate | Coding::Zstd | Coding::Gzip => false,
        };
        is_stored && matches!(self.digest, SpanDigest::Blake3(_))
    }

    /// Where its content ends inside what the stored bytes decode to.
    pub(crate) fn end_inside(&self) -> u64 {
        self.inner_offset.saturating_add(self.content_len)
    }
}

/// What an index is known by.
///
/// A table of contents is trusted because of the manifest, without a look at the rest of the
/// blob: two manifests may name the same blob and different tables, and one of them lies. So
/// that neither sees what the other says, an index made from a table is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IndexId {
    /// Digest of the layer's blob.
    pub layer: Digest,
    /// Digest of the table of contents that the index was made from, as the manifest has it, or
    /// would have been made from if it were of use; `None` when the manifest names none.
    pub toc: Option<Digest>,
}

impl IndexId {
    /// One digest for both: the layer's own where there is no table.
    pub fn digest(&self) -> Digest {
        match self.toc {
            None => self.layer,
            Some(toc) => Digest::of(&[*self.layer.as_bytes(), *toc.as_bytes()].concat()),
        }
    }
}

impl From<Digest> for IndexId {
    fn from(layer: Digest) -> Self {
        Self { layer, toc: None }
    }
}

impl fmt::Display for IndexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.toc {
            None => f.write_str(&self.layer.hex()),
            Some(toc) => write!(f, "{}.{}", self.layer.hex(), toc.hex()),
        }
    }
}

/// What an index says of its layer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Digest of the blob.
    pub digest: Digest,
    /// Digest of the tar stream; where there is a table of contents, nobody has checked it.
    pub diff_id: DiffId,
    /// Digest of the table of contents that the index was made from.
    pub toc: Option<Digest>,
    /// Size of the blob.
    pub blob_len: u64,
    /// Length of the content.
    pub content_len: u64,
}

impl Summary {
    /// What the index is known by.
    pub fn id(&self) -> IndexId {
        IndexId { layer: self.digest, toc: self.toc }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SummaryRecord {
    digest: [u8; 32],
    diff_id: [u8; 32],
    /// Zeros where there is none.
    toc: [u8; 32],
    blob_len: U64,
    content_len: U64,
    unpacked_len: U64,
    first_len: U64,
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
    inner_offset: U64,
    coding: U32,
    bits: U32,
    digest_kind: U32,
    digest: [u8; 32],
    /// [`NO_BLOCKS`] if there are none.
    first_block: U64,
}

/// What a span has as its first block whose blocks nobody hashed.
const NO_BLOCKS: u64 = u64::MAX;

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
    first_len: u64,
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
    /// Where an index lies below the store's `indexes` directory. The names of all files of a
    /// layer's indexes start with the hex digits of its digest and a dot.
    pub fn path(indexes: &Path, id: impl Into<IndexId>) -> PathBuf {
        indexes.join(format!("{}.layer", id.into()))
    }

    /// What the index is known by that lies in a file of this name; `None` if it is no such name.
    pub(crate) fn id_of(name: &str) -> Option<IndexId> {
        let mut digests = name.strip_suffix(".layer")?.split('.');
        let digest = |hex: &str| format!("sha256:{hex}").parse().ok();
        let layer = digest(digests.next()?)?;
        let toc = match digests.next() {
            Some(hex) => Some(digest(hex)?),
            None => None,
        };
        digests.next().is_none().then_some(IndexId { layer, toc })
    }

    /// Opens an index; `None` when it has to be made: there is none, it is of another version, or
    /// it was cut short.
    pub fn open(indexes: &Path, id: impl Into<IndexId>) -> io::Result<Option<Self>> {
        let id = id.into();
        let path = Self::path(indexes, id);
        let Some(file) = MappedFile::open(&path, FORMAT)? else { return Ok(None) };
        let Some(record) = file.records::<SummaryRecord>(SUMMARY).first() else { return Ok(None) };
        let summary = Summary {
            digest: Digest::from_bytes(record.digest),
            diff_id: DiffId::new(Digest::from_bytes(record.diff_id)),
            toc: (record.toc != [0; 32]).then(|| Digest::from_bytes(record.toc)),
            blob_len: record.blob_len.get(),
            content_len: record.content_len.get(),
        };
        let unpacked = match record.unpacked_len.get() {
            0 => None,
            len => match FileBlob::open(&unpacked_path(indexes, id)) {
                Ok(unpacked) if unpacked.size() == len => Some(unpacked),
                _ => return Ok(None),
            },
        };
        let first_len = record.first_len.get();
        Ok((summary.id() == id).then_some(Self { file, path, summary, first_len, unpacked }))
    }

    /// Whether all of the index is as it was written. Reads all of it.
    pub(crate) fn is_intact(&self) -> bool {
        self.file.is_intact()
    }

    /// Whether the file at `path` is an index that another version of this program made.
    pub(crate) fn is_of_another_version(path: &Path) -> io::Result<bool> {
        MappedFile::is_of_another_version(path, FORMAT)
    }

    /// The file that holds the unpacked spans, if there are any.
    pub fn unpacked(&self) -> Option<&FileBlob> {
        self.unpacked.as_ref()
    }

    /// How many bytes at the start of the blob are worth to be fetched before anything is read, as
    /// its maker says; 0 if he says nothing.
    pub fn first_len(&self) -> u64 {
        self.first_len
    }

    /// What the index is known by.
    pub fn id(&self) -> IndexId {
        self.summary.id()
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
        let digest = SpanDigest::from_record(record.digest_kind.get(), record.digest);
        Ok(Span {
            content_offset: record.content_offset.get(),
            content_len: record.content_len.get(),
            blob_offset: record.blob_offset.get(),
            blob_len: record.blob_len.get(),
            coding: *coding.ok_or_else(|| self.damaged("unknown coding of a span"))?,
            bits: u8::try_from(record.bits.get()).map_err(|_| self.damaged("bad bit count"))?,
            inner_offset: record.inner_offset.get(),
            digest: digest.ok_or_else(|| self.damaged("unknown digest of a span"))?,
        })
    }

    /// The hashes of a span's blocks, empty if it has no more than one; `None` if a part of it
    /// cannot be read without the rest.
    pub(crate) fn blocks(&self, number: usize) -> Result<Option<&[Node]>, Damaged> {
        let (span, record) = (self.span(number)?, self.span_record(number)?);
        if !span.has_blocks() {
            return Ok(None);
        }
        let count = span.content_len.div_ceil(BLOCK as u64);
        if count <= 1 {
            return Ok(Some(&[]));
        }
        if record.first_block.get() == NO_BLOCKS {
            return Ok(None);
        }
        let blocks = self.file.records::<Node>(BLOCKS);
        let blocks = u32::try_from(count)
            .ok()
            .and_then(|count| slice(blocks, record.first_block.get(), count));
        blocks.map(Some).ok_or_else(|| self.damaged("no such blocks"))
    }

    /// The numbers of the spans whose content has this sha256 digest, of those that have one.
    pub fn spans_of_chunk(&self, chunk: Digest) -> impl Iterator<Item = usize> + '_ {
        let spans = self.file.records::<SpanRecord>(SPANS);
        let chunks = self.file.records::<U32>(CHUNKS);
        // A number beyond the spans, in a damaged index, counts as the smallest digest.
        let digest = move |number: &U32| spans.get(number.get() as usize).map(|span| span.digest);
        let wanted = Some(*chunk.as_bytes());
        let first = chunks.partition_point(|number| digest(number) < wanted);
        let found = chunks[first..].iter().take_while(move |number| digest(number) == wanted);
        found.map(|number| number.get() as usize)
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
fn unpacked_path(indexes: &Path, id: IndexId) -> PathBuf {
    indexes.join(format!("{id}.content"))
}

/// `count` items from `first` on, if they are there.
fn slice<T>(items: &[T], first: u64, count: u32) -> Option<&[T]> {
    let first = usize::try_from(first).ok()?;
    items.get(first..first.checked_add(count as usize)?)
}

#[cfg(test)]
mod tests;
