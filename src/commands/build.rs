//! `kfs build`

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kfs_builder::build::{self, Event};
use kfs_builder::context::Context as BuildContext;
use kfs_builder::exec::{Isolation, Sandbox};
use kfs_builder::interrupt::Interrupts;
use kfs_builder::kubefile::{CopyRule, Dialect, Kubefile};
use kfs_builder::plan::{self, Plan};
use kfs_fs::error::AtPath as _;
use kfs_fs::layer::writer::Compression;
use kfs_fs::oci::image::host_architecture;
use kfs_fs::oci::manifest::Platform;
use kfs_fs::oci::reference::Name;

use super::{Context, compression, print};
use crate::finding::FindArgs;
use crate::look::escape;
use crate::report::{Failure, NOT_FOUND, USAGE};
use crate::table::size;

/// The build file's name where none is given: the first of these that the context has.
const FILE_NAMES: [&str; 4] = ["Sealfile", "Kubefile", "Dockerfile", "Containerfile"];

/// Build an image from a Kubefile or Dockerfile
///
/// RUN works on the live, merged root file system; COPY and RUN each become one new layer. The
/// base image is never unpacked. Prints the digest of the new image.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs build -t my-cluster:v1 .
  kfs build -f Dockerfile.test -t test --build-arg VERSION=1.2 src")]
pub(crate) struct Args {
    /// Directory whose files COPY may take
    #[arg(default_value = ".")]
    context: PathBuf,

    /// The build file [default: CONTEXT/Sealfile, Kubefile, Dockerfile or Containerfile]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Name of the new image
    #[arg(long, short, value_name = "NAME")]
    tag: Option<String>,

    /// Value of an ARG; without =VALUE it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// The stage to build, by name or number [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Do every step anew
    #[arg(long)]
    no_cache: bool,

    #[arg(long, value_name = "FORMAT[:LEVEL]", default_value = "zstd-chunked",
        value_parser = compression::parse, help = compression::SUMMARY,
        long_help = compression::FORMATS)]
    compression: Compression,

    /// How RUN is shut in: a container where the rootfs has /bin/sh, else the host's tools
    #[arg(long, value_enum, default_value_t = IsolationArg::Auto)]
    isolation: IsolationArg,

    /// Where COPY puts its sources [default: as the file's head or its kind says]
    #[arg(long, value_enum)]
    copy_semantics: Option<CopyRuleArg>,

    /// Seconds since 1970 for all times that the build makes up
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", hide_env_values = true)]
    timestamp: Option<u64>,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum IsolationArg {
    /// Container if the rootfs has /bin/sh, else host
    Auto,
    /// The rootfs is /
    Container,
    /// The host's tools; nothing but the rootfs can be written
    Host,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CopyRuleArg {
    /// As Docker: a directory means its contents
    Docker,
    /// As the Kubefile documents: sources keep their names
    Kubefile,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let directory = BuildContext::open(&args.context)?;
    let path = find_file(args)?;
    let text = std::fs::read(&path).at("read", &path)?;
    let base_name = path.file_name().unwrap_or_default().to_string_lossy();
    let dialect = Dialect::of_file_name(&base_name);
    let file = Kubefile::parse(&path.display().to_string(), &text, dialect)?;
    let target = host();
    let plan = Plan::new(file, plan_options(args, &target)?)?;
    if let Some(tag) = &args.tag {
        // A wrong name is told before the work, not after it.
        tag.parse::<Name>()?;
    }
    let interrupts = Arc::new(Interrupts::default());
    let options = build::Options {
        context: directory.with_ignore_file(&path)?,
        contexts: BTreeMap::new(),
        tag: args.tag.clone(),
        no_cache: args.no_cache,
        compression: args.compression,
        isolation: args.isolation.into(),
        timestamp: args.timestamp.map(time),
        target,
        interrupts: interrupts.clone(),
    };
    let sandbox = match std::env::var_os("PATH") {
        Some(path) => Sandbox::new().host_path(path),
        None => Sandbox::new(),
    };
    let sandbox = sandbox.interrupts(interrupts);
    let started = Instant::now();
    let mut report = |stage: &str, event: Event| tell(context, stage, &event);
    let built = build::build(&plan, &options, &context.store()?, &sandbox, &mut report)?;
    if let Some(tag) = &args.tag {
        context.say(&format!("Built {tag} in {}", seconds(started.elapsed())));
    }
    print(&format!("{}\n", built.digest))
}

fn find_file(args: &Args) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.file {
        // As buildah: beside the user, else in the context.
        let inside = args.context.join(file);
        return Ok(if !file.exists() && inside.exists() { inside } else { file.clone() });
    }
    build_file_in(&args.context)
}

