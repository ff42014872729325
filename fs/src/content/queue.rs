//! Which spans are wanted, which are being fetched, and who waits for them: no thread, no IO.
//!
//! ```text
//!   missing --want--> wanted --start--> running --finish--> (in the caches)
//!      ^                 |                 |
//!      +----- expire ----+---- fail -------+
//! ```
//!
//! The invariant: a span has at most one running job, and each waiter is handed out exactly once:
//! with its span, with an error, when its time is up, or when all ends.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::span::{SpanError, SpanId};

/// What is to be done when a span is ready, or cannot be had. It is called without any lock.
pub(crate) type Waiter = Box<dyn FnOnce(Result<Arc<Vec<u8>>, SpanError>) + Send>;

/// How soon a fetch has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Somebody waits.
    Demand,
    /// A reader will soon be there.
    Ahead,
    /// It is known to be of use some time.
    Background,
}

/// Spans of one layer that nobody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) layer: usize,
    pub(super) spans: Range<usize>,
}

/// A fetch under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) layer: usize,
    pub(super) spans: Range<usize>,
    pub(super) urgency: Urgency,
}

#[derive(Debug)]
struct Running {
    layer: usize,
    spans: Range<usize>,
    urgency: Urgency,
    cost: u64,
    until: Instant,
}

#[derive(Default)]
pub(super) struct Queue {
    waiters: HashMap<SpanId, Vec<(Instant, Waiter)>>,
    /// Spans with waiters, those that wait longest first. May name spans that are done.
    demand: VecDeque<SpanId>,
    ahead: VecDeque<Hint>,
    background: VecDeque<Hint>,
    running_spans: HashMap<SpanId, u64>,
    running: BTreeMap<u64, Running>,
    next_job: u64,
    /// When to look for waiters whose time is up: one per waiter, in this order, as all wait for
    /// the same time.
    deadlines: VecDeque<(Instant, SpanId)>,
    /// Threads that take jobs.
    pub(super) workers: usize,
    /// Threads whose job was given up and has not come back yet.
    pub(super) lost: usize,
    pub(super) clock_runs: bool,
    /// Until then nobody may wait.
    refuses_until: Option<Instant>,
    closed: bool,
}

/// Fetches in the background at a time: enough to fill a line with a long way, few enough to
/// leave it soon to whoever comes.
const BACKGROUND: usize = 3;

/// Readers ahead of whom something is fetched cannot be many more.
const MOST_AHEAD: usize = 256;

impl Queue {
    /// Adds a waiter; gives it back when nobody may wait.
    pub(super) fn want(&mut self, id: SpanId, until: Instant, waiter: Waiter) -> Option<Waiter> {
        if self.closed || self.refuses_until.is_some_and(|end| Instant::now() < end) {
            return Some(waiter);
        }
        let waiters = self.waiters.entry(id).or_default();
        if waiters.is_empty() && !self.running_spans.contains_key(&id) {
            self.demand.push_back(id);
        }
        waiters.push((until, waiter));
        self.deadlines.push_back((until, id));
        None
    }

    /// Adds spans that nobody waits for. The oldest of too many are forgotten.
    pub(super) fn hint(&mut self, hint: Hint) {
        if !self.closed {
            self.ahead.push_back(hint);
            if self.ahead.len() > MOST_AHEAD {
                self.ahead.pop_front();
            }
        }
    }

    /// Adds spans that can wait.
    pub(super) fn background(&mut self, hints: impl IntoIterator<Item = Hint>) {
        if !self.closed {
            self.background.extend(hints);
        }
    }

    /// What to fetch next.
    pub(super) fn next(&mut self) -> Option<(Hint, Urgency)> {
        while let Some((layer, span)) = self.demand.pop_front() {
            let id = (layer, span);
            if self.waiters.contains_key(&id) && !self.running_spans.contains_key(&id) {
                return Some((Hint { layer, spans: span..span + 1 }, Urgency::Demand));
            }
        }
        if let Some(hint) = self.ahead.pop_front() {
            return Some((hint, Urgency::Ahead));
        }
        // Demand comes first: nothing starts in the background while somebody waits.
        if self.running.len() < BACKGROUND
            && self.running.values().all(|job| job.urgency == Urgency::Background)
        {
            return self.background.pop_front().map(|hint| (hint, Urgency::Background));
        }
        None
    }

