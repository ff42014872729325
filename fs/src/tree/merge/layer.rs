//! The merging of one layer over what the layers below made.

use std::cell::Cell;
use std::collections::HashMap;

use super::{Below, Merge, Node, Problem, ROOT, Shape, Source, TreeError, shows_below};
use crate::layer::index::{EntryView, LayerIndex, ViewKind};

/// As many symlinks are followed on the way to an entry's parent as Linux would (`MAXSYMLINKS`).
const MAX_HOPS: u32 = 40;
/// Directories that no entry names, for each entry: a path has up to 2048 of them.
const IMPLIED_PER_ENTRY: u64 = 16;
/// As many more may be in any layer.
const IMPLIED: u64 = 100_000;
/// Steps through the targets of symlinks, for each entry. A single path may take 80,000.
const STEPS_PER_ENTRY: u64 = 256;
/// As many more may be in any layer.
const STEPS: u64 = 4 << 20;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

/// A hard link whose target was not there yet.
#[derive(Clone, Copy)]
struct Pending<'a> {
    /// Stands for the target's inode.
    inode: u32,
    path: &'a [u8],
    target: &'a [u8],
}

/// Why a hard link has no target yet.
enum NoTarget {
    /// There is nothing at its path.
    Missing,
    /// This inode, which waits for its own target, has to be known first.
    Waits(u32),
    /// The symlinks on the way have no end.
    Endless,
}

/// The merging of one layer.
pub(super) struct LayerMerge<'m, 'a> {
    merge: &'m mut Merge<'a>,
    layer: &'a LayerIndex,
    number: u32,
    /// See [`Node::age`].
    age: u32,
    /// The parent of the entry before, and its path: mostly the parent of the next one too.
    last_parent: Option<(&'a [u8], u32)>,
    pending: Vec<Pending<'a>>,
    /// Where the names that this layer makes start.
    first_node: usize,
    /// Directories that no entry names which may still be made.
    implied_left: u64,
    /// Steps that may still be taken through the targets of symlinks.
    steps_left: Cell<u64>,
}

impl<'m, 'a> LayerMerge<'m, 'a> {
    pub(super) fn new(
        merge: &'m mut Merge<'a>,
        layer: &'a LayerIndex,
        number: u32,
    ) -> Result<Self, TreeError> {
        let age = number.checked_mul(2).ok_or(TreeError::TooMany)?;
        let first_node = merge.nodes.len();
        let entries = layer.len() as u64;
        Ok(Self {
            merge,
            layer,
            number,
            age,
            last_parent: None,
            pending: Vec::new(),
            first_node,
            implied_left: IMPLIED + IMPLIED_PER_ENTRY * entries,
            steps_left: Cell::new(STEPS + STEPS_PER_ENTRY * entries),
        })
    }

    pub(super) fn run(mut self, below: Below<'_>) -> Result<(), TreeError> {
        self.merge.reserve(self.layer.len());
        for number in 0..self.layer.len() {
            let entry = self.layer.entry(number)?;
            self.hide(&entry, below)?;
        }
        self.age += 1;
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
    fn hide(&mut self, entry: &EntryView<'a>, below: Below<'_>) -> Result<(), TreeError> {
        let (parent, name) = split(entry.path);
        let opaque = name == OPAQUE;
        let hidden = name.strip_prefix(WHITEOUT).filter(|_| !name.starts_with(AUFS));
        let Some(hidden) = hidden.or(opaque.then_some(b"opaque")) else { return Ok(()) };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.error(entry.path, Problem::Whiteout));
        }
        if opaque && parent.is_empty() && self.merge.over {
            return Err(self.error(entry.path, Problem::OpaqueRoot));
        }
        let Some(dir) = self.directory_below(parent, below, entry.path)? else { return Ok(()) };
        if opaque {
            // Also hides what other markers of this layer made in it.
            self.merge.nodes[dir as usize].opaque_from = self.age + 1;
            self.merge.nodes[dir as usize].hides_below = true;
            return Ok(());
        }
        if let Some(node) = self.merge.child(dir, hidden) {
            self.merge.remove(node);
        }
        // In a directory that the tree below does not have, overlayfs would list a whiteout.
        let over = self.merge.over && shows_below(&self.merge.nodes, dir);
        if over && below(parent).is_some() {
            let inode = self.merge.add_inode(Source::Whiteout, Shape::Whiteout)?;
            self.merge.add(Node::new(hidden, dir, inode, self.age))?;
        }
        Ok(())
    }

