//! Pushing: blobs that the registry lacks, mounted from another repository of it or sent piece by
//! piece, and manifests.
//!
//! A piece is in memory while it is sent, so that it can be sent again; after a break the registry
//! is asked how much it has. What is sent goes to the repository's own place, never to a mirror.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::http::{Request, Target, authority};
use super::retry::Retry;
use super::{Reference, Repository};
use crate::blob::{BlobReader, BlobSource};
use crate::digest::{Digest, VerifyReader};
use crate::oci::manifest::Descriptor;
use crate::oci::reference::Name;

/// A piece of an upload, in bytes.
const PIECE: usize = 8 << 20;
/// What is sent as a piece of an upload.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// How a blob got to where it was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    There,
    /// The registry had it in another repository.
    Mounted,
    /// It was sent.
    Sent,
}

enum Started {
    Mounted,
    Session(Url),
}

impl Repository {
    /// Pushes a blob, if it is not there. `from` are names of repositories that may have it;
    /// `blob` is opened only when it has to be sent. Calls `sent` with the number of bytes of
    /// each piece.
    pub fn push_blob<E: From<RegistryError>>(
        &self,
        descriptor: &Descriptor,
        from: &[Name],
        blob: impl FnOnce() -> Result<Arc<dyn BlobSource>, E>,
        sent: &dyn Fn(u64),
    ) -> Result<Pushed, E> {
        let digest = descriptor.digest;
        let endpoint = self.own();
        let there = endpoint.clone();
        if self.run(async move { has(&there, digest).await })? {
            return Ok(Pushed::There);
        }
        let near = |name: &&Name| name.domain() == endpoint.host_name;
        let others = from.iter().filter(near).map(|name| name.path().to_owned());
        let mut session = None;
        for other in others.filter(|path| *path != endpoint.repository) {
            let there = endpoint.clone();
            match self.run(async move { start(&there, Some((digest, &other))).await })? {
                Started::Mounted => return Ok(Pushed::Mounted),
                Started::Session(url) => session = Some(url),
            }
        }
        let url = match session {
            Some(url) => url,
            None => {
                let there = endpoint.clone();
                match self.run(async move { start(&there, None).await })? {
                    Started::Session(url) => url,
                    Started::Mounted => return Ok(Pushed::Mounted),
                }
            }
        };
        self.send(&endpoint, descriptor, url, blob()?, sent)?;
        Ok(Pushed::Sent)
    }

    /// Pushes a manifest or index under a tag or its digest.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        json: Vec<u8>,
    ) -> Result<(), RegistryError> {
        let endpoint = self.own();
        let mut request =
            Request::new(Method::PUT, endpoint.path(&format!("manifests/{reference}")));
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| endpoint.protocol("a media type does not fit into a header"))?;
        request.headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type)]);
        request.body = Bytes::from(json);
        self.run(async move {
            let mut retry = Retry::new(endpoint.http.settings.read_timeout);
            loop {
                let error = match retry.timed(endpoint.ask(&scope(&endpoint), &request)).await {
                    Ok(answer) if answer.status().is_success() => return Ok(()),
                    Ok(answer) => {
                        let what = format!("a push of a manifest to {}", endpoint.repository);
                        answer.refusal(&what).await
                    }
                    Err(error) => error,
                };
                retry.pause(error).await?;
            }
        })
    }

    /// Where the repository itself is: behind all mirrors.
    fn own(&self) -> Endpoint {
        self.endpoints.last().expect("there is one").clone()
    }

    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.client.0.runtime.run(future)?
    }

    fn send(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        mut url: Url,
        blob: Arc<dyn BlobSource>,
        sent: &dyn Fn(u64),
    ) -> Result<(), RegistryError> {
        let what = blob.location();
        let failed = |error: std::io::Error| match error.downcast::<RegistryError>() {
            Ok(error) => error,
            Err(error) => RegistryError::SetUp(format!("read {what}: {error}")),
        };
        let (digest, size) = (descriptor.digest, descriptor.size);
        // What is not what its digest says is not sent to its end.
        let mut reader = VerifyReader::new(BlobReader::new(blob), digest, size);
        let mut at = 0;
        loop {
            let mut piece = Vec::new();
            reader.by_ref().take(PIECE as u64).read_to_end(&mut piece).map_err(failed)?;
            if piece.is_empty() {
                break;
            }
            let (len, there) = (piece.len() as u64, endpoint.clone());
            url = self.run(async move { send_piece(&there, url, at, piece.into()).await })?;
            at += len;
            sent(len);
        }
        let there = endpoint.clone();
        self.run(async move { finish(&there, url, digest).await })
    }
}

fn scope(endpoint: &Endpoint) -> String {
    endpoint.scope("pull,push", None)
}

