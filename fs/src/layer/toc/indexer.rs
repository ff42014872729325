//! From the entries of a table of contents to the index of a layer.
//!
//! The content of such a layer is its chunks, one after another, in the order of the table; each
//! is a span. Where a chunk's bytes end in the blob shows only when the place of the next one is
//! known, so the spans of one place wait for that.

use super::entry::RawEntry;
use super::error::{EntryProblem, TocError, Unusable};
use super::{Base64, PREFETCH_LANDMARK, TocEntry, ZEROS, is_of_stargz};
use crate::digest::Digest;
use crate::layer::index::{Coding, Extent, IndexBuilder, Span, SpanDigest};
use crate::layer::tar;
use crate::layer::{Entry, Kind, Timestamp};
use crate::span::MAX_SPAN;

/// As many chunks may lie in one gzip member; a writer that puts small files together does so up
/// to a few MiB.
const MAX_SHARED: usize = 1 << 16;

/// What differs between the formats.
#[derive(Clone, Copy, Debug)]
pub(in crate::layer) struct Rules {
    /// How chunks are stored.
    pub(in crate::layer) coding: Coding,
    /// Where the chunks end in the blob: there comes the table.
    pub(in crate::layer) chunks_end: u64,
    /// Whether the layer has entries that are not part of the image: landmarks, the table.
    pub(in crate::layer) stargz: bool,
}

/// Makes an index from entries.
pub(in crate::layer) struct Indexer<'a> {
    rules: Rules,
    builder: &'a mut IndexBuilder,
    content_len: u64,
    file: Option<OpenFile>,
    /// The spans in the last place, whose end is not known yet.
    waiting: Vec<Span>,
}

/// The file whose chunks come next.
struct OpenFile {
    entry: Entry,
    /// Whether it is none of the image's.
    hidden: bool,
    extents: Vec<Extent>,
    /// Its chunks so far end here.
    covered: u64,
    /// Where its last chunk ends in the blob, or 0.
    end_offset: u64,
}

impl<'a> Indexer<'a> {
    pub(in crate::layer) fn new(rules: Rules, builder: &'a mut IndexBuilder) -> Self {
        Self { rules, builder, content_len: 0, file: None, waiting: Vec::new() }
    }

    /// Takes the next entry of the table.
    pub(in crate::layer) fn add(&mut self, raw: TocEntry) -> Result<(), TocError> {
        let refused = |what| TocError::Entry { name: raw.name.clone(), what };
        let chunk_of = if raw.kind == "chunk" { self.file.take() } else { None };
        if let Some(mut file) = chunk_of {
            // eStargz readers take the file before, whatever the name says.
            let name = tar::clean_path(raw.name.as_bytes()).map_err(|name| refused(name.into()))?;
            if !name.is_empty() && name != file.entry.path {
                return Err(refused(EntryProblem::Orphan));
            }
            self.chunk(&mut file, &raw)?;
            self.file = Some(file);
            return Ok(());
        }
        self.close_file()?;
        let entry = entry(&raw).map_err(refused)?;
        let hidden = self.rules.stargz && is_of_stargz(&entry.path);
        if entry.kind != Kind::File || entry.size == 0 {
            return if hidden { Ok(()) } else { self.write(&entry, &[]) };
        }
        let (extents, end_offset) = (Vec::new(), raw.end_offset);
        let mut file = OpenFile { entry, hidden, extents, covered: 0, end_offset };
        self.chunk(&mut file, &raw)?;
        self.file = Some(file);
        Ok(())
    }

    /// Ends the table; returns the length of the content.
    pub(in crate::layer) fn finish(mut self) -> Result<u64, TocError> {
        self.close_file()?;
        self.settle(self.rules.chunks_end)?;
        Ok(self.content_len)
    }

    fn write(&mut self, entry: &Entry, extents: &[Extent]) -> Result<(), TocError> {
        self.builder.entry(entry, extents).map_err(TocError::Index)
    }

