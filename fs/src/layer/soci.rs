//! SOCI: plain gzip layers with a table beside them, the ztoc.
//!
//! A ztoc has the entries of the layer's tar stream, the places of the blob at which inflating
//! can start, and the sha256 of the blob's bytes between them. The image's manifest names it (see
//! `oci::soci`), so the blob itself has to be read only where it is used: the content is the tar
//! stream, as it is when a layer is read whole.
//!
//! Source: `ztoc/fbs/ztoc.fbs` of awslabs/soci-snapshotter.

mod checkpoints;
mod flatbuffer;
#[cfg(test)]
mod tests;

use std::io::{self, Read};

use super::Kind;
use super::index::{Coding, Extent, IndexBuilder, Span, SpanDigest};
use super::toc::entry::RawEntry;
use super::toc::error::{EntryProblem, TocError, Unusable};
use super::toc::time;
use crate::blob::{BlobReader, BlobSource, from_any_place};
use crate::digest::{Digest, VerifyReader};
use crate::oci::Ztoc;
use crate::span::MAX_SPAN;
use flatbuffer::Table;

/// A ztoc is kept in memory while it is read; a layer of 8 GiB has one of this size, in bytes.
const MAX_ZTOC: u64 = 64 << 20;

/// What PAX records of extended attributes start with.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// What PAX records of sparse files start with.
const SPARSE: &[u8] = b"GNU.sparse.";

/// The numbers of the fields of `Ztoc`.
mod ztoc {
    pub(super) const VERSION: usize = 0;
    pub(super) const BLOB_LEN: usize = 2;
    pub(super) const CONTENT_LEN: usize = 3;
    pub(super) const TOC: usize = 4;
    pub(super) const COMPRESSION: usize = 5;
}

/// The numbers of the fields of `CompressionInfo`.
mod compression {
    pub(super) const ALGORITHM: usize = 0;
    pub(super) const DIGESTS: usize = 2;
    pub(super) const CHECKPOINTS: usize = 3;
    /// The value of `ALGORITHM`.
    pub(super) const GZIP: u8 = 1;
}

/// The numbers of the fields of `FileMetadata`.
mod metadata {
    pub(super) const NAME: usize = 0;
    pub(super) const KIND: usize = 1;
    pub(super) const OFFSET: usize = 2;
    pub(super) const SIZE: usize = 3;
    pub(super) const LINK: usize = 4;
    pub(super) const MODE: usize = 5;
    pub(super) const UID: usize = 6;
    pub(super) const GID: usize = 7;
    pub(super) const MTIME: usize = 10;
    pub(super) const MAJOR: usize = 11;
    pub(super) const MINOR: usize = 12;
    pub(super) const PAX: usize = 13;
}

/// Adds what a layer's ztoc says to an index; returns the length of the content.
pub(super) fn index(
    blob: &dyn BlobSource,
    table: &Ztoc,
    builder: &mut IndexBuilder,
) -> Result<u64, TocError> {
    let buffer = read(table)?;
    index_buffer(&buffer, blob, builder)
}

/// Reads a ztoc and verifies it.
fn read(table: &Ztoc) -> Result<Vec<u8>, TocError> {
    let size = table.descriptor.size;
    if size > MAX_ZTOC {
        return Err(TocError::Unusable(Unusable::Ztoc("is unusually large")));
    }
    let is_damaged = |error: &TocError| matches!(error, TocError::Mismatch(_));
    from_any_place(table.blob.as_ref(), is_damaged, || {
        let reader = BlobReader::new(table.blob.clone());
        let mut buffer = Vec::new();
        match VerifyReader::new(reader, table.descriptor.digest, size).read_to_end(&mut buffer) {
            Ok(_) => Ok(buffer),
            Err(error) => Err(match TocError::from_io(error) {
                TocError::Decode(source) => TocError::Read(source),
                other => other,
            }),
        }
    })
}

/// As [`index`], from the bytes of a ztoc.
pub(super) fn index_buffer(
    buffer: &[u8],
    blob: &dyn BlobSource,
    builder: &mut IndexBuilder,
) -> Result<u64, TocError> {
    let outside = TocError::Ztoc("a part of it lies outside or makes no sense");
    let Some(root) = Table::root(buffer) else { return Err(outside) };
    let Some(version) = root.bytes(ztoc::VERSION) else { return Err(outside) };
    if version != b"0.9" {
        return Err(TocError::Unusable(Unusable::Ztoc("is of an unknown version")));
    }
    let content_len = length(root.i64(ztoc::CONTENT_LEN))?;
    if length(root.i64(ztoc::BLOB_LEN))? != blob.size() {
        return Err(TocError::Ztoc("it is of a blob of another size"));
    }
    let part = |number| root.table(number).flatten();
    let (Some(toc), Some(compression)) = (part(ztoc::TOC), part(ztoc::COMPRESSION)) else {
        return Err(outside);
    };
    spans(compression, content_len, blob, builder)?;
    entries(toc, content_len, buffer.len(), builder)?;
    Ok(content_len)
}

fn length(number: Option<i64>) -> Result<u64, TocError> {
    let length = number.and_then(|number| u64::try_from(number).ok());
    length.ok_or(TocError::Ztoc("a length makes no sense"))
}

