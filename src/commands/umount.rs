//! `kfs umount`

use std::path::PathBuf;

use kfs_fs::mount::{Mount, Mounts};

use super::Context;
use crate::report::Failure;

/// Unmount images
///
/// Waits until the server of each mount is gone. A plain `umount DIR` does the same without the
/// wait.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs umount /mnt")]
pub(crate) struct Args {
    /// Where images are mounted
    #[arg(value_name = "DIR", required_unless_present = "all")]
    mountpoints: Vec<PathBuf>,

    /// Unmount all images of the store
    #[arg(long, conflicts_with = "mountpoints")]
    all: bool,

    /// Detach a mount that is in use; it ends with its last user
    #[arg(long, short)]
    lazy: bool,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mounts = Mounts::new(&context.root);
    let all = if args.all { mounts.list()?.mounts } else { Vec::new() };
    let mountpoints: Vec<PathBuf> = if args.all {
        all.iter().map(|mount| mount.state.mountpoint.clone()).collect()
    } else {
        let absolute = |path: &PathBuf| {
            std::path::absolute(path)
                .map_err(|error| Failure::new(format!("mount point {}: {error}", path.display())))
        };
        args.mountpoints.iter().map(absolute).collect::<Result<_, _>>()?
    };
    // Called from inside of a mount, this process must not be the one that keeps it busy.
    std::env::set_current_dir("/").map_err(|error| Failure::new(format!("enter /: {error}")))?;
    let mut failed: Option<Failure> = None;
    for (number, mountpoint) in mountpoints.iter().enumerate() {
        match mounts.unmount(mountpoint, args.lazy) {
            Ok(()) => {
                if let Some(Mount { state, .. }) = all.get(number) {
                    let from = mountpoint.display();
                    context.say(&format!("{} is unmounted from {from}", state.image));
                }
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
