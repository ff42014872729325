//! `kfs bench`

mod proxy;

use super::Context;
use crate::report::Failure;

/// Measure what kfs and other tools take
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Proxy(proxy::Args),
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Proxy(args) => proxy::run(&args, context),
    }
}
