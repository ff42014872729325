//! Merges layer indexes. Pure: nothing is read but the indexes given.
//!
//! Nodes (names) and inodes are numbered as they appear; a node's parent has a smaller number. A
//! removed subtree is only cut off at its top, an opaque directory only remembers from which layer
//! on its children count: what is left at the end is found in one pass over the nodes.

mod layer;

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::write;
use crate::digest::Digest;
use crate::layer::Timestamp;
use crate::layer::index::{Damaged, LayerIndex};
use layer::LayerMerge;

const ROOT: u32 = 0;

/// Why layers cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// An entry makes no sense where it stands.
    #[error("layer {layer}, entry {}: {what}", path.escape_ascii())]
    Entry {
        /// Digest of the layer's blob.
        layer: Digest,
        /// The entry's path.
        path: Vec<u8>,
        /// The problem.
        what: Problem,
    },
    /// An index is damaged.
    #[error(transparent)]
    Index(#[from] Damaged),
    /// More than 2^32 names or inodes.
    #[error("the image has more files than can be numbered")]
    TooMany,
}

/// The problem with an entry.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file of the same layer stands where a directory should be.
    #[error("{} is not a directory, but entries of the same layer lie in it", .0.escape_ascii())]
    NotADirectory(Vec<u8>),
    /// Symlinks on the way to it go round in circles.
    #[error("there are too many symbolic links in its path")]
    SymlinkLoop,
    /// The paths of the layer have far more directories than the layer has entries.
    #[error("its layer has too many directories that no entry names")]
    Implied,
    /// The target of a hard link does not exist.
    #[error("it is a hard link to {}, which does not exist", .0.escape_ascii())]
    NoTarget(Vec<u8>),
    /// The target of a hard link is a directory.
    #[error("it is a hard link to {}, which is a directory", .0.escape_ascii())]
    LinkToDirectory(Vec<u8>),
    /// A whiteout that names nothing, or `.` or `..`.
    #[error("it is a whiteout without a name")]
    Whiteout,
    /// An opaque marker of the root, in a delta: overlayfs knows none.
    #[error("it hides the whole tree below, which a layer mounted over that tree cannot")]
    OpaqueRoot,
    /// The device number does not fit Linux' 12 + 20 bits.
    #[error("its device number is out of range")]
    Device,
}

/// A merged tree that is not yet on disk.
#[derive(Debug)]
pub struct MergedTree(pub(super) Vec<crate::mapped::Content>);

/// Merges layers, bottom first.
pub fn merge(layers: &[&LayerIndex]) -> Result<MergedTree, TreeError> {
    run(Merge::new(false), layers, &mut |_| None)
}

/// Merges layers, bottom first, into a tree that is to be a lower directory of overlayfs over a
/// tree that is not at hand: what the layers remove from it becomes a character device 0:0, and a
/// directory that hides it has overlayfs's xattr `trusted.overlay.opaque`.
/// `below` is asked which paths are directories of the tree below (no symlinks followed; the root
/// is the empty path), and for the metadata of those that no entry names.
///
/// Hard links to files of the tree below and an opaque root cannot be made and are an error.
pub fn merge_over(
    layers: &[&LayerIndex],
    below: &mut dyn FnMut(&[u8]) -> Option<Metadata>,
) -> Result<MergedTree, TreeError> {
    run(Merge::new(true), layers, below)
}

/// Tells which paths are directories of the tree below.
type Below<'b> = &'b mut dyn FnMut(&[u8]) -> Option<Metadata>;

/// Owner, permissions, time and xattrs of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Names and values, in the order of the names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn run<'a>(
    mut merge: Merge<'a>,
    layers: &[&'a LayerIndex],
    below: Below<'_>,
) -> Result<MergedTree, TreeError> {
    for (number, layer) in layers.iter().copied().enumerate() {
        let number = u32::try_from(number).map_err(|_| TreeError::TooMany)?;
        LayerMerge::new(&mut merge, layer, number)?.run(below)?;
    }
    merge.take_metadata(below)?;
    write::serialise(&merge.into_names(), layers).map(MergedTree)
}

