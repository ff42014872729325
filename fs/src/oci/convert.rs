//! An image with its layers in another format.
//!
//! Manifest and config stay what they are but for the layers: descriptors with the annotations of
//! the new format, diffIDs where the tar stream had to change, media types of OCI. A layer that
//! has the wanted format is kept. One whose table of contents contradicts its tar stream is refused
//! where the tar stream is used. Of an index, all platforms that are at hand are converted.
//!
//! The layers of an image are rewritten one after another, each on all cores, so that memory does
//! not depend on their number. Nothing gets its place in the store before all is done.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::image::{ImageError, read_index};
use super::layout::{Layout, LayoutError, Selection};
use super::manifest::{
    CONFIG, Compression as Stored, Descriptor, INDEX, MANIFEST, Manifest, is_index,
    layer_compression,
};
use super::reference::Name;
use super::store::{Part, Store, StoreError, Writer};
use super::{Image, Layer};
use crate::digest::{DiffId, Digest};
use crate::layer::rewrite::{Priorities, RewriteError, Target, compare, rewrite};
use crate::layer::toc::{
    ESTARGZ_TOC_DIGEST, MANIFEST_CHECKSUM, TAR_SPLIT_POSITION, ZSTD_CHUNKED_PREFIX,
};
use crate::layer::writer::{Compression, NewLayer};

/// Annotation of a manifest: the SOCI index of its layers as they were.
const SOCI_INDEX: &str = "com.amazon.soci.index-digest";
/// Of zstd:chunked, with a digest that today's stands in the table.
const TAR_SPLIT_CHECKSUM: &str = "tarsplit-checksum";

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Conversion<'a> {
    /// Name of the new image.
    pub name: &'a str,
    /// Format of its layers.
    pub compression: Compression,
    /// Files that come first in their layers; a layer is then rewritten even if it has the
    /// format.
    pub priorities: &'a Priorities,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Digest of the new manifest or index.
    pub digest: Digest,
    /// How many images were converted: one a platform.
    pub images: usize,
    /// Images of the index that are not at hand, or are none, by digest; they are left out.
    pub left_out: Vec<Digest>,
    /// The layers, bottom first, each once.
    pub layers: Vec<ConvertedLayer>,
    /// Paths that were to come first, but that no layer has.
    pub unfound: Vec<Vec<u8>>,
}

/// What became of a layer.
#[derive(Clone, Debug)]
pub struct ConvertedLayer {
    /// The layer as it was.
    pub from: Descriptor,
    /// The layer as it is now; the same blob if it was kept.
    pub to: Descriptor,
    /// Whether its tar stream is another one.
    pub changed: bool,
    /// Why it has no table of contents though its format should.
    pub plain: Option<String>,
}

/// Why an image cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The image, or the store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer.
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    /// No image of an index is at hand.
    #[error("{0} has no image that could be converted")]
    Nothing(String),
}

impl From<LayoutError> for ConvertError {
    fn from(error: LayoutError) -> Self {
        Self::Store(error.into())
    }
}

/// Converts an image, of the store or from elsewhere, and names the result. `progress` is called
/// with the number of bytes of a layer's blob just read.
pub fn convert(
    image: &Selection,
    store: &Store,
    conversion: &Conversion<'_>,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Converted, ConvertError> {
    // A wrong name is told before the work.
    let _: Name = conversion.name.parse().map_err(StoreError::from)?;
    let writer = store.writer()?;
    let tmp = store.temp_dir()?;
    let indexes = store.dir(Part::Indexes);
    let target = Target { tmp: tmp.path(), indexes: &indexes, compression: conversion.compression };
    let mut converter = Converter {
        layout: &image.layout,
        typed: &image.typed,
        target,
        priorities: conversion.priorities,
        progress,
        made: HashMap::new(),
        blobs: Vec::new(),
        kept: Vec::new(),
        documents: Vec::new(),
        result: Converted {
            digest: image.descriptor.digest,
            images: 0,
            left_out: Vec::new(),
            layers: Vec::new(),
            unfound: conversion.priorities.paths().to_vec(),
        },
    };
    let (json, media_type) = match is_index(&image.descriptor.media_type) {
        true => converter.index(&image.descriptor)?,
        false => (converter.image(&image.image()?)?, MANIFEST),
    };
    converter.store(&writer, conversion.name, &json, media_type)
}

