//! Spans at run time: fetched and decoded once, verified, kept as long as memory allows.
//!
//! A span is missing, being fetched, or ready. The first reader of a missing span fetches it, all
//! others wait for that one fetch; when it fails the span is missing again, so that a later read
//! tries anew. Only bytes whose hash is right become ready.
//!
//! What is stored as it is needs none of that: a part is read, and verified block by block, as it
//! is wanted (see `read_part`).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::blob::BlobSource;
use crate::blocks::{self, BLOCK};
use crate::digest::Digest;
use crate::layer::index::{Coding, Damaged, LayerIndex, Span, SpanDigest};
use crate::layer::{gzip, zstd};
use crate::sys::WINDOW;

/// A span may not be larger, decoded or stored, in bytes: an index that says otherwise is damaged.
pub(crate) const MAX_SPAN: u64 = 128 << 20;

/// Why a span cannot be served.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SpanError {
    /// The blob cannot be read.
    #[error("layer {layer}, span {span}: {source}")]
    Read {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Number of the span.
        span: usize,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The bytes are not those that were indexed.
    #[error(
        "layer {layer}, span {span} at byte {offset} of it: content has hash {found}, expected {expected}"
    )]
    Mismatch {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Number of the span.
        span: usize,
        /// Where its stored bytes start in the blob, or those of the block of it that is wrong.
        offset: u64,
        /// What the index says.
        expected: Box<str>,
        /// What the bytes have.
        found: Box<str>,
        /// Whether they come from a registry.
        remote: bool,
    },
    /// The index is damaged.
    #[error(transparent)]
    Index(Arc<Damaged>),
    /// The blob did not answer in time.
    #[error("layer {layer}, span {span}: not there after {seconds} s")]
    TimedOut {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Number of the span.
        span: usize,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The image is being closed.
    #[error("layer {layer}, span {span}: the mount ends")]
    Closed {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Number of the span.
        span: usize,
    },
    /// The index claims a span that cannot be.
    #[error("layer {layer}, span {span}: its index claims {size} bytes")]
    TooLarge {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Number of the span.
        span: usize,
        /// The claim.
        size: u64,
    },
}

impl From<Damaged> for SpanError {
    fn from(damaged: Damaged) -> Self {
        Self::Index(Arc::new(damaged))
    }
}

/// Reads, decodes and verifies one span.
pub fn decode(
    index: &LayerIndex,
    blob: &dyn BlobSource,
    number: usize,
) -> Result<Vec<u8>, SpanError> {
    decode_stored(index, number, &read_stored(index, blob, number)?)
}

/// As [`decode`]; then those behind it that lie in the same stored bytes, as long as they have no
/// more than `budget` bytes together, are passed on too: they would have to be decoded again.
pub(crate) fn decode_with_next(
    index: &LayerIndex,
    blob: &dyn BlobSource,
    number: usize,
    budget: usize,
    mut next: impl FnMut(usize, Vec<u8>),
) -> Result<Vec<u8>, SpanError> {
    let stored = read_stored(index, blob, number)?;
    let place = index.span(number)?.place();
    let shares = |number: usize| index.span(number).ok().filter(|span| span.place() == place);
    if shares(number + 1).is_none() {
        return decode_stored(index, number, &stored);
    }
    let mut decoder = Decoder::new(index);
    let content = decoder.decode(number, &stored)?;
    let mut bytes = 0;
    for (number, span) in (number + 1..).map_while(|number| Some((number, shares(number)?))) {
        bytes += usize::try_from(span.content_len).unwrap_or(usize::MAX).saturating_add(OVERHEAD);
        if bytes > budget {
            break;
        }
        // One that is damaged is an error for whoever asks for it.
        if let Ok(content) = decoder.decode(number, &stored) {
            next(number, content);
        }
    }
    Ok(content)
}

