//! `kfs completions`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::report::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    clap_complete::generate(args.shell, &mut Cli::command(), "kfs", &mut std::io::stdout());
    Ok(())
}
