//! The finished image: manifest and config put together and stored under its name.

use kfs_fs::blob::BlobReader;
use kfs_fs::digest::Digest;
use kfs_fs::oci::manifest::{
    CONFIG, Compression, Descriptor, History, ImageConfig, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD,
    MANIFEST, Manifest, layer_compression,
};
use kfs_fs::oci::store::{Expected, StoreError, Writer};
use kfs_fs::oci::{Image, Layer};

use super::{BuildError, Built};
use crate::cache::{self, Cache};

/// What an image is made of.
pub(super) struct New<'a> {
    pub(super) base: Option<&'a Image>,
    pub(super) layers: &'a [Layer],
    pub(super) config: ImageConfig,
    /// Of the new steps, without times.
    pub(super) history: Vec<History>,
    /// RFC 3339.
    pub(super) now: String,
}

/// Stores an image whose new layers are stored already; of the base, the layers that the store
/// lacks are copied.
pub(super) fn store(
    writer: &Writer,
    cache: &Cache,
    new: New<'_>,
    tag: Option<&str>,
) -> Result<Built, BuildError> {
    let base_layers = new.base.map_or(&[][..], |base| &base.layers);
    for layer in base_layers {
        take_in(writer, layer)?;
    }
    let all = || base_layers.iter().chain(new.layers);
    let mut config = new.config;
    config.created = None;
    config.rootfs.diff_ids = all().map(|layer| layer.diff_id).collect();
    let steps = config.history.len();
    config.history.extend(new.history);
    let json = |config: &ImageConfig| serde_json::to_vec(config).expect("strings and lists");
    let created =
        cache.first_built(cache::key(Digest::of(&json(&config)), &["image"]), &new.now)?;
    config.history[steps..].iter_mut().for_each(|step| step.created = Some(created.clone()));
    config.created = Some(created);
    let config = json(&config);
    let id = writer.put_bytes(&config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: Descriptor::of(CONFIG, &config),
        layers: all().map(|layer| oci_descriptor(&layer.descriptor)).collect(),
        annotations: Default::default(),
    };
    let manifest = serde_json::to_vec(&manifest).expect("strings, numbers and lists");
    let digest = writer.add_image(tag, &manifest, MANIFEST)?;
    Ok(Built { digest, id })
}

/// Copies a layer that lies elsewhere (in a layout or archive named in FROM).
fn take_in(writer: &Writer, layer: &Layer) -> Result<(), StoreError> {
    let descriptor = &layer.descriptor;
    if writer.blob(descriptor.digest).is_ok_and(|blob| blob.size() == descriptor.size) {
        return Ok(());
    }
    let what = format!("layer {} ({})", descriptor.digest, layer.blob.location());
    let reader = BlobReader::new(layer.blob.clone());
    writer.put_blob(reader, Expected::from(descriptor), &what)?;
    Ok(())
}

/// The descriptor with Docker's media types replaced by those of OCI, for an OCI manifest.
fn oci_descriptor(descriptor: &Descriptor) -> Descriptor {
    let mut descriptor = descriptor.clone();
    if descriptor.media_type.starts_with("application/vnd.docker.") {
        descriptor.media_type = match layer_compression(&descriptor.media_type) {
            Some(Compression::None) => LAYER_TAR,
            Some(Compression::Zstd) => LAYER_ZSTD,
            Some(Compression::Gzip) | None => LAYER_GZIP,
        }
        .to_owned();
    }
    descriptor
}
