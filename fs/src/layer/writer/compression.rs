//! The formats that a new layer can have.

use super::WriteError;
use crate::oci::manifest::{LAYER_GZIP, LAYER_TAR, LAYER_ZSTD};

/// How a new layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// zstd:chunked, with zstd's level (see [`zstd::compression_level_range`]): a zstd layer with
    /// a table of contents, whose files can be fetched one by one.
    ZstdChunked(i32),
    /// eStargz, with gzip's level from 0 to 9: a gzip layer with a table of contents.
    Estargz(u32),
    /// zstd, with its level.
    Zstd(i32),
    /// gzip, with its level from 0 to 9.
    Gzip(u32),
    /// Not at all.
    None,
}

/// What compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coder {
    Zstd(i32),
    Gzip(u32),
    None,
}

impl Default for Compression {
    /// zstd's own default level: beyond it, time grows much faster than size falls.
    fn default() -> Self {
        Self::ZstdChunked(3)
    }
}

impl Compression {
    /// The media type of such a layer.
    pub fn media_type(self) -> &'static str {
        match self.coder() {
            Coder::Zstd(_) => LAYER_ZSTD,
            Coder::Gzip(_) => LAYER_GZIP,
            Coder::None => LAYER_TAR,
        }
    }

    /// Fails if the compressor has no such level.
    pub fn check(self) -> Result<(), WriteError> {
        let (compressor, level, range) = match self.coder() {
            Coder::Zstd(level) => ("zstd", i64::from(level), zstd::compression_level_range()),
            Coder::Gzip(level) => ("gzip", i64::from(level), 0..=9),
            Coder::None => return Ok(()),
        };
        let (min, max) = (*range.start(), *range.end());
        if (i64::from(min)..=i64::from(max)).contains(&level) {
            return Ok(());
        }
        Err(WriteError::Level { compressor, level, min, max })
    }

    /// Whether such a layer has a table of contents.
    pub fn has_table(self) -> bool {
        match self {
            Self::ZstdChunked(_) | Self::Estargz(_) => true,
            Self::Zstd(_) | Self::Gzip(_) | Self::None => false,
        }
    }

    /// Whether the table is in the tar stream.
    pub(crate) fn is_estargz(self) -> bool {
        matches!(self, Self::Estargz(_))
    }

    pub(super) fn coder(self) -> Coder {
        match self {
            Self::ZstdChunked(level) | Self::Zstd(level) => Coder::Zstd(level),
            Self::Estargz(level) | Self::Gzip(level) => Coder::Gzip(level),
            Self::None => Coder::None,
        }
    }
}
