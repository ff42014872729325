//! eStargz: gzip layers with a table of contents as their last tar entry.
//!
//! ```text
//! gzip members: headers | file | headers | chunk | chunk | ... | table, end of tar | footer
//! ```
//!
//! A chunk starts a gzip member, or lies inside one with others (`innerOffset`). The manifest has
//! the sha256 of the table, and the table that of every chunk, so nothing else of the blob has to
//! be read to make the index. What lies between the chunks, the tar headers, is never looked at.

use std::io::{self, Read};
use std::ops::{Range, RangeInclusive};

use flate2::read::MultiGzDecoder;

use super::index::{Coding, IndexBuilder};
use super::tar::{TarError, TarReader};
use super::toc::error::{TocError, Unusable};
use super::toc::footer::{self, Footer};
use super::toc::indexer::{Indexer, Rules};
use super::toc::parse::{self, MAX_TOC};
use super::toc::range::{self, RangeReader};
use super::toc::{ESTARGZ_TOC_NAME, TocEntry};
use crate::blob::BlobSource;
use crate::digest::{Digest, VerifyReader};

/// The end of a remote blob is read in one piece, in the hope that the table is in it: at least so
/// many bytes, at most so many,
const GUESS: RangeInclusive<u64> = 256 << 10..=1 << 20;
/// and this part of the blob, which a table has seldom more of.
const GUESS_PART: u64 = 100;

/// What is read first of a remote blob of this size to make its index.
pub(super) fn first_read(size: u64) -> Range<u64> {
    let guess = (size / GUESS_PART).clamp(*GUESS.start(), *GUESS.end());
    size.saturating_sub(guess)..size
}

/// Adds what the table says to an index; returns the length of the content.
pub(super) fn index(
    blob: &dyn BlobSource,
    toc: Digest,
    builder: &mut IndexBuilder,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<u64, TocError> {
    let size = blob.size();
    let guess = size - first_read(size).start;
    let guess = if blob.is_remote() { guess } else { footer::MAX_LEN as u64 };
    let tail = range::tail(blob, guess, progress).map_err(TocError::Read)?;
    let (start, end) = match footer::parse(&tail, size) {
        Some(Footer::Estargz { toc_offset, footer_offset }) => (toc_offset, footer_offset),
        Some(Footer::External) => return Err(TocError::External),
        Some(Footer::ZstdChunked(_)) | None => {
            return Err(TocError::Unusable(Unusable::NoFooter));
        }
    };
    if start >= end {
        return Err(TocError::Outside { what: "the table of contents", at: start, blob_len: size });
    }
    let rules = Rules { coding: Coding::Gzip, chunks_end: start, stargz: true };
    builder.made_from(end - start);
    let mut indexer = Indexer::new(rules, builder);
    let mut each = |entry| indexer.add(entry);
    let tail_start = size - tail.len() as u64;
    let position = |at: u64| usize::try_from(at.saturating_sub(tail_start)).unwrap_or(tail.len());
    let in_tail = &tail[position(start.max(tail_start))..position(end)];
    let before = RangeReader::new(blob, (start, end.min(tail_start)), progress);
    read(before.chain(in_tail), toc, &mut each)?;
    indexer.finish()
}

/// Reads the gzip member with the table.
pub(super) fn read(
    member: impl Read,
    toc: Digest,
    each: &mut dyn FnMut(TocEntry) -> Result<(), TocError>,
) -> Result<(), TocError> {
    // Small reads would go through all layers of readers.
    let content = io::BufReader::with_capacity(64 << 10, MultiGzDecoder::new(member));
    let mut tar = TarReader::new(content);
    let table = loop {
        match tar.next_member().map_err(broken)? {
            Some(member) if member.entry.path == ESTARGZ_TOC_NAME.as_bytes() => break member.entry,
            Some(_) => {}
            None => return Err(TocError::Unusable(Unusable::NoFooter)),
        }
    };
    if table.size > MAX_TOC {
        return Err(TocError::TooLarge { size: table.size, limit: MAX_TOC });
    }
    let mut json = VerifyReader::new(tar.input_mut().take(table.size), toc, table.size);
    let parsed = parse::parse(&mut json, table.size, each);
    // Only all of it shows whether it is the table that was meant; if not, that is the reason
    // for whatever else was found.
    match io::copy(&mut json, &mut io::sink()).map_err(TocError::from_io) {
        Err(mismatch @ TocError::Mismatch(_)) => Err(mismatch),
        drained => parsed.and(drained.map(drop)),
    }
}

fn broken(error: TarError) -> TocError {
    match error.what {
        super::tar::Problem::Io(source) => TocError::from_io(source),
        _ => TocError::Decode(io::Error::other(error)),
    }
}
