//! A blob of a registry as a source of bytes: ranged reads, and streams from any place on.
//!
//! What is found out about a blob is shared by all who read it: where the registry redirects to
//! (found anew once for all when that address is outlived), whether it can send parts (if not, the
//! blob is spooled, see `spool`), and which mirror works.

use std::fmt;
use std::io::{self, Read};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode, Url};
use tokio::sync::Semaphore;

use super::answer::Answer;
use super::conf::Serves;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::http::Request;
use super::retry::Retry;
use super::spool::Spool;
use super::{Registries, Repository, stream};
use crate::blob::BlobSource;
use crate::digest::{Digest, Found, Mismatch};

/// A read of more than this many bytes is done in pieces of this size, several at once.
const PIECE: usize = 2 << 20;
/// Pieces at once.
const PIECES: usize = 4;
/// So many may ask at once where a blob is of which nothing is known yet. What is read first of an
/// image is a handful of places, and to wait for one another would take them a round trip more.
const FINDERS: u32 = 4;

/// A blob of a registry. Reads that fail fail after the client's read timeout, and leave nothing
/// behind: a later read tries again.
#[derive(Clone)]
pub struct RegistryBlob {
    client: Registries,
    state: Arc<BlobState>,
}

/// What is known of a blob.
pub(super) struct BlobState {
    /// `host/path`, as the user names it.
    name: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Mirrors, the registry itself, other repositories that have the blob; and the registry again,
    /// which is the last to be waited for.
    pub(super) endpoints: Vec<Endpoint>,
    /// The endpoint in use.
    pub(super) chosen: AtomicUsize,
    target: Mutex<Target>,
    /// Held while the target is found: by a few at first, by one alone when it is outlived.
    finding: Semaphore,
    /// For a registry that sends no parts.
    pub(super) spool: Mutex<Option<Arc<Spool>>>,
}

/// Where the bytes come from.
#[derive(Clone, Debug)]
struct Target {
    /// Counts the changes.
    number: u64,
    place: TargetPlace,
}

#[derive(Clone, Debug)]
enum TargetPlace {
    Unknown,
    /// The registry sends them itself.
    Registry,
    /// Where the registry redirects to. The address may be a secret.
    Elsewhere(Url),
}

impl fmt::Debug for RegistryBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryBlob({})", self.state.location())
    }
}

impl RegistryBlob {
    pub(super) fn new(client: Registries, state: Arc<BlobState>) -> Self {
        Self { client, state }
    }

    /// Reads `len` bytes, which lie inside the blob.
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, RegistryError> {
        let state = self.state.clone();
        self.client.0.runtime.run(async move { read_range(&state, offset, len).await })?
    }

    fn read_pieces(&self, offset: u64, buf: &mut [u8]) -> Result<(), RegistryError> {
        for (window, at) in buf.chunks_mut(PIECE * PIECES).zip((0..).step_by(PIECE * PIECES)) {
            let state = self.state.clone();
            let start = offset + at as u64;
            let len = window.len();
            let pieces = async move { read_at_once(&state, start, len).await };
            let pieces = self.client.0.runtime.run(pieces)??;
            for (part, piece) in window.chunks_mut(PIECE).zip(pieces) {
                part.copy_from_slice(&piece);
            }
        }
        Ok(())
    }

    /// Asks for bytes that will soon be read by one [`BlobSource::read_at`] of just these. If that
    /// does not work, the read will tell.
    pub(crate) fn expect(&self, offset: u64, len: usize) {
        let Some(sender) = self.client.0.ahead.add(self.state.digest, offset, len) else { return };
        let state = self.state.clone();
        let asked = self.client.0.runtime.spawn(async move {
            let pieces = read_at_once(&state, offset, len).await;
            // The receiver may be gone with its client.
            drop(sender.send(pieces.map(|mut pieces| match &mut pieces[..] {
                [only] => std::mem::take(only),
                several => several.concat(),
            })));
        });
        if let Err(error) = asked {
            tracing::debug!("nothing is asked for ahead: {error}");
        }
    }
}

impl BlobSource for RegistryBlob {
    fn size(&self) -> u64 {
        self.state.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.state.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        if let Some(bytes) = self.client.0.ahead.take(self.state.digest, offset, len) {
            buf[..len].copy_from_slice(&bytes);
        } else if len > PIECE {
            self.read_pieces(offset, &mut buf[..len])?;
        } else if len > 0 {
            buf[..len].copy_from_slice(&self.read(offset, len)?);
        }
        Ok(len)
    }

