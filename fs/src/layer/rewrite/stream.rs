//! The content of a layer as it comes out of its decoder, which is a thread of its own.

use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use crate::blob::BlobReader;
use crate::digest::{DiffId, Hasher, VerifyReader};
use crate::gunzip::Gunzip;
use crate::layer::agreement::Agreement;
use crate::layer::scan::{self, LayerError};
use crate::layer::tar::{BLOCK, TarError, TarReader};
use crate::oci::Layer;

/// Size of the pieces in bytes.
const PIECE: usize = 256 << 10;
/// Pieces that wait to be taken.
pub(super) const AHEAD: usize = 8;
/// Bytes that may stand between the contents of two files: PAX records and long names have 1 MiB
/// each, and there is no reason for many of them.
const MAX_BETWEEN: usize = 16 << 20;

/// Decodes the blob and verifies it, to its end also when nobody takes the content any more: what
/// is wrong with the content may be that the blob is another one.
pub(super) fn decode(
    layer: &Layer,
    out: SyncSender<Vec<u8>>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), LayerError> {
    let (digest, size) = (layer.descriptor.digest, layer.descriptor.size);
    let blob = VerifyReader::new(BlobReader::new(layer.blob.clone()), digest, size);
    let mut blob = BufReader::with_capacity(PIECE, Counted { blob, progress, failure: None });
    let decoded = decode_all(&mut blob, &out);
    drop(out);
    if blob.get_ref().failure.is_none() {
        // What fails here is kept, too.
        drop(io::copy(&mut blob, &mut io::sink()));
    }
    match blob.get_mut().failure.take() {
        Some(source) => Err(scan::read_error(layer, source)),
        None => decoded.map_err(|source| LayerError::Decode { layer: digest, source }),
    }
}

fn decode_all<R: Read>(blob: &mut BufReader<R>, out: &SyncSender<Vec<u8>>) -> io::Result<()> {
    match blob.fill_buf()? {
        [0x1f, 0x8b, ..] => pass_on(&mut Gunzip::new(blob), out),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            pass_on(&mut zstd::Decoder::with_buffer(blob)?, out)
        }
        _ => pass_on(blob, out),
    }
}

fn pass_on(content: &mut dyn Read, out: &SyncSender<Vec<u8>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut *content).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || out.send(piece).is_err() {
            return Ok(());
        }
    }
}

struct Counted<'a, R> {
    blob: R,
    progress: &'a (dyn Fn(u64) + Sync),
    /// Why it cannot be read. A decoder's words of it would be those of a blob that is broken.
    failure: Option<io::Error>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read(buf);
        let n = read.map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.failure = Some(error);
            }
            kind
        })?;
        (self.progress)(n as u64);
        Ok(n)
    }
}

/// The content, hashed on its way; what is no content of a file is kept until it is taken.
pub(super) struct Stream {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    len: u64,
    hasher: Hasher,
    between: Vec<u8>,
    /// Whether a file's content is read.
    in_content: bool,
    /// What all of it is held against, where there is a table of contents.
    pub(super) agreement: Option<Agreement>,
}

impl Stream {
    pub(super) fn new(pieces: Receiver<Vec<u8>>, agreement: Option<Agreement>) -> Self {
        Self {
            pieces,
            piece: Vec::new(),
            at: 0,
            len: 0,
            hasher: Hasher::new(),
            between: Vec::new(),
            in_content: false,
            agreement,
        }
    }

    /// Bytes read so far.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// What was read since the last content, up to now.
    pub(super) fn between(&self) -> &[u8] {
        &self.between
    }

    /// What was read since the last content.
    pub(super) fn take_between(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.between)
    }

    /// Digest of all that was read.
    pub(super) fn diff_id(&self) -> DiffId {
        DiffId::new(self.hasher.clone().finish())
    }

    /// Digest of all that was read, with the end of a tar stream behind it.
    pub(super) fn diff_id_with_end(&self) -> DiffId {
        let mut hasher = self.hasher.clone();
        hasher.update(&[0; 2 * BLOCK]);
        DiffId::new(hasher.finish())
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                // The end, or the decoder failed; it is asked.
                Err(_) => return Ok(0),
            }
        }
        let n = buf.len().min(self.piece.len() - self.at);
        buf[..n].copy_from_slice(&self.piece[self.at..self.at + n]);
        self.hasher.update(&buf[..n]);
        self.at += n;
        self.len += n as u64;
        if !self.in_content {
            if self.between.len() + n > MAX_BETWEEN {
                let what = format!("more than {MAX_BETWEEN} bytes of headers before one entry");
                return Err(io::Error::other(what));
            }
            self.between.extend_from_slice(&buf[..n]);
        }
        Ok(n)
    }
}

/// The content of the tar stream's last member, as it is stored.
pub(super) struct Content<'a>(pub(super) &'a mut TarReader<Stream>);

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.input_mut().in_content = true;
        let read = self.0.read_content(buf);
        self.0.input_mut().in_content = false;
        if let (Some(agreement), Ok(n)) = (&mut self.0.input_mut().agreement, &read) {
            agreement.content(&buf[..*n]);
        }
        read.map_err(|error: TarError| io::Error::other(error))
    }
}
