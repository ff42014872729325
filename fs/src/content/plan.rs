//! Which spans one ranged read fetches, and how far ahead of a reader.
//!
//! Pure: positions in, ranges out. Positions are those of the stored bytes in the blob, as these
//! are what costs time.

use std::ops::Range;

/// One request, in bytes of the blob: a quarter of a reader's farthest window, so that several
/// requests are under way and a lost one costs little.
pub(super) const PIECE: u64 = 1 << 20;

/// What is fetched beyond the need of a read that follows no other, in bytes of the blob. At 20 ms
/// a round trip and 100 Mbit/s this costs half a round trip; what lies beside is often wanted
/// next.
const RANDOM: u64 = 96 << 10;

/// What has to be read in sequence of a layer that is cut as [`Cut::Stream`] before more is
/// fetched ahead, in bytes of the blob. Large files and what follows them are read like that, and
/// programs are not: what is touched of those are a few spans side by side.
const SEQUENCE: u64 = 4 * RANDOM;

/// The farthest that is fetched ahead of a sequential reader, in bytes of the blob: what 1 Gbit/s
/// carries in 32 ms, enough to hide a round trip.
pub(super) const FARTHEST: u64 = 4 << 20;

/// Bytes between two spans that are rather fetched than asked around: tar headers, mostly.
const GAP: u64 = 16 << 10;

/// Readers of one layer that are told apart, and fetches of it that are remembered.
const READERS: usize = 16;

/// A fetch this close to another one, in bytes of the blob, goes twice as far beyond the need: what
/// is read here and there in a place, as a library is by page faults, is soon read as a whole.
const NEIGHBOUR: u64 = 1 << 20;

/// The farthest that such a fetch goes, however slow the net is.
const MOST_BESIDE: u64 = 4 * RANDOM;

/// Where a span's stored bytes lie, as the plan needs to know it.
pub(super) struct Spans<'a> {
    /// Number of spans in the layer.
    pub(super) count: usize,
    /// The stored range of a span; `None` for one that is not in the blob.
    pub(super) stored: &'a dyn Fn(usize) -> Option<Range<u64>>,
    /// Whether a span may be fetched: it is neither there nor being fetched.
    pub(super) missing: &'a dyn Fn(usize) -> bool,
    /// Whether somebody waits for it.
    pub(super) wanted: &'a dyn Fn(usize) -> bool,
}

impl Spans<'_> {
    /// The spans around `first` to fetch with it: all that lie in the same stored bytes, those
    /// before it that are wanted too, and those after it up to `extra` bytes beyond the last that
    /// is wanted, altogether at most `most` bytes if `first` alone is not more.
    pub(super) fn around(&self, first: usize, extra: u64, most: u64) -> Range<usize> {
        let Some(own) = (self.stored)(first) else { return first..first + 1 };
        let (mut start, mut from) = (first, own.start);
        while let Some(before) = start.checked_sub(1)
            && let Some(stored) = (self.stored)(before)
            && (stored == own || (self.wanted)(before) && follows(&stored, from))
            && own.end.saturating_sub(stored.start) <= most.max(own.end - own.start)
            && (self.missing)(before)
        {
            (start, from) = (before, stored.start);
        }
        let (mut end, mut to, mut needed) = (first + 1, own.end, own.end);
        let mut next = end;
        while next < self.count
            && let Some(stored) = (self.stored)(next)
            && (stored.end == to || follows(&(from..to), stored.start))
            && stored.end.saturating_sub(from) <= most.max(own.end - from)
            && (self.missing)(next)
        {
            if (self.wanted)(next) {
                needed = stored.end;
            } else if stored.end > needed.saturating_add(extra) {
                break;
            }
            to = stored.end;
            next += 1;
            end = next;
        }
        start..end
    }
}

/// Whether a range that starts at `start` comes after `before` with at most a small gap. Both may
/// have bits of the same byte.
fn follows(before: &Range<u64>, start: u64) -> bool {
    start.saturating_add(1).checked_sub(before.end).is_some_and(|gap| gap <= GAP)
}

/// How a layer is cut into spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Into files and chunks of them: what is beside a span was not fetched with it.
    Files,
    /// Where decoding can start, as gzip is: what is fetched with a span is mostly beside what is
    /// wanted of it, and more would be too much. Only of the file that is read more is guessed.
    Stream,
}

impl Cut {
    /// How far the rest of a file is fetched, where the net allows to guess so much. In a stream
    /// it is all that is guessed, and saves a round trip for a few spans that are not used.
    pub(super) fn rest_of_file(self, guess: u64) -> u64 {
        match self {
            Self::Files => guess,
            Self::Stream => guess.max(PIECE),
        }
    }

    /// What is fetched beyond the need of a read that follows no other.
    fn beside(self) -> u64 {
        match self {
            Self::Files => RANDOM,
            Self::Stream => 0,
        }
    }

    /// What has to be read in sequence before as much is fetched ahead.
    fn sequence(self) -> u64 {
        match self {
            Self::Files => RANDOM,
            Self::Stream => SEQUENCE,
        }
    }
}

