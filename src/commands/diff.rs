//! `kfs diff`

use std::io::Write as _;

use kfs_fs::compare::{Difference, Kind, Property, compare};
use kfs_fs::oci::reference::Source;
use serde::Serialize;

use super::{Context, ListFormat, Out};
use crate::finding::FindArgs;
use crate::look::{Look, escape};
use crate::report::Failure;

/// Show what two images have differently
///
/// A is added, D removed, C changed, as docker diff marks them; what changed stands behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs diff debian:12 my-debian")]
pub(crate) struct Args {
    /// A name, the first digits of a digest, or oci:DIR[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:TAG]
    first: Source,

    /// The image to compare it with
    second: Source,

    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Serialize)]
struct Listed {
    path: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<&'static str>,
    size: u64,
}

impl From<Difference> for Listed {
    fn from(difference: Difference) -> Self {
        let (kind, changed) = match difference.kind {
            Kind::Added => ("added", Vec::new()),
            Kind::Removed => ("removed", Vec::new()),
            Kind::Changed(properties) => {
                ("changed", properties.into_iter().map(Property::word).collect())
            }
        };
        Self { path: escape(&difference.path), kind, changed, size: difference.size }
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let first = Look::open(&args.first, context)?;
    let second = Look::open(&args.second, context)?;
    let mut out = Out::new();
    let mut all = Vec::new();
    compare::<Failure>(&first.fs, &second.fs, &mut |difference| {
        let listed = Listed::from(difference);
        if args.format == ListFormat::Json {
            all.push(listed);
            return Ok(());
        }
        let letter = match listed.kind {
            "added" => 'A',
            "removed" => 'D',
            _ => 'C',
        };
        let changed = match listed.changed.is_empty() {
            true => String::new(),
            false => format!("  ({})", listed.changed.join(", ")),
        };
        Ok(writeln!(out, "{letter} {}{changed}", listed.path)?)
    })?;
    if args.format == ListFormat::Json {
        out.json(&all)?;
    }
    out.finish()
}
