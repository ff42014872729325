//! The span of whose content the scan has some, but not all.

use std::io;

use super::piece::SpanStart;
use crate::blocks::{Node, TreeHasher};
use crate::layer::gzip::window::Marks;
use crate::layer::index::{Span, SpanDigest};
use crate::sys::WINDOW;

/// The span that is being hashed.
pub(super) struct OpenSpan {
    pub(super) start: SpanStart,
    /// See [`Piece::Head`](super::Piece::Head).
    pub(super) head: Vec<u8>,
    pub(super) content_offset: u64,
    pub(super) hasher: TreeHasher,
    /// The pieces so far, but the one in use, in case the span has to be unpacked, or cached; of a
    /// deflate span for its window, too.
    pub(super) kept: Vec<Vec<u8>>,
    pub(super) unpacked: bool,
}

impl OpenSpan {
    pub(super) fn new(start: SpanStart, content_offset: u64) -> Self {
        Self {
            start,
            head: Vec::new(),
            content_offset,
            hasher: TreeHasher::default(),
            kept: Vec::new(),
            unpacked: false,
        }
    }

    /// The span, if these are its ends in the content and in the blob, and the hashes of its
    /// blocks.
    pub(super) fn close(&mut self, content_end: u64, blob_end: u64) -> (Span, Vec<Node>) {
        let (hash, blocks) = std::mem::take(&mut self.hasher).finish();
        let span = Span {
            content_offset: self.content_offset,
            content_len: content_end - self.content_offset,
            blob_offset: self.start.blob_offset,
            blob_len: blob_end.saturating_sub(self.start.blob_offset),
            coding: self.start.coding,
            bits: self.start.bits,
            inner_offset: 0,
            digest: SpanDigest::Blake3(hash),
        };
        (span, blocks)
    }

    /// What the span, which is complete, needs of the window before it.
    pub(super) fn window(&self, marks: &mut Option<Marks>) -> io::Result<Vec<u8>> {
        let SpanStart { window, bits, .. } = &self.start;
        if window.is_empty() {
            return Ok(Vec::new());
        }
        let mut content = Vec::with_capacity(WINDOW);
        for piece in &self.kept {
            let room = WINDOW - content.len();
            content.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        marks.get_or_insert_with(Marks::new).needed(window, *bits, &self.head, &content)
    }
}
