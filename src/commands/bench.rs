//! `kfs bench`

mod build;
mod cold_start;
mod cold_table;
mod fs;
mod page;
mod proxy;

use kfs_builder::interrupt::{Interrupted, Interrupts};
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

/// Holds back the signals that ask to end until they are asked for. To be called when nothing takes
/// long without asking, and before there are threads that live on: they would be interrupted.
fn hold_signals(interrupts: &Interrupts) -> Result<(), Failure> {
    interrupts.hold().map_err(|error| Failure::new(format!("hold back signals: {error}")))
}

/// Fails once such a signal has come.
fn check(interrupts: &Interrupts) -> Result<(), MeasureError> {
    interrupts.check().map_err(|Interrupted(signal)| MeasureError::Interrupted(signal as i32))
}
