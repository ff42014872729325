//! Pushing: blobs that the registry lacks, mounted from another repository of it or sent piece by
//! piece, and manifests.
//!
//! A piece is in memory while it is sent, so that it can be sent again; after a break the registry
//! is asked how much it has, also by the next process if this one was killed. A registry may have
//! lost an upload (Debian's docker-registry forgets one whose connection broke in the middle of a
//! piece): then it begins anew. What is sent goes to the repository's own place, never to a mirror.

mod kept;
mod session;

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::http::{Request, authority};
use super::retry::Retry;
use super::{Reference, Repository};
use crate::blob::{BlobReader, BlobSource};
use crate::digest::{Digest, Mismatch, VerifyReader};
use crate::oci::manifest::Descriptor;
use crate::oci::reference::Name;
use kept::Kept;
use session::{Session, Started, Step, has, scope, start};

/// A piece of an upload, in bytes.
const PIECE: usize = 8 << 20;
/// How often an upload that the registry lost is begun anew.
const STARTS: u32 = 3;

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

impl Repository {
    /// Pushes a blob, if it is not there. `from` are names of repositories that may have it;
    /// `blob` is opened only when it has to be sent; `kept` is a file from which the next process
    /// knows where to go on if this one is killed. Calls `sent` with the number of bytes of each
    /// piece.
    pub fn push_blob<E: From<RegistryError>>(
        &self,
        descriptor: &Descriptor,
        from: &[Name],
        blob: impl FnOnce() -> Result<Arc<dyn BlobSource>, E>,
        kept: &Path,
        sent: &dyn Fn(u64),
    ) -> Result<Pushed, E> {
        let digest = descriptor.digest;
        let endpoint = self.own()?;
        let there = endpoint.clone();
        if self.run(async move { has(&there, digest).await })? {
            if kept.exists() {
                Kept::lock(kept, &self.name).iter_mut().for_each(Kept::forget);
            }
            return Ok(Pushed::There);
        }
        let mut kept = Kept::lock(kept, &self.name);
        let mut session = self.earlier(&endpoint, kept.as_mut())?;
        if session.is_none() {
            match self.mount_or_start(&endpoint, digest, from)? {
                Started::Session(new) => session = Some(new),
                Started::Mounted => return Ok(Pushed::Mounted),
            }
        }
        let upload = Upload { repository: self, endpoint, descriptor, blob: blob()?, sent };
        upload.run(session.expect("one of both"), kept.as_mut())?;
        kept.iter_mut().for_each(Kept::forget);
        Ok(Pushed::Sent)
    }

    /// Pushes a manifest or index under a tag or its digest.
    pub fn push_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        json: Vec<u8>,
    ) -> Result<(), RegistryError> {
        let endpoint = self.own()?;
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
    fn own(&self) -> Result<Endpoint, RegistryError> {
        if let Some(conf) = &self.blocked {
            return Err(RegistryError::Blocked { name: self.name.clone(), conf: conf.clone() });
        }
        Ok(self.endpoints.last().expect("there is one").clone())
    }

    fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        self.client.0.runtime.run(future)?
    }

    /// The upload that an earlier process has not brought to its end, if the registry still knows
    /// it.
    fn earlier(
        &self,
        endpoint: &Endpoint,
        kept: Option<&mut Kept<'_>>,
    ) -> Result<Option<Session>, RegistryError> {
        let Some(url) = kept.and_then(Kept::url) else { return Ok(None) };
        if authority(&url) != endpoint.host.address {
            return Ok(None);
        }
        let there = endpoint.clone();
        let error = match self.run(async move { session::progress(&there, url).await }) {
            Ok(Step::Done(session)) => return Ok((session.at > 0).then_some(session)),
            Ok(Step::Lost(error)) => error,
            Err(error) if error.is_transient() => return Err(error),
            // It may be somebody else's.
            Err(error) => error,
        };
        tracing::debug!("an earlier upload cannot be taken up: {error}");
        Ok(None)
    }

    /// Has the blob mounted from another repository of the registry, or starts an upload.
    fn mount_or_start(
        &self,
        endpoint: &Endpoint,
        digest: Digest,
        from: &[Name],
    ) -> Result<Started, RegistryError> {
        let near = |name: &&Name| name.domain() == endpoint.host_name;
        let others = from.iter().filter(near).map(|name| name.path().to_owned());
        let mut session = None;
        for other in others.filter(|path| *path != endpoint.repository) {
            let there = endpoint.clone();
            match self.run(async move { start(&there, Some((digest, &other))).await })? {
                Started::Mounted => return Ok(Started::Mounted),
                Started::Session(new) => session = Some(new),
            }
        }
        if let Some(session) = session {
            return Ok(Started::Session(session));
        }
        let there = endpoint.clone();
        self.run(async move { start(&there, None).await })
    }
}

