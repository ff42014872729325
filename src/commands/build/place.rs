//! Where a build is: its context, which may have to be fetched, and its build file.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use kfs_builder::context::Context as BuildContext;
use kfs_builder::interrupt::Interrupts;
use kfs_builder::remote::RemoteContext;
use kfs_fs::error::AtPath as _;

use super::{Args, build_file_in};
use crate::commands::Context;
use crate::report::{Failure, USAGE};

/// What stands for standard input.
const STDIN: &str = "-";

/// A context and a build file that were found.
pub(super) struct Place {
    pub(super) context: BuildContext,
    /// What the build file is called, to the user.
    pub(super) name: String,
    pub(super) text: Vec<u8>,
    /// Tells this context and build file from others.
    pub(super) origin: String,
    /// Holds what was fetched.
    _remote: Option<RemoteContext>,
}

impl Place {
    pub(super) fn find(
        args: &Args,
        agent: Option<&Path>,
        interrupts: &Interrupts,
        context: &Context,
    ) -> Result<Self, Failure> {
        let text = args.context.to_str().unwrap_or_default();
        let from_stdin = args.file.as_deref() == Some(Path::new(STDIN));
        let remote = if text == STDIN {
            if from_stdin {
                return Err(Failure::new("context and build file cannot both be standard input")
                    .code(USAGE));
            }
            Some(RemoteContext::read(io::stdin().lock(), &context.store()?)?)
        } else if RemoteContext::is_one(text) {
            Some(RemoteContext::fetch(text, &context.store()?, agent, interrupts)?)
        } else {
            None
        };
        let root = remote.as_ref().map_or(args.context.as_path(), RemoteContext::root);
        let found = BuildContext::open(root)?;
        if from_stdin {
            let mut text = Vec::new();
            io::stdin().lock().read_to_end(&mut text).at("read", Path::new("standard input"))?;
            let context = found.with_ignore_file(&root.join("Dockerfile"))?;
            let origin = origin(&args.context, Path::new(STDIN));
            let name = "Dockerfile".to_owned();
            return Ok(Self { context, name, text, origin, _remote: remote });
        }
        let file = match &remote {
            Some(remote) => remote_file(remote, args.file.as_deref())?,
            None => find_file(args)?,
        };
        let text = std::fs::read(&file).at("read", &file)?;
        let shown = match &remote {
            Some(_) => file.strip_prefix(root).ok().or(file.file_name().map(Path::new)),
            None => None,
        };
        let name = shown.unwrap_or(&file).display().to_string();
        let context = found.with_ignore_file(&file)?;
        let origin = match &remote {
            Some(_) => origin(&args.context, Path::new(&name)),
            None => origin(&args.context, &file),
        };
        Ok(Self { context, name, text, origin, _remote: remote })
    }
}

fn origin(context: &Path, file: &Path) -> String {
    // What is no path of this machine stays as it is written.
    let full = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    format!("{}\n{}", full(context).display(), full(file).display())
}

/// The build file of a context that was fetched, which others may have written.
fn remote_file(remote: &RemoteContext, wanted: Option<&Path>) -> Result<PathBuf, Failure> {
    for name in [".dockerignore", ".containerignore"] {
        remote.check(Path::new(name))?;
    }
    if let Some(file) = remote.file() {
        return Ok(file.to_owned());
    }
    let file = match wanted {
        Some(file) => remote.root().join(file.strip_prefix("/").unwrap_or(file)),
        None => build_file_in(remote.root())?,
    };
    let name = file.strip_prefix(remote.root()).unwrap_or(&file);
    remote.check(name)?;
    let own = format!("{}.dockerignore", name.display());
    remote.check(Path::new(&own))?;
    Ok(file)
}

fn find_file(args: &Args) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.file {
        // As buildah: beside the user, else in the context.
        let inside = args.context.join(file);
        return Ok(if !file.exists() && inside.exists() { inside } else { file.clone() });
    }
    build_file_in(&args.context)
}
