//! `kfs stat`

use std::ffi::OsString;
use std::io::Write as _;

use kfs_fs::oci::reference::Source;
use serde::Serialize;

use super::ls::Listed;
use super::{Context, ListFormat, Out};
use crate::finding::FindArgs;
use crate::look::{Look, device, escape, kind_word, mode_string, time};
use crate::report::Failure;

/// Show all that an image says of a file
///
/// A symbolic link is shown itself unless the path ends in a slash.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs stat debian:12 /usr/bin/passwd")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// Paths in the image
    #[arg(required = true)]
    paths: Vec<OsString>,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    inode: u64,
    blocks: u64,
    xattrs: serde_json::Map<String, serde_json::Value>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let look = Look::open(&args.image, context)?;
    let mut out = Out::new();
    let mut all = Vec::new();
    for path in &args.paths {
        let bytes = path.as_encoded_bytes();
        let attr = look.attr(look.find(path, bytes.ends_with(b"/"))?)?;
        let mut xattrs = serde_json::Map::new();
        for name in look.fs.xattr_names(attr.ino)? {
            let value = look.fs.xattr(attr.ino, name)?.unwrap_or_default();
            xattrs.insert(escape(name), escape(value).into());
        }
        if args.format == ListFormat::Json {
            let listed = Listed::new(&look, bytes, &attr)?;
            all.push(Shown { listed, inode: attr.ino.0, blocks: attr.blocks, xattrs });
            continue;
        }
        let kind = kind_word(attr.mode);
        let (major, minor) = device(attr.rdev);
        let detail = match kind {
            "symlink" => format!(" -> {}", escape(look.fs.readlink(attr.ino)?)),
            "char" | "block" => format!(" {major}:{minor}"),
            _ => String::new(),
        };
        writeln!(out, "  File: {}{detail}", escape(bytes))?;
        writeln!(out, "  Type: {kind}   Size: {}   Blocks: {}", attr.size, attr.blocks)?;
        writeln!(out, " Inode: {}   Links: {}", attr.ino.0, attr.nlink)?;
        let mode = mode_string(attr.mode);
        writeln!(
            out,
            "  Mode: {:04o}/{mode}   Uid: {}   Gid: {}",
            attr.mode & 0o7777,
            attr.uid,
            attr.gid
        )?;
        writeln!(out, "Modify: {}", time(attr.mtime, true))?;
        for (name, value) in xattrs {
            writeln!(out, " Xattr: {name}={}", value.as_str().unwrap_or_default())?;
        }
    }
    if args.format == ListFormat::Json {
        out.json(&all)?;
    }
    out.finish()
}
