//! `kfs build`

mod carrying;
mod destination;
mod explain;
mod flags;
mod output;
mod place;
mod tell;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kfs_builder::build::{self, Event};
use kfs_builder::cluster::extension::ImageType;
use kfs_builder::cluster::kubeconfig::Kubeconfig;
use kfs_builder::exec::{Isolation, Sandbox};
use kfs_builder::interrupt::Interrupts;
use kfs_builder::kubefile::{CopyRule, Dialect, Kubefile};
use kfs_builder::plan::{self, Plan};
use kfs_fs::content::Options;
use kfs_fs::error::AtPath as _;
use kfs_fs::layer::writer::Compression;
use kfs_fs::oci::image::host_architecture;
use kfs_fs::oci::manifest::Platform;
use kfs_fs::oci::reference::Name;

use super::save::not_to_a_terminal;
use super::{Context, compression, kubeconfig, print};
use crate::finding::FindArgs;
use crate::report::{Failure, NOT_FOUND, USAGE};
use carrying::CarryArgs;
use output::Output;
use place::Place;
use tell::Teller;

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
    /// Directory whose files COPY may take; or a git repository (URL#REF:DIRECTORY), the URL of an
    /// archive, - for one on standard input
    #[arg(default_value = ".")]
    context: PathBuf,

    /// The build file, - for standard input [default: CONTEXT/Sealfile, Kubefile, Dockerfile or
    /// Containerfile]
    #[arg(long, short, alias = "kubefile", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Name of the new image; it may have several
    #[arg(long, short, alias = "imageName", value_name = "NAME")]
    tag: Vec<String>,

    /// Value of an ARG; without =VALUE it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// The stage to build, by name or number [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Files that COPY --from=NAME and FROM NAME take instead of a stage or image: a directory,
    /// docker-image://IMAGE or oci:DIR[:TAG]
    #[arg(long, value_name = "NAME=PLACE")]
    build_context: Vec<String>,

    /// Label of the image
    #[arg(long, value_name = "KEY=VALUE", help_heading = "The image")]
    label: Vec<String>,

    /// Annotation of the image's manifest
    #[arg(long, value_name = "KEY=VALUE", help_heading = "The image")]
    annotation: Vec<String>,

    /// What a cluster image is for
    #[arg(
        long = "type",
        value_enum,
        default_value_t,
        value_name = "TYPE",
        help_heading = "The image"
    )]
    image_type: ImageTypeArg,

    /// Make one layer of all new ones
    #[arg(long, help_heading = "The image")]
    squash: bool,

    /// With false the image has the new layers alone, without those of its base
    #[arg(
        long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true",
        help_heading = "The image"
    )]
    base: bool,

    /// Write the image's ID to a file
    #[arg(long, value_name = "FILE", help_heading = "The image")]
    iidfile: Option<PathBuf>,

    /// Write the image, too: type=oci|docker|local|tar,dest=PATH; a directory alone is type=local
    #[arg(long, short, value_name = "OUTPUT", help_heading = "The image")]
    output: Vec<String>,

    /// A secret for RUN --mount=type=secret, never part of the image
    #[arg(long, value_name = "id=ID,src=FILE|env=NAME", help_heading = "RUN")]
    secret: Vec<String>,

    /// An SSH agent for RUN --mount=type=ssh: default, or ID=SOCKET
    #[arg(long, value_name = "ID[=SOCKET]", help_heading = "RUN")]
    ssh: Vec<String>,

    /// The network that RUN sees, unless its line says
    #[arg(long, value_enum, default_value_t, help_heading = "RUN")]
    network: NetworkArg,

    /// One more line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "RUN")]
    add_host: Vec<String>,

    /// Memory that all RUNs may take together, like 512m
    #[arg(long, short = 'M', value_name = "SIZE", help_heading = "RUN")]
    memory: Option<String>,

    /// Processors that all RUNs may take together
    #[arg(long, value_name = "NUMBER", help_heading = "RUN")]
    cpus: Option<f64>,

    /// Processes that all RUNs may have together
    #[arg(long, value_name = "NUMBER", help_heading = "RUN")]
    pids_limit: Option<u64>,

    /// Limit of a process of RUN, like nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "RUN")]
    ulimit: Vec<String>,

    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", help_heading = "RUN")]
    shm_size: Option<String>,

    /// How to tell what happens
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressArg,

    /// Do every step anew
    #[arg(long)]
    no_cache: bool,

    /// A repository of a registry that is asked for steps, like registry.local/cache
    #[arg(long, value_name = "REPOSITORY")]
    cache_from: Vec<String>,

    /// A repository of a registry that gets the steps
    #[arg(long, value_name = "REPOSITORY")]
    cache_to: Vec<String>,

    /// Tell of each step why it is in the cache or is not
    #[arg(long)]
    explain: bool,

    /// lite: without a cluster (the default); local: RUN may use the current cluster, as kubectl
    /// finds it, and the images that its pods run are carried as well
    #[arg(long, short, alias = "buildType", short_alias = 'b', value_name = "MODE")]
    mode: Option<String>,

    #[arg(long, value_name = "FORMAT[:LEVEL]", default_value = "zstd-chunked",
        value_parser = compression::parse, help = compression::SUMMARY,
        long_help = compression::FORMATS)]
    compression: Compression,

    /// How RUN is shut in: a container; for a Kubefile whose rootfs lacks /bin/sh, the host's tools
    #[arg(long, value_enum, default_value_t = IsolationArg::Auto)]
    isolation: IsolationArg,

    /// Where COPY puts its sources [default: as the file's head or its kind says]
    #[arg(long, value_enum)]
    copy_semantics: Option<CopyRuleArg>,

    /// Seconds since 1970 for all times that the build makes up
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS", hide_env_values = true)]
    timestamp: Option<u64>,

    #[command(flatten)]
    carry: CarryArgs,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum IsolationArg {
    /// Container; for a Kubefile without /bin/sh in the rootfs, host
    Auto,
    /// The rootfs is /
    Container,
    /// The host's tools; nothing but the rootfs can be written
    Host,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum NetworkArg {
    /// The host's
    #[default]
    Default,
    /// The host's
    Host,
    /// None but a loopback
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum ProgressArg {
    /// tty on a terminal, else plain
    #[default]
    Auto,
    /// One line for each thing
    Plain,
    /// Lines that are done with are replaced
    Tty,
    /// One JSON object a line
    Json,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum ImageTypeArg {
    /// It brings a cluster
    #[default]
    KubeInstaller,
    /// It brings applications to a cluster that there is
    AppInstaller,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum CopyRuleArg {
    /// As Docker: a directory means its contents
    Docker,
    /// As the Kubefile documents: sources keep their names
    Kubefile,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let cluster = cluster(args)?;
    let outputs = outputs(&args.output)?;
    if let Some(path) = &args.iidfile {
        destination::check("--iidfile", path, destination::Written::InPlace)?;
    }
    let context = &context.finding(&args.find);
    let interrupts = Arc::new(Interrupts::default());
    let agents = flags::agents(&args.ssh)?;
    let agent = agents.get("default").map(PathBuf::as_path);
    let place = Place::find(args, agent, &interrupts, context)?;
    let base_name = place.name.rsplit('/').next().unwrap_or_default();
    let file = Kubefile::parse(&place.name, &place.text, Dialect::of_file_name(base_name))?;
    let target = args.find.platform().map(|wanted| flags::platform(&wanted.to_string(), &host()));
    let target = target.transpose()?;
    let target = target.unwrap_or_else(host);
    let plan = Plan::new(file, plan_options(args, &target)?)?;
    for tag in &args.tag {
        // A wrong name is told before the work, not after it.
        tag.parse::<Name>()?;
    }
    let reading = context.reading.clone();
    let options = build_options(args, &place, target, reading, interrupts.clone())?;
    let collecting = args.carry.collecting(plan.dialect())?;
    let options = build::Options { collecting, cluster, ..options };
    let sandbox = match std::env::var_os("PATH") {
        Some(path) => Sandbox::new().host_path(path),
        None => Sandbox::new(),
    };
    let sandbox = sandbox.interrupts(interrupts);
    let started = Instant::now();
    let mut teller = Teller::new(context, args.progress);
    let mut report = |stage: &str, event: Event| teller.tell(stage, event);
    let store = context.store()?;
    let built = build::build(&plan, &options, &store, &sandbox, &mut report);
    teller.end();
    // Signals are held back as long as these live, and nobody asks for them any more.
    drop((options, sandbox));
    let built = built?;
    // The build gave it the first of its names.
    for tag in args.tag.iter().skip(1) {
        store.tag(&built.digest.to_string(), tag)?;
    }
    if let Some(path) = &args.iidfile {
        std::fs::write(path, built.id.to_string()).at("write", path)?;
    }
    teller.built(&args.tag, &built, started.elapsed());
    for output in &outputs {
        output.write(&built, &args.tag, context)?;
    }
    match outputs.iter().any(Output::is_stdout) {
        true => Ok(()),
        false => print(&format!("{}\n", built.digest)),
    }
}

/// Where the image goes beside the store, if it can; at most one may be standard output.
fn outputs(texts: &[String]) -> Result<Vec<Output>, Failure> {
    let outputs: Vec<Output> =
        texts.iter().map(|text| Output::parse(text)).collect::<Result<_, _>>()?;
    outputs.iter().try_for_each(Output::check)?;
    let to_stdout = outputs.iter().filter(|output| output.is_stdout()).count();
    if to_stdout > 1 {
        return Err(Failure::new("--output - is given more than once").code(USAGE));
    }
    if to_stdout == 1 {
        not_to_a_terminal("name a file: --output type=tar,dest=FILE, or redirect standard output")?;
    }
    Ok(outputs)
}

/// Where clusters come from; sealer could also start some for a build.
fn cluster(args: &Args) -> Result<Option<Kubeconfig>, Failure> {
    let wrong = |text: String| Failure::new(text).code(USAGE);
    match args.mode.as_deref() {
        None | Some("lite") => Ok(None),
        Some("local") => {
            let files = kubeconfig::files(None);
            if files.is_empty() {
                let text = "--mode local needs a cluster, and there is no kubeconfig";
                return Err(Failure::new(text).code(NOT_FOUND).hint("set KUBECONFIG to one"));
            }
            Ok(Some(Kubeconfig::new(&files, Isolation::Auto)?))
        }
        Some(mode @ ("cloud" | "container")) => Err(wrong(format!(
            "--mode {mode} is not there: kfs starts no cluster for a build"
        ))
        .hint("leave it out, and the images are found in the files; or use --mode local with a cluster that there is")),
        Some(other) => Err(wrong(format!("there is no build mode {other}"))
            .hint("there are lite, which is the default, and local")),
    }
}

fn build_options(
    args: &Args,
    place: &Place,
    target: Platform,
    reading: Options,
    interrupts: Arc<Interrupts>,
) -> Result<build::Options, Failure> {
    let pairs = |flag: &str, texts: &[String]| {
        texts.iter().map(|text| flags::pair(flag, text)).collect::<Result<Vec<_>, _>>()
    };
    let (directories, _) = flags::split_contexts(&args.build_context);
    Ok(build::Options {
        context: place.context.clone(),
        contexts: flags::contexts(&directories)?,
        tag: args.tag.first().cloned(),
        no_cache: args.no_cache,
        cache_from: flags::repositories("cache-from", &args.cache_from)?,
        cache_to: flags::repositories("cache-to", &args.cache_to)?,
        explain: args.explain,
        origin: place.origin.clone(),
        compression: args.compression,
        isolation: args.isolation.into(),
        timestamp: args.timestamp.map(time),
        target,
        world: flags::world(args)?,
        limits: flags::limits(args)?,
        labels: pairs("label", &args.label)?,
        annotations: pairs("annotation", &args.annotation)?.into_iter().collect(),
        image_type: args.image_type.into(),
        collecting: None,
        cluster: None,
        squash: args.squash,
        without_base: !args.base,
        secrets: flags::secrets(&args.secret)?,
        ssh: flags::agents(&args.ssh)?,
        reading,
        interrupts,
    })
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
    let (directories, images) = flags::split_contexts(&args.build_context);
    let name = |(name, _): (&str, &str)| name.to_ascii_lowercase();
    let build_args: Vec<Option<(String, String)>> =
        args.build_arg.iter().map(pair).collect::<Result<_, _>>()?;
    Ok(plan::Options {
        build_args: build_args.into_iter().flatten().collect(),
        copy_rule: args.copy_semantics.map(CopyRule::from),
        target: target.clone(),
        build: host(),
        stage: args.target.clone(),
        contexts: directories.iter().filter_map(|text| text.split_once('=')).map(name).collect(),
        images,
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

impl From<ImageTypeArg> for ImageType {
    fn from(arg: ImageTypeArg) -> Self {
        match arg {
            ImageTypeArg::KubeInstaller => Self::KubeInstaller,
            ImageTypeArg::AppInstaller => Self::AppInstaller,
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
