//! Verified content of remote layers on disk, shared by all processes of a store.
//!
//! ```text
//! STORE/cache/lock               held (flock) to write; holds how much is allocated at most
//!            /files/         whole files, for mounts that let the kernel read them (see `whole`)
//!            /<layer>[.<toc>]/data   the layer's content, sparse: a span lies at its offset
//!                            /sums.2 16 bytes for each 8 KiB of a span: there, and what it is
//!                            /used   8 bytes for each MiB of content: when it was last read
//! ```
//!
//! The invariant: nothing is served that was not verified against the digest of its span. A span
//! is verified as a whole once, when it is written; each block's sum is then a hash of the block
//! whose key is made of the span's digest, so that a later read of 4 KiB needs to hash no more than
//! the block it lies in, and a block that was cut, flipped or made for another index is found
//! missing.
//! Data is written before its sums: a process that is killed in between leaves nothing that seems
//! to be there. What reads needs no lock. (Where a whole layer streams by before its digest is
//! known, its sums are written when that was found right; see `fill`.)
//!
//! What one process fetches others do not fetch as well: the range of the content is locked in
//! `data` as long as it takes, and whoever wants a part of it waits a moment (see `claim`).
//!
//! The limit is one of allocated bytes, over all processes. Whoever writes holds the lock and adds
//! what he will at most allocate to the sum in it beforehand; when that reaches the limit, the
//! files are asked for what they really take (so a sum left too high by a killed process heals),
//! and then the regions go that were not read for longest. A span of more than half of the limit
//! is not kept: it would push out most of what is used, or all. Whatever goes wrong with writing
//! is logged, and the content is served without being kept.
//!
//! The sums guard against what happens to disks and files, not against whoever may write to the
//! store: he could as well write an index.

mod check;
mod claim;
mod fill;
mod layer;
mod ledger;
mod sums;
mod whole;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) use self::claim::Claim;
pub(crate) use self::fill::{Fill, Filling};
pub(crate) use self::layer::LayerCache;
pub(crate) use self::whole::WholeFile;

use self::layer::Files;
use self::ledger::Ledger;
use crate::digest::Digest;
use crate::error::{AtPath, PathError};
use crate::layer::index::{IndexId, LayerIndex, Span};

/// The unit in which content is dropped, in bytes.
const REGION: u64 = 1 << 20;

/// How long a reader waits for others who write, before it goes on without keeping what it has.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long a command waits for them.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// Layers whose caches are searched for a chunk.
const MOST_OTHERS: usize = 32;

/// For how long the list of those layers holds.
const OTHERS_AGE: Duration = Duration::from_secs(30);

/// Why the cache was not changed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file of the cache cannot be read or written.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Another process writes, or was stopped while it did.
    #[error("the cache in {} is in use by another process", .0.display())]
    Busy(PathBuf),
    /// It would become larger than it may.
    #[error("the cache in {} may not become larger than {limit} bytes", dir.display())]
    Full {
        /// Where it is.
        dir: PathBuf,
        /// The limit.
        limit: u64,
    },
}

/// What the cache has of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerUsage {
    /// Digest of the layer's blob.
    pub layer: Digest,
    /// Digest of the table of contents by which it is read, if it has one.
    pub toc: Option<Digest>,
    /// Bytes on disk.
    pub bytes: u64,
    /// When something of it was last read; to about ten seconds.
    pub last_used: Option<SystemTime>,
}

/// The cache of a store.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    indexes: PathBuf,
    limit: u64,
    ledger: Mutex<Ledger>,
    others: Mutex<Option<(Instant, Vec<Arc<Other>>)>>,
    /// When a failure was last logged, in microseconds since 1970.
    complained: AtomicU64,
    /// When writing last failed, in microseconds since 1970.
    failed: AtomicU64,
    /// How old the time of the last use may be, in microseconds.
    coarseness: u64,
}

/// A layer whose cache may have what another lacks.
#[derive(Debug)]
struct Other {
    index: LayerIndex,
    files: Files,
}

