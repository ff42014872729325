//! `kfs copy`

use kfs_fs::oci::archive::{self, save::save_to_file};
use kfs_fs::oci::copy::{copy_to_layout, copy_to_store, narrow};
use kfs_fs::oci::layout::Selection;
use kfs_fs::oci::reference::{Name, Source};
use kfs_fs::oci::{self, transfer};

use super::{Context, print};
use crate::finding::FindArgs;
use crate::progress::Progress;
use crate::report::Failure;

/// Copy an image between store, layouts, archives and registries
///
/// The image stays what it is, and has the same digest; but for a docker-archive, whose layers are
/// uncompressed. What is at the destination already is not copied. Prints the digest.
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

    /// Copy the images for all platforms, which must be at hand
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,

    #[command(flatten)]
    find: FindArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let store = context.store()?;
    // Nobody removes what is being copied.
    let writer = store.writer()?;
    let selection = oci::select(&args.source, &store)?;
    let progress = Progress::new(context, &format!("Copying {}", args.source));
    let copied = |bytes| progress.add(bytes);
    let named = |name: Option<&String>| {
        let image = narrow(&selection, args.all_platforms, name.cloned());
        image.map_err(|error| match args.all_platforms {
            true => Failure::from(error).hint("`kfs pull --all-platforms` fetches them all"),
            false => error.into(),
        })
    };
    let save = |image: Selection, format, file| save_to_file(&[image], format, file, &copied);
    let image = match &args.destination {
        Source::Store(text) => {
            let name: Name = text.parse()?;
            let image = named(Some(&name.to_string()))?;
            copy_to_store(&image, &store, &name, &copied)?;
            image
        }
        Source::Registry(name) => {
            let image = named(None)?;
            let registries = args.find.connect.registries(&context.root);
            transfer::push(&store, &image, &registries, name, true, &copied)?;
            image
        }
        Source::Layout { dir, tag } => {
            let image = named(tag.as_ref())?;
            copy_to_layout(&image, dir, &copied)?;
            image
        }
        Source::OciArchive { file, tag } => {
            let image = named(tag.as_ref())?;
            save(image.clone(), archive::Format::Oci, file)?;
            image
        }
        Source::DockerArchive { file, tag } => {
            let image = named(tag.as_ref())?;
            save(image.clone(), archive::Format::Docker, file)?;
            image
        }
    };
    drop((progress, writer));
    context.say(&format!("Copied {} to {}", args.source, args.destination));
    print(&format!("{}\n", image.descriptor.digest))
}
