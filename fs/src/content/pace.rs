//! How much may be fetched on the chance that it is wanted, by how fast fetches are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::plan::{FARTHEST, RANDOM};

/// Guesses that fit into a second: what each costs in time is hardly noticed.
const GUESSES: u64 = 10;

/// A shorter fetch only says how long a round trip takes, in bytes.
const TELLING: u64 = 32 << 10;

/// The speed of the last fetches, round trips included.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes a second; 0 as long as nothing is known.
    rate: AtomicU64,
}

impl Pace {
    /// A fetch of so many bytes took that long. The more it differs from those before, the sooner
    /// the next ones matter: each counts as much as all before it.
    pub(super) fn note(&self, bytes: u64, took: Duration) {
        if bytes < TELLING {
            return;
        }
        let nanos = took.as_nanos().max(1);
        let rate = u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX);
        let before = self.rate.load(Ordering::Relaxed);
        let now = if before == 0 { rate } else { before / 2 + rate / 2 };
        self.rate.store(now.max(1), Ordering::Relaxed);
    }

    /// What may be fetched on a guess, in bytes of a blob.
    pub(super) fn window(&self) -> u64 {
        match self.rate.load(Ordering::Relaxed) {
            0 => RANDOM * 4,
            rate => (rate / GUESSES).clamp(RANDOM, FARTHEST / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_costs_a_tenth_of_a_second() {
        let pace = Pace::default();
        assert_eq!(pace.window(), 384 << 10);
        pace.note(100, Duration::from_secs(1));
        assert_eq!(pace.window(), 384 << 10, "too short to tell");
        pace.note(1 << 20, Duration::from_millis(100));
        assert_eq!(pace.window(), 1 << 20);
        for _ in 0..20 {
            pace.note(100_000, Duration::from_secs(1));
        }
        assert_eq!(pace.window(), RANDOM, "a slow net");
        for _ in 0..20 {
            pace.note(1 << 20, Duration::ZERO);
        }
        assert_eq!(pace.window(), FARTHEST / 2, "no net at all");
    }
}
