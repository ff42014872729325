//! Who may write, how much there is, and what goes when it is too much.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::layer::{self, Files};
use super::whole::{self, Kept};
use super::{CacheError, REGION, layer_dirs};
use crate::error::{AtPath, PathError};

/// The file that is locked. It holds the most that can be allocated, in bytes, little-endian.
pub(super) const LOCK: &str = "lock";

/// When something has to go, this part of the limit becomes free, so that it is not needed again
/// for each span.
const SLACK: u64 = 16;

/// A process's way to the lock.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    file: Option<File>,
    /// Whether this process has asked the files what they take.
    counted: bool,
}

/// The right to write. It ends with the value.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    file: &'a File,
    counted: &'a mut bool,
    path: PathBuf,
}

impl Ledger {
    pub(super) fn lock(
        &mut self,
        dir: &Path,
        patience: Duration,
    ) -> Result<Locked<'_>, CacheError> {
        let path = dir.join(LOCK);
        let end = Instant::now() + patience;
        loop {
            if self.file.is_none() {
                fs::create_dir_all(dir).at("create", dir)?;
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(false);
                self.file = Some(options.open(&path).at("open", &path)?);
                self.counted = false;
            }
            let file = self.file.as_ref().expect("opened above");
            match file.try_lock() {
                Ok(()) if file.metadata().at("stat", &path)?.nlink() > 0 => break,
                // Somebody removed the cache, and others may lock another file.
                Ok(()) => self.file = None,
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => return Err(CacheError::Busy(dir.to_owned())),
                Err(TryLockError::Error(source)) => {
                    return Err(PathError { action: "lock", path, source }.into());
                }
            }
        }
        let file = self.file.as_ref().expect("locked above");
        Ok(Locked { file, counted: &mut self.counted, path })
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!("unlock {}: {error}", self.path.display());
        }
    }
}

impl Locked<'_> {
    /// Makes room for `bytes` more and counts them. For what can never fit nothing is dropped.
    pub(super) fn reserve(&mut self, dir: &Path, bytes: u64, limit: u64) -> Result<(), CacheError> {
        if bytes > limit {
            return Err(CacheError::Full { dir: dir.to_owned(), limit });
        }
        let mut total = match self.total() {
            Some(total) if *self.counted => total,
            _ => self.recount(dir)?,
        };
        if total.saturating_add(bytes) > limit {
            total = self.recount(dir)?;
        }
        if total.saturating_add(bytes) > limit {
            let room = limit.saturating_sub(bytes);
            self.shrink(dir, room.saturating_sub(limit / SLACK))?;
            total = self.recount(dir)?;
        }
        if total.saturating_add(bytes) > limit {
            return Err(CacheError::Full { dir: dir.to_owned(), limit });
        }
        self.set_total(total + bytes)
    }

    /// Asks the files what they take.
    pub(super) fn recount(&mut self, dir: &Path) -> Result<u64, CacheError> {
        let mut total = 0;
        for (_, path) in layer_dirs(dir)? {
            total += allocated_in(&path)?;
        }
        total += whole::kept(dir)?.iter().map(|file| file.bytes).sum::<u64>();
        self.set_total(total)?;
        *self.counted = true;
        Ok(total)
    }

    /// Drops the regions that were not read for longest, and the whole files that nobody uses and
    /// were not opened for longest, until at most `keep` bytes are left; returns how many became
    /// free.
    pub(super) fn shrink(&mut self, dir: &Path, keep: u64) -> Result<u64, CacheError> {
        let before = self.recount(dir)?;
        let mut left = before;
        let mut layers = Vec::new();
        let mut doomed = Vec::new();
        for (_, path) in layer_dirs(dir)? {
            let number = layers.len();
            let Some(layer) = Layer::open(path)? else { continue };
            let region = |(stamp, region): &(u64, u64)| (*stamp, Part::Region(number, *region));
            doomed.extend(layer.stamps.iter().map(region));
            layers.push(layer);
        }
        doomed.extend(whole::kept(dir)?.into_iter().map(|file| (file.stamp, Part::Whole(file))));
        doomed.sort_unstable();
        for (_, part) in doomed {
            if left <= keep {
                break;
            }
            left = left.saturating_sub(match part {
                Part::Region(number, region) => layers[number].drop_region(region)?,
                Part::Whole(file) => file.drop_unused()?,
            });
        }
        Ok(before.saturating_sub(self.recount(dir)?))
    }

    /// The sum in the file; `None` if there is none.
    fn total(&self) -> Option<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, 0).ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn set_total(&self, total: u64) -> Result<(), CacheError> {
        self.file.write_all_at(&total.to_le_bytes(), 0).at("write", &self.path)?;
        Ok(())
    }
}

/// What goes as one.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// The layer, by its place in a list, and the region.
    Region(usize, u64),
    Whole(Kept),
}

/// A layer while room is made.
struct Layer {
    path: PathBuf,
    files: Files,
    /// The regions that are there, with the time of their last use.
    stamps: Vec<(u64, u64)>,
    /// How many of them have not been dropped.
    left: usize,
}

impl Layer {
    /// `None` for one of which something lacks: that is of no use, and removed.
    fn open(path: PathBuf) -> Result<Option<Self>, PathError> {
        let Some(files) = Files::open(&path).at("open", &path)? else {
            layer::remove(&path)?;
            return Ok(None);
        };
        let stamps = files.stamps().at("read", &path)?;
        let stamps: Vec<_> = stamps.into_iter().zip(0..).filter(|(stamp, _)| *stamp > 0).collect();
        Ok(Some(Self { path, files, left: stamps.len(), stamps }))
    }

    /// Drops one region, with the last one all, and where the file system cannot free parts of a
    /// file all at once. Returns how many bytes became free.
    fn drop_region(&mut self, region: u64) -> Result<u64, PathError> {
        if self.left == 0 {
            return Ok(0);
        }
        self.left -= 1;
        let mut freed = 0;
        match self.files.drop_region(region * REGION, REGION) {
            Ok(bytes) => freed = bytes,
            Err(error) => {
                tracing::debug!("{}: a part cannot be freed: {error}", self.path.display());
                self.left = 0;
            }
        }
        if self.left == 0 {
            freed += allocated_in(&self.path)?;
            layer::remove(&self.path)?;
        }
        Ok(freed)
    }
}

/// Bytes on disk that a directory of files takes.
pub(super) fn allocated_in(dir: &Path) -> Result<u64, PathError> {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut total = match fs::symlink_metadata(dir) {
        Err(error) if gone(&error) => return Ok(0),
        metadata => metadata.at("stat", dir)?.blocks() * 512,
    };
    for entry in fs::read_dir(dir).at("read", dir)? {
        let entry = entry.at("read", dir)?;
        match entry.metadata() {
            Err(error) if gone(&error) => {}
            metadata => total += metadata.at("stat", &entry.path())?.blocks() * 512,
        }
    }
    Ok(total)
}
