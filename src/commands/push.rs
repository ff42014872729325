//! `kfs push`

use kfs_fs::oci::reference::{Name, Source};
use kfs_fs::oci::{self, transfer};

use super::{Context, print};
use crate::finding::TransferArgs;
use crate::progress::Progress;
use crate::report::{Failure, USAGE};

/// Send an image to a registry
///
/// Only what the registry lacks is sent; what it has in another repository is mounted from there.
/// Layers that are in another registry pass through without being stored. Prints the digest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs push registry.example.com/app:v1
  kfs push app:v1 registry.example.com/team/app:v1")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// The name in the registry [default: the image's]
    #[arg(value_name = "NAME", value_parser = super::registry_name)]
    destination: Option<Name>,

    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.transfer.find);
    let store = context.store()?;
    // Nobody removes what is being sent.
    let writer = store.writer()?;
    let selection = oci::select_as_it_is(&args.image, &store)?;
    let name = match (&args.destination, selection.name()) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) => name.parse()?,
        (None, None) => {
            return Err(Failure::new(format!("{} has no name to be pushed under", args.image))
                .hint("give one: `kfs push IMAGE NAME`")
                .code(USAGE));
        }
    };
    let progress = Progress::new(context, &format!("Pushing {name}"));
    let copied = |bytes| progress.add(bytes);
    let registries = args.transfer.find.connect.registries(&context.root);
    let all = args.transfer.all_platforms;
    let pushed = transfer::push(&store, &selection, &registries, &name, all, &copied);
    let pushed = pushed.map_err(|error| args.transfer.explain(error))?;
    drop(progress);
    drop(writer);
    let (moved, there) = (pushed.moved, pushed.there);
    context.say(&format!("Pushed {name}: {moved} blobs sent, {there} were there"));
    print(&format!("{}\n", pushed.digest))
}
