//! A layer's content on its way into the cache before anybody knows whether the layer is right.
//!
//! A layer without a table of contents is streamed once to make its index; what streams by is not
//! to be fetched a second time. Its data goes to disk as it comes, but its sums stay in memory
//! (two thousandths of the data, so bounded by the cache's limit) until the digests of blob and
//! content were found right: without its sum a block is not there for anybody. Data written over
//! what was cached before and differs is found damaged by the old sums, and fetched again.
//!
//! A fill that is dropped takes the layer's cache away. What a killed process leaves has no sums,
//! but uses: it goes when room is made.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::layer::{LayerCache, Verified};
use super::sums::Sum;
use super::{Cache, CacheError, PATIENCE};
use crate::layer::index::{IndexId, Span};

/// Content that is written at a time, in bytes.
const BATCH: usize = 1 << 20;

/// How long the end of a fill waits for others who write: the content of a layer depends on it.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// What may go into the cache while the layers of an image are read for the first time.
#[derive(Debug)]
pub(crate) struct Filling {
    cache: Arc<Cache>,
    /// Bytes that all layers together may still add.
    room: AtomicU64,
}

impl Filling {
    /// At most half of what the cache may take: more would push out what came first, and what
    /// others use.
    pub(crate) fn new(cache: &Arc<Cache>) -> Self {
        Self { cache: cache.clone(), room: AtomicU64::new(cache.limit / 2) }
    }

    /// The way of one layer's content into the cache.
    pub(crate) fn layer(&self, id: impl Into<IndexId>) -> Fill<'_> {
        Fill {
            room: &self.room,
            layer: LayerCache::new(&self.cache, id.into()),
            batch: Vec::new(),
            bytes: 0,
            sums: Vec::new(),
            is_over: false,
        }
    }
}

/// See [`Filling::layer`].
#[derive(Debug)]
pub(crate) struct Fill<'a> {
    room: &'a AtomicU64,
    layer: LayerCache,
    batch: Vec<(usize, Span, Vec<u8>)>,
    bytes: usize,
    /// The sums of what was written, and the slots of the first of each run.
    sums: Vec<(u64, Vec<Sum>)>,
    /// Whether nothing more is wanted.
    is_over: bool,
}

impl Fill<'_> {
    /// Whether there is room for more.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_over
    }

    /// Takes the content of the span with this number, whose digest was made of it; spans come in
    /// ascending order.
    pub(crate) fn add(&mut self, number: usize, span: Span, content: Vec<u8>) {
        let len = content.len() as u64;
        let taken = |room: u64| room.checked_sub(len);
        let fits = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok();
        if self.is_over || !fits {
            self.is_over = true;
            return;
        }
        self.bytes += content.len();
        self.batch.push((number, span, content));
        if self.bytes >= BATCH {
            self.write();
        }
    }

    /// What others need of the disk comes first: the index that is being made, above all.
    fn leaves_space(dir: &Path) -> bool {
        const SPARE: u64 = 64 << 20;
        let found = dir.ancestors().find_map(|dir| statvfs(dir).ok());
        found.is_none_or(|fs| {
            let bytes = |blocks: u64| blocks.saturating_mul(fs.fragment_size());
            bytes(fs.blocks_available()) >= SPARE.min(bytes(fs.blocks()) / 16)
        })
    }

    fn write(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        let cache = self.layer.cache();
        if batch.is_empty() || cache.is_pausing() {
            return;
        }
        if !Self::leaves_space(&cache.dir) {
            self.is_over = true;
            return;
        }
        let spans: Vec<Verified<'_>> =
            batch.iter().map(|(number, span, content)| (*number, *span, &content[..])).collect();
        let sums = &mut self.sums;
        let written = self.layer.write(&spans, PATIENCE, |files, run| {
            files.write_content(&run)?;
            sums.push((run.first_slot, run.sums));
            Ok(())
        });
        if let Err(error) = written {
            cache.complain(&error);
        }
    }

    /// The layer was found right: what was written is there from now on.
    pub(crate) fn finish(mut self) {
        self.write();
        match self.layer.write_sums(&self.sums, LAST_PATIENCE) {
            Ok(()) => self.sums.clear(),
            Err(error) => self.layer.cache().complain(&error),
        }
    }

    fn discard(&self) -> Result<(), CacheError> {
        let id = self.layer.id();
        self.layer.cache().forget_index(&id)
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        if self.sums.is_empty() {
            return;
        }
        if let Err(error) = self.discard() {
            tracing::debug!("what was kept of a layer that failed is not removed: {error}");
        }
    }
}
