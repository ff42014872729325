//! One file a command: its arguments, and the call it makes.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod cat;
pub(crate) mod collect;
pub(crate) mod completions;
pub(crate) mod compression;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod cp;
pub(crate) mod diff;
pub(crate) mod fsck;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod kubeconfig;
pub(crate) mod lint;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod ls;
pub(crate) mod merge;
pub(crate) mod mount;
pub(crate) mod mounts;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod registry;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod stat;
pub(crate) mod tag;
pub(crate) mod trace;
pub(crate) mod tree;
pub(crate) mod umount;

use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use kfs_fs::content::Options;
use kfs_fs::oci::find::Lookup;
use kfs_fs::oci::reference::{Name, ReferenceError};
use kfs_fs::oci::registry::{Counters, Registries};
use kfs_fs::oci::store::{Store, StoreError};

use crate::finding::FindArgs;
use crate::report::{Failure, talk};

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// The store's directory.
    pub(crate) root: PathBuf,
    /// Whether to keep quiet about progress.
    pub(crate) quiet: bool,
    /// How images are found.
    lookup: Lookup,
    /// How the content of images is read.
    pub(crate) reading: Options,
}

impl Context {
    /// Finds the store's directory: `--root` or `$KFS_ROOT`, else the default for the user.
    pub(crate) fn new(root: Option<PathBuf>, quiet: bool) -> Result<Self, Failure> {
        let root = match root {
            Some(root) => std::path::absolute(&root).map_err(|error| {
                Failure::new(format!("store directory {}: {error}", root.display()))
            })?,
            None => default_root()?,
        };
        let find = FindArgs::of_environment();
        let (lookup, reading) = (find.lookup(&root), find.reading(&root));
        Ok(Self { root, quiet, lookup, reading })
    }

    /// The same, with what the user says about finding and reading images.
    pub(crate) fn finding(&self, args: &FindArgs) -> Self {
        let lookup = args.lookup(&self.root);
        let reading = args.reading(&self.root);
        Self { root: self.root.clone(), quiet: self.quiet, lookup, reading }
    }

    /// The store, to be changed.
    pub(crate) fn store(&self) -> Result<Store, StoreError> {
        Ok(Store::open(&self.root)?.with_lookup(self.lookup.clone()))
    }

    /// The store, to open an image of it as a file system.
    pub(crate) fn store_to_open(&self) -> Result<Store, StoreError> {
        Ok(Store::open(&self.root)?.with_lookup(Lookup { layers: true, ..self.lookup.clone() }))
    }

    /// The store, only to be read; it need not be there.
    pub(crate) fn store_to_read(&self) -> Store {
        Store::open_readonly(&self.root).with_lookup(self.lookup.clone())
    }

    /// What registries were asked for so far.
    pub(crate) fn fetched(&self) -> Counters {
        let registries = self.lookup.registries.as_ref();
        registries.map(Registries::counters).unwrap_or_default()
    }

    /// Tells the user something that is neither data nor an error.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            talk(text);
        }
    }
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ListFormat {
    /// Aligned columns
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// Standard output. A reader that went away (`kfs ls ... | head -1`) has what it wanted: what is
/// written after that goes nowhere.
#[derive(Debug)]
pub(crate) struct Out {
    stdout: BufWriter<io::StdoutLock<'static>>,
    reader_gone: bool,
}

impl Out {
    pub(crate) fn new() -> Self {
        let stdout = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        Self { stdout, reader_gone: false }
    }

    /// Whether it is of no use to write more.
    pub(crate) fn reader_gone(&self) -> bool {
        self.reader_gone
    }

    /// Writes a JSON document.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value).expect("data with names as keys");
        writeln!(self, "{text}")
    }

    /// Writes out what is still held back.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        Ok(self.flush()?)
    }

    fn noticed<T>(&mut self, result: io::Result<T>, gone: T) -> io::Result<T> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.reader_gone = true;
                Ok(gone)
            }
            other => other,
        }
    }
}

impl io::Write for Out {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.reader_gone {
            return Ok(data.len());
        }
        let written = self.stdout.write(data);
        self.noticed(written, data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.reader_gone {
            return Ok(());
        }
        let flushed = self.stdout.flush();
        self.noticed(flushed, ())
    }
}

/// Prints data.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = Out::new();
    out.write_all(text.as_bytes())?;
    out.finish()
}

/// Prints a JSON document.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut out = Out::new();
    out.json(value)?;
    out.finish()
}

/// A name in a registry; `docker://` before it changes nothing.
fn registry_name(text: &str) -> Result<Name, ReferenceError> {
    text.strip_prefix("docker://").unwrap_or(text).parse()
}

/// `/var/lib/kfs` for root, `$XDG_DATA_HOME/kfs` or `~/.local/share/kfs` for others.
fn default_root() -> Result<PathBuf, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/kfs"));
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    variable("XDG_DATA_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(Path::new(".local/share"))))
        .map(|data| data.join("kfs"))
        .ok_or_else(|| {
            Failure::new("there is no place for the image store")
                .hint("set HOME, XDG_DATA_HOME or KFS_ROOT, or use --root DIR")
        })
}
