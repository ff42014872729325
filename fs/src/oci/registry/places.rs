//! Which of its places a blob is read from: mirrors, the registry itself, other repositories that
//! have it. One that lacks the blob, fails or damages it is left for the next, by all who read it.

use std::fmt;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

use super::blob::BlobState;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::retry::Retry;

/// Whether an endpoint was left for the next one.
enum Left {
    Now,
    /// Somebody else who noticed has done it.
    Before,
    /// It is the last one.
    Stays,
}

impl BlobState {
    /// The place of the endpoint in use.
    pub(super) fn place(&self) -> usize {
        self.chosen.load(Relaxed)
    }

    /// The host of a place, for messages.
    fn who(&self, place: usize) -> String {
        let Endpoint { host, is_mirror, .. } = &self.endpoints[place];
        format!("{} {}", if *is_mirror { "mirror" } else { "registry" }, host.address)
    }

    /// The endpoint in use.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoints[self.place()]
    }

    /// After an error of an attempt that began at `place`: another endpoint, if there is one.
    /// `Err` if asking again is of no use.
    pub(super) async fn after(
        &self,
        place: usize,
        error: RegistryError,
        retry: &mut Retry,
    ) -> Result<(), RegistryError> {
        let left = self.leave(place);
        if retry.is_over() {
            // The next one who reads does not begin with what stalls.
            return Err(error);
        }
        match left {
            Left::Now => {
                let who = self.who(place);
                tracing::info!("{who} is passed over for {}: {error}", self.location());
                Ok(())
            }
            Left::Before => Ok(()),
            Left::Stays => retry.pause(error).await,
        }
    }

    /// What came since `place` was in use is damaged; `false` if there is no other one.
    pub(super) fn distrust(&self, place: usize, why: &dyn fmt::Display) -> bool {
        let left = self.leave(place);
        if !matches!(left, Left::Stays) {
            *self.spool.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        match left {
            Left::Now => {
                let next = self.endpoint();
                tracing::warn!(
                    "{} sent damaged content for {}, which is read from {} now: {why}",
                    self.who(place),
                    self.location(),
                    next.host.address,
                );
                true
            }
            Left::Before => true,
            Left::Stays => false,
        }
    }

    /// Goes on from an endpoint to the next one.
    fn leave(&self, place: usize) -> Left {
        if place + 1 >= self.endpoints.len() {
            return Left::Stays;
        }
        match self.chosen.compare_exchange(place, place + 1, Relaxed, Relaxed) {
            Ok(_) => {
                self.forget_target();
                Left::Now
            }
            Err(_) => Left::Before,
        }
    }
}
