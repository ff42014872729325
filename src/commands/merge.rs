//! `kfs merge`

use kfs_builder::cluster::merge;
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::{self, Image};

use super::{Context, print};
use crate::finding::FindArgs;
use crate::report::{Failure, talk};

/// Make one cluster image of several
///
/// With the files, applications, variables and labels of all, and what each of them launches, in
/// the order of the images. What several have differently is told, and the last one's holds;
/// what one has and another one deletes is there. Layers are not unpacked, and not fetched from
/// registries. Prints the digest of the new image.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  kfs merge -t my-cloud:v1 kubernetes:v1.30 calico:v3.27 my-apps:v1"
)]
pub(crate) struct Args {
    /// The images, the lowest first
    #[arg(required = true, num_args = 1.., value_name = "IMAGE")]
    images: Vec<Source>,

    /// Name of the new image
    #[arg(long, short, value_name = "NAME")]
    tag: String,

    #[command(flatten)]
    find: FindArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let store = context.store()?;
    let open = |source: &Source| Ok(oci::open(source, &store)?);
    let images = args.images.iter().map(open).collect::<Result<Vec<Image>, Failure>>()?;
    let merged = merge::merge(&images, &store, &args.tag)?;
    if !context.quiet {
        merged.conflicts.iter().for_each(|conflict| talk(&conflict.to_string()));
    }
    if merged.kept > 0 {
        let count = merged.kept;
        context.say(&format!(
            "files and directories that an image deletes and another one has are kept: {count}"
        ));
    }
    if merged.not_compared > 0 {
        let count = merged.not_compared;
        context.say(&format!("files were not compared: {count} layers are in registries"));
    }
    print(&format!("{}\n", merged.digest))
}
