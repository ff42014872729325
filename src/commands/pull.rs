//! `kfs pull`

use kfs_fs::oci::reference::Name;
use kfs_fs::oci::transfer;

use super::{Context, print};
use crate::finding::TransferArgs;
use crate::progress::Progress;
use crate::report::Failure;

/// Fetch images with all their layers
///
/// Images need not be pulled to be used: what the store lacks is read from the registry when it is
/// needed. A pull that was broken off goes on where it was. Prints the images' digests.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs pull debian:12")]
pub(crate) struct Args {
    /// Names, with the registry if it is not docker.io
    #[arg(required = true, value_name = "NAME", value_parser = super::registry_name)]
    names: Vec<Name>,

    #[command(flatten)]
    transfer: TransferArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.transfer.find);
    let store = context.store()?;
    for name in &args.names {
        let progress = Progress::new(context, &format!("Pulling {name}"));
        let copied = |bytes| progress.add(bytes);
        let pulled = transfer::pull(&store, name, args.transfer.all_platforms, &copied)?;
        drop(progress);
        let (moved, there) = (pulled.moved, pulled.there);
        context.say(&format!("Pulled {name}: {moved} layers fetched, {there} were there"));
        print(&format!("{}\n", pulled.digest))?;
    }
    Ok(())
}
