//! Where blobs can be had that are not in the store: `remotes/<hex digits of the blob>`, a line
//! for each repository (`host[:port]/path`), the one that was seen last first. Beside it lies what
//! a pull or a push that was broken off goes on with: `<hex digits>.partial` and `.upload`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::path::PathBuf;

use super::{Part, Store, temp};
use crate::digest::Digest;
use crate::error::{AtPath, PathError};
use crate::oci::reference::Name;
use crate::parallel::in_parallel;

/// Repositories that are kept for a blob.
const MAX_REPOSITORIES: usize = 8;
/// Files that are written at the same time.
const AT_ONCE: usize = 16;
/// A longer file was not written here, in bytes.
const MAX_FILE: u64 = 16 << 10;

impl Store {
    /// Notes that these blobs can be had from the repository of `name`.
    pub fn record_remotes(&self, name: &Name, blobs: &[Digest]) -> Result<(), PathError> {
        let repository = name.canonical_repository();
        // Each file waits for the disk, and disks bring several to safety as fast as one.
        in_parallel(blobs, AT_ONCE, |digest| self.record_remote(&repository, *digest))?;
        Ok(())
    }

    fn record_remote(&self, repository: &str, digest: Digest) -> Result<(), PathError> {
        let mut known = self.repositories(digest)?;
        if known.first().is_some_and(|first| first == repository) {
            return Ok(());
        }
        known.retain(|other| other != repository);
        known.insert(0, repository.to_owned());
        known.truncate(MAX_REPOSITORIES);
        // A repository that another process notes at this moment may be lost: the blob can still
        // be had from this one.
        self.write_file(&self.remotes_path(digest), (known.join("\n") + "\n").as_bytes())
    }

    /// The repositories where a blob can be had.
    pub fn remotes(&self, digest: Digest) -> Result<Vec<Name>, PathError> {
        let lines = self.repositories(digest)?;
        Ok(lines.iter().filter_map(|line| line.parse().ok()).collect())
    }

    /// Forgets where a blob can be had, and what was fetched or sent of it.
    pub(super) fn forget_remotes(&self, digest: Digest) -> Result<(), PathError> {
        let transfers = [self.partial_path(digest), self.upload_path(digest)];
        for path in transfers.into_iter().chain([self.remotes_path(digest)]) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.at("remove", &path)?,
            }
        }
        Ok(())
    }

    /// What was fetched so far of a blob that is being pulled.
    pub(crate) fn partial_path(&self, digest: Digest) -> PathBuf {
        self.dir(Part::Remotes).join(format!("{}.partial", digest.hex()))
    }

    /// The file for what is fetched of a blob, locked: while another process fetches it, that one
    /// is waited for.
    pub(crate) fn lock_partial(&self, digest: Digest) -> Result<File, PathError> {
        let path = self.partial_path(digest);
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.at("open", &path)?;
            file.lock().at("lock", &path)?;
            // Whoever had the lock may have given the file another name or none: what is written
            // to it would be lost, and the name may be a third one's by now.
            if temp::is_at(&file, &path)? {
                return Ok(file);
            }
        }
    }

    /// What is known of an upload of a blob that was broken off.
    pub fn upload_path(&self, digest: Digest) -> PathBuf {
        self.dir(Part::Remotes).join(format!("{}.upload", digest.hex()))
    }

    fn repositories(&self, digest: Digest) -> Result<Vec<String>, PathError> {
        let path = self.remotes_path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file.at("open", &path)?,
        };
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).at("read", &path)?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn remotes_path(&self, digest: Digest) -> PathBuf {
        self.dir(Part::Remotes).join(digest.hex())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::time::Duration;

    use super::*;
    use crate::oci::fixture::Fixture;

    #[test]
    fn who_waited_for_a_partial_file_gets_the_one_that_has_the_name() {
        let fixture = Fixture::new();
        let digest = Digest::of(b"blob");
        let path = fixture.store.partial_path(digest);
        let first = fixture.store.lock_partial(digest).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| fixture.store.lock_partial(digest).unwrap());
            // Both have it open; the second one waits, or soon does.
            let fds = || fs::read_dir("/proc/self/fd").unwrap().map(|fd| fd.unwrap().path());
            let is_it = |fd: PathBuf| fs::read_link(fd).is_ok_and(|link| link == path);
            while fds().filter(|fd| is_it(fd.clone())).count() < 2 {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(20));
            fs::remove_file(&path).unwrap();
            fs::write(&path, "a third one's").unwrap();
            drop(first);
            let second = second.join().unwrap().metadata().unwrap();
            assert_eq!(second.ino(), fs::metadata(&path).unwrap().ino());
        });
    }
}
