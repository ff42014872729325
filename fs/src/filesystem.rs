//! The file system of an image as plain methods: what the kernel asks, without the kernel.

mod errno;
mod first_reads;
mod layers;
mod path;
mod read;
mod startup;
mod whole;

use std::path::Path;
use std::time::Duration;

pub use path::Resolved;

use self::first_reads::FirstReads;
use self::layers::{Opener, digests};
use crate::cache::Filling;
use crate::content::{Content, Options, Stats};
use crate::digest::Digest;
use crate::layer::Timestamp;
use crate::layer::index::LayerIndex;
use crate::layer::scan::LayerError;
use crate::oci::{Image, Layer};
use crate::span::SpanError;
use crate::tree::{self, Damaged, Extent, Inode, InodeKind, Metadata, Tree, TreeError};

/// An inode number; the root's is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);

    fn place(self) -> usize {
        // 0 becomes a place that no tree has.
        usize::try_from(self.0).ok().and_then(|ino| ino.checked_sub(1)).unwrap_or(usize::MAX)
    }

    fn of_place(place: usize) -> Self {
        Self(place as u64 + 1)
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Size in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes; holes take none.
    pub blocks: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number as Linux encodes it in 32 bits.
    pub rdev: u32,
    /// Modification time.
    pub mtime: Timestamp,
}

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Its inode.
    pub ino: Ino,
    /// Type and permission bits of the inode.
    pub mode: u32,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Number of inodes.
    pub inodes: u64,
    /// Sum of the files' sizes in bytes.
    pub bytes: u64,
}

