//! The stream of a new layer, cut into pieces, each of which becomes a frame or member.
//!
//! Where the cuts are is what a format is about ([`Shape`]):
//!
//! ```text
//! even:     |1 MiB of the stream|1 MiB of the stream|...
//! chunks:   |headers|chunk|chunk|padding, headers|chunk|...
//! members:  |headers|chunk|chunk, padding, headers|chunk, padding, ...
//! ```
//!
//! Pieces can be of a few hundred bytes, so they go through the threads of [`Pipeline`] in
//! batches. What a batch holds does not depend on the threads.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use super::chunker::{Chunker, Cut, HOLE, MAX_CHUNK};
use super::clocks::{Clocks, Work};
use super::collect::{Collected, Collector};
use super::pipeline::Pipeline;
use super::{Compression, Failure, Member};
use crate::digest::Hasher;
use crate::layer::index::{IndexBuilder, STORED_SPAN};

/// Content of a compressed frame in bytes where the cuts are even: what a read has to decode (see
/// `gzip`'s spans). zstd loses about 2 % of its ratio to frames of this size.
const FRAME: usize = 1 << 20;
/// A chunk of eStargz in bytes. The original writer takes 4 MiB; this is what a read has to fetch
/// and decode, and gzip's window of 32 KiB loses nothing to speak of.
const MEMBER: usize = 1 << 20;
/// A batch is passed on when it has this many bytes: enough for the threads not to matter, few
/// enough for all cores to have something to do.
const BATCH: usize = 256 << 10;
/// Where there is no file content for this many bytes, there is a cut all the same.
const BETWEEN: usize = 256 << 10;
/// Most that is read of a file at once, in bytes.
const READ: usize = 64 << 10;

/// Where a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Every so many bytes.
    Even(usize),
    /// Around every file and between its chunks.
    Chunks,
    /// Before every chunk of a file.
    Members,
}

impl Compression {
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::ZstdChunked(_) => Shape::Chunks,
            Self::Estargz(_) => Shape::Members,
            Self::Zstd(_) | Self::Gzip(_) => Shape::Even(FRAME),
            Self::None => Shape::Even(usize::try_from(STORED_SPAN).expect("a small constant")),
        }
    }
}

impl Shape {
    fn buffer_len(self) -> usize {
        match self {
            Self::Even(len) => len,
            // What is passed on at once, what can be open behind it, and room for more.
            Self::Chunks | Self::Members => BATCH + MAX_CHUNK + HOLE + BETWEEN + READ,
        }
    }

    /// Whether the contents of files are cut into chunks.
    pub(super) fn has_chunks(self) -> bool {
        match self {
            Self::Even(_) => false,
            Self::Chunks | Self::Members => true,
        }
    }

    /// Length from which on a piece without the end of a chunk is cut.
    fn limit(self) -> usize {
        match self {
            Self::Even(len) => len,
            Self::Chunks | Self::Members => BETWEEN,
        }
    }

    fn chunker(self, size: u64) -> Option<Chunker> {
        match self {
            Self::Even(_) => None,
            Self::Chunks => Some(Chunker::by_content(size)),
            Self::Members => Some(Chunker::even(MEMBER)),
        }
    }
}

/// A run of the stream that becomes one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Its length in bytes.
    pub(super) len: usize,
    /// How many of them, from its start, are a chunk of a file.
    pub(super) payload: usize,
    /// Whether it is known to be nothing but zeros.
    pub(super) zeros: bool,
}

/// What a batch consists of, in order.
#[derive(Debug)]
pub(super) enum Part {
    /// The entry that the next chunks, as many as make its size, belong to.
    Member(Box<Member>),
    /// Bytes of the stream behind the last entry; [`Shape::Chunks`] only.
    Trailer(Vec<u8>),
    /// The end of what is to be fetched first; [`Shape::Chunks`] only.
    EndOfFirst,
    Piece(Piece),
}

/// A stream on its way to becoming a blob.
#[derive(Debug)]
pub(super) struct Frames {
    shape: Shape,
    /// Always of the shape's length; pieces, the open piece, room.
    buffer: Vec<u8>,
    /// Where the open piece starts.
    start: usize,
    filled: usize,
    /// How much of the open piece is a chunk that has ended.
    payload: usize,
    chunker: Option<Chunker>,
    cuts: Vec<Cut>,
    parts: Vec<Part>,
    /// Parts that come behind the open piece.
    waiting: Vec<Part>,
    /// All since the last content of a file or the last entry; kept for [`Shape::Chunks`].
    between: Vec<u8>,
    len: u64,
    diff_id: Hasher,
    /// Buffers that can be filled again.
    spare: Receiver<Vec<u8>>,
    clocks: Arc<Clocks>,
    pipeline: Pipeline,
}

impl Frames {
    /// A stream whose blob is written to a file in `dir`, compressed by at most this many
    /// workers.
    pub(super) fn new(
        dir: &Path,
        index: IndexBuilder,
        compression: Compression,
        workers: usize,
    ) -> io::Result<Self> {
        let shape = compression.shape();
        let (spare_tx, spare) = mpsc::channel();
        let clocks = Arc::<Clocks>::default();
        let collector = Collector::new(dir, index, compression, spare_tx, clocks.clone())?;
        Ok(Self {
            shape,
            buffer: vec![0; shape.buffer_len()],
            start: 0,
            filled: 0,
            payload: 0,
            chunker: None,
            cuts: Vec::new(),
            parts: Vec::new(),
            waiting: Vec::new(),
            between: Vec::new(),
            len: 0,
            diff_id: Hasher::new(),
            spare,
            pipeline: Pipeline::start(collector, compression, workers, clocks.clone())?,
            clocks,
        })
    }

