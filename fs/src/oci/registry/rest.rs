//! Hosts that want to be left alone for a time (`Retry-After`).
//!
//! What one answer says holds for all requests to its host: a mount has many readers, each of whom
//! would have to be told. Until the time is over nothing is sent; whoever asks gets the error of
//! that answer at once, with the time that is left, and `retry` decides whether that is worth
//! waiting for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::RegistryError;

/// A host is asked again after this time even if it wants to be left alone for longer: some name
/// an hour for what is over in seconds, and a mount that was busy has to come back by itself. One
/// question a minute does no harm.
const LONGEST: Duration = Duration::from_secs(60);
/// More is taken for this.
const LONGEST_SAID: Duration = Duration::from_secs(24 * 3600);

/// The hosts that rest, by `host[:port]`.
#[derive(Debug, Default)]
pub(super) struct Rests(Mutex<HashMap<String, Rest>>);

/// What a host said.
#[derive(Debug)]
struct Rest {
    status: u16,
    request: String,
    message: String,
    /// When it wants to be asked again.
    until: Instant,
    /// When it is asked again.
    ends: Instant,
}

impl Rests {
    /// Notes what a host says of the time after which to ask again; the time that counts.
    pub(super) fn begin(
        &self,
        host: &str,
        (status, request, message): (u16, &str, &str),
        after: Duration,
        now: Instant,
    ) -> Duration {
        let after = after.min(LONGEST_SAID);
        let rest = Rest {
            status,
            request: request.to_owned(),
            message: message.to_owned(),
            until: now + after,
            ends: now + after.min(LONGEST),
        };
        self.lock().insert(host.to_owned(), rest);
        after
    }

    /// Why a host is not asked now; none if it may be.
    pub(super) fn of(&self, host: &str, now: Instant) -> Option<RegistryError> {
        let mut rests = self.lock();
        let rest = rests.get(host)?;
        if rest.ends <= now {
            rests.remove(host);
            return None;
        }
        Some(RegistryError::Unavailable {
            registry: host.to_owned(),
            status: rest.status,
            request: rest.request.clone(),
            message: rest.message.clone(),
            after: Some(rest.until - now),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Rest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_left_alone_for_as_long_as_it_says_but_not_for_ever() {
        let (rests, busy) = (Rests::default(), (429, "a read", ": slowly"));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let left = |host, seconds| Some(rests.of(host, at(seconds))?.after().expect("a time"));
        assert_eq!(rests.begin("a:1", busy, Duration::from_secs(3), start).as_secs(), 3);
        assert_eq!(left("a:1", 2), Some(Duration::from_secs(1)));
        assert_eq!((left("a:2", 2), left("a:1", 3)), (None, None));
        assert_eq!(rests.begin("a:1", busy, Duration::MAX, start), LONGEST_SAID);
        assert_eq!(left("a:1", 59), Some(LONGEST_SAID - Duration::from_secs(59)));
        assert_eq!(left("a:1", 60), None);
    }
}
