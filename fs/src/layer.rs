//! Layer formats: how a blob becomes an index of entries and spans, and how a new one is written.
//!
//! Whatever the format, a layer becomes one [`index::LayerIndex`]: its entries in tar order, and
//! the spans in which its content is stored, each with the digest that every later read is held
//! against. Where the manifest names a table of contents inside the layer (`estargz`,
//! `zstd_chunked`) or beside it (`soci`), the index is made from that alone. Else it is made in
//! one streaming pass ([`scan`]) that also verifies the blob's digest and the diffID; nothing of a
//! layer is served before that.
//!
//! A table and the tar stream beside it may contradict each other. What an image shows is what its
//! tables say, wherever its blobs lie: also of a layer that was pulled the tar stream is not read,
//! so that pulling changes nothing of what is seen, and a mount needs no pass over the layer.
//! Where all of a layer is read anyway, to convert it or by `fsck`, the two are compared
//! ([`agreement`]).

pub mod agreement;
mod estargz;
pub mod gzip;
pub mod index;
pub mod rewrite;
pub mod scan;
mod soci;
pub mod tar;
pub mod toc;
pub mod writer;
pub mod zstd;
mod zstd_chunked;

/// One member of a layer's tar stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the root, without `.`, `..`, empty or trailing components; empty for the root
    /// itself. Any bytes but NUL.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Size of a regular file in bytes, holes included; 0 for all else.
    pub size: u64,
    /// Names and values, in the order of the names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The kind of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target, any bytes.
    Symlink(Vec<u8>),
    /// Another name of the entry with this path (of the form of [`Entry::path`]).
    Hardlink(Vec<u8>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A FIFO.
    Fifo,
}

/// A device number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// A point in time, before or after the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// 0 to 999,999,999, always forward from `seconds`.
    pub nanos: u32,
}
