//! `kfs bench build`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use kfs_builder::interrupt::Interrupts;
use kfs_builder::kubefile::{Dialect, Kubefile};
use kfs_builder::plan::{self, Base, Plan};
use kfs_fs::error::AtPath as _;
use kfs_fs::oci;
use kfs_fs::oci::find::{Lookup, Pull};
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::store::Store;
use kfs_measure::builds::{self, Report, Step};
use kfs_measure::scratch::Scratch;

use super::cold_start::is_remote;
use super::cold_table::seconds;
use crate::commands::build::host;
use crate::commands::{Context, ListFormat, print, print_json};
use crate::finding::ConnectArgs;
use crate::report::{Failure, USAGE};
use crate::table::{Table, cut, size};

/// Time the steps of a build
///
/// Each run does every step anew, in a store that is gone afterwards. RUN is the command, DIFF the
/// search for what it changed; HASH, COMPRESS and WRITE are the work of the threads that write the
/// layer, while TIME passes. What TIME has beside them is mounts, reading files, and waiting.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs bench build Dockerfile --context .")]
pub(crate) struct Args {
    /// The build file
    file: PathBuf,

    /// Directory whose files COPY may take [default: the build file's]
    #[arg(long, value_name = "DIR")]
    context: Option<PathBuf>,

    /// Value of an ARG
    #[arg(long, value_name = "NAME=VALUE")]
    build_arg: Vec<String>,

    /// How often to build
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
    let interrupts = Interrupts::default();
    let check = || super::check(&interrupts);
    let bases = bases(args, context)?;
    super::hold_signals(&interrupts)?;
    let scratch = Scratch::new()?;
    let program = std::env::current_exe()
        .map_err(|error| Failure::new(format!("find the kfs program: {error}")))?;
    let mut command = Command::new(program);
    command.arg("--root").arg(scratch.path().join("store")).arg("build");
    command.args(["--no-cache", "--progress=json", "--pull=missing"]);
    command.args(args.connect.to_args());
    command.arg("--file").arg(std::path::absolute(&args.file).at("resolve", &args.file)?);
    for pair in &args.build_arg {
        command.args(["--build-arg", pair]);
    }
    for base in bases {
        command.arg("--build-context").arg(base);
    }
    let beside = args.file.parent().filter(|dir| !dir.as_os_str().is_empty());
    command.arg(args.context.as_deref().or(beside).unwrap_or(Path::new(".")));
    let mut tell = |run| context.say(&format!("run {run} of {}", args.runs));
    let report = builds::measure(&mut command, args.runs.into(), &mut tell, &check)?;
    match args.format {
        ListFormat::Table => print(&table(&report).to_string()),
        ListFormat::Json => print_json(&report),
    }
}

/// `NAME=oci:STORE:NAME` of the bases that the user's store has: the builds have another one.
fn bases(args: &Args, context: &Context) -> Result<Vec<String>, Failure> {
    let text = std::fs::read(&args.file).at("read", &args.file)?;
    let name = args.file.file_name().unwrap_or_default().to_string_lossy();
    let dialect = Dialect::of_file_name(&name);
    let file = Kubefile::parse(&args.file.display().to_string(), &text, dialect)?;
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::new(format!("--build-arg {text}: write NAME=VALUE")).code(USAGE)),
    };
    let options = plan::Options {
        build_args: args.build_arg.iter().map(pair).collect::<Result<_, _>>()?,
        copy_rule: None,
        target: host(),
        build: host(),
        stage: None,
        contexts: Vec::new(),
        images: BTreeMap::new(),
    };
    let plan = Plan::new(file, options)?;
    let never = Lookup { pull: Pull::Never, ..Lookup::default() };
    let store = Store::open_readonly(&context.root).with_lookup(never);
    let mut bases = Vec::new();
    for stage in plan.stages() {
        let Base::Image { name, .. } = stage.base() else { continue };
        let here = oci::open(&Source::Store(name.clone()), &store);
        if here.is_ok_and(|image| !is_remote(&image)) {
            bases.push(format!("{name}=oci:{}:{name}", context.root.display()));
        }
    }
    Ok(bases)
}

/// The steps; times that are too short to matter are left out.
fn table(report: &Report) -> Table {
    let mut table =
        Table::new(&["STEP", "TIME", "RUN", "DIFF", "HASH", "COMPRESS", "WRITE", "LAYER"]);
    for step in &report.steps {
        let part = |get: fn(&builds::LayerTimes) -> f64| {
            let time = step.layer.as_ref().map_or(0.0, get);
            if time < 1e-5 { String::new() } else { seconds(time) }
        };
        table.row([
            cut(&name(step), 60),
            seconds(step.seconds),
            part(|times| times.run),
            part(|times| times.diff),
            part(|times| times.hash),
            part(|times| times.compress),
            part(|times| times.write),
            step.size.map_or_else(String::new, size),
        ]);
    }
    table
}

fn name(step: &Step) -> String {
    match step.stage.as_str() {
        "" => step.text.clone(),
        stage => format!("[{stage}] {}", step.text),
    }
}
