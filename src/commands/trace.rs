//! `kfs trace`

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use kfs_fs::error::AtPath as _;
use kfs_fs::oci;
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::store::Part;
use kfs_fs::trace::{Trace, Traces};

use super::{Context, print_json};
use crate::report::{Failure, NOT_FOUND, USAGE};

/// Show or set what is fetched ahead when an image is mounted
///
/// A mount of an image in a registry records what is read first, in which order, and the next
/// mount fetches that in the background.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs trace export registry.example/app:v1 >app.trace
  kfs trace import registry.example/app:v2 app.trace
  kfs trace export app:v1 | kfs trace import app:v2 -")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the trace of an image as JSON
    Export {
        /// The image
        image: Source,
    },
    /// Give an image a trace, maybe that of another version of it
    Import {
        /// The image
        image: Source,

        /// As `kfs trace export` printed it; - for standard input
        file: PathBuf,
    },
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.store()?;
    let traces = Traces::new(&store.dir(Part::Traces));
    match &args.what {
        What::Export { image } => {
            let digest = oci::open(image, &store)?.digest;
            let Some(trace) = traces.load(digest)? else {
                let message = format!("there is no trace of {image}");
                let hint = "a mount of an image in a registry records one";
                return Err(Failure::new(message).hint(hint).code(NOT_FOUND));
            };
            print_json(&trace)
        }
        What::Import { image, file } => {
            let trace = read(file)?;
            let digest = oci::open(image, &store)?.digest;
            let count = trace.entries.len();
            traces.save(&Trace::new(digest, trace.entries))?;
            context.say(&format!("{count} parts of files are fetched first for {image}"));
            Ok(())
        }
    }
}

fn read(file: &Path) -> Result<Trace, Failure> {
    if file != Path::new("-") {
        let open = File::open(file).at("open", file)?;
        return Ok(Trace::read(open, &file.display().to_string())?);
    }
    if io::stdin().is_terminal() {
        return Err(Failure::new("no trace: standard input is a terminal").code(USAGE));
    }
    Ok(Trace::read(io::stdin().lock(), "standard input")?)
}
