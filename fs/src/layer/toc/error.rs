//! Why a table of contents cannot be used.

use std::io;

use crate::digest::{Digest, Found, Mismatch};
use crate::layer::tar::Problem;
use crate::printable;

/// Why a table of contents cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TocError {
    /// The blob has not the size that the manifest says.
    #[error(transparent)]
    Blob(Mismatch),
    /// The blob cannot be read.
    #[error("read its table of contents: {0}")]
    Read(io::Error),
    /// The index that is made of it cannot be written.
    #[error("{0}")]
    Index(io::Error),
    /// The layer claims to be of both formats, and nobody can know which table is meant.
    #[error("its manifest names tables of contents of both eStargz and zstd:chunked")]
    Both,
    /// An annotation makes no sense.
    #[error("its manifest has annotation {key} with \"{}\"", printable::start_of(value.as_bytes()))]
    Annotation {
        /// The annotation.
        key: String,
        /// Its value.
        value: String,
    },
    /// The table of an eStargz layer is in another image.
    #[error(
        "its table of contents is in another image (external TOC), which is not supported; \
         convert the image again with the table inside"
    )]
    External,
    /// The table is not the one that the manifest means.
    #[error("its table of contents is not the one that the manifest names: {}", of(.0))]
    Mismatch(Mismatch),
    /// The table, or something that it speaks of, lies outside of the blob.
    #[error("{what} at byte {at} lies outside of the blob of {blob_len} bytes")]
    Outside {
        /// What.
        what: &'static str,
        /// Where it starts.
        at: u64,
        /// Where the blob ends.
        blob_len: u64,
    },
    /// The table is unreasonably large.
    #[error("its table of contents has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its size in bytes, uncompressed.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The table cannot be decompressed.
    #[error("its table of contents cannot be decoded: {0}")]
    Decode(io::Error),
    /// The table is no JSON of the right shape.
    #[error("its table of contents is malformed: {0}")]
    Json(serde_json::Error),
    /// The table is of a version that is not known.
    #[error("its table of contents has version {0}, only 1 is known")]
    Version(u32),
    /// An entry of the table makes no sense.
    #[error("its table of contents, {}: {what}", printable::start_of(name.as_bytes()))]
    Entry {
        /// The entry's name.
        name: String,
        /// The problem.
        what: EntryProblem,
    },
    /// A SOCI index is no ztoc of the right shape.
    #[error("its SOCI index is malformed: {0}")]
    Ztoc(&'static str),
    /// There is nothing wrong, but single chunks of the layer cannot be read, or not be verified.
    #[error("{0}")]
    Unusable(Unusable),
}

/// Why a layer with a table of contents has to be read whole all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The blob has another form than its annotations say.
    #[error("its blob does not end as one with a table of contents does")]
    NoFooter,
    /// Chunks without digests.
    #[error("its chunks have no digests")]
    NoDigests,
    /// A SOCI index that cannot be used.
    #[error("its SOCI index {0}")]
    Ztoc(&'static str),
    /// Chunks that have bytes in common, which would be decoded over and over.
    #[error("its chunks overlap at byte {0} of the blob")]
    Overlap(u64),
    /// A chunk that would have to be kept in memory whole.
    #[error("it has a chunk of {0} bytes")]
    LargeChunk(u64),
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryProblem {
    /// The name, or the target of a link.
    #[error(transparent)]
    Name(#[from] Problem),
    /// The type.
    #[error("unknown type \"{}\"", printable::start_of(.0.as_bytes()))]
    Kind(String),
    /// A number.
    #[error("bad number for {0}")]
    Number(&'static str),
    /// An xattr.
    #[error("bad name of an extended attribute")]
    Xattr,
    /// A digest.
    #[error("bad digest \"{}\"", printable::start_of(.0.as_bytes()))]
    Digest(String),
    /// A chunk that does not follow the file it is of.
    #[error("a chunk without its file before it")]
    Orphan,
    /// A chunk that does not start where the one before ends, or ends behind the file's end.
    #[error("the chunk at {0} overlaps another one, leaves a gap, or goes beyond the file")]
    Chunk(u64),
    /// The chunks end before the file does.
    #[error("its chunks end at {end} of {size} bytes")]
    Short {
        /// Where.
        end: u64,
        /// The file's size.
        size: u64,
    },
    /// The chunk has no place in the blob.
    #[error("the chunk at {chunk} lies at byte {at} of the blob, which cannot be")]
    Place {
        /// Where the chunk starts in the file.
        chunk: u64,
        /// Where the table says it lies.
        at: u64,
    },
    /// Unreasonably many chunks in one gzip member.
    #[error("more than {0} chunks share one place in the blob")]
    Shared(usize),
}

/// Why reading from the blob failed, on its way through decoders that know only IO errors.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct BlobFailure(pub(super) io::Error);

impl TocError {
    /// What an error of a decoder over a verified range of the blob stands for.
    pub(in crate::layer) fn from_io(error: io::Error) -> Self {
        let error = match error.downcast::<Mismatch>() {
            Ok(mismatch) => return Self::Mismatch(mismatch),
            Err(error) => error,
        };
        match error.downcast::<BlobFailure>() {
            Ok(failure) => Self::Read(failure.0),
            Err(error) => Self::Decode(error),
        }
    }
}

fn of(mismatch: &Mismatch) -> String {
    let Mismatch { expected, found } = mismatch;
    match found {
        Found::Digest(found) => differ(expected, found),
        Found::Size(..) => format!("{expected}, but {found}"),
    }
}

fn differ(expected: &Digest, found: &Digest) -> String {
    format!("that has digest {expected}, it has {found}")
}
