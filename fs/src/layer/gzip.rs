//! gzip layers (RFC 1951, RFC 1952): one pass that leaves checkpoints, and decoding from one.
//!
//! A checkpoint is a place between two deflate blocks, the bits of a byte that belong to the next
//! block, and the 32 KiB of output before it (the technique of zlib's `examples/zran.c`). The
//! members of a file that has several are one content; a span may run across their border.

use std::io;

use super::index::Coding;
use super::scan::piece::{Output, Piece, Sink, SpanStart};
use crate::sys::{Inflate, State};

/// Checkpoints are this far apart or a little more, in bytes of content. A read inflates one
/// span: 1 MiB takes 2.4 ms. Smaller spans cost index (10 KiB a window, compressed) and more
/// small reads of the blob.
const SPAN: u64 = 1 << 20;

/// Length of a gzip member's trailer: CRC and size.
const TRAILER: usize = 8;

/// Inflates a gzip stream chunk by chunk.
#[derive(Debug)]
pub(super) struct Scanner {
    inflate: Inflate,
    state: State,
    /// Bytes of the blob used up.
    blob_offset: u64,
    /// Bytes of content since the last checkpoint; `None` before the first.
    since: Option<u64>,
    output: Output,
}

impl std::fmt::Debug for Inflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflate")
    }
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            inflate: Inflate::gzip(),
            state: State::Within,
            blob_offset: 0,
            since: None,
            output: Output::new(),
        }
    }

    /// Takes the next bytes of the blob.
    pub(super) fn feed(&mut self, mut input: &[u8], sink: &mut Sink<'_>) -> io::Result<()> {
        while !input.is_empty() {
            if self.state == State::End {
                input = self.next_member(input)?;
                continue;
            }
            input = self.step(input, sink)?;
        }
        // What zlib still holds comes out without more input.
        while self.state == State::Within && !self.output.is_empty() {
            let before = self.output.room().len();
            self.step(&[], sink)?;
            if self.output.room().len() == before {
                break;
            }
        }
        Ok(())
    }

    /// Ends the stream.
    pub(super) fn finish(mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        if self.state != State::End {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the gzip data ends in the middle",
            ));
        }
        self.output.flush(sink)
    }

    fn step<'a>(&mut self, input: &'a [u8], sink: &mut Sink<'_>) -> io::Result<&'a [u8]> {
        let step = self.inflate.step(input, self.output.room())?;
        self.output.advance(step.produced, sink)?;
        self.blob_offset += step.consumed as u64;
        self.state = step.state;
        if let Some(since) = &mut self.since {
            *since += step.produced as u64;
        }
        match (self.state, self.since) {
            (State::Boundary(bits), None) => self.checkpoint(bits, sink)?,
            (State::Boundary(bits), Some(since)) if since >= SPAN => self.checkpoint(bits, sink)?,
            _ => {}
        }
        Ok(&input[step.consumed..])
    }

    fn checkpoint(&mut self, bits: u8, sink: &mut Sink<'_>) -> io::Result<()> {
        self.output.flush(sink)?;
        self.since = Some(0);
        let window = self.inflate.window()?;
        let (blob_offset, coding) = (self.blob_offset, Coding::Deflate);
        sink.send(Piece::Span(SpanStart { blob_offset, coding, bits, window }))
    }

    /// Starts another member, or skips the zeros that may pad one (as gzip(1) does at the end).
    fn next_member<'a>(&mut self, input: &'a [u8]) -> io::Result<&'a [u8]> {
        match input[0] {
            0x1f => {
                self.inflate.reset()?;
                self.state = State::Within;
                Ok(input)
            }
            0 => {
                let rest = skip_zeros(input);
                self.blob_offset += (input.len() - rest.len()) as u64;
                Ok(rest)
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "there is something that is not gzip after the gzip data",
            )),
        }
    }
}

/// What lies behind the padding of a member.
fn skip_zeros(input: &[u8]) -> &[u8] {
    let zeros = input.iter().take_while(|byte| **byte == 0).count();
    &input[zeros..]
}

/// Inflates a span: `bits` high bits of `first` and then `input`, after `window`, to exactly
/// `len` bytes.
pub(crate) fn decode(
    window: &[u8],
    bits: u8,
    first: u8,
    input: &[u8],
    len: usize,
) -> io::Result<Vec<u8>> {
    // A raw stream leaves the trailer of its member to us.
    inflate(Inflate::resumed(window, bits, first)?, TRAILER, input, len)
}

/// Inflates the first `len` bytes of the members that `input` starts with.
pub(crate) fn decode_members(input: &[u8], len: usize) -> io::Result<Vec<u8>> {
    inflate(Inflate::gzip(), 0, input, len)
}

/// Inflates `len` bytes; of the first member, `trailer` bytes are left when the stream ends.
fn inflate(
    mut inflate: Inflate,
    mut trailer: usize,
    mut input: &[u8],
    len: usize,
) -> io::Result<Vec<u8>> {
    let mut output = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let step = inflate.step(input, &mut output[filled..])?;
        input = &input[step.consumed..];
        filled += step.produced;
        if step.state == State::End {
            input = skip_zeros(input.get(trailer..).unwrap_or_default());
            inflate = Inflate::gzip();
            trailer = 0;
        } else if step.consumed == 0 && step.produced == 0 && filled < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(output)
}
