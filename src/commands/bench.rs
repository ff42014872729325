//! `kfs bench`

mod build;
mod cold_start;
mod cold_table;
mod fs;
mod page;
mod proxy;

use kfs_builder::interrupt::Interrupts;
use kfs_measure::MeasureError;

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
    Build(build::Args),
    ColdStart(cold_start::Args),
    Fs(fs::Args),
    Proxy(proxy::Args),
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Build(args) => build::run(&args, context),
        Command::ColdStart(args) => cold_start::run(&args, context),
        Command::Fs(args) => fs::run(&args, context),
        Command::Proxy(args) => proxy::run(&args, context),
    }
}

/// Holds back the signals that ask to end until they are asked for. To be called before there are
/// threads, which would be interrupted else.
fn hold_signals() -> Result<Interrupts, Failure> {
    let interrupts = Interrupts::default();
    interrupts.hold().map_err(|error| Failure::new(format!("hold back signals: {error}")))?;
    Ok(interrupts)
}

/// Fails once such a signal has come.
fn check(interrupts: &Interrupts) -> Result<(), MeasureError> {
    interrupts.check().map_err(|_| MeasureError::Interrupted)
}
