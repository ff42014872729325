//! `kfs fsck`

use kfs_fs::oci::store::{Check, Finding, Health, Severity};
use kfs_fs::printable;

use super::{Context, ListFormat, Out};
use crate::progress::Progress;
use crate::report::{CORRUPT, Failure};
use crate::table::size;

/// Check the store, and mend what can be mended
///
/// Holds images against their blobs, blobs and cached content of layers in registries against their
/// digests, tables of contents of layers against their tar streams, and what kfs made from them
/// against its checksums. Ends with code 5 if something is damaged; what killed processes left is no
/// damage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs fsck --repair")]
pub(crate) struct Args {
    /// Remove what is damaged and can be made again; put wrong blobs into quarantine/
    #[arg(long)]
    repair: bool,

    /// Leave out what takes reading all of the store
    #[arg(long)]
    quick: bool,

    /// How to print what is found
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = if args.repair { context.store()? } else { context.store_to_read() };
    let how = Check { quick: args.quick, repair: args.repair };
    let progress = Progress::new(context, "Checking the store");
    let health = store.check(how, &|bytes| progress.add(bytes))?;
    drop(progress);
    let mut out = Out::new();
    match args.format {
        ListFormat::Json => out.json(&health)?,
        ListFormat::Table => {
            use std::io::Write as _;
            for finding in &health.findings {
                out.write_all(line(finding).as_bytes())?;
            }
        }
    }
    out.finish()?;
    verdict(&health, context)
}

/// `lost blobs/sha256/...: it has 5 bytes, ... (images a:1, b:1): moved to quarantine/...`
fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Leftover => "leftover",
        Severity::Derived => "damaged",
        Severity::Lost => "lost",
    };
    let images = match &finding.images[..] {
        [] => String::new(),
        images => format!(" (images {})", images.join(", ")),
    };
    let repair = finding.repair.as_ref().map(|done| format!(": {done}")).unwrap_or_default();
    let place = printable::text(&finding.place.display().to_string());
    format!("{severity} {place}: {}{images}{repair}\n", printable::text(&finding.problem))
}

fn verdict(health: &Health, context: &Context) -> Result<(), Failure> {
    if !health.is_damaged() {
        context.say(&format!(
            "{} images, {} blobs ({}), {} indexes, {} of the cache, {} records of the build cache, \
             {} mounts: clean",
            health.images,
            health.blobs,
            size(health.bytes),
            health.indexes,
            size(health.cached),
            health.build_cache,
            health.mounts,
        ));
        return Ok(());
    }
    let lost = health.findings.iter().any(|finding| finding.severity == Severity::Lost);
    let failure = Failure::new("the store is damaged").code(CORRUPT);
    Err(match lost {
        true => failure.hint("get the named images again, or remove them with `kfs rmi`"),
        false => failure.hint("`kfs fsck --repair` mends it"),
    })
}
