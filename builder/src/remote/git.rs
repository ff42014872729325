//! A git repository as a source: which commit is wanted, the objects of that commit, and its files.
//!
//! ```text
//! REPOSITORY#REF:DIRECTORY ─ ls-remote ─ commit ─ fetch ─ repository in the build cache ─ files
//! ```
//! What belongs to a step's key is the commit: as long as the reference leads to it, nothing is
//! fetched. A commit that is written out in full is not even asked for.
//!
//! The work is done by the `git` program. A library for it would be the largest dependency of the
//! workspace, and would not know the user's credential helpers, SSH configuration and proxies as
//! `git` does. What runs is shut in by its environment, see [`program`].
//!
//! Submodules are fetched as well, each by its own commit (see [`submodules`]).

mod program;
mod submodules;
mod url;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kfs_fs::digest::Digest;
use kfs_fs::error::AtPath;
use kfs_fs::oci::store::Part;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::{Depot, RemoteError, Wish};
use crate::cache::directory::{self, CacheDirectory};
use crate::context::Context;
use crate::kubefile::Sharing;
use program::{Git, Reach};
use submodules::Submodules;
pub(crate) use url::{GitUrl, is_commit_prefix};

/// A commit of a repository.
#[derive(Debug)]
pub(super) struct GitTree {
    url: GitUrl,
    commit: String,
    /// The full name of the branch or tag that led to it.
    reference: Option<String>,
    /// `--keep-git-dir`.
    keep_git_dir: bool,
}

/// Where the commits that were fetched are kept, in the repository of the cache.
const KEPT: &str = "refs/kfs";

/// Submodules of a source, with those in them. More are nobody's mistake.
const MOST_SUBMODULES: usize = 256;

impl GitTree {
    /// Finds out which commit is wanted, and whether it is the one of `--checksum`.
    pub(super) fn find(url: GitUrl, wish: Wish<'_>, depot: Depot<'_>) -> Result<Self, RemoteError> {
        let found = Self::resolve(url, wish.keep_git_dir, depot)?;
        match wish.commit {
            Some(expected) if !found.commit.starts_with(expected) => {
                let (url, expected) = (found.url.shown(), expected.to_owned());
                Err(RemoteError::Commit { url, found: found.commit, expected })
            }
            _ => Ok(found),
        }
    }

    fn resolve(url: GitUrl, keep_git_dir: bool, depot: Depot<'_>) -> Result<Self, RemoteError> {
        let wanted = url.reference.as_deref().unwrap_or("HEAD");
        if url::is_commit(wanted) {
            let commit = wanted.to_owned();
            return Ok(Self { url, commit, reference: None, keep_git_dir });
        }
        let names = match wanted {
            "HEAD" => vec![wanted.to_owned()],
            full if full.starts_with("refs/") => vec![format!("{full}^{{}}"), full.to_owned()],
            // A tag goes before a branch of its name, as for `git fetch` and BuildKit; what an
            // annotated tag is of, before the tag.
            short => vec![
                format!("refs/tags/{short}^{{}}"),
                format!("refs/tags/{short}"),
                format!("refs/heads/{short}"),
            ],
        };
        let git = Git::new(&url, depot, Reach::Network);
        let mut args: Vec<&str> = vec!["ls-remote", "--", &url.repository];
        args.extend(names.iter().map(String::as_str));
        let listed = git.run(&args)?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let lines: Vec<_> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
        let found = names.iter().find_map(|name| lines.iter().find(|(_, known)| known == name));
        let Some((commit, name)) = found.filter(|(commit, _)| url::is_commit(commit)) else {
            let (url, wanted) = (url.shown(), wanted.to_owned());
            return Err(RemoteError::NoGitReference { url, wanted });
        };
        let reference = Some(name.trim_end_matches("^{}").to_owned());
        Ok(Self { commit: (*commit).to_owned(), reference, url, keep_git_dir })
    }

    /// What names its files: the same only for the same.
    pub(super) fn identity(&self) -> String {
        let directory = &self.url.directory;
        format!("git 2 {} {directory} {}", self.commit, self.keep_git_dir)
    }

    /// In hexadecimal digits.
    pub(super) fn commit(&self) -> &str {
        &self.commit
    }

