//! A build context that is not a directory of this machine: a git repository, an archive behind a
//! URL or on standard input, or a build file alone in the place of an archive.
//!
//! Whoever wrote it need not be who builds it: the files that are read before the build begins must
//! lie in it, whatever its links say.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kfs_fs::error::{AtPath, PathError};
use kfs_fs::extract::{ExtractError, Keep, extract};
use kfs_fs::filesystem::{ImageFs, Ino, OpenError};
use kfs_fs::oci::import;
use kfs_fs::oci::store::{Store, StoreError, TempDir};

use super::git::GitTree;
use super::http::HttpFile;
use super::{Depot, GitUrl, RemoteError, RemoteKind, Wish};
use crate::cache::Cache;
use crate::interrupt::Interrupts;

/// What a build file is called that comes alone and without a name.
const BUILD_FILE: &str = "Dockerfile";
/// A build file is no larger than this, in bytes.
const MAX_BUILD_FILE: u64 = 16 << 20;

/// Why there is no context.
#[derive(Debug, thiserror::Error)]
pub enum RemoteContextError {
    /// It cannot be fetched.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The archive cannot be unpacked.
    #[error(transparent)]
    Extract(#[from] ExtractError),
    /// It cannot be laid out.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What came is no archive, and too long for a build file.
    #[error("{0} is neither an archive nor a build file")]
    Nothing(String),
    /// A file that the build reads first is not in it.
    #[error("{name} of {context} is a link out of the context, or no file")]
    Outside {
        /// As it was asked for.
        name: String,
        /// Where it comes from.
        context: String,
    },
}

/// A context that was fetched; it goes away with its value.
#[derive(Debug)]
pub struct RemoteContext {
    source: String,
    root: PathBuf,
    file: Option<PathBuf>,
    _dir: TempDir,
}

impl RemoteContext {
    /// Whether a text names one.
    pub fn is_one(text: &str) -> bool {
        RemoteKind::of(text).is_some()
    }

    /// Fetches what a text names, into the store's temporary files. `agent` is the socket of the
    /// SSH agent that is used, none for that of the environment.
    pub fn fetch(
        text: &str,
        store: &Store,
        agent: Option<&Path>,
        interrupts: &Interrupts,
    ) -> Result<Self, RemoteContextError> {
        // Whatever is begun must not outlive a signal.
        interrupts.hold().at("hold back signals of", Path::new("/proc/self"))?;
        let writer = store.writer()?;
        let cache = Cache::new(&writer, false);
        let depot = Depot { writer: &writer, cache: &cache, interrupts, agent };
        let dir = writer.temp_dir()?;
        let place = dir.path().join("context");
        let wish = Wish {
            checksum: None,
            commit: None,
            dest: BUILD_FILE,
            unpack: false,
            keep_git_dir: false,
        };
        if RemoteKind::of(text) == Some(RemoteKind::Git) {
            let url = GitUrl::parse(text).map_err(RemoteError::GitUrl)?;
            GitTree::find(url, wish, depot)?.lay_out(&place, depot)?;
            return Ok(Self::new(text, place, None, dir));
        }
        let file = HttpFile::fetch(text, wish, depot)?;
        let blob = writer.blob_path(file.digest);
        Self::of_file(text, &blob, &file.name, dir)
    }

    /// Reads an archive, or a build file, from a stream such as standard input.
    pub fn read(mut input: impl Read, store: &Store) -> Result<Self, RemoteContextError> {
        let dir = store.temp_dir()?;
        let path = dir.path().join("input");
        let mut file = File::create(&path).at("create", &path)?;
        io::copy(&mut input, &mut file).at("write", &path)?;
        Self::of_file("standard input", &path, BUILD_FILE, dir)
    }

    fn of_file(
        source: &str,
        file: &Path,
        name: &str,
        dir: TempDir,
    ) -> Result<Self, RemoteContextError> {
        let place = dir.path().join("context");
        if let Some(layer) = import::layer_of_tar(file, dir.path())? {
            let indexes = dir.path().join("indexes");
            fs::create_dir(&indexes).at("make directory", &indexes)?;
            let fs = ImageFs::open_over(
                &[layer],
                &indexes,
                &indexes,
                &mut |_| None,
                Default::default(),
            )?;
            extract(&fs, Ino::ROOT, &place, Keep::Content)?;
            return Ok(Self::new(source, place, None, dir));
        }
        let size = file.metadata().at("stat", file)?.len();
        if size > MAX_BUILD_FILE {
            return Err(RemoteContextError::Nothing(source.to_owned()));
        }
        fs::create_dir(&place).at("make directory", &place)?;
        let alone = dir.path().join(name);
        fs::copy(file, &alone).at("copy", file)?;
        Ok(Self::new(source, place, Some(alone), dir))
    }

    fn new(source: &str, root: PathBuf, file: Option<PathBuf>, dir: TempDir) -> Self {
        Self { source: source.to_owned(), root, file, _dir: dir }
    }

    /// Where its files lie.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The build file, where that is all there is.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Fails if a file of it is there but leads out of it.
    pub fn check(&self, name: &Path) -> Result<(), RemoteContextError> {
        let path = self.root.join(name);
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        let root = self.root.canonicalize().at("open", &self.root)?;
        let inside =
            path.canonicalize().is_ok_and(|real| real.starts_with(&root) && real.is_file());
        if inside {
            return Ok(());
        }
        let (name, context) = (name.display().to_string(), self.source.clone());
        Err(RemoteContextError::Outside { name, context })
    }
}
