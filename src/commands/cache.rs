//! `kfs cache`

use std::collections::BTreeSet;
use std::time::SystemTime;

use kfs_fs::cache::{Cache, LayerUsage};
use kfs_fs::digest::Digest;
use kfs_fs::oci::store::{Part, Store};
use serde::Serialize;

use super::{Context, ListFormat, print, print_json};
use crate::report::Failure;
use crate::table::{Table, size};
use crate::units::Size;

/// Show or free what is kept of layers in registries
///
/// It may be freed at any time: mounts fetch again what they need.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kfs cache du\n  kfs cache prune --keep 2G")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show how much is kept of which layer, the one not used for longest first
    Du {
        /// How to print the list
        #[arg(long, value_enum, default_value_t)]
        format: ListFormat,
    },
    /// Free what is kept of layers that no image of the store has
    Prune {
        /// Free, too, what was not used for longest, until SIZE is left
        #[arg(long, value_name = "SIZE", conflicts_with = "all")]
        keep: Option<Size>,

        /// Free all
        #[arg(long)]
        all: bool,
    },
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.store_to_read();
    let cache = Cache::new(&store.dir(Part::Cache), &store.dir(Part::Indexes), u64::MAX);
    match &args.what {
        What::Du { format } => show(&cache, &store, *format),
        What::Prune { keep, all } => prune(&cache, &store, *keep, *all, context),
    }
}

#[derive(Serialize)]
struct Layer {
    layer: Digest,
    toc: Option<Digest>,
    bytes: u64,
    /// RFC 3339
    last_used: Option<String>,
    images: BTreeSet<String>,
}

fn show(cache: &Cache, store: &Store, format: ListFormat) -> Result<(), Failure> {
    let users = store.users_of_layers()?;
    let layer = |usage: LayerUsage| Layer {
        layer: usage.layer,
        toc: usage.toc,
        bytes: usage.bytes,
        last_used: usage.last_used.map(time),
        images: users.get(&usage.layer).cloned().unwrap_or_default(),
    };
    let layers: Vec<Layer> = cache.usage()?.into_iter().map(layer).collect();
    if format == ListFormat::Json {
        return print_json(&layers);
    }
    let mut table = Table::new(&["LAYER", "SIZE", "LAST USED", "IMAGES"]);
    for layer in layers {
        table.row([
            layer.layer.hex().chars().take(12).collect(),
            size(layer.bytes),
            layer.last_used.unwrap_or_else(|| "never".to_owned()),
            layer.images.into_iter().collect::<Vec<_>>().join(", "),
        ]);
    }
    print(&table.to_string())
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn prune(
    cache: &Cache,
    store: &Store,
    keep: Option<Size>,
    all: bool,
    context: &Context,
) -> Result<(), Failure> {
    let freed = if all {
        cache.prune(0)?
    } else {
        let users = store.users_of_layers()?;
        let unused = cache.forget(|layer| !users.contains_key(&layer))?;
        unused + keep.map_or(Ok(0), |Size(keep)| cache.prune(keep))?
    };
    context.say(&format!("{} are free", size(freed)));
    Ok(())
}
