//! From a request to its response.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use kfs_fs::digest::{Digest, Hasher};
use kfs_fs::oci::manifest::{DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST, MAX_JSON};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::Host;
use super::path::{self, Asked, Wrong};
use crate::cluster::files::FilesError;
use crate::cluster::registry_tree::RegistryTree;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What is read of a blob at once, in bytes; each connection has two pieces in memory at most.
const PIECE: usize = 256 << 10;
/// Names in one answer, if the client asks for no fewer.
const PAGE: usize = 1000;

/// Answers a request. Whatever is wrong is an answer too.
pub(super) async fn of(
    request: Request<Incoming>,
    host: Arc<Host>,
) -> Result<Response<Body>, Infallible> {
    let mut response = match admitted(&request, &host).await {
        true => blocking(move || respond(&request, host))
            .await
            .unwrap_or_else(|| failure(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "it failed")),
        false => unauthorized(),
    };
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("Docker-Distribution-Api-Version", version);
    Ok(response)
}

/// What is done on a thread that may block; `None` if it panics.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.inspect_err(|error| tracing::error!("a request was not answered: {error}")).ok()
}

/// Whether whoever asks may. Few passwords are checked at a time, so that wrong ones keep nobody
/// waiting whose password was checked before.
async fn admitted(request: &Request<Incoming>, host: &Arc<Host>) -> bool {
    let Some(logins) = &host.logins else { return true };
    let header = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let Some(header) = header else { return false };
    if logins.knows(header) {
        return true;
    }
    let _turn = host.checking.acquire().await.expect("it is never closed");
    let (host, header) = (host.clone(), header.to_vec());
    let check = move || host.logins.as_ref().is_some_and(|logins| logins.admit(&header));
    blocking(check).await.unwrap_or(false)
}

