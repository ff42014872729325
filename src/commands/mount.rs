//! `kfs mount`, and the hidden `kfs __supervise` and `kfs __serve` that it starts

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use clap::ValueEnum as _;
use kfs_fs::filesystem::ImageFs;
use kfs_fs::mount::{self, Access, LogFile, MountError, Mounts, Pending, Request, Server, State};
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::registry::Counters;
use kfs_fs::oci::store::Part;
use kfs_fs::oci::{self, Image};
use kfs_fs::trace::Traces;
use kfs_measure::clock;

use super::{Context, print_json};
use crate::finding::FindArgs;
use crate::look::open_fs;
use crate::report::Failure;
use crate::table::size;
use crate::warnings;

/// Mount an image
///
/// Nothing is unpacked: what is read is fetched and verified when it is read. A server in the
/// background answers until the umount, by `kfs umount DIR` or a plain `umount DIR`; if it is
/// killed, another takes its place and readers notice a pause.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  kfs mount debian:12 /mnt && ls /mnt && kfs umount /mnt")]
pub(crate) struct Args {
    /// Image of the store, or oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE
    image: Source,

    /// An empty directory
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,

    /// Mount writable; the changes are dropped at umount
    #[arg(long)]
    rw: bool,

    /// Mount writable and keep the changes in DIR
    #[arg(long, value_name = "DIR")]
    upper: Option<PathBuf>,

    /// Stay in the foreground until the umount or Ctrl-C
    #[arg(long, short)]
    foreground: bool,

    /// Print when the image was found and when it was indexed, in microseconds of CLOCK_MONOTONIC:
    /// for `kfs bench`
    #[arg(long, hide = true)]
    timings: bool,

    #[command(flatten)]
    serving: ServingArgs,
}

/// How a mount is served.
#[derive(Clone, Debug, clap::Args)]
struct ServingArgs {
    /// What to fetch before it is read: what the last run of the image read first, or all
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    prefetch: Prefetch,

    /// Let the kernel read files of 1 MiB and more without the server once they are whole in the
    /// cache; each open of a file then takes longer (root only)
    #[arg(long)]
    passthrough: bool,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Prefetch {
    /// Nothing, and record nothing
    Off,
    /// What the last run read first; the first time, what the image has in front for that, and what
    /// most programs need to start
    #[default]
    Trace,
    /// All, as far as there is room
    All,
}

impl ServingArgs {
    fn to_args(&self) -> Vec<OsString> {
        let prefetch = self.prefetch.to_possible_value().expect("no value is hidden");
        let mut args = vec!["--prefetch".into(), prefetch.get_name().into()];
        args.extend(self.passthrough.then(|| "--passthrough".into()));
        args.extend(self.find.to_args());
        args
    }
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    if args.foreground {
        log_to(io::stderr);
    } else if !context.quiet {
        warnings::show();
    }
    let context = &context.finding(&args.serving.find);
    let access = match (args.upper, args.rw) {
        (Some(upper), _) => Access::Upper(upper),
        (None, true) => Access::Scratch,
        (None, false) => Access::ReadOnly,
    };
    let store = context.store_to_open()?;
    // From the choice of the image until the mount's own lock holds it, no `rmi` takes it away.
    let writer = store.writer()?;
    let image = oci::open(&args.image, &store)?;
    let found = clock::now();
    let source = absolute(args.image)?.to_string();
    let pending = Mounts::new(&context.root).prepare(Request {
        image: source.clone(),
        manifest_digest: image.digest,
        mountpoint: args.mountpoint,
        access,
    })?;
    drop(writer);
    // The servers map the indexes; here they are made.
    drop(open_fs(&image, &store.dir(Part::Indexes), context)?);
    if args.timings {
        print_json(&serde_json::json!({ "found": found, "indexed": clock::now() }))?;
    }
    tell_fetched(&image.name, context);
    if args.foreground {
        let id = pending.state().id.clone();
        let server = |program: &Path| {
            let mut server = command(program, "__serve", context, &id, &source, &args.serving);
            server.arg("--log-to-stderr");
            server
        };
        pending.supervise(&server, |state| {
            announce(state, context);
            Ok(())
        })?;
    } else {
        let program = std::env::current_exe()
            .map_err(|error| Failure::new(format!("find the kfs program: {error}")))?;
        let id = &pending.state().id;
        let supervisor = command(&program, "__supervise", context, id, &source, &args.serving);
        announce(&pending.start(supervisor)?, context);
    }
    Ok(())
}

/// This program, or another version of it, as supervisor or server of a mount.
fn command(
    program: &Path,
    what: &str,
    context: &Context,
    id: &str,
    image: &str,
    serving: &ServingArgs,
) -> Command {
    let mut command = Command::new(program);
    // The program may be run by way of a link; lists of processes show the first argument.
    command.arg0("kfs").arg("--root").arg(&context.root).arg(what);
    command.args(serving.to_args()).args([id, image]);
    command
}

/// The source for a process in another directory.
pub(crate) fn absolute(source: Source) -> Result<Source, Failure> {
    let path = |path: PathBuf| {
        std::path::absolute(&path)
            .map_err(|error| Failure::new(format!("image {}: {error}", path.display())))
    };
    Ok(match source {
        Source::Store(name) => Source::Store(name),
        Source::Registry(name) => Source::Registry(name),
        Source::Layout { dir, tag } => Source::Layout { dir: path(dir)?, tag },
        Source::OciArchive { file, tag } => Source::OciArchive { file: path(file)?, tag },
        Source::DockerArchive { file, tag } => Source::DockerArchive { file: path(file)?, tag },
    })
}

fn announce(state: &State, context: &Context) {
    let how = if state.rw { " read-write" } else { "" };
    context.say(&format!("{} is mounted{how} at {}", state.image, state.mountpoint.display()));
}

/// What the mount took from the network before anything was read.
fn tell_fetched(image: &str, context: &Context) {
    let Counters { requests, bytes, .. } = context.fetched();
    let requests = match requests {
        0 => return,
        1 => "1 request".to_owned(),
        _ => format!("{requests} requests"),
    };
    let about = size(bytes);
    context.say(&format!("Fetched {about} ({bytes} bytes, {requests}) to mount {image}"));
}

/// Supervise, or serve, a mount that `kfs mount` prepared
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// The mount's id
    id: String,

