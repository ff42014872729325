//! What two images have differently.

use std::cmp::Ordering;

use crate::filesystem::{Attr, ImageFs, Ino, ReadError};

/// How much of two files is held in memory while they are compared, in bytes each.
const PIECE: usize = 1 << 20;

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Absolute.
    pub path: Vec<u8>,
    /// How it differs.
    pub kind: Kind,
    /// Size in the image that has it; in the second one if both do, in bytes.
    pub size: u64,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only the second image has it.
    Added,
    /// Only the first image has it.
    Removed,
    /// Both have it, and these properties differ.
    Changed(Vec<Property>),
}

/// A property of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// File, directory, symlink, ...
    Type,
    /// The bytes of a file or the target of a symlink.
    Content,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Device number.
    Device,
    /// Modification time.
    Time,
    /// Extended attributes.
    Xattrs,
}

impl Property {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Device => "device",
            Self::Time => "time",
            Self::Xattrs => "xattrs",
        }
    }
}

/// Compares two images and calls `found` for every difference, in the order of a directory walk.
/// A directory that only one image has is one difference, with all that is in it following.
pub fn compare<E: From<ReadError>>(
    first: &ImageFs,
    second: &ImageFs,
    found: &mut dyn FnMut(Difference) -> Result<(), E>,
) -> Result<(), E> {
    let mut compare = Compare { first, second, found };
    compare.roots()
}

struct Compare<'a, E> {
    first: &'a ImageFs,
    second: &'a ImageFs,
    found: &'a mut dyn FnMut(Difference) -> Result<(), E>,
}

/// Directories still to be compared; a stack and no recursion, as images may nest deeply.
type Pending = Vec<(Vec<u8>, Option<Ino>, Option<Ino>)>;

