//! Whether a layer's table of contents and its tar stream say the same.
//!
//! The manifest vouches for each of them, but for neither that it fits the other: a layer may show
//! one tree to those who read its table, as kfs does, and another one to those who unpack it. So
//! whatever makes something out of the tar stream of a layer with a table has the two compared:
//! entry by entry in their order, which is the same with all writers, and chunk by chunk.
//!
//! Not compared are times below a second where the format has none, entries that only serve
//! eStargz, empty extended attributes that the table lacks, and the places of chunks in the blob:
//! no wrong bytes can come from there.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::Kind;
use super::index::{Damaged, EntryView, Extent, LayerIndex, SpanDigest, ViewKind, Xattr};
use super::scan::{LayerError, index_by_table};
use super::tar::Member;
use super::toc::is_of_stargz;
use super::toc::trusted::TrustedToc;
use crate::digest::{Digest, Hasher};
use crate::oci::Layer;
use crate::printable;

/// How a table of contents and a tar stream contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// At the same place there is another path.
    #[error("the tar stream has it where the table has {}", printable::name(.0))]
    Path(Vec<u8>),
    /// An entry more in the tar stream.
    #[error("the table does not have it")]
    OnlyInTar,
    /// An entry more in the table.
    #[error("the tar stream does not have it")]
    OnlyInTable,
    /// Another property.
    #[error("they differ in its {0}")]
    Property(&'static str),
    /// Other content.
    #[error("its content at byte {0} is not what the table says")]
    Content(u64),
}

/// A tar stream on its way past the table that it is held against.
#[derive(Debug)]
pub(super) struct Agreement {
    layer: Digest,
    /// Made from the table.
    index: LayerIndex,
    /// Whether it is eStargz or its dialect of zstd:chunked.
    stargz: bool,
    /// The next entry of the index.
    next: usize,
    file: Option<OpenFile>,
    /// The path that differs, and how.
    found: Option<(Vec<u8>, Contradiction)>,
    /// Where the index lies.
    _dir: TempDir,
}

/// The file whose content goes by.
#[derive(Debug)]
struct OpenFile {
    path: Vec<u8>,
    size: u64,
    extents: std::vec::IntoIter<Extent>,
    extent: Option<Extent>,
    /// So much of it went by.
    at: u64,
    part: Part,
}

/// A run of the file with one property.
#[derive(Debug)]
enum Part {
    Zeros { end: u64 },
    Chunk { start: u64, end: u64, digest: SpanDigest, hasher: Hasher },
}

impl Agreement {
    /// `None` if the layer has no table, or none by which it is read. The index is made in `dir`,
    /// and goes with the value.
    pub(super) fn of(layer: &Layer, dir: &Path) -> Result<Option<Self>, LayerError> {
        let digest = layer.descriptor.digest;
        let failed = |source| LayerError::Index { layer: digest, dir: dir.to_owned(), source };
        let Ok(Some(table)) = TrustedToc::of(&layer.descriptor) else {
            // One that makes no sense is an error for whoever reads it.
            return index_by_table(layer, dir).map(|_| None);
        };
        let dir = tempfile::tempdir_in(dir).map_err(failed)?;
        let index = index_by_table(layer, dir.path())?;
        Ok(index.map(|index| Self {
            layer: digest,
            index,
            stargz: table.is_stargz(),
            next: 0,
            file: None,
            found: None,
            _dir: dir,
        }))
    }

    /// Takes the next member of the tar stream; the content of the one before went by.
    pub(super) fn member(&mut self, member: &Member) -> Result<(), LayerError> {
        self.close_file();
        if self.found.is_none() && !(self.stargz && is_of_stargz(&member.entry.path)) {
            let compared = self.compare(member);
            let found = compared.map_err(|source| self.damaged(source))?;
            self.found = found.map(|what| (member.entry.path.clone(), what));
        }
        self.verdict()
    }

    /// Takes content of the last member.
    pub(super) fn content(&mut self, data: &[u8]) {
        let Some(file) = &mut self.file else { return };
        if let Err(at) = file.take(&self.index, data) {
            self.found = Some((file.path.clone(), Contradiction::Content(at)));
            self.file = None;
        }
    }

    /// The tar stream ends here.
    pub(super) fn finish(mut self) -> Result<(), LayerError> {
        self.close_file();
        if self.found.is_none() && self.next < self.index.len() {
            let entry = self.index.entry(self.next).map_err(|source| self.damaged(source))?;
            self.found = Some((entry.path.to_vec(), Contradiction::OnlyInTable));
        }
        self.verdict()
    }

    fn close_file(&mut self) {
        if let Some(file) = self.file.take().filter(|file| file.at < file.size) {
            self.found = Some((file.path, Contradiction::Content(file.at)));
        }
    }

    fn verdict(&self) -> Result<(), LayerError> {
        let Some((path, what)) = self.found.clone() else { return Ok(()) };
        Err(LayerError::Contradiction { layer: self.layer, path, what })
    }

    fn damaged(&self, source: Damaged) -> LayerError {
        let dir = self._dir.path().to_owned();
        LayerError::Index { layer: self.layer, dir, source: io::Error::other(source) }
    }

