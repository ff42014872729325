//! `kfs images`

use std::time::SystemTime;

use kfs_fs::oci::reference::Name;
use kfs_fs::oci::store::ImageSummary;
use serde::Serialize;

use super::{Context, ListFormat, print, print_json};
use crate::report::Failure;
use crate::table::{Table, age, size};

/// List the images of the store
///
/// SIZE counts config and layers as they are stored, HERE says how many of the layers are in the
/// store: the others are read from their registry when they are needed. With --quiet only digests
/// are printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs images --format json")]
pub(crate) struct Args {
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    /// Print digests in full
    #[arg(long)]
    no_trunc: bool,

    /// List all images (they always are; for those used to docker)
    #[arg(long, short)]
    all: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: Option<String>,
    repository: Option<String>,
    tag: Option<String>,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let images = context.store_to_read().images()?;
    let short = |digest: &str| match args.no_trunc {
        true => digest.to_owned(),
        false => digest.trim_start_matches("sha256:").chars().take(12).collect(),
    };
    let rows: Vec<Row> = images.into_iter().map(row).collect();
    if args.format == ListFormat::Json {
        return print_json(&rows);
    }
    if context.quiet {
        let digests = rows.iter().map(|row| short(&row.digest) + "\n");
        return print(&digests.collect::<String>());
    }
    let mut table = Table::new(&["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE", "HERE"]);
    let now = SystemTime::now();
    for row in &rows {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "<none>".to_owned());
        table.row([
            or_none(&row.repository),
            or_none(&row.tag),
            short(&row.digest),
            age(row.created.as_deref(), now),
            row.size.map_or_else(|| "N/A".to_owned(), size),
            row.here(),
        ]);
        if let Some(error) = &row.error {
            context.say(&format!("kfs: warning: {error}"));
        }
    }
    print(&table.to_string())
}

impl Row {
    /// What of the image needs no registry.
    fn here(&self) -> String {
        match (self.layers, self.remote_layers) {
            (Some(_), Some(0)) => "all".to_owned(),
            (Some(layers), Some(remote)) if layers == remote => "none".to_owned(),
            (Some(layers), Some(remote)) => format!("{} of {layers}", layers - remote),
            _ => "N/A".to_owned(),
        }
    }
}

fn row(image: ImageSummary) -> Row {
    let (repository, tag) = match image.name.as_deref().map(|text| (text, text.parse::<Name>())) {
        None => (None, None),
        Some((_, Ok(name))) => (Some(name.repository()), name.tag().map(str::to_owned)),
        // Written by another tool under a name that is not Docker's.
        Some((text, Err(_))) => (Some(text.to_owned()), None),
    };
    let (details, error) = match image.details {
        Ok(details) => (Some(details), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Row {
        name: image.name,
        repository,
        tag,
        digest: image.digest.to_string(),
        id: details.as_ref().map(|details| details.id.to_string()),
        size: details.as_ref().map(|details| details.size),
        layers: details.as_ref().map(|details| details.layers),
        remote_layers: details.as_ref().map(|details| details.remote_layers),
        created: details.and_then(|details| details.created),
        error,
    }
}