    fn location(&self) -> String {
        self.state.location()
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn place(&self) -> usize {
        self.state.place()
    }

    fn distrust(&self, place: usize, why: &dyn fmt::Display) -> bool {
        self.state.distrust(place, why)
    }

    fn stream(&self, offset: u64) -> Option<Box<dyn Read + Send>> {
        let (sender, reader) = stream::channel();
        let task = stream::send(self.state.clone(), offset, sender);
        match self.client.0.runtime.spawn(task) {
            // Keeps the runtime alive as long as the stream.
            Ok(()) => Some(Box::new(stream::Stream::new(reader, self.client.clone()))),
            Err(error) => Some(Box::new(stream::Failed::new(error))),
        }
    }
}

/// Where a repository's blobs are had: what is for tags alone only if there is nothing else.
fn endpoints_of(repository: &Repository) -> Vec<Endpoint> {
    let all = || repository.endpoints.iter().cloned();
    let by_digest: Vec<_> = all().filter(|place| place.serves != Serves::TagOnly).collect();
    if by_digest.is_empty() { all().collect() } else { by_digest }
}

impl BlobState {
    pub(super) fn new(
        repository: &Repository,
        others: &[Repository],
        digest: Digest,
        size: u64,
    ) -> Self {
        let mut endpoints = endpoints_of(repository);
        let own = endpoints.last().cloned();
        if !others.is_empty() {
            endpoints.extend(others.iter().flat_map(endpoints_of).chain(own));
        }
        Self {
            name: repository.name.clone(),
            digest,
            size,
            endpoints,
            chosen: AtomicUsize::new(0),
            target: Mutex::new(Target { number: 0, place: TargetPlace::Unknown }),
            finding: Semaphore::new(FINDERS as usize),
            spool: Mutex::default(),
        }
    }

    pub(super) fn location(&self) -> String {
        format!("{}@{}", self.name, self.digest)
    }

    pub(super) fn patience(&self) -> std::time::Duration {
        self.endpoint().http.settings.read_timeout
    }

    pub(super) fn truncated(&self, expected: u64, got: u64) -> RegistryError {
        let registry = self.endpoint().host.address.clone();
        RegistryError::Truncated { registry, expected, got }
    }

    pub(super) fn wrong_size(&self, found: u64) -> RegistryError {
        RegistryError::Corrupt {
            registry: self.endpoint().host.address.clone(),
            repository: self.endpoint().repository.clone(),
            mismatch: Mismatch { expected: self.digest, found: Found::Size(self.size, found) },
        }
    }

