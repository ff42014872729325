//! Writes new layers. Blob, digests, index and table of contents come out of one pass over the
//! content.
//!
//! The stream is cut into frames that are compressed on their own (see `frames`), so each is a
//! span of the index: a new layer can be mounted without ever being scanned. To all other tools it
//! is a plain zstd or gzip file of many frames or members. With a table of contents
//! ([`Compression::ZstdChunked`], [`Compression::Estargz`]) they too can fetch its files one by
//! one; the index is then the one that is made of that table.
//!
//! The same entries give the same blob, whatever the number of cores.

mod chunker;
mod clocks;
mod collect;
mod compression;
mod contents;
mod describe;
mod error;
mod frames;
mod pack;
mod pipeline;
mod seal;
mod sparse;
mod tar_split;

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::index::{Extent, IndexBuilder, LayerIndex, Summary};
use super::tar::{self, BLOCK, Spelling};
use super::toc::{LANDMARK_CONTENT, NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, TocEntry};
use super::{Entry, Kind, Timestamp};
use crate::digest::DiffId;
use crate::oci::manifest::Descriptor;
pub use clocks::WriteTimes;
use compression::Coder;
pub use compression::Compression;
use error::Failure;
pub use error::{Plain, WriteError};
use frames::{Frames, Shape};
use sparse::Expanded;

/// Writes a layer entry by entry. When it is dropped unfinished, nothing of it is left.
#[derive(Debug)]
pub struct LayerWriter {
    frames: Frames,
    blob_dir: PathBuf,
    index_dir: PathBuf,
    compression: Compression,
    /// Hashes of the paths so far, where a table of contents can have each but once.
    paths: HashSet<[u8; PATH_HASH]>,
    plain: Option<Plain>,
    /// Whether it was said where the files end that are to be fetched first.
    has_landmark: bool,
    /// Whether the stream ends within an entry.
    broken: bool,
}

/// Bytes of a path's hash that are kept: so many that no two paths have the same.
const PATH_HASH: usize = 16;

/// A finished layer, not yet in a store.
#[derive(Debug)]
pub struct NewLayer {
    /// Media type, digest and size of the blob; where its table of contents lies.
    pub descriptor: Descriptor,
    /// Digest of the content.
    pub diff_id: DiffId,
    /// The blob, to be renamed into place; not synced to disk.
    pub blob: NamedTempFile,
    /// The layer's index, under its name already.
    pub index: LayerIndex,
    /// Why it has no table of contents though its format should.
    pub plain: Option<Plain>,
    /// What it took.
    pub times: WriteTimes,
}

/// An entry on its way to the collector.
#[derive(Debug)]
struct Member {
    entry: Entry,
    /// Bytes of content in the stream.
    size: u64,
    /// Where they lie, for [`Shape::Even`].
    extents: Vec<Extent>,
    /// What the table of contents says of it; `None` if it cannot.
    toc: Option<TocEntry>,
    /// What the stream has before the content.
    raw: Vec<u8>,
    /// Whether it belongs to the format and is no file of the layer.
    hidden: bool,
}

/// An entry that is added.
#[derive(Debug)]
struct Added<'a> {
    /// Its headers, perhaps with the padding before them.
    raw: &'a [u8],
    entry: &'a Entry,
    spelling: &'a Spelling,
    /// Bytes of content that follow.
    size: u64,
    /// `None` if the content is the file's as a whole.
    extents: Option<&'a [Extent]>,
    hidden: bool,
}

/// Larger holes of a sparse file are not written as zeros, in bytes: a tar header of 1.5 KB can
/// claim 2^63.
const MAX_HOLES: u64 = 4 << 30;

impl LayerWriter {
    /// A layer without entries. Its blob is written to a temporary file in `tmp_dir`, its index
    /// will lie in the store's `indexes` directory.
    pub fn create(
        tmp_dir: &Path,
        indexes: &Path,
        compression: Compression,
    ) -> Result<Self, WriteError> {
        Self::with_workers(tmp_dir, indexes, compression, pipeline::workers())
    }

    fn with_workers(
        tmp_dir: &Path,
        indexes: &Path,
        compression: Compression,
        workers: usize,
    ) -> Result<Self, WriteError> {
        compression.check()?;
        let index = IndexBuilder::new(indexes)
            .map_err(|source| WriteError::Index { dir: indexes.to_owned(), source })?;
        let frames = Frames::new(tmp_dir, index, compression, workers);
        Ok(Self {
            frames: frames
                .map_err(|source| WriteError::Blob { dir: tmp_dir.to_owned(), source })?,
            blob_dir: tmp_dir.to_owned(),
            index_dir: indexes.to_owned(),
            compression,
            paths: HashSet::new(),
            plain: None,
            has_landmark: false,
            broken: false,
        })
    }