impl Cache {
    /// The cache in `dir`, of layers whose indexes lie in `indexes`, with at most `limit` bytes
    /// on disk. Nothing is opened or made yet.
    pub fn new(dir: &Path, indexes: &Path, limit: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            indexes: indexes.to_owned(),
            limit,
            ledger: Mutex::default(),
            others: Mutex::default(),
            complained: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            coarseness: 10_000_000,
        }
    }

    /// The most it may take, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What a cache in `dir` may take where nobody says otherwise: 10 GiB, on a small file system
    /// a quarter of it.
    pub fn default_limit(dir: &Path) -> u64 {
        const USUAL: u64 = 10 << 30;
        // A directory that is not there yet will lie where its parent does.
        let found = dir.ancestors().find_map(|dir| nix::sys::statvfs::statvfs(dir).ok());
        found.map_or(USUAL, |fs| {
            let size = fs.blocks().saturating_mul(fs.fragment_size());
            USUAL.min(size / 4)
        })
    }

    /// What is there of each layer, the one not used for longest first.
    pub fn usage(&self) -> Result<Vec<LayerUsage>, PathError> {
        let mut usage = Vec::new();
        for (id, path) in self.layer_dirs()? {
            let newest = match Files::open(&path) {
                Ok(Some(files)) => files.stamps().at("read", &path)?.into_iter().max(),
                Ok(None) => None,
                Err(source) => return Err(PathError { action: "open", path, source }),
            };
            let last_used = newest
                .filter(|stamp| *stamp > 0)
                .and_then(|stamp| UNIX_EPOCH.checked_add(Duration::from_micros(stamp)));
            let bytes = ledger::allocated_in(&path)?;
            usage.push(LayerUsage { layer: id.layer, toc: id.toc, bytes, last_used });
        }
        for file in whole::kept(&self.dir)? {
            let Some(layer) = file.layer() else { continue };
            let last_used = UNIX_EPOCH.checked_add(Duration::from_micros(file.stamp));
            let known = usage.iter_mut().find(|usage: &&mut LayerUsage| usage.layer == layer);
            match known {
                Some(usage) => {
                    usage.bytes += file.bytes;
                    usage.last_used = usage.last_used.max(last_used);
                }
                None => {
                    usage.push(LayerUsage { layer, toc: None, bytes: file.bytes, last_used });
                }
            }
        }
        usage.sort_by_key(|layer| layer.last_used);
        Ok(usage)
    }

    /// Drops what was not used for longest until at most `keep` bytes are left; returns how many
    /// bytes became free. Mounts that use the cache fetch again what they need.
    pub fn prune(&self, keep: u64) -> Result<u64, CacheError> {
        self.locked(COMMAND_PATIENCE, |ledger| ledger.shrink(&self.dir, keep))
    }

    /// Drops all of the layers that `doomed` names; returns how many bytes became free.
    pub fn forget(&self, doomed: impl Fn(Digest) -> bool) -> Result<u64, CacheError> {
        if !self.dir.join(ledger::LOCK).exists() {
            return Ok(0);
        }
        self.locked(COMMAND_PATIENCE, |ledger| {
            let mut freed = 0;
            for (id, path) in self.layer_dirs()? {
                if doomed(id.layer) {
                    freed += ledger::allocated_in(&path)?;
                    layer::remove(&path)?;
                }
            }
            for file in whole::kept(&self.dir)? {
                if file.layer().is_some_and(&doomed) {
                    freed += file.bytes;
                    // Who reads from it goes on.
                    whole::remove_file(&file.path)?;
                }
            }
            ledger.recount(&self.dir)?;
            Ok(freed)
        })
    }

    /// Drops all of a layer as one index has it.
    fn forget_index(&self, id: &IndexId) -> Result<(), CacheError> {
        self.locked(PATIENCE, |ledger| {
            layer::remove(&self.dir.join(id.to_string()))?;
            ledger.recount(&self.dir)?;
            Ok(())
        })
    }

    /// The caches of layers, by their names.
    fn layer_dirs(&self) -> Result<Vec<(IndexId, PathBuf)>, PathError> {
        layer_dirs(&self.dir)
    }

    /// Runs `work` while no other thread or process writes.
    fn locked<T>(
        &self,
        patience: Duration,
        work: impl FnOnce(&mut ledger::Locked<'_>) -> Result<T, CacheError>,
    ) -> Result<T, CacheError> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let mut locked = ledger.lock(&self.dir, patience)?;
        work(&mut locked)
    }

    /// Content with this digest and length from the cache of another layer: the next version of
    /// an image has most of what this one has.
    pub(crate) fn elsewhere(&self, own: &IndexId, chunk: Digest, span: &Span) -> Option<Vec<u8>> {
        for other in self.others() {
            if other.index.id() == *own {
                continue;
            }
            for number in other.index.spans_of_chunk(chunk) {
                let Ok(found) = other.index.span(number) else { continue };
                if found.content_len == span.content_len
                    && let Ok(Some(content)) = other.files.read_whole(number, &found)
                    && Digest::of(&content) == chunk
                {
                    return Some(content);
                }
            }
        }
        None
    }

    fn others(&self) -> Vec<Arc<Other>> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((since, list)) = &*others
            && since.elapsed() < OTHERS_AGE
        {
            return list.clone();
        }
        let list = self.find_others().unwrap_or_else(|error| {
            tracing::debug!("search for chunks in other layers: {error}");
            Vec::new()
        });
        *others = Some((Instant::now(), list.clone()));
        list
    }

    fn find_others(&self) -> Result<Vec<Arc<Other>>, PathError> {
        let mut found = Vec::new();
        for (id, path) in self.layer_dirs()? {
            let Ok(Some(files)) = Files::open(&path) else { continue };
            let newest = files.stamps().at("read", &path)?.into_iter().max();
            found.push((newest, id, files));
        }
        found.sort_by_key(|(newest, ..)| std::cmp::Reverse(*newest));
        found.truncate(MOST_OTHERS);
        let open = |(_, id, files)| {
            let index = LayerIndex::open(&self.indexes, id).ok()??;
            Some(Arc::new(Other { index, files }))
        };
        Ok(found.into_iter().filter_map(open).collect())
    }

    /// Whether writing failed a moment ago, so that another try would hold up readers for nothing.
    fn is_pausing(&self) -> bool {
        const PAUSE: u64 = 1_000_000;
        now_micros().saturating_sub(self.failed.load(Ordering::Relaxed)) < PAUSE
    }

    /// Says why something was not kept, at most once a minute.
    fn complain(&self, error: &CacheError) {
        const INTERVAL: u64 = 60_000_000;
        let now = now_micros();
        self.failed.store(now, Ordering::Relaxed);
        let said = |last: u64| (now.saturating_sub(last) >= INTERVAL).then_some(now);
        if self.complained.fetch_update(Ordering::Relaxed, Ordering::Relaxed, said).is_ok() {
            tracing::warn!("content is served without being kept: {error}");
        }
    }
}

/// The directories of layers in a cache. What has another name is not touched.
fn layer_dirs(dir: &Path) -> Result<Vec<(IndexId, PathBuf)>, PathError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", dir)?,
    };
    let mut dirs = Vec::new();
    for entry in entries {
        let entry = entry.at("read", dir)?;
        let name = entry.file_name();
        if let Some(id) = name.to_str().and_then(|name| LayerIndex::id_of(&format!("{name}.layer")))
        {
            dirs.push((id, entry.path()));
        }
    }
    Ok(dirs)
}

fn now_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// All content of these layers goes, if anything is there at all.
pub(crate) fn forget(dir: &Path, layers: &HashSet<Digest>) -> Result<(), CacheError> {
    let cache = Cache::new(dir, Path::new(""), 0);
    cache.forget(|layer| layers.contains(&layer)).map(drop)
}
