//! `kfs run`

mod shown;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kfs_builder::cluster::extension::Extension;
use kfs_builder::cluster::files::Files;
use kfs_builder::cluster::launch::{Launch, Request, Variables};
use kfs_builder::cluster::run::{self, Event, Failed, NewFile};
use kfs_builder::cluster::template::{self, Rendered, TemplateError};
use kfs_builder::exec::{Isolation, Sandbox, Status};
use kfs_builder::interrupt::Interrupts;
use kfs_fs::filesystem::ImageFs;
use kfs_fs::oci;
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::store::{Part, Store};

use super::{Context, Out, kubeconfig};
use crate::finding::FindArgs;
use crate::look::open_fs;
use crate::report::{Failure, USAGE};
use shown::{How, Tools};

/// Variables of this machine that the commands see: who and where they are, and how they reach the
/// network. Their values do not depend on what the user happens to have set for something else.
const INHERITED: [&str; 14] = [
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TERM",
    "TZ",
    "SSH_AUTH_SOCK",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// How long a command may take to end by itself when the run is interrupted, as with `docker stop`:
/// helm takes back what it has begun.
const GRACE: Duration = Duration::from_secs(10);

/// Launch a cluster image or its applications on the current cluster
///
/// Mounts the image, fills in its templates (*.tmpl in etc/, charts/, manifests/, scripts/ and
/// application/apps/) and runs what it launches, in its root file system: the applications of
/// LAUNCH, else the commands of CMDS or CMD, else those of ENTRYPOINT and CMD as sealos has them.
/// The first one that fails ends the run. A signal (Ctrl-C) asks the command that runs to end, and
/// ends it 10 seconds later; a second one ends all at once. What is written to the file system of
/// the image is dropped at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs run my-apps:v1
  kfs run my-apps:v1 --app mysql -e PASSWORD=secret --values mysql=values.yaml
  kfs run my-apps:v1 --dry-run

Exit code: that of the command that failed; without one, as of all kfs commands.")]
pub(crate) struct Args {
    /// The image
    image: Source,

    /// An application to launch instead of those of the image, in the order given
    #[arg(long, value_name = "NAME", conflicts_with = "cmd")]
    app: Vec<String>,

    /// A shell command to run instead of the image's CMDS or CMD, in the order given
    #[arg(long, value_name = "COMMAND")]
    cmd: Vec<String>,

    /// A variable for templates and commands; without =VALUE it is taken from the environment
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Values for the Helm chart of an application
    #[arg(long, value_name = "APP=FILE")]
    values: Vec<String>,

    /// How to reach the cluster [default: $KUBECONFIG, ~/.kube/config, or kubeadm's or k3s's]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// What the commands may change on this machine
    #[arg(long, value_enum, default_value_t)]
    isolation: IsolationArg,

    /// Print what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,

    /// How to print what would be run
    #[arg(long, value_enum, default_value_t, requires = "dry_run")]
    format: shown::Format,

    #[command(flatten)]
    find: FindArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum IsolationArg {
    /// Nothing but the file system of the image
    #[default]
    Host,
    /// All that the user may: for images that install something here
    None,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let (request, mut files) = request(args)?;
    let store = context.store()?;
    let image = oci::open(&args.image, &store)?;
    let extension = Extension::read(&image.manifest.annotations)?;
    let fs = open_fs(&image, &store.dir(Part::Indexes), context)?;
    let has_shell = Files::Image(&fs).is_file("bin/sh")?;
    let launch = Launch::plan(&image.config.config, extension.as_ref(), has_shell, &request)?;
    for name in &launch.unknown {
        context.say(&format!("$({name}) is empty: the image has no such variable; set it with -e"));
    }
    let rendered = render(&fs, &launch)?;
    let options = options(args);
    if args.dry_run {
        let tools = if has_shell { Tools::MachineFirst } else { Tools::RootfsFirst };
        let how = How { format: args.format, tools, values: &args.values };
        return shown::show(how, &args.image, &launch, &rendered, &options);
    }
    files.extend(rendered.into_iter().map(new_file));
    execute(fs, &store, &launch, &files, &options, (context, has_shell))
}

/// What the options ask for, and the files with values.
fn request(args: &Args) -> Result<(Request, Vec<NewFile>), Failure> {
    let wrong = |text: String| Failure::new(text).code(USAGE);
    let mut env = Variables::new();
    for text in &args.env {
        let pair = match text.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            // As docker: not set in the environment means not given.
            None => std::env::var(text).ok().map(|value| (text.clone(), value)),
        };
        env.extend(pair);
    }
    let (apps, commands) = (args.app.clone(), args.cmd.clone());
    let mut request = Request { apps, commands, env, ..Request::default() };
    let mut files = Vec::new();
    for text in &args.values {
        let (app, file) = text
            .split_once('=')
            .ok_or_else(|| wrong(format!("--values {text}: it is not of the form APP=FILE")))?;
        let failed = |error: &dyn std::fmt::Display| Failure::new(format!("--values {error}"));
        let content = std::fs::read(file).map_err(|error| failed(&format!("{file}: {error}")))?;
        kfs_charts::parse_values(file, &content).map_err(|error| failed(&error))?;
        let path = run::values_path(files.len() + 1);
        request.values.entry(app.to_owned()).or_default().push(path.clone());
        files.push(NewFile { path, content, mode: 0o600 });
    }
    Ok((request, files))
}

/// Fills in the templates; a signal ends that as it ends any program, as nothing is mounted yet.
fn render(fs: &ImageFs, launch: &Launch) -> Result<Vec<Rendered>, TemplateError> {
    template::render(&Files::Image(fs), &launch.env, &launch.app_env)
}

fn new_file(rendered: Rendered) -> NewFile {
    let path = rendered.path().to_owned();
    NewFile { path, content: rendered.content, mode: rendered.mode }
}

fn options(args: &Args) -> run::Options {
    let variable = |name: &&str| Some(((*name).to_owned(), std::env::var(name).ok()?));
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    run::Options {
        isolation: match args.isolation {
            IsolationArg::Host => Isolation::Host,
            IsolationArg::None => Isolation::None,
        },
        inherited: INHERITED.iter().filter_map(variable).collect(),
        kubeconfig: kubeconfig::files(args.kubeconfig.as_deref()),
        hostname: hostname.to_string_lossy().into_owned(),
        interrupts: Arc::new(Interrupts::default()),
    }
}

fn execute(
    fs: ImageFs,
    store: &Store,
    launch: &Launch,
    files: &[NewFile],
    options: &run::Options,
    (context, has_shell): (&Context, bool),
) -> Result<(), Failure> {
    // Programs of a file system with a shell are for a container: they need its libraries.
    let sandbox = Sandbox::new().rootfs_first(!has_shell).grace(GRACE);
    let sandbox = sandbox.interrupts(options.interrupts.clone());
    let sandbox = match std::env::var_os("PATH") {
        Some(path) => sandbox.host_path(path),
        None => sandbox,
    };
    let mut out = Out::new();
    let mut unwritten = None;
    let mut report = |event: Event<'_>| match event {
        Event::Step(number, step) => {
            let of = step.application.iter().map(|app| format!("{app}: ")).collect::<String>();
            context.say(&format!("[{number}/{}] {of}{}", launch.steps.len(), step.command));
        }
        Event::Output(line) => {
            let written = out.write_all(line).and_then(|()| out.write_all(b"\n"));
            unwritten = written.and_then(|()| out.flush()).err().or(unwritten.take());
        }
    };
    let failed = run::run(Arc::new(fs), store, launch, files, options, &sandbox, &mut report)?;
    if let Some(failed) = failed {
        return Err(failure(&failed, launch, options.isolation));
    }
    unwritten.map_or(Ok(()), |error| Err(error.into()))
}

fn failure(failed: &Failed, launch: &Launch, isolation: Isolation) -> Failure {
    let (number, count) = (failed.number, launch.steps.len());
    let command = &launch.steps[number - 1].command;
    let status = failed.outcome.status;
    let code = match status {
        Status::Exited(code) => code,
        Status::Signaled(signal) => 128 + signal,
    };
    let failure =
        Failure::new(format!("command {number} of {count} failed with {status}: {command}"))
            .code(u8::try_from(code).unwrap_or(1));
    let read_only = |line: &String| line.contains("Read-only file system");
    if isolation == Isolation::Host && failed.outcome.tail.iter().any(read_only) {
        return failure
            .hint("an image that installs something on this machine needs --isolation none");
    }
    failure
}
