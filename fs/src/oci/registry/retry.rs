//! When to ask again, and when to give up.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::RegistryError;

/// Before the second attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between later ones, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A transfer that trickles may take this many times the patience for silence.
const TRICKLE: u32 = 10;

/// The attempts of one operation: up to `patience` without progress, with growing pauses.
#[derive(Debug)]
pub(super) struct Retry {
    patience: Duration,
    silent_until: Instant,
    ends: Instant,
    pause: Duration,
    attempts_left: Option<u32>,
}

impl Retry {
    /// Attempts for as long as `patience` allows.
    pub(super) fn new(patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            patience,
            silent_until: now + patience,
            ends: now + patience * TRICKLE,
            pause: FIRST_PAUSE,
            attempts_left: None,
        }
    }

    /// For transfers whose length is not bounded: only silence ends them.
    pub(super) fn endless(mut self) -> Self {
        // A year: tokio's clock knows no infinity.
        self.ends += Duration::from_secs(365 * 24 * 3600);
        self
    }

    /// At most so many attempts.
    pub(super) fn attempts(mut self, attempts: u32) -> Self {
        self.attempts_left = Some(attempts.saturating_sub(1));
        self
    }

    /// Something came: patience begins anew.
    pub(super) fn progress(&mut self) {
        self.silent_until = Instant::now() + self.patience;
        self.pause = FIRST_PAUSE;
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
        let pause = error.after().unwrap_or(jitter);
        if Instant::now() + pause >= self.silent_until.min(self.ends) {
            return Err(error);
        }
        tracing::debug!("{error}; asking again in {} ms", pause.as_millis());
        sleep(pause).await;
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
