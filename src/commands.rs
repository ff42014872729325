//! One file a command: its arguments, and the call it makes.

pub(crate) mod completions;

use std::path::{Path, PathBuf};

use crate::report::Failure;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// The store's directory.
    pub(crate) root: PathBuf,
    /// Whether to keep quiet about progress.
    pub(crate) quiet: bool,
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
        Ok(Self { root, quiet })
    }
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
