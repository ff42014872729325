//! `kfs bench`

mod cold_start;
mod cold_table;
mod page;
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
    ColdStart(cold_start::Args),
    Proxy(proxy::Args),
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::ColdStart(args) => cold_start::run(&args, context),
        Command::Proxy(args) => proxy::run(&args, context),
    }
}
