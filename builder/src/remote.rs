//! Sources that are not on this machine: what of a source's text says so, and bringing them here.
//!
//! What was fetched by http lies among the blobs of the store, and a record in the build cache says
//! under which URL and which `ETag` it was; it is asked for again, but sent only if it has changed.

mod chart;
mod context;
mod git;
mod http;

use std::collections::BTreeMap;
use std::path::Path;

use kfs_fs::digest::Digest;
use kfs_fs::error::PathError;
use kfs_fs::oci::registry::RegistryError;
use kfs_fs::oci::registry::download::DownloadError;
use kfs_fs::oci::store::{StoreError, TempDir, Writer};

use crate::cache::Cache;
use crate::copy::Fetched;
use crate::interrupt::{Interrupted, Interrupts};
pub(crate) use chart::fetch_chart;
pub use context::{RemoteContext, RemoteContextError};
use git::GitTree;
pub(crate) use git::{GitUrl, is_commit_prefix};
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
    /// The registry does not give it.
    #[error("oci://{name}: {source}")]
    Registry {
        /// As written.
        name: String,
        /// Why.
        source: Box<RegistryError>,
    },
    /// What the registry has under the name is no chart.
    #[error("oci://{name} is no Helm chart: {reason}")]
    NoChart {
        /// As written.
        name: String,
        /// What it is.
        reason: String,
    },
    /// There is nothing to call the file by.
    #[error("{0} has no file name: give a destination that does not end in /")]
    NoName(String),
    /// There is no program to fetch a repository with.
    #[error("git is needed for {0}, and is not installed")]
    NoGit(String),
    /// The text of a git source is malformed.
    #[error("{0}")]
    GitUrl(String),
    /// git fails.
    #[error("{url}: {reason}")]
    Git {
        /// Without a password.
        url: String,
        /// As git says it.
        reason: String,
    },
    /// The repository is at another commit than the build file wants.
    #[error("{url} is at the commit {found}, but --checksum says {expected}")]
    Commit {
        /// Without a password.
        url: String,
        /// Where the reference leads.
        found: String,
        /// As written.
        expected: String,
    },
    /// A repository has no such branch, tag or commit.
    #[error("{url} has no branch, tag or commit {wanted}")]
    NoGitReference {
        /// Without a password.
        url: String,
        /// As written.
        wanted: String,
    },
    /// A commit has no such directory.
    #[error("{url} has no directory {directory}")]
    NoGitDirectory {
        /// Without a password.
        url: String,
        /// As written.
        directory: String,
    },
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
    /// The socket of the SSH agent that git is to use; none for that of the environment.
    pub(crate) agent: Option<&'a Path>,
}

/// What is wanted of remote sources beside what they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// The digest that the one file has to have.
    pub(crate) checksum: Option<Digest>,
    /// The commit, or its first digits, that the one repository has to be at.
    pub(crate) commit: Option<&'a str>,
    /// The destination, after which a file is called whose URL has no name.
    pub(crate) dest: &'a str,
    /// Whether archives are unpacked.
    pub(crate) unpack: bool,
    /// Whether a repository's `.git` is kept.
    pub(crate) keep_git_dir: bool,
}

/// The remote sources of an ADD or COPY, as texts.
#[derive(Debug, Default)]
pub(crate) struct Remotes {
    sources: BTreeMap<String, Remote>,
    unpack: bool,
}

#[derive(Debug)]
enum Remote {
    File(HttpFile),
    Tree(GitTree),
}

/// Remote sources as they lie on this machine, as long as the value lives.
#[derive(Debug, Default)]
pub(crate) struct LaidOut {
    pub(crate) sources: BTreeMap<String, Fetched>,
    /// Sources and their submodules that were left out.
    pub(crate) without: Vec<(String, Vec<String>)>,
    _dir: Option<TempDir>,
}

impl Remotes {
    /// Finds out what the sources are now; files that are not here are fetched.
    pub(crate) fn find<'s>(
        sources: impl Iterator<Item = &'s str>,
        wish: Wish<'_>,
        depot: Depot<'_>,
    ) -> Result<Self, RemoteError> {
        let mut remotes = Self { sources: BTreeMap::new(), unpack: wish.unpack };
        for source in sources {
            let remote = match RemoteKind::of(source) {
                None => continue,
                Some(RemoteKind::Http) => Remote::File(HttpFile::fetch(source, wish, depot)?),
                Some(RemoteKind::Git) => {
                    let url = GitUrl::parse(source).map_err(RemoteError::GitUrl)?;
                    Remote::Tree(GitTree::find(url, wish, depot)?)
                }
            };
            remotes.sources.insert(source.to_owned(), remote);
        }
        Ok(remotes)
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.sources.len()
    }

    /// What names their content; not their times, as with all files.
    pub(crate) fn identity(&self) -> Digest {
        let identities = self.sources.values().map(|source| match source {
            Remote::File(file) => file.digest.to_string(),
            Remote::Tree(tree) => tree.identity(),
        });
        Digest::of(identities.collect::<Vec<_>>().join("\n").as_bytes())
    }

    /// What each is, and which version of it: the digest of a file, the commit of a repository.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (&str, String)> {
        self.sources.iter().map(|(source, remote)| match remote {
            Remote::File(file) => (source.as_str(), file.version()),
            Remote::Tree(tree) => (source.as_str(), format!("commit {}", tree.commit())),
        })
    }

    /// Puts them where COPY can take them.
    pub(crate) fn lay_out(&self, depot: Depot<'_>) -> Result<LaidOut, RemoteError> {
        if self.sources.is_empty() {
            return Ok(LaidOut::default());
        }
        let dir = depot.writer.temp_dir()?;
        let mut laid_out = LaidOut::default();
        for (number, (source, remote)) in self.sources.iter().enumerate() {
            let place = dir.path().join(number.to_string());
            let fetched = match remote {
                Remote::File(file) => {
                    let context = file.lay_out(&place, depot.writer)?;
                    Fetched { context, file: Some(file.name.clone()), unpack: self.unpack }
                }
                Remote::Tree(tree) => {
                    let (context, left_out) = tree.lay_out(&place, depot)?;
                    if !left_out.is_empty() {
                        laid_out.without.push((source.clone(), left_out));
                    }
                    Fetched { context, file: None, unpack: false }
                }
            };
            laid_out.sources.insert(source.clone(), fetched);
        }
        laid_out._dir = Some(dir);
        Ok(laid_out)
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
