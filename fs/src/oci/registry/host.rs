//! A host that requests go to: what it speaks, and the proofs that it accepted.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use reqwest::header::HeaderValue;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::challenge::Challenge;
use super::http::is_loopback;

/// Short requests and ranged reads at once: more of them would only wait for each other.
const READS: usize = 8;
/// Streams at once. They have places of their own: a scan whose consumer is slow does not hold up
/// the reads of others.
const STREAMS: usize = 8;

/// A registry's host.
#[derive(Debug)]
pub(super) struct Host {
    /// `host[:port]` to connect to.
    pub(super) address: String,
    /// Whether any certificate will do.
    pub(super) insecure: bool,
    /// Whether http will do where https is not spoken.
    pub(super) may_be_plain: bool,
    /// Whether it speaks http, once that is known.
    plain: OnceLock<bool>,
    /// By scope.
    grants: Mutex<HashMap<String, Grant>>,
    /// Held while a grant is got: one for all who need it.
    pub(super) granting: tokio::sync::Mutex<()>,
    /// Places for short requests.
    pub(super) reads: Semaphore,
    /// Places for streams.
    pub(super) streams: Semaphore,
}

/// A proof that was got for a scope.
#[derive(Clone)]
pub(super) struct Grant {
    /// Differs from one to the next of a scope.
    pub(super) number: u64,
    /// The `Authorization`.
    pub(super) proof: HeaderValue,
    /// What it answers.
    pub(super) challenge: Challenge,
    /// When to get another one, if that is known.
    pub(super) expires: Option<Instant>,
    /// Where the credentials were found, if there were some.
    pub(super) credentials_from: Option<String>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Grant({})", self.number)
    }
}

impl Host {
    pub(super) fn new(name: &str, insecure: bool, plain_http: bool) -> Self {
        // Docker Hub's names do not say where its registry is.
        let address = if name == "docker.io" { "registry-1.docker.io" } else { name };
        let plain = OnceLock::new();
        if plain_http {
            plain.get_or_init(|| true);
        }
        Self {
            address: address.to_owned(),
            insecure,
            may_be_plain: insecure || is_loopback(address),
            plain,
            grants: Mutex::default(),
            granting: tokio::sync::Mutex::default(),
            reads: Semaphore::new(READS),
            streams: Semaphore::new(STREAMS),
        }
    }

    /// Whether it speaks http; none if that is not known yet.
    pub(super) fn plain(&self) -> Option<bool> {
        if !self.may_be_plain && self.plain.get().is_none() {
            return Some(false);
        }
        self.plain.get().copied()
    }

    /// Whether it is known what it speaks: the user said so, or it answered.
    pub(super) fn is_settled(&self) -> bool {
        self.plain.get().is_some()
    }

    /// Remembers what it speaks.
    pub(super) fn settle(&self, plain: bool) {
        self.plain.get_or_init(|| plain);
    }

    /// The last grant for a scope.
    pub(super) fn grant(&self, scope: &str) -> Option<Grant> {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(scope).cloned()
    }

    /// Keeps a grant.
    pub(super) fn keep(&self, scope: &str, grant: Grant) {
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.insert(scope.to_owned(), grant);
    }
}
