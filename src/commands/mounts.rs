//! `kfs mounts`

mod stats;

use std::path::{Path, PathBuf};

use kfs_fs::mount::{Listing, Mount, MountError, Mounts};

use super::{Context, ListFormat, print, print_json};
use crate::report::Failure;
use crate::table::Table;

/// List what is mounted
///
/// PID is the process to signal: it unmounts. RESTARTS counts the servers that died, or were
/// replaced, and whose work another one went on with.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs mounts --upgrade    after an update of kfs")]
pub(crate) struct Args {
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    /// Show what their servers have fetched, and found in memory and in the cache
    #[arg(long)]
    stats: bool,

    /// Print that as Prometheus reads it
    #[arg(long, conflicts_with_all = ["format", "stats"])]
    prometheus: bool,

    /// Have this version of kfs serve what is mounted, at DIR or everywhere, without unmounting
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with_all = ["format", "stats", "prometheus"])]
    upgrade: Option<Option<PathBuf>>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mounts = Mounts::new(&context.root);
    let Listing { mounts: list, cleared } = mounts.list()?;
    for state in cleared {
        let why = state.failure.map(|failure| format!(": {failure}")).unwrap_or_default();
        let at = state.mountpoint.display();
        context.say(&format!("{} at {at} was dead and is unmounted{why}", state.image));
    }
    if let Some(at) = &args.upgrade {
        return upgrade(&mounts, list, at.as_deref(), context);
    }
    if args.prometheus {
        return stats::prometheus(&mounts, &list);
    }
    if args.stats {
        return stats::show(&mounts, &list, args.format);
    }
    match args.format {
        ListFormat::Table => print(&table(&list).to_string()),
        ListFormat::Json => print_json(&list),
    }
}

fn upgrade(
    mounts: &Mounts,
    mut list: Vec<Mount>,
    at: Option<&Path>,
    context: &Context,
) -> Result<(), Failure> {
    if let Some(at) = at {
        let at = std::path::absolute(at)
            .map_err(|error| Failure::new(format!("mount point {}: {error}", at.display())))?;
        let resolved = at.canonicalize().unwrap_or_else(|_| at.clone());
        list.retain(|mount| mount.state.mountpoint == resolved);
        if list.is_empty() {
            return Err(MountError::NotMounted(at).into());
        }
    }
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("find the kfs program: {error}")))?;
    let mut failed: Option<Failure> = None;
    for Mount { state, .. } in list {
        match mounts.upgrade(&state, &program) {
            Ok(state) => {
                let at = state.mountpoint.display();
                context.say(&format!("{at} is served by {}", program.display()));
            }
            Err(error) => {
                // The last one is printed by who called.
                if let Some(earlier) = failed.replace(error.into()) {
                    earlier.print();
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn table(mounts: &[Mount]) -> Table {
    let mut table = Table::new(&["IMAGE", "MOUNTPOINT", "MODE", "PID", "RESTARTS", "SINCE"]);
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
            state.restarts.to_string(),
            state.started.clone(),
        ]);
    }
    table
}
