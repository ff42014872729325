//! `kfs prune`

use std::io::{self, BufRead as _, IsTerminal as _};
use std::time::{Duration, SystemTime};

use kfs_fs::oci::store::{Kind, Pruned, Wanted};

use super::{Context, ListFormat, print, print_json};
use crate::report::{Failure, talk};
use crate::table::{Table, size};

/// Remove what nothing needs
///
/// Without WHAT: images without a name that are not mounted, blobs of no image, stale build
/// cache, and indexes and fetched parts of layers that no image has. Mounts and what they show
/// stay.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kfs prune --dry-run\n  \
                        kfs prune build-cache --keep-storage 2GB --filter until=24h")]
pub(crate) struct Args {
    /// Only this; all of the build cache, if that is named
    #[arg(value_enum)]
    what: Vec<What>,

    /// Remove images with names too, unless they are mounted, and all of the build cache; with
    /// `cache` alone, what was fetched of layers that images have
    #[arg(long, short)]
    all: bool,

    /// Tell what would be removed
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Keep the newest of the build cache, up to SIZE
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    keep_storage: Option<u64>,

    /// until=AGE or until=TIME: remove only what came to the store before that, such as
    /// until=24h or until=2026-01-31T00:00:00Z
    #[arg(long, value_name = "FILTER", value_parser = parse_filter)]
    filter: Option<SystemTime>,

    /// Do not ask
    #[arg(long, short)]
    force: bool,

    /// How to print what is removed
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Images without a name, and blobs of no image
    Images,
    /// What earlier builds made and no image has
    BuildCache,
    /// Indexes of layers that no image has
    Indexes,
    /// What was fetched of layers in registries that no image has
    Cache,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let store = context.store()?;
    let named = |what| args.what.contains(&what);
    let wanted = |what| args.what.is_empty() || named(what);
    let wanted = Wanted {
        images: wanted(What::Images),
        all: args.all,
        build_cache: wanted(What::BuildCache),
        all_build_cache: named(What::BuildCache) || args.keep_storage.is_some(),
        indexes: wanted(What::Indexes),
        cache: wanted(What::Cache),
        all_cache: args.all && named(What::Cache),
        before: args.filter,
        keep: args.keep_storage.unwrap_or(0),
    };
    if !args.dry_run && !args.force && !confirmed(args)? {
        return Err(Failure::new("nothing was removed"));
    }
    let items = store.prune(&wanted, args.dry_run)?;
    let freed: u64 = items.iter().map(|item| item.bytes).sum();
    match args.format {
        ListFormat::Json => {
            let report = serde_json::json!({
                "dry_run": args.dry_run, "bytes": freed, "removed": items,
            });
            print_json(&report)?;
        }
        ListFormat::Table => print(&table(&items))?,
    }
    let verb = if args.dry_run { "would free" } else { "freed" };
    context.say(&format!("{verb} {}", size(freed)));
    Ok(())
}

fn table(items: &[Pruned]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["KIND", "NAME", "SIZE"]);
    for item in items {
        let kind = match item.kind {
            Kind::Image => "image",
            Kind::Blob => "blob",
            Kind::BuildCache => "build-cache",
            Kind::Index => "index",
            Kind::Cache => "cache",
        };
        let bytes = if item.kind == Kind::Image { String::new() } else { size(item.bytes) };
        table.row([kind.to_owned(), item.name.clone(), bytes]);
    }
    table.to_string()
}

/// Asks whoever can answer; scripts are not asked.
fn confirmed(args: &Args) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(true);
    }
    talk(&format!("This removes {}. Go on? [y/N]", what_goes(&args.what, args.all)));
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("read standard input: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What is removed, for people.
fn what_goes(what: &[What], all: bool) -> String {
    let images = if all { "all images that are not mounted" } else { "images without a name" };
    if what.is_empty() {
        let build_cache = if all { "the build cache" } else { "stale build cache" };
        return format!(
            "{images}, blobs of no image, {build_cache}, and indexes and fetched parts of layers that \
             no image has then"
        );
    }
    let names = what.iter().map(|what| match what {
        What::Images => images,
        What::BuildCache => "the build cache",
        What::Indexes => "unused indexes",
        What::Cache if all => "all that was fetched of layers",
        What::Cache => "what was fetched of unused layers",
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Bytes, or with a decimal (kB, MB, GB, TB) or binary (KiB, ...; K, M, G, T) unit.
fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let factor: f64 = match unit.trim() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => f64::from(1 << 20),
        "g" | "gib" => f64::from(1 << 30),
        "t" | "tib" => f64::from(1 << 20) * f64::from(1 << 20),
        _ => return Err(format!("{text:?} is no size such as 500MB or 2GiB")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("{text:?} is no size such as 500MB or 2GiB"))?;
    // What is beyond all numbers becomes the largest.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    Ok((number * factor) as u64)
}

fn parse_filter(text: &str) -> Result<SystemTime, String> {
    let value = text
        .strip_prefix("until=")
        .ok_or_else(|| format!("{text:?} is no filter that is known, such as until=24h"))?;
    if let Ok(time) = humantime::parse_rfc3339_weak(value) {
        return Ok(time);
    }
    let age: Duration = humantime::parse_duration(value)
        .map_err(|_| format!("{value:?} is neither an age such as 24h nor an RFC 3339 time"))?;
    SystemTime::now().checked_sub(age).ok_or_else(|| format!("{value:?} is before all time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("10kB", 10_000),
            ("1.5MB", 1_500_000),
            ("2GiB", 2 << 30),
            ("2g", 2 << 30),
            ("1 TB", 1_000_000_000_000),
            ("99999999999TB", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "1.2.3MB", "-1", "5 apples"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_question_names_all_that_goes() {
        for all in [false, true] {
            let text = what_goes(&[], all);
            for part in ["images", "blobs", "build cache", "indexes", "fetched parts"] {
                assert!(text.contains(part), "{text}");
            }
        }
        assert_eq!(what_goes(&[What::Cache], true), "all that was fetched of layers");
    }

    #[test]
    fn filters_are_ages_or_times() {
        let day = parse_filter("until=24h").unwrap();
        let age = day.elapsed().unwrap().as_secs();
        assert!((86_400..86_500).contains(&age), "{age}");
        let time = parse_filter("until=2026-01-31T00:00:00Z").unwrap();
        let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(seconds, 1_769_817_600);
        for text in ["24h", "label=x", "until=", "until=soon"] {
            assert!(parse_filter(text).is_err(), "{text}");
        }
    }
}