/// Where an inode's metadata comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// A directory that no entry names, with the place of its metadata in [`Names::metadata`] if
    /// the tree below has it.
    Implied(Option<u32>),
    /// What stands for a removed name of the tree below.
    Whiteout,
    /// This entry of this layer.
    Entry { layer: u32, entry: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Directory,
    Symlink,
    Other,
    Whiteout,
    /// A hard link whose target is looked for at the end of its layer.
    Waiting,
}

#[derive(Clone, Copy, Debug)]
struct Inode {
    source: Source,
    shape: Shape,
}

/// A name in a directory.
#[derive(Clone, Debug)]
struct Node<'a> {
    name: &'a [u8],
    parent: u32,
    inode: u32,
    /// When the name was made: twice its layer's number, and one more if an entry made it and
    /// not a marker.
    age: u32,
    /// Of a directory: older children do not count.
    opaque_from: u32,
    /// Of a delta: what the tree below has at this path is gone.
    replaces: bool,
    /// Of a directory of a delta: hides what the tree below has in it.
    hides_below: bool,
    removed: bool,
}

/// The tree as far as it is merged.
struct Merge<'a> {
    nodes: Vec<Node<'a>>,
    inodes: Vec<Inode>,
    /// Nodes by parent and name; removed ones are not in it, hidden ones may be.
    names: HashTable<u32>,
    hasher: RandomState,
    /// Of implied directories that the tree below has.
    metadata: Vec<Metadata>,
    /// Whether removed names of a tree below are kept in mind.
    over: bool,
}

/// What is left of the merge: the names that count, in the order of their making.
pub(super) struct Names<'a> {
    /// Parent (a place in this list), name, inode. The root comes first.
    pub(super) nodes: Vec<(u32, &'a [u8], u32)>,
    /// By inode.
    pub(super) sources: Vec<Source>,
    /// Of implied directories.
    pub(super) metadata: Vec<Metadata>,
    /// Places in `nodes` of directories that hide what the tree below has in them, in order.
    pub(super) opaque: Vec<u32>,
}

impl<'a> Merge<'a> {
    fn new(over: bool) -> Self {
        let implied = Inode { source: Source::Implied(None), shape: Shape::Directory };
        Self {
            nodes: vec![Node::new(b"", ROOT, 0, 0)],
            inodes: vec![implied],
            names: HashTable::new(),
            hasher: RandomState::new(),
            metadata: Vec::new(),
            over,
        }
    }

    /// Asks for the metadata of implied directories that the tree below has too.
    fn take_metadata(&mut self, below: Below<'_>) -> Result<(), TreeError> {
        if !self.over {
            return Ok(());
        }
        // Whether the tree below is seen in a directory; the root is its own parent.
        let mut shows = vec![true; self.nodes.len()];
        for node in 0..self.nodes.len() {
            let shown = shows[self.nodes[node].parent as usize];
            shows[node] = shown && !self.nodes[node].hides_below;
            let inode = self.nodes[node].inode as usize;
            if let Source::Implied(None) = self.inodes[inode].source
                && !self.nodes[node].replaces
                && shown
                && let Some(metadata) = below(&path_of(&self.nodes, node))
            {
                let place = u32::try_from(self.metadata.len()).map_err(|_| TreeError::TooMany)?;
                self.inodes[inode].source = Source::Implied(Some(place));
                self.metadata.push(metadata);
            }
        }
        Ok(())
    }

    fn shape(&self, node: u32) -> Shape {
        self.inodes[self.nodes[node as usize].inode as usize].shape
    }

