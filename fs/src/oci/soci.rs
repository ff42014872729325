//! SOCI indexes: tables that make plain gzip layers readable at any place.
//!
//! An image made by `soci convert` names its index in an annotation of its manifest, so the
//! index is as trusted as the manifest. (Indexes of the first version, which others attach to an
//! image as referrers, are not: anybody who can push could put one there.) The index is a
//! manifest whose layers are the tables, one a layer of the image.
//!
//! Source: `docs/soci-index-manifest-v2.md` and `soci/soci_index.go` of awslabs/soci-snapshotter.

use std::collections::{BTreeMap, HashMap};

use super::Ztoc;
use super::image::ImageError;
use super::layout::Layout;
use super::manifest::{Descriptor, MANIFEST, Manifest};
use crate::digest::{Digest, DigestError};

/// Annotation of an image's manifest: the digest of its index.
const INDEX_DIGEST: &str = "com.amazon.soci.index-digest";
/// Annotation of a table in the index: the digest of the layer that it is of.
const LAYER_DIGEST: &str = "com.amazon.soci.image-layer-digest";
/// Media type of an index's config.
const CONFIG_V2: &str = "application/vnd.amazon.soci.index.v2+json";

/// The tables that an image has, by the digests of its layers. Without them, layers are read
/// whole, so a missing or broken index is no error.
pub(super) fn ztocs(layout: &Layout, image: &Manifest) -> HashMap<Digest, Ztoc> {
    let Some(value) = image.annotations.get(INDEX_DIGEST) else { return HashMap::new() };
    match read(layout, value) {
        Ok(ztocs) => ztocs,
        // Tools that copy an image for one platform leave it behind.
        Err(SociError::Image(ImageError::Missing { .. })) => HashMap::new(),
        Err(error) => {
            tracing::warn!("the image's SOCI index {value} is not used: {error}");
            HashMap::new()
        }
    }
}

/// The index that a manifest with these annotations names.
pub(super) fn index_of(annotations: &BTreeMap<String, String>) -> Option<Digest> {
    annotations.get(INDEX_DIGEST)?.parse().ok()
}

#[derive(Debug, thiserror::Error)]
enum SociError {
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("it is malformed: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it is of unknown type {0:?}")]
    Type(String),
}

/// The blobs of the index that a manifest with these annotations names, as far as the layout has
/// them; what is pointed to comes first.
pub(super) fn blobs(layout: &Layout, annotations: &BTreeMap<String, String>) -> Vec<Descriptor> {
    let here =
        |descriptor: &Descriptor| layout.blob(descriptor.digest).is_ok_and(|blob| blob.is_some());
    let digest = index_of(annotations);
    let Some(Ok(Some(blob))) = digest.map(|digest| layout.blob(digest)) else { return Vec::new() };
    let digest = digest.expect("its blob was found");
    let Ok((index, manifest)) = open(layout, digest, blob.size()) else { return Vec::new() };
    let parts = std::iter::once(manifest.config).chain(manifest.layers);
    parts.filter(here).chain([index]).collect()
}

fn read(layout: &Layout, digest: &str) -> Result<HashMap<Digest, Ztoc>, SociError> {
    let digest: Digest = digest.parse()?;
    // The annotation has no size; whoever has the index knows it.
    let size = layout.blob(digest).map_err(ImageError::from)?.map_or(0, |blob| blob.size());
    let (_, index) = open(layout, digest, size)?;
    let mut ztocs = HashMap::new();
    for descriptor in index.layers {
        let Some(layer) = descriptor.annotations.get(LAYER_DIGEST) else { continue };
        let layer = layer.parse()?;
        let blob = layout.blob_of(&descriptor)?;
        ztocs.insert(layer, Ztoc { descriptor, blob });
    }
    Ok(ztocs)
}

/// Reads an index.
fn open(layout: &Layout, digest: Digest, size: u64) -> Result<(Descriptor, Manifest), SociError> {
    let descriptor = Descriptor::new(MANIFEST, digest, size);
    let index: Manifest = serde_json::from_slice(&layout.json(&descriptor)?)?;
    if index.config.media_type != CONFIG_V2 {
        return Err(SociError::Type(index.config.media_type));
    }
    Ok((descriptor, index))
}
