//! The threads that fetch, and the one that watches the time.
//!
//! They start when there is something to fetch and end when there has been nothing for a while:
//! an image of local layers, or one that is wholly cached, has none.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::{PIECE, Spans};
use super::queue::{Hint, Job, Queue, Urgency};
use super::{Counters, LayerContent, Shared};
use crate::cache::Claim;
use crate::layer::index::{Span, SpanDigest};
use crate::span::{self, SpanError, SpanId};

/// Fetches at a time. A sequential reader has up to four under way.
const WORKERS: usize = 8;

/// Threads whose fetch was given up, but whose blob source has not come back. Beyond it nothing
/// is fetched until one does.
const MOST_LOST: usize = 56;

/// How long a thread waits for more to do.
const LINGER: Duration = Duration::from_secs(5);

/// Content that is written to the cache on disk at a time, in bytes.
const BATCH: usize = 1 << 20;

/// How long another process is waited for that fetches the same.
const CLAIM: Duration = Duration::from_secs(1);

/// Spans that are looked at for one fetch.
const REACH: usize = 2048;

impl Shared {
    /// Sees to it that there are threads for what is queued.
    pub(super) fn start_threads(self: &Arc<Self>) {
        let mut queue = self.lock();
        if queue.is_closed() || queue.is_empty() && queue.waiting() == 0 {
            return;
        }
        if !queue.clock_runs && self.spawn("kfs-clock", Self::watch_time) {
            queue.clock_runs = true;
        }
        let idle = queue.workers.saturating_sub(queue.running());
        if !queue.is_empty()
            && idle == 0
            && queue.workers < WORKERS
            && queue.lost < MOST_LOST
            && self.spawn("kfs-fetch", Self::work)
        {
            queue.workers += 1;
        }
        drop(queue);
        self.work.notify_one();
        self.clock.notify_one();
    }

