//! `kfs history`

use std::time::SystemTime;

use kfs_fs::oci::reference::Source;
use kfs_fs::oci::{self, Image};
use serde::Serialize;

use super::{Context, ListFormat, print, print_json};
use crate::finding::FindArgs;
use crate::report::Failure;
use crate::table::{Table, age, cut, size};

/// As wide as docker shows CREATED BY.
const CREATED_BY_WIDTH: usize = 45;

/// Show the steps that made an image
///
/// The newest step comes first. SIZE is that of the step's layer as it is stored.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs history --no-trunc debian:12")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    /// Print digests and commands in full
    #[arg(long)]
    no_trunc: bool,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    /// None for a step without a layer.
    layer: Option<String>,
    created: Option<String>,
    created_by: String,
    size: u64,
    comment: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let image = oci::open(&args.image, &context.store_to_read())?;
    let steps = steps(&image);
    if args.format == ListFormat::Json {
        return print_json(&steps);
    }
    let mut table = Table::new(&["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    let now = SystemTime::now();
    let width = if args.no_trunc { usize::MAX } else { CREATED_BY_WIDTH };
    for step in steps {
        let layer = match step.layer {
            None => "<none>".to_owned(),
            Some(digest) if args.no_trunc => digest,
            Some(digest) => digest.trim_start_matches("sha256:").chars().take(12).collect(),
        };
        let created = age(step.created.as_deref(), now);
        // Commands of several lines would break the table.
        let by = step.created_by.split_whitespace().collect::<Vec<_>>().join(" ");
        table.row([layer, created, cut(&by, width), size(step.size), step.comment]);
    }
    print(&table.to_string())
}

/// Newest first. Layers that the history does not tell of are the oldest: tools that flatten
/// images or import tars write none.
fn steps(image: &Image) -> Vec<Step> {
    let mut layers = image.layers.iter().map(|layer| &layer.descriptor).rev();
    let mut steps: Vec<Step> = Vec::new();
    for history in image.config.history.iter().rev() {
        let layer = if history.empty_layer { None } else { layers.next() };
        steps.push(Step {
            layer: layer.map(|layer| layer.digest.to_string()),
            created: history.created.clone(),
            created_by: history.created_by.clone().unwrap_or_default(),
            size: layer.map_or(0, |layer| layer.size),
            comment: history.comment.clone().unwrap_or_default(),
        });
    }
    steps.extend(layers.map(|layer| Step {
        layer: Some(layer.digest.to_string()),
        size: layer.size,
        ..Step::default()
    }));
    steps
}
