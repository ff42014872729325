//! `kfs bench fs`

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kfs_builder::interrupt::Interrupts;
use kfs_fs::content;
use kfs_fs::error::AtPath as _;
use kfs_fs::filesystem::{ImageFs, Ino};
use kfs_fs::oci::find::{Lookup, Pull};
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::reference::{Name, Source};
use kfs_fs::oci::store::Store;
use kfs_fs::oci::{self, Image, transfer};
use kfs_measure::MeasureError;
use kfs_measure::files::{self, Operation, Place, Renew, Report, Row};
use kfs_measure::scratch::Scratch;
use nix::unistd::geteuid;

use super::cold_start::is_remote;
use crate::commands::mount::absolute;
use crate::commands::{Context, ListFormat, print, print_json};
use crate::finding::ConnectArgs;
use crate::look::extract_all;
use crate::progress::Progress;
use crate::report::Failure;
use crate::table::Table;

/// Time walks and reads of an image, beside the same tree unpacked
///
/// All directories are listed, the attributes of all entries are asked for, files are read from one
/// end to the other (256 MiB at most), and 2,000 pages at random places. Each is done twice: cold,
/// newly mounted and with the page cache dropped, which needs root, and again at once. A directory
/// is measured alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs bench fs debian:12")]
pub(crate) struct Args {
    /// A directory if there is one of this name, else an image
    #[arg(value_name = "IMAGE|DIR")]
    what: PathBuf,

    /// How often to measure
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// How to print what was measured
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,

    #[command(flatten)]
    connect: ConnectArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let root = geteuid().is_root();
    if !root {
        context.say("note: the page cache is not dropped: that needs root");
    }
    let interrupts = Interrupts::default();
    let check = || super::check(&interrupts);
    let measure = |places: &[Place<'_>]| files::measure(places, args.runs.into(), root, &check);
    let report = if args.what.is_dir() {
        let path = args.what.canonicalize().at("resolve", &args.what)?;
        let name = args.what.display().to_string();
        super::hold_signals(&interrupts)?;
        measure(&[Place { name, path, renew: None }])?
    } else {
        let scratch = Scratch::new()?;
        let (mount, unpacked) = prepare(args, context, &scratch)?;
        super::hold_signals(&interrupts)?;
        let kfs = Place { name: "kfs".to_owned(), path: mount.at.clone(), renew: Some(&mount) };
        let disk = Place { name: "unpacked".to_owned(), path: unpacked, renew: None };
        mount.renew()?;
        measure(&[kfs, disk])?
    };
    match args.format {
        ListFormat::Table => print(&text(&report)),
        ListFormat::Json => print_json(&report),
    }
}

/// The image ready to be mounted, and the same tree in a directory; all in `scratch`.
fn prepare(
    args: &Args,
    context: &Context,
    scratch: &Scratch,
) -> Result<(Remount, PathBuf), Failure> {
    let text = args.what.to_str().ok_or_else(|| {
        let what = args.what.display();
        Failure::new(format!("{what}: there is no such directory, and no image is called so"))
    })?;
    let (image, source) = find(text.parse()?, args, context, &scratch.directory("origin")?)?;
    let store = scratch.directory("store")?;
    let unpacked = scratch.path().join("unpacked");
    let indexes = scratch.directory("indexes")?;
    context.say(&format!("Unpacking {}", image.name));
    let fs = ImageFs::open_with(&image, &indexes, &|_| (), content::Options::default())?;
    extract_all(&fs, Ino::ROOT, &unpacked, context)?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("find the kfs program: {error}")))?;
    let at = scratch.directory("mnt")?;
    let source = source.to_string();
    Ok((Remount { program, store, source, at, mounted: Cell::new(false) }, unpacked))
}