fn spans(
    compression: Table<'_>,
    content_len: u64,
    blob: &dyn BlobSource,
    builder: &mut IndexBuilder,
) -> Result<(), TocError> {
    let malformed = TocError::Ztoc("its checkpoints make no sense");
    let algorithm = compression.u8(compression::ALGORITHM, compression::GZIP);
    if algorithm != Some(compression::GZIP) {
        return Err(TocError::Unusable(Unusable::Ztoc("is of a layer that is not gzip")));
    }
    let zinfo = compression.bytes(compression::CHECKPOINTS);
    let checkpoints = zinfo.and_then(checkpoints::parse);
    let (Some(checkpoints), Some(digests)) =
        (checkpoints, compression.offsets(compression::DIGESTS))
    else {
        return Err(malformed);
    };
    if digests.len() != checkpoints.list.len() {
        return Err(malformed);
    }
    if checkpoints.first_is_assumed && !header_is_plain(blob)? {
        return Err(TocError::Unusable(Unusable::Ztoc("does not fit the blob's gzip header")));
    }
    let ends = checkpoints.list.iter().map(|next| (next.blob_offset, next.content_offset));
    let ends = ends.skip(1).chain(std::iter::once((blob.size(), content_len)));
    for ((start, end), digest) in checkpoints.list.iter().zip(ends).zip(digests.strings()) {
        let lens = (end.0.checked_sub(start.blob_offset), end.1.checked_sub(start.content_offset));
        let (Some(blob_len), Some(content_len)) = lens else { return Err(malformed) };
        let digest = digest.and_then(|text| std::str::from_utf8(text).ok());
        let Some(digest) = digest.and_then(|text| text.parse::<Digest>().ok()) else {
            return Err(malformed);
        };
        let largest = content_len.max(blob_len.saturating_add(1));
        if largest > MAX_SPAN {
            return Err(TocError::Unusable(Unusable::LargeChunk(largest)));
        }
        let span = Span {
            content_offset: start.content_offset,
            content_len,
            blob_offset: start.blob_offset,
            blob_len,
            coding: Coding::Deflate,
            bits: start.bits,
            inner_offset: 0,
            digest: SpanDigest::StoredSha256(digest),
        };
        builder.span(&span, start.window).map_err(TocError::Index)?;
    }
    Ok(())
}

/// Whether the blob's gzip header has no optional fields.
fn header_is_plain(blob: &dyn BlobSource) -> Result<bool, TocError> {
    let mut header = [0; 10];
    match blob.read_exact_at(0, &mut header) {
        Ok(()) => Ok(header[..4] == [0x1f, 0x8b, 8, 0]),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(TocError::Read(error)),
    }
}

/// Adds the entries. Their names together are no longer than the ztoc: its parts may not be used
/// several times, which would make an index of any size.
fn entries(
    toc: Table<'_>,
    content_len: u64,
    mut budget: usize,
    builder: &mut IndexBuilder,
) -> Result<(), TocError> {
    let outside = || TocError::Ztoc("a part of it lies outside or makes no sense");
    for table in toc.offsets(0).ok_or_else(outside)?.tables() {
        let table = table.ok_or_else(outside)?;
        let name = table.bytes(metadata::NAME).ok_or_else(outside)?;
        let refused =
            |what| TocError::Entry { name: String::from_utf8_lossy(name).into_owned(), what };
        let (entry, used) = entry(table).ok_or_else(outside)??;
        budget = budget.checked_sub(used).ok_or(TocError::Ztoc("its parts overlap"))?;
        let entry = entry.check().map_err(refused)?;
        let extent = if entry.kind == Kind::File && entry.size > 0 {
            let start = length(table.i64(metadata::OFFSET))?;
            if start.checked_add(entry.size).is_none_or(|end| end > content_len) {
                return Err(refused(EntryProblem::Short { end: content_len, size: entry.size }));
            }
            Some(Extent { file_offset: 0, content_offset: start, len: entry.size })
        } else {
            None
        };
        builder.entry(&entry, extent.as_slice()).map_err(TocError::Index)?;
    }
    Ok(())
}

/// The words for an entry, and how many bytes its names and values have together.
fn entry(table: Table<'_>) -> Option<Result<(RawEntry<'_>, usize), TocError>> {
    let (name, link) = (table.bytes(metadata::NAME)?, table.bytes(metadata::LINK)?);
    let kind = std::str::from_utf8(table.bytes(metadata::KIND)?).unwrap_or_default();
    let mtime = std::str::from_utf8(table.bytes(metadata::MTIME)?).ok();
    // Go writes nothing for a time that has no form.
    let mtime =
        mtime.and_then(
            |text| if text.is_empty() { Some(Default::default()) } else { time::parse(text) },
        );
    let number = |number| u64::try_from(table.i64(number)?).ok();
    let mut xattrs = Vec::new();
    let mut used = name.len() + link.len() + 1;
    for record in table.offsets(metadata::PAX)?.tables() {
        let record = record?;
        let (key, value) = (record.bytes(0)?, record.bytes(1)?);
        used = used.saturating_add(key.len() + value.len());
        if key.starts_with(SPARSE) {
            return Some(Err(TocError::Unusable(Unusable::Ztoc("has a sparse file"))));
        }
        if let Some(name) = key.strip_prefix(XATTR) {
            xattrs.push((name.to_vec(), value.to_vec()));
        }
    }
    xattrs.sort();
    let Some(mtime) = mtime else { return Some(Err(TocError::Ztoc("a time makes no sense"))) };
    let entry = RawEntry {
        kind,
        name,
        link,
        mode: number(metadata::MODE)?,
        size: number(metadata::SIZE)?,
        uid: table.u32(metadata::UID)?.into(),
        gid: table.u32(metadata::GID)?.into(),
        mtime,
        device: (number(metadata::MAJOR)?, number(metadata::MINOR)?),
        xattrs,
    };
    Some(Ok((entry, used)))
}
