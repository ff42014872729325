//! Writes new layers. Blob, digests and index come out of one pass over the content.
//!
//! The stream is cut into frames of 1 MiB that are compressed on their own (see `frames`), so
//! each is a span of the index: a new layer can be mounted without ever being scanned. To all
//! other tools it is a plain zstd or gzip file of many frames or members.

mod frames;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::index::{Extent, IndexBuilder, LayerIndex, Summary};
use super::tar::{self, BLOCK, Problem};
use super::{Entry, Kind};
use crate::digest::DiffId;
use crate::oci::manifest::{Descriptor, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD};
use crate::printable;
use frames::Frames;

/// How a new layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// zstd, with its level (see [`zstd::compression_level_range`]).
    Zstd(i32),
    /// gzip, with its level from 0 to 9.
    Gzip(u32),
    /// Not at all.
    None,
}

impl Default for Compression {
    /// zstd's own default level: beyond it, time grows much faster than size falls.
    fn default() -> Self {
        Self::Zstd(3)
    }
}

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The compressor has no such level.
    #[error("{compressor} has no compression level {level}, only {min} to {max}")]
    Level {
        /// `zstd` or `gzip`.
        compressor: &'static str,
        /// What was asked for.
        level: i64,
        /// Lowest level.
        min: i32,
        /// Highest level.
        max: i32,
    },
    /// The entry has no form in a tar stream.
    #[error("{} cannot be put into a layer: {what}", of(path))]
    Entry {
        /// [`Entry::path`].
        path: Vec<u8>,
        /// Why.
        what: Problem,
    },
    /// A file's content cannot be read.
    #[error("read {}: {source}", of(path))]
    Content {
        /// [`Entry::path`].
        path: Vec<u8>,
        /// What the system said.
        source: io::Error,
    },
    /// A file's content ends before its size.
    #[error("{} changed while it was read: it ends after {found} of {size} bytes", of(path))]
    Short {
        /// [`Entry::path`].
        path: Vec<u8>,
        /// [`Entry::size`].
        size: u64,
        /// Bytes that were there.
        found: u64,
    },
    /// The blob cannot be written.
    #[error("write layer in {}: {source}", dir.display())]
    Blob {
        /// Where its temporary file lies.
        dir: PathBuf,
        /// What the system or the compressor said.
        source: io::Error,
    },
    /// The index cannot be written.
    #[error("write index of new layer in {}: {source}", dir.display())]
    Index {
        /// Where indexes lie.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier error left the stream unfinished.
    #[error("the layer was given up after an earlier error")]
    GivenUp,
}

fn of(path: &[u8]) -> String {
    format!("/{}", printable::name(path))
}

/// Writes a layer entry by entry. When it is dropped unfinished, nothing of it is left.
#[derive(Debug)]
pub struct LayerWriter {
    frames: Frames,
    index: IndexBuilder,
    blob_dir: PathBuf,
    index_dir: PathBuf,
    compression: Compression,
    /// Whether the stream ends within an entry.
    broken: bool,
}

/// A finished layer, not yet in a store.
#[derive(Debug)]
pub struct NewLayer {
    /// Media type, digest and size of the blob.
    pub descriptor: Descriptor,
    /// Digest of the content.
    pub diff_id: DiffId,
    /// The blob, to be renamed into place; not synced to disk.
    pub blob: NamedTempFile,
    /// The layer's index, under its name already.
    pub index: LayerIndex,
}

impl LayerWriter {
    /// A layer without entries. Its blob is written to a temporary file in `tmp_dir`, its index
    /// will lie in the store's `indexes` directory.
    pub fn create(
        tmp_dir: &Path,
        indexes: &Path,
        compression: Compression,
    ) -> Result<Self, WriteError> {
        Self::with_workers(tmp_dir, indexes, compression, frames::workers())
    }