async fn has(endpoint: &Endpoint, digest: Digest) -> Result<bool, RegistryError> {
    let request = Request::new(Method::HEAD, endpoint.path(&format!("blobs/{digest}")));
    let mut retry = Retry::new(endpoint.http.settings.read_timeout);
    loop {
        let error = match retry.timed(endpoint.follow(&scope(endpoint), &request)).await {
            Ok((answer, _)) if answer.status() == StatusCode::NOT_FOUND => return Ok(false),
            Ok((answer, _)) if answer.status().is_success() => return Ok(true),
            Ok((answer, _)) => answer.refusal(&format!("a question for blob {digest}")).await,
            Err(error) => error,
        };
        retry.pause(error).await?;
    }
}

/// Starts an upload, or has the blob mounted from another repository.
async fn start(
    endpoint: &Endpoint,
    mount: Option<(Digest, &str)>,
) -> Result<Started, RegistryError> {
    let (query, scope) = match mount {
        None => (String::new(), scope(endpoint)),
        Some((digest, from)) => {
            (format!("?mount={digest}&from={from}"), endpoint.scope("pull,push", Some(from)))
        }
    };
    let request = Request::new(Method::POST, endpoint.path(&format!("blobs/uploads/{query}")));
    let mut retry = Retry::new(endpoint.http.settings.read_timeout);
    loop {
        let error = match retry.timed(endpoint.ask(&scope, &request)).await {
            Ok(answer) if answer.status() == StatusCode::CREATED => return Ok(Started::Mounted),
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                return session(endpoint, &answer).map(Started::Session);
            }
            Ok(answer) => answer.refusal(&format!("a push to {}", endpoint.repository)).await,
            Err(error) => error,
        };
        retry.pause(error).await?;
    }
}

/// Where an upload goes on. The proof of who sends is for the registry alone.
fn session(endpoint: &Endpoint, answer: &super::answer::Answer) -> Result<Url, RegistryError> {
    let url = endpoint.location(answer)?;
    match authority(&url) == authority(answer.url()) {
        true => Ok(url),
        false => Err(endpoint.protocol("it wants an upload to go to another host")),
    }
}

/// Sends a piece that starts at `at`; returns where the upload goes on.
async fn send_piece(
    endpoint: &Endpoint,
    mut url: Url,
    at: u64,
    piece: Bytes,
) -> Result<Url, RegistryError> {
    let end = at + piece.len() as u64;
    let mut from = at;
    let mut retry = Retry::new(endpoint.http.settings.read_timeout);
    loop {
        let rest = piece.slice(usize::try_from(from - at).expect("inside the piece")..);
        let mut request = Request::new(Method::PATCH, String::new());
        request.target = Target::Url(url.clone());
        let range = HeaderValue::from_str(&format!("{from}-{}", end - 1)).expect("digits");
        request.headers = HeaderMap::from_iter([(CONTENT_TYPE, OCTETS), (CONTENT_RANGE, range)]);
        request.body = rest;
        let error = match retry.timed(endpoint.ask(&scope(endpoint), &request)).await {
            Ok(answer) if answer.status().is_success() => return session(endpoint, &answer),
            Ok(answer) => answer.refusal(&format!("a push to {}", endpoint.repository)).await,
            Err(error) => error,
        };
        retry.pause(error).await?;
        let (now, has) = progress(endpoint, url.clone()).await?;
        url = now;
        match has {
            has if has == end => return Ok(url),
            has if (at..end).contains(&has) => from = has,
            _ => return Err(endpoint.protocol("it lost a part of an upload")),
        }
    }
}

/// Asks how many bytes of an upload arrived, and where it goes on.
async fn progress(endpoint: &Endpoint, url: Url) -> Result<(Url, u64), RegistryError> {
    let mut request = Request::new(Method::GET, String::new());
    request.target = Target::Url(url.clone());
    let mut retry = Retry::new(endpoint.http.settings.read_timeout);
    loop {
        let error = match retry.timed(endpoint.ask(&scope(endpoint), &request)).await {
            Ok(answer) if answer.status().is_success() => {
                let range = answer.header(&RANGE).and_then(|text| text.split('-').nth(1));
                let last: u64 = range.and_then(|text| text.parse().ok()).unwrap_or(0);
                // One byte and none look the same; nobody sends a single byte.
                let has = if last == 0 { 0 } else { last + 1 };
                return Ok((session(endpoint, &answer).unwrap_or(url), has));
            }
            Ok(answer) => answer.refusal(&format!("a push to {}", endpoint.repository)).await,
            Err(error) => error,
        };
        retry.pause(error).await?;
    }
}

async fn finish(endpoint: &Endpoint, mut url: Url, digest: Digest) -> Result<(), RegistryError> {
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    let mut request = Request::new(Method::PUT, String::new());
    request.target = Target::Url(url);
    let mut retry = Retry::new(endpoint.http.settings.read_timeout);
    loop {
        let error = match retry.timed(endpoint.ask(&scope(endpoint), &request)).await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            // The answer to an earlier attempt was lost.
            Ok(answer)
                if answer.status() == StatusCode::NOT_FOUND && has(endpoint, digest).await? =>
            {
                return Ok(());
            }
            Ok(answer) => answer.refusal(&format!("a push to {}", endpoint.repository)).await,
            Err(error) => error,
        };
        retry.pause(error).await?;
    }
}
