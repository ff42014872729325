//! kfs: OCI images as file systems. This package parses, calls and prints; it decides nothing.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod progress;
mod report;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::parse().and_then(cli::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.print(),
    }
}
