//! From a descriptor to an image: index, manifest, config and layers, each checked before it is
//! believed.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::find::Wanted;
use super::layout::{self, Layout};
use super::manifest::{
    CONFIG, DOCKER_CONFIG, Descriptor, ImageConfig, Index, Manifest, is_index, is_manifest,
    layer_compression,
};
use super::reference::Name;
use super::registry::RegistryError;
use super::store::StoreError;
use super::{Image, Layer, soci};
use crate::digest::{Digest, Mismatch};
use crate::error::PathError;

/// Indexes that point to indexes are followed this far; real ones have one level.
pub(crate) const MAX_DEPTH: u32 = 4;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A blob could not be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A manifest or config that is not here could not be fetched.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What was fetched could not be kept.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// A blob is not what its descriptor says.
    #[error(transparent)]
    Corrupt(Mismatch),
    /// A blob is not there.
    #[error("blob {digest} is missing in {}", location.display())]
    Missing {
        /// The blob.
        digest: Digest,
        /// The layout.
        location: PathBuf,
    },
    /// A manifest or config is too large to be one.
    #[error("{digest} has {size} bytes, too many for a manifest or config")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A manifest or config is not JSON of the right shape.
    #[error("{what} {digest} is malformed: {source}")]
    Json {
        /// `manifest`, `index` or `config`.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// Neither a manifest nor an index.
    #[error("{digest} has media type {found:?}, which is neither an image manifest nor an index")]
    NotAManifest {
        /// The blob.
        digest: Digest,
        /// Its media type.
        found: String,
    },
    /// The manifest says another media type than its descriptor.
    #[error("manifest {digest} says media type {found:?}, its descriptor {expected:?}")]
    Disagreement {
        /// The manifest.
        digest: Digest,
        /// What its descriptor says.
        expected: String,
        /// What it says.
        found: String,
    },
    /// A manifest for something else than a container image.
    #[error("manifest {digest} is an artifact of type {found:?}, not a container image")]
    Artifact {
        /// The manifest.
        digest: Digest,
        /// Its config's media type.
        found: String,
    },
    /// Docker's manifests before 2016.
    #[error(
        "manifest {digest} is of Docker's schema 1, which is not supported; convert it with `skopeo copy --format oci`"
    )]
    Schema1 {
        /// The manifest.
        digest: Digest,
    },
    /// Neither 1 nor 2.
    #[error("manifest {digest} has schemaVersion {version}, only 2 is known")]
    SchemaVersion {
        /// The manifest.
        digest: Digest,
        /// What it says.
        version: u32,
    },
    /// A layer that is no tar.
    #[error("layer {digest} has unknown media type {found:?}")]
    LayerType {
        /// The layer.
        digest: Digest,
        /// Its media type.
        found: String,
    },
    /// Manifest and config do not fit.
    #[error("manifest {digest} has {layers} layers, its config {diff_ids} diff_ids")]
    LayerCount {
        /// The manifest.
        digest: Digest,
        /// How many layers it has.
        layers: usize,
        /// How many diffIDs the config has.
        diff_ids: usize,
    },
    /// An index without an image for this machine.
    #[error("index {digest} has no image {}", instead_of(wanted, available))]
    Platform {
        /// The index.
        digest: Digest,
        /// `linux/amd64`.
        wanted: String,
        /// Those there are.
        available: Vec<String>,
    },
    /// Indexes that point to indexes without end.
    #[error("index {digest} is nested too deeply")]
    TooDeep {
        /// The innermost index that was looked at.
        digest: Digest,
    },
}

fn instead_of(wanted: &str, available: &[String]) -> String {
    match available {
        [] => "at all".to_owned(),
        available => format!("for {wanted}, only for: {}", layout::list(available)),
    }
}

/// This machine's architecture as Go names it.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        // arm, riscv64 and s390x are called the same.
        other => other,
    }
}

/// Reads the image that `top`, a manifest or an index, stands for on this machine.
pub(crate) fn open(layout: &Layout, name: &str, top: &Descriptor) -> Result<Image, ImageError> {
    let descriptor = choose_manifest(layout, top)?;
    let digest = descriptor.digest;
    let manifest_json = layout.json(&descriptor)?;
    check_kind(&descriptor, &manifest_json)?;
    let manifest: Manifest = parse("manifest", digest, &manifest_json)?;
    if ![CONFIG, DOCKER_CONFIG].contains(&manifest.config.media_type.as_str()) {
        return Err(ImageError::Artifact { digest, found: manifest.config.media_type });
    }
    let config_json = layout.json(&manifest.config)?;
    let config: ImageConfig = parse("config", manifest.config.digest, &config_json)?;
    let homes = match layout.remote {
        Some(_) => layout.names_of(name, top.digest),
        None => Vec::new(),
    };
    let layers = layers(layout, digest, &manifest, &config, &homes)?;
    let name = name.to_owned();
    Ok(Image { name, digest, manifest, manifest_json, config, config_json, layers })
}

