//! `kfs tag`

use super::Context;
use crate::report::Failure;

/// Give an image another name
///
/// An image that has the name already loses it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs tag debian:12 localhost/base:v1")]
pub(crate) struct Args {
    /// A name, or the first digits of a digest
    image: String,

    /// The new name; :latest is added to one without a tag
    name: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    Ok(context.store()?.tag(&args.image, &args.name)?)
}
