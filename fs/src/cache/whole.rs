//! Whole files of images in the cache, which the kernel can read without us.
//!
//! ```text
//! STORE/cache/files/<layer>-<key>    a file's content; an xattr has its hash
//!                  /.new-<pid>-<n>   one that is being written
//! ```
//!
//! The invariant: a file has its name only with all of its content, and whoever writes or uses
//! it holds a lock (flock) on it. The lock is the open file description's, so that what the kernel
//! was given to read from stays locked when the process that gave it is gone, and is not counted
//! as free space that it is not. The hash is checked once by each who opens it; later damage of a
//! file that the kernel reads is not seen.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::fcntl::{FallocateFlags, fallocate};

use super::layer::ALLOCATION;
use super::{Cache, CacheError, PATIENCE};
use crate::digest::Digest;
use crate::error::{AtPath, PathError};

/// The directory of whole files in a cache.
const DIR: &str = "files";

/// Where the hash of the content is.
const SUM: &str = "user.kfs.blake3";

/// All whole files together take at most this part of the limit: those in use cannot go, and must
/// not take the room of all others.
const SHARE: u64 = 2;

/// What is read and hashed at a time, in bytes.
const PIECE: usize = 1 << 20;

/// Which file of an image it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WholeFile {
    /// Digest of the layer that has its first byte.
    pub(crate) layer: Digest,
    /// Hash of where its bytes lie in which layers.
    pub(crate) key: blake3::Hash,
    /// Size in bytes.
    pub(crate) size: u64,
}

impl WholeFile {
    fn path(&self, cache: &Path) -> PathBuf {
        cache.join(DIR).join(format!("{}-{}", self.layer.hex(), self.key.to_hex()))
    }

    /// What the xattr has: a file of another place is not this one, whatever its content.
    fn hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(self.key.as_bytes())
    }
}

impl Cache {
    /// Opens a whole file to read from as long as the returned file, or a copy of it, is open.
    /// `None` if it is not there, or is not what was written: then it goes.
    pub(crate) fn whole(&self, whole: &WholeFile) -> Result<Option<File>, PathError> {
        let path = whole.path(&self.dir);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.at("open", &path)?,
        };
        if file.try_lock_shared().is_err() || file.metadata().at("stat", &path)?.nlink() == 0 {
            // Somebody drops it right now.
            return Ok(None);
        }
        if !is_sound(&mut file, &path, whole) {
            tracing::warn!("{} is not what was written, and goes", path.display());
            remove_file(&path)?;
            return Ok(None);
        }
        file.set_modified(SystemTime::now()).at("set the time of", &path)?;
        Ok(Some(file))
    }

    /// Writes a whole file; `piece` gives the content at an offset, up to a length, or `None` when
    /// it is not at hand: then nothing is kept, and the answer is `false`.
    pub(crate) fn make_whole(
        &self,
        whole: &WholeFile,
        piece: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>,
    ) -> Result<bool, CacheError> {
        if self.is_pausing() {
            return Ok(false);
        }
        let new = self.room_for(whole).inspect_err(|error| self.complain(error))?;
        let mut hasher = whole.hasher();
        let mut at = 0;
        while at < whole.size {
            let most = usize::try_from(whole.size - at).unwrap_or(PIECE).min(PIECE);
            let Some(content) = piece(at, most).filter(|content| !content.is_empty()) else {
                return Ok(false);
            };
            hasher.update(&content);
            new.file.write_all_at(&content, at).at("write", &new.path)?;
            at += content.len() as u64;
        }
        let sum = hasher.finalize();
        xattr::set(&new.path, SUM, sum.as_bytes()).at("set an xattr of", &new.path)?;
        fs::rename(&new.path, whole.path(&self.dir)).at("rename", &new.path)?;
        Ok(true)
    }

    /// A file whose space is taken.
    fn room_for(&self, whole: &WholeFile) -> Result<New, CacheError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let most = self.limit / SHARE;
        let full = || CacheError::Full { dir: self.dir.clone(), limit: most };
        if whole.size > most {
            return Err(full());
        }
        self.locked(PATIENCE, |ledger| {
            if drop_oldest(&self.dir, most - whole.size)? > most - whole.size {
                return Err(full());
            }
            ledger.reserve(&self.dir, whole.size + 8 * ALLOCATION, self.limit)?;
            let dir = self.dir.join(DIR);
            fs::create_dir_all(&dir).at("create", &dir)?;
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!(".new-{}-{number}", std::process::id()));
            // One that a process with our number left, who is gone.
            remove_file(&path)?;
            let file = File::create_new(&path).at("create", &path)?;
            let new = New { file, path };
            new.file.lock_shared().at("lock", &new.path)?;
            let size = i64::try_from(whole.size).map_err(io::Error::other).at("size", &new.path)?;
            let allocated = fallocate(&new.file, FallocateFlags::empty(), 0, size);
            allocated.map_err(io::Error::from).at("allocate", &new.path)?;
            Ok(new)
        })
    }
}

