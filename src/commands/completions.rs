//! `kfs completions`

use std::io::Write as _;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Out;
use crate::cli::Cli;
use crate::report::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kfs", &mut script);
    let mut out = Out::new();
    out.write_all(&script)?;
    out.finish()
}
