//! Which images a layer belongs to.

use std::collections::{BTreeMap, BTreeSet};

use super::Store;
use crate::digest::Digest;
use crate::oci::layout::{LayoutError, label};

impl Store {
    /// The names (for an image without one: the digest) of the images that have each layer. What
    /// a broken image has is not known.
    pub fn users_of_layers(&self) -> Result<BTreeMap<Digest, BTreeSet<String>>, LayoutError> {
        let layout = self.layout()?;
        let mut users: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        for descriptor in layout.descriptors() {
            let name = label(descriptor);
            match layout.image_at(&name, descriptor) {
                Ok(image) => {
                    for layer in image.layers {
                        users.entry(layer.descriptor.digest).or_default().insert(name.clone());
                    }
                }
                Err(error) => tracing::debug!("{name}: {error}"),
            }
        }
        Ok(users)
    }
}