    /// The child that has this name, unless it is hidden.
    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        self.find(parent, name).filter(|node| self.counts(&self.nodes[*node as usize]))
    }

    fn counts(&self, node: &Node<'_>) -> bool {
        !node.removed && node.age >= self.nodes[node.parent as usize].opaque_from
    }

    fn find(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((parent, name));
        let same = |node: &u32| {
            let node = &self.nodes[*node as usize];
            node.parent == parent && node.name == name
        };
        self.names.find(hash, same).copied()
    }

    fn remove(&mut self, node: u32) {
        let Node { parent, name, .. } = self.nodes[node as usize];
        let hash = self.hasher.hash_one((parent, name));
        if let Ok(found) = self.names.find_entry(hash, |known| *known == node) {
            found.remove();
        }
        self.nodes[node as usize].removed = true;
    }

    /// Adds a name, in the place of what had it.
    fn add(&mut self, mut node: Node<'a>) -> Result<u32, TreeError> {
        if let Some(old) = self.find(node.parent, node.name) {
            // What was hidden of the tree below stays hidden.
            let directory = self.shape(old) == Shape::Directory;
            node.replaces = !directory || self.nodes[old as usize].replaces;
            node.hides_below = node.replaces || self.nodes[old as usize].hides_below;
            self.remove(old);
        }
        let number = u32::try_from(self.nodes.len()).map_err(|_| TreeError::TooMany)?;
        let hash = self.hasher.hash_one((node.parent, node.name));
        self.nodes.push(node);
        self.names.insert_unique(hash, number, hash_of(&self.nodes, &self.hasher));
        Ok(number)
    }

    /// Makes room for as many names more: growing step by step would hash every name again and
    /// again.
    fn reserve(&mut self, names: usize) {
        self.nodes.reserve(names);
        self.inodes.reserve(names);
        self.names.reserve(names, hash_of(&self.nodes, &self.hasher));
    }

    fn add_inode(&mut self, source: Source, shape: Shape) -> Result<u32, TreeError> {
        let number = u32::try_from(self.inodes.len()).map_err(|_| TreeError::TooMany)?;
        self.inodes.push(Inode { source, shape });
        Ok(number)
    }

    fn into_names(self) -> Names<'a> {
        const GONE: u32 = u32::MAX;
        let mut place = vec![GONE; self.nodes.len()];
        let mut nodes: Vec<(u32, &[u8], u32)> = Vec::with_capacity(self.nodes.len());
        let mut opaque = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let parent = place[node.parent as usize];
            // The root is its own parent and has no place yet.
            if number == 0 || (parent != GONE && self.counts(node)) {
                place[number] = u32::try_from(nodes.len()).expect("there are no more than nodes");
                let shape = self.inodes[node.inode as usize].shape;
                if self.over && node.hides_below && shape == Shape::Directory {
                    opaque.push(place[number]);
                }
                nodes.push((if number == 0 { 0 } else { parent }, node.name, node.inode));
            }
        }
        let sources = self.inodes.iter().map(|inode| inode.source).collect();
        Names { nodes, sources, metadata: self.metadata, opaque }
    }
}

impl<'a> Node<'a> {
    fn new(name: &'a [u8], parent: u32, inode: u32, age: u32) -> Self {
        let (opaque_from, replaces, hides_below, removed) = (0, false, false, false);
        Self { name, parent, inode, age, opaque_from, replaces, hides_below, removed }
    }
}

/// Whether what the tree below has in a directory is seen through a delta.
fn shows_below(nodes: &[Node<'_>], mut node: u32) -> bool {
    while node != ROOT && !nodes[node as usize].hides_below {
        node = nodes[node as usize].parent;
    }
    !nodes[node as usize].hides_below
}

fn hash_of(nodes: &[Node<'_>], hasher: &RandomState) -> impl Fn(&u32) -> u64 {
    |node| {
        let node = &nodes[*node as usize];
        hasher.hash_one((node.parent, node.name))
    }
}

/// The path of a node from the root.
fn path_of(nodes: &[Node<'_>], mut node: usize) -> Vec<u8> {
    let mut names = Vec::new();
    while node != ROOT as usize {
        names.push(nodes[node].name);
        node = nodes[node].parent as usize;
    }
    names.reverse();
    names.join(&b'/')
}

#[cfg(test)]
mod tests;
