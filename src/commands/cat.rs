//! `kfs cat`

use std::ffi::OsString;
use std::io::Write as _;

use kfs_fs::oci::reference::Source;

use super::{Context, Out};
use crate::finding::FindArgs;
use crate::look::{Look, kind_word};
use crate::report::Failure;

/// How much is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// Print files of an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs cat debian:12 /etc/os-release")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// Paths in the image
    #[arg(required = true)]
    paths: Vec<OsString>,

    #[command(flatten)]
    find: FindArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let look = Look::open(&args.image, context)?;
    let mut out = Out::new();
    for path in &args.paths {
        let ino = look.find(path, true)?;
        let kind = kind_word(look.attr(ino)?.mode);
        if kind != "file" {
            let failure = Failure::new(format!("{} is a {kind}", path.display()));
            return Err(failure.hint("`kfs ls -l` shows it; only regular files have content"));
        }
        let mut offset = 0;
        loop {
            let piece = look.fs.read(ino, offset, PIECE).map_err(|error| {
                Failure::from(error).context(&format!("read {}", path.display()))
            })?;
            if piece.is_empty() || out.reader_gone() {
                break;
            }
            out.write_all(&piece)?;
            offset += piece.len() as u64;
        }
    }
    out.finish()
}
