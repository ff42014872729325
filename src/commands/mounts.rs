//! `kfs mounts`

use kfs_fs::mount::{Mount, Mounts};

use super::{Context, ListFormat, print, print_json};
use crate::report::Failure;
use crate::table::Table;

/// List what is mounted
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mounts = Mounts::new(&context.root).list()?;
    match args.format {
        ListFormat::Table => print(&table(&mounts).to_string()),
        ListFormat::Json => print_json(&mounts),
    }
}

fn table(mounts: &[Mount]) -> Table {
    let mut table = Table::new(&["IMAGE", "MOUNTPOINT", "MODE", "PID", "SINCE"]);
    for Mount { state, attached } in mounts {
        let mode = match (state.rw, attached) {
            (false, true) => "ro",
            (true, true) => "rw",
            (false, false) => "ro, detached",
            (true, false) => "rw, detached",
        };
        table.row([
            state.image.clone(),
            state.mountpoint.display().to_string(),
            mode.to_owned(),
            state.pid.to_string(),
            state.started.clone(),
        ]);
    }
    table
}
