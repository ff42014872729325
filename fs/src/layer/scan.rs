//! The one pass over a layer's blob that makes its index.
//!
//! ```text
//! read + sha256(blob) -> decode, checkpoints -> sha256(content), blake3(span), tar, index
//! ```
//!
//! Each stage is a thread, a few pieces of at most 256 KiB apart: on two cores inflating, the
//! slowest, sets the pace. Memory is that of the pieces in flight, whatever the layer's size. The index
//! gets its name only when the blob's digest and the diffID were found right.

mod choice;
mod open_span;
pub(super) mod piece;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};

pub(super) use choice::index_by_table;
pub use choice::open_or_scan;
pub(crate) use choice::{first_read, has_table, open_or_scan_filling};
use open_span::OpenSpan;
use piece::{Piece, Sink, SpanStart};

use super::agreement::Contradiction;
use super::gzip::window::Marks;
use super::index::{Coding, Extent, Flood, IndexBuilder, LayerIndex, STORED_SPAN, Summary};
use super::tar::{TarError, TarReader};
use super::toc::error::TocError;
use super::toc::is_of_stargz;
use super::toc::trusted::TrustedToc;
use super::{Entry, gzip, zstd};
use crate::blob::BlobReader;
use crate::cache::Fill;
use crate::digest::{DiffId, Digest, Hasher, Mismatch, VerifyReader};
use crate::oci::Layer;
use crate::printable;

/// Size of the pieces in which a blob is read.
const PIECE: usize = 256 << 10;
/// Pieces between two stages.
const AHEAD: usize = 8;
/// A span that grows beyond this is unpacked to disk, in bytes of content: it would have to be
/// decoded whole for every read. Deflate blocks of most compressors end well before, but some
/// (zlib-ng at level 1) put a whole file in one, and many zstd layers are a single frame.
const MAX_SPAN: u64 = 16 << 20;

/// Why a layer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob is not what the manifest says.
    #[error("{mismatch} ({location})")]
    Corrupt {
        /// What differs.
        mismatch: Mismatch,
        /// Where the blob lies.
        location: String,
        /// Whether that is a registry.
        remote: bool,
    },
    /// The content is not what the config says.
    #[error("layer {layer} has diffID {found}, but the image's config says {expected}")]
    DiffId {
        /// Digest of the blob.
        layer: Digest,
        /// From the config.
        expected: DiffId,
        /// Of the content.
        found: DiffId,
    },
    /// The blob cannot be decoded.
    #[error("layer {layer} cannot be decoded: {source}")]
    Decode {
        /// Digest of the blob.
        layer: Digest,
        /// The decoder's words.
        source: io::Error,
    },
    /// The content is no valid tar stream.
    #[error("layer {layer}: {source}")]
    Tar {
        /// Digest of the blob.
        layer: Digest,
        /// The place and the problem.
        source: TarError,
    },
    /// The table of contents inside the blob cannot be used.
    #[error("layer {layer}: {source}")]
    Toc {
        /// Digest of the blob.
        layer: Digest,
        /// The problem.
        source: TocError,
    },
    /// What readers of the table of contents see is not what readers of the tar stream see.
    #[error(
        "layer {layer}: its table of contents and its tar stream contradict each other: {}: {what}",
        printable::name(path)
    )]
    Contradiction {
        /// Digest of the blob.
        layer: Digest,
        /// The first path that differs.
        path: Vec<u8>,
        /// How.
        what: Contradiction,
    },
    /// The blob cannot be read.
    #[error("read layer {layer} ({location}): {source}")]
    Read {
        /// Digest of the blob.
        layer: Digest,
        /// Where the blob lies.
        location: String,
        /// What the system said.
        source: io::Error,
    },
    /// So little becomes so large an index that it is no layer in good faith.
    #[error("layer {layer}: {flood}")]
    Flood {
        /// Digest of the blob.
        layer: Digest,
        /// The sizes.
        flood: Flood,
    },
    /// The index cannot be read or written.
    #[error("index of layer {layer} in {}: {source}", dir.display())]
    Index {
        /// Digest of the blob.
        layer: Digest,
        /// Where indexes lie.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl LayerError {
    /// Whether the bytes that came are not those that the digest names. Whatever else is wrong is
    /// found only in bytes that were.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Toc { source: TocError::Mismatch(_), .. } => true,
            Self::Toc { .. }
            | Self::DiffId { .. }
            | Self::Decode { .. }
            | Self::Tar { .. }
            | Self::Contradiction { .. }
            | Self::Flood { .. }
            | Self::Read { .. }
            | Self::Index { .. } => false,
        }
    }
}