impl<E: From<ReadError>> Compare<'_, E> {
    fn roots(&mut self) -> Result<(), E> {
        let mut pending: Pending = Vec::new();
        let (first, second) = (self.first.attr(Ino::ROOT)?, self.second.attr(Ino::ROOT)?);
        self.both(b"/", &first, &second)?;
        pending.push((Vec::new(), Some(Ino::ROOT), Some(Ino::ROOT)));
        while let Some((path, first, second)) = pending.pop() {
            let start = pending.len();
            self.directory(&path, first, second, &mut pending)?;
            // The first subdirectory comes next.
            pending[start..].reverse();
        }
        Ok(())
    }

    fn directory(
        &mut self,
        path: &[u8],
        first: Option<Ino>,
        second: Option<Ino>,
        pending: &mut Pending,
    ) -> Result<(), E> {
        let (mut at_first, mut at_second) = (0, 0);
        loop {
            let left = first.map(|dir| self.first.entry_at(dir, at_first)).transpose()?.flatten();
            let right =
                second.map(|dir| self.second.entry_at(dir, at_second)).transpose()?.flatten();
            let order = match (&left, &right) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.name.cmp(right.name),
            };
            let name = if order == Ordering::Greater { &right } else { &left };
            let name = name.map(|entry| entry.name).unwrap_or_default();
            let path = [path, b"/", name].concat();
            let left = left.filter(|_| order != Ordering::Greater);
            let right = right.filter(|_| order != Ordering::Less);
            at_first += u64::from(left.is_some());
            at_second += u64::from(right.is_some());
            let left = left.map(|entry| self.first.attr(entry.ino)).transpose()?;
            let right = right.map(|entry| self.second.attr(entry.ino)).transpose()?;
            self.entry(&path, left.as_ref(), right.as_ref())?;
            let directory = |attr: Option<Attr>| {
                attr.filter(|attr| attr.mode & S_IFMT == S_IFDIR).map(|attr| attr.ino)
            };
            let (left, right) = (directory(left), directory(right));
            if left.is_some() || right.is_some() {
                pending.push((path, left, right));
            }
        }
    }

    fn entry(&mut self, path: &[u8], first: Option<&Attr>, second: Option<&Attr>) -> Result<(), E> {
        let (kind, size) = match (first, second) {
            (Some(first), Some(second)) => return self.both(path, first, second),
            (Some(first), None) => (Kind::Removed, first.size),
            (None, Some(second)) => (Kind::Added, second.size),
            (None, None) => return Ok(()),
        };
        (self.found)(Difference { path: path.to_owned(), kind, size })
    }

    fn both(&mut self, path: &[u8], first: &Attr, second: &Attr) -> Result<(), E> {
        let changed = self.changed(first, second)?;
        if changed.is_empty() {
            return Ok(());
        }
        let (path, kind) = (path.to_owned(), Kind::Changed(changed));
        (self.found)(Difference { path, kind, size: second.size })
    }

    fn changed(&self, first: &Attr, second: &Attr) -> Result<Vec<Property>, ReadError> {
        if first.mode & S_IFMT != second.mode & S_IFMT {
            return Ok(vec![Property::Type]);
        }
        let mut changed = Vec::new();
        let mut note = |differs, property| {
            if differs {
                changed.push(property);
            }
        };
        note(!self.same_content(first, second)?, Property::Content);
        note(first.mode != second.mode, Property::Mode);
        note((first.uid, first.gid) != (second.uid, second.gid), Property::Owner);
        note(first.rdev != second.rdev, Property::Device);
        note(first.mtime != second.mtime, Property::Time);
        note(!self.same_xattrs(first.ino, second.ino)?, Property::Xattrs);
        Ok(changed)
    }

    fn same_content(&self, first: &Attr, second: &Attr) -> Result<bool, ReadError> {
        match first.mode & S_IFMT {
            S_IFLNK => Ok(self.first.readlink(first.ino)? == self.second.readlink(second.ino)?),
            S_IFREG if first.size != second.size => Ok(false),
            S_IFREG if self.first.same_place(first.ino, self.second, second.ino)? => Ok(true),
            S_IFREG => self.same_bytes(first, second),
            _ => Ok(true),
        }
    }

    fn same_bytes(&self, first: &Attr, second: &Attr) -> Result<bool, ReadError> {
        let mut offset = 0;
        loop {
            let left = self.first.next_data(first.ino, offset)?;
            let right = self.second.next_data(second.ino, offset)?;
            // What is a hole in both is the same in both.
            let Some(start) = [left, right].into_iter().flatten().map(|(start, _)| start).min()
            else {
                return Ok(true);
            };
            let piece = self.first.read(first.ino, start, PIECE)?;
            if piece != self.second.read(second.ino, start, PIECE)? {
                return Ok(false);
            }
            offset = start + piece.len().max(1) as u64;
        }
    }

    fn same_xattrs(&self, first: Ino, second: Ino) -> Result<bool, ReadError> {
        let names = self.first.xattr_names(first)?;
        if names != self.second.xattr_names(second)? {
            return Ok(false);
        }
        for name in names {
            if self.first.xattr(first, name)? != self.second.xattr(second, name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filesystem::tests::{Tar, open};

    #[test]
    fn every_kind_of_difference_is_found_once() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Tar::default()
            .file("same", b"1")
            .file("content", b"12")
            .file("type", b"")
            .dir("gone")
            .file("gone/x", b"")
            .symlink("link", "a")
            .done();
        let second = Tar::default()
            .file("same", b"1")
            .file("content", b"21")
            .dir("type")
            .file("type/new", b"123")
            .symlink("link", "b")
            .done();
        let (first, second) = (open(one.path(), &[first]), open(two.path(), &[second]));
        let mut found = Vec::new();
        compare::<ReadError>(&first, &second, &mut |difference| {
            found.push((String::from_utf8(difference.path).unwrap(), difference.kind));
            Ok(())
        })
        .unwrap();
        let changed = |property| Kind::Changed(vec![property]);
        let expected = [
            ("/content", changed(Property::Content)),
            ("/gone", Kind::Removed),
            ("/link", changed(Property::Content)),
            ("/type", changed(Property::Type)),
            ("/gone/x", Kind::Removed),
            ("/type/new", Kind::Added),
        ];
        assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    }
}