    fn target(&self) -> Target {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where the bytes come from is to be found anew.
    pub(super) fn forget_target(&self) {
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        *target = Target { number: target.number + 1, place: TargetPlace::Unknown };
    }

    /// Asks for the bytes from `start` to before `end`, the whole blob being asked for without a
    /// range. The answer's status is 200 or 206.
    pub(super) async fn get(&self, start: u64, end: u64) -> Result<Answer, RegistryError> {
        let endpoint = self.endpoint();
        let mut request =
            Request::new(Method::GET, endpoint.path(&format!("blobs/{}", self.digest)));
        if (start, end) != (0, self.size) {
            let range = HeaderValue::from_str(&format!("bytes={start}-{}", end - 1));
            let range = range.expect("digits");
            request.headers = HeaderMap::from_iter([(RANGE, range)]);
        }
        let answer = self.answer(endpoint, &request).await?;
        self.check(answer, start).await
    }

    /// Sends a request to where the bytes are.
    async fn answer(
        &self,
        endpoint: &Endpoint,
        request: &Request,
    ) -> Result<Answer, RegistryError> {
        let target = self.target();
        match &target.place {
            TargetPlace::Unknown => {}
            TargetPlace::Registry => {
                let answer = endpoint.ask(&endpoint.scope("pull", None), request).await?;
                if !answer.status().is_redirection() {
                    return Ok(answer);
                }
            }
            TargetPlace::Elsewhere(url) => {
                let answer = endpoint.elsewhere(request, url.clone()).await?;
                // What stores say of an address that is outlived.
                if !matches!(answer.status().as_u16(), 400 | 401 | 403 | 404 | 410) {
                    return Ok(answer);
                }
            }
        }
        let finders = if target.number == 0 { 1 } else { FINDERS };
        let turn = self.finding.acquire_many(finders).await.expect("it is never closed");
        let now = self.target();
        if now.number != target.number {
            drop(turn);
            return match now.place {
                TargetPlace::Elsewhere(url) => endpoint.elsewhere(request, url).await,
                TargetPlace::Unknown | TargetPlace::Registry => {
                    Ok(endpoint.follow(&endpoint.scope("pull", None), request).await?.0)
                }
            };
        }
        self.find_target(target.number, endpoint, request).await
    }

    /// Sends a request to the registry and on to where that redirects, and remembers where that
    /// was, unless somebody else has found it since the target had this number.
    async fn find_target(
        &self,
        number: u64,
        endpoint: &Endpoint,
        request: &Request,
    ) -> Result<Answer, RegistryError> {
        let (answer, url) = endpoint.follow(&endpoint.scope("pull", None), request).await?;
        if answer.status().is_success() {
            let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
            if target.number == number {
                let place = url.map_or(TargetPlace::Registry, TargetPlace::Elsewhere);
                *target = Target { number: number + 1, place };
            }
        }
        Ok(answer)
    }

    /// Refuses an answer that has other bytes than those that were asked for.
    async fn check(&self, answer: Answer, start: u64) -> Result<Answer, RegistryError> {
        let endpoint = self.endpoint();
        let range = answer.header(&CONTENT_RANGE).map(str::to_owned);
        match answer.status() {
            StatusCode::OK => match answer.length() {
                Some(length) if length != self.size => Err(self.wrong_size(length)),
                Some(_) | None => Ok(answer),
            },
            StatusCode::PARTIAL_CONTENT => match range.as_deref().and_then(content_range) {
                Some((_, Some(total))) if total != self.size => Err(self.wrong_size(total)),
                Some((from, _)) if from != start => {
                    Err(endpoint.protocol("it sent another range than it was asked for"))
                }
                Some(_) => Ok(answer),
                None => Err(endpoint.protocol("it sent a part without a Content-Range")),
            },
            StatusCode::RANGE_NOT_SATISFIABLE => Err(self.wrong_size(
                range
                    .as_deref()
                    .and_then(|text| text.rsplit('/').next()?.parse().ok())
                    .unwrap_or(0),
            )),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound {
                registry: endpoint.host_name.clone(),
                repository: endpoint.repository.clone(),
                what: format!("blob {}", self.digest),
            }),
            _ => {
                let request = format!("a read of blob {} of {}", self.digest, self.name);
                Err(answer.refusal(&request).await)
            }
        }
    }
}

/// First byte and total of `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

/// Reads `len` bytes in pieces, all at once.
async fn read_at_once(
    state: &Arc<BlobState>,
    offset: u64,
    len: usize,
) -> Result<Vec<Vec<u8>>, RegistryError> {
    let tasks: Vec<_> = (0..len)
        .step_by(PIECE)
        .map(|at| {
            let (state, len) = (state.clone(), PIECE.min(len - at));
            let at = offset + at as u64;
            tokio::spawn(async move { read_range(&state, at, len).await })
        })
        .collect();
    let mut pieces = Vec::new();
    for task in tasks {
        let piece = task.await;
        pieces.push(piece.map_err(|error| RegistryError::SetUp(error.to_string()))??);
    }
    Ok(pieces)
}

/// Reads `len` bytes, with as many attempts as patience allows.
async fn read_range(
    state: &Arc<BlobState>,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, RegistryError> {
    let mut got = Vec::with_capacity(len);
    let mut retry = Retry::new(state.patience());
    loop {
        let place = state.place();
        match read_once(state, offset, len, &mut got, &mut retry).await {
            Ok(()) => return Ok(got),
            Err(error) => state.after(place, error, &mut retry).await?,
        }
    }
}

/// Adds to `got` what is missing of `len` bytes at `offset`.
async fn read_once(
    state: &Arc<BlobState>,
    offset: u64,
    len: usize,
    got: &mut Vec<u8>,
    retry: &mut Retry,
) -> Result<(), RegistryError> {
    let spool = state.spool.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(spool) = spool {
        *got = spool.read(state, offset, len).await?;
        return Ok(());
    }
    let host = state.endpoint().host.clone();
    let _place = host.reads.acquire().await.expect("it is never closed");
    let start = offset + got.len() as u64;
    let mut answer = retry.within(&host.address, state.get(start, offset + len as u64)).await?;
    if answer.status() == StatusCode::OK && (start, len as u64) != (0, state.size) {
        let spool = Spool::of(state, answer)?;
        *got = spool.read(state, offset, len).await?;
        return Ok(());
    }
    while let Some(piece) = retry.within(&host.address, answer.chunk()).await? {
        retry.progress(piece.len());
        // More than was asked for is of no use.
        let wanted = len - got.len();
        got.extend_from_slice(&piece[..piece.len().min(wanted)]);
        if got.len() == len {
            // The end is read as well, so that the connection can be used again.
            return if piece.len() > wanted { Ok(()) } else { answer.chunk().await.map(drop) };
        }
    }
    Err(state.truncated(len as u64, got.len() as u64))
}
