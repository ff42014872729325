//! `kfs cp`

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use kfs_fs::extract::{Keep, extract};
use kfs_fs::filesystem::Resolved;
use kfs_fs::oci::reference::Source;

use super::Context;
use crate::finding::FindArgs;
use crate::look::{Look, extract_all};
use crate::report::Failure;

/// Copy a file or directory out of an image
///
/// As with cp -r: if DEST is a directory the copy lies in it under its own name, else DEST is its
/// name. Mode and time are kept; with --archive also owner, setuid bits, devices and xattrs, as far
/// as this user may give them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs cp debian:12 /etc/apt ./apt-config")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// A path in the image
    path: OsString,

    /// Where to copy it
    dest: PathBuf,

    /// Keep owner, setuid bits, devices and xattrs
    #[arg(long, short)]
    archive: bool,

    #[command(flatten)]
    find: FindArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let look = Look::open(&args.image, context)?;
    // A trailing slash or dot follows a symlink, as cp does.
    let bytes = args.path.as_bytes();
    let contents = bytes.ends_with(b"/.") || bytes == b".";
    let ino = look.find(&args.path, bytes.ends_with(b"/") || contents)?;
    let resolved = look.fs.resolve(bytes, false)?;
    let name = match &resolved {
        Resolved::Found(_, path) => path.rsplit(|byte| *byte == b'/').next().unwrap_or_default(),
        _ => b"",
    };
    let target = match args.dest.is_dir() && !contents && !name.is_empty() {
        true => args.dest.join(OsStr::from_bytes(name)),
        false => args.dest.clone(),
    };
    if args.archive {
        return extract_all(&look.fs, ino, &target, context);
    }
    extract(&look.fs, ino, &target, Keep::Content)?;
    Ok(())
}