/// Reads, verifies and indexes a layer.
pub fn scan(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<LayerIndex, LayerError> {
    scan_filling(layer, indexes, progress, None, None)
}

/// As [`scan`], and the content goes into the cache, to be there when the layer was found right.
/// `toc` is a table that the manifest names but that cannot be used: the index shows what it would
/// have shown, and has its name.
fn scan_filling(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
    mut fill: Option<Fill<'_>>,
    toc: Option<TrustedToc>,
) -> Result<LayerIndex, LayerError> {
    let hides = toc.is_some_and(TrustedToc::is_stargz);
    let digest = layer.descriptor.digest;
    let (blob_tx, blob_rx) = mpsc::sync_channel(AHEAD);
    let (content_tx, content_rx) = mpsc::sync_channel(AHEAD);
    let (read, decoded, indexed) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_blob(layer, blob_tx, progress));
        let decoding = scope.spawn(|| decode(blob_rx, content_tx));
        let indexed = index_content(content_rx, layer, indexes, fill.as_mut(), hides);
        let join = "a stage of the scan does not panic";
        (reading.join().expect(join), decoding.join().expect(join), indexed)
    });
    // A broken blob shows as nonsense further on: the first stage that failed has the reason.
    read.map_err(|source| read_error(layer, source))?;
    if let Err(source) = decoded {
        // The stage after this one is gone: it has the reason.
        if source.kind() != io::ErrorKind::BrokenPipe {
            return Err(LayerError::Decode { layer: digest, source });
        }
    }
    let (builder, diff_id, content_len) = indexed?;
    if diff_id != layer.diff_id {
        return Err(LayerError::DiffId { layer: digest, expected: layer.diff_id, found: diff_id });
    }
    let blob_len = layer.descriptor.size;
    let toc = toc.map(TrustedToc::digest);
    let summary = Summary { digest, diff_id, toc, blob_len, content_len };
    let index = builder.finish(&summary).map_err(|source| index_error(indexes, digest, source))?;
    if let Some(fill) = fill {
        fill.finish();
    }
    Ok(index)
}

pub(super) fn read_error(layer: &Layer, source: io::Error) -> LayerError {
    let location = layer.blob.location();
    match source.downcast::<Mismatch>() {
        Ok(mismatch) => LayerError::Corrupt { mismatch, location, remote: layer.blob.is_remote() },
        Err(source) => LayerError::Read { layer: layer.descriptor.digest, location, source },
    }
}

fn index_error(dir: &Path, layer: Digest, source: io::Error) -> LayerError {
    match source.downcast::<Flood>() {
        Ok(flood) => LayerError::Flood { layer, flood },
        Err(source) => LayerError::Index { layer, dir: dir.to_owned(), source },
    }
}

