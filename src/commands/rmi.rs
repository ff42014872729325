//! `kfs rmi`

use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::store::{Store, StoreError};
use kfs_fs::printable;

use super::{Context, print};
use crate::report::Failure;

/// Remove images, or names of them
///
/// An image goes with its last name, and with it the blobs that no other image needs. The blobs
/// of a mounted image stay until it is removed again by its digest.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs rmi debian:12 localhost/x:v1")]
pub(crate) struct Args {
    /// Names, or the first digits of digests
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Remove all names of an image that is given by its digest; no error if there is none
    #[arg(long, short)]
    force: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.store()?;
    let mut failed: Option<Failure> = None;
    for image in &args.images {
        if let Err(failure) = remove(&store, image, args.force, context)
            && let Some(earlier) = failed.replace(failure)
        {
            earlier.print();
        }
    }
    failed.map_or(Ok(()), Err)
}

fn remove(store: &Store, image: &str, force: bool, context: &Context) -> Result<(), Failure> {
    let removal = match store.remove(image, force) {
        Err(StoreError::Layout(LayoutError::NotFound { .. })) if force => return Ok(()),
        removal => removal?,
    };
    let untagged =
        removal.untagged.iter().map(|name| format!("Untagged: {}\n", printable::text(name)));
    let deleted = removal.deleted.iter().map(|digest| format!("Deleted: {digest}\n"));
    print(&untagged.chain(deleted).collect::<String>())?;
    if let Some(kept) = removal.kept {
        context.say(&format!("blobs of {image} were kept: {kept}"));
    }
    Ok(())
}
