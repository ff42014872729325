//! `kfs copy`

use std::path::Path;

use kfs_fs::oci::archive::{self, save::save_to_file};
use kfs_fs::oci::copy::{copy_to_layout, copy_to_store, narrow};
use kfs_fs::oci::layout::Selection;
use kfs_fs::oci::reference::{Name, Source};
use kfs_fs::oci::store::StoreError;
use kfs_fs::oci::{self, transfer};

use super::{Context, print};
use crate::finding::TransferArgs;
use crate::progress::Progress;
use crate::report::Failure;

/// Copy an image between store, layouts, archives and registries
///
/// The image stays what it is, and has the same digest; but for a docker-archive, whose layers are
/// uncompressed. What is at the destination already is not copied. Prints the digest: of a
/// docker-archive, whose images have none of their own, the one that it is read with.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs copy docker://debian:12 oci:layout:debian
  kfs copy docker-archive:app.tar docker://registry.example.com/app:v1")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or docker://NAME, oci:DIR[:TAG],
    /// oci-archive:FILE[:TAG], docker-archive:FILE[:TAG]
    #[arg(value_name = "SRC")]
    source: Source,

    /// A name in the store, or docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]; without TAG the image keeps its name
    #[arg(value_name = "DST")]
    destination: Source,

    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.transfer.find);
    let store = context.store()?;
    // Nobody removes what is being copied.
    let writer = store.writer()?;
    let selection = oci::select_as_it_is(&args.source, &store)?;
    let progress = Progress::new(context, &format!("Copying {}", args.source));
    let copied = |bytes| progress.add(bytes);
    let image = copy(args, context, &selection, &copied);
    let image = image.map_err(|error| args.transfer.explain(error))?;
    drop((progress, writer));
    context.say(&format!("Copied {} to {}", args.source, args.destination));
    let digest = match &args.destination {
        Source::DockerArchive { file, .. } if file.is_file() => {
            oci::select_as_it_is(&args.destination, &store)?.descriptor.digest
        }
        // What went through a pipe is nowhere to be read.
        Source::DockerArchive { .. } => return Ok(()),
        _ => image.descriptor.digest,
    };
    print(&format!("{digest}\n"))
}

/// Copies an image to its destination; returns what was copied.
fn copy(
    args: &Args,
    context: &Context,
    selection: &Selection,
    copied: &(dyn Fn(u64) + Sync),
) -> Result<Selection, StoreError> {
    let store = context.store()?;
    let named = |name| narrow(selection, args.transfer.all_platforms, name);
    let save = |image: &Selection, format, file: &Path| {
        save_to_file(std::slice::from_ref(image), format, file, &|| context.store(), copied)
    };
    let image = match &args.destination {
        Source::Store(text) => {
            let name: Name = text.parse()?;
            let image = named(Some(name.to_string()))?;
            copy_to_store(&image, &store, &name, copied)?;
            image
        }
        Source::Registry(name) => {
            let image = named(None)?;
            let registries = args.transfer.find.connect.registries(&context.root);
            transfer::push(&store, &image, &registries, name, true, copied)?;
            image
        }
        Source::Layout { dir, tag } => {
            let image = named(tag.clone())?;
            copy_to_layout(&image, dir, copied)?;
            image
        }
        Source::OciArchive { file, tag } => {
            let image = named(tag.clone())?;
            save(&image, archive::Format::Oci, file)?;
            image
        }
        Source::DockerArchive { file, tag } => {
            let image = named(tag.clone())?;
            save(&image, archive::Format::Docker, file)?;
            image
        }
    };
    Ok(image)
}
