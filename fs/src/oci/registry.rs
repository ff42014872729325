//! Registries: manifests and blobs by OCI distribution 1.1 and Docker's Registry HTTP API V2.
//!
//! ```text
//! Registries     the client: settings, connections, grants, counters; one a process
//! Repository     a repository as the user names it, at one place or several (mirrors)
//! RegistryBlob   a blob there: a BlobSource
//! ```
//!
//! The API is synchronous; inside, a private runtime of a few threads, started at first use, does
//! the waiting. What comes in by digest is verified here if it comes in whole (manifests), and by
//! whoever reads it if in parts (blobs). Nothing here knows what is in an image.

mod ahead;
mod answer;
pub mod auth;
mod blob;
mod challenge;
mod conf;
mod counters;
pub mod download;
mod endpoint;
mod error;
mod helper;
mod host;
mod http;
mod manifest;
mod places;
mod proxy;
mod rest;
mod retry;
mod runtime;
mod settings;
mod spool;
mod stream;
mod trust;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

pub use blob::RegistryBlob;
pub use conf::ConfError;
pub use counters::Counters;
pub use error::RegistryError;
pub use manifest::{Fetched, Reference};
pub use proxy::Proxies;
pub use settings::Settings;
pub use upload::Pushed;

use ahead::Ahead;
use auth::Credentials;
use blob::BlobState;
use conf::Place;
use endpoint::Endpoint;
use http::Http;
use runtime::Runtime;

use super::reference::Name;
use crate::digest::Digest;

/// Entries of blobs that are gone are swept when there are so many.
const SWEEP: usize = 1024;

/// A client for registries. Cheap to clone; clones share connections, grants and counters.
#[derive(Clone)]
pub struct Registries(Arc<Inner>);

struct Inner {
    http: Arc<Http>,
    runtime: Runtime,
    /// What is known of blobs that are in use, by repository and digest.
    blobs: Mutex<HashMap<(String, Digest), Weak<BlobState>>>,
    ahead: Ahead,
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registries({:?})", self.counters())
    }
}

impl Registries {
    /// A client. Nothing is read, connected or started until it is used.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Inner {
            http: Arc::new(Http::new(settings)),
            runtime: Runtime::default(),
            blobs: Mutex::default(),
            ahead: Ahead::default(),
        }))
    }

    /// Another client with the same settings, which also knows these credentials: each for a
    /// registry, `host[:port]`.
    pub fn with_credentials(&self, given: Vec<(String, Credentials)>) -> Self {
        let mut settings = self.0.http.settings.clone();
        settings.auth.given.extend(given);
        Self::new(settings)
    }

    /// What was asked so far.
    pub fn counters(&self) -> Counters {
        self.0.http.tally.read()
    }

    /// The repository of a name.
    pub fn repository(&self, name: &Name) -> Result<Repository, RegistryError> {
        let (host, path) = (name.domain(), name.path());
        let name = format!("{host}/{path}");
        let places = self.0.http.conf()?.places(host, path);
        match places.blocked {
            Some(conf) if places.open.is_empty() => Err(RegistryError::Blocked { name, conf }),
            blocked => {
                let open = places.open.into_iter().map(|place| self.endpoint(place));
                Ok(Repository { client: self.clone(), name, endpoints: open.collect(), blocked })
            }
        }
    }

    /// Whether the registry of a name, not one of its mirrors, speaks http; none as long as it was
    /// not asked for anything.
    pub fn speaks_http(&self, name: &Name) -> Result<Option<bool>, RegistryError> {
        let repository = self.repository(name)?;
        let own = repository.endpoints.iter().find(|endpoint| endpoint.host_name == name.domain());
        Ok(own.and_then(|endpoint| endpoint.host.plain()))
    }

    /// Asks a registry whether it lets us in with the credentials that it is for.
    pub fn check(&self, host: &str) -> Result<(), RegistryError> {
        let place = conf::Place {
            host: host.to_owned(),
            repository: "the registry".to_owned(),
            insecure: self.0.http.conf()?.is_insecure(host),
            serves: conf::Serves::All,
            is_mirror: false,
        };
        let endpoint = self.endpoint(place);
        let request = http::Request::new(reqwest::Method::GET, "/v2/".to_owned());
        self.0.runtime.run(async move {
            let answer = endpoint.ask("", &request).await?;
            match answer.status().is_success() {
                true => Ok(()),
                false => Err(answer.refusal("a login").await),
            }
        })?
    }

    fn endpoint(&self, place: Place) -> Endpoint {
        let http = self.0.http.clone();
        let host = http.host(&place.host, place.insecure);
        let Place { host: host_name, repository, insecure: _, serves, is_mirror } = place;
        Endpoint { http, host, host_name, repository, serves, is_mirror }
    }
}

/// A repository: `host/path`, and where it can be had.
#[derive(Clone, Debug)]
pub struct Repository {
    client: Registries,
    /// As the user names it, in full.
    name: String,
    /// Mirrors first; never empty.
    endpoints: Vec<Endpoint>,
    /// The file that blocks the registry itself, if there are only mirrors.
    blocked: Option<PathBuf>,
}

impl Repository {
    /// `host[:port]/path`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A blob of the repository, of this size in bytes. Nothing is asked until it is read; all
    /// who read it share what is found out.
    pub fn blob(&self, digest: Digest, size: u64) -> RegistryBlob {
        self.blob_or_of(&[], digest, size)
    }

    /// As [`Repository::blob`]; where the repository does not give it, these are asked.
    pub fn blob_or_of(&self, others: &[Self], digest: Digest, size: u64) -> RegistryBlob {
        let mut blobs = self.client.0.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        if blobs.len() >= SWEEP {
            blobs.retain(|_, state| state.strong_count() > 0);
        }
        let key = (self.name.clone(), digest);
        let known = blobs.get(&key).and_then(Weak::upgrade).filter(|known| known.size == size);
        let state = known.unwrap_or_else(|| {
            let state = Arc::new(BlobState::new(self, others, digest, size));
            blobs.insert(key, Arc::downgrade(&state));
            state
        });
        RegistryBlob::new(self.client.clone(), state)
    }
}

#[cfg(test)]
mod tests;
