//! When to ask again, and when to give up.
//!
//! Patience (`--read-timeout`) is the time that may be waited for one operation. It begins anew
//! each time that as much came as at [`SLOWEST`] comes in it: a long transfer that goes well has no
//! end set, one that trickles ends as one that is silent does. Time in which nobody waits for the
//! network (whoever takes the bytes is slow) does not count.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::error::RegistryError;

/// Before the second attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between later ones, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What comes more slowly is taken for a stall, in bytes a second. Several transfers share a line:
/// the slowest that works has several times as much.
const SLOWEST: u64 = 4 << 10;

/// The time that is left for one thing to happen, which each portion of bytes gives back.
#[derive(Debug)]
pub(super) struct Patience {
    whole: Duration,
    left: Duration,
    /// Bytes since it began anew.
    came: u64,
}

impl Patience {
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, left: whole, came: 0 }
    }

    /// Time that was waited.
    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Bytes that came; `true` if they were enough to begin anew.
    fn progress(&mut self, bytes: u64) -> bool {
        self.came += bytes;
        let enough = (self.whole.as_millis() * u128::from(SLOWEST) / 1000).max(1);
        let is_enough = u128::from(self.came) >= enough;
        if is_enough {
            *self = Self::new(self.whole);
        }
        is_enough
    }

    /// Waits for pieces of an answer of `registry`, at most until patience is at its end.
    pub(super) async fn wait<T>(
        &mut self,
        registry: &str,
        answer: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        let start = Instant::now();
        let arrived = timeout(self.left, answer).await;
        self.spend(start.elapsed());
        arrived.map_err(|_| RegistryError::Stalled {
            registry: registry.to_owned(),
            waited: self.whole,
            got: self.came,
        })
    }

    /// Counts a piece that came.
    pub(super) fn received(&mut self, bytes: usize) {
        self.progress(bytes as u64);
    }
}

/// The attempts of one operation, with growing pauses, as long as patience lasts.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Patience,
    pause: Duration,
    attempts_left: Option<u32>,
}

impl Retry {
    /// Attempts for as long as `patience` allows.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience: Patience::new(patience), pause: FIRST_PAUSE, attempts_left: None }
    }

    /// At most so many attempts.
    pub(super) fn attempts(mut self, attempts: u32) -> Self {
        self.attempts_left = Some(attempts.saturating_sub(1));
        self
    }

    /// Waits for a part of an operation, at most until patience is at its end.
    pub(super) async fn within<T>(
        &mut self,
        registry: &str,
        part: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        self.patience.wait(registry, part).await?
    }

    /// Waits for a part of an operation that has a limit of its own.
    pub(super) async fn timed<T>(&mut self, part: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let done = part.await;
        self.patience.spend(start.elapsed());
        done
    }

    /// Whether there is no time left.
    pub(super) fn is_over(&self) -> bool {
        self.patience.left.is_zero()
    }

    /// Bytes came.
    pub(super) fn progress(&mut self, bytes: usize) {
        if self.patience.progress(bytes as u64) {
            self.pause = FIRST_PAUSE;
        }
    }

    /// Waits before the next attempt, or gives the error back if there shall be none.
    pub(super) async fn pause(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if !error.is_transient() {
            return Err(error);
        }
        if let Some(left) = &mut self.attempts_left {
            if *left == 0 {
                return Err(error);
            }
            *left -= 1;
        }
        // Many readers that failed together shall not come back together.
        let jitter = self.pause / 2 + self.pause.mul_f64(fraction() / 2.0);
        let pause = error.after().unwrap_or_default().max(jitter);
        if pause >= self.patience.left {
            return Err(error);
        }
        tracing::debug!("{error}; asking again in {} ms", pause.as_millis());
        sleep(pause).await;
        self.patience.spend(pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}

/// Between 0 and 1; good enough to spread.
fn fraction() -> f64 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0_u8);
    f64::from(u32::try_from(random >> 32).expect("32 bits")) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_trickle_does_not_stretch_patience() {
        let mut patience = Patience::new(MINUTE);
        for _ in 0..59 {
            patience.spend(Duration::from_secs(1));
            assert!(!patience.progress(1));
        }
        assert_eq!(patience.left, Duration::from_secs(1));
        patience.spend(MINUTE);
        assert_eq!(patience.left, Duration::ZERO);
    }

    #[test]
    fn what_goes_well_has_no_end() {
        let mut patience = Patience::new(MINUTE);
        for second in 1..1000 {
            patience.spend(Duration::from_secs(1));
            let begins_anew = patience.progress(SLOWEST);
            assert_eq!(begins_anew, second % 60 == 0, "{second}");
            assert!(patience.left >= Duration::ZERO);
        }
        // However short, one byte at least has to come.
        let mut short = Patience::new(Duration::from_micros(10));
        assert!(!short.progress(0));
        assert!(short.progress(1));
    }
}
