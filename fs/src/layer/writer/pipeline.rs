//! The threads behind the stream of a new layer.
//!
//! ```text
//! caller: fill, cut, sha256(stream) -> workers: digest, compress -> collector: sha256, write
//! ```
//!
//! The collector takes the batches in the order in which they were cut, so that the blob does not
//! depend on the number of workers. As many batches are under way as its queue has places.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::clocks::{Clocks, Work};
use super::collect::{Collected, Collector};
use super::frames::{Part, Piece, Shape};
use super::pack::Packer;
use super::{Coder, Compression, Failure};
use crate::blocks::{Node, TreeHasher};
use crate::digest::Digest;
use crate::layer::index::SpanDigest;

/// More are of no use: sha256 of the content, which only one core can do, feeds no more.
const MAX_WORKERS: usize = 16;

/// As many workers as there are cores, within reason.
pub(super) fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS)
}

/// The threads.
#[derive(Debug)]
pub(super) struct Pipeline {
    compression: Compression,
    clocks: Arc<Clocks>,
    max_workers: usize,
    workers: Vec<JoinHandle<()>>,
    jobs: Option<Sender<Job>>,
    jobs_rx: Arc<Mutex<Receiver<Job>>>,
    /// The answers of the workers, in the order of the batches.
    order: Option<SyncSender<Receiver<io::Result<Done>>>>,
    collector: Option<JoinHandle<Result<Collected, Failure>>>,
}

/// A batch to be compressed.
#[derive(Debug)]
pub(super) struct Job {
    content: Vec<u8>,
    len: usize,
    parts: Vec<Part>,
    done: SyncSender<io::Result<Done>>,
}

/// A compressed batch.
#[derive(Debug)]
pub(super) struct Done {
    /// A buffer to be filled again; the first `len` bytes are the batch.
    pub(super) content: Vec<u8>,
    pub(super) len: usize,
    pub(super) parts: Vec<Part>,
    /// Of each piece, the length of its frame and, of its chunk if the shape has chunks, else
    /// of all of it, the digest, and the hashes of its blocks.
    pub(super) packed: Vec<(usize, SpanDigest, Vec<Node>)>,
    /// The frames; `None` if they are the content.
    pub(super) frames: Option<Vec<u8>>,
}

impl Pipeline {
    pub(super) fn start(
        collector: Collector,
        compression: Compression,
        max_workers: usize,
        clocks: Arc<Clocks>,
    ) -> io::Result<Self> {
        let (jobs, jobs_rx) = mpsc::channel();
        let (order, order_rx) = mpsc::sync_channel(max_workers + 1);
        let collect = move || collector.run(&order_rx);
        Ok(Self {
            compression,
            clocks,
            max_workers,
            workers: Vec::new(),
            jobs: Some(jobs),
            jobs_rx: Arc::new(Mutex::new(jobs_rx)),
            order: Some(order),
            collector: Some(thread::Builder::new().name("layer-write".into()).spawn(collect)?),
        })
    }

    /// Passes a batch on; waits while too many are under way.
    pub(super) fn send(
        &mut self,
        content: Vec<u8>,
        len: usize,
        parts: Vec<Part>,
    ) -> Result<(), Failure> {
        // A layer of one batch needs one worker.
        if self.workers.len() < self.max_workers {
            let worker = start_worker(self.compression, self.jobs_rx.clone(), self.clocks.clone());
            self.workers.push(worker.map_err(Failure::Blob)?);
        }
        let (done, answer) = mpsc::sync_channel(1);
        let sent = self.order.as_ref().is_some_and(|order| order.send(answer).is_ok());
        let job = Job { content, len, parts, done };
        let sent = sent && self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if sent {
            return Ok(());
        }
        // The collector only leaves early with a reason.
        Err(self.join().err().unwrap_or_else(died))
    }

    /// Waits for all that was sent.
    pub(super) fn join(&mut self) -> Result<Collected, Failure> {
        self.order = None;
        self.jobs = None;
        let collected = self.collector.take().map(JoinHandle::join);
        for worker in self.workers.drain(..) {
            // The collector has noticed a panic: the batch never came.
            drop(worker.join());
        }
        collected.and_then(Result::ok).unwrap_or_else(|| Err(died()))
    }

    /// Where the workers take their batches from.
    #[cfg(test)]
    pub(super) fn jobs(&self) -> Arc<Mutex<Receiver<Job>>> {
        self.jobs_rx.clone()
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

/// That a thread panicked.
pub(super) fn died() -> Failure {
    Failure::Blob(io::Error::other("a thread that writes the layer died"))
}

fn start_worker(
    compression: Compression,
    jobs: Arc<Mutex<Receiver<Job>>>,
    clocks: Arc<Clocks>,
) -> io::Result<JoinHandle<()>> {
    let packer = Packer::new(compression.coder())?;
    let mut worker = Worker { shape: compression.shape(), packer, clocks };
    let stored = compression.coder() == Coder::None;
    let run = move || {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { content, len, parts, done }) = job else { return };
            let mut frames = Vec::new();
            let packed = worker.pack(&content, &parts, &mut frames);
            let frames = (!stored).then_some(frames);
            let answer = packed.map(|packed| Done { content, len, parts, packed, frames });
            // Nobody waits for it once the collector has failed.
            drop(done.send(answer));
        }
    };
    thread::Builder::new().name("layer-compress".into()).spawn(run)
}

struct Worker {
    shape: Shape,
    packer: Packer,
    clocks: Arc<Clocks>,
}

impl Worker {
    fn pack(
        &mut self,
        mut content: &[u8],
        parts: &[Part],
        frames: &mut Vec<u8>,
    ) -> io::Result<Vec<(usize, SpanDigest, Vec<Node>)>> {
        let mut packed = Vec::with_capacity(parts.len());
        for part in parts {
            let Part::Piece(piece) = part else { continue };
            let (bytes, rest) = content.split_at(piece.len);
            content = rest;
            let before = frames.len();
            let packer = &mut self.packer;
            self.clocks.time(Work::Compress, || match piece.zeros {
                true => packer.pack_zeros(bytes, frames),
                false => packer.pack(bytes, frames),
            })?;
            let (digest, blocks) = self.clocks.time(Work::Hash, || self.digest(piece, bytes));
            // What is stored needs no copy.
            let len = if frames.len() > before { frames.len() - before } else { bytes.len() };
            packed.push((len, digest, blocks));
        }
        Ok(packed)
    }

    fn digest(&self, piece: &Piece, bytes: &[u8]) -> (SpanDigest, Vec<Node>) {
        match self.shape {
            Shape::Even(_) => {
                let (hash, blocks) = TreeHasher::of(bytes);
                (SpanDigest::Blake3(hash), blocks)
            }
            Shape::Chunks | Shape::Members => {
                (SpanDigest::Sha256(Digest::of(&bytes[..piece.payload])), Vec::new())
            }
        }
    }
}
