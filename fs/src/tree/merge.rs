//! Merges layer indexes. Pure: nothing is read but the indexes given.
//!
//! Nodes (names) and inodes are numbered as they appear; a node's parent has a smaller number. A
//! removed subtree is only cut off at its top, an opaque directory only remembers from which layer
//! on its children count: what is left at the end is found in one pass over the nodes.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::file::{self, Content};
use crate::digest::Digest;
use crate::layer::Timestamp;
use crate::layer::index::{Damaged, EntryView, LayerIndex, ViewKind};

const ROOT: u32 = 0;
/// As many symlinks are followed on the way to an entry's parent as Linux would (`MAXSYMLINKS`).
const MAX_HOPS: u32 = 40;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

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
    /// The target of a hard link does not exist.
    #[error("it is a hard link to {}, which does not exist", .0.escape_ascii())]
    NoTarget(Vec<u8>),
    /// The target of a hard link is a directory.
    #[error("it is a hard link to {}, which is a directory", .0.escape_ascii())]
    LinkToDirectory(Vec<u8>),
    /// A whiteout that names nothing, or `.` or `..`.
    #[error("it is a whiteout without a name")]
    Whiteout,
    /// The device number does not fit Linux' 12 + 20 bits.
    #[error("its device number is out of range")]
    Device,
}

/// A merged tree that is not yet on disk.
#[derive(Debug)]
pub struct MergedTree(pub(super) Vec<Content>);

/// Merges layers, bottom first.
pub fn merge(layers: &[&LayerIndex]) -> Result<MergedTree, TreeError> {
    run(Merge::new(false), layers, &mut |_| None)
}

/// Merges layers, bottom first, into a tree that is to be a lower directory of overlayfs over a
/// tree that is not at hand: what the layers remove from it becomes a character device 0:0, and a
/// directory that hides it has overlayfs's xattr `trusted.overlay.opaque`.
/// `below` is asked for the metadata of directories that no entry names.
///
/// Hard links to files of the tree below cannot be made and are an error.
pub fn merge_over(
    layers: &[&LayerIndex],
    below: &mut dyn FnMut(&[u8]) -> Option<Metadata>,
) -> Result<MergedTree, TreeError> {
    run(Merge::new(true), layers, below)
}

/// All that is known of a directory beside what is in it.
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
    /// Names and values of extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

fn run<'a>(
    mut merge: Merge<'a>,
    layers: &[&'a LayerIndex],
    below: &mut dyn FnMut(&[u8]) -> Option<Metadata>,
) -> Result<MergedTree, TreeError> {
    for (number, layer) in layers.iter().copied().enumerate() {
        let number = u32::try_from(number).map_err(|_| TreeError::TooMany)?;
        LayerMerge { merge: &mut merge, layer, number, last_parent: None, pending: Vec::new() }
            .run()?;
    }
    merge.take_metadata(below);
    file::serialise(&merge.into_names(), layers).map(MergedTree)
}

/// Where an inode's metadata comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    /// A directory that no entry names, with the place of its metadata in [`Names::below`], if the
    /// tree below has it.
    Implied(Option<usize>),
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
    /// The layer that made the name.
    layer: u32,
    /// The entry of that layer that made it, 0 for implied directories.
    entry: u32,
    /// Of a directory: children that older layers made do not count.
    opaque_from: u32,
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
    /// Whether removed names of a tree below are kept in mind.
    over: bool,
    /// Metadata of directories of the tree below.
    below: Vec<Metadata>,
}

/// What is left of the merge: the names that count, in the order of their making.
pub(super) struct Names<'a> {
    /// Parent (a place in this list), name, inode. The root comes first.
    pub(super) nodes: Vec<(u32, &'a [u8], u32)>,
    /// By inode.
    pub(super) sources: Vec<Source>,
    /// Places in `nodes` of directories that hide what the tree below has in them, in order.
    pub(super) opaque: Vec<u32>,
    /// Metadata of directories of the tree below.
    pub(super) below: Vec<Metadata>,
}

impl<'a> Merge<'a> {
    fn new(over: bool) -> Self {
        let implied = Inode { source: Source::Implied(None), shape: Shape::Directory };
        Self {
            nodes: vec![Node::new(b"", ROOT, 0, 0)],
            inodes: vec![implied],
            names: HashTable::new(),
            hasher: RandomState::new(),
            over,
            below: Vec::new(),
        }
    }

