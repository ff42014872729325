//! Whether a layer is read by its table of contents, or whole.

use std::ops::Range;
use std::path::Path;

use super::{LayerError, index_error, scan_filling};
use crate::blob::from_any_place;
use crate::cache::Filling;
use crate::digest::{Digest, Found, Mismatch};
use crate::layer::index::{IndexBuilder, IndexId, LayerIndex, Summary};
use crate::layer::toc::FIRST_BYTES;
use crate::layer::toc::error::TocError;
use crate::layer::toc::trusted::TrustedToc;
use crate::layer::{estargz, soci, zstd_chunked};
use crate::oci::manifest::Descriptor;
use crate::oci::{Layer, Ztoc};

/// Opens the index of a layer, or makes it in the store's `indexes` directory: from its table of
/// contents, if the manifest names one, else from the whole blob. `progress` is called with the
/// number of bytes of the blob just read.
///
/// From a table that cannot be used no index is made, but what it would show is known all the
/// same: the whole blob without what only serves the format. That is kept under the table's name,
/// so that it is found there the next time, and by nobody who sees the layer with other eyes.
pub fn open_or_scan(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<LayerIndex, LayerError> {
    open_or_scan_filling(layer, indexes, progress, None)
}

/// As [`open_or_scan`]; the content of a remote blob that is read whole goes into the cache.
pub(crate) fn open_or_scan_filling(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
    filling: Option<&Filling>,
) -> Result<LayerIndex, LayerError> {
    let is_damaged = |error: &LayerError| error.is_damage();
    from_any_place(layer.blob.as_ref(), is_damaged, || {
        open_or_scan_once(layer, indexes, progress, filling)
    })
}

fn open_or_scan_once(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
    filling: Option<&Filling>,
) -> Result<LayerIndex, LayerError> {
    let whole = || open_or_scan_whole(layer, indexes, progress, filling);
    let trusted = TrustedToc::of(&layer.descriptor).map_err(|error| toc_error(layer, error))?;
    let beside = layer.ztoc.as_ref().map(Table::Soci);
    let Some(table) = trusted.map(Table::Inside).or(beside) else {
        return whole();
    };
    let digest = layer.descriptor.digest;
    let failed = |source| index_error(indexes, digest, source);
    let id = IndexId { layer: digest, toc: Some(table.digest()) };
    // SOCI shows nothing else than the whole blob does, which is beyond doubt.
    if matches!(table, Table::Soci(_))
        && let Some(index) = open_whole(layer, indexes)?
    {
        return Ok(index);
    }
    if let Some(index) = LayerIndex::open(indexes, id).map_err(failed)? {
        return Ok(index);
    }
    match read_table(layer, table, indexes, progress) {
        Ok(index) => Ok(index),
        Err(TocError::Index(source)) => Err(failed(source)),
        Err(why) if matches!(why, TocError::Unusable(_)) || is_about_soci(table, &why) => {
            tracing::warn!("layer {digest} cannot be read in parts: {why}; it is read whole");
            match table {
                Table::Inside(toc) => scan_for(layer, indexes, progress, filling, Some(toc)),
                Table::Soci(_) => whole(),
            }
        }
        Err(error) => Err(toc_error(layer, error)),
    }
}

/// The index that a layer's own table of contents gives, made anew in `dir`; `None` if it has no
/// table, or kfs shows what the tar stream says all the same.
pub(in crate::layer) fn index_by_table(
    layer: &Layer,
    dir: &Path,
) -> Result<Option<LayerIndex>, LayerError> {
    let trusted = TrustedToc::of(&layer.descriptor).map_err(|error| toc_error(layer, error))?;
    let Some(table) = trusted.map(Table::Inside) else { return Ok(None) };
    match read_table(layer, table, dir, &|_| ()) {
        Ok(index) => Ok(Some(index)),
        // Of one in another image kfs shows nothing.
        Err(TocError::Unusable(_) | TocError::External) => Ok(None),
        Err(TocError::Index(source)) => Err(index_error(dir, layer.descriptor.digest, source)),
        Err(error) => Err(toc_error(layer, error)),
    }
}

/// Whether only what lies beside the layer is wrong, which is as good without it.
fn is_about_soci(table: Table<'_>, why: &TocError) -> bool {
    matches!(table, Table::Soci(_)) && !matches!(why, TocError::Blob(_))
}

/// Whether a layer has a table of contents, if it keeps what its annotations promise.
pub(crate) fn has_table(layer: &Layer) -> bool {
    layer.ztoc.is_some() || matches!(TrustedToc::of(&layer.descriptor), Ok(Some(_)))
}

/// What will be read first of a remote layer whose table of contents is in it, if there is no index
/// of it yet.
pub(crate) fn first_read(layer: &Descriptor, indexes: &Path) -> Option<Range<u64>> {
    let toc = TrustedToc::of(layer).ok()??;
    let id = IndexId { layer: layer.digest, toc: Some(toc.digest()) };
    if LayerIndex::open(indexes, id).ok()?.is_some() {
        return None;
    }
    match toc {
        TrustedToc::Estargz { .. } => Some(estargz::first_read(layer.size)),
        TrustedToc::ZstdChunked(trusted) => zstd_chunked::first_read(trusted, layer.size),
    }
}

/// A table from which an index can be made.
#[derive(Clone, Copy)]
enum Table<'a> {
    Inside(TrustedToc),
    Soci(&'a Ztoc),
}

impl Table<'_> {
    fn digest(self) -> Digest {
        match self {
            Self::Inside(toc) => toc.digest(),
            Self::Soci(ztoc) => ztoc.descriptor.digest,
        }
    }
}

