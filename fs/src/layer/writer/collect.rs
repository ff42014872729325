//! The last stage of a new layer: writes the frames in their order, and notes where the contents
//! of files lie, for the layer's index and, if its format has one, its table of contents.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use tempfile::NamedTempFile;

use super::clocks::{Clocks, Work};
use super::contents::{Chunk, Contents};
use super::frames::{Part, Piece, Shape};
use super::pack::GZIP_HEADER;
use super::pipeline::{Done, died};
use super::tar_split::Crc64;
use super::{Coder, Compression, Failure, Member};
use crate::blocks::Node;
use crate::digest::{Digest, Hasher};
use crate::layer::Entry;
use crate::layer::index::{Coding, Extent, IndexBuilder, Span, SpanDigest};
use crate::layer::toc::{PREFETCH_LANDMARK, TocEntry};

/// A table of contents that is larger, in bytes of JSON, is left out: `containers/storage` refuses
/// it (`maxTocSize` in its `pkg/chunked`), and with it the layer.
const MAX_TABLE: u64 = 150 << 20;

/// A blob while it is written.
#[derive(Debug)]
pub(super) struct BlobFile {
    pub(super) file: NamedTempFile,
    hasher: Hasher,
    pub(super) len: u64,
    pub(super) clocks: Arc<Clocks>,
}

/// All that was collected. The blob lacks what the format has at its end.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) blob: BlobFile,
    pub(super) index: IndexBuilder,
    /// Length of the index's content.
    pub(super) content_len: u64,
    pub(super) contents: Option<Contents>,
    /// The last span, if its stored bytes go on to whatever comes next in the blob.
    pub(super) open_span: Option<Span>,
    /// How many bytes at the start of the blob are to be fetched first.
    pub(super) first_len: u64,
}

/// The stage.
#[derive(Debug)]
pub(super) struct Collector {
    shape: Shape,
    coding: Coding,
    /// Length of what a frame has before what the index points to.
    header: usize,
    to: Collected,
    file: Option<OpenFile>,
    spare: Sender<Vec<u8>>,
}

/// An entry of which more chunks may be to come.
#[derive(Debug)]
struct OpenFile {
    entry: Entry,
    toc: Option<TocEntry>,
    hidden: bool,
    size: u64,
    /// Bytes of it that are there.
    done: u64,
    extents: Vec<Extent>,
    hasher: Hasher,
    crc: Crc64,
    chunks: Vec<Chunk>,
}

impl BlobFile {
    pub(super) fn finish(self) -> (NamedTempFile, Digest, u64) {
        (self.file, self.hasher.finish(), self.len)
    }
}

impl Write for BlobFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Self { file, hasher, clocks, .. } = self;
        clocks.time(Work::Write, || file.as_file_mut().write_all(buf))?;
        clocks.time(Work::Hash, || hasher.update(buf));
        self.len += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Collected {
    /// Ends the open span where the blob ends now.
    pub(super) fn end_span(&mut self) -> io::Result<()> {
        let Some(mut span) = self.open_span.take() else { return Ok(()) };
        span.blob_len = self.blob.len - span.blob_offset;
        self.index.span(&span, &[])
    }
}