/// The readers of a layer, each known by where it is, and its last fetches.
#[derive(Debug)]
pub(super) struct Readers {
    cut: Cut,
    known: Vec<Reader>,
    fetches: Vec<Fetch>,
}

/// A fetch of what somebody waited for.
#[derive(Debug)]
struct Fetch {
    place: Range<u64>,
    /// How much of it was beyond the need.
    extra: u64,
}

#[derive(Debug)]
struct Reader {
    /// End of what it read last.
    at: u64,
    /// What it read in sequence so far.
    sequential: u64,
    /// End of what was fetched for it.
    fetched: u64,
}

impl Readers {
    /// Nobody reads yet.
    pub(super) fn new(cut: Cut) -> Self {
        Self { cut, known: Vec::new(), fetches: Vec::new() }
    }

    /// Somebody reads a span whose stored bytes are these: what to fetch ahead of him, which is
    /// empty as long as there is enough.
    ///
    /// The window is as large as what was read in sequence: however a reader goes on, at most
    /// half of what was fetched for it is of no use. It is filled up again when half of it is
    /// used.
    pub(super) fn read(&mut self, stored: &Range<u64>) -> Range<u64> {
        let near = |reader: &Reader| {
            // A reader goes through a span in several reads.
            stored.start <= reader.at.saturating_add(GAP) && stored.end >= reader.at
        };
        let Some(found) = self.known.iter().rposition(near) else {
            self.known.push(Reader {
                at: stored.end,
                sequential: 0,
                fetched: stored.end.saturating_add(self.cut.beside()),
            });
            if self.known.len() > READERS {
                self.known.remove(0);
            }
            return 0..0;
        };
        let mut reader = self.known.remove(found);
        reader.sequential += stored.end - reader.at;
        reader.at = stored.end;
        let window = reader.window(self.cut).unwrap_or(0);
        let mut range = 0..0;
        reader.fetched = reader.fetched.max(reader.at);
        if window > 0 && reader.fetched - reader.at <= window / 2 {
            range = reader.fetched..reader.at.saturating_add(window);
            reader.fetched = range.end;
        }
        self.known.push(reader);
        range
    }

    /// How far the fetch of a missing span with these stored bytes goes beyond it, in bytes; on a
    /// guess at most half of what the net allows to guess, as somebody waits for it.
    pub(super) fn extra(&mut self, stored: &Range<u64>, guess: u64) -> u64 {
        let reader = self.known.iter().rfind(|reader| reader.at == stored.end);
        let sequential = reader.and_then(|reader| reader.window(self.cut));
        let sequential = sequential.unwrap_or(self.cut.beside()).min(PIECE);
        if self.cut == Cut::Stream {
            return sequential;
        }
        let near = |fetch: &Fetch| {
            stored.start <= fetch.place.end.saturating_add(NEIGHBOUR)
                && fetch.place.start <= stored.end.saturating_add(NEIGHBOUR)
        };
        let last = self.fetches.iter().rfind(|fetch| near(fetch));
        let most = (guess / 2).clamp(MOST_BESIDE, PIECE);
        let beside = last.map_or(RANDOM, |last| (last.extra * 2).min(most));
        let extra = sequential.max(beside);
        self.fetches.push(Fetch { place: stored.start..stored.end.saturating_add(extra), extra });
        if self.fetches.len() > READERS {
            self.fetches.remove(0);
        }
        extra
    }
}

