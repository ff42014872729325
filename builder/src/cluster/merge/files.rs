//! Which files of several images are in each other's way: those that more than one brings, with
//! another content.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::{fs, io};

use kfs_fs::content::Options;
use kfs_fs::error::AtPath as _;
use kfs_fs::filesystem::{ImageFs, Ino, ReadError};
use kfs_fs::oci::store::{Part, Store, StoreError};
use kfs_fs::oci::{Image, Layer};

use super::{Conflict, MergeError};
use crate::cluster::files::{Files, OpenFile};
use crate::cluster::registry_tree::BLOBS;

/// How much of two files is held in memory while they are compared, in bytes each.
const PIECE: usize = 1 << 20;

/// Adds the files that are in each other's way; layers that several images have are nobody's own.
/// Returns how many layers are not here: then nothing is compared, as nothing is to be fetched.
pub(super) fn conflicts(
    all: &[Image],
    store: &Store,
    conflicts: &mut BTreeSet<Conflict>,
) -> Result<usize, MergeError> {
    let own = own_layers(all);
    let remote = own.iter().flatten().filter(|layer| layer.blob.is_remote()).count();
    if remote > 0 {
        return Ok(remote);
    }
    let work = store.temp_dir()?;
    let mut trees = Vec::new();
    for (number, layers) in own.iter().enumerate() {
        let place = work.path().join(number.to_string());
        fs::create_dir(&place).at("make directory", &place).map_err(StoreError::from)?;
        let indexes = store.dir(Part::Indexes);
        let none = &mut |_: &[u8]| None;
        trees.push(ImageFs::open_over(layers, &indexes, &place, none, Options::default())?);
    }
    let mut owners: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, tree) in trees.iter().enumerate() {
        for file in regular_files(tree)? {
            // Blobs of the registry have their content for a name.
            if !file.starts_with(BLOBS) {
                owners.entry(file).or_default().push(number);
            }
        }
    }
    for (path, owners) in owners.into_iter().filter(|(_, owners)| owners.len() > 1) {
        let open = |number: &usize| Files::Image(&trees[*number]).open(&path);
        let files: Vec<_> = owners.iter().map(open).collect::<Result<_, _>>()?;
        let pairs = files.windows(2).map(|pair| same(pair[0].as_ref(), pair[1].as_ref()));
        let same = pairs.collect::<io::Result<Vec<bool>>>();
        let failed = |source| MergeError::Compare { path: path.clone(), source };
        if same.map_err(failed)?.contains(&false) {
            let images = owners.iter().map(|number| all[*number].name.clone()).collect();
            conflicts.insert(Conflict::File { path, images });
        }
    }
    Ok(0)
}

/// Of each image the layers that no other has.
fn own_layers(all: &[Image]) -> Vec<Vec<Layer>> {
    let mut count: HashMap<_, usize> = HashMap::new();
    for image in all {
        let distinct: BTreeSet<_> =
            image.layers.iter().map(|layer| layer.descriptor.digest).collect();
        distinct.into_iter().for_each(|digest| *count.entry(digest).or_default() += 1);
    }
    let is_own = |layer: &&Layer| count[&layer.descriptor.digest] == 1;
    all.iter().map(|image| image.layers.iter().filter(is_own).cloned().collect()).collect()
}

/// The regular files of a tree; symlinks are not followed, and names that are no UTF-8 left out.
fn regular_files(tree: &ImageFs) -> Result<BTreeSet<String>, ReadError> {
    let mut files = BTreeSet::new();
    let mut open = vec![(Ino::ROOT, String::new())];
    while let Some((directory, path)) = open.pop() {
        let mut at = 0;
        while let Some(entry) = tree.entry_at(directory, at)? {
            at += 1;
            let Ok(name) = std::str::from_utf8(entry.name) else { continue };
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            match entry.mode & 0o170_000 {
                0o040_000 => open.push((entry.ino, path)),
                0o100_000 => {
                    files.insert(path);
                }
                _ => {}
            }
        }
    }
    Ok(files)
}

fn same(one: Option<&OpenFile<'_>>, other: Option<&OpenFile<'_>>) -> io::Result<bool> {
    let (Some(one), Some(other)) = (one, other) else { return Ok(false) };
    if one.size() != other.size() {
        return Ok(false);
    }
    let mut at = 0;
    while at < one.size() {
        let (left, right) = (one.read_at(at, PIECE)?, other.read_at(at, PIECE)?);
        let both = left.len().min(right.len());
        if both == 0 || left[..both] != right[..both] {
            return Ok(false);
        }
        at += both as u64;
    }
    Ok(true)
}
