//! Recording what is read first, and fetching it ahead the next time.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{ImageFs, Ino, ReadError, Resolved};
use crate::span::{SpanError, SpanId};
use crate::trace::{MOST_ENTRIES, TraceEntry};

/// A read this close behind another of the same file belongs to it, in bytes: a trace need not be
/// finer than what is fetched at a time.
const NEAR: u64 = 64 << 10;
/// Of a file, as many reads may go on at the same time and are told apart.
const AT_ONCE: usize = 64;

/// What was read first, in order.
#[derive(Debug, Default)]
pub(super) struct FirstReads(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    reads: Vec<Read>,
    /// The reads of each file, by their places in `reads`.
    of_file: HashMap<Ino, Vec<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Read {
    ino: Ino,
    start: u64,
    end: u64,
}

impl FirstReads {
    pub(super) fn note(&self, ino: Ino, start: u64, size: u64) {
        let end = start.saturating_add(size);
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Recorded { reads, of_file } = &mut *recorded;
        let places = of_file.entry(ino).or_default();
        for place in places.iter().rev().take(AT_ONCE) {
            let known = &mut reads[*place];
            if start >= known.start && start <= known.end.saturating_add(NEAR) {
                known.end = known.end.max(end);
                return;
            }
        }
        if reads.len() < MOST_ENTRIES {
            places.push(reads.len());
            reads.push(Read { ino, start, end });
        }
    }

    fn reads(&self) -> Vec<Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reads.clone()
    }
}

impl ImageFs {
    /// Notes from now on what is read first.
    pub fn record_first_reads(&mut self) {
        self.first_reads = Some(FirstReads::default());
    }

    /// What was read first so far, in order. Files whose name is not UTF-8 are left out.
    pub fn first_reads(&self) -> Result<Vec<TraceEntry>, ReadError> {
        let reads = self.first_reads.as_ref().map(FirstReads::reads).unwrap_or_default();
        let paths = self.paths_of(reads.iter().map(|read| read.ino).collect())?;
        let entry = |read: &Read| {
            let path = String::from_utf8(paths.get(&read.ino)?.clone()).ok()?;
            Some(TraceEntry { path, offset: read.start, size: read.end - read.start })
        };
        Ok(reads.iter().filter_map(entry).collect())
    }

    /// A path of each of these files.
    fn paths_of(&self, mut wanted: HashSet<Ino>) -> Result<HashMap<Ino, Vec<u8>>, ReadError> {
        let mut found = HashMap::new();
        let mut directories = vec![(Ino::ROOT, b"/".to_vec())];
        while let Some((directory, path)) = directories.pop()
            && !wanted.is_empty()
        {
            for place in 0.. {
                let Some(entry) = self.entry_at(directory, place)? else { break };
                let is_directory = entry.mode & 0o170_000 == 0o040_000;
                if !is_directory && !wanted.contains(&entry.ino) {
                    continue;
                }
                let mut path = path.clone();
                path.extend_from_slice(entry.name);
                if is_directory {
                    path.push(b'/');
                    directories.push((entry.ino, path));
                } else {
                    wanted.remove(&entry.ino);
                    found.insert(entry.ino, path);
                }
            }
        }
        Ok(found)
    }

    /// Fetches in the background, in this order, what a trace names and this image has. `false`
    /// when there is no place to keep it.
    pub fn fetch_ahead(&self, entries: &[TraceEntry]) -> Result<bool, ReadError> {
        let mut spans = Vec::new();
        let mut known = HashSet::new();
        for entry in entries {
            if let Resolved::Found(ino, _) = self.resolve(entry.path.as_bytes(), false)? {
                let of_file = self.spans_of(ino, entry.offset, entry.size)?;
                spans.extend(of_file.into_iter().filter(|span| known.insert(*span)));
            }
        }
        Ok(self.content.fetch_in_background(spans))
    }

    /// Where what a trace names is stored: the layer's place in the image, and bytes of its blob.
    /// Nothing for what the image does not have.
    pub fn stored_ranges(&self, entry: &TraceEntry) -> Result<Vec<(usize, Range<u64>)>, ReadError> {
        let Resolved::Found(ino, _) = self.resolve(entry.path.as_bytes(), false)? else {
            return Ok(Vec::new());
        };
        let spans = self.spans_of(ino, entry.offset, entry.size)?;
        Ok(spans.into_iter().filter_map(|id| Some((id.0, self.content.stored(id)?))).collect())
    }

    /// The spans that hold a range of a file.
    pub(super) fn spans_of(
        &self,
        ino: Ino,
        offset: u64,
        size: u64,
    ) -> Result<Vec<SpanId>, ReadError> {
        let mut spans = Vec::new();
        let end = offset.saturating_add(size);
        for extent in self.tree.extents_from(&self.inode(ino)?, offset)? {
            let Some(index) = self.content.index(extent.layer) else { continue };
            let start = extent.file_offset.max(offset);
            let extent_end = extent.file_offset.saturating_add(extent.len).min(end);
            if start >= extent_end {
                break;
            }
            let place = |at: u64| extent.content_offset.saturating_add(at - extent.file_offset);
            let (mut at, to) = (place(start), place(extent_end));
            while at < to
                && let Some(number) = index.span_at(at)
            {
                spans.push((extent.layer, number));
                let span = index.span(number).map_err(SpanError::from)?;
                at = span.content_offset.saturating_add(span.content_len);
            }
        }
        Ok(spans)
    }
}