/// Why an image cannot be opened as a file system.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A layer cannot be read or is not what it should be.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The layers cannot be merged.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The image index cannot be read or written.
    #[error("image index in {dir}: {source}")]
    Index {
        /// Where indexes lie.
        dir: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Why a request fails.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no such inode.
    #[error("there is no inode {0}")]
    NoInode(u64),
    /// Something is asked of a file that only a directory has.
    #[error("inode {0} is not a directory")]
    NotADirectory(u64),
    /// A directory is read as a file.
    #[error("inode {0} is a directory")]
    IsADirectory(u64),
    /// Something is asked that this kind of inode does not have.
    #[error("inode {0} is of another kind")]
    WrongKind(u64),
    /// The content cannot be had, or is not the right one.
    #[error(transparent)]
    Span(#[from] SpanError),
    /// The image index is damaged.
    #[error(transparent)]
    Tree(#[from] Damaged),
    /// The image index refers to content that its layer does not have.
    #[error("layer {layer} has no content at {offset}")]
    NoContent {
        /// Digest of the layer's blob.
        layer: Digest,
        /// Offset in the content.
        offset: u64,
    },
}

/// An image as a read-only file system.
#[derive(Debug)]
pub struct ImageFs {
    tree: Tree,
    content: Content,
    first_reads: Option<FirstReads>,
}

impl ImageFs {
    /// Opens an image; the indexes that lack are made in `indexes`. `progress` is called with the
    /// number of bytes of blobs just read for that.
    pub fn open(
        image: &Image,
        indexes: &Path,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self, OpenError> {
        Self::open_with(image, indexes, progress, Options::default())
    }

    /// As [`ImageFs::open`], and the content is read as `options` say.
    pub fn open_with(
        image: &Image,
        indexes: &Path,
        progress: &(dyn Fn(u64) + Sync),
        options: Options,
    ) -> Result<Self, OpenError> {
        let filling = options.cache.as_ref().map(Filling::new);
        let opener = Opener { indexes, progress, filling: filling.as_ref() };
        let mut layers = opener.open(&image.layers)?;
        let failed = |source| OpenError::Index { dir: indexes.display().to_string(), source };
        let tree = match Tree::open(indexes, &digests(&layers)).map_err(failed)? {
            Some(tree) => tree,
            None => {
                let merged = opener.merge(&mut layers, tree::merge)?;
                Tree::create(indexes, &digests(&layers), merged).map_err(failed)?
            }
        };
        Ok(Self { tree, content: Content::new(layers, options), first_reads: None })
    }

    /// Opens layers, bottom first, as a lower directory of overlayfs that goes over a tree which
    /// is not at hand (see [`tree::merge_over`]). The index of the whole is kept in `work`.
    pub fn open_over(
        layers: &[Layer],
        indexes: &Path,
        work: &Path,
        below: &mut dyn FnMut(&[u8]) -> Option<Metadata>,
        options: Options,
    ) -> Result<Self, OpenError> {
        let opener = Opener { indexes, progress: &|_| (), filling: None };
        let mut layers = opener.open(layers)?;
        let merged = opener.merge(&mut layers, |indexes| tree::merge_over(indexes, &mut *below))?;
        let failed = |source| OpenError::Index { dir: work.display().to_string(), source };
        let tree = Tree::create(work, &digests(&layers), merged).map_err(failed)?;
        Ok(Self { tree, content: Content::new(layers, options), first_reads: None })
    }

    /// Whether a directory hides what a tree below has in it.
    pub fn is_opaque(&self, directory: Ino) -> Result<bool, ReadError> {
        Ok(self.xattr(directory, tree::OPAQUE_XATTR)?.is_some())
    }

    /// What a delta over this tree has to know of one of its directories.
    pub fn metadata(&self, directory: Ino) -> Result<Metadata, ReadError> {
        let inode = self.directory(directory)?;
        let xattrs = self.tree.xattrs(&inode)?.filter_map(|xattr| match xattr {
            // That a directory hides what is below it does not concern what is above.
            Ok((tree::OPAQUE_XATTR, _)) => None,
            Ok((name, value)) => Some(Ok((name.to_vec(), value.to_vec()))),
            Err(damaged) => Some(Err(damaged)),
        });
        Ok(Metadata {
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            xattrs: xattrs.collect::<Result<_, _>>()?,
        })
    }

    /// What `stat` shows of an inode.
    pub fn attr(&self, ino: Ino) -> Result<Attr, ReadError> {
        self.attr_of(ino, &self.inode(ino)?)
    }

    fn attr_of(&self, ino: Ino, inode: &Inode) -> Result<Attr, ReadError> {
        Ok(Attr {
            ino,
            size: inode.size,
            blocks: self.blocks(inode)?,
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.device,
            mtime: inode.mtime,
        })
    }

    /// The inode with this name in a directory, if there is one.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>, ReadError> {
        let directory = self.directory(parent)?;
        let Some(place) = self.tree.lookup(&directory, name)? else { return Ok(None) };
        let inode = self.tree.child(parent.place(), place)?;
        self.attr_of(Ino::of_place(place), &inode).map(Some)
    }

    /// The parent of a directory; the root is its own.
    pub fn parent(&self, directory: Ino) -> Result<Ino, ReadError> {
        Ok(Ino::of_place(self.tree.parent(&self.directory(directory)?)))
    }

    /// The name at this place in a directory, `.` and `..` not counted; sorted by name.
    pub fn entry_at(&self, directory: Ino, index: u64) -> Result<Option<DirEntry<'_>>, ReadError> {
        let inode = self.directory(directory)?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let Some((name, place)) = self.tree.name(&inode, index)? else { return Ok(None) };
        let mode = self.tree.child(directory.place(), place)?.mode;
        Ok(Some(DirEntry { name, ino: Ino::of_place(place), mode }))
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: Ino) -> Result<&[u8], ReadError> {
        let inode = self.inode(ino)?;
        if inode.kind != InodeKind::Symlink {
            return Err(ReadError::WrongKind(ino.0));
        }
        Ok(self.tree.target(&inode)?)
    }

    /// The value of an xattr, if there is one of this name.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<&[u8]>, ReadError> {
        for xattr in self.tree.xattrs(&self.inode(ino)?)? {
            let (known, value) = xattr?;
            if known == name {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The names of an inode's xattrs.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<&[u8]>, ReadError> {
        let xattrs = self.tree.xattrs(&self.inode(ino)?)?;
        xattrs.map(|xattr| Ok(xattr?.0)).collect()
    }

    /// Whether two files of images are the same run of bytes of the same layer, and so have the
    /// same content. `false` says nothing.
    pub fn same_place(&self, ino: Ino, other: &Self, other_ino: Ino) -> Result<bool, ReadError> {
        let (inode, other_inode) = (self.inode(ino)?, other.inode(other_ino)?);
        let place = |fs: &Self, extent: Extent| {
            let layer = fs.content.index(extent.layer).map(LayerIndex::id);
            (layer, extent.file_offset, extent.content_offset, extent.len)
        };
        let extents = self.tree.extents_from(&inode, 0)?.map(|extent| place(self, extent));
        Ok(extents.eq(other.tree.extents_from(&other_inode, 0)?.map(|extent| place(other, extent))))
    }

    /// The next run of bytes of a file at or after `offset` that is not a hole: start and end.
    pub fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<(u64, u64)>, ReadError> {
        let inode = self.inode(ino)?;
        let next = self.tree.extents_from(&inode, offset)?.next();
        Ok(next.and_then(|extent| {
            let start = extent.file_offset.max(offset);
            let end = extent.file_offset.saturating_add(extent.len).min(inode.size);
            // None of a damaged index, whose extent may lie behind the end of its file.
            (start < end).then_some((start, end))
        }))
    }

    /// Where the next hole of a file at or after `offset` starts; its end counts as one.
    pub fn next_hole(&self, ino: Ino, mut offset: u64) -> Result<u64, ReadError> {
        while let Some((start, end)) = self.next_data(ino, offset)? {
            if start > offset {
                break;
            }
            offset = end;
        }
        Ok(offset)
    }

    /// What was read of remote layers and where it came from.
    pub fn stats(&self) -> Stats {
        self.content.stats()
    }

    /// Whether the content of some layer has to be fetched over a network.
    pub fn is_remote(&self) -> bool {
        self.content.has_remote()
    }

    /// Fetches in the background what the makers of the layers laid first. `false` when there is no
    /// place to keep it.
    pub fn fetch_first(&self) -> bool {
        self.content.fetch_in_background(self.content.first_spans())
    }

    /// Fetches all content of remote layers in the background, behind all that somebody waits
    /// for. `false` when there is no place to keep it.
    pub fn fetch_all(&self) -> bool {
        self.content.fetch_in_background(self.content.all_spans())
    }

    /// Fails all reads that wait for a network, so that nobody who waits keeps a mount busy, and
    /// those that would have to wait before `grace` has passed: the kernel asks once more for
    /// what it could not read ahead.
    pub fn fail_waiting(&self, grace: Duration) {
        self.content.fail_waiting(grace);
    }

    /// Fails all reads that wait for a network, and those that would have to wait from then on.
    pub fn shut_down(&self) {
        self.content.shut_down();
    }

    /// Sums for `statfs`.
    pub fn totals(&self) -> Totals {
        Totals { inodes: self.tree.inode_count() as u64, bytes: self.tree.bytes() }
    }

    fn inode(&self, ino: Ino) -> Result<Inode, ReadError> {
        if ino.place() >= self.tree.inode_count() {
            return Err(ReadError::NoInode(ino.0));
        }
        Ok(self.tree.inode(ino.place())?)
    }

    fn directory(&self, ino: Ino) -> Result<Inode, ReadError> {
        let inode = self.inode(ino)?;
        if inode.kind == InodeKind::Directory {
            Ok(inode)
        } else {
            Err(ReadError::NotADirectory(ino.0))
        }
    }

    /// Blocks as a file system of 4 KiB blocks would count them.
    fn blocks(&self, inode: &Inode) -> Result<u64, ReadError> {
        let extents = self.tree.extents_from(inode, 0)?;
        let blocks = extents.map(|extent| extent.len.div_ceil(4096).saturating_mul(8));
        Ok(blocks.fold(0, u64::saturating_add))
    }
}

#[cfg(test)]
pub(crate) mod tests;
