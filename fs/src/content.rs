//! The content of an image's layers: verified bytes, wherever they are had from.
//!
//! ```text
//! copy: memory -> (local blob: decoded by the caller's thread) -> cache on disk -> "missing"
//! want: missing -> queue -> worker: other layers' caches -> one ranged read for many spans
//!                                   -> decode, verify -> memory, cache on disk -> waiters
//! ```
//!
//! `copy` never waits for a network, so that whoever answers the kernel may call it;
//! what it lacks is asked for with `want`, which calls back, from a worker, in bounded
//! time: with the span, or with an error once [`Options::timeout`] has passed. The fetch itself
//! may come to its end later and serve the next reader.
//!
//! Only remote layers (`BlobSource::is_remote`) have workers and a cache on disk. A local blob
//! needs none: decoding it again costs no more than reading it back. What it has uncompressed is
//! not kept in memory either, but read, and its blocks verified, each time: the kernel keeps it.
//!
//! Memory: decoded spans that are kept, fetches under way, and replies begun but not finished
//! have each a fixed share of [`Options::memory`].

mod fetch;
mod pace;
mod plan;
mod queue;
mod stats;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use self::stats::Stats;

use self::pace::Pace;
use self::plan::{Cut, FARTHEST, Readers};
pub(crate) use self::queue::Waiter;
use self::queue::{Hint, Queue};
pub(crate) use self::stats::Counters;
use crate::cache::{Cache, LayerCache};
use crate::layer::index::{Coding, LayerIndex, Span};
use crate::oci::Layer;
use crate::oci::registry::Settings;
use crate::span::{self, SpanCache, SpanError, SpanId};

/// How the content of an image is read.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where content of remote layers is kept.
    pub cache: Option<Arc<Cache>>,
    /// How long a read waits for a remote blob before it fails: a day at most.
    pub timeout: Duration,
    /// What all reads together may take, in bytes: a single span that is larger is still read.
    pub memory: u64,
}

impl Default for Options {
    /// No cache on disk, a minute, 64 MiB.
    fn default() -> Self {
        Self { cache: None, timeout: Duration::from_secs(60), memory: 64 << 20 }
    }
}

/// The layers of an image, bottom first.
#[derive(Debug)]
pub(crate) struct Content(Arc<Shared>);

/// A span whose stored bytes are that many is far more than a file's chunk.
const LARGE_SPAN: u64 = 256 << 10;

/// What workers and readers share.
#[derive(Debug)]
struct Shared {
    layers: Vec<LayerContent>,
    options: Options,
    memory: SpanCache,
    queue: Mutex<Queue>,
    /// There is something to do for workers.
    work: Condvar,
    /// There is an earlier deadline, or the end.
    clock: Condvar,
    /// Bytes of replies that are begun and wait for more.
    parked: AtomicU64,
    pace: Pace,
    counters: Counters,
}

#[derive(Debug)]
struct LayerContent {
    index: LayerIndex,
    layer: Layer,
    /// Of remote layers, if there is a cache at all.
    cache: Option<LayerCache>,
    cut: Cut,
    readers: Mutex<Readers>,
}

impl LayerContent {
    fn is_remote(&self) -> bool {
        self.layer.blob.is_remote()
    }

    /// How the spans of an index are cut: all of them as the first one.
    fn cut(index: &LayerIndex) -> Cut {
        match index.span(0) {
            Ok(Span { coding: Coding::Deflate, .. }) => Cut::Stream,
            Ok(_) | Err(_) => Cut::Files,
        }
    }

    /// Where a span's bytes lie in the blob, with the byte before them that it shares; `None` if
    /// they lie elsewhere or the index is damaged.
    fn stored(&self, number: usize) -> Option<Range<u64>> {
        let span = self.index.span(number).ok()?;
        if span.coding == Coding::Unpacked {
            return None;
        }
        let start = span.blob_offset.checked_sub(u64::from(span.bits > 0))?;
        let end = span.blob_offset.checked_add(span.blob_len)?;
        (end <= self.layer.blob.size()).then_some(start..end)
    }
}

