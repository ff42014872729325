//! The cache of one layer: reading, and writing.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};

use super::sums::{self, BLOCK, SUM, Sum, slot, sum};
use super::{Cache, CacheError, PATIENCE, REGION, now_micros};
use crate::blocks;
use crate::content::Counters;
use crate::error::{AtPath, PathError};
use crate::layer::index::{IndexId, LayerIndex, Span};
use crate::span::MAX_SPAN;

/// A span may take this part of the limit, as a whole file may.
const LARGEST: u64 = 2;

/// What file systems allocate at a time, in bytes, at most.
pub(super) const ALLOCATION: u64 = 4096;

/// Cached content of a layer. Cheap until it is used.
#[derive(Debug)]
pub(crate) struct LayerCache {
    cache: Arc<Cache>,
    id: IndexId,
    dir: PathBuf,
    files: Mutex<Option<Arc<Files>>>,
}

/// A span that was verified: its number, what it is, and its content.
pub(crate) type Verified<'a> = (usize, Span, &'a [u8]);

impl LayerCache {
    pub(crate) fn new(cache: &Arc<Cache>, id: IndexId) -> Self {
        let dir = cache.dir.join(id.to_string());
        Self { cache: cache.clone(), id, dir, files: Mutex::default() }
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(super) fn id(&self) -> IndexId {
        self.id
    }

    /// Copies what a span has at `skip`; `None` if it is not there, or damaged.
    pub(crate) fn read(
        &self,
        number: usize,
        span: &Span,
        skip: usize,
        buf: &mut [u8],
        counters: &Counters,
    ) -> Option<usize> {
        let rest = span.content_len.checked_sub(skip as u64)?;
        let n = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        self.fill(number, span, skip, &mut buf[..n], counters).then_some(n)
    }

    /// The whole of a span; `None` if it is not there, or damaged.
    pub(crate) fn read_whole(
        &self,
        number: usize,
        span: &Span,
        counters: &Counters,
    ) -> Option<Vec<u8>> {
        let mut content = room_for(span)?;
        self.fill(number, span, 0, &mut content, counters).then_some(content)
    }

    /// Fills `buf` with what a span has at `skip`, if it is there.
    fn fill(
        &self,
        number: usize,
        span: &Span,
        skip: usize,
        buf: &mut [u8],
        counters: &Counters,
    ) -> bool {
        let Some(files) = self.files() else { return false };
        match files.read(number, span, skip, buf) {
            Ok(true) => {
                let start = span.content_offset.saturating_add(skip as u64);
                let end = start.saturating_add(buf.len() as u64);
                files.touch(start..end, self.cache.coarseness);
                return true;
            }
            Ok(false) => {}
            Err(error) => {
                Counters::add(&counters.damaged, 1);
                tracing::warn!("{}, span {number}: {error}; fetched again", self.dir.display());
            }
        }
        self.let_go_if_removed(&files);
        false
    }

    /// Which spans are there, to all appearance.
    pub(crate) fn presence<'a>(&self, index: &'a LayerIndex) -> Presence<'a> {
        let page = RefCell::new((u64::MAX, Vec::new()));
        Presence { index, files: self.files(), page, region: Cell::new((u64::MAX, false)) }
    }

    /// Keeps spans, in ascending order, that were verified just now; returns how many it does not
    /// keep, with a line in the log now and then where that should be possible.
    pub(crate) fn store(&self, spans: &[Verified<'_>]) -> usize {
        if self.cache.is_pausing() {
            return spans.len();
        }
        // Larger ones would push out most of what is used, and soon each other.
        let most = self.cache.limit / LARGEST;
        let fit: Vec<Verified<'_>> =
            spans.iter().filter(|(.., content)| content.len() as u64 <= most).copied().collect();
        let stored = self.write(&fit, PATIENCE, |files, run| {
            // The sums last, as they say that the data is there.
            files.write_content(&run)?;
            files.write_sums(run.first_slot, &run.sums)
        });
        match stored {
            Ok(()) => spans.len() - fit.len(),
            Err(error) => {
                self.cache.complain(&error);
                spans.len()
            }
        }
    }

    /// Makes room for spans, and calls `put` with each run of them.
    pub(super) fn write<'a>(
        &self,
        spans: &'a [Verified<'a>],
        patience: Duration,
        mut put: impl FnMut(&Files, Run<'a>) -> io::Result<()>,
    ) -> Result<(), CacheError> {
        let runs: Vec<Run<'_>> =
            spans.chunk_by(|(a, ..), (b, ..)| a + 1 == *b).map(Run::new).collect();
        let bytes = runs.iter().map(Run::most_allocated).sum();
        let cache = &self.cache;
        cache.locked(patience, |ledger| {
            ledger.reserve(&cache.dir, bytes, cache.limit)?;
            // Only now: making room may have removed them.
            let files = self.files_to_write()?;
            for run in runs {
                put(&files, run).at("write", &self.dir)?;
            }
            Ok(())
        })
    }

    /// Writes the sums of data that was written before, each run from its first slot on; room was
    /// made for them then.
    pub(super) fn write_sums(
        &self,
        runs: &[(u64, Vec<Sum>)],
        patience: Duration,
    ) -> Result<(), CacheError> {
        if runs.is_empty() {
            return Ok(());
        }
        self.cache.locked(patience, |_| {
            // What was removed meanwhile is not there, whatever its sums.
            let files = self.files_to_write()?;
            for (first_slot, sums) in runs {
                files.write_sums(*first_slot, sums).at("write", &self.dir)?;
            }
            Ok(())
        })
    }

    /// The open files, if there are any.
    pub(super) fn files(&self) -> Option<Arc<Files>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.is_none() {
            *files = match Files::open(&self.dir) {
                Ok(opened) => opened.map(Arc::new),
                Err(error) => {
                    tracing::debug!("open {}: {error}", self.dir.display());
                    None
                }
            };
        }
        files.clone()
    }

    /// The open files, made if need be; the cache is locked.
    fn files_to_write(&self) -> Result<Arc<Files>, PathError> {
        if let Some(files) = self.files()
            && !files.are_removed()
        {
            return Ok(files);
        }
        let made = Arc::new(Files::create(&self.dir)?);
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(made.clone());
        Ok(made)
    }

    fn let_go_if_removed(&self, files: &Files) {
        if files.are_removed() {
            *self.files.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// Spans with consecutive numbers, and their sums.
pub(super) struct Run<'a> {
    spans: &'a [Verified<'a>],
    pub(super) first_slot: u64,
    pub(super) sums: Vec<Sum>,
}