    /// Asks for the metadata of implied directories.
    fn take_metadata(&mut self, below: &mut dyn FnMut(&[u8]) -> Option<Metadata>) {
        for node in 0..self.nodes.len() {
            let inode = self.nodes[node].inode as usize;
            if let Source::Implied(place @ None) = &mut self.inodes[inode].source
                && let Some(metadata) = below(&path_of(&self.nodes, node))
            {
                *place = Some(self.below.len());
                self.below.push(metadata);
            }
        }
    }

    fn shape(&self, node: u32) -> Shape {
        self.inodes[self.nodes[node as usize].inode as usize].shape
    }

    /// The child that has this name, unless it is hidden.
    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        self.find(parent, name).filter(|node| self.counts(&self.nodes[*node as usize]))
    }

    fn counts(&self, node: &Node<'_>) -> bool {
        !node.removed && node.layer >= self.nodes[node.parent as usize].opaque_from
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
            node.hides_below = !directory || self.nodes[old as usize].hides_below;
            self.remove(old);
        }
        let number = u32::try_from(self.nodes.len()).map_err(|_| TreeError::TooMany)?;
        let hash = self.hasher.hash_one((node.parent, node.name));
        self.nodes.push(node);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.names.insert_unique(hash, number, |node| {
            let node = &nodes[*node as usize];
            hasher.hash_one((node.parent, node.name))
        });
        Ok(number)
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
        Names { nodes, sources, opaque, below: self.below }
    }
}

impl<'a> Node<'a> {
    fn new(name: &'a [u8], parent: u32, inode: u32, layer: u32) -> Self {
        let (entry, opaque_from, hides_below, removed) = (0, 0, false, false);
        Self { name, parent, inode, layer, entry, opaque_from, hides_below, removed }
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

/// A hard link whose target is not there yet.
struct Pending<'a> {
    node: Node<'a>,
    path: &'a [u8],
    target: &'a [u8],
}

/// The merging of one layer.
struct LayerMerge<'m, 'a> {
    merge: &'m mut Merge<'a>,
    layer: &'a LayerIndex,
    number: u32,
    /// The parent of the entry before, and its path: mostly the parent of the next one too.
    last_parent: Option<(&'a [u8], u32)>,
    pending: Vec<Pending<'a>>,
}

impl<'a> LayerMerge<'_, 'a> {
    fn run(mut self) -> Result<(), TreeError> {
        for number in 0..self.layer.len() {
            let entry = self.layer.entry(number)?;
            self.hide(&entry)?;
        }
        for number in 0..self.layer.len() {
            let entry = self.layer.entry(number)?;
            if !is_marker(entry.path) {
                let number = u32::try_from(number).map_err(|_| TreeError::TooMany)?;
                self.add(&entry, number)?;
            }
        }
        self.resolve_pending()
    }

    fn error(&self, path: &[u8], what: Problem) -> TreeError {
        TreeError::Entry { layer: self.layer.summary().digest, path: path.to_owned(), what }
    }

