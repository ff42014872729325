//! Paths inside an image, with symlinks followed as the kernel would from the image's root.

use super::{ImageFs, Ino, ReadError};
use crate::tree::InodeKind;

/// As many symlinks are followed as Linux would (`MAXSYMLINKS`).
const MAX_HOPS: u32 = 40;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// An inode, and its absolute path without symlinks.
    Found(Ino, Vec<u8>),
    /// Nothing: `name` does not exist in the directory `parent` (an absolute path without
    /// symlinks). `last` tells whether it is the last name of the path.
    Missing {
        /// The nearest directory that exists.
        parent: Vec<u8>,
        /// The name that it does not have.
        name: Vec<u8>,
        /// Whether nothing comes after the name.
        last: bool,
    },
    /// This absolute path should be a directory and is none.
    NotADirectory(Vec<u8>),
    /// More symlinks than Linux follows.
    Loop,
}

/// The walk to a path: the directories on the way to where it stands.
struct Walk<'a> {
    fs: &'a ImageFs,
    stack: Vec<(Ino, Vec<u8>)>,
    hops: u32,
}

impl ImageFs {
    /// Finds a path; relative ones start at the root too, and `..` never leads above it. A symlink
    /// at the end is followed if `follow` is set.
    pub fn resolve(&self, path: &[u8], follow: bool) -> Result<Resolved, ReadError> {
        Walk { fs: self, stack: Vec::new(), hops: 0 }.walk(path, follow)
    }
}

impl Walk<'_> {
    fn walk(&mut self, path: &[u8], follow: bool) -> Result<Resolved, ReadError> {
        // Names still to be walked, the next one last.
        let mut names: Vec<Vec<u8>> = Vec::new();
        push_names(&mut names, path);
        while let Some(name) = names.pop() {
            if name == b".." {
                self.stack.pop();
                continue;
            }
            let Some(found) = self.fs.lookup(self.here(), &name)? else {
                let last = names.is_empty();
                return Ok(Resolved::Missing { parent: self.path(), name, last });
            };
            let last = names.is_empty();
            match self.fs.inode(found.ino)?.kind {
                InodeKind::Symlink if follow || !last => {
                    self.hops += 1;
                    if self.hops > MAX_HOPS {
                        return Ok(Resolved::Loop);
                    }
                    let target = self.fs.readlink(found.ino)?;
                    if target.starts_with(b"/") {
                        self.stack.clear();
                    }
                    push_names(&mut names, target);
                }
                InodeKind::Directory => self.stack.push((found.ino, name)),
                _ if last => {
                    self.stack.push((found.ino, name));
                    break;
                }
                _ => {
                    self.stack.push((found.ino, name));
                    return Ok(Resolved::NotADirectory(self.path()));
                }
            }
        }
        Ok(Resolved::Found(self.here(), self.path()))
    }

    fn here(&self) -> Ino {
        self.stack.last().map_or(Ino::ROOT, |(ino, _)| *ino)
    }

    fn path(&self) -> Vec<u8> {
        if self.stack.is_empty() {
            return b"/".to_vec();
        }
        self.stack.iter().flat_map(|(_, name)| [b"/", &name[..]].concat()).collect()
    }
}

/// Adds the names of a path in front of those that are still to be walked.
fn push_names(names: &mut Vec<Vec<u8>>, path: &[u8]) {
    let parts = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.extend(parts.rev().map(<[u8]>::to_vec));
}