impl<'a> Run<'a> {
    fn new(spans: &'a [Verified<'a>]) -> Self {
        let (number, span, _) = spans.first().expect("chunks are not empty");
        let first_slot = slot(*number, span);
        let mut sums: Vec<Sum> = Vec::new();
        for (number, span, content) in spans {
            let at = slot(*number, span).saturating_sub(first_slot);
            // Between the sums of two spans there may be one that is never used. A damaged index
            // may leave more, but not a terabyte of them.
            let at = usize::try_from(at).unwrap_or(usize::MAX).min(sums.len() + 1);
            sums.resize(at, [0; SUM]);
            sums.extend((0..).zip(content.chunks(BLOCK)).map(|(n, data)| sum(span, n, data)));
        }
        Self { spans, first_slot, sums }
    }

    /// The most that writing it can allocate, with what a file system needs beside the data.
    fn most_allocated(&self) -> u64 {
        let data: u64 = self.spans.iter().map(|(.., content)| content.len() as u64).sum();
        let sums = (self.sums.len() * SUM) as u64;
        let used = (data / REGION + 2) * 8;
        // Each of the three may reach into two more units, and the tree that tells where they
        // are and the directory may grow.
        data + sums + used + 8 * ALLOCATION
    }
}

/// A buffer for all of a span; `None` if it is of a size that none has, as a damaged index may say.
fn room_for(span: &Span) -> Option<Vec<u8>> {
    let len = usize::try_from(span.content_len).ok()?;
    (span.content_len <= MAX_SPAN).then(|| vec![0; len])
}

fn all_blocks(span: &Span) -> Option<Range<usize>> {
    Some(0..usize::try_from(span.content_len).ok()?.div_ceil(BLOCK))
}