    /// The directory at a path of the layers below, or that stands for one of the tree below
    /// them; symlinks are not followed.
    fn directory_below(
        &mut self,
        path: &'a [u8],
        below: Below<'_>,
        entry: &[u8],
    ) -> Result<Option<u32>, TreeError> {
        let mut dir = ROOT;
        for name in components(path) {
            dir = match self.merge.child(dir, name) {
                Some(node) if self.merge.shape(node) == Shape::Directory => node,
                Some(_) => return Ok(None),
                None if !self.merge.over || !shows_below(&self.merge.nodes, dir) => {
                    return Ok(None);
                }
                None if name.starts_with(AUFS) || below(path).is_none() => return Ok(None),
                None => self.add_implied(dir, name, entry)?,
            };
        }
        Ok(Some(dir))
    }

    fn add(&mut self, entry: &EntryView<'a>, number: u32) -> Result<(), TreeError> {
        let source = Source::Entry { layer: self.number, entry: number };
        if entry.path.is_empty() {
            self.merge.inodes[0].source = source;
            return Ok(());
        }
        let (parent, name) = split(entry.path);
        let dir = self.parent(parent, entry.path)?;
        let mut node = Node::new(name, dir, 0, self.age);
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
        self.last_parent = None;
        let (path, target) = (entry.path, entry.link);
        if let Ok(found) = self.find_target(target)
            && self.merge.nodes[found as usize].age == self.age
        {
            if self.merge.shape(found) == Shape::Directory {
                return Err(self.error(path, Problem::LinkToDirectory(target.to_owned())));
            }
            if self.merge.child(node.parent, node.name) == Some(found) {
                return Ok(());
            }
            node.inode = self.merge.nodes[found as usize].inode;
        } else {
            node.inode = self.merge.add_inode(Source::Whiteout, Shape::Waiting)?;
            self.pending.push(Pending { inode: node.inode, path, target });
        }
        self.merge.add(node)?;
        Ok(())
    }

    /// The node a hard link means; symlinks of this layer on the way are followed.
    fn find_target(&self, path: &[u8]) -> Result<u32, NoTarget> {
        self.find_from(ROOT, path, &mut 0, false)
    }

    fn find_from(
        &self,
        dir: u32,
        path: &[u8],
        hops: &mut u32,
        follow_last: bool,
    ) -> Result<u32, NoTarget> {
        let mut at = dir;
        let mut names = components(path).peekable();
        while let Some(name) = names.next() {
            if name == b".." {
                at = self.merge.nodes[at as usize].parent;
                continue;
            }
            let node = self.merge.child(at, name).ok_or(NoTarget::Missing)?;
            if !follow_last && names.peek().is_none() {
                return Ok(node);
            }
            if self.merge.shape(node) == Shape::Waiting {
                return Err(NoTarget::Waits(self.merge.nodes[node as usize].inode));
            }
            at = match self.link_target(node) {
                Some(target) => {
                    *hops += 1;
                    if *hops > MAX_HOPS || !self.may_follow(target) {
                        return Err(NoTarget::Endless);
                    }
                    let from = if target.starts_with(b"/") { ROOT } else { at };
                    self.find_from(from, target, hops, true)?
                }
                None => node,
            };
        }
        Ok(at)
    }

