//! `kfs inspect`

use kfs_fs::oci::manifest::MANIFEST;
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::{self, Image};
use serde::Serialize;
use serde_json::Value;

use super::{Context, print_json};
use crate::finding::FindArgs;
use crate::report::Failure;

/// Show manifest, config and layers of an image as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs inspect debian:12 | jq .config.config.Env")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One JSON document
    #[default]
    Json,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    name: &'a str,
    digest: String,
    media_type: &'a str,
    layers: Vec<ShownLayer<'a>>,
    manifest: Value,
    config: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownLayer<'a> {
    digest: String,
    #[serde(rename = "diffID")]
    diff_id: String,
    size: u64,
    media_type: &'a str,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let Format::Json = args.format;
    let image = oci::open(&args.image, &context.store_to_read())?;
    print_json(&show(&image)?)
}

fn show(image: &Image) -> Result<Shown<'_>, Failure> {
    // As stored: the typed values drop what kfs does not know.
    let raw =
        |json: &[u8]| serde_json::from_slice(json).map_err(|error| Failure::new(error.to_string()));
    let layers = image.layers.iter().map(|layer| ShownLayer {
        digest: layer.descriptor.digest.to_string(),
        diff_id: layer.diff_id.to_string(),
        size: layer.descriptor.size,
        media_type: &layer.descriptor.media_type,
    });
    Ok(Shown {
        name: &image.name,
        digest: image.digest.to_string(),
        media_type: image.manifest.media_type.as_deref().unwrap_or(MANIFEST),
        layers: layers.collect(),
        manifest: raw(&image.manifest_json)?,
        config: raw(&image.config_json)?,
    })
}