    fn with_workers(
        tmp_dir: &Path,
        indexes: &Path,
        compression: Compression,
        workers: usize,
    ) -> Result<Self, WriteError> {
        compression.check()?;
        let frames = Frames::new(tmp_dir, compression, workers);
        let index = IndexBuilder::new(indexes);
        Ok(Self {
            frames: frames
                .map_err(|source| WriteError::Blob { dir: tmp_dir.to_owned(), source })?,
            index: index.map_err(|source| WriteError::Index { dir: indexes.to_owned(), source })?,
            blob_dir: tmp_dir.to_owned(),
            index_dir: indexes.to_owned(),
            compression,
            broken: false,
        })
    }

    /// Adds an entry. Of a file, exactly `entry.size` bytes of `content` are taken, of all else
    /// none. After [`WriteError::Entry`] the layer is as it was before, after any other error it
    /// cannot be finished.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), WriteError> {
        if self.broken {
            return Err(WriteError::GivenUp);
        }
        let header = tar::writer::header(entry);
        let header = header.map_err(|what| WriteError::Entry { path: entry.path.clone(), what })?;
        self.broken = true;
        self.write(&header)?;
        let len = if entry.kind == Kind::File { entry.size } else { 0 };
        let extent = Extent { file_offset: 0, content_offset: self.frames.content_len(), len };
        self.copy(entry, content, len)?;
        let extents: &[Extent] = if len > 0 { &[extent] } else { &[] };
        let indexed = self.index.entry(entry, extents);
        indexed.map_err(|source| self.index_error(source))?;
        self.broken = false;
        Ok(())
    }

    /// Ends the layer and writes its index.
    pub fn finish(mut self) -> Result<NewLayer, WriteError> {
        if self.broken {
            return Err(WriteError::GivenUp);
        }
        // POSIX: an archive ends with two blocks of zeros.
        self.write(&[0; 2 * BLOCK])?;
        let Self { frames, mut index, blob_dir, index_dir, compression, broken: _ } = self;
        let content_len = frames.content_len();
        let (blob, diff_id) =
            frames.finish().map_err(|source| WriteError::Blob { dir: blob_dir, source })?;
        let summary =
            Summary { digest: blob.digest, diff_id, toc: None, blob_len: blob.len, content_len };
        let added = blob.spans.iter().try_for_each(|span| index.span(span, &[]));
        let index = added.and_then(|()| index.finish(&summary));
        Ok(NewLayer {
            descriptor: Descriptor::new(compression.media_type(), blob.digest, blob.len),
            diff_id,
            blob: blob.file,
            index: index.map_err(|source| WriteError::Index { dir: index_dir, source })?,
        })
    }

    /// Copies a file's content straight into the frames, and pads it to a block.
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
            self.frames.advance(n).map_err(|source| self.blob_error(source))?;
        }
        let block = BLOCK as u64;
        let padding = usize::try_from(size.wrapping_neg() % block).expect("less than a block");
        self.write(&[0; BLOCK][..padding])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.frames.write(bytes).map_err(|source| self.blob_error(source))
    }

    fn blob_error(&self, source: io::Error) -> WriteError {
        WriteError::Blob { dir: self.blob_dir.clone(), source }
    }

    fn index_error(&self, source: io::Error) -> WriteError {
        WriteError::Index { dir: self.index_dir.clone(), source }
    }
}

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Self::Zstd(_) => LAYER_ZSTD,
            Self::Gzip(_) => LAYER_GZIP,
            Self::None => LAYER_TAR,
        }
    }

    fn check(self) -> Result<(), WriteError> {
        let (compressor, level, range) = match self {
            Self::Zstd(level) => ("zstd", i64::from(level), zstd::compression_level_range()),
            Self::Gzip(level) => ("gzip", i64::from(level), 0..=9),
            Self::None => return Ok(()),
        };
        let (min, max) = (*range.start(), *range.end());
        if (i64::from(min)..=i64::from(max)).contains(&level) {
            return Ok(());
        }
        Err(WriteError::Level { compressor, level, min, max })
    }
}

#[cfg(test)]
mod tests;
