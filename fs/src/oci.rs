//! Images as they are stored and named: references, manifests, the store, archives.

pub mod archive;
pub mod convert;
pub mod copy;
pub mod find;
#[cfg(test)]
pub(crate) mod fixture;
pub mod image;
pub mod import;
pub mod layout;
pub mod manifest;
pub mod reference;
pub mod registry;
mod similar;
mod soci;
pub mod store;
pub mod transfer;
mod walk;

use std::sync::Arc;

use crate::blob::BlobSource;
use crate::digest::{DiffId, Digest};
use layout::{LayoutError, Selection};
use manifest::{Descriptor, ImageConfig, Manifest};
use reference::Source;
use store::Store;

/// An image, resolved and verified down to its config; its layers are not yet read.
#[derive(Clone, Debug)]
pub struct Image {
    /// As the user named it.
    pub name: String,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest's bytes as stored.
    pub manifest_json: Vec<u8>,
    /// The config.
    pub config: ImageConfig,
    /// The config's bytes as stored.
    pub config_json: Vec<u8>,
    /// Bottom layer first, as many as the config has diffIDs.
    pub layers: Vec<Layer>,
}

/// A layer of an image and where its blob can be read.
#[derive(Clone, Debug)]
pub struct Layer {
    /// From the manifest.
    pub descriptor: Descriptor,
    /// From the config.
    pub diff_id: DiffId,
    /// The blob.
    pub blob: Arc<dyn BlobSource>,
    /// The table that makes the blob readable at any place, if the image has one for it.
    pub ztoc: Option<Ztoc>,
}

/// A table for random access to a layer, of the image's SOCI index.
#[derive(Clone, Debug)]
pub struct Ztoc {
    /// From the SOCI index, which the image's manifest names.
    pub descriptor: Descriptor,
    /// The table.
    pub blob: Arc<dyn BlobSource>,
}

/// Finds the image that a source names, in the store or where the source says.
pub fn select(source: &Source, store: &Store) -> Result<Selection, LayoutError> {
    store::select(source, store)
}

/// Finds the image that a source names, which is to be copied or sent elsewhere: as
/// [`select`], but no registry is asked what a name stands for that the store has.
pub fn select_as_it_is(source: &Source, store: &Store) -> Result<Selection, LayoutError> {
    store::select_as_it_is(source, store)
}

/// Finds and reads the image that a source names.
pub fn open(source: &Source, store: &Store) -> Result<Image, LayoutError> {
    select(source, store)?.image()
}

/// Reads an image of the store, or of where the source says, by its manifest: whatever the
/// source's name means by now.
pub fn open_manifest(
    source: &Source,
    manifest: Digest,
    store: &Store,
) -> Result<Image, LayoutError> {
    let (layout, _) = store::layout_of(source, store)?;
    layout.image_of_manifest(&source.to_string(), manifest)
}