    /// The image as the user named it, with absolute paths
    image: Source,

    /// Log there, and not to the mount's log
    #[arg(long)]
    log_to_stderr: bool,

    #[command(flatten)]
    serving: ServingArgs,
}

/// The process in the background. Until the mount answers, what goes wrong is told to the parent.
pub(crate) fn supervise(args: &ServeArgs, context: &Context) -> Result<(), Failure> {
    let pending = Pending::adopt(&Mounts::new(&context.root), &args.id)?;
    log_to(Mutex::new(LogFile::open(&pending.log_path()).map_err(MountError::from)?));
    let image = args.image.to_string();
    let server =
        |program: &Path| command(program, "__serve", context, &args.id, &image, &args.serving);
    let mut ready = false;
    let result = pending.supervise(&server, |state| {
        mount::report_ready(state)?;
        ready = true;
        Ok(())
    });
    match result {
        Err(error) if !ready => mount::report_failure(Failure::from(error).into())
            .map_err(|error| Failure::new(format!("answer the parent: {error}"))),
        result => Ok(result?),
    }
}

/// The process that answers the kernel. What goes wrong is told to the supervisor.
pub(crate) fn serve(args: &ServeArgs, context: &Context) -> Result<(), Failure> {
    let server = Server::adopt(&Mounts::new(&context.root), &args.id)?;
    if args.log_to_stderr {
        log_to(io::stderr);
    } else {
        log_to(Mutex::new(LogFile::open(&server.log_path()).map_err(MountError::from)?));
    }
    let reporter = server
        .reporter()
        .map_err(|error| Failure::new(format!("the supervisor's socket: {error}")))?;
    serve_mount(server, args, context).or_else(|failure| {
        tracing::error!("{failure}");
        Ok(reporter.failed(failure.into())?)
    })
}

fn serve_mount(server: Server, args: &ServeArgs, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.serving.find);
    let store = context.store_to_read();
    // Whatever the name means by now, this is what is mounted.
    let image = oci::open_manifest(&args.image, server.state().manifest_digest, &store)?;
    let fs = open_fs(&image, &store.dir(Part::Indexes), context)?;
    let traces = Traces::new(&store.dir(Part::Traces));
    prefetch(&fs, args.serving.prefetch, &traces, &image);
    let traces = (args.serving.prefetch != Prefetch::Off).then_some(traces);
    server.serve(fs, traces, args.serving.passthrough)?;
    Ok(())
}

/// Whatever goes wrong with it is no reason not to serve.
fn prefetch(fs: &ImageFs, what: Prefetch, traces: &Traces, image: &Image) {
    if what == Prefetch::Off || !fs.is_remote() {
        return;
    }
    let known = traces.load(image.digest).map_err(Failure::from);
    let ahead = known.and_then(|trace| match trace {
        Some(trace) => Ok(fs.fetch_ahead(&trace.entries)?),
        None => {
            Ok(fs.fetch_first() && fs.fetch_ahead(&fs.likely_first_reads(&image.config.config)?)?)
        }
    });
    let kept = match ahead {
        Ok(kept) => kept && (what != Prefetch::All || fs.fetch_all()),
        Err(failure) => return tracing::warn!("nothing is fetched ahead: {failure}"),
    };
    if !kept {
        tracing::info!("nothing is fetched ahead: there is no place for it");
    }
}

fn log_to<W>(writer: W)
where
    W: for<'a> tracing_subscriber::fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    // A disk that is too full for the log is no reason to die, as the default way to tell that
    // would: standard error lies on the same disk.
    let log = tracing_subscriber::fmt().with_ansi(false).with_target(false);
    log.with_writer(writer).log_internal_errors(false).init();
}
