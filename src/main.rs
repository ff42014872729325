//! kfs: OCI images as file systems. This package parses, calls and prints; it decides nothing.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod finding;
mod look;
mod progress;
mod reading;
mod report;
mod table;
mod units;
mod warnings;

use std::process::ExitCode;

fn main() -> ExitCode {
    // A sandbox process of a build: this program, executed again, before there is any thread.
    if std::env::args_os().nth(1).is_some_and(|first| first == kfs_builder::exec::SANDBOX_ARGUMENT)
    {
        return kfs_builder::exec::child_main();
    }
    // Processes of a measurement, which are to do nothing else.
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == kfs_measure::enter::ARGUMENT => {
            return kfs_measure::enter::main(args);
        }
        Some(first) if first == kfs_measure::cold::ARGUMENT => {
            return kfs_measure::cold::main(args);
        }
        Some(_) | None => {}
    }
    match cli::parse().and_then(cli::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.print(),
    }
}