impl Content {
    pub(crate) fn new(layers: Vec<(LayerIndex, Layer)>, mut options: Options) -> Self {
        // A time that lies too far ahead cannot be told.
        options.timeout = options.timeout.min(Settings::LONGEST_TIMEOUT);
        let layers = layers.into_iter().map(|(index, layer)| {
            let cache = options.cache.as_ref().filter(|_| layer.blob.is_remote());
            let cache = cache.map(|cache| LayerCache::new(cache, index.id()));
            let cut = LayerContent::cut(&index);
            LayerContent { index, layer, cache, cut, readers: Mutex::new(Readers::new(cut)) }
        });
        let memory = SpanCache::new(usize::try_from(options.memory / 8 * 3).unwrap_or(usize::MAX));
        Self(Arc::new(Shared {
            layers: layers.collect(),
            options,
            memory,
            queue: Mutex::default(),
            work: Condvar::new(),
            clock: Condvar::new(),
            parked: AtomicU64::new(0),
            pace: Pace::default(),
            counters: Counters::default(),
        }))
    }

    /// The index of the layer at this place.
    pub(crate) fn index(&self, layer: usize) -> Option<&LayerIndex> {
        self.0.layers.get(layer).map(|layer| &layer.index)
    }

    /// Where a span is stored in its layer's blob, if it is.
    pub(crate) fn stored(&self, (layer, span): SpanId) -> Option<Range<u64>> {
        self.0.layers.get(layer)?.stored(span)
    }

    /// Whether a layer's blob is remote.
    pub(crate) fn has_remote(&self) -> bool {
        self.0.layers.iter().any(LayerContent::is_remote)
    }

    /// Copies what a span has at `skip`, returns how many bytes: 0 at its end. `None` when that
    /// has to be fetched first.
    pub(crate) fn copy(
        &self,
        id: SpanId,
        skip: usize,
        buf: &mut [u8],
    ) -> Result<Option<usize>, SpanError> {
        let shared = &self.0;
        let of = &shared.layers[id.0];
        let span = of.index.span(id.1)?;
        if !of.is_remote() || span.coding == Coding::Unpacked {
            let blob = of.layer.blob.as_ref();
            if let Some(n) = span::read_part(&of.index, blob, id.1, skip, buf)? {
                return Ok(Some(n));
            }
            let content = shared.memory.get(id, || shared.decode_local(of, id))?;
            return Ok(Some(copy_from(&content, skip, buf)));
        }
        if let Some(stored) = of.stored(id.1)
            && shared.read_ahead(id, &stored)
        {
            self.0.start_threads();
        }
        if let Some(content) = shared.memory.kept(id) {
            Counters::add(&shared.counters.memory_hits, 1);
            return Ok(Some(copy_from(&content, skip, buf)));
        }
        let found = shared.read_disk(of, id.1, &span, skip, buf);
        let counter = match found {
            Some(_) => &shared.counters.disk_hits,
            None => &shared.counters.misses,
        };
        Counters::add(counter, 1);
        Ok(found)
    }

    /// Where content is kept on disk, if anywhere.
    pub(crate) fn cache(&self) -> Option<&Arc<Cache>> {
        self.0.options.cache.as_ref()
    }

    /// Whether spans of one layer are there without a network, to all appearance. Those of a local
    /// layer are where `local` says so.
    pub(crate) fn has(&self, spans: &[SpanId], local: bool) -> bool {
        let Some((layer, _)) = spans.first() else { return true };
        let Some(of) = self.0.layers.get(*layer) else { return false };
        let Some(cache) = of.cache.as_ref().filter(|_| of.is_remote()) else { return local };
        let presence = cache.presence(&of.index);
        spans.iter().all(|(_, span)| presence.has(*span))
    }

    /// Has a span fetched; `waiter` is called with it, at the latest with an error when
    /// [`Options::timeout`] has passed, maybe before this returns. `file` are the spans of its file
    /// from there on, which are fetched beside it if they are few.
    pub(crate) fn want(&self, id: SpanId, file: Range<usize>, waiter: Waiter) {
        let until = Instant::now() + self.0.options.timeout;
        let beside = self.0.rest_of_file(id.0, file);
        let mut queue = self.0.lock();
        let refused = queue.want(id, until, waiter);
        if refused.is_none()
            && let Some(beside) = beside
        {
            queue.hint(beside);
        }
        drop(queue);
        match refused {
            None => self.0.start_threads(),
            Some(waiter) => waiter(Err(self.0.closed(id))),
        }
    }

