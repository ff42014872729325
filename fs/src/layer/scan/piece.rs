//! What the stages of a scan pass on.

use std::io;
use std::sync::mpsc::SyncSender;

use crate::layer::index::Coding;

/// What passes from the decoder to the indexer.
#[derive(Debug)]
pub(in crate::layer) enum Piece {
    /// A span starts with the data that follows.
    Span(SpanStart),
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
