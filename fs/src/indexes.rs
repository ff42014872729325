//! The store's directory of indexes: what may go when layers go.

use std::collections::HashSet;
use std::ffi::OsStr;
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
    let names: HashSet<String> = layers.iter().map(Digest::hex).collect();
    let mut ids = layers.clone();
    let (mut gone, mut trees) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(indexes).at("read", indexes)? {
        let path = entry.at("read", indexes)?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        if names.contains(name.split('.').next().unwrap_or_default()) {
            ids.extend(LayerIndex::id_of(name).map(|id| id.digest()));
            gone.push(path);
        } else if name.ends_with(".tree") {
            trees.push(path);
        }
    }
    // The trees first: what they belong to is known from the layers' indexes.
    for path in trees {
        if Tree::layers(&path).at("read", &path)?.iter().any(|layer| ids.contains(layer)) {
            remove(&path)?;
        }
    }
    gone.iter().try_for_each(|path| remove(path))
}

fn remove(path: &Path) -> Result<(), PathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}