    /// Puts back what there was no memory for.
    pub(super) fn put_back(&mut self, hint: Hint, urgency: Urgency) {
        match urgency {
            Urgency::Demand => self.demand.push_front((hint.layer, hint.spans.start)),
            Urgency::Ahead => self.ahead.push_front(hint),
            Urgency::Background => self.background.push_front(hint),
        }
    }

    /// Notes that these spans are being fetched.
    pub(super) fn start(&mut self, hint: Hint, urgency: Urgency, cost: u64, until: Instant) -> Job {
        let Hint { layer, spans } = hint;
        let id = self.next_job;
        self.next_job += 1;
        self.running_spans.extend(spans.clone().map(|span| ((layer, span), id)));
        self.running.insert(id, Running { layer, spans: spans.clone(), urgency, cost, until });
        Job { id, layer, spans, urgency }
    }

    pub(super) fn is_running(&self, id: SpanId) -> bool {
        self.running_spans.contains_key(&id)
    }

    pub(super) fn is_wanted(&self, id: SpanId) -> bool {
        self.waiters.contains_key(&id)
    }

    /// Bytes that running jobs may take.
    pub(super) fn in_flight(&self) -> u64 {
        self.running.values().map(|job| job.cost).sum()
    }

    /// Jobs that run.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.values().map(Vec::len).sum()
    }

    /// Whether nothing at all is left to start.
    pub(super) fn is_empty(&self) -> bool {
        self.demand.is_empty() && self.ahead.is_empty() && self.background.is_empty()
    }

    /// The span is in the caches, or failed: takes those who wait for it.
    pub(super) fn finish(&mut self, id: SpanId) -> Vec<Waiter> {
        let waiters = self.waiters.remove(&id).unwrap_or_default();
        while self.deadlines.pop_front_if(|(_, id)| !self.waiters.contains_key(id)).is_some() {}
        waiters.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// The job has come to its end. Whether it had been given up before.
    pub(super) fn end(&mut self, job: u64) -> bool {
        let Some(running) = self.running.remove(&job) else { return true };
        self.release(job, &running);
        false
    }

    fn release(&mut self, job: u64, running: &Running) {
        for span in running.spans.clone() {
            let id = (running.layer, span);
            if self.running_spans.get(&id) == Some(&job) {
                self.running_spans.remove(&id);
            }
            // Somebody came for it after it was finished.
            if self.waiters.contains_key(&id) {
                self.demand.push_back(id);
            }
        }
    }

    /// Gives up jobs that run for too long, so that their spans can be fetched by others; returns
    /// whether there were any.
    pub(super) fn give_up(&mut self, now: Instant) -> bool {
        let late: Vec<u64> =
            self.running.iter().filter(|(_, job)| job.until <= now).map(|(id, _)| *id).collect();
        for job in &late {
            let running = self.running.remove(job).expect("found above");
            self.release(*job, &running);
            self.workers -= 1;
            self.lost += 1;
        }
        !late.is_empty()
    }

    /// Takes the waiters whose time is up.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(SpanId, Waiter)> {
        let mut expired = Vec::new();
        while let Some((_, id)) = self.deadlines.pop_front_if(|(until, _)| *until <= now) {
            let Some(waiters) = self.waiters.get_mut(&id) else { continue };
            let of_it = waiters.extract_if(.., |(until, _)| *until <= now);
            expired.extend(of_it.map(|(_, waiter)| (id, waiter)));
            if waiters.is_empty() {
                self.waiters.remove(&id);
            }
        }
        expired
    }

    /// When to call `give_up` and `expire` next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiter = self.deadlines.front().map(|(until, _)| *until);
        let job = self.running.values().map(|job| job.until).min();
        waiter.into_iter().chain(job).min()
    }

    /// Takes all waiters, and nobody may wait before `until`. What is being fetched goes on.
    pub(super) fn dismiss(&mut self, until: Instant) -> Vec<(SpanId, Waiter)> {
        self.refuses_until = Some(until);
        self.demand.clear();
        self.deadlines.clear();
        let waiters = std::mem::take(&mut self.waiters);
        let each = waiters
            .into_iter()
            .flat_map(|(id, waiters)| waiters.into_iter().map(move |(_, waiter)| (id, waiter)));
        each.collect()
    }

    /// Ends everything: takes all waiters, and nothing is wanted from then on.
    pub(super) fn close(&mut self) -> Vec<(SpanId, Waiter)> {
        self.closed = true;
        self.ahead.clear();
        self.background.clear();
        self.dismiss(Instant::now())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue")
            .field("waiting", &self.waiting())
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    /// A waiter that counts how often it is called.
    fn waiter(called: &Arc<AtomicUsize>) -> Waiter {
        let called = called.clone();
        Box::new(move |_| {
            called.fetch_add(1, SeqCst);
        })
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn hint(span: usize) -> Hint {
        Hint { layer: 0, spans: span..span + 1 }
    }

    #[test]
    fn a_span_has_one_job_and_whoever_comes_late_starts_another() {
        let (mut queue, now, called) = (Queue::default(), Instant::now(), Arc::default());
        for _ in 0..3 {
            assert!(queue.want((0, 5), after(now, 60), waiter(&called)).is_none());
        }
        let (wanted, urgency) = queue.next().unwrap();
        assert_eq!((&wanted, urgency), (&hint(5), Urgency::Demand));
        let job = queue.start(wanted, urgency, 10, after(now, 60));
        assert!(queue.next().is_none() && queue.is_running((0, 5)));
        assert_eq!(queue.finish((0, 5)).len(), 3);
        // The job still runs, but the span may have been dropped since.
        assert!(queue.want((0, 5), after(now, 60), waiter(&called)).is_none());
        assert!(queue.next().is_none());
        assert!(!queue.end(job.id));
        assert_eq!(queue.next().unwrap().0, hint(5));
        assert_eq!(queue.in_flight(), 0);
    }

    #[test]
    fn a_job_that_is_given_up_leaves_its_spans_to_others() {
        let (mut queue, now, called) = (Queue::default(), Instant::now(), Arc::default());
        queue.workers = 1;
        queue.want((0, 1), after(now, 60), waiter(&called));
        let (wanted, urgency) = queue.next().unwrap();
        let lost = queue.start(wanted, urgency, 10, after(now, 60));
        queue.want((0, 1), after(now, 90), waiter(&called));
        assert_eq!(queue.next_deadline(), Some(after(now, 60)));
        assert!(queue.expire(after(now, 59)).is_empty() && !queue.give_up(after(now, 59)));
        assert_eq!(queue.expire(after(now, 60)).len(), 1);
        assert!(queue.give_up(after(now, 60)));
        assert_eq!((queue.workers, queue.lost), (0, 1));
        let (wanted, urgency) = queue.next().unwrap();
        let next = queue.start(wanted, urgency, 10, after(now, 120));
        assert!(queue.end(lost.id), "it was given up");
        assert!(queue.is_running((0, 1)), "the other goes on");
        assert_eq!(queue.finish((0, 1)).len(), 1);
        assert!(!queue.end(next.id));
        assert!(queue.next().is_none());
    }

    #[test]
    fn demand_comes_before_what_lies_ahead_and_that_before_the_background() {
        let (mut queue, now, called) = (Queue::default(), Instant::now(), Arc::default());
        queue.background((1..=2).map(hint));
        queue.hint(hint(3));
        queue.want((0, 4), after(now, 60), waiter(&called));
        let mut order = Vec::new();
        while let Some((hint, urgency)) = queue.next() {
            order.push(hint.spans.start);
            let job = queue.start(hint.clone(), urgency, 1, after(now, 60));
            queue.finish((0, hint.spans.start));
            queue.end(job.id);
        }
        assert_eq!(order, [4, 3, 1, 2]);

        queue.background([hint(5)]);
        queue.want((0, 6), after(now, 60), waiter(&called));
        let (wanted, urgency) = queue.next().unwrap();
        let job = queue.start(wanted, urgency, 1, after(now, 60));
        assert!(queue.next().is_none(), "not while somebody waits");
        queue.finish((0, 6));
        queue.end(job.id);
        assert_eq!(queue.next().unwrap().0, hint(5));
    }

    #[test]
    fn nobody_waits_after_the_end() {
        let (mut queue, now, called) = (Queue::default(), Instant::now(), Arc::default());
        for span in 0..10 {
            queue.want((0, span), after(now, 60), waiter(&called));
        }
        assert_eq!(queue.dismiss(after(now, 30)).len(), 10);
        assert!(queue.want((0, 1), after(now, 60), waiter(&called)).is_some());
        assert!(queue.close().is_empty() && queue.is_closed() && queue.is_empty());
        assert!(queue.want((0, 1), after(now, 60), waiter(&called)).is_some());
        assert_eq!(queue.next_deadline(), None);
        assert_eq!(called.load(SeqCst), 0, "that is up to who has them");
    }
}
