//! The store's directory of indexes: what may go when layers go.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use crate::digest::Digest;
use crate::error::{AtPath, PathError};
use crate::layer::index::LayerIndex;
use crate::tree::Tree;

/// Removes the indexes of these layers, and those of all images that have one of them. Whoever
/// has them open keeps them.
pub(crate) fn forget(indexes: &Path, layers: &HashSet<Digest>) -> Result<(), PathError> {
    for layer in layers {
        for path in LayerIndex::paths(indexes, *layer) {
            remove(&path)?;
        }
    }
    for entry in fs::read_dir(indexes).at("read", indexes)? {
        let path = entry.at("read", indexes)?.path();
        if path.extension().is_some_and(|extension| extension == "tree")
            && Tree::layers(&path).at("read", &path)?.iter().any(|layer| layers.contains(layer))
        {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), PathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}
