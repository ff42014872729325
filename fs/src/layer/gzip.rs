//! gzip layers (RFC 1951, RFC 1952): one pass that leaves checkpoints, and decoding from one.
//!
//! A checkpoint is a place between two deflate blocks, the bits of a byte that belong to the next
//! block, and the 32 KiB of output before it (the technique of zlib's `examples/zran.c`), of which
//! only what is needed is kept (see `window`). The members of a file that has several are one
//! content; a span may run across their border.

pub(super) mod window;

use std::io;

use super::index::Coding;
use super::scan::piece::{Output, Piece, Sink, SpanStart};
use crate::sys::{Inflate, State, WINDOW};

/// Checkpoints are this far apart or up to a deflate block more, in bytes of content. A read fetches
/// and inflates whole spans, and the kernel reads 128 KiB at once. Smaller spans cost index (1.7 KiB
/// a window) and time to make it, as 32 KiB of each are inflated twice: at 160 KiB, that takes as
/// long as the hashes beside inflating have to spare.
const SPAN: u64 = 160 << 10;

/// Length of a gzip member's trailer: CRC and size.
const TRAILER: usize = 8;

/// Inflates a gzip stream chunk by chunk.
#[derive(Debug)]
pub(super) struct Scanner {
    inflate: Inflate,
    state: State,
    /// Bytes of the blob used up.
    blob_offset: u64,
    /// The last of them.
    last: u8,
    /// Bytes of content since the last checkpoint; `None` before the first.
    since: Option<u64>,
    /// The stored bytes of the span until there are enough to see what of the window they need.
    head: Option<Vec<u8>>,
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
            last: 0,
            since: None,
            head: None,
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
        self.send_head(sink)?;
        self.output.flush(sink)
    }

    fn step<'a>(&mut self, input: &'a [u8], sink: &mut Sink<'_>) -> io::Result<&'a [u8]> {
        let step = self.inflate.step(input, self.output.room())?;
        self.output.advance(step.produced, sink)?;
        let rest = self.take(input, step.consumed);
        self.state = step.state;
        if let Some(since) = &mut self.since {
            *since += step.produced as u64;
            if *since >= WINDOW as u64 {
                self.send_head(sink)?;
            }
        }
        match (self.state, self.since) {
            (State::Boundary(bits), None) => self.checkpoint(bits, sink)?,
            (State::Boundary(bits), Some(since)) if since >= SPAN => self.checkpoint(bits, sink)?,
            _ => {}
        }
        Ok(rest)
    }

    /// Counts the first `n` bytes of the input as used up; returns the rest.
    fn take<'a>(&mut self, input: &'a [u8], n: usize) -> &'a [u8] {
        let (taken, rest) = input.split_at(n);
        self.blob_offset += n as u64;
        self.last = taken.last().copied().unwrap_or(self.last);
        if let Some(head) = &mut self.head {
            head.extend_from_slice(taken);
        }
        rest
    }

    fn send_head(&mut self, sink: &mut Sink<'_>) -> io::Result<()> {
        self.head.take().map_or(Ok(()), |head| sink.send(Piece::Head(head)))
    }

    fn checkpoint(&mut self, bits: u8, sink: &mut Sink<'_>) -> io::Result<()> {
        self.output.flush(sink)?;
        self.since = Some(0);
        self.head = Some(if bits > 0 { vec![self.last] } else { Vec::new() });
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
                let zeros = input.len() - skip_zeros(input).len();
                Ok(self.take(input, zeros))
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

/// Inflates a span to exactly `len` bytes: after `window`, what is stored. If `bits` are not none,
/// that starts with a byte of which only so many high bits count.
pub(crate) fn decode(window: &[u8], bits: u8, stored: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let (first, input) = match stored.split_first() {
        Some((first, input)) if bits > 0 => (*first, input),
        _ => (0, stored),
    };
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