    /// As [`Content::want`], and waits for it.
    pub(crate) fn wait(&self, id: SpanId, file: Range<usize>) -> Result<Arc<Vec<u8>>, SpanError> {
        let (done, answer) = std::sync::mpsc::sync_channel(1);
        let waiter = move |result| {
            if done.send(result).is_err() {
                tracing::debug!("nobody waits for a span any more");
            }
        };
        self.want(id, file, Box::new(waiter));
        answer.recv().unwrap_or_else(|_| Err(self.0.closed(id)))
    }

    /// Whether a reply of this size, begun already, may be kept while it waits for more. If so,
    /// `leave` has to be called when it does not wait any more.
    pub(crate) fn may_park(&self, size: usize) -> bool {
        let (size, most) = (size as u64, self.0.options.memory / 4);
        let fits = |parked: u64| (parked == 0 || parked + size <= most).then_some(parked + size);
        self.0.parked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    /// See [`Content::may_park`].
    pub(crate) fn leave(&self, size: usize) {
        self.0.parked.fetch_sub(size as u64, Ordering::Relaxed);
    }

    /// Has spans fetched when nobody waits for others, in this order. `false` when there is no
    /// place to keep them.
    pub(crate) fn fetch_in_background(&self, spans: impl IntoIterator<Item = SpanId>) -> bool {
        let Some(cache) = &self.0.options.cache else { return false };
        // More would push out again what was fetched first, and what others use.
        let mut room = cache.limit() / 2;
        let mut fits = |(layer, span): &SpanId| {
            let Some(of) = self.0.layers.get(*layer).filter(|of| of.is_remote()) else {
                return Some(false);
            };
            let len = of.index.span(*span).ok()?.content_len;
            room = room.checked_sub(len)?;
            Some(true)
        };
        let fitting = spans.into_iter().map_while(|id| Some((id, fits(&id)?)));
        let hints = runs(fitting.filter(|(_, remote)| *remote).map(|(id, _)| id));
        self.0.lock().background(hints);
        self.0.start_threads();
        true
    }

    /// All spans, layer by layer.
    pub(crate) fn all_spans(&self) -> impl Iterator<Item = SpanId> + '_ {
        let layers = self.0.layers.iter().enumerate();
        layers.flat_map(|(layer, of)| (0..of.index.span_count()).map(move |span| (layer, span)))
    }