    fn compare(&mut self, member: &Member) -> Result<Option<Contradiction>, Damaged> {
        if self.next == self.index.len() {
            return Ok(Some(Contradiction::OnlyInTar));
        }
        let listed = self.index.entry(self.next)?;
        self.next += 1;
        if !same_text(&member.entry.path, listed.path) {
            return Ok(Some(Contradiction::Path(listed.path.to_vec())));
        }
        let xattrs = self.index.xattrs(&listed)?;
        if !same_xattrs(&member.entry.xattrs, &xattrs) {
            return Ok(Some(Contradiction::Property("extended attributes")));
        }
        if let Some(property) = self.difference(member, &listed) {
            return Ok(Some(Contradiction::Property(property)));
        }
        if listed.kind == ViewKind::File && listed.size > 0 {
            let extents: Vec<Extent> = self.index.extents(&listed)?.collect();
            let (path, size) = (member.entry.path.clone(), listed.size);
            let mut extents = extents.into_iter();
            let (extent, part) = (extents.next(), Part::Zeros { end: 0 });
            self.file = Some(OpenFile { path, size, extents, extent, at: 0, part });
        }
        Ok(None)
    }

    /// The first property that differs.
    fn difference(&self, member: &Member, listed: &EntryView<'_>) -> Option<&'static str> {
        let entry = &member.entry;
        let same_time = entry.mtime.seconds == listed.mtime.seconds
            && (self.stargz || entry.mtime.nanos == listed.mtime.nanos);
        let properties = [
            ("kind", same_kind(&entry.kind, listed)),
            ("mode", entry.mode == listed.mode),
            ("owner", (entry.uid, entry.gid) == (listed.uid, listed.gid)),
            ("size", entry.size == listed.size),
            ("holes, which a table cannot tell", entry.kind != Kind::File || member.is_plain()),
            ("modification time", same_time),
        ];
        properties.into_iter().find_map(|(name, same)| (!same).then_some(name))
    }
}

impl OpenFile {
    /// Compares content; an error says where what differs starts in the file.
    fn take(&mut self, index: &LayerIndex, mut data: &[u8]) -> Result<(), u64> {
        while !data.is_empty() {
            if self.at == self.part.end() {
                self.part = self.next_part(index).ok_or(self.at)?;
            }
            let left = usize::try_from(self.part.end() - self.at).unwrap_or(usize::MAX);
            let (now, later) = data.split_at(data.len().min(left));
            match &mut self.part {
                Part::Zeros { .. } if now.iter().all(|byte| *byte == 0) => {}
                Part::Zeros { .. } => return Err(self.at),
                Part::Chunk { hasher, .. } => hasher.update(now),
            }
            (self.at, data) = (self.at + now.len() as u64, later);
            if self.at == self.part.end() {
                self.part.check()?;
            }
        }
        Ok(())
    }

    /// What comes at the place that was reached; `None` if that is nothing.
    fn next_part(&mut self, index: &LayerIndex) -> Option<Part> {
        let start = self.at;
        if self.extent.is_some_and(|extent| extent.file_offset + extent.len <= start) {
            self.extent = self.extents.next();
        }
        let end = self.extent.map_or(self.size, |extent| extent.file_offset);
        if start < end {
            return Some(Part::Zeros { end });
        }
        let extent = self.extent?;
        let place = extent.content_offset + (start - extent.file_offset);
        let span = index.span(index.span_at(place)?).ok()?;
        let hasher = Hasher::new();
        let end = start + span.content_len;
        (span.content_offset == place && end <= self.size).then_some(Part::Chunk {
            start,
            end,
            digest: span.digest,
            hasher,
        })
    }
}

impl Part {
    fn end(&self) -> u64 {
        match self {
            Self::Zeros { end } | Self::Chunk { end, .. } => *end,
        }
    }

    fn check(&mut self) -> Result<(), u64> {
        match self {
            Self::Zeros { .. } => Ok(()),
            Self::Chunk { start, digest, hasher, .. } => {
                let found = std::mem::take(hasher).finish();
                if *digest == SpanDigest::Sha256(found) { Ok(()) } else { Err(*start) }
            }
        }
    }
}

fn same_kind(kind: &Kind, listed: &EntryView<'_>) -> bool {
    match (kind, listed.kind) {
        (Kind::File, ViewKind::File)
        | (Kind::Directory, ViewKind::Directory)
        | (Kind::Fifo, ViewKind::Fifo) => true,
        (Kind::Symlink(target), ViewKind::Symlink)
        | (Kind::Hardlink(target), ViewKind::Hardlink) => same_text(target, listed.link),
        (Kind::CharDevice(device), ViewKind::CharDevice)
        | (Kind::BlockDevice(device), ViewKind::BlockDevice) => *device == listed.device,
        _ => false,
    }
}

/// Both are in the order of the names. The first writers of zstd:chunked lost empty ones.
fn same_xattrs(tar: &[(Vec<u8>, Vec<u8>)], listed: &[Xattr<'_>]) -> bool {
    let all = tar.iter().map(|(name, value)| (&name[..], &value[..]));
    all.filter(|xattr| !xattr.1.is_empty() || listed.binary_search(xattr).is_ok())
        .eq(listed.iter().copied())
}

/// Whether a table means this text. JSON has no bytes that are not UTF-8; where its writers are in
/// Go it has U+FFFD for each of them.
fn same_text(tar: &[u8], listed: &[u8]) -> bool {
    tar == listed || std::str::from_utf8(tar).is_err() && in_json(tar).as_bytes() == listed
}

fn in_json(text: &[u8]) -> String {
    let mut written = String::new();
    for chunk in text.utf8_chunks() {
        written.push_str(chunk.valid());
        written.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    written
}

#[cfg(test)]
mod tests;
