//! What the writing of a layer takes, by kinds of work, in all of its threads together.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Time that threads spent; they work at the same time, so the sum may be more than passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteTimes {
    /// Digests of the stream, of its chunks and of the blob.
    pub hash: Duration,
    /// Compression.
    pub compress: Duration,
    /// Writing the blob.
    pub write: Duration,
}

/// A kind of work.
#[derive(Clone, Copy, Debug)]
pub(super) enum Work {
    Hash,
    Compress,
    Write,
}

/// The times while a layer is written, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Clocks([AtomicU64; 3]);

impl Clocks {
    /// Does some work and adds its time.
    pub(super) fn time<T>(&self, what: Work, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = work();
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0[what as usize].fetch_add(took, Relaxed);
        done
    }

    pub(super) fn read(&self) -> WriteTimes {
        let of = |what: Work| Duration::from_nanos(self.0[what as usize].load(Relaxed));
        WriteTimes { hash: of(Work::Hash), compress: of(Work::Compress), write: of(Work::Write) }
    }
}
