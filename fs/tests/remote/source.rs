//! A remote blob whose network is as good or bad as a test wants it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kfs_fs::blob::BlobSource;

/// What happens to a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Works,
    /// Each read takes this long.
    Slow(Duration),
    /// Each read fails.
    Gone,
    /// No read ends until the network is something else.
    Stalled,
    /// Each read has one flipped bit in each 4 KiB.
    Flips,
}

#[derive(Debug)]
pub(crate) struct Remote {
    bytes: Vec<u8>,
    network: Mutex<Network>,
    changed: Condvar,
    /// Offset and length of each read.
    reads: Mutex<Vec<(u64, usize)>>,
    now: AtomicUsize,
    most: AtomicUsize,
    sent: AtomicU64,
}

impl Remote {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes,
            network: Mutex::new(Network::Works),
            changed: Condvar::new(),
            reads: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
        })
    }

    pub(crate) fn set(&self, network: Network) {
        *self.network.lock().unwrap() = network;
        self.changed.notify_all();
    }

    /// The reads since the last call.
    pub(crate) fn take_reads(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.reads.lock().unwrap())
    }

    /// Bytes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// The most reads there were at one time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(SeqCst)
    }

    /// Waits until so many reads are under way.
    pub(crate) fn wait_for_reads(&self, count: usize) {
        wait_until("enough is being read", || self.now.load(SeqCst) >= count);
    }

    fn answer(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut network = self.network.lock().unwrap();
        while *network == Network::Stalled {
            network = self.changed.wait(network).unwrap();
        }
        let network = *network;
        if let Network::Slow(pause) = network {
            std::thread::sleep(pause);
        }
        if network == Network::Gone {
            return Err(io::Error::other("connection refused"));
        }
        let offset = usize::try_from(offset).unwrap().min(self.bytes.len());
        let n = buf.len().min(self.bytes.len() - offset);
        buf[..n].copy_from_slice(&self.bytes[offset..offset + n]);
        if network == Network::Flips {
            buf[..n].iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
        }
        self.sent.fetch_add(n as u64, SeqCst);
        Ok(n)
    }
}

impl BlobSource for Remote {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.reads.lock().unwrap().push((offset, buf.len()));
        self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        let answer = self.answer(offset, buf);
        self.now.fetch_sub(1, SeqCst);
        answer
    }

    fn location(&self) -> String {
        "a test".to_owned()
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// Overlapping reads since the last call, by what they have in common.
pub(crate) fn read_twice(reads: &[(u64, usize)]) -> bool {
    let mut seen = HashMap::new();
    reads.iter().any(|(offset, len)| {
        let blocks = offset / 4096..(offset + *len as u64) / 4096;
        blocks.into_iter().any(|block| seen.insert(block, ()).is_some())
    })
}

/// Waits for something that other threads bring about, for 20 seconds at most.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
