//! zstd:chunked: zstd layers with a table of contents in a skippable frame.
//!
//! ```text
//! zstd frames: headers | chunk | chunk | ... | table | how to make the tar again | footer
//! ```
//!
//! A chunk is a frame. The manifest has the place of the table and the sha256 of its compressed
//! bytes, and the table the sha256 of every chunk, so nothing else of the blob has to be read to
//! make the index. The tar stream is never made again: nothing compares it with the table, which
//! alone is what kfs shows.

use std::io::{self, BufReader, Read};
use std::ops::Range;

use super::index::{Coding, IndexBuilder};
use super::toc::TocEntry;
use super::toc::error::{TocError, Unusable};
use super::toc::footer::{self, Footer, Position};
use super::toc::indexer::{Indexer, Rules};
use super::toc::parse::{self, MAX_TOC};
use super::toc::range::{self, RangeReader};
use crate::blob::BlobSource;
use crate::digest::{Digest, VerifyReader};

/// Bytes of the header of a skippable frame.
const FRAME_HEADER: u64 = 8;

/// What the manifest says of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trusted {
    /// sha256 of the table, compressed.
    pub(super) digest: Digest,
    /// Where the table lies; else the footer says so.
    pub(super) position: Option<Position>,
    /// sha256 of the table, uncompressed, where stargz-snapshotter wrote it.
    pub(super) stargz: Option<Digest>,
}

/// What is read first of a blob of this size to make its index.
pub(super) fn first_read(trusted: Trusted, size: u64) -> Option<Range<u64>> {
    let position = trusted.position?;
    check(position, size).ok()?;
    Some(range::first(position.offset..position.offset + position.len))
}

/// Adds what the table says to an index; returns the length of the content.
pub(super) fn index(
    blob: &dyn BlobSource,
    trusted: Trusted,
    builder: &mut IndexBuilder,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<u64, TocError> {
    let position = match trusted.position {
        Some(position) => position,
        None => footer_of(blob, progress)?,
    };
    check(position, blob.size())?;
    let chunks_end = position.offset - FRAME_HEADER;
    let stargz = trusted.stargz.is_some();
    builder.made_from(position.len);
    let mut indexer = Indexer::new(Rules { coding: Coding::Zstd, chunks_end, stargz }, builder);
    let end = position.offset + position.len;
    let stored = RangeReader::new(blob, (position.offset, end), progress);
    read(stored, trusted, position, &mut |entry| indexer.add(entry))?;
    indexer.finish()
}

fn footer_of(blob: &dyn BlobSource, progress: &(dyn Fn(u64) + Sync)) -> Result<Position, TocError> {
    let tail = range::tail(blob, footer::MAX_LEN as u64, progress).map_err(TocError::Read)?;
    match footer::parse(&tail, blob.size()) {
        Some(Footer::ZstdChunked(position)) => Ok(position),
        Some(Footer::Estargz { .. } | Footer::External) | None => {
            Err(TocError::Unusable(Unusable::NoFooter))
        }
    }
}

fn check(position: Position, blob_len: u64) -> Result<(), TocError> {
    let Position { offset, len, uncompressed_len } = position;
    let size = uncompressed_len.max(len);
    if size > MAX_TOC {
        return Err(TocError::TooLarge { size, limit: MAX_TOC });
    }
    if offset < FRAME_HEADER || offset.checked_add(len).is_none_or(|end| end > blob_len) {
        return Err(TocError::Outside { what: "the table of contents", at: offset, blob_len });
    }
    Ok(())
}

/// Reads the frame of the table.
pub(super) fn read(
    stored: impl Read,
    trusted: Trusted,
    position: Position,
    each: &mut dyn FnMut(TocEntry) -> Result<(), TocError>,
) -> Result<(), TocError> {
    let stored = VerifyReader::new(stored, trusted.digest, position.len);
    let mut stored = BufReader::with_capacity(64 << 10, stored);
    let parsed = parse_frame(&mut stored, trusted.stargz, position.uncompressed_len, each);
    // Only all of it shows whether it is the table that was meant; if not, that is the reason
    // for whatever else was found.
    match io::copy(&mut stored, &mut io::sink()).map_err(TocError::from_io) {
        Err(mismatch @ TocError::Mismatch(_)) => Err(mismatch),
        drained => parsed.and(drained.map(drop)),
    }
}

fn parse_frame(
    mut stored: impl io::BufRead,
    stargz: Option<Digest>,
    len: u64,
    each: &mut dyn FnMut(TocEntry) -> Result<(), TocError>,
) -> Result<(), TocError> {
    if len <= parse::IN_MEMORY && stargz.is_none() {
        return parse_in_memory(stored, len, each);
    }
    let frame = zstd::stream::read::Decoder::with_buffer(&mut stored).map_err(TocError::Decode)?;
    let Some(digest) = stargz else { return parse::parse(frame.take(len), len, each) };
    let mut json = VerifyReader::new(frame, digest, len);
    let parsed = parse::parse(&mut json, len, each);
    match io::copy(&mut json, &mut io::sink()).map_err(TocError::from_io) {
        Err(mismatch @ TocError::Mismatch(_)) => Err(mismatch),
        drained => parsed.and(drained.map(drop)),
    }
}

/// Decodes a small table at once, which spares the decoder a window of its own.
fn parse_in_memory(
    mut stored: impl Read,
    len: u64,
    each: &mut dyn FnMut(TocEntry) -> Result<(), TocError>,
) -> Result<(), TocError> {
    let mut frame = Vec::new();
    // What was not verified to its end is not decoded.
    stored.read_to_end(&mut frame).map_err(TocError::from_io)?;
    let len = usize::try_from(len).expect("it fits into memory");
    let json = zstd::bulk::decompress(&frame, len).map_err(TocError::Decode)?;
    parse::parse_slice(&json, each)
}