/// Reads and verifies what a span has at `skip`; returns how many bytes, 0 at its end. `None` where
/// that needs all of the span: see [`decode`]. After an error `buf` holds anything.
pub(crate) fn read_part(
    index: &LayerIndex,
    blob: &dyn BlobSource,
    number: usize,
    skip: usize,
    buf: &mut [u8],
) -> Result<Option<usize>, SpanError> {
    let Some(expected) = index.blocks(number)? else { return Ok(None) };
    let span = index.span(number)?;
    let layer = index.summary().digest;
    let left = span.content_len.saturating_sub(skip as u64);
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    let blob = place_of(index, blob, &span);
    let read = |at: u64, block: &mut [u8]| {
        let at = span.blob_offset.saturating_add(at);
        blob.read_exact_at(at, block).map_err(|source| SpanError::Read {
            layer,
            span: number,
            source: Arc::new(source),
        })
    };
    let verify = |block: usize, data: &[u8]| {
        let start = (block * BLOCK) as u64;
        let (expected, found) = match expected {
            [] => (span.digest, SpanDigest::Blake3(*blake3::hash(data).as_bytes())),
            blocks => {
                let node = SpanDigest::Blake3(blocks::node_of(block, data));
                (SpanDigest::Blake3(blocks[block]), node)
            }
        };
        check(index, number, span.blob_offset.saturating_add(start), (expected, found))
    };
    blocks::read(span.content_len, skip, &mut buf[..len], read, verify)?;
    Ok(Some(len))
}

/// Where the stored bytes of a span lie.
fn place_of<'a>(
    index: &'a LayerIndex,
    blob: &'a dyn BlobSource,
    span: &Span,
) -> &'a dyn BlobSource {
    match (span.coding, index.unpacked()) {
        (Coding::Unpacked, Some(unpacked)) => unpacked,
        _ => blob,
    }
}

fn read_stored(
    index: &LayerIndex,
    blob: &dyn BlobSource,
    number: usize,
) -> Result<Vec<u8>, SpanError> {
    let layer = index.summary().digest;
    let range = stored_range(index, number)?;
    let mut stored = vec![0; fitting(range.end - range.start, layer, number)?];
    let blob = place_of(index, blob, &index.span(number)?);
    blob.read_exact_at(range.start, &mut stored).map_err(|source| SpanError::Read {
        layer,
        span: number,
        source: Arc::new(source),
    })?;
    Ok(stored)
}

/// Where the bytes lie that [`decode_stored`] needs: in the blob, or in the file of unpacked
/// spans if that is the span's coding.
pub fn stored_range(index: &LayerIndex, number: usize) -> Result<Range<u64>, SpanError> {
    let span = index.span(number)?;
    let start = span.blob_offset.saturating_sub(u64::from(span.bits > 0));
    let len = span.blob_len.saturating_add(span.blob_offset - start);
    fitting(len, index.summary().digest, number)?;
    Ok(start..start.saturating_add(len))
}

/// Decodes and verifies one span from the bytes of its [`stored_range`].
pub fn decode_stored(
    index: &LayerIndex,
    number: usize,
    stored: &[u8],
) -> Result<Vec<u8>, SpanError> {
    let span = index.span(number)?;
    let unpacked = unpack_checked(index, number, &span, stored, span.end_inside())?;
    content_of(index, number, &span, unpacked)
}

/// The first `len` bytes of what a span's stored bytes, verified if it is them that have a digest,
/// decode to.
fn unpack_checked(
    index: &LayerIndex,
    number: usize,
    span: &Span,
    stored: &[u8],
    len: u64,
) -> Result<Vec<u8>, SpanError> {
    let layer = index.summary().digest;
    let len = fitting(len, layer, number)?;
    if let SpanDigest::StoredSha256(_) = span.digest {
        let found = SpanDigest::StoredSha256(Digest::of(stored));
        check(index, number, span.blob_offset, (span.digest, found))?;
    }
    unpack(span, index.window(number)?, stored, len).map_err(|source| SpanError::Read {
        layer,
        span: number,
        source: Arc::new(source),
    })
}

/// Takes a span's content out of what its stored bytes decode to, and verifies it.
fn content_of(
    index: &LayerIndex,
    number: usize,
    span: &Span,
    mut unpacked: Vec<u8>,
) -> Result<Vec<u8>, SpanError> {
    let inner_offset = usize::try_from(span.inner_offset).unwrap_or(usize::MAX);
    unpacked.drain(..inner_offset.min(unpacked.len()));
    match span.digest {
        SpanDigest::Blake3(_) => {
            let found = SpanDigest::Blake3(*blake3::hash(&unpacked).as_bytes());
            check(index, number, span.blob_offset, (span.digest, found))?;
        }
        SpanDigest::Sha256(_) => {
            let found = SpanDigest::Sha256(Digest::of(&unpacked));
            check(index, number, span.blob_offset, (span.digest, found))?;
        }
        SpanDigest::StoredSha256(_) => {}
    }
    Ok(unpacked)
}

