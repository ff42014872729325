//! The layers of an image with their indexes, and how they become one tree.

use std::path::Path;

use super::OpenError;
use crate::cache::Filling;
use crate::digest::Digest;
use crate::layer::index::LayerIndex;
use crate::layer::scan::{self, LayerError};
use crate::oci::Layer;
use crate::parallel::in_parallel;
use crate::tree::{MergedTree, TreeError};

/// Tables of contents that are read at the same time, each at most 16 MiB of memory at once.
const TABLES_AT_ONCE: usize = 4;

/// Opens layers in a store's `indexes` directory.
pub(super) struct Opener<'a> {
    pub(super) indexes: &'a Path,
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
    pub(super) filling: Option<&'a Filling>,
}

impl Opener<'_> {
    pub(super) fn open(&self, layers: &[Layer]) -> Result<Vec<(LayerIndex, Layer)>, LayerError> {
        // A table of contents takes round trips and work for one processor, so all are read first
        // and together. A layer that is read whole takes all there is: these come one after the
        // other.
        let tables: Vec<&Layer> = layers.iter().filter(|layer| scan::has_table(layer)).collect();
        let opened = in_parallel(&tables, TABLES_AT_ONCE, |layer| self.open_one(layer))?;
        let mut opened = opened.into_iter();
        let mut index = |layer: &Layer| match scan::has_table(layer) {
            true => Ok(opened.next().expect("one for each")),
            false => self.open_one(layer),
        };
        layers.iter().map(|layer| Ok((index(layer)?, layer.clone()))).collect()
    }

    fn open_one(&self, layer: &Layer) -> Result<LayerIndex, LayerError> {
        scan::open_or_scan_filling(layer, self.indexes, self.progress, self.filling)
    }

    /// Merges layers. Those whose SOCI index does not fit are read whole: what lies beside a layer
    /// does not make it worse.
    pub(super) fn merge(
        &self,
        layers: &mut [(LayerIndex, Layer)],
        mut merge: impl FnMut(&[&LayerIndex]) -> Result<MergedTree, TreeError>,
    ) -> Result<MergedTree, OpenError> {
        loop {
            let error = match merge(&indexes_of(layers)) {
                Ok(merged) => return Ok(merged),
                Err(error) => error,
            };
            let suspects = suspects(layers, &error);
            if suspects.is_empty() {
                return Err(error.into());
            }
            for place in suspects {
                let (index, layer) = &mut layers[place];
                let digest = layer.descriptor.digest;
                tracing::warn!(
                    "layer {digest} cannot be read in parts: its SOCI index does not fit: \
                     {error}; it is read whole"
                );
                layer.ztoc = None;
                *index = self.open_one(layer)?;
            }
        }
    }
}

/// The places of layers whose SOCI index may be the reason for an error: the one that has the
/// entry, or, if that is beyond doubt, those that lie below it.
fn suspects(layers: &[(LayerIndex, Layer)], error: &TreeError) -> Vec<usize> {
    let TreeError::Entry { layer: named, .. } = error else { return Vec::new() };
    let is_named = |(_, layer): &(LayerIndex, Layer)| layer.descriptor.digest == *named;
    let end = layers.iter().rposition(is_named).map_or(layers.len(), |last| last + 1);
    let by_soci: Vec<usize> = (0..end).filter(|place| is_by_soci(&layers[*place])).collect();
    let itself: Vec<usize> =
        by_soci.iter().copied().filter(|place| is_named(&layers[*place])).collect();
    if itself.is_empty() { by_soci } else { itself }
}

fn is_by_soci((index, layer): &(LayerIndex, Layer)) -> bool {
    let ztoc = layer.ztoc.as_ref().map(|ztoc| ztoc.descriptor.digest);
    ztoc.is_some() && index.id().toc == ztoc
}

fn indexes_of(layers: &[(LayerIndex, Layer)]) -> Vec<&LayerIndex> {
    layers.iter().map(|(index, _)| index).collect()
}

pub(super) fn digests(layers: &[(LayerIndex, Layer)]) -> Vec<Digest> {
    layers.iter().map(|(index, _)| index.id().digest()).collect()
}
