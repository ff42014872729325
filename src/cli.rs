//! The command line: what can be typed, and which command it becomes.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::commands::{self, Context};
use crate::report::{Failure, USAGE};
use crate::warnings;

/// Mount, build and look into OCI images without unpacking them
#[derive(Debug, Parser)]
#[command(name = "kfs", version, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Directory of the image store [default: /var/lib/kfs for root, $XDG_DATA_HOME/kfs else]
    #[arg(long, global = true, env = "KFS_ROOT", value_name = "DIR", hide_env_values = true)]
    root: Option<PathBuf>,

    /// Print nothing but data and errors
    #[arg(long, short, global = true)]
    quiet: bool,

    #[command(subcommand)]
    command: Command,
}

// A command's summary stands at its `Args`: a text here would hide the longer one there.
#[derive(Debug, Subcommand)]
enum Command {
    Mount(commands::mount::Args),
    Umount(commands::umount::Args),
    Mounts(commands::mounts::Args),
    Build(Box<commands::build::Args>),
    Lint(commands::lint::Args),
    Images(commands::images::Args),
    Rmi(commands::rmi::Args),
    Prune(commands::prune::Args),
    Fsck(commands::fsck::Args),
    Tag(commands::tag::Args),
    Inspect(commands::inspect::Args),
    History(commands::history::Args),
    Pull(commands::pull::Args),
    Push(commands::push::Args),
    Copy(commands::copy::Args),
    Login(commands::login::Args),
    Logout(commands::login::LogoutArgs),
    Load(commands::load::Args),
    Save(commands::save::Args),
    Import(commands::import::Args),
    Convert(commands::convert::Args),
    Ls(commands::ls::Args),
    Tree(commands::tree::Args),
    Cat(commands::cat::Args),
    Stat(commands::stat::Args),
    Cp(commands::cp::Args),
    Diff(commands::diff::Args),
    Collect(commands::collect::Args),
    Run(Box<commands::run::Args>),
    Merge(commands::merge::Args),
    Cache(commands::cache::Args),
    Trace(commands::trace::Args),
    Registry(commands::registry::Args),
    Bench(commands::bench::Args),
    /// Print a shell completion script
    Completions(commands::completions::Args),
    #[command(name = "__supervise", hide = true)]
    Supervise(commands::mount::ServeArgs),
    #[command(name = "__serve", hide = true)]
    Serve(commands::mount::ServeArgs),
}

/// Parses the process's arguments; help, version and wrong usage end the process here.
pub(crate) fn parse() -> Result<Cli, Failure> {
    Cli::try_parse().or_else(|error| match error.kind() {
        // What clap says of this lists the hidden commands too.
        ErrorKind::MissingSubcommand => {
            Err(Failure::new("no command is given").hint("`kfs --help` lists them").code(USAGE))
        }
        _ => error.exit(),
    })
}

/// Runs the command that was typed.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    if let Command::Completions(args) = &cli.command {
        // Also where there is no place for a store.
        return commands::completions::run(args);
    }
    let context = Context::new(cli.root, cli.quiet)?;
    // These have a log.
    let logs = matches!(cli.command, Command::Mount(_) | Command::Supervise(_) | Command::Serve(_));
    if !logs && !cli.quiet {
        warnings::show();
    }
    match cli.command {
        Command::Images(args) => commands::images::run(&args, &context),
        Command::Fsck(args) => commands::fsck::run(&args, &context),
        Command::Prune(args) => commands::prune::run(&args, &context),
        Command::Rmi(args) => commands::rmi::run(&args, &context),
        Command::Tag(args) => commands::tag::run(&args, &context),
        Command::Inspect(args) => commands::inspect::run(&args, &context),
        Command::History(args) => commands::history::run(&args, &context),
        Command::Pull(args) => commands::pull::run(&args, &context),
        Command::Push(args) => commands::push::run(&args, &context),
        Command::Copy(args) => commands::copy::run(&args, &context),
        Command::Login(args) => commands::login::run(&args, &context),
        Command::Logout(args) => commands::login::logout(&args, &context),
        Command::Load(args) => commands::load::run(args, &context),
        Command::Save(args) => commands::save::run(&args, &context),
        Command::Convert(args) => commands::convert::run(&args, &context),
        Command::Import(args) => commands::import::run(args, &context),
        Command::Build(args) => commands::build::run(&args, &context),
        Command::Lint(args) => commands::lint::run(&args, &context),
        Command::Run(args) => commands::run::run(&args, &context),
        Command::Merge(args) => commands::merge::run(&args, &context),
        Command::Ls(args) => commands::ls::run(&args, &context),
        Command::Tree(args) => commands::tree::run(&args, &context),
        Command::Cat(args) => commands::cat::run(&args, &context),
        Command::Stat(args) => commands::stat::run(&args, &context),
        Command::Cp(args) => commands::cp::run(&args, &context),
        Command::Diff(args) => commands::diff::run(&args, &context),
        Command::Collect(args) => commands::collect::run(&args, &context),
        Command::Cache(args) => commands::cache::run(&args, &context),
        Command::Trace(args) => commands::trace::run(&args, &context),
        Command::Registry(args) => commands::registry::run(args, &context),
        Command::Bench(args) => commands::bench::run(args, &context),
        Command::Mount(args) => commands::mount::run(args, &context),
        Command::Umount(args) => commands::umount::run(args, &context),
        Command::Mounts(args) => commands::mounts::run(&args, &context),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Supervise(args) => commands::mount::supervise(&args, &context),
        Command::Serve(args) => commands::mount::serve(&args, &context),
    }
}
