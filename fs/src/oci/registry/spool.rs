//! A blob of a registry that cannot send parts: its one answer is written to a nameless file, and
//! reads are served from there as soon as their bytes are there.
//!
//! The file grows from its start and never shrinks. A break is taken up by a new answer, whose
//! known part is read over. The file takes as much disk as the blob, as long as the blob is in use.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::StatusCode;
use tokio::sync::watch;

use super::answer::Answer;
use super::blob::BlobState;
use super::error::RegistryError;
use super::retry::Retry;
use crate::error::AtPath as _;
use crate::unnamed::UnnamedFile;

/// The file, and how far it has come.
#[derive(Debug)]
pub(super) struct Spool {
    file: UnnamedFile,
    /// Where it lies, for messages.
    dir: PathBuf,
    progress: watch::Sender<Progress>,
    /// Whether a task fills the file.
    filling: Mutex<bool>,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    /// Bytes that are there.
    written: u64,
    /// Why it does not go on.
    failure: Option<Arc<RegistryError>>,
}

impl Spool {
    /// The spool of a blob; a new one is filled from `answer`.
    pub(super) fn of(state: &Arc<BlobState>, answer: Answer) -> Result<Arc<Self>, RegistryError> {
        let mut slot = state.spool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spool) = &*slot {
            return Ok(spool.clone());
        }
        let dir = &state.endpoint().http.settings.spool;
        let file = UnnamedFile::new_in(dir).at("create a file in", dir)?;
        let (progress, _) = watch::channel(Progress::default());
        let dir = dir.clone();
        let spool = Arc::new(Self { file, dir, progress, filling: Mutex::new(false) });
        tracing::info!(
            "registry {} sends no parts: blob {} is fetched whole",
            answer.host(),
            state.digest
        );
        *slot = Some(spool.clone());
        drop(slot);
        spool.start(state, Some(answer));
        Ok(spool)
    }

    /// Reads `len` bytes as soon as they are there.
    pub(super) async fn read(
        self: &Arc<Self>,
        state: &Arc<BlobState>,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        let end = offset + len as u64;
        let mut progress = self.progress.subscribe();
        if progress.borrow_and_update().written < end {
            self.start(state, None);
        }
        let arrived =
            progress.wait_for(|progress| progress.written >= end || progress.failure.is_some());
        let arrived = arrived.await.map(|progress| progress.clone());
        let arrived = arrived.map_err(|error| RegistryError::SetUp(error.to_string()))?;
        match arrived.failure {
            Some(failure) if arrived.written < end => Err(RegistryError::Shared(failure)),
            _ => {
                let mut bytes = vec![0; len];
                let read = self.file.file().read_exact_at(&mut bytes, offset);
                read.at("read a file in", &self.dir)?;
                Ok(bytes)
            }
        }
    }

    /// Starts a task that fills the file, unless there is one or all is there.
    fn start(self: &Arc<Self>, state: &Arc<BlobState>, answer: Option<Answer>) {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if *filling || self.progress.borrow().written == state.size {
            return;
        }
        *filling = true;
        self.progress.send_modify(|progress| progress.failure = None);
        let (spool, state) = (self.clone(), state.clone());
        tokio::spawn(async move {
            let result = spool.fill(&state, answer).await;
            let mut filling = spool.filling.lock().unwrap_or_else(PoisonError::into_inner);
            *filling = false;
            if let Err(error) = result {
                spool.progress.send_modify(|progress| progress.failure = Some(Arc::new(error)));
            }
        });
    }

    async fn fill(
        &self,
        state: &Arc<BlobState>,
        mut answer: Option<Answer>,
    ) -> Result<(), RegistryError> {
        let mut retry = Retry::new(state.patience());
        loop {
            let place = state.place();
            let known = self.progress.borrow().written;
            let result = match answer.take() {
                Some(answer) => self.fill_once(state, answer, 0, &mut retry).await,
                None => self.fill_anew(state, known, &mut retry).await,
            };
            match result {
                Ok(()) => return Ok(()),
                Err(error) => state.after(place, error, &mut retry).await?,
            }
        }
    }

    async fn fill_anew(
        &self,
        state: &Arc<BlobState>,
        from: u64,
        retry: &mut Retry,
    ) -> Result<(), RegistryError> {
        let host = state.endpoint().host.clone();
        let _place = host.streams.acquire().await.expect("it is never closed");
        let answer = retry.within(&host.address, state.get(from, state.size)).await?;
        // It may have learnt to send parts.
        let start = if answer.status() == StatusCode::OK { 0 } else { from };
        self.fill_once(state, answer, start, retry).await
    }

    /// Writes an answer that starts at `at` of the blob.
    async fn fill_once(
        &self,
        state: &Arc<BlobState>,
        mut answer: Answer,
        mut at: u64,
        retry: &mut Retry,
    ) -> Result<(), RegistryError> {
        let file: &File = self.file.file();
        let host = answer.host().to_owned();
        while let Some(piece) = retry.within(&host, answer.chunk()).await? {
            retry.progress(piece.len());
            let known = self.progress.borrow().written;
            let end = at + piece.len() as u64;
            if end > state.size {
                return Err(state.wrong_size(end));
            }
            if end > known {
                let new = usize::try_from(known.saturating_sub(at)).expect("inside the piece");
                let written = file.write_all_at(&piece[new..], at + new as u64);
                written.at("write a file in", &self.dir)?;
                self.progress.send_modify(|progress| progress.written = end);
            }
            at = end;
        }
        if at < state.size { Err(state.truncated(state.size, at)) } else { Ok(()) }
    }
}
