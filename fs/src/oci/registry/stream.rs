//! A blob from some place to its end, as one answer that is taken up again where it broke off.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use reqwest::StatusCode;
use tokio::sync::mpsc::{Receiver, Sender, channel as bounded};

use super::Registries;
use super::blob::BlobState;
use super::error::RegistryError;
use super::retry::Retry;

/// Pieces between the network and the reader. A piece is what a socket gave at once, some 16 KiB
/// at most 1 MiB: a slow reader holds back the sender instead of filling memory.
const AHEAD: usize = 32;

type Piece = Result<Bytes, RegistryError>;

pub(super) fn channel() -> (Sender<Piece>, Receiver<Piece>) {
    bounded(AHEAD)
}

/// The reader's end.
pub(super) struct Stream {
    pieces: Receiver<Piece>,
    current: Bytes,
    /// Its runtime does the work.
    _client: Registries,
}

impl Stream {
    pub(super) fn new(pieces: Receiver<Piece>, client: Registries) -> Self {
        Self { pieces, current: Bytes::new(), _client: client }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let n = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// A stream that could not be started.
pub(super) struct Failed(Option<RegistryError>);

impl Failed {
    pub(super) fn new(error: RegistryError) -> Self {
        Self(Some(error))
    }
}

impl Read for Failed {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(self.0.take().map_or_else(|| io::ErrorKind::Other.into(), Into::into))
    }
}

/// Sends the blob from `offset` on; ends when nobody receives any more.
pub(super) async fn send(state: Arc<BlobState>, offset: u64, pieces: Sender<Piece>) {
    let mut at = offset.min(state.size);
    let mut retry = Retry::new(state.patience());
    while at < state.size {
        let place = state.place();
        let result = send_once(&state, &mut at, &pieces, &mut retry).await;
        let error = match result {
            Ok(Sent::All) => continue,
            Ok(Sent::NobodyListens) => return,
            Err(error) => error,
        };
        if let Err(error) = state.after(place, error, &mut retry).await {
            // Nobody may be left to hear it.
            drop(pieces.send(Err(error)).await);
            return;
        }
    }
}

enum Sent {
    All,
    NobodyListens,
}

async fn send_once(
    state: &Arc<BlobState>,
    at: &mut u64,
    pieces: &Sender<Piece>,
    retry: &mut Retry,
) -> Result<Sent, RegistryError> {
    let host = state.endpoint().host.clone();
    let _place = host.streams.acquire().await.expect("it is never closed");
    let start = *at;
    let mut answer = retry.within(&host.address, state.get(start, state.size)).await?;
    // A registry that sends no parts starts anew.
    let mut skip = if answer.status() == StatusCode::OK { start } else { 0 };
    while let Some(mut piece) = retry.within(&host.address, answer.chunk()).await? {
        retry.progress(piece.len());
        let skipped = skip.min(piece.len() as u64);
        piece.advance(usize::try_from(skipped).expect("at most the piece"));
        skip -= skipped;
        if piece.is_empty() {
            continue;
        }
        let after = *at + piece.len() as u64;
        if after > state.size {
            return Err(state.wrong_size(after));
        }
        // What is on its way counts as sent: the channel loses nothing.
        if pieces.send(Ok(piece)).await.is_err() {
            return Ok(Sent::NobodyListens);
        }
        *at = after;
    }
    if *at < state.size { Err(state.truncated(state.size, *at)) } else { Ok(Sent::All) }
}
