//! The sums of a layer's cache: which they are, and where they lie.

use std::fs::File;
use std::io;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rustix::io::ReadWriteFlags;

use super::layer::read_fully;
use crate::blocks;
use crate::layer::index::{Span, SpanDigest};

/// The name of their file. It changes with what they are made of: those of another version are of
/// no use, and what they were of is not there.
pub(super) const FILE: &str = "sums.2";

/// What one sum is of, in bytes: a read hashes at least as much. At 5 GB/s that is 2 microseconds,
/// less than the way through FUSE, and sums take two thousandths of the content.
pub(super) const BLOCK: usize = blocks::BLOCK;

/// Bytes of a sum. 128 bits are plenty where nobody searches for a collision.
pub(super) const SUM: usize = 16;

/// What is read at a time of those that are not in memory, in bytes: the sums of 32 MiB of content,
/// as whoever reads here and there in a file would wait for the disk twice each time.
const WINDOW: u64 = 64 << 10;

/// What a block is held against.
pub(super) type Sum = [u8; SUM];

/// Where the sums of a span start. Each block has its own, whatever the lengths of the spans
/// before: the content up to a span has room for its whole blocks, and each span has at most one
/// block that is not whole.
pub(super) fn slot(number: usize, span: &Span) -> u64 {
    span.content_offset / BLOCK as u64 + number as u64
}

/// The sum of a block of a span.
pub(super) fn sum(span: &Span, block: usize, data: &[u8]) -> Sum {
    let (kind, digest) = match &span.digest {
        SpanDigest::Blake3(hash) => (0, hash),
        SpanDigest::Sha256(digest) => (1, digest.as_bytes()),
        SpanDigest::StoredSha256(digest) => (2, digest.as_bytes()),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]).update(digest);
    // Where the digest is one of stored bytes, several spans may have the same.
    hasher.update(&span.inner_offset.to_le_bytes()).update(&span.content_len.to_le_bytes());
    hasher.update(&(block as u64).to_le_bytes());
    // Which block it is goes into the key, as a hash whose data starts in the middle of its first
    // chunk takes twice the time.
    let hash = blake3::keyed_hash(hasher.finalize().as_bytes(), data);
    let mut sum = [0; SUM];
    sum.copy_from_slice(&hash.as_bytes()[..SUM]);
    sum
}

/// `count` sums from `first` on, fewer at the end of the file.
pub(super) fn read(file: &File, first: u64, count: usize) -> io::Result<Vec<Sum>> {
    let mut sums = vec![[0; SUM]; count];
    let (bytes, at) = (sums.as_flattened_mut(), first.saturating_mul(SUM as u64));
    let n = match read_from_memory(file, bytes, at) {
        true => bytes.len(),
        false => {
            will_need(file, at / WINDOW * WINDOW);
            read_fully(file, bytes, at)?
        }
    };
    sums.truncate(n / SUM);
    Ok(sums)
}

/// Fills `bytes` if all of it is in the page cache.
fn read_from_memory(file: &File, bytes: &mut [u8], at: u64) -> bool {
    let len = bytes.len();
    let bytes = &mut [io::IoSliceMut::new(bytes)];
    let read = rustix::io::preadv2(file, bytes, at, ReadWriteFlags::NOWAIT);
    read.is_ok_and(|n| n == len)
}

fn will_need(file: &File, at: u64) {
    let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
    let (Ok(at), Ok(len)) = (at.try_into(), WINDOW.try_into()) else { return };
    if let Err(error) = posix_fadvise(file, at, len, advice) {
        tracing::debug!("sums are not read ahead: {error}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_two_blocks_have_the_same_sum(lens in prop::collection::vec(0..80_000_u64, 1..50)) {
            let mut free = 0;
            let mut content_offset = 0;
            for (number, content_len) in lens.into_iter().enumerate() {
                let span = Span {
                    content_offset,
                    content_len,
                    blob_offset: 0,
                    blob_len: 0,
                    coding: crate::layer::index::Coding::Stored,
                    bits: 0,
                    inner_offset: 0,
                    digest: SpanDigest::Blake3([0; 32]),
                };
                let first = slot(number, &span);
                prop_assert!(first == free || first == free + 1);
                free = first + content_len.div_ceil(BLOCK as u64);
                content_offset += content_len;
            }
        }
    }
}
