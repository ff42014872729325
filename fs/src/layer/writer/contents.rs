//! The table of contents of a new layer, written entry by entry to a nameless file, as it may
//! become larger than memory should.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

use serde::Serialize;
use zstd::stream::write::Encoder;

use super::tar_split::{Crc64, TarSplit};
use crate::digest::{Digest, Hasher};
use crate::layer::toc::{TocEntry, VERSION, ZEROS};

/// zstd's level for tables. They are fetched before anything can be read of a layer, so they are
/// worth more work than the layer itself.
const LEVEL: i32 = 9;

/// A chunk of a file.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Where its frame starts in the blob.
    pub(super) offset: u64,
    /// Where it starts in the file.
    pub(super) at: u64,
    pub(super) len: u64,
    pub(super) digest: Digest,
    pub(super) zeros: bool,
}

/// What was written.
#[derive(Debug)]
pub(super) struct Spooled {
    file: File,
    /// sha256 of what lies in the file.
    pub(super) digest: Digest,
    pub(super) len: u64,
    /// Length before compression.
    pub(super) uncompressed_len: u64,
}

impl Spooled {
    /// Copies it all.
    pub(super) fn copy_to(mut self, out: &mut dyn Write) -> io::Result<()> {
        self.file.rewind()?;
        io::copy(&mut self.file, out)?;
        Ok(())
    }
}

/// A table of contents while it is written.
#[derive(Debug)]
pub(super) struct Contents {
    table: Table,
    split: Option<TarSplit<Packed>>,
}

#[derive(Debug)]
struct Table {
    out: Packed,
    empty: bool,
}

impl Contents {
    /// A table for zstd:chunked, that is compressed, with what is needed to make the tar again.
    /// Both lie in files in `dir` meanwhile.
    pub(super) fn zstd_chunked(dir: &Path) -> io::Result<Self> {
        let split = TarSplit::new(Packed::zstd(dir)?);
        Ok(Self { table: Table::new(Packed::zstd(dir)?)?, split: Some(split) })
    }

    /// A table for eStargz, that lies in a file in `dir` meanwhile.
    pub(super) fn estargz(dir: &Path) -> io::Result<Self> {
        Ok(Self { table: Table::new(Packed::plain(dir)?)?, split: None })
    }

    /// Bytes of JSON in the table.
    pub(super) fn len(&self) -> u64 {
        self.table.out.len
    }

    pub(super) fn has_tar_split(&self) -> bool {
        self.split.is_some()
    }

    /// Bytes between the contents of two files.
    pub(super) fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.split {
            Some(split) if !bytes.is_empty() => split.segment(bytes),
            Some(_) | None => Ok(()),
        }
    }

    /// Adds an entry, which lacks what the chunks say; `end` is where the last chunk's frame ends.
    pub(super) fn file(
        &mut self,
        mut entry: TocEntry,
        digest: Digest,
        chunks: &[Chunk],
        end: u64,
        crc: Crc64,
    ) -> io::Result<()> {
        if let Some(split) = &mut self.split {
            split.file(&entry.name, (entry.size > 0).then_some((entry.size, crc)))?;
            entry.end_offset = if chunks.is_empty() { 0 } else { end };
        }
        // The digest of no content only stands in eStargz.
        let is_file = entry.kind == "reg";
        if !chunks.is_empty() || is_file && self.split.is_none() {
            entry.digest = digest.to_string();
        }
        let mut rest = chunks.iter();
        if let Some(first) = rest.next() {
            let only = chunks.len() == 1;
            self.describe(&mut entry, first, only);
        }
        let name = entry.name.clone();
        self.table.add(&entry)?;
        for (number, chunk) in rest.enumerate() {
            let mut entry =
                TocEntry { kind: "chunk".into(), name: name.clone(), ..TocEntry::default() };
            self.describe(&mut entry, chunk, number + 2 == chunks.len());
            self.table.add(&entry)?;
        }
        Ok(())
    }

    /// Says of an entry which chunk it is.
    fn describe(&self, entry: &mut TocEntry, chunk: &Chunk, last: bool) {
        entry.offset = chunk.offset;
        if self.split.is_some() {
            // containers/storage says nothing of a chunk that is the whole file.
            if entry.kind == "reg" && last {
                return;
            }
            entry.chunk_size = chunk.len;
            entry.chunk_type = if chunk.zeros { ZEROS.to_owned() } else { String::new() };
        } else if !last {
            // The last chunk goes on to the end of the file.
            entry.chunk_size = chunk.len;
        }
        entry.chunk_offset = chunk.at;
        entry.chunk_digest = chunk.digest.to_string();
    }

    /// Ends both: the table, and what is needed to make the tar again, if the format has that.
    pub(super) fn finish(self) -> io::Result<(Spooled, Option<Spooled>)> {
        let split = self.split.map(|split| split.into_inner().finish()).transpose()?;
        let digest = split.as_ref().map(|split| split.digest);
        Ok((self.table.finish(digest)?, split))
    }
}

impl Table {
    fn new(mut out: Packed) -> io::Result<Self> {
        write!(out, r#"{{"version":{VERSION},"entries":["#)?;
        Ok(Self { out, empty: true })
    }

    fn add(&mut self, entry: &TocEntry) -> io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.out.write_all(b",")?;
        }
        entry.serialize(&mut serde_json::Serializer::new(&mut self.out))?;
        Ok(())
    }

    fn finish(mut self, tar_split: Option<Digest>) -> io::Result<Spooled> {
        self.out.write_all(b"]")?;
        if let Some(digest) = tar_split {
            write!(self.out, r#","tarSplitDigest":"{digest}""#)?;
        }
        self.out.write_all(b"}")?;
        self.out.finish()
    }
}

/// Writes to a nameless file, with or without compression.
#[derive(Debug)]
struct Packed {
    out: BufWriter<Coded>,
    /// Bytes before compression.
    len: u64,
}

enum Coded {
    Plain(Counted),
    Zstd(Encoder<'static, Counted>),
}

impl std::fmt::Debug for Coded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Zstd(_) => "Zstd",
        })
    }
}

#[derive(Debug)]
struct Counted {
    file: File,
    hasher: Hasher,
    len: u64,
}

impl Counted {
    fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(dir)?, hasher: Hasher::new(), len: 0 })
    }
}

impl Packed {
    fn plain(dir: &Path) -> io::Result<Self> {
        Ok(Self { out: BufWriter::new(Coded::Plain(Counted::new(dir)?)), len: 0 })
    }

    fn zstd(dir: &Path) -> io::Result<Self> {
        let encoder = Encoder::new(Counted::new(dir)?, LEVEL)?;
        Ok(Self { out: BufWriter::new(Coded::Zstd(encoder)), len: 0 })
    }

    fn finish(self) -> io::Result<Spooled> {
        let counted = match self.out.into_inner().map_err(io::IntoInnerError::into_error)? {
            Coded::Plain(counted) => counted,
            Coded::Zstd(encoder) => encoder.finish()?,
        };
        let Counted { file, hasher, len } = counted;
        Ok(Spooled { file, digest: hasher.finish(), len, uncompressed_len: self.len })
    }
}

impl Write for Packed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.len += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Write for Coded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(counted) => counted.write(buf),
            Self::Zstd(encoder) => encoder.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write_all(buf)?;
        self.hasher.update(buf);
        self.len += buf.len() as u64;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
