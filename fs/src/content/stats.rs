//! What was read and where it came from, counted without locks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// Counters of one image while it is open; they only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes_fetched: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) memory_hits: AtomicU64,
    pub(crate) disk_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) spans_fetched: AtomicU64,
    pub(crate) bytes_copied: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) damaged: AtomicU64,
    pub(crate) uncached: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }
}

/// What was read of an image and where it came from, since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes that remote blobs were asked for and sent.
    pub bytes_fetched: u64,
    /// Reads of remote blobs.
    pub requests: u64,
    /// Reads of spans of remote layers that memory answered.
    pub memory_hits: u64,
    /// Reads of spans of remote layers that the cache on disk answered.
    pub disk_hits: u64,
    /// Reads that had to wait for a fetch.
    pub misses: u64,
    /// Spans that were fetched and verified.
    pub spans_fetched: u64,
    /// Bytes of content that came from the caches of other layers.
    pub bytes_copied: u64,
    /// Fetches that failed, and reads whose time was up.
    pub errors: u64,
    /// Places of the cache on disk that were not what had been written there.
    pub damaged: u64,
    /// Spans that could not be kept on disk.
    pub uncached: u64,
    /// Fetches under way.
    pub in_flight: u64,
    /// Reads that wait for them.
    pub waiting: u64,
}

impl Counters {
    /// The counters as they are now; those of the queue are left at 0.
    pub(crate) fn now(&self) -> Stats {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Stats {
            bytes_fetched: of(&self.bytes_fetched),
            requests: of(&self.requests),
            memory_hits: of(&self.memory_hits),
            disk_hits: of(&self.disk_hits),
            misses: of(&self.misses),
            spans_fetched: of(&self.spans_fetched),
            bytes_copied: of(&self.bytes_copied),
            errors: of(&self.errors),
            damaged: of(&self.damaged),
            uncached: of(&self.uncached),
            in_flight: 0,
            waiting: 0,
        }
    }
}
