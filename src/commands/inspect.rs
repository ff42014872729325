//! `kfs inspect`

use kfs_builder::cluster::describe::{ClusterDescription, describe};
use kfs_fs::oci::manifest::MANIFEST;
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::{self, Image};
use serde::Serialize;
use serde_json::Value;

use super::{Context, print, print_json};
use crate::finding::FindArgs;
use crate::report::{Failure, NOT_FOUND, USAGE};

/// Show manifest, config and layers of an image as JSON
///
/// Of a cluster image also what sealer inspect shows: its applications, how they are launched, and
/// the container images that it carries.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs inspect debian:12 | jq .config.config.Env
  kfs inspect --format /config/config/Env/0 debian:12
  kfs inspect -t app --format '{{ range .applications }}{{ .name }} {{ end }}' my-cluster:v1")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// What to show of it
    #[arg(long = "type", short = 't', value_enum, default_value_t, value_name = "TYPE")]
    what: What,

    /// How to print it: json, a place in the JSON such as /config/os (RFC 6901), or a template of
    /// Go's language with the functions of Sprig
    #[arg(long, short, default_value = "json", value_name = "FORMAT", value_parser = Format::parse)]
    format: Format,

    #[command(flatten)]
    find: FindArgs,
}

/// What is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// All
    #[default]
    Image,
    /// The applications of a cluster image, and how they are launched
    App,
    /// The container images that a cluster image carries
    Container,
    /// The manifest
    Manifest,
}

/// How it is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Format {
    /// One JSON document.
    Json,
    /// The part at a JSON pointer: a text as it is, all else as JSON.
    Pointer(String),
    /// What a template makes of it.
    Template(String),
}

impl Format {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            text if text.contains("{{") => Ok(Self::Template(text.to_owned())),
            text if text.starts_with('/') => Ok(Self::Pointer(text.to_owned())),
            _ => Err("it is neither json, nor a /PLACE/IN/IT, nor a {{ template }}".to_owned()),
        }
    }
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
    #[serde(flatten)]
    cluster: Option<ClusterDescription>,
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
    let image = oci::open(&args.image, &context.store_to_read())?;
    let part = part(args.what, show(&image, args.what)?)?;
    match &args.format {
        Format::Json => print_json(&part),
        Format::Pointer(place) => print_place(place, &part),
        Format::Template(text) => print_template(text, &part),
    }
}

/// The part that is wanted.
fn part(what: What, shown: Shown<'_>) -> Result<Value, Failure> {
    let name = shown.name.to_owned();
    let no_cluster = || {
        Failure::new(format!("{name} is no cluster image"))
            .code(NOT_FOUND)
            .hint("its manifest has no annotation sealer.image.extension")
    };
    let json = match what {
        What::Image => serde_json::to_value(&shown),
        What::Manifest => Ok(shown.manifest),
        What::App => serde_json::to_value(shown.cluster.ok_or_else(no_cluster)?.extension),
        What::Container => serde_json::to_value(shown.cluster.ok_or_else(no_cluster)?.images),
    };
    json.map_err(|error| Failure::new(error.to_string()))
}

fn print_place(place: &str, value: &Value) -> Result<(), Failure> {
    match value.pointer(place) {
        Some(Value::String(text)) => print(&format!("{text}\n")),
        Some(value) => print_json(value),
        None => Err(Failure::new(format!("there is nothing at {place}")).code(NOT_FOUND)),
    }
}

fn print_template(text: &str, value: &Value) -> Result<(), Failure> {
    let limits = kfs_charts::Limits::default();
    let made = kfs_charts::render_text("--format", text, value, &limits);
    let made = made.map_err(|error| Failure::new(error.to_string()).code(USAGE))?;
    print(&format!("{}\n", String::from_utf8_lossy(&made)))
}

fn show(image: &Image, what: What) -> Result<Shown<'_>, Failure> {
    // As stored: the typed values drop what kfs does not know.
    let raw =
        |json: &[u8]| serde_json::from_slice(json).map_err(|error| Failure::new(error.to_string()));
    let layers = image.layers.iter().map(|layer| ShownLayer {
        digest: layer.descriptor.digest.to_string(),
        diff_id: layer.diff_id.to_string(),
        size: layer.descriptor.size,
        media_type: &layer.descriptor.media_type,
    });
    let (manifest, config): (Value, Value) = (raw(&image.manifest_json)?, raw(&image.config_json)?);
    // Whoever wants the manifest may want to see what is wrong with its annotations.
    let cluster = match what {
        What::Manifest => None,
        What::Image | What::App | What::Container => describe(image, &manifest, &config)?,
    };
    Ok(Shown {
        name: &image.name,
        digest: image.digest.to_string(),
        media_type: image.manifest.media_type.as_deref().unwrap_or(MANIFEST),
        layers: layers.collect(),
        cluster,
        manifest,
        config,
    })
}