    /// Bytes of the stream so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Room for more of the stream, never empty; then call [`Self::advance`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        let end = match self.shape {
            Shape::Even(len) => self.start + len,
            Shape::Chunks | Shape::Members => self.filled + READ,
        };
        let end = end.min(self.buffer.len());
        &mut self.buffer[self.filled..end]
    }

    /// Adds the first `n` bytes of [`Self::room`] to the stream.
    pub(super) fn advance(&mut self, n: usize) -> Result<(), Failure> {
        if let Some(chunker) = &mut self.chunker {
            chunker.push(&self.buffer[self.filled..self.filled + n], &mut self.cuts);
        } else if self.shape == Shape::Chunks {
            self.between.extend_from_slice(&self.buffer[self.filled..self.filled + n]);
        }
        self.filled += n;
        self.len += n as u64;
        if self.chunker.is_some() {
            self.cut_chunks();
        } else if self.filled - self.start - self.payload >= self.shape.limit() {
            self.cut();
        }
        self.flush()
    }

    /// Adds `bytes` to the stream, which are no content of a file.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let room = self.room();
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.advance(n)?;
        }
        Ok(())
    }

    /// Adds the entry whose headers are the end of what was written.
    pub(super) fn member(&mut self, mut member: Box<Member>) {
        member.raw = std::mem::take(&mut self.between);
        self.add(Part::Member(member));
    }

    /// Adds to the stream what no entry comes behind.
    pub(super) fn trailer(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.write(bytes)?;
        if self.shape == Shape::Chunks {
            let between = std::mem::take(&mut self.between);
            self.add(Part::Trailer(between));
        }
        Ok(())
    }

    /// Says that what was written so far is to be fetched first.
    pub(super) fn end_of_first(&mut self) {
        self.cut();
        self.parts.push(Part::EndOfFirst);
    }

    fn add(&mut self, part: Part) {
        let open = self.filled > self.start;
        if open { &mut self.waiting } else { &mut self.parts }.push(part);
    }

    /// Says that what comes now is the content of the last member, of this many bytes.
    pub(super) fn start_content(&mut self, size: u64) {
        self.chunker = self.shape.chunker(size);
        if self.chunker.is_some() {
            self.cut();
        }
    }

    /// Says that the content ends.
    pub(super) fn end_content(&mut self) -> Result<(), Failure> {
        let Some(chunker) = self.chunker.take() else { return Ok(()) };
        chunker.finish(&mut self.cuts);
        if self.shape == Shape::Members
            && let Some(last) = self.cuts.pop()
        {
            self.cut_chunks();
            self.payload = last.len;
        }
        self.cut_chunks();
        self.flush()
    }

    /// Ends the stream and waits for all of it to be written; the file is not synced. Returns
    /// the hash of the stream so far, too.
    pub(super) fn finish(mut self) -> Result<(Collected, Hasher), Failure> {
        self.cut();
        if self.start > 0 || !self.parts.is_empty() {
            self.pass_on()?;
        }
        Ok((self.pipeline.join()?, self.diff_id))
    }

    fn cut_chunks(&mut self) {
        let mut cuts = std::mem::take(&mut self.cuts);
        for Cut { len, zeros } in cuts.drain(..) {
            self.parts.push(Part::Piece(Piece { len, payload: len, zeros }));
            self.start += len;
        }
        self.cuts = cuts;
    }

    /// Ends the open piece, if there is anything in it.
    fn cut(&mut self) {
        let len = self.filled - self.start;
        if len > 0 {
            let payload = std::mem::take(&mut self.payload);
            self.parts.push(Part::Piece(Piece { len, payload, zeros: false }));
            self.start = self.filled;
        }
        self.parts.append(&mut self.waiting);
    }

    /// Passes the pieces on if they are enough.
    fn flush(&mut self) -> Result<(), Failure> {
        let enough = match self.shape {
            Shape::Even(len) => len,
            Shape::Chunks | Shape::Members => BATCH,
        };
        if self.start >= enough { self.pass_on() } else { Ok(()) }
    }

    fn pass_on(&mut self) -> Result<(), Failure> {
        let mut next = self.spare.try_recv().unwrap_or_else(|_| vec![0; self.buffer.len()]);
        let open = self.start..self.filled;
        next[..open.len()].copy_from_slice(&self.buffer[open.clone()]);
        let content = std::mem::replace(&mut self.buffer, next);
        let len = std::mem::take(&mut self.start);
        self.filled -= len;
        let Self { clocks, diff_id, .. } = self;
        clocks.time(Work::Hash, || diff_id.update(&content[..len]));
        self.pipeline.send(content, len, std::mem::take(&mut self.parts))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_worker_that_dies_is_an_error_and_no_hang() {
        let dir = tempfile::tempdir().unwrap();
        // No worker is started; this one takes a frame and is gone.
        let index = IndexBuilder::new(dir.path()).unwrap();
        let mut frames = Frames::new(dir.path(), index, Compression::None, 0).unwrap();
        let jobs = frames.pipeline.jobs();
        let worker = thread::spawn(move || drop(jobs.lock().unwrap().recv()));
        let written = (0..8).try_for_each(|_| frames.write(&[1; 512 << 10]));
        let error = written.and_then(|()| frames.finish().map(|_| ())).unwrap_err();
        let Failure::Blob(error) = error else { panic!("{error:?}") };
        assert_eq!(error.to_string(), "a thread that writes the layer died");
        worker.join().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