/// The build file of a directory: the first of the names that it has.
pub(crate) fn build_file_in(directory: &Path) -> Result<PathBuf, Failure> {
    match FILE_NAMES.iter().find(|name| directory.join(name).is_file()) {
        Some(name) => Ok(directory.join(name)),
        None => {
            let names = FILE_NAMES.join(", ");
            let message = format!("{} has no build file: none of {names}", directory.display());
            Err(Failure::new(message).code(NOT_FOUND).hint("name it with -f FILE"))
        }
    }
}

fn plan_options(args: &Args, target: &Platform) -> Result<plan::Options, Failure> {
    let pair = |text: &String| match text.split_once('=') {
        Some(("", _)) => {
            Err(Failure::new(format!("--build-arg {text}: the name is empty")).code(USAGE))
        }
        Some((name, value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        // As docker: not set in the environment means not given.
        None => Ok(std::env::var(text).ok().map(|value| (text.clone(), value))),
    };
    let build_args: Vec<Option<(String, String)>> =
        args.build_arg.iter().map(pair).collect::<Result<_, _>>()?;
    Ok(plan::Options {
        build_args: build_args.into_iter().flatten().collect(),
        copy_rule: args.copy_semantics.map(CopyRule::from),
        target: target.clone(),
        build: host(),
        stage: args.target.clone(),
        contexts: Vec::new(),
    })
}

/// What kfs runs on.
pub(crate) fn host() -> Platform {
    Platform {
        architecture: host_architecture().to_owned(),
        os: "linux".to_owned(),
        variant: None,
        extra: serde_json::Map::new(),
    }
}

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND))
}

/// The end of the year 9999, the last that RFC 3339 can say.
const LAST_SECOND: u64 = 253_402_300_799;

/// One line a step and what comes of it, to stderr. Where several stages are built, each line
/// names its stage.
fn tell(context: &Context, stage: &str, event: &Event) {
    let (name, tag) = match stage {
        "" => (String::new(), String::new()),
        stage => (format!("{stage} "), format!("[{stage}] ")),
    };
    match event {
        Event::Step { index, total, text } => {
            context.say(&format!("[{name}{index}/{total}] {}", escape(text.as_bytes())));
        }
        Event::Indexed { bytes } => context.say(&format!("      {tag}indexed {}", size(*bytes))),
        Event::Output(line) => {
            if !context.quiet {
                let mut stderr = std::io::stderr().lock();
                let line = [b"      ", tag.as_bytes(), overwritten(line), b"\n"].concat();
                // Nobody is left to be told of a closed stderr.
                drop(stderr.write_all(&line));
            }
        }
        Event::Note(text) => context.say(&format!("note: {text}")),
        Event::Warning(text) => context.say(&format!("warning: {text}")),
        Event::Done { took, layer, cached } => {
            let took = if *cached { "cached".to_owned() } else { seconds(*took) };
            match layer {
                Some((digest, bytes)) => {
                    let (digest, bytes) = (digest.short(), size(*bytes));
                    context.say(&format!("      {tag}{took}  layer {digest}  {bytes}"));
                }
                None if took.starts_with("0.0") => {}
                None => context.say(&format!("      {tag}{took}")),
            }
        }
    }
}

/// What is left of a line in which a progress bar returned to its start again and again.
fn overwritten(line: &[u8]) -> &[u8] {
    let mut versions = line.rsplit(|byte| *byte == b'\r');
    versions.find(|version| !version.is_empty()).unwrap_or_default()
}

fn seconds(duration: Duration) -> String {
    format!("{:.2}s", duration.as_secs_f64())
}

impl From<IsolationArg> for Isolation {
    fn from(arg: IsolationArg) -> Self {
        match arg {
            IsolationArg::Auto => Self::Auto,
            IsolationArg::Container => Self::Container,
            IsolationArg::Host => Self::Host,
        }
    }
}

impl From<CopyRuleArg> for CopyRule {
    fn from(arg: CopyRuleArg) -> Self {
        match arg {
            CopyRuleArg::Docker => Self::Docker,
            CopyRuleArg::Kubefile => Self::Kubefile,
        }
    }
}