fn check(
    index: &LayerIndex,
    number: usize,
    offset: u64,
    (expected, found): (SpanDigest, SpanDigest),
) -> Result<(), SpanError> {
    if found == expected {
        return Ok(());
    }
    Err(SpanError::Mismatch {
        layer: index.summary().digest,
        span: number,
        offset,
        expected: expected.to_string().into(),
        found: found.to_string().into(),
        remote: false,
    })
}

/// Decodes spans one after the other, and those that lie in the same stored bytes only once.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    index: &'a LayerIndex,
    /// What the stored bytes of this place (offset, length) decode to.
    unpacked: Option<((u64, u64), Vec<u8>)>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(index: &'a LayerIndex) -> Self {
        Self { index, unpacked: None }
    }

    /// As [`decode_stored`].
    pub(crate) fn decode(&mut self, number: usize, stored: &[u8]) -> Result<Vec<u8>, SpanError> {
        let span = self.index.span(number)?;
        let place = span.place();
        if self.unpacked.as_ref().is_none_or(|(known, _)| *known != place) {
            self.unpacked = None;
            let Some(len) = self.shared_len(number, place) else {
                return decode_stored(self.index, number, stored);
            };
            let unpacked = unpack_checked(self.index, number, &span, stored, len)?;
            self.unpacked = Some((place, unpacked));
        }
        let (_, unpacked) = self.unpacked.as_ref().expect("set above");
        let end = usize::try_from(span.end_inside()).unwrap_or(usize::MAX).min(unpacked.len());
        content_of(self.index, number, &span, unpacked[..end].to_vec())
    }

    /// How much of their stored bytes this span and those after it need that lie in the same;
    /// `None` if there are none.
    fn shared_len(&self, number: usize, place: (u64, u64)) -> Option<u64> {
        let spans = (number..).map_while(|number| self.index.span(number).ok());
        let mut ends = spans.take_while(|span| span.place() == place).map(|span| span.end_inside());
        let first = ends.next()?;
        let longest = ends.max()?;
        // What is too long for one span is refused when it is asked for.
        Some(longest.max(first)).filter(|len| *len <= MAX_SPAN)
    }
}

fn fitting(size: u64, layer: Digest, span: usize) -> Result<usize, SpanError> {
    if size > MAX_SPAN {
        return Err(SpanError::TooLarge { layer, span, size });
    }
    Ok(usize::try_from(size).expect("at most 128 MiB"))
}

/// The first `len` bytes of what a span's stored bytes decode to.
fn unpack(span: &Span, window: &[u8], stored: &[u8], len: usize) -> io::Result<Vec<u8>> {
    match span.coding {
        Coding::Stored | Coding::Unpacked => {
            let content = stored.get(..len).ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(content.to_vec())
        }
        Coding::Zstd => zstd::decode(stored, len),
        Coding::Gzip => gzip::decode_members(stored, len),
        Coding::Deflate => {
            let window = match window {
                [] => Vec::new(),
                packed => ::zstd::bulk::decompress(packed, WINDOW)?,
            };
            gzip::decode(&window, span.bits, stored, len)
        }
    }
}

/// A span by the place of its layer in the image and its number there.
pub(crate) type SpanId = (usize, usize);

/// What keeping a span costs beside its content, about, in bytes.
const OVERHEAD: usize = 200;

#[derive(Debug)]
enum State {
    Fetching,
    /// The content, and its key in [`Spans::order`].
    Ready(Arc<Vec<u8>>, u64),
}