    fn close_file(&mut self) -> Result<(), TocError> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let refused = |what| Err(refuse(&file.entry, what));
        let size = file.entry.size;
        if file.covered != size {
            return refused(EntryProblem::Short { end: file.covered, size });
        }
        if let (Some(span), end @ 1..) = (self.waiting.first(), file.end_offset) {
            if end <= span.blob_offset || end > self.rules.chunks_end {
                return refused(EntryProblem::Place { chunk: size, at: end });
            }
            self.settle(end)?;
        }
        if file.hidden { Ok(()) } else { self.write(&file.entry, &file.extents) }
    }

    /// Takes a chunk of a file.
    fn chunk(&mut self, file: &mut OpenFile, raw: &TocEntry) -> Result<(), TocError> {
        let at = raw.chunk_offset;
        let refused = |what| Err(refuse(&file.entry, what));
        let left = file.entry.size.saturating_sub(at);
        let len = if raw.chunk_size == 0 { left } else { raw.chunk_size };
        if at != file.covered || len == 0 || len > left {
            return refused(EntryProblem::Chunk(at));
        }
        // A chunk of zeros may not say where it lies: it is of no interest.
        let zeros = match &raw.chunk_type[..] {
            "" => false,
            ZEROS => true,
            other => return refused(EntryProblem::Kind(other.to_owned())),
        };
        let place = raw.offset;
        let has_place = !zeros || place > 0;
        // Before the first chunk there is at least the tar header of its file.
        let is_header = place == 0 && raw.inner_offset == 0;
        if has_place && is_header || place >= self.rules.chunks_end {
            return refused(EntryProblem::Place { chunk: at, at: place });
        }
        if let Some(span) = self.waiting.first()
            && span.blob_offset != place
            && has_place
        {
            if place < span.blob_offset {
                return refused(EntryProblem::Place { chunk: at, at: place });
            }
            self.settle(place)?;
        }
        file.covered += len;
        if zeros {
            return Ok(());
        }
        let whole = len == file.entry.size;
        let digest = digest(raw, whole).map_err(|what| match what {
            Some(what) => refuse(&file.entry, what),
            None => TocError::Unusable(Unusable::NoDigests),
        })?;
        if file.hidden {
            if file.entry.path == PREFETCH_LANDMARK.as_bytes() {
                self.builder.first(place);
            }
            return Ok(());
        }
        add_extent(&mut file.extents, at, self.content_len, len);
        self.span(&file.entry, raw, len, digest)
    }

    /// Lets a span wait for the end of its place.
    fn span(
        &mut self,
        entry: &Entry,
        raw: &TocEntry,
        len: u64,
        digest: Digest,
    ) -> Result<(), TocError> {
        let decoded = raw.inner_offset.saturating_add(len);
        if decoded > MAX_SPAN {
            return Err(TocError::Unusable(Unusable::LargeChunk(decoded)));
        }
        // Also keeps small what the chunks of one place cost together.
        if self.waiting.last().is_some_and(|last| last.end_inside() > raw.inner_offset) {
            return Err(TocError::Unusable(Unusable::Overlap(raw.offset)));
        }
        if self.waiting.len() == MAX_SHARED {
            return Err(refuse(entry, EntryProblem::Shared(MAX_SHARED)));
        }
        self.waiting.push(Span {
            content_offset: self.content_len,
            content_len: len,
            blob_offset: raw.offset,
            blob_len: 0,
            coding: self.rules.coding,
            bits: 0,
            inner_offset: raw.inner_offset,
            digest: SpanDigest::Sha256(digest),
        });
        self.content_len += len;
        Ok(())
    }

    /// Writes the spans that waited, now that their place ends.
    fn settle(&mut self, end: u64) -> Result<(), TocError> {
        for mut span in self.waiting.drain(..) {
            span.blob_len = end - span.blob_offset;
            if span.blob_len > MAX_SPAN {
                return Err(TocError::Unusable(Unusable::LargeChunk(span.blob_len)));
            }
            self.builder.span(&span, &[]).map_err(TocError::Index)?;
        }
        Ok(())
    }
}

fn refuse(entry: &Entry, what: EntryProblem) -> TocError {
    TocError::Entry { name: String::from_utf8_lossy(&entry.path).into_owned(), what }
}

/// The digest of a chunk, which may be that of the file if it is all of it.
fn digest(raw: &TocEntry, whole: bool) -> Result<Digest, Option<EntryProblem>> {
    let text = match &raw.chunk_digest[..] {
        "" if whole && !raw.digest.is_empty() => &raw.digest,
        "" => return Err(None),
        digest => digest,
    };
    text.parse().map_err(|_| Some(EntryProblem::Digest(text.to_owned())))
}

/// Adds a run, which may go on where the one before ends.
fn add_extent(extents: &mut Vec<Extent>, file_offset: u64, content_offset: u64, len: u64) {
    if let Some(last) = extents.last_mut()
        && last.file_offset + last.len == file_offset
        && last.content_offset + last.len == content_offset
    {
        last.len += len;
        return;
    }
    extents.push(Extent { file_offset, content_offset, len });
}

fn entry(raw: &TocEntry) -> Result<Entry, EntryProblem> {
    let xattr = |(name, value): (&String, &Base64)| (name.clone().into_bytes(), value.0.clone());
    let raw = RawEntry {
        kind: &raw.kind,
        name: raw.name.as_bytes(),
        link: raw.link_name.as_bytes(),
        mode: raw.mode,
        size: raw.size,
        uid: raw.uid,
        gid: raw.gid,
        mtime: mtime(raw),
        device: (raw.dev_major, raw.dev_minor),
        xattrs: raw.xattrs.iter().map(xattr).collect(),
    };
    raw.check()
}

/// Go's zero time, with which earlier writers meant that there is none, is in the year 1.
fn mtime(raw: &TocEntry) -> Timestamp {
    const GO_ZERO: i64 = -62_135_596_800;
    let mtime = raw.mtime.map(|time| time.0).unwrap_or_default();
    if mtime.seconds == GO_ZERO { Timestamp::default() } else { mtime }
}
