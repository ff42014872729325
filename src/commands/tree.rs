//! `kfs tree`

use std::ffi::OsString;
use std::io::Write as _;

use kfs_fs::filesystem::Ino;
use kfs_fs::oci::reference::Source;

use super::{Context, Out};
use crate::finding::FindArgs;
use crate::look::{Look, escape, kind_word};
use crate::report::Failure;

/// Draw the directory tree of an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs tree -L 2 debian:12 /etc")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// A directory in the image
    #[arg(default_value = "/")]
    path: OsString,

    /// Descend this many levels only
    #[arg(long, short = 'L', value_name = "DEPTH")]
    level: Option<usize>,

    /// Show directories only
    #[arg(long, short)]
    directories: bool,

    #[command(flatten)]
    find: FindArgs,
}

/// A directory on the way to where the drawing stands.
struct Open {
    ino: Ino,
    next: u64,
    /// What stands before the names in it.
    prefix: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let look = Look::open(&args.image, context)?;
    let ino = look.find(&args.path, true)?;
    let mut out = Out::new();
    writeln!(out, "{}", escape(args.path.as_encoded_bytes()))?;
    let is_directory = kind_word(look.attr(ino)?.mode) == "directory";
    let root = Open { ino, next: 0, prefix: String::new() };
    let mut open = if is_directory { vec![root] } else { Vec::new() };
    let (mut directories, mut files) = (0u64, 0u64);
    while let Some(here) = open.last_mut() {
        let Some((at, entry)) = next(&look, here.ino, here.next, args.directories)? else {
            open.pop();
            continue;
        };
        here.next = at + 1;
        let last = next(&look, here.ino, here.next, args.directories)?.is_none();
        let branch = if last { "└── " } else { "├── " };
        let directory = kind_word(entry.mode) == "directory";
        let target = match kind_word(entry.mode) {
            "symlink" => format!(" -> {}", escape(look.fs.readlink(entry.ino)?)),
            _ => String::new(),
        };
        writeln!(out, "{}{branch}{}{target}", here.prefix, escape(entry.name))?;
        *(if directory { &mut directories } else { &mut files }) += 1;
        if directory && args.level.is_none_or(|level| open.len() < level) {
            let here = open.last().expect("it was just looked at");
            let prefix = format!("{}{}", here.prefix, if last { "    " } else { "│   " });
            open.push(Open { ino: entry.ino, next: 0, prefix });
        }
    }
    writeln!(out, "\n{directories} directories, {files} files")?;
    out.finish()
}

/// The entry at or after `at` that is to be drawn, and its place.
fn next(
    look: &Look,
    ino: Ino,
    mut at: u64,
    directories: bool,
) -> Result<Option<(u64, kfs_fs::filesystem::DirEntry<'_>)>, Failure> {
    while let Some(entry) = look.fs.entry_at(ino, at)? {
        if !directories || kind_word(entry.mode) == "directory" {
            return Ok(Some((at, entry)));
        }
        at += 1;
    }
    Ok(None)
}
