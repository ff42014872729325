//! Sources that are not on this machine: what of a source's text says so, and bringing them here.
//!
//! What was fetched by http lies among the blobs of the store, and a record in the build cache says
//! under which URL and which `ETag` it was; it is asked for again, but sent only if it has changed.

mod http;

use std::collections::BTreeMap;
use std::path::Path;

use kfs_fs::digest::Digest;
use kfs_fs::error::PathError;
use kfs_fs::oci::registry::download::DownloadError;
use kfs_fs::oci::store::{StoreError, TempDir, Writer};

use crate::cache::Cache;
use crate::copy::Fetched;
use crate::interrupt::{Interrupted, Interrupts};
use http::HttpFile;

/// What a source that is not on this machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteKind {
    /// A file behind a URL.
    Http,
    /// A git repository.
    Git,
}

impl RemoteKind {
    /// What the text of a source names; none for a path.
    pub(crate) fn of(source: &str) -> Option<Self> {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| source.starts_with(prefix));
        if begins(&["git://", "git@", "ssh://"]) {
            return Some(Self::Git);
        }
        if !begins(&["http://", "https://"]) {
            return None;
        }
        // Dockerfile reference, "ADD": a repository is what ends in .git.
        let path = source.split(['#', '?']).next().unwrap_or_default();
        Some(if path.ends_with(".git") { Self::Git } else { Self::Http })
    }
}

/// Why a source cannot be brought here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// There is nothing to fetch with.
    #[error("{0} cannot be fetched: this build has no client for the network")]
    NoClient(String),
    /// The server does not give it.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// It is not what the build file wants.
    #[error("{url} has the digest {found}, but --checksum says {expected}")]
    Checksum {
        /// As written.
        url: String,
        /// Of what came.
        found: Digest,
        /// Of what was to come.
        expected: Digest,
    },
    /// There is nothing to call the file by.
    #[error("{0} has no file name: give a destination that does not end in /")]
    NoName(String),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be laid out.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A signal asks the build to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// What fetching needs.
#[derive(Clone, Copy)]
pub(crate) struct Depot<'a> {
    pub(crate) writer: &'a Writer,
    pub(crate) cache: &'a Cache,
    pub(crate) interrupts: &'a Interrupts,
}

/// What is wanted of remote sources beside what they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// The digest that the one file has to have.
    pub(crate) checksum: Option<Digest>,
    /// The destination, after which a file is called whose URL has no name.
    pub(crate) dest: &'a str,
    /// Whether archives are unpacked.
    pub(crate) unpack: bool,
}

/// The remote sources of an ADD or COPY, as texts.
#[derive(Debug, Default)]
pub(crate) struct Remotes {
    files: BTreeMap<String, HttpFile>,
    unpack: bool,
}

/// Remote sources as they lie on this machine, as long as the value lives.
#[derive(Debug, Default)]
pub(crate) struct LaidOut {
    pub(crate) sources: BTreeMap<String, Fetched>,
    _dir: Option<TempDir>,
}

impl Remotes {
    /// Finds out what the sources are now, and fetches what is not here.
    pub(crate) fn fetch<'s>(
        sources: impl Iterator<Item = &'s str>,
        wish: Wish<'_>,
        depot: Depot<'_>,
    ) -> Result<Self, RemoteError> {
        let mut remotes = Self { files: BTreeMap::new(), unpack: wish.unpack };
        for source in sources {
            if RemoteKind::of(source) == Some(RemoteKind::Http) {
                remotes.files.insert(source.to_owned(), HttpFile::fetch(source, wish, depot)?);
            }
        }
        Ok(remotes)
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// What names their content; not their times, as with all files.
    pub(crate) fn identity(&self) -> Digest {
        let digests = self.files.values().map(|file| file.digest.to_string());
        Digest::of(digests.collect::<Vec<_>>().join("\n").as_bytes())
    }

    /// Puts them where COPY can take them.
    pub(crate) fn lay_out(&self, writer: &Writer) -> Result<LaidOut, RemoteError> {
        if self.files.is_empty() {
            return Ok(LaidOut::default());
        }
        let dir = writer.temp_dir()?;
        let mut sources = BTreeMap::new();
        for (number, (source, file)) in self.files.iter().enumerate() {
            let place = dir.path().join(number.to_string());
            sources.insert(source.clone(), self.lay_out_file(file, &place, writer)?);
        }
        Ok(LaidOut { sources, _dir: Some(dir) })
    }

    fn lay_out_file(
        &self,
        file: &HttpFile,
        place: &Path,
        writer: &Writer,
    ) -> Result<Fetched, RemoteError> {
        let context = file.lay_out(place, writer)?;
        Ok(Fetched { context, file: Some(file.name.clone()), unpack: self.unpack })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remote_is_told_by_its_text() {
        for (source, kind) in [
            ("https://x/y", Some(RemoteKind::Http)),
            ("http://x/y.git/z", Some(RemoteKind::Http)),
            ("https://x/y.git", Some(RemoteKind::Git)),
            ("https://x/y.git#v1:dir", Some(RemoteKind::Git)),
            ("git@x:y", Some(RemoteKind::Git)),
            ("ssh://git@x/y", Some(RemoteKind::Git)),
            ("git://x/y", Some(RemoteKind::Git)),
            ("ftp://x/y", None),
            ("http:/x", None),
            ("x.git", None),
        ] {
            assert_eq!(RemoteKind::of(source), kind, "{source}");
        }
    }
}
