//! What one image has and another one, whose layers lie above, deletes: a layer on top of all has
//! it again, as if the images' root file systems had been copied over each other.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use kfs_fs::filesystem::{ImageFs, Ino, ReadError};
use kfs_fs::layer::writer::{Compression, LayerWriter};
use kfs_fs::layer::{Entry, Kind};
use kfs_fs::oci::store::{Part, Store, Writer};
use kfs_fs::oci::{Image, Layer};

use super::MergeError;
use super::files::{is_directory, open_tree, own_layers};
use crate::diff::join;
use crate::view::View;

/// The layer on top.
pub(super) struct Restored {
    pub(super) layer: Layer,
    /// How many files and directories are there again.
    pub(super) count: usize,
}

/// Writes the layer; `None` if nothing is deleted. `stack` are the layers of the merged image.
/// Layers that all images have are looked at only if all of them are here, as nothing is to be
/// fetched; if other layers are not here, none is.
pub(super) fn layer(
    all: &[Image],
    stack: &[Layer],
    store: &Store,
    writer: &Writer,
) -> Result<Option<Restored>, MergeError> {
    let is_remote = |layer: &Layer| layer.blob.is_remote();
    let sets = match stack.iter().any(is_remote) {
        false => all.iter().map(|image| image.layers.clone()).collect(),
        true => own_layers(all),
    };
    if sets.iter().flatten().any(is_remote) {
        return Ok(None);
    }
    let work = store.temp_dir()?;
    let here: HashSet<_> = sets.iter().flatten().map(|layer| layer.descriptor.digest).collect();
    let stack = stack.iter().filter(|layer| here.contains(&layer.descriptor.digest));
    let merged = open_tree(&stack.cloned().collect::<Vec<_>>(), store, work.path(), "merged")?;
    let mut trees = Vec::new();
    for (number, layers) in sets.iter().enumerate() {
        trees.push(open_tree(layers, store, work.path(), &number.to_string())?);
    }
    let missing = missing(&trees, &merged)?;
    if missing.is_empty() {
        return Ok(None);
    }
    let views = trees.into_iter().chain([merged]);
    let views: Vec<View> =
        views.map(|tree| View { base: Some(Arc::new(tree)), delta: None }).collect();
    let indexes = store.dir(Part::Indexes);
    let mut new = LayerWriter::create(work.path(), &indexes, Compression::default())?;
    for (path, number) in with_parents(&missing, views.len() - 1) {
        append(&mut new, path, &views[number])?;
    }
    let layer = writer.put_layer(new.finish()?)?;
    Ok(Some(Restored { layer, count: missing.len() }))
}

/// What the merged tree lacks.
#[derive(Clone, Copy)]
struct Missing {
    /// The last image that has it.
    image: usize,
    is_directory: bool,
}

fn missing(trees: &[ImageFs], merged: &ImageFs) -> Result<BTreeMap<Vec<u8>, Missing>, ReadError> {
    let mut missing = BTreeMap::new();
    for (image, tree) in trees.iter().enumerate().rev() {
        let mut open = vec![(Ino::ROOT, Some(Ino::ROOT), Vec::new())];
        while let Some((directory, in_merged, path)) = open.pop() {
            let mut at = 0;
            while let Some(entry) = tree.entry_at(directory, at)? {
                at += 1;
                let path = join(&path, entry.name);
                let is_one = is_directory(entry.mode);
                let known = in_merged.map_or(Ok(None), |ino| merged.lookup(ino, entry.name))?;
                let will_be_one = match &known {
                    Some(known) => is_directory(known.mode),
                    None => {
                        let new = Missing { image, is_directory: is_one };
                        missing.entry(path.clone()).or_insert(new).is_directory
                    }
                };
                // Nothing can be below what is no directory.
                if is_one && will_be_one {
                    open.push((entry.ino, known.map(|known| known.ino), path));
                }
            }
        }
    }
    Ok(missing)
}

/// The directories that lead to what is missing too, as the merged tree has them: a tool that
/// unpacks the layer alone would make them up.
fn with_parents(missing: &BTreeMap<Vec<u8>, Missing>, merged: usize) -> BTreeMap<&[u8], usize> {
    let mut all: BTreeMap<&[u8], usize> = BTreeMap::new();
    for (path, one) in missing {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            all.entry(&path[..end]).or_insert(merged);
        }
        all.insert(path, one.image);
    }
    all
}

fn append(new: &mut LayerWriter, path: &[u8], view: &View) -> Result<(), MergeError> {
    let Some(seen) = view.stat(path)? else { return Ok(()) };
    let Some(kind) = seen.kind else { return Ok(()) };
    let file = view.image_file(path)?.filter(|_| kind == Kind::File);
    let entry = Entry {
        path: path.to_vec(),
        size: if kind == Kind::File { seen.size } else { 0 },
        kind,
        mode: seen.mode,
        uid: seen.owner.uid,
        gid: seen.owner.gid,
        mtime: seen.mtime,
        xattrs: view.xattrs(path)?,
    };
    match file {
        Some(file) => new.append(&entry, &mut file.reader())?,
        None => new.append(&entry, &mut io::empty())?,
    }
    Ok(())
}
