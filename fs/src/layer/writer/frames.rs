//! The stream of a new layer, cut into frames that are compressed on all cores.
//!
//! ```text
//! caller: fill frame, sha256(content) -> workers: blake3, compress -> collector: sha256, write
//! ```
//!
//! The collector takes the frames in the order in which they were cut, so that the blob does not
//! depend on the number of workers. As many frames are under way as its queue has places.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use tempfile::NamedTempFile;

use super::Compression;
use crate::digest::{DiffId, Digest, Hasher};
use crate::layer::index::{Coding, STORED_SPAN, Span, SpanDigest};

/// Content of a compressed frame in bytes: what a read has to decode (see `gzip`'s spans). zstd
/// loses about 2 % of its ratio to frames of this size.
const FRAME: usize = 1 << 20;

/// Length of a gzip member's header without optional fields (RFC 1952, section 2.3).
const GZIP_HEADER: usize = 10;

/// More are of no use: sha256 of the content, which only one core can do, feeds no more.
const MAX_WORKERS: usize = 16;

/// As many workers as there are cores, within reason.
pub(super) fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS)
}

/// A stream on its way to becoming a blob.
#[derive(Debug)]
pub(super) struct Frames {
    compression: Compression,
    /// The frame that is being filled, always of full length.
    frame: Vec<u8>,
    filled: usize,
    content_len: u64,
    diff_id: Hasher,
    /// Frames that were written and can be filled again.
    spare: Receiver<Vec<u8>>,
    pipeline: Pipeline,
}

/// The finished blob.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) file: NamedTempFile,
    pub(super) digest: Digest,
    pub(super) len: u64,
    pub(super) spans: Vec<Span>,
}

impl Frames {
    /// A stream whose blob is written to a file in `dir`, compressed by at most this many
    /// workers.
    pub(super) fn new(dir: &Path, compression: Compression, workers: usize) -> io::Result<Self> {
        let file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
        let (spare_tx, spare) = mpsc::channel();
        Ok(Self {
            compression,
            frame: vec![0; compression.frame_len()],
            filled: 0,
            content_len: 0,
            diff_id: Hasher::new(),
            spare,
            pipeline: Pipeline::start(file, compression, workers, spare_tx)?,
        })
    }

    /// Bytes of the stream so far.
    pub(super) fn content_len(&self) -> u64 {
        self.content_len
    }

    /// Room for more of the stream, never empty; then call [`Self::advance`].
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.frame[self.filled..]
    }

    /// Adds the first `n` bytes of [`Self::room`] to the stream.
    pub(super) fn advance(&mut self, n: usize) -> io::Result<()> {
        self.filled += n;
        self.content_len += n as u64;
        if self.filled == self.frame.len() { self.cut() } else { Ok(()) }
    }

    /// Adds `bytes` to the stream.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room();
            let n = room.len().min(bytes.len());
            room[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.advance(n)?;
        }
        Ok(())
    }

    /// Ends the stream and waits for all of it to be written; the file is not synced.
    pub(super) fn finish(mut self) -> io::Result<(Blob, DiffId)> {
        if self.filled > 0 {
            self.cut()?;
        }
        let blob = self.pipeline.join()?;
        Ok((blob, DiffId::new(self.diff_id.finish())))
    }

    fn cut(&mut self) -> io::Result<()> {
        let len = std::mem::take(&mut self.filled);
        self.diff_id.update(&self.frame[..len]);
        let next = self.spare.try_recv().unwrap_or_else(|_| vec![0; self.compression.frame_len()]);
        self.pipeline.send(std::mem::replace(&mut self.frame, next), len)
    }
}

impl Compression {
    fn frame_len(self) -> usize {
        match self {
            Self::None => usize::try_from(STORED_SPAN).expect("a small constant"),
            Self::Gzip(_) | Self::Zstd(_) => FRAME,
        }
    }
}

/// The threads behind a stream.
#[derive(Debug)]
struct Pipeline {
    compression: Compression,
    max_workers: usize,
    workers: Vec<JoinHandle<()>>,
    jobs: Option<Sender<Job>>,
    jobs_rx: Arc<Mutex<Receiver<Job>>>,
    /// The answers of the workers, in the order of the frames.
    order: Option<SyncSender<Receiver<io::Result<Done>>>>,
    collector: Option<JoinHandle<io::Result<Blob>>>,
}

/// A frame to be compressed.
#[derive(Debug)]
struct Job {
    frame: Vec<u8>,
    len: usize,
    done: SyncSender<io::Result<Done>>,
}

/// A compressed frame.
struct Done {
    frame: Vec<u8>,
    len: usize,
    hash: [u8; 32],
    /// `None` if the frame is stored as it is.
    packed: Option<Vec<u8>>,
}

impl Pipeline {
    fn start(
        file: NamedTempFile,
        compression: Compression,
        max_workers: usize,
        spare: Sender<Vec<u8>>,
    ) -> io::Result<Self> {
        let (jobs, jobs_rx) = mpsc::channel();
        let (order, order_rx) = mpsc::sync_channel(max_workers + 1);
        let collector = Collector::new(file, compression, spare);
        let collect = move || collector.run(&order_rx);
        Ok(Self {
            compression,
            max_workers,
            workers: Vec::new(),
            jobs: Some(jobs),
            jobs_rx: Arc::new(Mutex::new(jobs_rx)),
            order: Some(order),
            collector: Some(thread::Builder::new().name("layer-write".into()).spawn(collect)?),
        })
    }