    /// Puts its files into a new directory, with those of its submodules, fetching what is not
    /// here. Tells which submodules are left out, as kfs knows no way to fetch them.
    pub(super) fn lay_out(
        &self,
        place: &Path,
        depot: Depot<'_>,
    ) -> Result<(Context, Vec<String>), RemoteError> {
        fs::create_dir(place).at("make directory", place)?;
        let index = place.with_extension("index");
        let (seconds, submodules) = self.check_out(place, &index, depot)?;
        let Submodules { found: mut open, mut left_out } = submodules;
        let mut count = 0;
        while let Some((path, url)) = open.pop() {
            count += 1;
            let at = place.join(&path);
            if count > MOST_SUBMODULES || !is_new_directory(place, &path)? {
                left_out.push(path);
                continue;
            }
            let commit = url.reference.clone().unwrap_or_default();
            let submodule = Self { url, commit, reference: None, keep_git_dir: false };
            let (_, more) = submodule.check_out(&at, &index, depot)?;
            let below = |name: String| format!("{path}/{name}");
            open.extend(more.found.into_iter().map(|(name, url)| (below(name), url)));
            left_out.extend(more.left_out.into_iter().map(below));
        }
        settle(place, seconds)?;
        Ok((Context::open(place)?, left_out))
    }

    /// Puts its files into an empty directory; the time of the commit in seconds, and its
    /// submodules, of which there are the directories.
    fn check_out(
        &self,
        place: &Path,
        index: &Path,
        depot: Depot<'_>,
    ) -> Result<(i64, Submodules), RemoteError> {
        // A submodule may be of the same repository: none is fetched as long as this one is held.
        let cache = self.fetched(depot)?;
        let repository = cache.data();
        let git = Git::new(&self.url, depot, Reach::Here).repository(repository);
        let tree = self.tree(&git)?;
        let git = git.index(index).work_tree(place);
        git.run(&["read-tree", &tree])?;
        git.run(&["checkout-index", "-a", "-f"])?;
        if self.keep_git_dir && self.url.directory.is_empty() {
            self.git_dir(place, repository, depot)?;
        }
        let seconds = git.run(&["show", "-s", "--format=%ct", &self.commit])?;
        let seconds = String::from_utf8_lossy(&seconds).trim().parse().unwrap_or(0);
        Ok((seconds, Submodules::of(&git, &self.url, &self.commit, &tree)?))
    }

    /// The repository of the cache, with the commit in it.
    fn fetched(&self, depot: Depot<'_>) -> Result<CacheDirectory, RemoteError> {
        let caches = depot.writer.dir(Part::BuildCache).join("mounts");
        let name = Digest::of(format!("kfs-git-1\n{}", self.url.repository).as_bytes()).hex();
        let cache =
            directory::take::<RemoteError>(&caches.join(name), Sharing::Locked, depot.interrupts)?;
        if self.has_commit(cache.data(), depot)? {
            return Ok(cache);
        }
        let is_new = !cache.data().exists();
        match self.fetch(cache.data(), depot) {
            Err(RemoteError::Git { .. }) if !is_new => {
                // What a killed git left behind may be in its way.
                fs::remove_dir_all(cache.data()).at("remove", cache.data())?;
                self.fetch(cache.data(), depot)?;
            }
            fetched => fetched?,
        }
        Ok(cache)
    }

