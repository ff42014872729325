//! zstd layers (RFC 8878) of many frames, each of which can be decoded alone.
//!
//! Skippable frames have no content and belong to the span before them.

use std::io;

use zstd::stream::raw::{Decoder, Operation};

use super::index::Coding;
use super::scan::piece::{Output, Piece, Sink, SpanStart};

/// Frames are put together until a span has this many bytes of content.
const SPAN: u64 = 1 << 20;

/// Decodes a zstd stream chunk by chunk.
pub(super) struct Scanner {
    decoder: Decoder<'static>,
    /// Whether the decoder stands between two frames.
    between: bool,
    blob_offset: u64,
    /// Bytes of content since the last span's start; `None` before the first.
    since: Option<u64>,
    output: Output,
}

impl Scanner {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            decoder: Decoder::new()?,
            between: true,
            blob_offset: 0,
            since: None,
            output: Output::new(),
        })
    }

    /// Takes the next bytes of the blob.
    pub(super) fn feed(&mut self, mut input: &[u8], sink: &mut Sink<'_>) -> io::Result<()> {
        loop {
            if self.between && !input.is_empty() {
                self.start_frame(sink)?;
            }
            let status = self.decoder.run_on_buffers(input, self.output.room())?;
            input = &input[status.bytes_read..];
            self.blob_offset += status.bytes_read as u64;
            self.between = status.remaining == 0;
            if let Some(since) = &mut self.since {
                *since += status.bytes_written as u64;
            }
            let full = self.output.advance(status.bytes_written, sink)?;
            // The decoder may hold back what found no room, unless its frame has ended: then it
            // would take the lack of input for the start of another frame.
            if input.is_empty() && (self.between || !full) {
                return Ok(());
            }
        }
    }

    /// Ends the stream.
    pub(super) fn finish(mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        if self.between && self.since.is_some() {
            return self.output.flush(sink);
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zstd data ends in the middle"))
    }

    fn start_frame(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        self.between = false;
        if self.since.is_some_and(|since| since < SPAN) {
            return Ok(());
        }
        self.output.flush(sink)?;
        self.since = Some(0);
        let start = SpanStart {
            blob_offset: self.blob_offset,
            coding: Coding::Zstd,
            bits: 0,
            window: Vec::new(),
        };
        sink.send(Piece::Span(start))
    }
}

/// The first `len` bytes of the frames that `input` starts with.
pub(crate) fn decode(mut input: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut decoder = Decoder::new()?;
    let mut output = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let status = decoder.run_on_buffers(input, &mut output[filled..])?;
        input = &input[status.bytes_read..];
        filled += status.bytes_written;
        if status.bytes_read == 0 && status.bytes_written == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(output)
}