/// A blob that is being sent.
struct Upload<'a> {
    repository: &'a Repository,
    endpoint: Endpoint,
    descriptor: &'a Descriptor,
    blob: Arc<dyn BlobSource>,
    sent: &'a dyn Fn(u64),
}

impl Upload<'_> {
    /// Sends what the registry lacks; all of it anew where it lost what it had, or where what was
    /// read was damaged and can be had elsewhere.
    fn run(&self, first: Session, mut kept: Option<&mut Kept<'_>>) -> Result<(), RegistryError> {
        let mut session = first;
        let mut starts_left = STARTS;
        loop {
            let place = self.blob.place();
            let error = match self.send(session, kept.as_deref_mut()) {
                Ok(Step::Done(())) => return Ok(()),
                Ok(Step::Lost(error)) if starts_left > 0 => {
                    starts_left -= 1;
                    error
                }
                Err(error @ RegistryError::Damaged { .. }) if self.blob.distrust(place, &error) => {
                    error
                }
                Ok(Step::Lost(error)) | Err(error) => return Err(error),
            };
            tracing::debug!("{} is sent anew: {error}", self.descriptor.digest);
            let there = self.endpoint.clone();
            match self.repository.run(async move { start(&there, None).await })? {
                Started::Session(new) => session = new,
                Started::Mounted => return Ok(()),
            }
        }
    }

    fn send(
        &self,
        mut session: Session,
        mut kept: Option<&mut Kept<'_>>,
    ) -> Result<Step<()>, RegistryError> {
        let (digest, size) = (self.descriptor.digest, self.descriptor.size);
        // What is not what its digest says is not sent to its end.
        let mut reader = VerifyReader::new(BlobReader::new(self.blob.clone()), digest, size);
        let has = session.at;
        let known = io::copy(&mut reader.by_ref().take(has), &mut io::sink());
        if known.map_err(|error| self.unreadable(error))? < has {
            return Ok(Step::Lost(
                self.endpoint.protocol("it has more of an upload than there is"),
            ));
        }
        (self.sent)(has);
        loop {
            if let Some(kept) = &mut kept {
                kept.keep(&session.url);
            }
            // Not grown piece by piece, which takes twice as much now and then.
            let left = usize::try_from(size.saturating_sub(session.at)).unwrap_or(PIECE);
            let mut piece = Vec::with_capacity(left.min(PIECE));
            let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            read.map_err(|error| self.unreadable(error))?;
            if piece.is_empty() {
                break;
            }
            let (len, there) = (piece.len() as u64, self.endpoint.clone());
            let step = async move { session::send_piece(&there, session, piece.into()).await };
            match self.repository.run(step)? {
                Step::Done(next) => session = next,
                Step::Lost(error) => return Ok(Step::Lost(error)),
            }
            (self.sent)(len);
        }
        let there = self.endpoint.clone();
        self.repository.run(async move { session::finish(&there, session.url, digest).await })
    }

    fn unreadable(&self, error: io::Error) -> RegistryError {
        let what = self.blob.location();
        let error = match error.downcast::<Mismatch>() {
            Ok(mismatch) => return RegistryError::Damaged { what, mismatch },
            Err(error) => error,
        };
        match error.downcast::<RegistryError>() {
            Ok(error) => error,
            Err(error) => RegistryError::SetUp(format!("read {what}: {error}")),
        }
    }
}
