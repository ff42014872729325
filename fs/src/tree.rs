//! The layers of an image merged into one immutable tree, as a mapped file.
//!
//! An inode number is a record's place in the file plus one, the root being 1: it is the same at
//! every mount. The entries of a directory are neighbours and sorted by name, so that a lookup is
//! a binary search and a directory is read front to back.
//!
//! # What a layer does to the tree below it (OCI image spec, layer.md)
//!
//! - `.wh.NAME` removes NAME of the layers below, `.wh..wh..opq` all that the layers below have in
//!   its directory: wherever they stand in the layer, they never touch the layer's own entries.
//! - Other names that start with `.wh..wh.` are AUFS's own and skipped.
//! - A directory over a directory merges, and the upper entry's metadata holds. Everything else
//!   replaces what has its name, also within a layer: the last of several entries counts.
//! - Directories that no entry names belong to root and have mode 0755 and time 0.
//!
//! Where the spec is silent, what Docker and containers/storage make of it on overlayfs holds: a
//! parent that is a symlink of the same layer is followed (inside the root), one that is a symlink
//! or file of a layer below is replaced by a directory. A whiteout in such a place hides nothing:
//! on overlayfs it would put an empty directory there, others follow the symlink. A hard link names
//! the file of its own layer where there is one (also one that comes later), else that of the
//! layers below.

mod file;
mod merge;
mod write;

pub(crate) use file::OPAQUE_XATTR;
pub use file::{Damaged, Extent, Inode, InodeKind, Tree};
pub use merge::{MergedTree, Metadata, TreeError, merge, merge_over};