    /// Whether the steps through one more target are still admitted.
    fn may_follow(&self, target: &[u8]) -> bool {
        let left = self.steps_left.get().checked_sub(components(target).count() as u64);
        self.steps_left.set(left.unwrap_or_default());
        left.is_some()
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
                dir = self.add_implied(dir, name, entry)?;
                continue;
            };
            dir = match (self.merge.shape(node), self.link_target(node)) {
                (Shape::Directory, _) => node,
                (_, Some(target)) => {
                    *hops += 1;
                    if *hops > MAX_HOPS || !self.may_follow(target) {
                        return Err(self.error(entry, Problem::SymlinkLoop));
                    }
                    let from = if target.starts_with(b"/") { ROOT } else { dir };
                    self.walk(from, target, hops, entry)?
                }
                (Shape::Other | Shape::Waiting, None)
                    if self.merge.nodes[node as usize].age == self.age =>
                {
                    return Err(self.error(entry, Problem::NotADirectory(name.to_owned())));
                }
                (Shape::Symlink | Shape::Other | Shape::Whiteout | Shape::Waiting, None) => {
                    self.add_implied(dir, name, entry)?
                }
            };
        }
        Ok(dir)
    }

    fn add_implied(&mut self, parent: u32, name: &'a [u8], entry: &[u8]) -> Result<u32, TreeError> {
        let left = self.implied_left.checked_sub(1);
        self.implied_left = left.ok_or_else(|| self.error(entry, Problem::Implied))?;
        let inode = self.merge.add_inode(Source::Implied(None), Shape::Directory)?;
        self.merge.add(Node::new(name, parent, inode, self.age))
    }

    /// Resolves the links whose targets came after them, lie in the layers below, or are such
    /// links themselves.
    fn resolve_pending(&mut self) -> Result<(), TreeError> {
        let mut ready = std::mem::take(&mut self.pending);
        let mut waiting: HashMap<u32, Vec<Pending<'a>>> = HashMap::new();
        let mut targets: HashMap<u32, u32> = HashMap::new();
        while let Some(link) = ready.pop() {
            match self.pending_target(&link)? {
                Ok(target) => {
                    let target = targets.get(&target).copied().unwrap_or(target);
                    self.merge.inodes[link.inode as usize] = self.merge.inodes[target as usize];
                    targets.insert(link.inode, target);
                    ready.extend(waiting.remove(&link.inode).unwrap_or_default());
                }
                Err(inode) => waiting.entry(inode).or_default().push(link),
            }
        }
        if let Some(link) = waiting.into_values().flatten().min_by_key(|link| link.inode) {
            return Err(self.error(link.path, Problem::NoTarget(link.target.to_owned())));
        }
        if !targets.is_empty() {
            for node in &mut self.merge.nodes[self.first_node..] {
                node.inode = targets.get(&node.inode).copied().unwrap_or(node.inode);
            }
        }
        Ok(())
    }

    /// The inode that a link means, or the one that has to be known first.
    fn pending_target(&self, link: &Pending<'a>) -> Result<Result<u32, u32>, TreeError> {
        let target = || link.target.to_owned();
        let found = match self.find_target(link.target) {
            Ok(found) => found,
            Err(NoTarget::Waits(inode)) => return Ok(Err(inode)),
            Err(NoTarget::Missing) => {
                return Err(self.error(link.path, Problem::NoTarget(target())));
            }
            Err(NoTarget::Endless) => return Err(self.error(link.path, Problem::SymlinkLoop)),
        };
        let inode = self.merge.nodes[found as usize].inode;
        match self.merge.shape(found) {
            Shape::Waiting => Ok(Err(inode)),
            Shape::Whiteout => Err(self.error(link.path, Problem::NoTarget(target()))),
            Shape::Directory => Err(self.error(link.path, Problem::LinkToDirectory(target()))),
            Shape::Symlink | Shape::Other => Ok(Ok(inode)),
        }
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
