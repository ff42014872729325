//! `kfs import`

use std::fs::File;
use std::io::{IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kfs_fs::error::AtPath as _;
use kfs_fs::oci::import::{Import, import};

use super::{Context, print};
use crate::progress::Progress;
use crate::report::{Failure, USAGE};

/// Make an image of a root file system's tar
///
/// The tar becomes the image's only layer: as it is, plain or compressed with gzip or zstd;
/// decompressed, if it is compressed with xz or bzip2.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs import rootfs.tar.gz debian:12")]
pub(crate) struct Args {
    /// The tar; - for standard input
    file: PathBuf,

    /// The name of the image; :latest is added to one without a tag
    name: String,

    /// The time that the image shows as its creation, in seconds since 1970 [default: now]
    #[arg(long, env = "SOURCE_DATE_EPOCH", hide_env_values = true, value_name = "SECONDS")]
    source_date_epoch: Option<u32>,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let from = args.file.display().to_string();
    let reader: Box<dyn Read> = if args.file != Path::new("-") {
        Box::new(File::open(&args.file).at("open", &args.file)?)
    } else if std::io::stdin().is_terminal() {
        return Err(Failure::new("no tar: standard input is a terminal").code(USAGE));
    } else {
        Box::new(std::io::stdin().lock())
    };
    let epoch = args.source_date_epoch.map(|seconds| Duration::from_secs(seconds.into()));
    let created = epoch.map_or_else(SystemTime::now, |epoch| SystemTime::UNIX_EPOCH + epoch);
    let store = context.store()?;
    let progress = Progress::new(context, &format!("importing {from}"));
    let what = Import { from: &from, name: &args.name, created };
    let digest = import(&store, reader, &what, &|bytes| progress.add(bytes))?;
    drop(progress);
    print(&format!("{digest}\n"))
}
