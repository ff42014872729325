//! Where blobs can be had that are not in the store: `remotes/<hex digits of the blob>`, a line
//! for each repository (`host[:port]/path`), the one that was seen last first. Beside it lies what
//! a pull or a push that was broken off goes on with: `<hex digits>.partial` and `.upload`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;

use super::{Part, Store};
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

    /// What is known of an upload of a blob that was broken off.
    pub(crate) fn upload_path(&self, digest: Digest) -> PathBuf {
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