/// A file that is being written. What did not get its name goes with the value.
struct New {
    file: File,
    path: PathBuf,
}

impl Drop for New {
    fn drop(&mut self) {
        if let Err(error) = remove_file(&self.path) {
            tracing::warn!("{error}");
        }
    }
}

/// Whether a file has the size and the content that were written.
fn is_sound(file: &mut File, path: &Path, whole: &WholeFile) -> bool {
    let mut check = || -> io::Result<bool> {
        if file.metadata()?.len() != whole.size {
            return Ok(false);
        }
        let mut hasher = whole.hasher();
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece)? {
                0 => break,
                n => hasher.update(&piece[..n]),
            };
        }
        Ok(xattr::get(path, SUM)?.is_some_and(|sum| sum == hasher.finalize().as_bytes()))
    };
    check().unwrap_or_else(|error| {
        tracing::warn!("read {}: {error}", path.display());
        false
    })
}

/// A whole file, or one that was being written, as it lies in the cache.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kept {
    /// When it was last opened, in microseconds since 1970.
    pub(super) stamp: u64,
    pub(super) path: PathBuf,
    /// What it takes on disk.
    pub(super) bytes: u64,
}

impl Kept {
    /// The layer that it is of; `None` for one that was being written.
    pub(super) fn layer(&self) -> Option<Digest> {
        let (layer, _) = self.path.file_name()?.to_str()?.split_once('-')?;
        format!("sha256:{layer}").parse().ok()
    }

    /// Whether it is what was written; `None` for one that is being written, or went.
    pub(super) fn is_sound(&self) -> Option<bool> {
        let (_, key) = self.path.file_name()?.to_str()?.split_once('-')?;
        let (layer, key) = (self.layer()?, blake3::Hash::from_hex(key).ok()?);
        let mut file = File::open(&self.path).ok()?;
        let size = file.metadata().ok()?.len();
        Some(is_sound(&mut file, &self.path, &WholeFile { layer, key, size }))
    }

    /// Removes it, if nobody uses it; returns how many bytes became free.
    pub(super) fn drop_unused(&self) -> Result<u64, PathError> {
        match File::open(&self.path) {
            Ok(file) if file.try_lock().is_ok() => {
                remove_file(&self.path)?;
                Ok(self.bytes)
            }
            _ => Ok(0),
        }
    }
}

/// All of a cache, the one that was not used for longest first.
pub(super) fn kept(cache: &Path) -> Result<Vec<Kept>, PathError> {
    let dir = cache.join(DIR);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("read", &dir)?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.at("read", &dir)?.path();
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.at("stat", &path)?,
        };
        let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let stamp = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        all.push(Kept { stamp, path, bytes: metadata.blocks() * 512 });
    }
    all.sort();
    Ok(all)
}