/// What is done so far.
struct Converter<'a> {
    layout: &'a Layout,
    typed: &'a str,
    target: Target<'a>,
    priorities: &'a Priorities,
    progress: &'a (dyn Fn(u64) + Sync),
    /// Layers by what they were: platforms may share some.
    made: HashMap<(Digest, DiffId), (Descriptor, DiffId)>,
    blobs: Vec<NewLayer>,
    kept: Vec<Layer>,
    /// Configs, and the manifests of an index.
    documents: Vec<Vec<u8>>,
    result: Converted,
}

impl Converter<'_> {
    /// Converts all images of an index; returns the new index.
    fn index(&mut self, top: &Descriptor) -> Result<(Vec<u8>, &'static str), ConvertError> {
        let failed =
            |source| LayoutError::Image { name: self.typed.to_owned(), source: Box::new(source) };
        let mut index = read_index(self.layout, top).map_err(failed)?;
        let mut manifests = Vec::new();
        for mut descriptor in std::mem::take(&mut index.manifests) {
            let Some(image) = self.image_of(&descriptor)? else {
                self.result.left_out.push(descriptor.digest);
                continue;
            };
            let json = self.image(&image)?;
            descriptor.media_type = MANIFEST.to_owned();
            descriptor.digest = Digest::of(&json);
            descriptor.size = json.len() as u64;
            manifests.push(descriptor);
            self.documents.push(json);
        }
        if manifests.is_empty() {
            return Err(ConvertError::Nothing(self.typed.to_owned()));
        }
        index.manifests = manifests;
        index.media_type = Some(INDEX.to_owned());
        Ok((serde_json::to_vec(&index).expect("an index is plain data"), INDEX))
    }

    /// An image of an index; `None` if it is not at hand, or none (an attestation, say).
    fn image_of(&self, descriptor: &Descriptor) -> Result<Option<Image>, ConvertError> {
        let blob = self.layout.blob(descriptor.digest).map_err(StoreError::from)?;
        if blob.is_none() || is_index(&descriptor.media_type) {
            return Ok(None);
        }
        match self.layout.image_at(self.typed, descriptor) {
            Ok(image) => Ok(Some(image)),
            Err(LayoutError::Image { source, .. })
                if matches!(
                    *source,
                    ImageError::Artifact { .. } | ImageError::LayerType { .. }
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Converts an image; returns its manifest.
    fn image(&mut self, image: &Image) -> Result<Vec<u8>, ConvertError> {
        let mut layers = vec![None; image.layers.len()];
        let mut priorities = self.priorities.clone();
        // From the top: what a layer has hides what is below it.
        for (number, layer) in image.layers.iter().enumerate().rev() {
            layers[number] = Some(self.layer(layer, &mut priorities)?);
        }
        let (descriptors, diff_ids): (Vec<_>, Vec<_>) = layers.into_iter().flatten().unzip();
        self.result.images += 1;
        let config = if diff_ids == image.config.rootfs.diff_ids {
            image.config_json.clone()
        } else {
            config_with(&image.config_json, &diff_ids)
        };
        let json = manifest_with(image, &config, descriptors);
        self.documents.push(config);
        Ok(json)
    }

    fn layer(
        &mut self,
        layer: &Layer,
        priorities: &mut Priorities,
    ) -> Result<(Descriptor, DiffId), ConvertError> {
        let key = (layer.descriptor.digest, layer.diff_id);
        if let Some(made) = self.made.get(&key) {
            return Ok(made.clone());
        }
        let from = layer.descriptor.clone();
        let made = if priorities.is_empty() && has_format(&from, self.target.compression) {
            if !self.target.compression.has_table() {
                // It is wanted for its tar stream, whatever else it has.
                compare(layer, self.target.tmp, self.progress)?;
            }
            let to = from.in_oci_terms();
            self.kept.push(layer.clone());
            let (changed, plain) = (false, None);
            self.result.layers.push(ConvertedLayer { from, to: to.clone(), changed, plain });
            (to, layer.diff_id)
        } else {
            let new = rewrite(layer, self.target, priorities, self.progress)?;
            *priorities = priorities.without(&new.found);
            self.result.unfound.retain(|path| !new.found.contains(path));
            let new = new.layer;
            let made = (new.descriptor.clone(), new.diff_id);
            self.result.layers.push(ConvertedLayer {
                from,
                to: made.0.clone(),
                changed: new.diff_id != layer.diff_id,
                plain: new.plain.as_ref().map(ToString::to_string),
            });
            self.blobs.push(new);
            made
        };
        self.made.insert(key, made.clone());
        Ok(made)
    }

    /// Puts all into the store.
    fn store(
        self,
        writer: &Writer,
        name: &str,
        json: &[u8],
        media_type: &str,
    ) -> Result<Converted, ConvertError> {
        for new in self.blobs {
            writer.put_layer(new)?;
        }
        for layer in &self.kept {
            writer.take_in(layer)?;
        }
        for document in &self.documents {
            writer.put_bytes(document)?;
        }
        let digest = writer.add_image(Some(name), json, media_type)?;
        let mut result = self.result;
        // They were made from the top.
        result.layers.reverse();
        Ok(Converted { digest, ..result })
    }
}

/// Whether a layer has a format already; its level cannot be known.
fn has_format(layer: &Descriptor, compression: Compression) -> bool {
    let has = |key: &str| layer.annotations.contains_key(key);
    let chunked = |name: &str| has(&format!("{ZSTD_CHUNKED_PREFIX}{name}"));
    let stored = layer_compression(&layer.media_type);
    match compression {
        // Of the current generation: readers of podman take no other one in parts.
        Compression::ZstdChunked(_) => {
            stored == Some(Stored::Zstd)
                && chunked(MANIFEST_CHECKSUM)
                && chunked(TAR_SPLIT_POSITION)
                && !chunked(TAR_SPLIT_CHECKSUM)
        }
        Compression::Estargz(_) => stored == Some(Stored::Gzip) && has(ESTARGZ_TOC_DIGEST),
        Compression::Zstd(_) => stored == Some(Stored::Zstd),
        Compression::Gzip(_) => stored == Some(Stored::Gzip),
        Compression::None => stored == Some(Stored::None),
    }
}

/// The config with other diffIDs; all else as it was.
fn config_with(json: &[u8], diff_ids: &[DiffId]) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(json).expect("it was read as a config");
    let diff_ids = diff_ids.iter().map(|diff_id| Value::from(diff_id.to_string()));
    config["rootfs"]["diff_ids"] = diff_ids.collect();
    serde_json::to_vec(&config).expect("JSON that was read can be written")
}

fn manifest_with(image: &Image, config: &[u8], layers: Vec<Descriptor>) -> Vec<u8> {
    let old = &image.manifest;
    let same = |layer: &(&Descriptor, &Descriptor)| layer.0.digest == layer.1.digest;
    let kept = old.layers.iter().zip(&layers).all(|pair| same(&pair));
    let mut annotations: BTreeMap<_, _> = old.annotations.clone();
    if !kept {
        annotations.remove(SOCI_INDEX);
    }
    if kept && old.media_type.as_deref() == Some(MANIFEST) {
        return image.manifest_json.clone();
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: Descriptor {
            annotations: old.config.annotations.clone(),
            ..Descriptor::of(CONFIG, config)
        },
        layers,
        annotations,
    };
    serde_json::to_vec(&manifest).expect("a manifest is plain data")
}

#[cfg(test)]
mod tests;
