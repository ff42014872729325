//! `kfs load`

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use kfs_fs::oci::archive::load::{Input, load};
use kfs_fs::printable;

use super::{Context, print};
use crate::progress::Progress;
use crate::report::{Failure, USAGE};

/// Copy the images of an archive to the store
///
/// The archive is an oci-archive or a docker-archive, plain or compressed with gzip,
/// zstd, xz or bzip2.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs load debian.tar")]
pub(crate) struct Args {
    /// The archive; standard input if none is given, or -
    file: Option<PathBuf>,

    /// The archive, as docker takes it
    #[arg(long, short, value_name = "FILE", conflicts_with = "file")]
    input: Option<PathBuf>,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let file = args.file.or(args.input).filter(|file| file != Path::new("-"));
    let (what, input) = match file {
        Some(file) => (format!("loading {}", file.display()), Input::File(file)),
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::new("no archive: standard input is a terminal")
                .hint("give a FILE, or pipe an archive")
                .code(USAGE));
        }
        None => {
            ("loading standard input".to_owned(), Input::Stream(Box::new(std::io::stdin().lock())))
        }
    };
    let store = context.store()?;
    let progress = Progress::new(context, &what);
    let loaded = load(&store, input, &|bytes| progress.add(bytes))?;
    drop(progress);
    let line = |image: &kfs_fs::oci::archive::load::Loaded| match &image.name {
        Some(name) => format!("Loaded image: {}\n", printable::text(name)),
        None => format!("Loaded image: {}\n", image.digest),
    };
    print(&loaded.iter().map(line).collect::<String>())
}