    /// Adds an entry. Of a file, exactly `entry.size` bytes of `content` are taken, of all else
    /// none. After [`WriteError::Entry`] the layer is as it was before, after any other error it
    /// cannot be finished.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), WriteError> {
        self.append_own(entry, content, false)
    }

    /// Adds a member of another tar stream as it is: `raw` is what that stream has before the
    /// content, `content` the content as it is stored there. If `raw` brings no padding for the
    /// member before, that is added.
    ///
    /// A sparse file becomes a plain one where the format has a table of contents, which knows no
    /// sparse files; unless its holes are beyond all measure.
    pub fn append_stored(
        &mut self,
        raw: &[u8],
        member: &tar::Member,
        content: &mut dyn Read,
    ) -> Result<(), WriteError> {
        let tar::Member { entry, extents, stored, spelling } = member;
        if self.compression.shape().has_chunks() && !member.is_plain() {
            if entry.size.saturating_sub(*stored) <= MAX_HOLES {
                return self.append(entry, &mut Expanded::new(entry.size, extents, content));
            }
            self.plain.get_or_insert_with(|| Plain::Sparse(entry.path.clone()));
        }
        let (size, extents) = (*stored, Some(&extents[..]));
        self.add(&Added { raw, entry, spelling, size, extents, hidden: false }, content)
    }

    /// Adds what another tar stream has behind its last content, its end included; then call
    /// [`Self::finish_as_is`].
    pub fn append_trailer(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if self.broken {
            return Err(WriteError::GivenUp);
        }
        self.frames.trailer(bytes).map_err(|failure| self.failed(failure))
    }

    /// Says that all entries so far are to be fetched first. Only formats with a table of contents
    /// have a place for that.
    pub fn end_of_prioritized(&mut self) -> Result<(), WriteError> {
        if self.compression.shape() == Shape::Chunks {
            self.frames.end_of_first();
        }
        self.landmark(PREFETCH_LANDMARK)
    }

    /// Why the layer will have no table of contents, as far as is known.
    pub fn plain(&self) -> Option<&Plain> {
        self.plain.as_ref()
    }

    /// Ends the layer and writes its index.
    pub fn finish(mut self) -> Result<NewLayer, WriteError> {
        if self.broken {
            return Err(WriteError::GivenUp);
        }
        // The place of this mark means nothing, so it does not stand first, as it does where
        // the original writer puts it: only now it is known whether there will be a table.
        self.landmark(NO_PREFETCH_LANDMARK)?;
        self.pad(0)?;
        if !self.is_estargz() {
            // POSIX: an archive ends with two blocks of zeros. eStargz has them behind its table.
            self.append_trailer(&[0; 2 * BLOCK])?;
        }
        self.close()
    }

    /// Ends a layer whose end was appended.
    pub fn finish_as_is(self) -> Result<NewLayer, WriteError> {
        if self.is_estargz() { self.finish() } else { self.close() }
    }

    fn close(self) -> Result<NewLayer, WriteError> {
        if self.broken {
            return Err(WriteError::GivenUp);
        }
        let Self { frames, blob_dir, index_dir, compression, mut plain, .. } = self;
        let blob_failed = |source| WriteError::Blob { dir: blob_dir.clone(), source };
        let index_failed = |source| WriteError::Index { dir: index_dir.clone(), source };
        let stream_len = frames.len();
        let (mut collected, mut diff_id) =
            frames.finish().map_err(|failure| failure.into_error(&blob_dir, &index_dir))?;
        collected.end_span().map_err(index_failed)?;
        let contents = collected.contents.take();
        let sealed = match (contents, compression.shape()) {
            (Some(contents), Shape::Members) => {
                let blob = &mut collected.blob;
                seal::estargz(blob, contents, &mut diff_id, stream_len).map(Some)
            }
            (Some(contents), Shape::Chunks) => {
                seal::zstd_chunked(&mut collected.blob, contents, collected.first_len).map(Some)
            }
            (None, shape) if shape.has_chunks() && plain.is_none() => {
                plain = Some(Plain::TooLarge);
                let end = seal::without_table(&mut collected.blob, shape, &mut diff_id);
                end.map(|()| None)
            }
            (None, _) | (_, Shape::Even(_)) => Ok(None),
        };
        let sealed = sealed.map_err(blob_failed)?;
        let diff_id = DiffId::new(diff_id.finish());
        let times = collected.blob.clocks.read();
        let (blob, digest, blob_len) = collected.blob.finish();
        let toc = sealed.as_ref().map(|sealed| sealed.toc);
        if toc.is_some() {
            collected.index.first(collected.first_len);
        }
        let content_len = collected.content_len;
        let summary = Summary { digest, diff_id, toc, blob_len, content_len };
        let index = collected.index.finish(&summary).map_err(index_failed)?;
        let mut descriptor = Descriptor::new(compression.media_type(), digest, blob_len);
        descriptor.annotations = sealed.map(|sealed| sealed.annotations).unwrap_or_default();
        Ok(NewLayer { descriptor, diff_id, blob, index, plain, times })
    }

    /// Whether this is eStargz, and still can be.
    fn is_estargz(&self) -> bool {
        self.compression.shape() == Shape::Members && self.plain.is_none()
    }

    fn landmark(&mut self, name: &str) -> Result<(), WriteError> {
        if !self.is_estargz() || std::mem::replace(&mut self.has_landmark, true) {
            return Ok(());
        }
        let entry = Entry {
            path: name.into(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: LANDMARK_CONTENT.len() as u64,
            xattrs: Vec::new(),
        };
        self.append_own(&entry, &mut &LANDMARK_CONTENT[..], true)
    }

    fn append_own(
        &mut self,
        entry: &Entry,
        content: &mut dyn Read,
        hidden: bool,
    ) -> Result<(), WriteError> {
        let failed = |what| WriteError::Entry { path: entry.path.clone(), what };
        let raw = &tar::writer::header(entry).map_err(failed)?[..];
        let spelling = &tar::writer::spelling(entry).map_err(failed)?;
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        self.add(&Added { raw, entry, spelling, size, extents: None, hidden }, content)
    }

    fn add(&mut self, added: &Added<'_>, content: &mut dyn Read) -> Result<(), WriteError> {
        if self.broken {
            return Err(WriteError::GivenUp);
        }
        self.broken = true;
        let Added { raw, entry, spelling, size, extents, hidden } = *added;
        self.pad(raw.len())?;
        self.write(raw)?;
        let whole = Extent { file_offset: 0, content_offset: self.frames.len(), len: size };
        let extents = match extents {
            Some(extents) => extents.to_vec(),
            None if size > 0 => vec![whole],
            None => Vec::new(),
        };
        let toc = self.describe(entry, spelling);
        let mut entry = entry.clone();
        if self.is_estargz() {
            // As its table has it.
            entry.mtime.nanos = 0;
        }
        self.frames.member(Box::new(Member { entry, size, extents, toc, raw: Vec::new(), hidden }));
        if size > 0 {
            self.frames.start_content(size);
            self.copy(added.entry, content, size)?;
            self.frames.end_content().map_err(|failure| self.failed(failure))?;
        }
        self.broken = false;
        Ok(())
    }

    /// What the table of contents says of an entry; `None` if there is no table, or can be none.
    fn describe(&mut self, entry: &Entry, spelling: &Spelling) -> Option<TocEntry> {
        let shape = self.compression.shape();
        if self.plain.is_some() || !shape.has_chunks() {
            return None;
        }
        let mut hash = [0; PATH_HASH];
        hash.copy_from_slice(&blake3::hash(&entry.path).as_bytes()[..PATH_HASH]);
        let described = match self.paths.insert(hash) {
            true => describe::toc_entry(entry, spelling, shape),
            false => Err(Plain::Duplicate(entry.path.clone())),
        };
        match described {
            Ok(toc) => Some(toc),
            Err(plain) => {
                self.plain = Some(plain);
                None
            }
        }
    }

    /// Copies a file's content straight into the frames.
    fn copy(&mut self, entry: &Entry, content: &mut dyn Read, size: u64) -> Result<(), WriteError> {
        let mut left = size;
        while left > 0 {
            let room = self.frames.room();
            let wanted = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match content.read(&mut room[..wanted]) {
                Ok(0) => {
                    let path = entry.path.clone();
                    return Err(WriteError::Short { path, size, found: size - left });
                }
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(WriteError::Content { path: entry.path.clone(), source });
                }
            };
            left -= n as u64;
            self.frames.advance(n).map_err(|failure| self.failed(failure))?;
        }
        Ok(())
    }

    /// Adds zeros, so that the stream with `more` bytes ends at a block.
    fn pad(&mut self, more: usize) -> Result<(), WriteError> {
        let block = BLOCK as u64;
        let padding = (self.frames.len() + more as u64).wrapping_neg() % block;
        self.write(&[0; BLOCK][..usize::try_from(padding).expect("less than a block")])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.frames.write(bytes).map_err(|failure| self.failed(failure))
    }

    fn failed(&self, failure: Failure) -> WriteError {
        failure.into_error(&self.blob_dir, &self.index_dir)
    }
}

impl Failure {
    fn into_error(self, blob_dir: &Path, index_dir: &Path) -> WriteError {
        match self {
            Self::Blob(source) => WriteError::Blob { dir: blob_dir.to_owned(), source },
            Self::Index(source) => WriteError::Index { dir: index_dir.to_owned(), source },
        }
    }
}

#[cfg(test)]
mod tests;
