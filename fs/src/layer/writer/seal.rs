//! The end of a layer with a table of contents, and what the manifest says of it.
//!
//! ```text
//! zstd:chunked  frames | skippable: table | skippable: tar-split | skippable: footer
//! eStargz       members | member: tar entry with the table, end of the tar | footer
//! ```

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::collect::BlobFile;
use super::contents::{Contents, Spooled};
use super::frames::Shape;
use crate::digest::{Digest, Hasher};
use crate::layer::tar::{self, BLOCK};
use crate::layer::toc::footer::{self, Position};
use crate::layer::toc::{
    ESTARGZ_TOC_DIGEST, ESTARGZ_TOC_NAME, ESTARGZ_UNCOMPRESSED_SIZE, FIRST_BYTES,
    MANIFEST_CHECKSUM, MANIFEST_POSITION, SKIPPABLE_MAGIC, TAR_SPLIT_POSITION, ZSTD_CHUNKED_PREFIX,
};
use crate::layer::{Entry, Kind, Timestamp};

/// Type of the manifest in positions; there is no other.
const MANIFEST_TYPE: u32 = 1;

/// What the manifest says of the table.
pub(super) struct Sealed {
    /// The digest that the manifest has of the table.
    pub(super) toc: Digest,
    pub(super) annotations: BTreeMap<String, String>,
}

/// Ends a zstd:chunked blob.
pub(super) fn zstd_chunked(
    blob: &mut BlobFile,
    contents: Contents,
    first_len: u64,
) -> io::Result<Sealed> {
    let (table, split) = contents.finish()?;
    let split = split.ok_or_else(|| io::Error::other("no tar-split was written"))?;
    let (toc, digest) = (skippable(blob, &table)?, table.digest);
    table.copy_to(blob)?;
    let tar_split = skippable(blob, &split)?;
    split.copy_to(blob)?;
    let footer = footer::zstd_chunked(toc, tar_split);
    blob.write_all(&SKIPPABLE_MAGIC)?;
    blob.write_all(&frame_len(footer.len() as u64)?)?;
    blob.write_all(&footer)?;
    let text = |at: Position| format!("{}:{}:{}", at.offset, at.len, at.uncompressed_len);
    let values = [
        (MANIFEST_CHECKSUM, digest.to_string()),
        (MANIFEST_POSITION, format!("{}:{MANIFEST_TYPE}", text(toc))),
        (TAR_SPLIT_POSITION, text(tar_split)),
    ];
    let annotation = |(key, value)| (format!("{ZSTD_CHUNKED_PREFIX}{key}"), value);
    let first = (first_len > 0).then(|| (FIRST_BYTES.to_owned(), first_len.to_string()));
    let annotations = values.into_iter().map(annotation).chain(first).collect();
    Ok(Sealed { toc: digest, annotations })
}

/// Writes the header of a skippable frame; returns where its data comes.
fn skippable(blob: &mut BlobFile, data: &Spooled) -> io::Result<Position> {
    blob.write_all(&SKIPPABLE_MAGIC)?;
    blob.write_all(&frame_len(data.len)?)?;
    let (len, uncompressed_len) = (data.len, data.uncompressed_len);
    Ok(Position { offset: blob.len, len, uncompressed_len })
}

fn frame_len(len: u64) -> io::Result<[u8; 4]> {
    let len = u32::try_from(len).map_err(|_| {
        io::Error::other("the layer has so many files that its table of contents passes 4 GiB")
    })?;
    Ok(len.to_le_bytes())
}

/// Ends an eStargz blob and its tar stream, which has this hash and length so far.
pub(super) fn estargz(
    blob: &mut BlobFile,
    contents: Contents,
    diff_id: &mut Hasher,
    stream_len: u64,
) -> io::Result<Sealed> {
    let (table, _) = contents.finish()?;
    let (toc_offset, toc) = (blob.len, table.digest);
    let len = table.len;
    let header = tar::writer::header(&toc_entry(len)).map_err(io::Error::other)?;
    let member = flate2::GzBuilder::new();
    let member = member.write(&mut *blob, flate2::Compression::best());
    let mut out = Tee { out: member, hasher: diff_id, len: stream_len };
    out.write_all(&header)?;
    table.copy_to(&mut out)?;
    let padding = usize::try_from(len.wrapping_neg() % BLOCK as u64).expect("less than a block");
    out.write_all(&[0; BLOCK][..padding])?;
    out.write_all(&[0; 2 * BLOCK])?;
    let uncompressed = out.len;
    out.out.finish()?.write_all(&footer::estargz(toc_offset))?;
    let annotations = BTreeMap::from([
        (ESTARGZ_TOC_DIGEST.to_owned(), toc.to_string()),
        (ESTARGZ_UNCOMPRESSED_SIZE.to_owned(), uncompressed.to_string()),
    ]);
    Ok(Sealed { toc, annotations })
}

/// Ends a blob that turned out to be without a table when all else was written: of eStargz the
/// end of the tar stream is missing, which has this hash so far.
pub(super) fn without_table(
    blob: &mut BlobFile,
    shape: Shape,
    diff_id: &mut Hasher,
) -> io::Result<()> {
    if shape != Shape::Members {
        return Ok(());
    }
    let end = [0; 2 * BLOCK];
    diff_id.update(&end);
    let mut member = flate2::GzBuilder::new().write(blob, flate2::Compression::best());
    member.write_all(&end)?;
    member.finish()?;
    Ok(())
}

/// The tar entry that the table is.
fn toc_entry(size: u64) -> Entry {
    Entry {
        path: ESTARGZ_TOC_NAME.into(),
        kind: Kind::File,
        mode: 0o444,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        size,
        xattrs: Vec::new(),
    }
}

/// Writes, hashes and counts.
struct Tee<'a, W> {
    out: W,
    hasher: &'a mut Hasher,
    len: u64,
}

impl<W: Write> Write for Tee<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.hasher.update(&buf[..n]);
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
