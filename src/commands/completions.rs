//! `kfs completions`

use std::io::Write as _;

use clap::{Command, CommandFactory};
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
    let mut shown = shown(&Cli::command());
    clap_complete::generate(args.shell, &mut shown, "kfs", &mut script);
    let mut out = Out::new();
    out.write_all(&script)?;
    out.finish()
}

/// The same command without what is hidden, which kfs calls itself by.
fn shown(command: &Command) -> Command {
    // clap wants names that live for ever; the process ends with the script.
    let name: &'static str = command.get_name().to_owned().leak();
    let mut copy = Command::new(name).disable_help_subcommand(true);
    if let Some(about) = command.get_about() {
        copy = copy.about(about.clone());
    }
    copy.version(env!("CARGO_PKG_VERSION"))
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()).cloned())
        .subcommands(command.get_subcommands().filter(|it| !it.is_hide_set()).map(shown))
}
