//! What the stages of a scan pass on.

use std::io;
use std::sync::mpsc::SyncSender;

use crate::layer::index::Coding;

/// What passes from the decoder to the indexer.
#[derive(Debug)]
pub(in crate::layer) enum Piece {
    /// A span starts with the data that follows.
    Span(SpanStart),
    /// What the stored bytes of that span start with: enough to see what of its window they need.
    /// The byte that its [`SpanStart::bits`] are of comes first, if there are any.
    Head(Vec<u8>),
    /// Content.
    Data(Vec<u8>),
    /// The content is complete. Without it, the decoder failed.
    End,
}

/// The start of a span in the blob.
#[derive(Debug)]
pub(in crate::layer) struct SpanStart {
    pub(in crate::layer) blob_offset: u64,
    pub(in crate::layer) coding: Coding,
    pub(in crate::layer) bits: u8,
    pub(in crate::layer) window: Vec<u8>,
}

/// Where a decoder puts its pieces.
#[derive(Debug)]
pub(in crate::layer) struct Sink<'a>(&'a SyncSender<Piece>);

impl<'a> Sink<'a> {
    pub(in crate::layer) fn new(out: &'a SyncSender<Piece>) -> Self {
        Self(out)
    }

    /// Passes a piece on; `BrokenPipe` when nobody wants it any more.
    pub(in crate::layer) fn send(&mut self, piece: Piece) -> io::Result<()> {
        self.0.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Size of the pieces of content that a decoder passes on: a span's last one takes as much, too.
const PIECE: usize = 64 << 10;

/// Puts decoded bytes together to pieces of full size, however few come at a time: a piece takes
/// its whole size in memory.
#[derive(Debug)]
pub(in crate::layer) struct Output {
    piece: Vec<u8>,
    filled: usize,
}

impl Output {
    pub(in crate::layer) fn new() -> Self {
        Self { piece: vec![0; PIECE], filled: 0 }
    }

    /// Where the next bytes go; never empty.
    pub(in crate::layer) fn room(&mut self) -> &mut [u8] {
        &mut self.piece[self.filled..]
    }

    /// Whether there is something to flush.
    pub(in crate::layer) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Takes `n` bytes that were written to [`Output::room`]. Tells whether that filled it.
    pub(in crate::layer) fn advance(&mut self, n: usize, sink: &mut Sink<'_>) -> io::Result<bool> {
        self.filled += n;
        let full = self.filled == self.piece.len();
        if full {
            self.flush(sink)?;
        }
        Ok(full)
    }

    /// Passes on what there is.
    pub(in crate::layer) fn flush(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        if self.filled == 0 {
            return Ok(());
        }
        let mut piece = std::mem::replace(&mut self.piece, vec![0; PIECE]);
        piece.truncate(self.filled);
        self.filled = 0;
        sink.send(Piece::Data(piece))
    }
}