/// The image, whole on this machine, and as another store finds it. The user's store is not
/// changed: what it lacks goes into `kept`.
fn find(
    source: Source,
    args: &Args,
    context: &Context,
    kept: &Path,
) -> Result<(Image, Source), Failure> {
    let registries = Some(args.connect.registries(kept));
    let never = Lookup { registries, pull: Pull::Never, ..Lookup::default() };
    let own = Store::open_readonly(&context.root).with_lookup(never.clone());
    let name: Name = match source {
        Source::Registry(name) => name,
        Source::Store(name) => match oci::open(&Source::Store(name.clone()), &own) {
            Ok(image) if !is_remote(&image) => {
                let dir = context.root.clone();
                return Ok((image, Source::Layout { dir, tag: Some(name) }));
            }
            Ok(_) | Err(LayoutError::NotFound { .. }) => name.parse()?,
            Err(error) => return Err(error.into()),
        },
        source => return Ok((oci::open(&source, &own)?, absolute(source)?)),
    };
    let store = Store::open(kept)?.with_lookup(Lookup { pull: Pull::Missing, ..never });
    let progress = Progress::new(context, &format!("Copying {name}"));
    transfer::pull(&store, &name, false, &|bytes| progress.add(bytes))?;
    drop(progress);
    let image = oci::open(&Source::Registry(name.clone()), &store)?;
    Ok((image, Source::Layout { dir: kept.to_owned(), tag: Some(name.to_string()) }))
}

/// A mount of kfs that can be made anew.
#[derive(Debug)]
struct Remount {
    program: PathBuf,
    store: PathBuf,
    source: String,
    at: PathBuf,
    mounted: Cell<bool>,
}

impl Remount {
    fn kfs(&self, args: &[&str]) -> Result<(), MeasureError> {
        let failed =
            |how: String| MeasureError::Command { command: format!("kfs {}", args[0]), how };
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.store).arg("--quiet").args(args).arg(&self.at);
        // What it says is said by the user's own command.
        let status = command.stdin(Stdio::null()).status();
        let status = status.map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
    }
}

impl Renew for Remount {
    fn renew(&self) -> Result<(), MeasureError> {
        if self.mounted.take() {
            self.kfs(&["umount"])?;
        }
        self.kfs(&["mount", &self.source])?;
        self.mounted.set(true);
        Ok(())
    }
}

/// What was measured as a table: medians, each of a unit of its own.
fn text(report: &Report) -> String {
    let caches = if report.caches_dropped { "dropped" } else { "not dropped (needs root)" };
    let names: Vec<&str> = report
        .rows
        .first()
        .map_or_else(Vec::new, |row| row.places.iter().map(|place| place.place.as_str()).collect());
    let mut headings = vec!["OPERATION".to_owned(), "UNIT".to_owned()];
    for kind in ["COLD", "WARM"] {
        headings.extend(names.iter().map(|name| format!("{kind} {name}")));
        if names.len() > 1 {
            headings.push(format!("{kind} RATIO"));
        }
    }
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = Table::new(&headings);
    for row in &report.rows {
        table.cells(cells(row));
    }
    let left_out = match report.left_out {
        0 => String::new(),
        number => format!(", {number} not read for lack of rights"),
    };
    format!("{} entries{left_out}; page cache {caches}\n\n{table}", report.entries)
}

fn cells(row: &Row) -> Vec<String> {
    // Far below where a double is exact.
    #[allow(clippy::cast_precision_loss)]
    let (count, bytes) = (row.count.max(1) as f64, row.bytes as f64);
    let (name, unit) = match row.operation {
        Operation::Walk => ("walk", "us an entry"),
        Operation::Stat => ("stat", "us an entry"),
        Operation::Sequential => ("sequential read", "MB/s"),
        Operation::Random => ("random read of 4 KiB", "us a read"),
    };
    let rate = row.operation == Operation::Sequential;
    let figure = |seconds: f64| match rate {
        true => format!("{:.0}", bytes / 1e6 / seconds.max(1e-9)),
        false => format!("{:.2}", seconds * 1e6 / count),
    };
    let mut cells = vec![name.to_owned(), unit.to_owned()];
    for cold in [true, false] {
        let times =
            |place: &files::Times| files::median(if cold { &place.cold } else { &place.warm });
        let all: Vec<f64> = row.places.iter().map(times).collect();
        cells.extend(all.iter().map(|seconds| figure(*seconds)));
        if let [ours, theirs] = all[..] {
            cells.push(format!("{:.2} x", theirs / ours.max(1e-9)));
        }
    }
    cells
}