    fn spawn(self: &Arc<Self>, name: &str, body: fn(&Arc<Self>)) -> bool {
        let shared = self.clone();
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || body(&shared));
        // Waiters are then told that their time is up, or by another thread.
        spawned.inspect_err(|error| tracing::warn!("start of a thread: {error}")).is_ok()
    }

    /// The clock's thread.
    fn watch_time(self: &Arc<Self>) {
        let mut idle_since = None;
        let mut queue = self.lock();
        while !queue.is_closed() {
            let now = Instant::now();
            let gave_up = queue.give_up(now);
            let expired = queue.expire(now);
            if gave_up || !expired.is_empty() {
                drop(queue);
                for (id, waiter) in expired {
                    Counters::add(&self.counters.errors, 1);
                    waiter(Err(self.timed_out(id)));
                }
                // What was given up may be wanted by those who came later.
                self.start_threads();
                queue = self.lock();
                continue;
            }
            let pause = match queue.next_deadline() {
                Some(deadline) => {
                    idle_since = None;
                    deadline.saturating_duration_since(now)
                }
                None if now.duration_since(*idle_since.get_or_insert(now)) >= LINGER => break,
                None => LINGER,
            };
            let waited = self.clock.wait_timeout(queue, pause);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.clock_runs = false;
    }

    fn timed_out(&self, (layer, span): SpanId) -> SpanError {
        let layer = self.layers[layer].index.summary().digest;
        SpanError::TimedOut { layer, span, seconds: self.options.timeout.as_secs() }
    }

    /// A worker's thread.
    fn work(self: &Arc<Self>) {
        let mut queue = self.lock();
        let mut waited = false;
        while !queue.is_closed() {
            if let Some(job) = self.take(&mut queue) {
                let more = !queue.is_empty();
                drop(queue);
                if more {
                    self.start_threads();
                }
                self.run(&job);
                queue = self.lock();
                if queue.end(job.id) {
                    // It was given up, and another thread has its place.
                    queue.lost -= 1;
                    drop(queue);
                    self.start_threads();
                    return;
                }
                self.work.notify_one();
                waited = false;
                continue;
            }
            if waited {
                break;
            }
            let (woken, timeout) =
                self.work.wait_timeout(queue, LINGER).unwrap_or_else(PoisonError::into_inner);
            queue = woken;
            waited = timeout.timed_out();
        }
        queue.workers -= 1;
    }

    /// The next thing to fetch, if there is one and memory for it.
    fn take(&self, queue: &mut Queue) -> Option<Job> {
        let most = self.options.memory / 8 * 3;
        let until = Instant::now() + self.options.timeout;
        while let Some((hint, urgency)) = queue.next() {
            let (job, rest) = self.plan(queue, &hint, urgency);
            let Some(job) = job else {
                if let Some(rest) = rest {
                    queue.put_back(rest, urgency);
                }
                continue;
            };
            let cost = self.cost(&job);
            let in_flight = queue.in_flight();
            if in_flight > 0 && in_flight.saturating_add(cost) > most {
                queue.put_back(hint, urgency);
                return None;
            }
            if let Some(rest) = rest {
                queue.put_back(rest, urgency);
            }
            return Some(queue.start(job, urgency, cost, until));
        }
        None
    }

    /// The spans of one read, and what of the hint is left for others.
    fn plan(&self, queue: &Queue, hint: &Hint, urgency: Urgency) -> (Option<Hint>, Option<Hint>) {
        let layer = hint.layer;
        let of = &self.layers[layer];
        let first = hint.spans.start;
        let high = (first + REACH).min(of.index.span_count());
        let on_disk = of.cache.as_ref().map(|cache| cache.presence(&of.index));
        let missing = |span: usize| {
            !on_disk.as_ref().is_some_and(|on_disk| on_disk.has(span))
                && !queue.is_running((layer, span))
                && !self.memory.has((layer, span))
        };
        let hint_end = hint.spans.end.min(high);
        let stored = |span: usize| of.stored(span);
        let spans = |wanted: &dyn Fn(usize) -> bool, first, extra, most| {
            Spans { count: high, stored: &stored, missing: &missing, wanted }
                .around(first, extra, most)
        };
        let part = |spans| Some(Hint { layer, spans });
        if urgency == Urgency::Demand {
            // What somebody waits for is looked at even if it seems to be there: it may turn
            // out damaged.
            let wanted = |span| queue.is_wanted((layer, span));
            return (part(spans(&wanted, first, self.extra(of, first), PIECE)), None);
        }
        let rest = |from: usize| {
            (from < hint.spans.end).then_some(Hint { layer, spans: from..hint.spans.end })
        };
        let Some(first) = (first..hint_end).find(|span| missing(*span)) else {
            return (None, rest(hint_end.max(first + 1)));
        };
        let run = spans(&|span| hint.spans.contains(&span), first, 0, of.piece(first, hint_end));
        let next = run.end;
        (part(run), rest(next))
    }

    /// How far to fetch beyond a span that somebody waits for.
    fn extra(&self, of: &LayerContent, span: usize) -> u64 {
        let mut readers = of.readers.lock().unwrap_or_else(PoisonError::into_inner);
        of.stored(span).map_or(0, |stored| readers.extra(&stored, self.pace.window()))
    }

    /// Memory that a job takes: what is read, and one decoded span beside the batch.
    fn cost(&self, job: &Hint) -> u64 {
        let of = &self.layers[job.layer];
        let spans = || job.spans.clone().filter_map(|span| of.index.span(span).ok());
        let stored: u64 = spans().map(|span| span.blob_len).fold(0, u64::saturating_add);
        let decoded = spans().map(|span| span.content_len.saturating_add(span.inner_offset)).max();
        stored.saturating_add(decoded.unwrap_or(0))
    }

    /// Fetches the spans of a job.
    fn run(&self, job: &Job) {
        let of = &self.layers[job.layer];
        // Until what is fetched is on disk.
        let (_claim, others) = self.claim(of, job);
        let mut batch = Batch { shared: self, of, spans: Vec::new(), bytes: 0 };
        let mut from = job.spans.start;
        for number in job.spans.clone() {
            let looks_on_disk = others || job.urgency == Urgency::Demand;
            if let Some(content) = self.without_network((job.layer, number), looks_on_disk) {
                self.fetch(job, from..number, &mut batch);
                from = number + 1;
                self.ready((job.layer, number), content);
            }
        }
        self.fetch(job, from..job.spans.end, &mut batch);
        batch.write();
    }

    /// Keeps other processes from fetching the same, unless they do already: then they are waited
    /// for, and the second value says so.
    fn claim(&self, of: &LayerContent, job: &Job) -> (Option<Claim>, bool) {
        let span = |number: usize| of.index.span(number).ok();
        let last = job.spans.end.checked_sub(1).and_then(span);
        let (Some(cache), Some(first), Some(last)) = (&of.cache, span(job.spans.start), last)
        else {
            return (None, false);
        };
        let end = last.content_offset.saturating_add(last.content_len);
        cache.claim(first.content_offset..end, CLAIM.min(self.options.timeout / 4))
    }

    /// A span that somebody else fetched meanwhile, or that another layer has, too.
    fn without_network(&self, id: SpanId, looks_on_disk: bool) -> Option<Arc<Vec<u8>>> {
        let of = &self.layers[id.0];
        if let Some(content) = self.memory.kept(id) {
            return Some(content);
        }
        let cache = of.cache.as_ref()?;
        let span = of.index.span(id.1).ok()?;
        if looks_on_disk && let Some(content) = cache.read_whole(id.1, &span, &self.counters) {
            return Some(Arc::new(content));
        }
        let SpanDigest::Sha256(digest) = span.digest else { return None };
        let content = self.options.cache.as_ref()?.elsewhere(&of.index.id(), digest, &span)?;
        Counters::add(&self.counters.bytes_copied, content.len() as u64);
        let uncached = cache.store(&[(id.1, span, &content)]);
        Counters::add(&self.counters.uncached, uncached as u64);
        Some(Arc::new(content))
    }

    /// Reads, decodes and verifies spans that lie together; from another place again what comes
    /// damaged.
    fn fetch(&self, job: &Job, mut numbers: std::ops::Range<usize>, batch: &mut Batch<'_>) {
        let blob = &self.layers[job.layer].layer.blob;
        while !numbers.is_empty() {
            let place = blob.place();
            let distrust = |error: &SpanError| is_damage(error) && blob.distrust(place, error);
            let Some(damaged) = self.fetch_once(job, numbers.clone(), batch, distrust) else {
                return;
            };
            numbers.start = damaged;
        }
    }

    /// Ends at a span for whose sake the rest is to be read from another place, and returns its
    /// number.
    fn fetch_once(
        &self,
        job: &Job,
        numbers: std::ops::Range<usize>,
        batch: &mut Batch<'_>,
        distrust: impl Fn(&SpanError) -> bool,
    ) -> Option<usize> {
        let of = &self.layers[job.layer];
        let stored = match self.read_stored(job, numbers.clone()) {
            Ok(stored) => stored,
            Err(error) => {
                for number in numbers {
                    self.failed((job.layer, number), error.clone());
                }
                return None;
            }
        };
        let mut decoder = span::Decoder::new(&of.index);
        for number in numbers {
            match stored.span(of, number).and_then(|bytes| decoder.decode(number, bytes)) {
                Ok(content) => {
                    Counters::add(&self.counters.spans_fetched, 1);
                    let content = Arc::new(content);
                    batch.add(number, content.clone());
                    self.ready((job.layer, number), content);
                }
                Err(error) if distrust(&error) => return Some(number),
                Err(error) => self.failed((job.layer, number), error),
            }
        }
        None
    }

    fn read_stored(&self, job: &Job, numbers: std::ops::Range<usize>) -> Result<Stored, SpanError> {
        let of = &self.layers[job.layer];
        let mut range = span::stored_range(&of.index, numbers.start)?;
        for number in numbers.clone() {
            let next = span::stored_range(&of.index, number)?;
            range = range.start.min(next.start)..range.end.max(next.end);
        }
        let failed = |source| SpanError::Read {
            layer: of.index.summary().digest,
            span: numbers.start,
            source: Arc::new(source),
        };
        if range.end > of.layer.blob.size() {
            return Err(failed(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let len = usize::try_from(range.end - range.start).expect("a piece, or one span");
        let mut bytes = vec![0; len];
        Counters::add(&self.counters.requests, 1);
        let began = Instant::now();
        of.layer.blob.read_exact_at(range.start, &mut bytes).map_err(failed)?;
        self.pace.note(len as u64, began.elapsed());
        Counters::add(&self.counters.bytes_fetched, len as u64);
        Ok(Stored { start: range.start, bytes })
    }

    fn ready(&self, id: SpanId, content: Arc<Vec<u8>>) {
        self.memory.keep(id, content.clone());
        let waiters = self.lock().finish(id);
        for waiter in waiters {
            waiter(Ok(content.clone()));
        }
    }

    /// Whoever waits says what went wrong; if nobody does, it is said here.
    fn failed(&self, id: SpanId, mut error: SpanError) {
        if let SpanError::Mismatch { remote, .. } = &mut error {
            *remote = true;
        }
        Counters::add(&self.counters.errors, 1);
        let waiters = self.lock().finish(id);
        if waiters.is_empty() {
            tracing::warn!("fetched ahead: {error}");
        }
        for waiter in waiters {
            waiter(Err(error.clone()));
        }
    }
}

/// Whether stored bytes that are at hand are to blame.
fn is_damage(error: &SpanError) -> bool {
    match error {
        SpanError::Mismatch { .. } | SpanError::Read { .. } => true,
        SpanError::Index(_)
        | SpanError::TimedOut { .. }
        | SpanError::Closed { .. }
        | SpanError::TooLarge { .. } => false,
    }
}

impl LayerContent {
    /// How much to fetch at a time of these spans: a rest is not worth a request of its own.
    fn piece(&self, first: usize, end: usize) -> u64 {
        let at = |span: usize| self.stored(span);
        match (at(first), end.checked_sub(1).and_then(at)) {
            (Some(first), Some(last)) => match last.end.saturating_sub(first.start) {
                rest if rest < PIECE / 2 * 3 => rest.max(PIECE),
                _ => PIECE,
            },
            _ => PIECE,
        }
    }
}

/// Stored bytes of spans that lie together.
struct Stored {
    /// Where they start in the blob.
    start: u64,
    bytes: Vec<u8>,
}

impl Stored {
    fn span(&self, of: &LayerContent, number: usize) -> Result<&[u8], SpanError> {
        let range = span::stored_range(&of.index, number)?;
        let at = |offset: u64| usize::try_from(offset - self.start).expect("inside what was read");
        Ok(&self.bytes[at(range.start)..at(range.end)])
    }
}

/// Spans on their way to the cache on disk.
struct Batch<'a> {
    shared: &'a Shared,
    of: &'a LayerContent,
    spans: Vec<(usize, Span, Arc<Vec<u8>>)>,
    bytes: usize,
}

impl Batch<'_> {
    fn add(&mut self, number: usize, content: Arc<Vec<u8>>) {
        let Ok(span) = self.of.index.span(number) else { return };
        self.bytes += content.len();
        self.spans.push((number, span, content));
        if self.bytes >= BATCH {
            self.write();
        }
    }

    fn write(&mut self) {
        let spans: Vec<(usize, Span, &[u8])> = self
            .spans
            .iter()
            .map(|(number, span, content)| (*number, *span, &content[..]))
            .collect();
        if let Some(cache) = self.of.cache.as_ref().filter(|_| !spans.is_empty()) {
            let uncached = cache.store(&spans);
            Counters::add(&self.shared.counters.uncached, uncached as u64);
        }
        self.spans.clear();
        self.bytes = 0;
    }
}
