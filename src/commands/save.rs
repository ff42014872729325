//! `kfs save`

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};

use kfs_fs::oci;
use kfs_fs::oci::archive::save::{save_to_file, save_to_stream};
use kfs_fs::oci::reference::Source;

use super::Context;
use crate::finding::FindArgs;
use crate::progress::Progress;
use crate::report::{Failure, USAGE};

/// Write images to an archive
///
/// The same images give the same bytes. A docker-archive holds layers uncompressed, as docker
/// reads them; an oci-archive holds everything as it is stored.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs save -o debian.tar --format docker-archive debian:12")]
pub(crate) struct Args {
    /// Names, the first digits of digests, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<Source>,

    /// The archive; standard output if none is given, or -
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The kind of archive
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A tar of an OCI layout
    #[default]
    OciArchive,
    /// What docker load and podman load read
    DockerArchive,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let format = match args.format {
        Format::OciArchive => oci::archive::Format::Oci,
        Format::DockerArchive => oci::archive::Format::Docker,
    };
    let output = args.output.as_deref().filter(|file| *file != Path::new("-"));
    if output.is_none() {
        not_to_a_terminal("use -o FILE, or redirect standard output")?;
    }
    let reader = context.store_to_read();
    let images: Vec<_> = args
        .images
        .iter()
        .map(|image| oci::select_as_it_is(image, &reader))
        .collect::<Result<_, _>>()?;
    let names: Vec<_> = args.images.iter().map(ToString::to_string).collect();
    let progress = Progress::new(context, &format!("saving {}", names.join(", ")));
    let copied = |bytes| progress.add(bytes);
    match output {
        None => {
            let stdout = &mut io::stdout().lock();
            Ok(save_to_stream(&images, format, &context.store()?, stdout, &copied)?)
        }
        Some(path) => Ok(save_to_file(&images, format, path, &|| context.store(), &copied)?),
    }
}

/// Refuses to write an archive to standard output if that is a terminal.
pub(super) fn not_to_a_terminal(hint: &str) -> Result<(), Failure> {
    match io::stdout().is_terminal() {
        true => Err(Failure::new("an archive is not written to a terminal").hint(hint).code(USAGE)),
        false => Ok(()),
    }
}
