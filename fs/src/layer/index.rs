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

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Device, Entry, Kind, Timestamp};
use crate::blob::{BlobSource, FileBlob};
use crate::digest::{DiffId, Digest};
use crate::mapped::{self, Content, Format, MappedFile, Section};
use crate::unnamed::UnnamedFile;

const FORMAT: Format = Format { magic: *b"KFSLAYER", version: 1, sections: 6 };
const SUMMARY: usize = 0;
const ENTRIES: usize = 1;
const EXTENTS: usize = 2;
const XATTRS: usize = 3;
const SPANS: usize = 4;
const STRINGS: usize = 5;

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
    /// See [`Entry::path`].
    pub path: &'a [u8],
    /// What it is; a link's target lies in `link`.
    pub kind: ViewKind,
    /// Target of a symlink or hard link, else empty.
    pub link: &'a [u8],
    /// See [`Entry::mode`].
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

/// Writes an index entry by entry and span by span.
#[derive(Debug)]
pub struct IndexBuilder {
    dir: PathBuf,
    entries: Section,
    extents: Section,
    xattrs: Section,
    spans: Section,
    strings: Section,
    unpacked: Option<Unpacked>,
}

/// The unpacked spans while they are written.
#[derive(Debug)]
struct Unpacked {
    file: UnnamedFile,
    len: u64,
}

impl IndexBuilder {
    /// A builder whose index will lie in `indexes`.
    pub fn new(indexes: &Path) -> io::Result<Self> {
        let section = || Section::new(indexes);
        Ok(Self {
            dir: indexes.to_owned(),
            entries: section()?,
            extents: section()?,
            xattrs: section()?,
            spans: section()?,
            strings: section()?,
            unpacked: None,
        })
    }

    /// Adds an entry; `extents` in the order of their file offsets, empty unless it is a file.
    pub fn entry(&mut self, entry: &Entry, extents: &[Extent]) -> io::Result<()> {
        let (kind, link, device) = match &entry.kind {
            Kind::File => (ViewKind::File, &[][..], None),
            Kind::Directory => (ViewKind::Directory, &[][..], None),
            Kind::Symlink(target) => (ViewKind::Symlink, &target[..], None),
            Kind::Hardlink(target) => (ViewKind::Hardlink, &target[..], None),
            Kind::CharDevice(device) => (ViewKind::CharDevice, &[][..], Some(device)),
            Kind::BlockDevice(device) => (ViewKind::BlockDevice, &[][..], Some(device)),
            Kind::Fifo => (ViewKind::Fifo, &[][..], None),
        };
        let kind = KINDS.iter().position(|k| *k == kind).expect("every kind is listed");
        let device = device.copied().unwrap_or(Device { major: 0, minor: 0 });
        let record = EntryRecord {
            path: self.string(&entry.path)?,
            link: self.string(link)?,
            size: entry.size.into(),
            seconds: entry.mtime.seconds.into(),
            nanos: entry.mtime.nanos.into(),
            mode: entry.mode.into(),
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            major: device.major.into(),
            minor: device.minor.into(),
            kind: count(kind)?,
            extent_count: count(extents.len())?,
            first_extent: (self.extents.len() / size_of::<ExtentRecord>() as u64).into(),
            first_xattr: (self.xattrs.len() / size_of::<XattrRecord>() as u64).into(),
            xattr_count: count(entry.xattrs.len())?,
        };
        for extent in extents {
            self.extents.record(&ExtentRecord {
                file_offset: extent.file_offset.into(),
                content_offset: extent.content_offset.into(),
                len: extent.len.into(),
            })?;
        }
        for (name, value) in &entry.xattrs {
            let record = XattrRecord { name: self.string(name)?, value: self.string(value)? };
            self.xattrs.record(&record)?;
        }
        self.entries.record(&record)?;
        Ok(())
    }

    /// Adds a span; they come in the order of the content and without gaps. `window` is the
    /// output before a deflate span, empty where it needs none.
    pub fn span(&mut self, span: &Span, window: &[u8]) -> io::Result<()> {
        // Level 1: windows compress to a third, and the pass must not wait for them.
        let packed = if window.is_empty() { Vec::new() } else { zstd::bulk::compress(window, 1)? };
        let coding = CODINGS.iter().position(|coding| *coding == span.coding);
        let record = SpanRecord {
            content_offset: span.content_offset.into(),
            content_len: span.content_len.into(),
            blob_offset: span.blob_offset.into(),
            blob_len: span.blob_len.into(),
            window: self.string(&packed)?,
            coding: count(coding.expect("every coding is listed"))?,
            bits: u32::from(span.bits).into(),
            hash: span.hash,
        };
        self.spans.record(&record)?;
        Ok(())
    }

    /// Adds a span of this content that cannot be decoded from the blob alone.
    pub fn unpacked_span(&mut self, content_offset: u64, content: &[u8]) -> io::Result<()> {
        if self.unpacked.is_none() {
            self.unpacked = Some(Unpacked { file: UnnamedFile::new_in(&self.dir)?, len: 0 });
        }
        let unpacked = self.unpacked.as_mut().expect("made above");
        let span = Span {
            content_offset,
            content_len: content.len() as u64,
            blob_offset: unpacked.len,
            blob_len: content.len() as u64,
            coding: Coding::Unpacked,
            bits: 0,
            hash: *blake3::hash(content).as_bytes(),
        };
        // Zeros stay holes.
        if content.iter().any(|byte| *byte != 0) {
            unpacked.file.file().write_all_at(content, unpacked.len)?;
        }
        unpacked.len += content.len() as u64;
        self.span(&span, &[])
    }