fn layers(
    layout: &Layout,
    digest: Digest,
    manifest: &Manifest,
    config: &ImageConfig,
    homes: &[Name],
) -> Result<Vec<Layer>, ImageError> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(ImageError::LayerCount {
            digest,
            layers: manifest.layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    let mut ztocs = soci::ztocs(layout, manifest);
    let layer = |(descriptor, diff_id): (&Descriptor, &_)| {
        if layer_compression(&descriptor.media_type).is_none() {
            let found = descriptor.media_type.clone();
            return Err(ImageError::LayerType { digest: descriptor.digest, found });
        }
        let blob = layout.blob_from(descriptor, homes)?;
        let ztoc = ztocs.remove(&descriptor.digest);
        Ok(Layer { descriptor: descriptor.clone(), diff_id: *diff_id, blob, ztoc })
    };
    manifest.layers.iter().zip(diff_ids).map(layer).collect()
}

/// Follows indexes down to the manifest for the platform that is wanted.
pub(crate) fn choose_manifest(layout: &Layout, top: &Descriptor) -> Result<Descriptor, ImageError> {
    let mut descriptor = top.clone();
    for _ in 0..=MAX_DEPTH {
        if !is_index(&descriptor.media_type) {
            return check_manifest_type(descriptor);
        }
        let index = read_index(layout, &descriptor)?;
        let child = choose(descriptor.digest, index, layout.platform.as_ref())?;
        layout.follow(descriptor.digest, child.digest)?;
        descriptor = child;
    }
    Err(ImageError::TooDeep { digest: descriptor.digest })
}

/// Reads an index or manifest list.
pub(crate) fn read_index(layout: &Layout, descriptor: &Descriptor) -> Result<Index, ImageError> {
    let json = layout.json(descriptor)?;
    check_kind(descriptor, &json)?;
    parse("index", descriptor.digest, &json)
}

fn check_manifest_type(descriptor: Descriptor) -> Result<Descriptor, ImageError> {
    let digest = descriptor.digest;
    match descriptor.media_type.as_str() {
        manifest if is_manifest(manifest) => Ok(descriptor),
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => {
            Err(ImageError::Schema1 { digest })
        }
        _ => Err(ImageError::NotAManifest { digest, found: descriptor.media_type }),
    }
}

/// The entry for the platform that is wanted, by default linux on this architecture.
fn choose(digest: Digest, index: Index, wanted: Option<&Wanted>) -> Result<Descriptor, ImageError> {
    let host = Wanted::host();
    let wanted = wanted.unwrap_or(&host);
    wanted.entry(&index).cloned().ok_or_else(|| ImageError::Platform {
        digest,
        wanted: wanted.to_string(),
        available: index.manifests.iter().map(platform_of).collect(),
    })
}

/// `linux/arm/v7`.
fn platform_of(descriptor: &Descriptor) -> String {
    let Some(platform) = &descriptor.platform else { return "no platform".to_owned() };
    let variant = platform.variant.iter().map(|variant| format!("/{variant}"));
    format!("{}/{}{}", platform.os, platform.architecture, variant.collect::<String>())
}

/// Refuses a manifest that says of itself that it is something else, before its fields are read:
/// the errors are clearer, and nothing is read as what it is not.
fn check_kind(descriptor: &Descriptor, json: &[u8]) -> Result<(), ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        schema_version: Option<u32>,
        media_type: Option<String>,
        config: Option<Value>,
        layers: Option<Value>,
        manifests: Option<Value>,
    }
    let digest = descriptor.digest;
    let kind: Kind = parse("manifest", digest, json)?;
    match kind.schema_version {
        Some(1) => return Err(ImageError::Schema1 { digest }),
        Some(2) => {}
        version => {
            return Err(ImageError::SchemaVersion { digest, version: version.unwrap_or(0) });
        }
    }
    let expected = &descriptor.media_type;
    if let Some(found) = kind.media_type.filter(|found| found != expected) {
        return Err(ImageError::Disagreement { digest, expected: expected.clone(), found });
    }
    // A document that is both could be read as either by two programs (CVE-2021-41190).
    let (as_index, as_manifest) =
        (kind.manifests.is_some(), kind.config.is_some() || kind.layers.is_some());
    if is_index(expected) && as_manifest || is_manifest(expected) && as_index {
        let found = if is_index(expected) { "an image manifest" } else { "an index" }.to_owned();
        return Err(ImageError::Disagreement { digest, expected: expected.clone(), found });
    }
    Ok(())
}

fn parse<T: for<'a> Deserialize<'a>>(
    what: &'static str,
    digest: Digest,
    json: &[u8],
) -> Result<T, ImageError> {
    serde_json::from_slice(json).map_err(|source| ImageError::Json { what, digest, source })
}

#[cfg(test)]
mod tests;
