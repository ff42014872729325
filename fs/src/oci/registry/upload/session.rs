//! The requests of an upload (distribution spec, "Pushing a blob in chunks").

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};

use super::super::answer::Answer;
use super::super::endpoint::Endpoint;
use super::super::error::RegistryError;
use super::super::http::{Request, Target, authority};
use super::super::retry::Retry;
use crate::digest::Digest;

/// What is sent as a piece of an upload.
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// An upload that goes on at `url` with the byte `at`.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) url: Url,
    pub(super) at: u64,
}

/// What became of a request for a new upload.
pub(super) enum Started {
    Mounted,
    Session(Session),
}

/// What became of a step of an upload.
pub(super) enum Step<T> {
    Done(T),
    /// The registry knows the upload no more, or not as it should be; only a new one helps.
    Lost(RegistryError),
}

pub(super) fn scope(endpoint: &Endpoint) -> String {
    endpoint.scope("pull,push", None)
}

pub(super) async fn has(endpoint: &Endpoint, digest: Digest) -> Result<bool, RegistryError> {
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
pub(super) async fn start(
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
                let url = session(endpoint, &answer)?;
                return Ok(Started::Session(Session { url, at: 0 }));
            }
            Ok(answer) => answer.refusal(&format!("a push to {}", endpoint.repository)).await,
            Err(error) => error,
        };
        retry.pause(error).await?;
    }
}

/// Where an upload goes on. The proof of who sends is for the registry alone.
fn session(endpoint: &Endpoint, answer: &Answer) -> Result<Url, RegistryError> {
    let url = endpoint.location(answer)?;
    match authority(&url) == authority(answer.url()) {
        true => Ok(url),
        false => Err(endpoint.protocol("it wants an upload to go to another host")),
    }
}

/// The error for an answer that was not expected, if a new upload is of no use.
async fn refusal(endpoint: &Endpoint, answer: Answer) -> Step<RegistryError> {
    let status = answer.status();
    let error = answer.refusal(&format!("a push to {}", endpoint.repository)).await;
    // What registries say of an upload that they forgot, or that has other bytes than they think.
    match status.as_u16() {
        400 | 404 | 410 | 416 => Step::Lost(error),
        _ => Step::Done(error),
    }
}

/// Sends a piece; returns where the upload goes on after it.
pub(super) async fn send_piece(
    endpoint: &Endpoint,
    session_at: Session,
    piece: Bytes,
) -> Result<Step<Session>, RegistryError> {
    let Session { mut url, at } = session_at;
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
            Ok(answer) if answer.status().is_success() => {
                let url = session(endpoint, &answer)?;
                return Ok(Step::Done(Session { url, at: end }));
            }
            Ok(answer) => match refusal(endpoint, answer).await {
                Step::Done(error) => error,
                Step::Lost(error) => return Ok(Step::Lost(error)),
            },
            Err(error) => error,
        };
        retry.pause(error).await?;
        let now = match progress(endpoint, url).await? {
            Step::Done(now) => now,
            Step::Lost(error) => return Ok(Step::Lost(error)),
        };
        url = now.url;
        match now.at {
            has if has == end => return Ok(Step::Done(Session { url, at: end })),
            has if (at..end).contains(&has) => from = has,
            _ => return Ok(Step::Lost(endpoint.protocol("it lost a part of an upload"))),
        }
    }
}

/// Asks how many bytes of an upload arrived, and where it goes on.
pub(super) async fn progress(
    endpoint: &Endpoint,
    url: Url,
) -> Result<Step<Session>, RegistryError> {
    let mut request = Request::new(Method::GET, String::new());
    request.target = Target::Url(url.clone());
    let mut retry = Retry::new(endpoint.http.settings.read_timeout);
    loop {
        let error = match retry.timed(endpoint.ask(&scope(endpoint), &request)).await {
            Ok(answer) if answer.status().is_success() => {
                let range = answer.header(&RANGE).and_then(|text| text.split('-').nth(1));
                let last: u64 = range.and_then(|text| text.parse().ok()).unwrap_or(0);
                // One byte and none look the same; nobody sends a single byte.
                let at = if last == 0 { 0 } else { last + 1 };
                let url = session(endpoint, &answer).unwrap_or(url);
                return Ok(Step::Done(Session { url, at }));
            }
            Ok(answer) => match refusal(endpoint, answer).await {
                Step::Done(error) => error,
                Step::Lost(error) => return Ok(Step::Lost(error)),
            },
            Err(error) => error,
        };
        retry.pause(error).await?;
    }
}

/// Ends an upload; the registry holds what came against the digest.
pub(super) async fn finish(
    endpoint: &Endpoint,
    mut url: Url,
    digest: Digest,
) -> Result<Step<()>, RegistryError> {
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    let mut request = Request::new(Method::PUT, String::new());
    request.target = Target::Url(url);
    let mut retry = Retry::new(endpoint.http.settings.read_timeout);
    loop {
        let error = match retry.timed(endpoint.ask(&scope(endpoint), &request)).await {
            Ok(answer) if answer.status().is_success() => return Ok(Step::Done(())),
            Ok(answer) => match refusal(endpoint, answer).await {
                Step::Done(error) => error,
                // The answer to an earlier attempt may have been lost.
                Step::Lost(_) if has(endpoint, digest).await? => return Ok(Step::Done(())),
                Step::Lost(error) => return Ok(Step::Lost(error)),
            },
            Err(error) => error,
        };
        retry.pause(error).await?;
    }
}
