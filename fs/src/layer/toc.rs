//! The table of contents inside a layer that eStargz and zstd:chunked share, in JSON.
//!
//! ```text
//! {"version":1,"entries":[{"type":"reg","name":"bin/sh","size":...,"offset":...}, ...]}
//! ```
//!
//! A file's first chunk is in its `reg` entry, the others follow it directly as `chunk` entries.
//! Fields with the value zero are left out. This module has the words of the format, for reader
//! and writer; what they mean together is up to `estargz` and `zstd_chunked`.
//!
//! Sources: `docs/estargz.md` of containerd/stargz-snapshotter, and `pkg/chunked` of
//! containers/storage, whose format no document defines.

pub(super) mod entry;
pub mod error;
pub mod footer;
pub(super) mod indexer;
pub(super) mod parse;
pub(super) mod range;
pub(super) mod time;
pub(crate) mod trusted;

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Timestamp;
use crate::digest::Digest;

/// The only version of a table there is.
pub const VERSION: u32 = 1;

/// Annotation of an eStargz layer: sha256 of its table, uncompressed.
pub const ESTARGZ_TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation of an eStargz layer: length of its content in bytes, decimal.
pub const ESTARGZ_UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// Name of the tar entry that is the table of an eStargz layer.
pub const ESTARGZ_TOC_NAME: &str = "stargz.index.json";
/// Name of the entry in an eStargz layer behind the files that are to be fetched first.
pub const PREFETCH_LANDMARK: &str = ".prefetch.landmark";
/// Name of the entry in an eStargz layer that says that none are.
pub const NO_PREFETCH_LANDMARK: &str = ".no.prefetch.landmark";
/// Content of both landmarks.
pub const LANDMARK_CONTENT: &[u8] = &[0x0f];

/// Whether an entry of a stargz layer only serves the format, and is no file of the image.
pub(in crate::layer) fn is_of_stargz(path: &[u8]) -> bool {
    [PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK, ESTARGZ_TOC_NAME].iter().any(|n| n.as_bytes() == path)
}

/// What the annotations of zstd:chunked start with, since 2023.
pub const ZSTD_CHUNKED_PREFIX: &str = "io.github.containers.zstd-chunked.";
/// What they started with before, and still do where stargz-snapshotter writes them.
pub const OLD_ZSTD_CHUNKED_PREFIX: &str = "io.containers.zstd-chunked.";
/// Annotation, after the prefix: sha256 of the table, compressed.
pub const MANIFEST_CHECKSUM: &str = "manifest-checksum";
/// Annotation, after the prefix: `offset:compressed length:uncompressed length:type` of the
/// table, the type being 1.
pub const MANIFEST_POSITION: &str = "manifest-position";
/// Annotation, after the prefix: `offset:compressed length:uncompressed length` of what is needed
/// to make the exact tar stream again.
pub const TAR_SPLIT_POSITION: &str = "tarsplit-position";
/// Annotation of a zstd:chunked layer that kfs wrote: how many bytes at the start of the blob are
/// to be fetched first, decimal. eStargz has [`PREFETCH_LANDMARK`] for that, which here would be a
/// file of the image to other readers.
pub const FIRST_BYTES: &str = "kfs.layer.first-bytes";
/// What a skippable frame of zstd:chunked starts with, before its length in four bytes (RFC 8878,
/// section 3.1.2). The positions in annotations and footer point behind both.
pub const SKIPPABLE_MAGIC: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];

/// `chunkType` of a chunk of zeros.
pub const ZEROS: &str = "zeros";

/// A table of contents as a whole, to be written.
#[derive(Clone, Debug, Serialize)]
pub struct Toc {
    /// [`VERSION`].
    pub version: u32,
    /// In the order of the tar stream.
    pub entries: Vec<TocEntry>,
    /// Of zstd:chunked: sha256 of what is needed to make the exact tar stream again, compressed.
    #[serde(rename = "tarSplitDigest", skip_serializing_if = "Option::is_none")]
    pub tar_split_digest: Option<Digest>,
}

/// An entry of a table of contents. A field without meaning for its type is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TocEntry {
    /// `dir`, `reg`, `symlink`, `hardlink`, `char`, `block`, `fifo` or `chunk`.
    #[serde(rename = "type")]
    pub kind: String,
    /// As the tar stream has it: `./a`, `a/`, `a`.
    pub name: String,
    /// Target of a symlink or hard link.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    /// Permission bits.
    #[serde(skip_serializing_if = "is_zero")]
    pub mode: u64,
    /// Size of a file in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Owner.
    #[serde(skip_serializing_if = "is_zero")]
    pub uid: u64,
    /// Group.
    #[serde(skip_serializing_if = "is_zero")]
    pub gid: u64,
    /// Modification time; `None` stands for 1970. eStargz has whole seconds.
    #[serde(rename = "modtime", skip_serializing_if = "Option::is_none")]
    pub mtime: Option<TocTime>,
    /// zstd:chunked: time of the last access, where the tar stream has it.
    #[serde(rename = "accesstime", skip_serializing_if = "Option::is_none")]
    pub atime: Option<TocTime>,
    /// zstd:chunked: time of the last change of the inode, where the tar stream has it.
    #[serde(rename = "changetime", skip_serializing_if = "Option::is_none")]
    pub ctime: Option<TocTime>,
    /// Major number of a device.
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_major: u64,
    /// Minor number of a device.
    #[serde(skip_serializing_if = "is_zero")]
    pub dev_minor: u64,
    /// Names and values.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, Base64>,
    /// `sha256:...` of a whole file, also of an empty one in eStargz.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Where the gzip member or zstd frame with the chunk starts in the blob.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// zstd:chunked, in the file's first entry: where the last frame of the file ends.
    #[serde(skip_serializing_if = "is_zero")]
    pub end_offset: u64,
    /// eStargz: where the chunk starts in what its gzip member holds.
    #[serde(skip_serializing_if = "is_zero")]
    pub inner_offset: u64,
    /// Length of the chunk; 0 when it goes on to the end of the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_size: u64,
    /// Where the chunk starts in the file.
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_offset: u64,
    /// `sha256:...` of the chunk.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_digest: String,
    /// zstd:chunked: empty, or [`ZEROS`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub chunk_type: String,
}

/// A time in a table of contents: RFC 3339.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TocTime(pub Timestamp);

/// Bytes that are written in base64 with padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl TocTime {
    /// Whether the time can be written: years have four digits.
    pub fn has_form(self) -> bool {
        time::format(self.0).is_some()
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Go writes a map that is not there as `null`.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Serialize for TocTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = time::format(self.0);
        serializer.serialize_str(&text.ok_or_else(|| {
            serde::ser::Error::custom("a time has no form in RFC 3339: years are 0 to 9999")
        })?)
    }
}

impl<'de> Deserialize<'de> for TocTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = time::parse(&text);
        time.map(Self).ok_or_else(|| {
            serde::de::Error::custom(format_args!("{text:?} is not a time of RFC 3339"))
        })
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        STANDARD.decode(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