    /// The spans at the start of layers that are to be fetched first, layer by layer.
    pub(crate) fn first_spans(&self) -> impl Iterator<Item = SpanId> + '_ {
        self.0.layers.iter().enumerate().flat_map(|(layer, of)| {
            let first = of.index.first_len();
            let is_first =
                move |span: &usize| of.stored(*span).is_some_and(|stored| stored.end <= first);
            (0..of.index.span_count()).take_while(is_first).map(move |span| (layer, span))
        })
    }

    /// Counters since the start.
    pub(crate) fn stats(&self) -> Stats {
        let queue = self.0.lock();
        Stats {
            in_flight: queue.running() as u64,
            waiting: queue.waiting() as u64,
            ..self.0.counters.now()
        }
    }

    /// Fails all who wait now, and those who want to wait before `grace` has passed.
    pub(crate) fn fail_waiting(&self, grace: Duration) {
        let waiters = self.0.lock().dismiss(Instant::now() + grace);
        self.fail(waiters);
    }

    /// Fails all who wait, and whoever wants to wait from then on. What is there already can
    /// still be copied.
    pub(crate) fn shut_down(&self) {
        let waiters = self.0.lock().close();
        self.0.work.notify_all();
        self.0.clock.notify_all();
        self.fail(waiters);
    }

    fn fail(&self, waiters: Vec<(SpanId, Waiter)>) {
        for (id, waiter) in waiters {
            waiter(Err(self.0.closed(id)));
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Shared {
    /// A span of a local layer. Those behind it that would have to be decoded along with it again
    /// are kept too.
    fn decode_local(
        &self,
        of: &LayerContent,
        (layer, number): SpanId,
    ) -> Result<Vec<u8>, SpanError> {
        let blob = of.layer.blob.as_ref();
        span::decode_with_next(
            &of.index,
            blob,
            number,
            self.memory.budget() / 2,
            |next, content| {
                self.memory.keep((layer, next), Arc::new(content));
            },
        )
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent between any two statements: a panic elsewhere is no reason to
        // stop.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_disk(
        &self,
        of: &LayerContent,
        number: usize,
        span: &Span,
        skip: usize,
        buf: &mut [u8],
    ) -> Option<usize> {
        of.cache.as_ref()?.read(number, span, skip, buf, &self.counters)
    }

    /// Asks for what a sequential reader, who is at `number` now, will want soon and is not on
    /// disk; whether there is anything.
    fn read_ahead(&self, (layer, number): SpanId, stored: &Range<u64>) -> bool {
        let of = &self.layers[layer];
        let mut readers = of.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = readers.read(stored);
        drop(readers);
        if ahead.is_empty() {
            return false;
        }
        let after = (number + 1..of.index.span_count()).take_while(|next| {
            of.stored(*next)
                .is_some_and(|next| next.start >= stored.start && next.start < ahead.end)
        });
        let inside = |next: &usize| of.stored(*next).is_some_and(|next| next.start >= ahead.start);
        // Whoever reads what is all there wakes nobody.
        let on_disk = of.cache.as_ref().map(|cache| cache.presence(&of.index));
        let missing = |next: &usize| !on_disk.as_ref().is_some_and(|on_disk| on_disk.has(*next));
        let hints = runs(after.filter(inside).filter(missing).map(|span| (layer, span)));
        if hints.is_empty() {
            return false;
        }
        let mut queue = self.lock();
        for hint in hints {
            queue.hint(hint);
        }
        true
    }

    /// What to fetch of a file of which somebody misses the first of these spans. Programs and
    /// libraries are read here and there, one page fault after the other, and soon as a whole: that
    /// is a round trip for each, unless it is guessed at the first. Of a large file that is read
    /// here and there most is never read, and where spans are large, as those of SOCI are, a read
    /// brings enough by itself.
    fn rest_of_file(&self, layer: usize, spans: Range<usize>) -> Option<Hint> {
        let of = self.layers.get(layer)?;
        let first = of.stored(spans.start)?;
        let start = first.start;
        if first.end - start >= LARGE_SPAN {
            return None;
        }
        let length = |span| Some(of.stored(span)?.end.saturating_sub(start));
        if length(spans.end.checked_sub(1)?)? > FARTHEST {
            return None;
        }
        let window = of.cut.rest_of_file(self.pace.window());
        let inside = |span: &usize| length(*span).is_some_and(|length| length <= window);
        let end = spans.clone().take_while(inside).last()? + 1;
        Some(Hint { layer, spans: spans.start..end })
    }

    fn closed(&self, (layer, span): SpanId) -> SpanError {
        let layer = self.layers[layer].index.summary().digest;
        SpanError::Closed { layer, span }
    }
}

fn copy_from(content: &[u8], skip: usize, buf: &mut [u8]) -> usize {
    let rest = content.get(skip..).unwrap_or_default();
    let n = rest.len().min(buf.len());
    buf[..n].copy_from_slice(&rest[..n]);
    n
}

/// Spans as few hints.
fn runs(spans: impl IntoIterator<Item = SpanId>) -> Vec<Hint> {
    let mut hints: Vec<Hint> = Vec::new();
    for (layer, span) in spans {
        match hints.last_mut() {
            Some(last) if last.layer == layer && last.spans.contains(&span) => {}
            Some(last) if last.layer == layer && last.spans.end == span => last.spans.end += 1,
            _ => hints.push(Hint { layer, spans: span..span + 1 }),
        }
    }
    hints
}
