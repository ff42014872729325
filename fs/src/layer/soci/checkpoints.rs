//! The places of a gzip blob at which a ztoc lets inflating start ("zinfo").
//!
//! ```text
//! u32 count, u64 bytes of content between two (of no interest)
//! each: u64 offset in the blob, u64 offset in the content, u8 bits, 32 KiB of output before it
//! ```
//!
//! All numbers are little-endian. The first version leaves out the first place, which it took to
//! be behind a gzip header without fields.
//!
//! Source: `ztoc/compression/gzip_zinfo.c` of awslabs/soci-snapshotter.

use crate::sys::WINDOW;

const HEADER: usize = 4 + 8;
const CHECKPOINT: usize = 8 + 8 + 1 + WINDOW;
/// Length of a gzip header without optional fields (RFC 1952).
const GZIP_HEADER: u64 = 10;

/// A place to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint<'a> {
    pub(super) blob_offset: u64,
    pub(super) content_offset: u64,
    pub(super) bits: u8,
    /// Empty at the start of the content.
    pub(super) window: &'a [u8],
}

/// The places of a blob.
#[derive(Debug)]
pub(super) struct Checkpoints<'a> {
    pub(super) list: Vec<Checkpoint<'a>>,
    /// Whether the first one was not stored, but is what it has to be if the gzip header has no
    /// optional fields.
    pub(super) first_is_assumed: bool,
}

/// Reads the places; `None` if they make no sense.
pub(super) fn parse(zinfo: &[u8]) -> Option<Checkpoints<'_>> {
    let count = u32::from_le_bytes(*zinfo.first_chunk()?) as usize;
    let stored = zinfo.get(HEADER..)?;
    if !stored.len().is_multiple_of(CHECKPOINT) {
        return None;
    }
    let first_is_assumed = match count.checked_sub(stored.len() / CHECKPOINT)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let mut list = Vec::with_capacity(count);
    if first_is_assumed {
        list.push(Checkpoint { blob_offset: GZIP_HEADER, content_offset: 0, bits: 0, window: &[] });
    }
    for record in stored.chunks_exact(CHECKPOINT) {
        let (numbers, window) = record.split_at(CHECKPOINT - WINDOW);
        let number = |at: usize| {
            u64::from_le_bytes(numbers[at..at + 8].try_into().expect("a record has 17 bytes"))
        };
        let content_offset = number(8);
        list.push(Checkpoint {
            blob_offset: number(0),
            content_offset,
            bits: numbers[16],
            window: if content_offset == 0 { &[] } else { window },
        });
    }
    let starts_at_zero = list.first().is_some_and(|first| first.content_offset == 0);
    let ascending = list
        .is_sorted_by(|a, b| a.blob_offset < b.blob_offset && a.content_offset < b.content_offset);
    let bits = list.iter().all(|checkpoint| checkpoint.bits < 8 && checkpoint.blob_offset > 0);
    (starts_at_zero && ascending && bits).then_some(Checkpoints { list, first_is_assumed })
}
