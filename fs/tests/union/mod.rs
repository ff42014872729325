//! What layers make of each other, as simple as it can be said: a map of paths, changed entry by
//! entry. Follows the OCI image spec, layer.md, and the rules at the head of `fs/src/tree.rs`; it
//! shares no code with the tree and has no regard to speed.

use std::collections::BTreeMap;

use kfs_fs::layer::{Device, Entry, Kind};

use crate::images::{Listing, Member, S_IFDIR, S_IFLNK, S_IFREG, Seen, count_links};

/// The names from the root to something.
type Path = Vec<Vec<u8>>;

#[derive(Clone, Debug)]
enum What {
    /// A directory that no entry names.
    Implied,
    /// This entry, with its content.
    Entry(Member),
    /// A hard link whose target is looked for at the end of its layer.
    Waiting,
    /// Such a link, when it is found: the same as this inode.
    Same(usize),
}

#[derive(Clone, Debug)]
struct Inode {
    layer: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
struct Name {
    inode: usize,
    layer: usize,
}

/// The number of the entry that makes no sense.
type Wrong = usize;

enum Found {
    Nothing,
    Name(Path),
    /// It depends on a hard link that still waits.
    Later,
}

/// The tree so far.
#[derive(Debug, Default)]
pub(crate) struct Union {
    names: BTreeMap<Path, Name>,
    inodes: Vec<Inode>,
    layers: usize,
}

impl Union {
    pub(crate) fn new() -> Self {
        let mut union = Self::default();
        union.put(Path::new(), What::Implied);
        union
    }

    /// Lays a layer over the tree; `Err` with the number of an entry that makes no sense.
    pub(crate) fn add(&mut self, layer: &[Member]) -> Result<(), Wrong> {
        self.layers += 1;
        for (number, member) in layer.iter().enumerate() {
            self.hide(&split(&member.entry.path)).ok_or(number)?;
        }
        let mut waiting = Vec::new();
        for (number, member) in layer.iter().enumerate() {
            let path = split(&member.entry.path);
            if !is_marker(&path) {
                self.add_entry(path, member, number, &mut waiting).ok_or(number)?;
            }
        }
        self.settle(waiting)
    }