    /// Writes the index under its name and opens it.
    pub fn finish(mut self, summary: &Summary) -> io::Result<LayerIndex> {
        let unpacked_len = self.unpacked.as_ref().map_or(0, |unpacked| unpacked.len);
        if let Some(Unpacked { file, len }) = self.unpacked.take() {
            file.file().set_len(len)?;
            file.file().sync_data()?;
            file.persist(&unpacked_path(&self.dir, summary.digest))?;
        }
        let record = SummaryRecord {
            digest: *summary.digest.as_bytes(),
            diff_id: *summary.diff_id.digest().as_bytes(),
            blob_len: summary.blob_len.into(),
            content_len: summary.content_len.into(),
            unpacked_len: unpacked_len.into(),
        };
        let contents = vec![
            Content::Bytes(record.as_bytes().to_vec()),
            Content::Section(self.entries),
            Content::Section(self.extents),
            Content::Section(self.xattrs),
            Content::Section(self.spans),
            Content::Section(self.strings),
        ];
        let path = LayerIndex::path(&self.dir, summary.digest);
        mapped::write(&path, FORMAT, contents)?;
        LayerIndex::open(&self.dir, summary.digest)?
            .ok_or_else(|| io::Error::other("a new layer index cannot be read back"))
    }

    fn string(&mut self, bytes: &[u8]) -> io::Result<StringRef> {
        Ok(StringRef { at: self.strings.push(bytes)?.into(), len: count(bytes.len())? })
    }
}

fn count(n: usize) -> io::Result<U32> {
    let n = u32::try_from(n).map_err(|_| io::Error::other("an entry has too many parts"))?;
    Ok(n.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o4755,
            uid: 1,
            gid: u32::MAX,
            mtime: Timestamp { seconds: -5, nanos: 7 },
            size: 9,
            xattrs: vec![(b"user.a".to_vec(), b"\0v".to_vec())],
        }
    }

    fn summary() -> Summary {
        Summary {
            digest: Digest::of(b"x"),
            diff_id: DiffId::new(Digest::of(b"y")),
            blob_len: 100,
            content_len: 30,
        }
    }

    fn span(content_offset: u64, content_len: u64) -> Span {
        let coding = Coding::Deflate;
        let hash = [7; 32];
        Span { content_offset, content_len, blob_offset: 3, blob_len: 4, coding, bits: 5, hash }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = IndexBuilder::new(dir.path()).unwrap();
        let extents = [Extent { file_offset: 0, content_offset: 512, len: 9 }];
        builder.entry(&entry("a/b", Kind::File), &extents).unwrap();
        let device = Device { major: 8, minor: 1 };
        builder.entry(&entry("a/l", Kind::Symlink(b"../x".to_vec())), &[]).unwrap();
        builder.entry(&entry("d", Kind::BlockDevice(device)), &[]).unwrap();
        builder.span(&span(0, 10), &[]).unwrap();
        builder.span(&span(10, 20), &[1; 5000]).unwrap();
        let index = builder.finish(&summary()).unwrap();

        assert_eq!(index.len(), 3);
        let file = index.entry(0).unwrap();
        assert_eq!((file.path, file.kind, file.mode), (&b"a/b"[..], ViewKind::File, 0o4755));
        assert_eq!(file.mtime, Timestamp { seconds: -5, nanos: 7 });
        assert_eq!(index.extents(&file).unwrap().collect::<Vec<_>>(), extents);
        assert_eq!(index.xattrs(&file).unwrap(), [(&b"user.a"[..], &b"\0v"[..])]);
        assert_eq!(index.entry(1).unwrap().link, b"../x");
        assert_eq!(index.entry(2).unwrap().device, device);
        assert!(index.entry(3).is_err());

        assert_eq!(
            [0, 9, 10, 29, 30].map(|at| index.span_at(at)),
            [Some(0), Some(0), Some(1), Some(1), None]
        );
        assert_eq!(index.span(1).unwrap(), span(10, 20));
        assert!(index.window(0).unwrap().is_empty());
        let window = zstd::bulk::decompress(index.window(1).unwrap(), 1 << 15).unwrap();
        assert_eq!(window, [1; 5000]);
        assert_eq!(
            *LayerIndex::open(dir.path(), Digest::of(b"x")).unwrap().unwrap().summary(),
            summary()
        );
        assert!(LayerIndex::open(dir.path(), Digest::of(b"z")).unwrap().is_none());
    }

    #[test]
    fn damage_is_an_error_and_not_a_panic() {
        let dir = tempfile::tempdir().unwrap();
        let mut builder = IndexBuilder::new(dir.path()).unwrap();
        builder.entry(&entry("a", Kind::File), &[]).unwrap();
        builder.span(&span(0, 10), &[1; 100]).unwrap();
        let path = LayerIndex::path(dir.path(), Digest::of(b"x"));
        drop(builder.finish(&summary()).unwrap());
        let whole = std::fs::read(&path).unwrap();
        let mut errors = 0;
        for at in FORMAT_HEADER..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &broken).unwrap();
            let Some(index) = LayerIndex::open(dir.path(), Digest::of(b"x")).unwrap() else {
                continue;
            };
            let entry = index.entry(0);
            errors += usize::from(entry.is_err());
            if let Ok(entry) = entry {
                errors += usize::from(index.xattrs(&entry).is_err());
                errors += usize::from(index.extents(&entry).is_err());
            }
            errors += usize::from(index.span(0).is_err()) + usize::from(index.window(0).is_err());
        }
        assert!(errors > 10, "only {errors} damages were seen");
    }

    const FORMAT_HEADER: usize = 24 + 6 * 16 + 32;
}
