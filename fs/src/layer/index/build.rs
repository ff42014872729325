//! Writing an index.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    CODINGS, Coding, EntryRecord, Extent, ExtentRecord, FORMAT, KINDS, LayerIndex, NO_BLOCKS, Span,
    SpanDigest, SpanRecord, StringRef, Summary, SummaryRecord, ViewKind, XattrRecord,
    unpacked_path,
};
use crate::blocks::{Node, TreeHasher};
use crate::layer::{Device, Entry, Kind};
use crate::mapped::{self, Content, Section};
use crate::unnamed::UnnamedFile;

/// An index may take this much for each byte of what it is made from, in bytes: a table of contents
/// of a million empty files with names that count up takes half a byte for each when it is
/// compressed, and 100 to 600 in an index.
const AMPLE: u64 = 2048;
/// And this much in any case, in bytes.
const LEAST: u64 = 1 << 20;

/// An index that takes far more than it should.
#[derive(Debug, thiserror::Error)]
#[error("its index would take more than {limit} bytes, and is made from {made_from}")]
pub struct Flood {
    /// The limit in bytes.
    pub limit: u64,
    /// Bytes of the compressed table of contents, or of the blob.
    pub made_from: u64,
}

/// Writes an index entry by entry and span by span.
#[derive(Debug)]
pub struct IndexBuilder {
    dir: PathBuf,
    entries: Section,
    extents: Section,
    xattrs: Section,
    spans: Section,
    /// Numbers of the spans with a sha256 digest of their content.
    chunks: Vec<U32>,
    blocks: Section,
    strings: Section,
    packer: Packer,
    unpacked: Option<Unpacked>,
    first_len: u64,
    /// Bytes of what it is made from, where that bounds what it may take.
    made_from: Option<u64>,
}