impl Reader {
    /// How far to fetch ahead of it, if it reads in sequence.
    fn window(&self, cut: Cut) -> Option<u64> {
        (self.sequential > cut.sequence()).then_some(self.sequential.min(FARTHEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    /// Spans of 64 KiB, one after the other.
    fn plan(missing: &[usize], wanted: &[usize], first: usize, extra: u64) -> Range<usize> {
        let stored = |n: usize| Some(n as u64 * 64 * KIB..(n as u64 + 1) * 64 * KIB);
        let spans = Spans {
            count: 100,
            stored: &stored,
            missing: &|n| missing.contains(&n),
            wanted: &|n| wanted.contains(&n),
        };
        spans.around(first, extra, PIECE)
    }

    #[test]
    fn a_fetch_takes_neighbours_up_to_what_is_there_or_too_far() {
        let all: Vec<usize> = (0..100).collect();
        assert_eq!(plan(&all, &[10], 10, 0), 10..11);
        assert_eq!(plan(&all, &[10], 10, 128 * KIB), 10..13);
        assert_eq!(plan(&[10, 11], &[10], 10, PIECE), 10..12, "12 is there");
        assert_eq!(plan(&all, &[10], 98, PIECE), 98..100, "the end");
        assert_eq!(plan(&all, &[10], 10, 9 * PIECE), 10..26, "one request");
    }

    #[test]
    fn wanted_neighbours_become_one_fetch() {
        let all: Vec<usize> = (0..100).collect();
        let wanted: Vec<usize> = (5..14).collect();
        assert_eq!(plan(&all, &wanted, 10, 0), 5..14);
        assert_eq!(plan(&[8, 9, 10, 11, 13], &wanted, 10, 0), 8..12);
    }

    #[test]
    fn spans_that_share_a_byte_are_neighbours() {
        let stored =
            |n: usize| Some((n as u64 * 64 * KIB).saturating_sub(1)..(n as u64 + 1) * 64 * KIB);
        let wanted = |n| (3..6).contains(&n);
        let spans = Spans { count: 9, stored: &stored, missing: &|_| true, wanted: &wanted };
        assert_eq!(spans.around(4, 0, PIECE), 3..6);
        assert_eq!(spans.around(4, 64 * KIB, PIECE), 3..7);
    }

    #[test]
    fn spans_in_the_same_stored_bytes_are_fetched_together() {
        let stored = |n: usize| {
            let shared = (n / 4) as u64 * PIECE;
            Some(shared..shared + PIECE)
        };
        let spans = Spans { count: 12, stored: &stored, missing: &|_| true, wanted: &|n| n == 6 };
        assert_eq!(spans.around(6, 0, PIECE), 4..8);
    }

    #[test]
    fn blobs_that_are_not_in_order_do_not_confuse() {
        let places = [900, 100, 300, 200, u64::MAX - 10, 0];
        let stored = |n: usize| Some(places[n]..places[n].saturating_add(100));
        for first in 0..6 {
            let spans = Spans { count: 6, stored: &stored, missing: &|_| true, wanted: &|_| true };
            let range = spans.around(first, PIECE, PIECE);
            assert!(range.contains(&first), "{first}: {range:?}");
        }
        let unpacked = Spans { count: 6, stored: &|_| None, missing: &|_| true, wanted: &|_| true };
        assert_eq!(unpacked.around(3, PIECE, PIECE), 3..4);
    }

    #[test]
    fn the_window_grows_with_what_was_read_in_sequence() {
        let mut readers = Readers::new(Cut::Files);
        let mut fetched = 0;
        for n in 0..400 {
            let at = n * 64 * KIB;
            let ahead = readers.read(&(at..at + 64 * KIB));
            if !ahead.is_empty() {
                assert!(ahead.start >= fetched, "nothing twice");
                fetched = ahead.end;
            }
            let read = (n + 1) * 64 * KIB;
            assert!(fetched <= read + read.max(RANDOM), "{fetched} for {read}");
            assert!(fetched <= read + FARTHEST);
            if read > 2 * FARTHEST {
                assert!(fetched >= read + FARTHEST / 2, "{fetched} at {read}");
            }
        }
    }

    #[test]
    fn of_a_stream_nothing_is_fetched_ahead_of_who_reads_little() {
        let mut readers = Readers::new(Cut::Stream);
        let span = 48 * KIB;
        for at in [0, 900, 901, 300, 902].map(|n| n * span) {
            let stored = at..at + span;
            assert_eq!((readers.read(&stored), readers.extra(&stored, FARTHEST)), (0..0, 0));
        }
        // Whoever goes on and on has a window as of any layer.
        let mut fetched = 0;
        for n in 2000..2400 {
            let stored = n * span..(n + 1) * span;
            let (ahead, extra) = (readers.read(&stored), readers.extra(&stored, FARTHEST));
            let read = (n - 1999) * span;
            if read - span <= SEQUENCE {
                assert_eq!((ahead, extra), (0..0, 0), "after {read}");
                continue;
            }
            fetched = fetched.max(ahead.end);
            assert!(extra <= PIECE.min(read) && extra >= SEQUENCE, "{extra} after {read}");
            assert!(fetched <= stored.end + read.min(FARTHEST));
            assert!(fetched >= stored.end + (read - span).min(FARTHEST) / 2, "after {read}");
        }
        assert_eq!(Cut::Stream.rest_of_file(0), PIECE);
        assert_eq!(Cut::Stream.rest_of_file(FARTHEST), FARTHEST);
        assert_eq!(Cut::Files.rest_of_file(RANDOM), RANDOM);
    }

    #[test]
    fn fetches_beside_each_other_grow_and_those_elsewhere_do_not() {
        let mut readers = Readers::new(Cut::Files);
        let mut extra = |at: u64| readers.extra(&(at..at + 4 * KIB), 0) / RANDOM;
        assert_eq!([extra(900 * KIB), extra(1500 * KIB), extra(700 * KIB)], [1, 2, 4]);
        assert_eq!(extra(800 * KIB), 4, "the most");
        assert_eq!(extra(100 << 20), 1, "elsewhere");
        assert_eq!(extra(600 * KIB), 4, "the place is remembered");
        let mut extra = |at: u64| readers.extra(&(at..at + 4 * KIB), FARTHEST);
        assert_eq!(extra(700 * KIB), 8 * RANDOM, "a fast net");
        assert_eq!(extra(800 * KIB), PIECE);
    }

    #[test]
    fn scattered_reads_fetch_nothing_ahead() {
        let mut readers = Readers::new(Cut::Files);
        for n in 0..1000_u64 {
            let at = n * 7919 % 1000 * PIECE;
            let stored = at..at + 4 * KIB;
            assert_eq!(readers.read(&stored), 0..0);
            assert_eq!(readers.extra(&stored, FARTHEST), RANDOM);
        }
        assert!(readers.known.len() <= READERS);
    }
}
