//! How much may be fetched on the chance that it is wanted, by how fast fetches are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::plan::FARTHEST;

/// Guesses that fit into a second: what each costs in time is hardly noticed.
const GUESSES: u64 = 15;

/// What is guessed as long as nothing is known of the net, in bytes.
const AT_FIRST: u64 = 512 << 10;

/// The least that is guessed.
const LEAST: u64 = 2 * TELLING;

/// A shorter fetch only says how long a round trip takes, in bytes.
const TELLING: u64 = 128 << 10;

/// The speed of the last fetches, but for the round trips: what comes along with what is fetched
/// anyway takes none.
#[derive(Debug)]
pub(super) struct Pace {
    /// Bytes a second; 0 as long as nothing is known.
    rate: AtomicU64,
    /// What the quickest fetch took, in nanoseconds.
    quickest: AtomicU64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rate: AtomicU64::new(0), quickest: AtomicU64::new(u64::MAX) }
    }
}

impl Pace {
    /// A fetch of so many bytes took that long. It counts as much as all before it, so that a net
    /// that changes is soon known.
    pub(super) fn note(&self, bytes: u64, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let quickest = self.quickest.fetch_min(nanos, Ordering::Relaxed).min(nanos);
        if bytes < TELLING {
            return;
        }
        // Of the quickest fetch itself it is not known what of it was the round trip.
        let moving = u128::from((nanos - quickest).max(nanos / 4).max(1));
        let rate = u64::try_from(u128::from(bytes) * 1_000_000_000 / moving).unwrap_or(u64::MAX);
        let before = self.rate.load(Ordering::Relaxed);
        let now = if before == 0 { rate } else { before / 2 + rate / 2 };
        self.rate.store(now.max(1), Ordering::Relaxed);
    }

    /// What may be fetched on a guess, in bytes of a blob. Never so little that it would tell
    /// nothing any more.
    pub(super) fn window(&self) -> u64 {
        match self.rate.load(Ordering::Relaxed) {
            0 => AT_FIRST,
            rate => (rate / GUESSES).clamp(LEAST, FARTHEST / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_costs_little_time() {
        let pace = Pace::default();
        assert_eq!(pace.window(), AT_FIRST);
        pace.note(100, Duration::from_millis(20));
        assert_eq!(pace.window(), AT_FIRST, "too short to tell");
        // 100 Mbit/s.
        pace.note(1 << 20, Duration::from_millis(20 + 84));
        assert_eq!(pace.window() >> 10, 812);
        for _ in 0..20 {
            pace.note(200_000, Duration::from_secs(1));
        }
        assert_eq!(pace.window(), LEAST, "a slow net");
        // 1 Gbit/s, which with the round trip counted would look like a sixth of it.
        for _ in 0..20 {
            pace.note(512 << 10, Duration::from_millis(20 + 4));
        }
        assert!(pace.window() > 3 << 19, "{}", pace.window());
        for _ in 0..20 {
            pace.note(1 << 20, Duration::ZERO);
        }
        assert_eq!(pace.window(), FARTHEST / 2, "no net at all");
    }
}