/// Why a block cannot be read.
enum BlockError {
    /// It is not there.
    Missing,
    /// This one is not what was written.
    Damaged(usize),
    Io(io::Error),
}

/// The open files of a layer.
#[derive(Debug)]
pub(super) struct Files {
    data: File,
    sums: File,
    used: File,
    /// When this process last noted the use of a region, in microseconds since 1970.
    noted: Mutex<HashMap<u64, u64>>,
}

impl Files {
    /// Opens what is there; `None` if something lacks.
    pub(super) fn open(dir: &Path) -> io::Result<Option<Self>> {
        let open = |name: &str| File::options().read(true).write(true).open(dir.join(name));
        match open("data").and_then(|data| Ok((data, open(sums::FILE)?, open("used")?))) {
            Ok((data, sums, used)) => Ok(Some(Self { data, sums, used, noted: Mutex::default() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file with the content.
    pub(super) fn data(&self) -> &File {
        &self.data
    }

    fn create(dir: &Path) -> Result<Self, PathError> {
        fs::create_dir_all(dir).at("create", dir)?;
        let open = |name: &str| {
            let path = dir.join(name);
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).at("open", &path)
        };
        let (data, sums, used) = (open("data")?, open(sums::FILE)?, open("used")?);
        Ok(Self { data, sums, used, noted: Mutex::default() })
    }

    /// Whether somebody removed them, so that nobody else sees what is written.
    fn are_removed(&self) -> bool {
        let removed = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        removed(&self.data) || removed(&self.sums) || removed(&self.used)
    }

    /// Fills `buf` with what a span has at `skip`. `false` if that is not there, an error if it is
    /// not what was written.
    fn read(&self, number: usize, span: &Span, skip: usize, buf: &mut [u8]) -> io::Result<bool> {
        let first = skip / BLOCK;
        let count = (skip + buf.len()).div_ceil(BLOCK) - first;
        let sums = sums::read(&self.sums, slot(number, span).saturating_add(first as u64), count)?;
        if sums.len() < count || sums.contains(&[0; SUM]) {
            return Ok(false);
        }
        let read = |at: u64, block: &mut [u8]| {
            let at = span.content_offset.saturating_add(at);
            let read = read_fully(&self.data, block, at).map_err(BlockError::Io)?;
            if read < block.len() { Err(BlockError::Missing) } else { Ok(()) }
        };
        let verify = |block: usize, data: &[u8]| match sum(span, block, data) {
            found if found == sums[block - first] => Ok(()),
            // What was dropped to make room reads as zeros.
            _ if data.iter().all(|byte| *byte == 0) => Err(BlockError::Missing),
            _ => Err(BlockError::Damaged(block)),
        };
        match blocks::read(span.content_len, skip, buf, read, verify) {
            Ok(()) => Ok(true),
            Err(BlockError::Missing) => Ok(false),
            Err(BlockError::Damaged(block)) => {
                Err(io::Error::other(format!("block {block} is not what was written")))
            }
            Err(BlockError::Io(error)) => Err(error),
        }
    }

    /// The whole of a span.
    pub(super) fn read_whole(&self, number: usize, span: &Span) -> io::Result<Option<Vec<u8>>> {
        let Some(mut content) = room_for(span) else { return Ok(None) };
        Ok(self.read(number, span, 0, &mut content)?.then_some(content))
    }

    /// The use first, as what has none is not found when room is made.
    pub(super) fn write_content(&self, run: &Run<'_>) -> io::Result<()> {
        let start = run.spans.first().map_or(0, |(_, span, _)| span.content_offset);
        let end = run.spans.last().map_or(0, |(_, span, content)| {
            span.content_offset.saturating_add(content.len() as u64)
        });
        self.touch(start..end, 0);
        for (_, span, content) in run.spans {
            self.data.write_all_at(content, span.content_offset)?;
        }
        Ok(())
    }

    /// From here on the blocks are there.
    pub(super) fn write_sums(&self, first_slot: u64, sums: &[Sum]) -> io::Result<()> {
        self.sums.write_all_at(sums.as_flattened(), first_slot.saturating_mul(SUM as u64))
    }

    /// A span is not there any more.
    pub(super) fn forget(&self, number: usize, span: &Span) -> io::Result<()> {
        let blocks = all_blocks(span).map_or(0, |blocks| blocks.len());
        self.write_sums(slot(number, span), &vec![[0; SUM]; blocks])
    }

    /// Notes that a range of the content is used, unless that was noted less than `coarseness`
    /// microseconds ago.
    fn touch(&self, range: Range<u64>, coarseness: u64) {
        let now = now_micros();
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        for region in range.start / REGION..range.end.div_ceil(REGION) {
            let last = noted.entry(region).or_insert(0);
            if now.saturating_sub(*last) >= coarseness {
                *last = now;
                if let Err(error) = self.used.write_all_at(&now.to_le_bytes(), region * 8) {
                    tracing::debug!("note a use: {error}");
                }
            }
        }
    }

    /// For each region when it was last used, in microseconds since 1970; 0 if it is not there.
    pub(super) fn stamps(&self) -> io::Result<Vec<u64>> {
        // Of a layer of 16 TiB; a file that is longer is not ours.
        const LONGEST: usize = 128 << 20;
        let len = usize::try_from(self.used.metadata()?.len()).unwrap_or(usize::MAX);
        let mut stamps = vec![[0; 8]; len.min(LONGEST) / 8];
        let n = read_fully(&self.used, stamps.as_flattened_mut(), 0)?;
        stamps.truncate(n / 8);
        Ok(stamps.into_iter().map(u64::from_le_bytes).collect())
    }

    /// Frees a range of the content that is one region; returns how many bytes became free.
    pub(super) fn drop_region(&self, start: u64, len: u64) -> io::Result<u64> {
        let allocated = || self.data.metadata().map(|metadata| metadata.blocks() * 512);
        let before = allocated()?;
        let offset = |n: u64| i64::try_from(n).map_err(|_| io::ErrorKind::InvalidInput);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.data, flags, offset(start)?, offset(len)?)?;
        self.used.write_all_at(&[0; 8], start / REGION * 8)?;
        Ok(before.saturating_sub(allocated()?))
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_fully(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Removes the cache of a layer. Its space is free at once, even while a mount has it open.
pub(super) fn remove(dir: &Path) -> Result<(), PathError> {
    if let Some(files) = Files::open(dir).at("open", dir)? {
        for file in [&files.sums, &files.data, &files.used] {
            file.set_len(0).at("truncate", dir)?;
        }
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", dir),
    }
}

/// Which spans of a layer are there, to all appearance; for one look at it.
pub(crate) struct Presence<'a> {
    index: &'a LayerIndex,
    files: Option<Arc<Files>>,
    /// The sums around the one that was looked at last, and the number of the first.
    page: RefCell<(u64, Vec<Sum>)>,
    /// The region that was looked at last, and whether it is there.
    region: Cell<(u64, bool)>,
}

impl Presence<'_> {
    /// Whether the span with this number seems to be there.
    pub(crate) fn has(&self, number: usize) -> bool {
        let (Some(files), Ok(span)) = (&self.files, self.index.span(number)) else { return false };
        self.has_sum(files, slot(number, &span)) && self.has_region(files, span.content_offset)
    }

    fn has_sum(&self, files: &Files, slot: u64) -> bool {
        const PAGE: usize = 256;
        let first = slot / PAGE as u64 * PAGE as u64;
        let mut page = self.page.borrow_mut();
        if page.0 != first {
            // What cannot be read is not there.
            *page = (first, sums::read(&files.sums, first, PAGE).unwrap_or_default());
        }
        let at = usize::try_from(slot - first).expect("less than a page");
        page.1.get(at).is_some_and(|sum| *sum != [0; SUM])
    }

    fn has_region(&self, files: &Files, offset: u64) -> bool {
        let region = offset / REGION;
        if self.region.get().0 != region {
            let mut stamp = [0; 8];
            let read = read_fully(&files.used, &mut stamp, region * 8);
            self.region.set((region, read.is_ok() && stamp != [0; 8]));
        }
        self.region.get().1
    }
}