fn respond(request: &Request<Incoming>, host: Arc<Host>) -> Response<Body> {
    let head = match *request.method() {
        Method::GET => false,
        Method::HEAD => true,
        _ => return failure(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "it is read only"),
    };
    let asked = match path::read(request.uri().path()) {
        Ok(asked) => asked,
        Err(Wrong::NotFound) => {
            return failure(StatusCode::NOT_FOUND, "UNSUPPORTED", "there is no such path");
        }
        Err(Wrong::Name) => {
            return failure(StatusCode::BAD_REQUEST, "NAME_INVALID", "it is no name");
        }
        Err(Wrong::Digest) => {
            return failure(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "it is no digest");
        }
    };
    let asking = Asking { request, head, host: host.clone() };
    let found = host.served.tree().and_then(|tree| match tree {
        Some(tree) => asking.look_up(&tree, asked),
        None => Ok(failure(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is no registry any more")),
    });
    found.unwrap_or_else(|error| broken(&error))
}

struct Asking<'r> {
    request: &'r Request<Incoming>,
    head: bool,
    host: Arc<Host>,
}

impl Asking<'_> {
    fn look_up(&self, tree: &RegistryTree<'_>, asked: Asked) -> Result<Response<Body>, FilesError> {
        match asked {
            Asked::Base => Ok(json_answer(&json!({}))),
            Asked::Catalog => {
                let (names, next) = self.page(tree.repositories()?);
                Ok(with_next(json_answer(&json!({ "repositories": names })), "/v2/_catalog", next))
            }
            Asked::Tags(name) => {
                let Some(tags) = tree.tags(&name)? else { return Ok(unknown_name()) };
                let (tags, next) = self.page(tags);
                let path = format!("/v2/{name}/tags/list");
                Ok(with_next(json_answer(&json!({ "name": name, "tags": tags })), &path, next))
            }
            Asked::Tagged(name, tag) => match tree.tagged(&name, &tag)? {
                Some(digest) => self.manifest(tree, &name, digest),
                None => {
                    Ok(failure(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "there is no such tag"))
                }
            },
            Asked::Manifest(name, digest) => self.manifest(tree, &name, digest),
            Asked::Blob(name, digest) => self.blob(tree, &name, digest),
            Asked::Referrers(_) => {
                let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] });
                Ok(typed(&index.to_string(), INDEX))
            }
        }
    }

    fn manifest(
        &self,
        tree: &RegistryTree<'_>,
        name: &str,
        digest: Digest,
    ) -> Result<Response<Body>, FilesError> {
        let Some(manifest) = tree.manifest(name, digest, MAX_JSON)? else {
            return Ok(failure(
                StatusCode::NOT_FOUND,
                "MANIFEST_UNKNOWN",
                "there is no such manifest",
            ));
        };
        if Digest::of(&manifest) != digest {
            tracing::error!("manifest {digest} of {name} is not what its digest says");
            return Ok(failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                "UNKNOWN",
                "the manifest is damaged",
            ));
        }
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, media_type(&manifest))
            .header(header::CONTENT_LENGTH, manifest.len());
        if let Some(headers) = response.headers_mut() {
            add_digest(headers, digest);
        }
        let body = if self.head { Bytes::new() } else { manifest.into() };
        Ok(response.body(full(body)).expect("its headers are plain"))
    }

    fn blob(
        &self,
        tree: &RegistryTree<'_>,
        name: &str,
        digest: Digest,
    ) -> Result<Response<Body>, FilesError> {
        let Some(blob) = tree.blob(name, digest)? else {
            return Ok(failure(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "there is no such blob"));
        };
        let size = blob.size();
        let range = match self.range(size) {
            Ok(range) => range,
            Err(()) => return Ok(not_satisfiable(size)),
        };
        let (from, to) = range.unwrap_or((0, size));
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::CONTENT_LENGTH, to - from);
        if range.is_some() {
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", to - 1));
        }
        if let Some(headers) = response.headers_mut() {
            add_digest(headers, digest);
        }
        let body = match self.head {
            true => full(Bytes::new()),
            false => self.stream(name.to_owned(), digest, (from, to), size),
        };
        Ok(response.body(body).expect("its headers are plain"))
    }

    /// The bytes asked for, end exclusive; `None` for all of them.
    fn range(&self, size: u64) -> Result<Option<(u64, u64)>, ()> {
        let header =
            self.request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
        header.map_or(Ok(None), |header| range(header, size))
    }

    fn stream(&self, name: String, digest: Digest, (from, to): (u64, u64), size: u64) -> Body {
        let (pieces, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
        let hasher = ((from, to) == (0, size)).then(Hasher::new);
        let sending = Sending { host: self.host.clone(), name, digest, at: from, to, hasher };
        Handle::current().spawn(send(sending, pieces));
        StreamBody::new(Frames { receiver }).boxed_unsync()
    }

    /// The names from where the client wants them on, as many as it wants, and the query for more
    /// if there are (OCI distribution 1.1, "Listing Tags").
    fn page(&self, names: BTreeSet<String>) -> (Vec<String>, Option<String>) {
        let query = self.request.uri().query().unwrap_or_default();
        let value = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .filter(|(name, _)| *name == key)
                .map(|(_, value)| value.replace("%2F", "/"))
                .next()
        };
        let count = value("n").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
        let last = value("last").unwrap_or_default();
        let mut rest = names.into_iter().filter(|name| *name > last || last.is_empty());
        let page: Vec<String> = rest.by_ref().take(count).collect();
        let next = page.last().filter(|_| rest.next().is_some());
        let next = next.map(|last| format!("n={count}&last={}", last.replace('/', "%2F")));
        (page, next)
    }
}

/// A blob that is on its way.
struct Sending {
    host: Arc<Host>,
    /// The repository.
    name: String,
    digest: Digest,
    /// What is read next, and where it ends, in bytes.
    at: u64,
    to: u64,
    /// Of what was sent, if that is to be the whole blob.
    hasher: Option<Hasher>,
}