    /// Passes a frame on; waits while too many are under way.
    fn send(&mut self, frame: Vec<u8>, len: usize) -> io::Result<()> {
        // A layer of one frame needs one worker.
        if self.workers.len() < self.max_workers {
            self.workers.push(start_worker(self.compression, self.jobs_rx.clone())?);
        }
        let (done, answer) = mpsc::sync_channel(1);
        let sent = self.order.as_ref().is_some_and(|order| order.send(answer).is_ok());
        let job = Job { frame, len, done };
        let sent = sent && self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent {
            return Ok(());
        }
        // The collector only leaves early with a reason.
        Err(self.join().err().unwrap_or_else(died))
    }

    /// Waits for all that was sent.
    fn join(&mut self) -> io::Result<Blob> {
        self.order = None;
        self.jobs = None;
        let blob = self.collector.take().map(JoinHandle::join);
        for worker in self.workers.drain(..) {
            // The collector has noticed a panic: the frame never came.
            drop(worker.join());
        }
        blob.and_then(Result::ok).unwrap_or_else(|| Err(died()))
    }
}

impl Drop for Pipeline {
    /// Waits for the threads, so that the blob of a layer that is given up is gone by then.
    fn drop(&mut self) {
        if self.collector.is_some() {
            drop(self.join());
        }
    }
}

fn died() -> io::Error {
    io::Error::other("a thread that writes the layer died")
}

fn start_worker(
    compression: Compression,
    jobs: Arc<Mutex<Receiver<Job>>>,
) -> io::Result<JoinHandle<()>> {
    let mut compressor = Compressor::new(compression)?;
    let run = move || {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { frame, len, done }) = job else { return };
            let packed = compressor.compress(&frame[..len]);
            let hash = *blake3::hash(&frame[..len]).as_bytes();
            let answer = packed.map(|packed| Done { frame, len, hash, packed });
            // Nobody waits for it once the collector has failed.
            drop(done.send(answer));
        }
    };
    thread::Builder::new().name("layer-compress".into()).spawn(run)
}

/// What a worker compresses with.
enum Compressor {
    Zstd(zstd::bulk::Compressor<'static>),
    Gzip(flate2::Compression),
    None,
}

impl Compressor {
    fn new(compression: Compression) -> io::Result<Self> {
        Ok(match compression {
            Compression::Zstd(level) => Self::Zstd(zstd::bulk::Compressor::new(level)?),
            Compression::Gzip(level) => Self::Gzip(flate2::Compression::new(level)),
            Compression::None => Self::None,
        })
    }

    fn compress(&mut self, content: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Zstd(compressor) => compressor.compress(content).map(Some),
            Self::Gzip(level) => {
                // No name, no time, "unknown" system: a header of the fixed ten bytes.
                let mut member = flate2::GzBuilder::new().write(Vec::new(), *level);
                member.write_all(content)?;
                member.finish().map(Some)
            }
            Self::None => Ok(None),
        }
    }
}

/// Last stage: writes the frames and notes where they lie.
struct Collector {
    file: NamedTempFile,
    hasher: Hasher,
    coding: Coding,
    /// Length of what a frame has before its data.
    header: usize,
    len: u64,
    content_len: u64,
    spans: Vec<Span>,
    spare: Sender<Vec<u8>>,
}

impl Collector {
    fn new(file: NamedTempFile, compression: Compression, spare: Sender<Vec<u8>>) -> Self {
        let (coding, header) = match compression {
            Compression::Zstd(_) => (Coding::Zstd, 0),
            Compression::Gzip(_) => (Coding::Deflate, GZIP_HEADER),
            Compression::None => (Coding::Stored, 0),
        };
        let (len, content_len, spans) = (0, 0, Vec::new());
        Self { file, hasher: Hasher::new(), coding, header, len, content_len, spans, spare }
    }

    fn run(mut self, order: &Receiver<Receiver<io::Result<Done>>>) -> io::Result<Blob> {
        for answer in order {
            let done = answer.recv().map_err(|_| died())??;
            self.add(done)?;
        }
        Ok(Blob { file: self.file, digest: self.hasher.finish(), len: self.len, spans: self.spans })
    }

    fn add(&mut self, done: Done) -> io::Result<()> {
        let stored = done.packed.as_deref().unwrap_or(&done.frame[..done.len]);
        self.file.write_all(stored)?;
        self.hasher.update(stored);
        self.spans.push(Span {
            content_offset: self.content_len,
            content_len: done.len as u64,
            blob_offset: self.len + self.header as u64,
            blob_len: (stored.len() - self.header) as u64,
            coding: self.coding,
            bits: 0,
            inner_offset: 0,
            digest: SpanDigest::Blake3(done.hash),
        });
        self.len += stored.len() as u64;
        self.content_len += done.len as u64;
        // The stream may be complete, then nobody takes it.
        drop(self.spare.send(done.frame));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_dies_is_an_error_and_no_hang() {
        let dir = tempfile::tempdir().unwrap();
        // No worker is started; this one takes a frame and is gone.
        let mut frames = Frames::new(dir.path(), Compression::None, 0).unwrap();
        let jobs = frames.pipeline.jobs_rx.clone();
        let worker = thread::spawn(move || drop(jobs.lock().unwrap().recv()));
        let written = (0..8).try_for_each(|_| frames.write(&[1; 512 << 10]));
        let error = written.and_then(|()| frames.finish().map(|_| ())).unwrap_err();
        assert_eq!(error.to_string(), "a thread that writes the layer died");
        worker.join().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
