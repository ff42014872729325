//! Reads a range of a blob in few large requests.

use std::io::{self, Read};
use std::ops::Range;

use super::error::BlobFailure;
use crate::blob::BlobSource;

/// What is asked of the blob at once, in bytes: far more than most tables of contents have.
const PIECE: u64 = 4 << 20;

/// A range of a blob as a stream.
pub(in crate::layer) struct RangeReader<'a> {
    blob: &'a dyn BlobSource,
    /// Where the bytes after `piece` lie.
    next: u64,
    end: u64,
    piece: Vec<u8>,
    taken: usize,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl<'a> RangeReader<'a> {
    /// The bytes from `start` to `end`.
    pub(in crate::layer) fn new(
        blob: &'a dyn BlobSource,
        (start, end): (u64, u64),
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        Self { blob, next: start, end, piece: Vec::new(), taken: 0, progress }
    }
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.piece.len() {
            let left = self.end.saturating_sub(self.next).min(PIECE);
            self.piece.resize(usize::try_from(left).expect("at most 4 MiB"), 0);
            self.taken = 0;
            let read = self.blob.read_exact_at(self.next, &mut self.piece);
            read.map_err(|error| io::Error::new(error.kind(), BlobFailure(error)))?;
            self.next += left;
            (self.progress)(left);
        }
        let n = buf.len().min(self.piece.len() - self.taken);
        buf[..n].copy_from_slice(&self.piece[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

/// What a [`RangeReader`] asks for first.
pub(in crate::layer) fn first(range: Range<u64>) -> Range<u64> {
    range.start..range.end.min(range.start.saturating_add(PIECE))
}

/// The last `len` bytes of a blob, or all if it is shorter.
pub(in crate::layer) fn tail(
    blob: &dyn BlobSource,
    len: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> io::Result<Vec<u8>> {
    let len = len.min(blob.size());
    let mut tail = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?];
    blob.read_exact_at(blob.size() - len, &mut tail)?;
    progress(len);
    Ok(tail)
}