    fn inode(&self, name: Name) -> &Inode {
        match &self.inodes[name.inode].what {
            What::Same(inode) => self.inode(Name { inode: *inode, ..name }),
            _ => &self.inodes[name.inode],
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.names.get(path).is_some_and(|name| match &self.inode(*name).what {
            What::Implied => true,
            What::Entry(member) => member.entry.kind == Kind::Directory,
            What::Waiting | What::Same(_) => false,
        })
    }

    /// The target of a symlink of this layer.
    fn symlink(&self, name: Name) -> Option<Vec<u8>> {
        let inode = self.inode(name);
        match &inode.what {
            What::Entry(Member { entry: Entry { kind: Kind::Symlink(target), .. }, .. })
                if inode.layer == self.layers =>
            {
                Some(target.clone())
            }
            _ => None,
        }
    }

    fn remove(&mut self, path: &Path) {
        self.names.retain(|other, _| !other.starts_with(path));
    }

    fn put(&mut self, path: Path, what: What) -> usize {
        self.inodes.push(Inode { layer: self.layers, what });
        let inode = self.inodes.len() - 1;
        self.put_inode(path, inode);
        inode
    }

    fn put_inode(&mut self, path: Path, inode: usize) {
        self.remove(&path);
        self.names.insert(path, Name { inode, layer: self.layers });
    }

    /// What a marker takes away from the layers below; `None` for a marker without sense.
    fn hide(&mut self, path: &Path) -> Option<()> {
        let Some((last, dir)) = path.split_last() else { return Some(()) };
        if dir.iter().any(|name| name.starts_with(b".wh..wh.")) {
            return Some(());
        }
        if last == b".wh..wh..opq" {
            self.names.retain(|other, _| !(other.len() > dir.len() && other.starts_with(dir)));
        } else if let Some(name) = last.strip_prefix(b".wh.")
            && !name.starts_with(b".wh.")
        {
            if [&b""[..], b".", b".."].contains(&name) {
                return None;
            }
            self.remove(&[dir, &[name.to_vec()]].concat());
        }
        Some(())
    }

    fn add_entry(
        &mut self,
        mut path: Path,
        member: &Member,
        number: usize,
        waiting: &mut Vec<(Wrong, usize, Path)>,
    ) -> Option<()> {
        if let Some(last) = path.pop() {
            path = self.directory(Path::new(), &path, &mut 0)?;
            path.push(last);
        }
        if let Kind::Hardlink(target) = &member.entry.kind {
            let target = split(target);
            if let Found::Name(found) = self.find(Path::new(), &target, &mut 0, false)
                && self.names[&found].layer == self.layers
            {
                if self.is_dir(&found) {
                    return None;
                }
                if found != path {
                    self.put_inode(path, self.names[&found].inode);
                }
                return Some(());
            }
            let inode = self.put(path, What::Waiting);
            waiting.push((number, inode, target));
            return Some(());
        }
        let what = What::Entry(member.clone());
        if member.entry.kind == Kind::Directory && self.is_dir(&path) {
            let inode = self.names[&path].inode;
            self.inodes[inode].what = what;
        } else {
            self.put(path, what);
        }
        Some(())
    }

    /// The directory at `path` below `at`, made where it lacks.
    fn directory(&mut self, mut at: Path, path: &Path, hops: &mut u32) -> Option<Path> {
        for name in path {
            if name == b".." {
                at.pop();
                continue;
            }
            let next = [&at[..], std::slice::from_ref(name)].concat();
            match self.names.get(&next).copied() {
                _ if self.is_dir(&next) => at = next,
                Some(there) if let Some(target) = self.symlink(there) => {
                    *hops += 1;
                    if *hops > 40 {
                        return None;
                    }
                    let from = if target.starts_with(b"/") { Path::new() } else { at };
                    at = self.directory(from, &split(&target), hops)?;
                }
                Some(there) if there.layer == self.layers => return None,
                _ => {
                    self.put(next.clone(), What::Implied);
                    at = next;
                }
            }
        }
        Some(at)
    }

    /// What is at `path` below `at`; symlinks of this layer are followed, at the end if `follow`.
    fn find(&self, mut at: Path, path: &Path, hops: &mut u32, follow: bool) -> Found {
        for (number, name) in path.iter().enumerate() {
            let last = number + 1 == path.len();
            if name == b".." {
                at.pop();
                continue;
            }
            let next = [&at[..], std::slice::from_ref(name)].concat();
            let Some(there) = self.names.get(&next).copied() else { return Found::Nothing };
            if (follow || !last) && matches!(self.inode(there).what, What::Waiting) {
                return Found::Later;
            }
            match self.symlink(there) {
                Some(target) if follow || !last => {
                    *hops += 1;
                    if *hops > 40 {
                        return Found::Nothing;
                    }
                    let from = if target.starts_with(b"/") { Path::new() } else { at };
                    match self.find(from, &split(&target), hops, true) {
                        Found::Name(found) => at = found,
                        other => return other,
                    }
                }
                _ => at = next,
            }
        }
        Found::Name(at)
    }

    /// Finds the targets of the hard links that wait.
    fn settle(&mut self, mut waiting: Vec<(Wrong, usize, Path)>) -> Result<(), Wrong> {
        loop {
            let mut later = Vec::new();
            let before = waiting.len();
            for (number, inode, target) in waiting {
                match self.find(Path::new(), &target, &mut 0, false) {
                    Found::Nothing => return Err(number),
                    Found::Name(found) if self.is_dir(&found) => return Err(number),
                    Found::Name(found)
                        if !matches!(self.inode(self.names[&found]).what, What::Waiting) =>
                    {
                        self.inodes[inode].what = What::Same(self.names[&found].inode);
                    }
                    Found::Name(_) | Found::Later => later.push((number, inode, target)),
                }
            }
            match later.first() {
                None => return Ok(()),
                Some((number, ..)) if later.len() == before => return Err(*number),
                Some(_) => waiting = later,
            }
        }
    }

    /// The tree.
    pub(crate) fn listing(&self) -> Listing {
        let mut listing = Listing::new();
        for (path, name) in &self.names {
            let mut inode = name.inode;
            while let What::Same(other) = self.inodes[inode].what {
                inode = other;
            }
            let seen = match &self.inodes[inode].what {
                What::Entry(member) => seen(member),
                _ => seen(&Member::new("", Kind::Directory)),
            };
            listing.insert(path.join(&b'/'), Seen { inode: inode as u64, ..seen });
        }
        count_links(&mut listing);
        listing
    }
}

fn seen(Member { entry, content }: &Member) -> Seen {
    let number = |Device { major, minor }: Device| (major << 8) | minor;
    let (kind, device, target) = match &entry.kind {
        Kind::File => (S_IFREG, 0, &[][..]),
        Kind::Directory => (S_IFDIR, 0, &[][..]),
        Kind::Symlink(target) => (S_IFLNK, 0, &target[..]),
        Kind::CharDevice(device) => (0o020_000, number(*device), &[][..]),
        Kind::BlockDevice(device) => (0o060_000, number(*device), &[][..]),
        Kind::Fifo => (0o010_000, 0, &[][..]),
        Kind::Hardlink(_) => unreachable!("hard links have no inode of their own"),
    };
    Seen {
        inode: 0,
        mode: kind | entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        device,
        mtime: entry.mtime,
        nlink: 0,
        size: (content.len() + target.len()) as u64,
        target: target.to_vec(),
        xattrs: entry.xattrs.iter().cloned().collect(),
        content: content.clone(),
    }
}

/// Whether a path is a whiteout, an opaque marker, or AUFS's own.
fn is_marker(path: &Path) -> bool {
    path.iter().any(|name| name.starts_with(b".wh..wh."))
        || path.last().is_some_and(|name| name.starts_with(b".wh."))
}

fn split(path: &[u8]) -> Path {
    let names = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec);
    names.filter(|name| !name.is_empty() && name != b".").collect()
}