fn open_or_scan_whole(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
    filling: Option<&Filling>,
) -> Result<LayerIndex, LayerError> {
    if let Some(index) = open_whole(layer, indexes)? {
        return Ok(index);
    }
    scan_for(layer, indexes, progress, filling, None)
}

fn scan_for(
    layer: &Layer,
    indexes: &Path,
    progress: &(dyn Fn(u64) + Sync),
    filling: Option<&Filling>,
    toc: Option<TrustedToc>,
) -> Result<LayerIndex, LayerError> {
    let filling = filling.filter(|_| layer.blob.is_remote());
    let id = IndexId { layer: layer.descriptor.digest, toc: toc.map(TrustedToc::digest) };
    scan_filling(layer, indexes, progress, filling.map(|filling| filling.layer(id)), toc)
}

/// The index made from the whole blob. One with another diffID may be damaged as well as the
/// config may be wrong.
fn open_whole(layer: &Layer, indexes: &Path) -> Result<Option<LayerIndex>, LayerError> {
    let digest = layer.descriptor.digest;
    let index = LayerIndex::open(indexes, digest);
    let index = index.map_err(|source| index_error(indexes, digest, source))?;
    Ok(index.filter(|index| index.summary().diff_id == layer.diff_id))
}

fn read_table(
    layer: &Layer,
    table: Table<'_>,
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
    let content_len = match table {
        Table::Inside(TrustedToc::Estargz { digest }) => {
            estargz::index(blob, digest, &mut builder, progress)
        }
        Table::Inside(TrustedToc::ZstdChunked(trusted)) => {
            builder.first(first_bytes(&layer.descriptor));
            zstd_chunked::index(blob, trusted, &mut builder, progress)
        }
        Table::Soci(ztoc) => soci::index(blob, ztoc, &mut builder),
    }?;
    let summary = Summary {
        digest: expected,
        diff_id: layer.diff_id,
        toc: Some(table.digest()),
        blob_len: size,
        content_len,
    };
    builder.finish(&summary).map_err(TocError::Index)
}

/// What is to be fetched first. That it makes no sense is no reason not to read the layer.
fn first_bytes(layer: &Descriptor) -> u64 {
    let text = layer.annotations.get(FIRST_BYTES);
    text.and_then(|text| text.parse().ok()).filter(|len| *len <= layer.size).unwrap_or(0)
}

fn toc_error(layer: &Layer, source: TocError) -> LayerError {
    let (digest, location) = (layer.descriptor.digest, layer.blob.location());
    let remote = layer.blob.is_remote();
    match source {
        TocError::Blob(mismatch) => LayerError::Corrupt { mismatch, location, remote },
        TocError::Read(source) => LayerError::Read { layer: digest, location, source },
        source => LayerError::Toc { layer: digest, source },
    }
}