/// Sends the bytes of a blob. No thread waits for the client: a piece is read when there is room.
async fn send(mut sending: Sending, pieces: mpsc::Sender<io::Result<Bytes>>) {
    while sending.at < sending.to {
        // The client is gone.
        let Ok(room) = pieces.reserve().await else { return };
        let host = sending.host.clone();
        let turn = host.reading.acquire().await.expect("it is never closed");
        let read = blocking(move || {
            let piece = sending.read();
            (sending, piece)
        });
        let Some((rest, piece)) = read.await else { return };
        drop(turn);
        sending = rest;
        if let Err(error) = &piece {
            tracing::warn!("blob {} of {}: {error}", sending.digest, sending.name);
            sending.to = sending.at;
        }
        room.send(piece);
    }
}

impl Sending {
    /// The next piece; the last one only if all are what the digest says.
    fn read(&mut self) -> io::Result<Bytes> {
        let tree = self.host.served.tree().map_err(io::Error::other)?;
        let blob = tree.map_or(Ok(None), |tree| tree.blob(&self.name, self.digest));
        let blob = blob.map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
        let wanted = usize::try_from(self.to - self.at).unwrap_or(usize::MAX).min(PIECE);
        let data = blob.read_at(self.at, wanted)?;
        if data.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += data.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&data);
            if self.at == self.to && std::mem::take(hasher).finish() != self.digest {
                return Err(io::Error::other("it is not what its digest says"));
            }
        }
        Ok(data.into())
    }
}

/// The pieces of a blob as they come.
struct Frames {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
}

impl futures_core::Stream for Frames {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// Reads a `Range` header of one range (RFC 9110, section 14.2); others ask for the whole.
fn range(header: &str, size: u64) -> Result<Option<(u64, u64)>, ()> {
    let Some(spec) = header.strip_prefix("bytes=").filter(|spec| !spec.contains(',')) else {
        return Ok(None);
    };
    let Some((first, last)) = spec.trim().split_once('-') else { return Ok(None) };
    let (first, last) = (first.parse::<u64>(), last.parse::<u64>());
    match (first, last) {
        (Ok(first), Ok(last)) if first <= last && first < size => {
            Ok(Some((first, last.saturating_add(1).min(size))))
        }
        (Ok(first), Err(_)) if spec.ends_with('-') && first < size => Ok(Some((first, size))),
        (Err(_), Ok(suffix)) if spec.starts_with('-') && suffix > 0 && size > 0 => {
            Ok(Some((size.saturating_sub(suffix), size)))
        }
        (Err(_), Err(_)) => Ok(None),
        _ => Err(()),
    }
}

/// What a manifest is, by what it says, else by what it has.
fn media_type(manifest: &[u8]) -> &'static str {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let kind: Option<Kind> = serde_json::from_slice(manifest).ok();
    let said = kind.as_ref().and_then(|kind| kind.media_type.as_deref()).unwrap_or_default();
    let known =
        [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST].into_iter().find(|known| *known == said);
    let list = kind.as_ref().is_some_and(|kind| kind.manifests.is_some());
    known.unwrap_or(if list { INDEX } else { MANIFEST })
}

fn add_digest(headers: &mut header::HeaderMap, digest: Digest) {
    let value = HeaderValue::from_str(&digest.to_string()).expect("a digest is plain");
    headers.insert("Docker-Content-Digest", value);
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

fn json_answer(value: &serde_json::Value) -> Response<Body> {
    typed(&value.to_string(), "application/json")
}

fn typed(text: &str, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(text.to_owned())));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

fn with_next(mut response: Response<Body>, path: &str, next: Option<String>) -> Response<Body> {
    let link = next.map(|query| format!("<{path}?{query}>; rel=\"next\""));
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

fn failure(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let mut response = json_answer(&json!({ "errors": [{ "code": code, "message": message }] }));
    *response.status_mut() = status;
    response
}

fn unknown_name() -> Response<Body> {
    failure(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "there is no such repository")
}

fn unauthorized() -> Response<Body> {
    let mut response = failure(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "a login is needed");
    let challenge = HeaderValue::from_static("Basic realm=\"kfs\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

fn not_satisfiable(size: u64) -> Response<Body> {
    let mut response =
        failure(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "it is not as long");
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

fn broken(error: &FilesError) -> Response<Body> {
    tracing::warn!("{error}");
    failure(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the image cannot be read")
}
