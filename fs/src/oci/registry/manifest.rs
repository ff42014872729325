//! Manifests and indexes, by tag or digest.

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use super::Repository;
use super::answer::Answer;
use super::conf::Serves;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::http::Request;
use super::retry::Retry;
use crate::digest::{Digest, Found, Mismatch};
use crate::oci::manifest::{Descriptor, INDEX, MANIFEST, MAX_JSON, is_index, is_manifest};
use crate::oci::reference::Name;

/// All kinds that can be read, and that of schema 1, which gets a clear error.
const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1, */*;q=0.05";
/// What the registry says that it sent (distribution spec, pulling manifests).
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// A person waits for a name to be found, and may try again himself.
const ATTEMPTS: u32 = 4;

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// The one that a tag points to now.
    Tag(String),
    /// The one with this digest.
    Digest(Digest),
}

impl Reference {
    /// What a name refers to: its digest if it has one, else its tag.
    pub fn of(name: &Name) -> Self {
        match (name.digest(), name.tag()) {
            (Some(digest), _) => Self::Digest(digest),
            (None, Some(tag)) => Self::Tag(tag.to_owned()),
            (None, None) => Self::Tag("latest".to_owned()),
        }
    }

    fn served_by(&self, endpoint: &Endpoint) -> bool {
        match endpoint.serves {
            Serves::All => true,
            Serves::DigestOnly => matches!(self, Self::Digest(_)),
            Serves::TagOnly => matches!(self, Self::Tag(_)),
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Tag(tag) => format!("tag {tag:?}"),
            Self::Digest(digest) => format!("manifest {digest}"),
        }
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// A manifest or index that was fetched. Its bytes have the descriptor's digest.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes.
    pub json: Vec<u8>,
}

impl Repository {
    /// Fetches a manifest or index.
    pub fn manifest(&self, reference: &Reference) -> Result<Fetched, RegistryError> {
        self.client.0.runtime.run(first_of(self.clone(), reference.clone(), fetch))?
    }

    /// Asks for the digest that a reference stands for, without fetching what it names. None if
    /// the registry does not say, which the older specification allows.
    pub fn digest_of(&self, reference: &Reference) -> Result<Option<Digest>, RegistryError> {
        self.client.0.runtime.run(first_of(self.clone(), reference.clone(), head))?
    }
}

/// Asks the places one after the other, until one has an answer.
async fn first_of<T, F>(
    repository: Repository,
    reference: Reference,
    ask: fn(Endpoint, Reference) -> F,
) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let fitting: Vec<_> =
        repository.endpoints.iter().filter(|place| reference.served_by(place)).collect();
    for (left, endpoint) in (0..fitting.len()).rev().zip(fitting) {
        // Of a mirror, nobody expects much.
        let attempts = if left > 0 { 1 } else { ATTEMPTS };
        let mut retry = Retry::new(endpoint.http.settings.read_timeout).attempts(attempts);
        let error = loop {
            let asked = ask(endpoint.clone(), reference.clone());
            match retry.within(&endpoint.host.address, asked).await {
                Ok(found) => return Ok(found),
                Err(error) => match retry.pause(error).await {
                    Ok(()) => {}
                    Err(error) => break error,
                },
            }
        };
        if left == 0 {
            return Err(error);
        }
        let (mirror, what) = (&endpoint.host.address, reference.what());
        tracing::info!("mirror {mirror} is passed over for {what} of {}: {error}", repository.name);
    }
    let reason = format!("{} has no place for {}", repository.name, reference.what());
    Err(RegistryError::SetUp(reason))
}

async fn fetch(endpoint: Endpoint, reference: Reference) -> Result<Fetched, RegistryError> {
    let mut answer = ask(&endpoint, &reference, Method::GET).await?;
    let media_type = media_type(&answer);
    let announced = answer.header(&CONTENT_DIGEST).and_then(|text| text.parse().ok());
    let json = answer.body(MAX_JSON).await?;
    if json.len() as u64 > MAX_JSON {
        let reason = format!("{} is larger than {MAX_JSON} bytes", reference.what());
        return Err(endpoint.protocol(&reason));
    }
    if let Some(length) = answer.length().filter(|length| *length != json.len() as u64) {
        let registry = endpoint.host.address.clone();
        return Err(RegistryError::Truncated {
            registry,
            expected: length,
            got: json.len() as u64,
        });
    }
    let found = Digest::of(&json);
    let expected = match reference {
        Reference::Digest(digest) => digest,
        Reference::Tag(_) => announced.unwrap_or(found),
    };
    if found != expected {
        return Err(RegistryError::Corrupt {
            registry: endpoint.host.address.clone(),
            repository: endpoint.repository.clone(),
            mismatch: Mismatch { expected, found: Found::Digest(found) },
        });
    }
    let media_type = media_type.unwrap_or_else(|| guess(&json));
    Ok(Fetched { descriptor: Descriptor::new(&media_type, found, json.len() as u64), json })
}

async fn head(endpoint: Endpoint, reference: Reference) -> Result<Option<Digest>, RegistryError> {
    let answer = ask(&endpoint, &reference, Method::HEAD).await?;
    Ok(answer.header(&CONTENT_DIGEST).and_then(|text| text.parse().ok()))
}

async fn ask(
    endpoint: &Endpoint,
    reference: &Reference,
    method: Method,
) -> Result<Answer, RegistryError> {
    let mut request = Request::new(method, endpoint.path(&format!("manifests/{reference}")));
    let accept = HeaderValue::from_static(ACCEPTED);
    request.headers = HeaderMap::from_iter([(ACCEPT, accept)]);
    let place = endpoint.host.reads.acquire().await.expect("it is never closed");
    let (answer, _) = endpoint.follow(&endpoint.scope("pull", None), &request).await?;
    drop(place);
    match answer.status() {
        StatusCode::OK => Ok(answer),
        StatusCode::NOT_FOUND => Err(RegistryError::NotFound {
            registry: endpoint.host_name.clone(),
            repository: endpoint.repository.clone(),
            what: reference.what(),
        }),
        _ => {
            let request = format!("a request for {} of {}", reference.what(), endpoint.repository);
            Err(answer.refusal(&request).await)
        }
    }
}

/// The media type, if the registry says one that means something.
fn media_type(answer: &Answer) -> Option<String> {
    let header = answer.header(&CONTENT_TYPE)?;
    let plain = header.split(';').next().unwrap_or(header).trim();
    let known = is_manifest(plain) || is_index(plain);
    (known || plain.starts_with("application/vnd.")).then(|| plain.to_owned())
}

/// The media type that a manifest or index gives itself, else that of its kind.
fn guess(json: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice::<Kind>(json) {
        Ok(Kind { media_type: Some(kind), .. }) if is_manifest(&kind) || is_index(&kind) => kind,
        Ok(Kind { manifests: Some(_), .. }) => INDEX.to_owned(),
        Ok(_) | Err(_) => MANIFEST.to_owned(),
    }
}