/// First stage. It goes on to the end of the blob even when nobody takes its pieces any more, to
/// know whether the blob is the one that the manifest means.
fn read_blob(
    layer: &Layer,
    out: SyncSender<Vec<u8>>,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<()> {
    let reader = BlobReader::new(layer.blob.clone());
    let mut reader = VerifyReader::new(reader, layer.descriptor.digest, layer.descriptor.size);
    let mut out = Some(out);
    loop {
        let mut piece = vec![0; PIECE];
        let n = match reader.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        piece.truncate(n);
        progress(n as u64);
        if out.as_ref().is_some_and(|out| out.send(piece).is_err()) {
            out = None;
        }
    }
}

/// The decoders.
enum Decoder {
    /// Bytes of the blob so far.
    Stored(u64),
    Gzip(Box<gzip::Scanner>),
    Zstd(zstd::Scanner),
}

impl Decoder {
    /// Chosen by the first bytes: media types are often wrong, and every tool looks here.
    fn for_content(start: &[u8]) -> io::Result<Self> {
        Ok(match start {
            [0x1f, 0x8b, ..] => Self::Gzip(Box::new(gzip::Scanner::new())),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Self::Zstd(zstd::Scanner::new()?)
            }
            _ => Self::Stored(0),
        })
    }

    fn feed(&mut self, piece: Vec<u8>, sink: &mut Sink<'_>) -> io::Result<()> {
        match self {
            Self::Stored(offset) => {
                if offset.is_multiple_of(STORED_SPAN) {
                    let (coding, window) = (Coding::Stored, Vec::new());
                    let start = SpanStart { blob_offset: *offset, coding, bits: 0, window };
                    sink.send(Piece::Span(start))?;
                }
                *offset += piece.len() as u64;
                sink.send(Piece::Data(piece))
            }
            Self::Gzip(scanner) => scanner.feed(&piece, sink),
            Self::Zstd(scanner) => scanner.feed(&piece, sink),
        }
    }

    fn finish(self, sink: &mut Sink<'_>) -> io::Result<()> {
        match self {
            Self::Stored(_) => Ok(()),
            Self::Gzip(scanner) => scanner.finish(sink),
            Self::Zstd(scanner) => scanner.finish(sink),
        }
    }
}

/// Second stage.
fn decode(blob: Receiver<Vec<u8>>, out: SyncSender<Piece>) -> io::Result<()> {
    let mut sink = Sink::new(&out);
    let mut pieces = full_pieces(blob);
    let first = pieces.next().unwrap_or_default();
    let mut decoder = Decoder::for_content(&first)?;
    for piece in std::iter::once(first).filter(|piece| !piece.is_empty()).chain(pieces) {
        decoder.feed(piece, &mut sink)?;
    }
    decoder.finish(&mut sink)?;
    sink.send(Piece::End)
}

/// Puts short reads together, so that every piece but the last has the full size: stored spans
/// start at pieces.
fn full_pieces(blob: Receiver<Vec<u8>>) -> impl Iterator<Item = Vec<u8>> {
    let mut blob = blob.into_iter();
    let mut rest = Vec::new();
    std::iter::from_fn(move || {
        let mut piece = std::mem::take(&mut rest);
        while piece.len() < PIECE {
            match blob.next() {
                Some(more) if piece.is_empty() => piece = more,
                Some(more) => piece.extend(more),
                None => break,
            }
        }
        if piece.len() > PIECE {
            rest = piece.split_off(PIECE);
        }
        (!piece.is_empty()).then_some(piece)
    })
}

/// Third stage: returns the builder, the diffID and the content's length. With `hides`, what only
/// serves stargz is left out.
fn index_content(
    content: Receiver<Piece>,
    layer: &Layer,
    indexes: &Path,
    fill: Option<&mut Fill<'_>>,
    hides: bool,
) -> Result<(IndexBuilder, DiffId, u64), LayerError> {
    let blob_len = layer.descriptor.size;
    let layer = layer.descriptor.digest;
    let failed = |source| index_error(indexes, layer, source);
    let mut builder = IndexBuilder::new(indexes).map_err(failed)?;
    builder.made_from(blob_len);
    let mut tar = TarReader::new(Content::new(content, blob_len, builder, fill));
    let result = index_members(&mut tar, hides);
    let content = tar.into_inner();
    if let Some(source) = content.index_failure {
        return Err(failed(source));
    }
    result.map_err(|source| LayerError::Tar { layer, source })?;
    Ok((content.builder, DiffId::new(content.hasher.finish()), content.len))
}

fn index_members(tar: &mut TarReader<Content<'_, '_>>, hides: bool) -> Result<(), TarError> {
    while let Some(member) = tar.next_member()? {
        if !(hides && is_of_stargz(&member.entry.path)) {
            tar.input_mut().add(&member.entry, &member.extents);
        }
    }
    tar.drain()
}

/// The content as it comes from the decoder, hashed and cut into spans on its way.
struct Content<'a, 'b> {
    pieces: Receiver<Piece>,
    /// Set when the decoder has said that all is there.
    complete: bool,
    piece: Vec<u8>,
    taken: usize,
    hasher: Hasher,
    len: u64,
    span: Option<OpenSpan>,
    blob_len: u64,
    builder: IndexBuilder,
    /// Made for the first window.
    marks: Option<Marks>,
    /// Where the content of spans goes that are not unpacked.
    fill: Option<&'a mut Fill<'b>>,
    /// Why the index cannot be written; the stream then ends with an error.
    index_failure: Option<io::Error>,
}

