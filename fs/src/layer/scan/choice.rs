//! Whether a layer is read by its table of contents, or whole.

use std::path::Path;

use super::{LayerError, index_error, scan};
use crate::digest::{Found, Mismatch};
use crate::layer::index::{IndexBuilder, IndexId, LayerIndex, Summary};
use crate::layer::toc::error::TocError;
use crate::layer::toc::trusted::TrustedToc;
use crate::layer::{estargz, zstd_chunked};
use crate::oci::Layer;

/// Opens the index of a layer, or makes it in the store's `indexes` directory: from its table of
/// contents, if the manifest names one, else from the whole blob. `progress` is called with the
/// number of bytes of the blob just read.
pub fn open_or_scan(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<LayerIndex, LayerError> {
    let digest = layer.descriptor.digest;
    let trusted = TrustedToc::of(&layer.descriptor).map_err(|error| toc_error(layer, error))?;
    if let Some(toc) = trusted {
        let id = IndexId { layer: digest, toc: Some(toc.digest()) };
        let known = LayerIndex::open(indexes, id);
        if let Some(index) = known.map_err(|source| index_error(indexes, digest, source))? {
            return Ok(index);
        }
        match read_toc(layer, toc, indexes, progress) {
            Ok(index) => return Ok(index),
            Err(TocError::Unusable(why)) => {
                tracing::warn!(
                    "layer {digest} cannot be read by its table of contents: {why}; reading it whole"
                );
            }
            Err(TocError::Index(source)) => return Err(index_error(indexes, digest, source)),
            Err(error) => return Err(toc_error(layer, error)),
        }
    }
    match LayerIndex::open(indexes, digest).map_err(|error| index_error(indexes, digest, error))? {
        // An index with another diffID may be damaged as well as the config may be wrong.
        Some(index) if index.summary().diff_id == layer.diff_id => Ok(index),
        _ => scan(layer, indexes, progress),
    }
}

fn read_toc(
    layer: &Layer,
    toc: TrustedToc,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<LayerIndex, TocError> {
    let blob = layer.blob.as_ref();
    let (expected, size) = (layer.descriptor.digest, layer.descriptor.size);
    if blob.size() != size {
        let found = Found::Size(size, blob.size());
        return Err(TocError::Blob(Mismatch { expected, found }));
    }
    let mut builder = IndexBuilder::new(indexes).map_err(TocError::Index)?;
    let content_len = match toc {
        TrustedToc::Estargz { digest } => estargz::index(blob, digest, &mut builder, progress),
        TrustedToc::ZstdChunked(trusted) => {
            zstd_chunked::index(blob, trusted, &mut builder, progress)
        }
    }?;
    let summary = Summary {
        digest: layer.descriptor.digest,
        diff_id: layer.diff_id,
        toc: Some(toc.digest()),
        blob_len: size,
        content_len,
    };
    builder.finish(&summary).map_err(TocError::Index)
}

fn toc_error(layer: &Layer, source: TocError) -> LayerError {
    let (digest, location) = (layer.descriptor.digest, layer.blob.location());
    match source {
        TocError::Blob(mismatch) => LayerError::Corrupt { mismatch, location },
        TocError::Read(source) => LayerError::Read { layer: digest, location, source },
        source => LayerError::Toc { layer: digest, source },
    }
}
