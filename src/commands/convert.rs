//! `kfs convert`

use std::path::PathBuf;

use kfs_fs::error::AtPath as _;
use kfs_fs::layer::rewrite::Priorities;
use kfs_fs::layer::writer::Compression;
use kfs_fs::oci;
use kfs_fs::oci::convert::{Conversion, Converted, ConvertedLayer, convert};
use kfs_fs::oci::reference::Source;
use kfs_fs::printable;
use serde::Serialize;

use super::compression::{GZIP_LEVEL, ZSTD_LEVEL};
use super::{Context, print, print_json};
use crate::finding::FindArgs;
use crate::progress::Progress;
use crate::report::{Failure, USAGE};
use crate::table::size;

/// Make an image whose layers have another format
///
/// Layers that have the format already are kept, whatever their level. The tar streams stay the
/// same as far as the format allows: estargz puts its table of contents into them, so that the
/// image's config changes. Of an index, all platforms that are at hand are converted. The same
/// image gives the same result. Prints the digest of the new image.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs convert debian:12 debian:12-lazy
  kfs convert --to estargz --trace hot.txt oci:layout:app app:esgz")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    image: Source,

    /// Name of the new image; :latest is added to one without a tag
    name: String,

    /// Format of its layers
    #[arg(long, value_enum, default_value_t = Format::ZstdChunked)]
    to: Format,

    /// How hard to compress: 0 to 9 for gzip, up to 22 for zstd
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    level: Option<i32>,

    /// Files that come first in their layers: a path a line, or a trace in JSON
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: ResultFormat,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// zstd with a table of contents: files can be fetched one by one
    ZstdChunked,
    /// gzip with a table of contents
    Estargz,
    /// gzip
    Gzip,
    /// zstd
    Zstd,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum ResultFormat {
    /// The digest
    #[default]
    Digest,
    /// One JSON document
    Json,
}

#[derive(Serialize)]
struct Output {
    name: String,
    digest: String,
    images: usize,
    left_out: Vec<String>,
    layers: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    from: String,
    from_size: u64,
    to: String,
    size: u64,
    media_type: String,
    kept: bool,
    changed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    plain: Option<String>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let compression = compression(args)?;
    let priorities = match &args.trace {
        None => Priorities::default(),
        Some(_) if !compression.has_table() => {
            return Err(Failure::new("--trace needs a format with a table of contents")
                .hint("use --to zstd-chunked or --to estargz")
                .code(USAGE));
        }
        Some(path) => {
            let list = std::fs::read(path).at("read", path)?;
            let parsed = Priorities::parse(&list);
            parsed.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?
        }
    };
    let store = context.store()?;
    let image = oci::select_as_it_is(&args.image, &store)?;
    let progress = Progress::new(context, &format!("converting {}", args.image));
    let conversion = Conversion { name: &args.name, compression, priorities: &priorities };
    let converted = convert(&image, &store, &conversion, &|bytes| progress.add(bytes))?;
    drop(progress);
    tell(&converted, args, context);
    if let (false, Some(trace)) = (converted.unfound.is_empty(), &args.trace) {
        let (unfound, all) = (&converted.unfound, priorities.paths().len());
        context.say(&format!(
            "warning: no layer has {} of the {all} paths of {}: {}",
            unfound.len(),
            trace.display(),
            first_of(unfound),
        ));
    }
    match args.format {
        ResultFormat::Digest => print(&format!("{}\n", converted.digest)),
        ResultFormat::Json => print_json(&output(converted, &args.name)),
    }
}

fn compression(args: &Args) -> Result<Compression, Failure> {
    let usage = |message: String| Failure::new(message).code(USAGE);
    let zstd = args.level.unwrap_or(ZSTD_LEVEL);
    let gzip = || match args.level {
        None => Ok(GZIP_LEVEL),
        Some(level) => u32::try_from(level).map_err(|_| usage("gzip has levels 0 to 9".to_owned())),
    };
    let compression = match args.to {
        Format::ZstdChunked => Compression::ZstdChunked(zstd),
        Format::Estargz => Compression::Estargz(gzip()?),
        Format::Gzip => Compression::Gzip(gzip()?),
        Format::Zstd => Compression::Zstd(zstd),
    };
    compression.check().map_err(|error| usage(error.to_string()))?;
    Ok(compression)
}

fn tell(converted: &Converted, args: &Args, context: &Context) {
    for layer in &converted.layers {
        if let Some(plain) = &layer.plain {
            context.say(&format!("warning: layer {}: {plain}", layer.from.digest.short()));
        }
    }
    for digest in &converted.left_out {
        context.say(&format!("warning: {} is left out: not at hand, or no image", digest.short()));
    }
    let sum = |of: fn(&ConvertedLayer) -> u64| size(converted.layers.iter().map(of).sum());
    let kept = converted.layers.iter().filter(|layer| is_kept(layer)).count();
    let layers = match converted.layers.len() {
        1 => "1 layer".to_owned(),
        count => format!("{count} layers"),
    };
    context.say(&format!(
        "Converted {} to {}: {layers} ({kept} kept), {} -> {}",
        args.image,
        args.name,
        sum(|layer| layer.from.size),
        sum(|layer| layer.to.size),
    ));
}

/// The first of the paths.
fn first_of(paths: &[Vec<u8>]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> =
        paths.iter().take(SHOWN).map(|path| format!("/{}", printable::start_of(path))).collect();
    let more = if paths.len() > SHOWN { ", ..." } else { "" };
    shown.join(", ") + more
}

fn is_kept(layer: &ConvertedLayer) -> bool {
    layer.from.digest == layer.to.digest
}

fn output(converted: Converted, name: &str) -> Output {
    let row = |layer: ConvertedLayer| Row {
        kept: is_kept(&layer),
        changed: layer.changed,
        from: layer.from.digest.to_string(),
        from_size: layer.from.size,
        to: layer.to.digest.to_string(),
        size: layer.to.size,
        media_type: layer.to.media_type,
        plain: layer.plain,
    };
    Output {
        name: name.to_owned(),
        digest: converted.digest.to_string(),
        images: converted.images,
        left_out: converted.left_out.iter().map(ToString::to_string).collect(),
        layers: converted.layers.into_iter().map(row).collect(),
    }
}