impl Collector {
    /// A stage whose blob is written to a file in `dir`, and whose buffers go back to `spare`.
    pub(super) fn new(
        dir: &Path,
        index: IndexBuilder,
        compression: Compression,
        spare: Sender<Vec<u8>>,
        clocks: Arc<Clocks>,
    ) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
        let shape = compression.shape();
        let (coding, header) = match (compression.coder(), shape) {
            (Coder::Zstd(_), _) => (Coding::Zstd, 0),
            (Coder::Gzip(_), Shape::Members) => (Coding::Gzip, 0),
            (Coder::Gzip(_), Shape::Even(_) | Shape::Chunks) => {
                (Coding::Deflate, GZIP_HEADER.len())
            }
            (Coder::None, _) => (Coding::Stored, 0),
        };
        let contents = match shape {
            Shape::Even(_) => None,
            Shape::Chunks => Some(Contents::zstd_chunked(dir)?),
            Shape::Members => Some(Contents::estargz(dir)?),
        };
        let blob = BlobFile { file, hasher: Hasher::new(), len: 0, clocks };
        let to = Collected { blob, index, content_len: 0, contents, open_span: None, first_len: 0 };
        Ok(Self { shape, coding, header, to, file: None, spare })
    }

    pub(super) fn run(
        mut self,
        order: &Receiver<Receiver<io::Result<Done>>>,
    ) -> Result<Collected, Failure> {
        for answer in order {
            let done = answer.recv().map_err(|_| died())?.map_err(Failure::Blob)?;
            self.add(done)?;
        }
        Ok(self.to)
    }

    fn add(&mut self, done: Done) -> Result<(), Failure> {
        let Done { content, len, parts, packed, frames } = done;
        let mut packed = packed.into_iter();
        let mut at = self.to.blob.len;
        let mut rest = &content[..len];
        for part in parts {
            match part {
                Part::Member(member) => self.member(*member, at)?,
                Part::Trailer(bytes) => self.trailer(&bytes)?,
                Part::EndOfFirst => self.to.first_len = at,
                Part::Piece(piece) => {
                    let (bytes, after) = rest.split_at(piece.len);
                    rest = after;
                    let (stored, digest, blocks) = packed.next().expect("every piece was packed");
                    let stored = stored as u64;
                    let span = self.span_at(at, stored, piece.len as u64, digest);
                    self.piece(piece, bytes, span, &blocks)?;
                    at += stored;
                }
            }
        }
        let frames = frames.as_deref().unwrap_or(&content[..len]);
        self.to.blob.write_all(frames).map_err(Failure::Blob)?;
        // The stream may be complete, then nobody takes it.
        drop(self.spare.send(content));
        Ok(())
    }

    /// Notes an entry; `at` is the length of the blob so far.
    fn member(&mut self, member: Member, at: u64) -> Result<(), Failure> {
        let Member { entry, size, extents, toc, raw, hidden } = member;
        if !self.shape.has_chunks() {
            return self.to.index.entry(&entry, &extents).map_err(Failure::Index);
        }
        if toc.is_none() {
            // One entry that it cannot tell makes a table of contents useless.
            self.to.contents = None;
        }
        if let Some(contents) = &mut self.to.contents {
            contents.segment(&raw).map_err(Failure::Blob)?;
        }
        let (hasher, crc) = (Hasher::new(), Crc64::new());
        let (extents, chunks) = (Vec::new(), Vec::new());
        let file = OpenFile { entry, toc, hidden, size, done: 0, extents, hasher, crc, chunks };
        if size == 0 {
            return self.end_file(file, at);
        }
        self.file = Some(file);
        Ok(())
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.to.contents {
            Some(contents) => contents.segment(bytes).map_err(Failure::Blob),
            None => Ok(()),
        }
    }

    /// The next span, whose frame of so many bytes starts at `at`.
    fn span_at(&self, at: u64, stored: u64, content_len: u64, digest: SpanDigest) -> Span {
        Span {
            content_offset: self.to.content_len,
            content_len,
            blob_offset: at + self.header as u64,
            blob_len: stored - self.header as u64,
            coding: self.coding,
            bits: 0,
            inner_offset: 0,
            digest,
        }
    }

    /// Notes a piece.
    fn piece(
        &mut self,
        piece: Piece,
        bytes: &[u8],
        span: Span,
        blocks: &[Node],
    ) -> Result<(), Failure> {
        match (self.shape, piece.payload as u64) {
            (Shape::Even(_), _) => {
                self.to.content_len += span.content_len;
                self.to.index.span_of_blocks(&span, &[], blocks).map_err(Failure::Index)
            }
            (_, 0) => Ok(()),
            (_, content_len) => {
                self.end_open_span(span.blob_offset - self.header as u64)?;
                self.chunk(Span { content_len, ..span }, &bytes[..piece.payload], piece.zeros)
            }
        }
    }

    /// eStargz knows only where a chunk starts: its stored bytes end where the next one's start.
    fn end_open_span(&mut self, at: u64) -> Result<(), Failure> {
        let Some(mut span) = self.to.open_span.take() else { return Ok(()) };
        span.blob_len = at - span.blob_offset;
        self.to.index.span(&span, &[]).map_err(Failure::Index)
    }

    fn chunk(&mut self, span: Span, bytes: &[u8], zeros: bool) -> Result<(), Failure> {
        let mut file = self.file.take().expect("a chunk comes behind its file");
        let SpanDigest::Sha256(digest) = span.digest else { unreachable!("chunks have sha256") };
        let len = span.content_len;
        if let Some(contents) = &self.to.contents {
            if len < file.size {
                self.to.blob.clocks.time(Work::Hash, || file.hasher.update(bytes));
            }
            if contents.has_tar_split() {
                file.crc.update(bytes);
            }
        }
        let at = file.done;
        file.chunks.push(Chunk { offset: span.blob_offset, at, len, digest, zeros });
        file.done += len;
        // A reader of the table makes a hole of zeros, unless they are the whole file.
        let hole = zeros && len < file.size;
        if !file.hidden && !hole {
            self.span(&mut file.extents, span, at)?;
        }
        if file.hidden && file.entry.path == PREFETCH_LANDMARK.as_bytes() {
            self.to.first_len = span.blob_offset;
        }
        if file.done < file.size {
            self.file = Some(file);
            return Ok(());
        }
        self.end_file(file, span.blob_offset + span.blob_len)
    }

    /// Puts a chunk that starts at `at` in its file into the index.
    fn span(&mut self, extents: &mut Vec<Extent>, span: Span, at: u64) -> Result<(), Failure> {
        let (content_offset, len) = (span.content_offset, span.content_len);
        match extents.last_mut() {
            Some(last) if last.file_offset + last.len == at => last.len += len,
            _ => extents.push(Extent { file_offset: at, content_offset, len }),
        }
        self.to.content_len += len;
        match self.shape {
            Shape::Members => self.to.open_span = Some(span),
            Shape::Even(_) | Shape::Chunks => {
                self.to.index.span(&span, &[]).map_err(Failure::Index)?;
            }
        }
        Ok(())
    }

    /// Notes a file whose chunks are all there, or what has no content; `end` is where its last
    /// frame ends.
    fn end_file(&mut self, file: OpenFile, end: u64) -> Result<(), Failure> {
        if !file.hidden {
            self.to.index.entry(&file.entry, &file.extents).map_err(Failure::Index)?;
        }
        let (Some(contents), Some(toc)) = (&mut self.to.contents, file.toc) else {
            return Ok(());
        };
        let digest = match &file.chunks[..] {
            [only] => only.digest,
            _ => file.hasher.finish(),
        };
        contents.file(toc, digest, &file.chunks, end, file.crc).map_err(Failure::Blob)?;
        if contents.len() > MAX_TABLE {
            self.to.contents = None;
        }
        Ok(())
    }
}