    fn has_commit(&self, repository: &Path, depot: Depot<'_>) -> Result<bool, RemoteError> {
        if !repository.exists() {
            return Ok(false);
        }
        let git = Git::new(&self.url, depot, Reach::Here).repository(repository);
        match git.run(&["cat-file", "-e", &format!("{}^{{commit}}", self.commit)]) {
            Ok(_) => Ok(true),
            Err(RemoteError::Git { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Fetches the commit alone; from a server that cannot do that, everything.
    fn fetch(&self, repository: &Path, depot: Depot<'_>) -> Result<(), RemoteError> {
        let here = Git::new(&self.url, depot, Reach::Here);
        let words = ["init", "-q", "--bare", "--template=", "--"].map(OsStr::new);
        here.run(&[&words[..], &[repository.as_os_str()]].concat())?;
        let git = Git::new(&self.url, depot, Reach::Network).repository(repository);
        let fetch = |more: &[&str]| {
            let common =
                ["fetch", "-q", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head"];
            git.run(&[&common[..], more].concat())
        };
        let remote = self.url.repository.as_str();
        let kept = format!("{KEPT}/{}", self.commit);
        let wanted = [Some(&self.commit), self.reference.as_ref()];
        for wanted in wanted.into_iter().flatten() {
            let shallow = fetch(&["--depth=1", "--", remote, &format!("+{wanted}:{kept}")]);
            match shallow {
                Ok(_) if self.has_commit(repository, depot)? => return Ok(()),
                Ok(_) | Err(RemoteError::Git { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        fetch(&["--", remote, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"])?;
        if self.has_commit(repository, depot)? {
            return Ok(());
        }
        Err(RemoteError::NoGitReference { url: self.url.shown(), wanted: self.commit.clone() })
    }

    /// The tree that is wanted, by its object's name.
    fn tree(&self, git: &Git<'_>) -> Result<String, RemoteError> {
        let Self { commit, url, .. } = self;
        let spec = match url.directory.as_str() {
            "" => format!("{commit}^{{tree}}"),
            directory => format!("{commit}:{directory}"),
        };
        let missing =
            || RemoteError::NoGitDirectory { url: url.shown(), directory: url.directory.clone() };
        let found = match git.run(&["rev-parse", "--verify", "--quiet", &spec]) {
            Err(RemoteError::Git { .. }) => return Err(missing()),
            found => String::from_utf8_lossy(&found?).trim().to_owned(),
        };
        let kind = git.run(&["cat-file", "-t", &found])?;
        if kind.trim_ascii() == b"tree" { Ok(found) } else { Err(missing()) }
    }

    /// Makes the `.git` of a checkout, with this commit alone.
    fn git_dir(
        &self,
        place: &Path,
        repository: &Path,
        depot: Depot<'_>,
    ) -> Result<(), RemoteError> {
        let here = Git::new(&self.url, depot, Reach::Here);
        let words = ["init", "-q", "--template=", "--"].map(OsStr::new);
        here.run(&[&words[..], &[place.as_os_str()]].concat())?;
        let git_dir = place.join(".git");
        let git = here.repository(&git_dir);
        let words = ["fetch", "-q", "--no-tags", "--depth=1", "--no-write-fetch-head", "--"];
        let mut args: Vec<&OsStr> = words.map(OsStr::new).to_vec();
        let kept = format!("{0}:refs/heads/kfs", self.commit);
        args.extend([repository.as_os_str(), OsStr::new(&kept)]);
        git.run(&args)?;
        git.run(&["update-ref", "--no-deref", "HEAD", &self.commit])?;
        match self.reference.as_deref().filter(|name| name.starts_with("refs/heads/")) {
            Some(branch) => {
                git.run(&["update-ref", branch, &self.commit])?;
                git.run(&["symbolic-ref", "HEAD", branch])?;
            }
            None if self.reference.as_deref().is_some_and(|name| name != "HEAD") => {
                let tag = self.reference.as_deref().unwrap_or_default();
                git.run(&["update-ref", tag, &self.commit])?;
            }
            None => {}
        }
        git.run(&["update-ref", "-d", "refs/heads/kfs"])?;
        git.run(&["remote", "add", "origin", &self.url.shown()])?;
        let git = git.work_tree(place);
        git.run(&["reset", "-q", "--mixed"])?;
        Ok(())
    }
}

/// Whether there is an empty directory at a path below `place`, by names that are no symlinks.
fn is_new_directory(place: &Path, path: &str) -> Result<bool, RemoteError> {
    let mut at = place.to_owned();
    for name in path.split('/') {
        at.push(name);
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).at("stat", &at)?,
        }
    }
    Ok(fs::read_dir(&at).at("read", &at)?.next().is_none())
}

/// Gives all that was checked out the modes that git knows and the time of the commit, so that
/// neither the umask nor the hour is in the image.
fn settle(place: &Path, seconds: i64) -> Result<(), RemoteError> {
    let time = TimeSpec::new(seconds, 0);
    let mut open = vec![place.to_owned()];
    let mut directories = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).at("read", &directory)? {
            let path = entry.at("read", &directory)?.path();
            let metadata = fs::symlink_metadata(&path).at("stat", &path)?;
            if metadata.is_dir() {
                open.push(path);
                continue;
            }
            if metadata.is_file() {
                let executable = metadata.permissions().mode() & 0o100 != 0;
                let mode = Permissions::from_mode(if executable { 0o755 } else { 0o644 });
                fs::set_permissions(&path, mode).at("chmod", &path)?;
            }
            let follow = UtimensatFlags::NoFollowSymlink;
            utimensat(AT_FDCWD, &path, &time, &time, follow).at("set time of", &path)?;
        }
        directories.push(directory);
    }
    for directory in directories {
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).at("chmod", &directory)?;
        let follow = UtimensatFlags::FollowSymlink;
        utimensat(AT_FDCWD, &directory, &time, &time, follow).at("set time of", &directory)?;
    }
    Ok(())
}
