//! Which files of several images are in each other's way: those that more than one brings, with
//! another content.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::{fs, io};

use kfs_fs::content::Options;
use kfs_fs::error::AtPath as _;
use kfs_fs::filesystem::{ImageFs, Ino, ReadError};
use kfs_fs::oci::store::{Part, Store, StoreError};
use kfs_fs::oci::{Image, Layer};
use nix::libc::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};

use super::{Conflict, MergeError};
use crate::cluster::files::{Files, OpenFile, join};
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
        trees.push(open_tree(layers, store, work.path(), &number.to_string())?);
    }
    let mut owners: BTreeMap<String, Vec<Owned<'_>>> = BTreeMap::new();
    for (number, tree) in trees.iter().enumerate() {
        for (path, ino, mode) in entries(tree)? {
            // Blobs of the registry have their content for a name.
            if !path.starts_with(BLOBS) {
                owners.entry(path).or_default().push(Owned { number, tree, ino, mode });
            }
        }
    }
    for (path, owners) in owners.into_iter().filter(|(_, owners)| owners.len() > 1) {
        let pairs = owners.windows(2).map(|pair| same(&pair[0], &pair[1], &path));
        if pairs.collect::<Result<Vec<bool>, _>>()?.contains(&false) {
            let images = owners.iter().map(|owned| all[owned.number].name.clone()).collect();
            conflicts.insert(Conflict::File { path, images });
        }
    }
    Ok(0)
}

/// What an image has at a path.
struct Owned<'a> {
    /// Which image.
    number: usize,
    tree: &'a ImageFs,
    ino: Ino,
    mode: u32,
}

/// The tree of these layers alone, whose index lies in a directory of this name in `work`.
pub(super) fn open_tree(
    layers: &[Layer],
    store: &Store,
    work: &Path,
    name: &str,
) -> Result<ImageFs, MergeError> {
    let place = work.join(name);
    fs::create_dir(&place).at("make directory", &place).map_err(StoreError::from)?;
    let indexes = store.dir(Part::Indexes);
    let none = &mut |_: &[u8]| None;
    Ok(ImageFs::open_over(layers, &indexes, &place, none, Options::default())?)
}

/// Whether these bits of `st_mode` are a directory's.
pub(super) fn is_directory(mode: u32) -> bool {
    mode & S_IFMT == S_IFDIR
}

/// Of each image the layers that no other has.
pub(super) fn own_layers(all: &[Image]) -> Vec<Vec<Layer>> {
    let mut count: HashMap<_, usize> = HashMap::new();
    for image in all {
        let distinct: BTreeSet<_> =
            image.layers.iter().map(|layer| layer.descriptor.digest).collect();
        distinct.into_iter().for_each(|digest| *count.entry(digest).or_default() += 1);
    }
    let is_own = |layer: &&Layer| count[&layer.descriptor.digest] == 1;
    all.iter().map(|image| image.layers.iter().filter(is_own).cloned().collect()).collect()
}

/// All that is in a tree; symlinks are not followed, and names that are no UTF-8 left out.
fn entries(tree: &ImageFs) -> Result<Vec<(String, Ino, u32)>, ReadError> {
    let mut entries = Vec::new();
    let mut open = vec![(Ino::ROOT, String::new())];
    while let Some((directory, path)) = open.pop() {
        let mut at = 0;
        while let Some(entry) = tree.entry_at(directory, at)? {
            at += 1;
            let Ok(name) = std::str::from_utf8(entry.name) else { continue };
            let path = join(&path, name);
            if is_directory(entry.mode) {
                open.push((entry.ino, path.clone()));
            }
            entries.push((path, entry.ino, entry.mode));
        }
    }
    Ok(entries)
}

/// Whether two images have the same at a path: the kind, and what is in the file or symlink.
fn same(one: &Owned<'_>, other: &Owned<'_>, path: &str) -> Result<bool, MergeError> {
    if one.mode & S_IFMT != other.mode & S_IFMT {
        return Ok(false);
    }
    match one.mode & S_IFMT {
        S_IFLNK => Ok(one.tree.readlink(one.ino)? == other.tree.readlink(other.ino)?),
        S_IFREG => {
            let one = Files::Image(one.tree).open(path)?;
            let other = Files::Image(other.tree).open(path)?;
            let failed = |source| MergeError::Compare { path: path.to_owned(), source };
            same_content(one.as_ref(), other.as_ref()).map_err(failed)
        }
        _ => Ok(true),
    }
}

fn same_content(one: Option<&OpenFile<'_>>, other: Option<&OpenFile<'_>>) -> io::Result<bool> {
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