/// Drops what nobody uses until at most `keep` bytes of whole files are left; returns how many
/// are.
fn drop_oldest(cache: &Path, keep: u64) -> Result<u64, PathError> {
    let all = kept(cache)?;
    let mut left: u64 = all.iter().map(|file| file.bytes).sum();
    for file in all {
        if left <= keep {
            break;
        }
        left = left.saturating_sub(file.drop_unused()?);
    }
    Ok(left)
}

pub(super) fn remove_file(path: &Path) -> Result<(), PathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = (2 << 20) + 3;

    fn cache(dir: &Path, limit: usize) -> Cache {
        Cache::new(dir, Path::new(""), limit as u64)
    }

    fn whole(name: &[u8]) -> WholeFile {
        WholeFile { layer: Digest::of(b"layer"), key: blake3::hash(name), size: SIZE as u64 }
    }

    fn make(cache: &Cache, name: &[u8]) -> Result<bool, CacheError> {
        cache.make_whole(&whole(name), &mut |at, len| {
            Some((at..at + len as u64).map(|n| n.to_le_bytes()[0]).collect())
        })
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir.join(DIR)).unwrap().count()
    }

    #[test]
    fn what_was_written_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 100 * SIZE);
        assert!(cache.whole(&whole(b"a")).unwrap().is_none());
        assert!(make(&cache, b"a").unwrap());
        let file = cache.whole(&whole(b"a")).unwrap().expect("it was made");
        assert_eq!(file.metadata().unwrap().len(), SIZE as u64);
        // Under the name of another place it is not the content of that.
        fs::rename(whole(b"a").path(dir.path()), whole(b"b").path(dir.path())).unwrap();
        assert!(cache.whole(&whole(b"b")).unwrap().is_none());
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn damaged_files_go() {
        let damages: [fn(&File); 3] = [
            |file| file.write_all_at(b"!", 1_500_000).unwrap(),
            |file| file.set_len(SIZE as u64 - 1).unwrap(),
            |file| file.set_len(SIZE as u64 + 1).unwrap(),
        ];
        for damage in damages {
            let dir = tempfile::tempdir().unwrap();
            let cache = cache(dir.path(), 100 * SIZE);
            assert!(make(&cache, b"a").unwrap());
            let path = whole(b"a").path(dir.path());
            damage(&File::options().write(true).open(path).unwrap());
            assert!(cache.whole(&whole(b"a")).unwrap().is_none());
            assert_eq!(names(dir.path()), 0);
        }
    }

    #[test]
    fn what_is_not_at_hand_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 100 * SIZE);
        let made = cache.make_whole(&whole(b"a"), &mut |at, _| (at == 0).then(|| vec![7; 10]));
        assert!(!made.unwrap());
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn they_take_half_of_the_limit_and_those_in_use_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 5 * SIZE);
        assert!(make(&cache, b"a").unwrap());
        let used = cache.whole(&whole(b"a")).unwrap().unwrap();
        assert!(make(&cache, b"b").unwrap());
        // The third has room only in the place of the second.
        assert!(make(&cache, b"c").unwrap());
        assert!(cache.whole(&whole(b"b")).unwrap().is_none());
        assert!(cache.usage().unwrap()[0].bytes >= 2 * SIZE as u64);
        cache.prune(0).unwrap();
        assert_eq!(names(dir.path()), 1, "the one in use");
        drop(used);
        assert!(cache.prune(0).unwrap() >= SIZE as u64);
        assert_eq!(names(dir.path()), 0);
    }

    #[test]
    fn they_go_with_their_layer() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 100 * SIZE);
        assert!(make(&cache, b"a").unwrap());
        assert_eq!(cache.forget(|layer| layer == Digest::of(b"another")).unwrap(), 0);
        assert!(cache.forget(|layer| layer == Digest::of(b"layer")).unwrap() >= SIZE as u64);
        assert_eq!(names(dir.path()), 0);
    }
}