/// Decoded spans of an image, at most `budget` bytes of them.
#[derive(Debug)]
pub(crate) struct SpanCache {
    budget: usize,
    spans: Mutex<Spans>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Spans {
    states: HashMap<SpanId, State>,
    /// Ready spans by the time of their last use, which is a number that only grows.
    order: BTreeMap<u64, SpanId>,
    now: u64,
    bytes: usize,
}

impl SpanCache {
    /// A cache of `budget` bytes; the span just read is kept even if it alone is larger.
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, spans: Mutex::default(), changed: Condvar::new() }
    }

    /// The span's content: kept, or from `fetch`, which runs once for all who wait.
    pub(crate) fn get(
        &self,
        id: SpanId,
        fetch: impl FnOnce() -> Result<Vec<u8>, SpanError>,
    ) -> Result<Arc<Vec<u8>>, SpanError> {
        let mut spans = self.lock();
        loop {
            match spans.states.get(&id) {
                Some(State::Ready(..)) => return Ok(spans.touch(id).expect("it is ready")),
                Some(State::Fetching) => {
                    spans = self.changed.wait(spans).unwrap_or_else(PoisonError::into_inner);
                }
                None => break,
            }
        }
        spans.states.insert(id, State::Fetching);
        drop(spans);
        // Puts the span back to missing, and wakes the others, also when `fetch` panics.
        let fetching = Fetching { cache: self, id };
        let content = Arc::new(fetch()?);
        self.lock().insert(id, content.clone(), self.budget);
        drop(fetching);
        Ok(content)
    }

    /// How many bytes are kept at most.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// The span's content if it is kept.
    pub(crate) fn kept(&self, id: SpanId) -> Option<Arc<Vec<u8>>> {
        self.lock().touch(id)
    }

    /// Whether the span's content is kept; it does not count as a use.
    pub(crate) fn has(&self, id: SpanId) -> bool {
        matches!(self.lock().states.get(&id), Some(State::Ready(..)))
    }

    /// Keeps a span that was fetched otherwise than by [`SpanCache::get`].
    pub(crate) fn keep(&self, id: SpanId, content: Arc<Vec<u8>>) {
        let mut spans = self.lock();
        if !spans.states.contains_key(&id) {
            spans.insert(id, content, self.budget);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Spans> {
        // The map is consistent between any two statements: a panic elsewhere is no reason to stop.
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Fetching<'a> {
    cache: &'a SpanCache,
    id: SpanId,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        let mut spans = self.cache.lock();
        if let Some(State::Fetching) = spans.states.get(&self.id) {
            spans.states.remove(&self.id);
        }
        self.cache.changed.notify_all();
    }
}

impl Spans {
    /// The content of a span that is ready, which is a use of it.
    fn touch(&mut self, id: SpanId) -> Option<Arc<Vec<u8>>> {
        let State::Ready(content, used) = self.states.get_mut(&id)? else { return None };
        self.now += 1;
        self.order.remove(used);
        self.order.insert(self.now, id);
        *used = self.now;
        Some(content.clone())
    }

    fn insert(&mut self, id: SpanId, content: Arc<Vec<u8>>, budget: usize) {
        self.bytes += content.len() + OVERHEAD;
        self.now += 1;
        self.states.insert(id, State::Ready(content, self.now));
        self.order.insert(self.now, id);
        while self.bytes > budget && self.order.len() > 1 {
            let (_, oldest) = self.order.pop_first().expect("more than one");
            if let Some(State::Ready(content, _)) = self.states.remove(&oldest) {
                self.bytes -= content.len() + OVERHEAD;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn broken() -> SpanError {
        let layer = Digest::of(b"");
        SpanError::TooLarge { layer, span: 0, size: 0 }
    }

    #[test]
    fn one_fetch_serves_all_and_failure_is_not_kept() {
        let cache = SpanCache::new(100);
        assert!(cache.get((0, 0), || Err(broken())).is_err());
        let fetches = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let content = cache.get((0, 0), || {
                        fetches.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        Ok(vec![7; 10])
                    });
                    assert_eq!(*content.unwrap(), [7; 10]);
                });
            }
        });
        assert_eq!(fetches.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn waiters_of_a_failed_fetch_try_themselves() {
        let cache = SpanCache::new(100);
        let fetches = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let result = cache.get((0, 0), || {
                        std::thread::sleep(std::time::Duration::from_millis(5));
                        match fetches.fetch_add(1, Ordering::SeqCst) {
                            0..3 => Err(broken()),
                            _ => Ok(vec![1]),
                        }
                    });
                    result.is_ok()
                });
            }
        });
        assert_eq!(fetches.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn the_budget_holds_and_the_least_used_goes() {
        let cache = SpanCache::new(3 * (10 + OVERHEAD));
        let get = |n: usize| {
            let mut fetched = false;
            cache
                .get((0, n), || {
                    fetched = true;
                    Ok(vec![0; 10])
                })
                .unwrap();
            fetched
        };
        assert!([0, 1, 2].into_iter().all(get));
        assert!(!get(0));
        assert!(get(3), "span 3 is new and pushes out span 1");
        assert!(!get(0) && !get(2) && get(1));
        assert!(cache.lock().bytes <= cache.budget());
    }
}