impl<'a, 'b> Content<'a, 'b> {
    fn new(
        pieces: Receiver<Piece>,
        blob_len: u64,
        builder: IndexBuilder,
        fill: Option<&'a mut Fill<'b>>,
    ) -> Self {
        Self {
            pieces,
            complete: false,
            piece: Vec::new(),
            taken: 0,
            hasher: Hasher::new(),
            len: 0,
            span: None,
            blob_len,
            builder,
            marks: None,
            fill,
            index_failure: None,
        }
    }

    fn add(&mut self, entry: &Entry, extents: &[Extent]) {
        let added = self.builder.entry(entry, extents);
        self.index_failure = self.index_failure.take().or(added.err());
    }

    /// Takes the next piece of data; `false` at the end.
    fn next_piece(&mut self) -> io::Result<bool> {
        loop {
            if let Some(failure) = &self.index_failure {
                return Err(failure.kind().into());
            }
            if self.complete {
                return Ok(false);
            }
            match self.pieces.recv() {
                Ok(Piece::Span(start)) => self.start_span(start),
                Ok(Piece::Head(head)) => {
                    if let Some(span) = &mut self.span {
                        span.head = head;
                    }
                }
                Ok(Piece::Data(piece)) => {
                    self.keep_last();
                    self.take_piece(&piece);
                    self.piece = piece;
                    self.taken = 0;
                    return Ok(true);
                }
                Ok(Piece::End) => {
                    self.end_span(self.blob_len);
                    self.complete = true;
                }
                // The decoder failed; it is asked for the reason.
                Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Keeps the piece that was in use as long as its span may have to be unpacked, or cached.
    fn keep_last(&mut self) {
        let last = std::mem::take(&mut self.piece);
        let is_cached = self.fill.as_ref().is_some_and(|fill| fill.is_open());
        if let Some(span) = &mut self.span
            && !last.is_empty()
            && !span.unpacked
            && (span.start.coding != Coding::Stored || is_cached)
        {
            span.kept.push(last);
        }
    }

    fn take_piece(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        let at = self.len;
        self.len += piece.len() as u64;
        let Some(span) = &mut self.span else { return };
        if !span.unpacked && self.len - span.content_offset <= MAX_SPAN {
            span.hasher.update(piece);
            return;
        }
        let mut added = Ok(());
        let mut kept_at = span.content_offset;
        for kept in span.kept.drain(..) {
            added = added.and_then(|()| self.builder.unpacked_span(kept_at, &kept));
            kept_at += kept.len() as u64;
        }
        span.unpacked = true;
        let added = added.and_then(|()| self.builder.unpacked_span(at, piece));
        self.index_failure = self.index_failure.take().or(added.err());
    }

    fn start_span(&mut self, start: SpanStart) {
        self.end_span(start.blob_offset);
        self.span = Some(OpenSpan::new(start, self.len));
    }

    fn end_span(&mut self, blob_end: u64) {
        // Nothing of the piece in use is left, and it belongs to this span.
        let last = std::mem::take(&mut self.piece);
        self.taken = 0;
        let Some(mut open) = self.span.take().filter(|open| !open.unpacked) else { return };
        open.kept.push(last);
        let (span, blocks) = open.close(self.len, blob_end);
        let number = self.builder.span_count();
        let window = open.window(&mut self.marks);
        let added = window.and_then(|window| self.builder.span_of_blocks(&span, &window, &blocks));
        self.index_failure = self.index_failure.take().or(added.err());
        if let Some(fill) = self.fill.as_mut().filter(|fill| fill.is_open()) {
            let content = open.kept.concat();
            // One that began when there was no room, or has nothing, is of no use.
            if content.len() as u64 == span.content_len && !content.is_empty() {
                fill.add(number, span, content);
            }
        }
    }
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len() && !self.next_piece()? {
            return Ok(0);
        }
        let n = buf.len().min(self.piece.len() - self.taken);
        buf[..n].copy_from_slice(&self.piece[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests;
