//! Who fetches what, between processes: a range of a layer's content is locked in its file of data
//! as long as it is fetched, so that others who want the same wait for it, and find it on disk.
//!
//! The lock is one of the open file description (fcntl_locking(2)): threads that share the open
//! file have their own way to fetch nothing twice, and a process that is killed has none any more.
//! Nothing depends on it but what a fetch costs: whoever waited long enough fetches all the same.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::layer::{Files, LayerCache};

/// How often it is looked whether others are done.
const PAUSE: Duration = Duration::from_millis(5);

/// A range that is being fetched here; others may have it once the value is gone.
#[derive(Debug)]
pub(crate) struct Claim {
    files: Arc<Files>,
    range: Range<u64>,
}

impl LayerCache {
    /// Takes a range of the content. Others who have a part of it are waited for, up to `patience`;
    /// the second value says whether there were any.
    pub(crate) fn claim(&self, range: Range<u64>, patience: Duration) -> (Option<Claim>, bool) {
        let Some(files) = self.files().filter(|_| !range.is_empty()) else {
            return (None, false);
        };
        let start = Instant::now();
        let mut others = false;
        loop {
            match lock(&files, &range, libc::F_WRLCK) {
                Ok(()) => return (Some(Claim { files, range }), others),
                Err(Errno::EAGAIN | Errno::EACCES) if start.elapsed() < patience => {
                    others = true;
                    thread::sleep(PAUSE);
                }
                // They take too long, or the file system has no such locks.
                Err(_) => return (None, others),
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = lock(&self.files, &self.range, libc::F_UNLCK) {
            tracing::debug!("unlock a range of the cache: {error}");
        }
    }
}

fn lock(files: &Files, range: &Range<u64>, how: i32) -> Result<(), Errno> {
    let number = |n: u64| libc::off_t::try_from(n).map_err(|_| Errno::EOVERFLOW);
    let lock = libc::flock {
        l_type: libc::c_short::try_from(how).map_err(|_| Errno::EINVAL)?,
        l_whence: libc::c_short::try_from(libc::SEEK_SET).map_err(|_| Errno::EINVAL)?,
        l_start: number(range.start)?,
        l_len: number(range.end - range.start)?,
        l_pid: 0,
    };
    fcntl(files.data(), FcntlArg::F_OFD_SETLK(&lock)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::{Cache, IndexId};
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn a_range_is_one_processs_at_a_time_and_waiting_ends() {
        let dir = tempfile::tempdir().unwrap();
        let id = IndexId::from(Digest::of(b"layer"));
        let cache = Arc::new(Cache::new(dir.path(), dir.path(), 1 << 30));
        // Each opens the files for itself, as processes do.
        let [one, other] = [0, 1].map(|_| LayerCache::new(&cache, id));
        assert!(one.claim(0..10, Duration::ZERO).0.is_none(), "there is nothing yet");
        let layer = dir.path().join(id.to_string());
        std::fs::create_dir(&layer).unwrap();
        for name in ["data", "sums.2", "used"] {
            std::fs::write(layer.join(name), "").unwrap();
        }
        let (claim, others) = one.claim(100..200, Duration::ZERO);
        assert!(claim.is_some() && !others);
        assert!(one.claim(150..160, Duration::ZERO).0.is_some(), "this process knows better");
        let (apart, others) = other.claim(200..300, Duration::ZERO);
        assert!(apart.is_some() && !others);
        let (refused, others) = other.claim(199..300, Duration::from_millis(1));
        assert!(refused.is_none() && others);
        let done = thread::spawn(move || {
            thread::sleep(Duration::from_millis(30));
            drop(claim);
        });
        let (later, others) = other.claim(150..300, Duration::from_secs(60));
        assert!(later.is_some() && others);
        done.join().unwrap();
    }
}