    /// Applies a whiteout or opaque marker to the layers below.
    fn hide(&mut self, entry: &EntryView<'a>) -> Result<(), TreeError> {
        let (parent, name) = split(entry.path);
        let opaque = name == OPAQUE;
        let hidden = name.strip_prefix(WHITEOUT).filter(|_| !name.starts_with(AUFS));
        let Some(hidden) = hidden.or(opaque.then_some(b"opaque")) else { return Ok(()) };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.error(entry.path, Problem::Whiteout));
        }
        let dir = match self.find_below(parent) {
            Some(dir) if self.merge.shape(dir) == Shape::Directory => dir,
            _ if self.merge.over => self.imply(parent)?,
            _ => return Ok(()),
        };
        if opaque {
            self.merge.nodes[dir as usize].opaque_from = self.number;
            self.merge.nodes[dir as usize].hides_below = true;
            return Ok(());
        }
        if let Some(node) = self.merge.child(dir, hidden) {
            self.merge.remove(node);
        }
        if self.merge.over && !self.merge.nodes[dir as usize].hides_below {
            let inode = self.merge.add_inode(Source::Whiteout, Shape::Whiteout)?;
            self.merge.add(Node::new(hidden, dir, inode, self.number))?;
        }
        Ok(())
    }

    /// The directory at a path, made where it lacks; symlinks are not followed.
    fn imply(&mut self, path: &'a [u8]) -> Result<u32, TreeError> {
        components(path).try_fold(ROOT, |dir, name| match self.merge.child(dir, name) {
            Some(node) if self.merge.shape(node) == Shape::Directory => Ok(node),
            _ => self.add_implied(dir, name),
        })
    }

    /// The node at a path of the layers below; symlinks are not followed.
    fn find_below(&self, path: &[u8]) -> Option<u32> {
        components(path).try_fold(ROOT, |dir, name| self.merge.child(dir, name))
    }

    fn add(&mut self, entry: &EntryView<'a>, number: u32) -> Result<(), TreeError> {
        let source = Source::Entry { layer: self.number, entry: number };
        if entry.path.is_empty() {
            self.merge.inodes[0].source = source;
            return Ok(());
        }
        let (parent, name) = split(entry.path);
        let dir = self.parent(parent, entry.path)?;
        let mut node = Node { entry: number, ..Node::new(name, dir, 0, self.number) };
        let old = self.merge.child(dir, name);
        let shape = match entry.kind {
            ViewKind::Hardlink => return self.link(node, entry),
            ViewKind::Directory => Shape::Directory,
            ViewKind::Symlink => Shape::Symlink,
            ViewKind::File | ViewKind::CharDevice | ViewKind::BlockDevice | ViewKind::Fifo => {
                Shape::Other
            }
        };
        if let Some(old) = old
            && shape == Shape::Directory
            && self.merge.shape(old) == Shape::Directory
        {
            let inode = self.merge.nodes[old as usize].inode;
            self.merge.inodes[inode as usize].source = source;
            return Ok(());
        }
        if old.is_some() {
            self.last_parent = None;
        }
        node.inode = self.merge.add_inode(source, shape)?;
        self.merge.add(node)?;
        Ok(())
    }

    /// Links to what the layer already has at the target, or waits for the layer's end.
    fn link(&mut self, mut node: Node<'a>, entry: &EntryView<'a>) -> Result<(), TreeError> {
        let target = entry.link;
        if let Some(found) = self.find_target(target)
            && self.merge.nodes[found as usize].layer == self.number
            && self.merge.shape(found) != Shape::Whiteout
        {
            if self.merge.shape(found) == Shape::Directory {
                return Err(self.error(entry.path, Problem::LinkToDirectory(target.to_owned())));
            }
            if self.merge.child(node.parent, node.name) != Some(found) {
                node.inode = self.merge.nodes[found as usize].inode;
                self.last_parent = None;
                self.merge.add(node)?;
            }
            return Ok(());
        }
        self.pending.push(Pending { node, path: entry.path, target });
        Ok(())
    }

    /// The node a hard link means; symlinks of this layer on the way are followed.
    fn find_target(&self, path: &[u8]) -> Option<u32> {
        self.find_from(ROOT, path, &mut 0, false)
    }

    fn find_from(&self, dir: u32, path: &[u8], hops: &mut u32, follow_last: bool) -> Option<u32> {
        let mut at = dir;
        let mut names = components(path).peekable();
        while let Some(name) = names.next() {
            if name == b".." {
                at = self.merge.nodes[at as usize].parent;
                continue;
            }
            let node = self.merge.child(at, name)?;
            let follow = follow_last || names.peek().is_some();
            at = match self.link_target(node) {
                Some(target) if follow => {
                    *hops += 1;
                    if *hops > MAX_HOPS {
                        return None;
                    }
                    let from = if target.starts_with(b"/") { ROOT } else { at };
                    self.find_from(from, target, hops, true)?
                }
                _ => node,
            };
        }
        Some(at)
    }

    /// The target of a node that is a symlink of this layer.
    fn link_target(&self, node: u32) -> Option<&'a [u8]> {
        let node = &self.merge.nodes[node as usize];
        let inode = &self.merge.inodes[node.inode as usize];
        match inode.source {
            Source::Entry { layer, entry }
                if inode.shape == Shape::Symlink && layer == self.number =>
            {
                self.layer.entry(entry as usize).ok().map(|entry| entry.link)
            }
            _ => None,
        }
    }

    /// The directory that an entry lies in, made where it lacks.
    fn parent(&mut self, parent: &'a [u8], path: &[u8]) -> Result<u32, TreeError> {
        if let Some((last, node)) = self.last_parent
            && last == parent
        {
            return Ok(node);
        }
        let node = self.walk(ROOT, parent, &mut 0, path)?;
        self.last_parent = Some((parent, node));
        Ok(node)
    }

    fn walk(
        &mut self,
        mut dir: u32,
        path: &'a [u8],
        hops: &mut u32,
        entry: &[u8],
    ) -> Result<u32, TreeError> {
        for name in components(path) {
            if name == b".." {
                dir = self.merge.nodes[dir as usize].parent;
                continue;
            }
            let Some(node) = self.merge.child(dir, name) else {
                dir = self.add_implied(dir, name)?;
                continue;
            };
            dir = match (self.merge.shape(node), self.link_target(node)) {
                (Shape::Directory, _) => node,
                (_, Some(target)) => {
                    *hops += 1;
                    if *hops > MAX_HOPS {
                        return Err(self.error(entry, Problem::SymlinkLoop));
                    }
                    let from = if target.starts_with(b"/") { ROOT } else { dir };
                    self.walk(from, target, hops, entry)?
                }
                (Shape::Other, None) if self.merge.nodes[node as usize].layer == self.number => {
                    return Err(self.error(entry, Problem::NotADirectory(name.to_owned())));
                }
                (Shape::Symlink | Shape::Other | Shape::Whiteout, None) => {
                    self.add_implied(dir, name)?
                }
            };
        }
        Ok(dir)
    }

    fn add_implied(&mut self, parent: u32, name: &'a [u8]) -> Result<u32, TreeError> {
        let inode = self.merge.add_inode(Source::Implied(None), Shape::Directory)?;
        self.merge.add(Node::new(name, parent, inode, self.number))
    }

    /// Resolves the links whose targets came after them, lie in the layers below, or are such
    /// links themselves.
    fn resolve_pending(&mut self) -> Result<(), TreeError> {
        let pending = std::mem::take(&mut self.pending);
        let paths: HashSet<&[u8]> = pending.iter().map(|link| link.path).collect();
        let mut waiting: HashMap<&[u8], Vec<&Pending<'a>>> = HashMap::new();
        let mut ready = Vec::new();
        for link in &pending {
            if paths.contains(link.target) {
                waiting.entry(link.target).or_default().push(link);
            } else {
                ready.push(link);
            }
        }
        while let Some(link) = ready.pop() {
            self.add_pending(link)?;
            ready.extend(waiting.remove(link.path).unwrap_or_default());
        }
        match waiting.into_values().flatten().next() {
            None => Ok(()),
            Some(link) => Err(self.error(link.path, Problem::NoTarget(link.target.to_owned()))),
        }
    }

    fn add_pending(&mut self, link: &Pending<'a>) -> Result<(), TreeError> {
        let target = || link.target.to_owned();
        let found = self.find_target(link.target);
        let Some(found) = found.filter(|node| self.merge.shape(*node) != Shape::Whiteout) else {
            return Err(self.error(link.path, Problem::NoTarget(target())));
        };
        if self.merge.shape(found) == Shape::Directory {
            return Err(self.error(link.path, Problem::LinkToDirectory(target())));
        }
        let old = self.merge.child(link.node.parent, link.node.name);
        let superseded = old.is_some_and(|old| {
            let node = &self.merge.nodes[old as usize];
            old == found || (node.layer == self.number && node.entry > link.node.entry)
        });
        if !superseded {
            let inode = self.merge.nodes[found as usize].inode;
            self.merge.add(Node { inode, ..link.node.clone() })?;
        }
        Ok(())
    }
}

/// Whether a path is a whiteout, an opaque marker, or AUFS's own.
fn is_marker(path: &[u8]) -> bool {
    split(path).1.starts_with(WHITEOUT) || components(path).any(|name| name.starts_with(AUFS))
}

/// A path's parent and last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The names of a path or link target, without empty ones and `.`.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

#[cfg(test)]
mod tests;