/// Compresses windows.
struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    fn new() -> io::Result<Self> {
        // Level 1: the pass must not wait for them.
        zstd::bulk::Compressor::new(1).map(Self)
    }

    fn pack(&mut self, window: &[u8]) -> io::Result<Vec<u8>> {
        if window.is_empty() { Ok(Vec::new()) } else { self.0.compress(window) }
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
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
            chunks: Vec::new(),
            blocks: section()?,
            strings: section()?,
            packer: Packer::new()?,
            unpacked: None,
            made_from: None,
            first_len: 0,
        })
    }

    /// Says how many bytes at the start of the blob are to be fetched first.
    pub fn first(&mut self, len: u64) {
        self.first_len = len;
    }

    /// From now on the index may take only as much as something of this many bytes is worth.
    pub(in crate::layer) fn made_from(&mut self, bytes: u64) {
        self.made_from = Some(bytes);
    }

    fn check_size(&self) -> io::Result<()> {
        let Some(made_from) = self.made_from else { return Ok(()) };
        let limit = made_from.saturating_mul(AMPLE).saturating_add(LEAST);
        let Self { entries, extents, xattrs, spans, blocks, strings, .. } = self;
        let sections = [entries, extents, xattrs, spans, blocks, strings];
        let len: u64 = sections.into_iter().map(Section::len).sum();
        if len > limit { Err(io::Error::other(Flood { limit, made_from })) } else { Ok(()) }
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
        self.check_size()
    }

    /// Adds a span; they come in the order of the content and without gaps. `window` is the
    /// output before a deflate span, empty where it needs none.
    pub fn span(&mut self, span: &Span, window: &[u8]) -> io::Result<()> {
        self.span_of_blocks(span, window, &[])
    }

    /// As [`IndexBuilder::span`]; `blocks` are the hashes of its blocks, if they are more than one.
    /// They are kept where they are of use.
    pub(crate) fn span_of_blocks(
        &mut self,
        span: &Span,
        window: &[u8],
        blocks: &[Node],
    ) -> io::Result<()> {
        let first_block = match span.has_blocks() && !blocks.is_empty() {
            true => self.blocks.push(blocks.as_flattened())? / size_of::<Node>() as u64,
            false => NO_BLOCKS,
        };
        let packed = self.packer.pack(window)?;
        let coding = CODINGS.iter().position(|coding| *coding == span.coding);
        let (digest_kind, digest) = span.digest.to_record();
        let record = SpanRecord {
            content_offset: span.content_offset.into(),
            content_len: span.content_len.into(),
            blob_offset: span.blob_offset.into(),
            blob_len: span.blob_len.into(),
            window: self.string(&packed)?,
            coding: count(coding.expect("every coding is listed"))?,
            inner_offset: span.inner_offset.into(),
            bits: u32::from(span.bits).into(),
            digest_kind: digest_kind.into(),
            digest,
            first_block: first_block.into(),
        };
        let number = self.spans.record(&record)?;
        if let SpanDigest::Sha256(_) = span.digest {
            self.chunks.push(count(usize::try_from(number).unwrap_or(usize::MAX))?);
        }
        self.check_size()
    }

    /// How many spans were added.
    pub fn span_count(&self) -> usize {
        let spans = self.spans.len() / size_of::<SpanRecord>() as u64;
        usize::try_from(spans).unwrap_or(usize::MAX)
    }

    /// Adds a span of this content that cannot be decoded from the blob alone.
    pub fn unpacked_span(&mut self, content_offset: u64, content: &[u8]) -> io::Result<()> {
        if self.unpacked.is_none() {
            self.unpacked = Some(Unpacked { file: UnnamedFile::new_in(&self.dir)?, len: 0 });
        }
        let unpacked = self.unpacked.as_mut().expect("made above");
        let (hash, blocks) = TreeHasher::of(content);
        let span = Span {
            content_offset,
            content_len: content.len() as u64,
            blob_offset: unpacked.len,
            blob_len: content.len() as u64,
            coding: Coding::Unpacked,
            bits: 0,
            inner_offset: 0,
            digest: SpanDigest::Blake3(hash),
        };
        // Zeros stay holes.
        if content.iter().any(|byte| *byte != 0) {
            unpacked.file.file().write_all_at(content, unpacked.len)?;
        }
        unpacked.len += content.len() as u64;
        self.span_of_blocks(&span, &[], &blocks)
    }

    /// Writes the index under its name and opens it.
    pub fn finish(mut self, summary: &Summary) -> io::Result<LayerIndex> {
        let unpacked_len = self.unpacked.as_ref().map_or(0, |unpacked| unpacked.len);
        if let Some(Unpacked { file, len }) = self.unpacked.take() {
            file.file().set_len(len)?;
            file.file().sync_data()?;
            file.persist(&unpacked_path(&self.dir, summary.id()))?;
        }
        let record = SummaryRecord {
            digest: *summary.digest.as_bytes(),
            diff_id: *summary.diff_id.digest().as_bytes(),
            toc: summary.toc.map_or([0; 32], |toc| *toc.as_bytes()),
            blob_len: summary.blob_len.into(),
            content_len: summary.content_len.into(),
            unpacked_len: unpacked_len.into(),
            first_len: self.first_len.into(),
        };
        self.sort_chunks()?;
        let contents = vec![
            Content::Bytes(record.as_bytes().to_vec()),
            Content::Section(self.entries),
            Content::Section(self.extents),
            Content::Section(self.xattrs),
            Content::Section(self.spans),
            Content::Bytes(self.chunks.as_bytes().to_vec()),
            Content::Section(self.blocks),
            Content::Section(self.strings),
        ];
        let path = LayerIndex::path(&self.dir, summary.id());
        mapped::write(&path, FORMAT, contents)?;
        LayerIndex::open(&self.dir, summary.id())?
            .ok_or_else(|| io::Error::other("a new layer index cannot be read back"))
    }

    /// Sorts the chunks by their digests, which only the section has, as there may be millions.
    fn sort_chunks(&mut self) -> io::Result<()> {
        if self.chunks.is_empty() {
            return Ok(());
        }
        let map = self.spans.map()?;
        let spans = <[SpanRecord]>::ref_from_bytes(&map).expect("whole records were written");
        self.chunks
            .sort_unstable_by_key(|number| (spans[number.get() as usize].digest, number.get()));
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> io::Result<StringRef> {
        Ok(StringRef { at: self.strings.push(bytes)?.into(), len: count(bytes.len())? })
    }
}

fn count(n: usize) -> io::Result<U32> {
    let n = u32::try_from(n).map_err(|_| io::Error::other("an entry has too many parts"))?;
    Ok(n.into())
}
