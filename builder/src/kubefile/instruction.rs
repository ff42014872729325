//! The instructions. The doc comment of each type is its grammar, so this file is also the
//! language reference. Grammar: `[x]` optional, `...` repeated, `|` or.

mod cluster;
mod mount;

use std::time::Duration;

pub use cluster::{App, AppCmds, AppEnv, AppSource, Cmds, KubeVersion, Launch};
pub use mount::{
    BindMount, CacheMount, FileMount, Mount, MountError, MountOptions, Sharing, TmpfsMount,
};

use super::Keyword;

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Files of the context, or from elsewhere, into the image.
    Add(Add),
    /// An application of a cluster image.
    App(App),
    /// How an application is started.
    AppCmds(AppCmds),
    /// Environment of an application.
    AppEnv(AppEnv),
    /// Declares a build argument.
    Arg(Arg),
    /// What a container or cluster starts with.
    Cmd(Cmd),
    /// What a cluster image starts with.
    Cmds(Cmds),
    /// An application that is a network plugin.
    Cni(App),
    /// Files of the context into the image.
    Copy(Copy),
    /// An application that is a storage plugin.
    Csi(App),
    /// What stands before CMD.
    Entrypoint(Entrypoint),
    /// Environment.
    Env(Env),
    /// Ports.
    Expose(Expose),
    /// The base image; begins a stage.
    From(From),
    /// How it is found out whether a container works.
    Healthcheck(Healthcheck),
    /// The Kubernetes versions that an image is for.
    KubeVersion(KubeVersion),
    /// Labels.
    Label(Label),
    /// The applications that a cluster image starts with.
    Launch(Launch),
    /// The author.
    Maintainer(Maintainer),
    /// An instruction for images that begin with this one.
    Onbuild(Onbuild),
    /// A command on the root file system.
    Run(Run),
    /// What runs shell forms.
    Shell(Shell),
    /// How a container is stopped.
    StopSignal(StopSignal),
    /// Who a container runs as.
    User(User),
    /// Directories with data.
    Volume(Volume),
    /// The current directory.
    Workdir(Workdir),
}

impl Instruction {
    /// The word it begins with.
    pub const fn keyword(&self) -> Keyword {
        match self {
            Self::Add(_) => Keyword::Add,
            Self::App(_) => Keyword::App,
            Self::AppCmds(_) => Keyword::Appcmds,
            Self::AppEnv(_) => Keyword::Appenv,
            Self::Arg(_) => Keyword::Arg,
            Self::Cmd(_) => Keyword::Cmd,
            Self::Cmds(_) => Keyword::Cmds,
            Self::Cni(_) => Keyword::Cni,
            Self::Copy(_) => Keyword::Copy,
            Self::Csi(_) => Keyword::Csi,
            Self::Entrypoint(_) => Keyword::Entrypoint,
            Self::Env(_) => Keyword::Env,
            Self::Expose(_) => Keyword::Expose,
            Self::From(_) => Keyword::From,
            Self::Healthcheck(_) => Keyword::Healthcheck,
            Self::KubeVersion(_) => Keyword::Kubeversion,
            Self::Label(_) => Keyword::Label,
            Self::Launch(_) => Keyword::Launch,
            Self::Maintainer(_) => Keyword::Maintainer,
            Self::Onbuild(_) => Keyword::Onbuild,
            Self::Run(_) => Keyword::Run,
            Self::Shell(_) => Keyword::Shell,
            Self::StopSignal(_) => Keyword::Stopsignal,
            Self::User(_) => Keyword::User,
            Self::Volume(_) => Keyword::Volume,
            Self::Workdir(_) => Keyword::Workdir,
        }
    }
}

/// A name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Left of `=`.
    pub key: String,
    /// Right of it.
    pub value: String,
}

/// How a command is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Plain text, for a shell.
    Shell(String),
    /// A JSON array of strings.
    Exec(Vec<String>),
}

/// Lines between `<<NAME` and `NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it; for COPY also the name of the file.
    pub name: String,
    /// The lines with their line ends; without leading tabs if it was `<<-`.
    pub content: String,
    /// Whether variables in it are expanded: no part of the name was quoted.
    pub expand: bool,
}

/// `ADD [--keep-git-dir] [--checksum=DIGEST] [--unpack[=BOOL]] [FLAGS OF COPY] SOURCE... DEST`
///
/// A source may also be a URL or a git repository. A local archive is unpacked unless
/// `--unpack=false`; one from a URL only with `--unpack`. There is no `--from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// What it has in common with COPY; `from` is none.
    pub files: Copy,
    /// A git repository keeps its `.git`.
    pub keep_git_dir: bool,
    /// `sha256:HEX` of what is fetched from a URL, or the commit of a git repository.
    pub checksum: Option<String>,
    /// Whether archives are unpacked; none for the default of their kind of source.
    pub unpack: Option<bool>,
}

/// `ARG NAME[=DEFAULT]...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Names and defaults, at least one.
    pub args: Vec<(String, Option<String>)>,
}

/// `CMD TEXT | CMD ["ELEMENT"...]`
///
/// In a Dockerfile elements are arguments, text is run by the shell, and the last CMD wins. In a
/// Kubefile each element, and each plain line as a whole, is a shell line; all CMDs take effect in
/// order. Text is never split on commas. See [`crate::config`] for how they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    /// What to start.
    pub command: Command,
}

/// `COPY [FLAGS] SOURCE... DEST | COPY [FLAGS] ["SOURCE"..., "DEST"]`, where FLAGS are
/// `[--from=STAGE|IMAGE] [--chown=USER[:GROUP]] [--chmod=MODE] [--link[=BOOL]]
/// [--parents[=BOOL]] [--exclude=PATTERN]...`
///
/// A source is a path or pattern in the context, or `<<NAME`: the heredoc below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Where sources are taken from instead of the context: a stage's name or number, a named
    /// context, or an image.
    pub from: Option<String>,
    /// Owner, names or numbers; root without.
    pub chown: Option<String>,
    /// Permission bits; those of the source without.
    pub chmod: Option<String>,
    /// The layer shall not depend on what is below it.
    pub link: bool,
    /// Sources keep their parent directories, from a `/./` in them on.
    pub parents: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// At least one.
    pub sources: Vec<Source>,
    /// A path in the image, relative to WORKDIR.
    pub dest: String,
}

/// What COPY copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern in the context, or a URL.
    Path(String),
    /// A file whose content stands in the build file.
    Inline(Heredoc),
}

/// `ENTRYPOINT TEXT | ENTRYPOINT ["ELEMENT"...]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrypoint {
    /// What to start.
    pub command: Command,
}

/// `ENV NAME=VALUE... | ENV NAME VALUE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    /// At least one.
    pub pairs: Vec<Pair>,
}

/// `EXPOSE PORT[-PORT][/tcp|/udp|/sctp]...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expose {
    /// As written.
    pub ports: Vec<String>,
}

/// `FROM [--platform=PLATFORM] IMAGE [AS NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    /// `os/arch[/variant]`.
    pub platform: Option<String>,
    /// An image's name, or `scratch`.
    pub image: String,
    /// The stage's name, in lower case.
    pub name: Option<String>,
}

/// `HEALTHCHECK NONE | HEALTHCHECK [FLAGS] CMD TEXT | HEALTHCHECK [FLAGS] CMD ["ARGUMENT"...]`,
/// where FLAGS are `[--interval=DURATION] [--timeout=DURATION] [--start-period=DURATION]
/// [--start-interval=DURATION] [--retries=NUMBER]`
///
/// Durations are Go's: `1h30m`, `1.5s`, `200ms`. What is none is left to what runs the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// There is none, also if the base has one.
    None,
    /// A command is run in the container.
    Check(HealthCommand),
}

/// The command of a [`Healthcheck`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCommand {
    /// What to run.
    pub command: Command,
    /// Time between two runs.
    pub interval: Option<Duration>,
    /// Time after which a run has failed.
    pub timeout: Option<Duration>,
    /// Time at the start in which failures do not count.
    pub start_period: Option<Duration>,
    /// Time between two runs in that time.
    pub start_interval: Option<Duration>,
    /// Failures in a row that make the container unhealthy.
    pub retries: Option<u32>,
}

/// `LABEL KEY=VALUE... | LABEL KEY VALUE`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// At least one.
    pub pairs: Vec<Pair>,
}

/// `MAINTAINER TEXT`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintainer {
    /// The author.
    pub name: String,
}

/// `ONBUILD INSTRUCTION`
///
/// Not FROM, MAINTAINER or ONBUILD, nor a word that only Kubefiles know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onbuild {
    /// As the image keeps it: continuations joined, heredoc bodies included.
    pub text: String,
    /// What it says.
    pub instruction: Box<Instruction>,
}

/// `RUN [FLAGS] TEXT | RUN [FLAGS] ["ARGUMENT"...] | RUN [FLAGS] <<NAME`, where FLAGS are
/// `[--mount=OPTION,...]... [--network=default|none|host] [--security=sandbox|insecure]`
///
/// A heredoc alone is the script; one beside other words is the shell's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What to run; the shell expands its variables.
    pub command: Command,
    /// A heredoc that begins with `#!`: while the command runs, which then is the path of this
    /// file alone, it is at `/dev/pipes/NAME` with mode 0755.
    pub script: Option<Heredoc>,
    /// What is mounted while it runs.
    pub mounts: Vec<MountOptions>,
    /// What network it sees.
    pub network: Network,
    /// What it may do.
    pub security: Security,
}

/// `RUN --network=`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// What the builder gives.
    #[default]
    Default,
    /// No network but its own loopback.
    None,
    /// The host's.
    Host,
}

/// `RUN --security=`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// Shut in.
    #[default]
    Sandbox,
    /// With all privileges.
    Insecure,
}

/// `SHELL ["ARGUMENT"...]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shell {
    /// What shell forms are handed to as the last argument; not empty.
    pub arguments: Vec<String>,
}

/// `STOPSIGNAL NAME|NUMBER`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopSignal {
    /// As written.
    pub signal: String,
}

/// `USER USER[:GROUP]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Names or numbers.
    pub user: String,
}

/// `VOLUME PATH... | VOLUME ["PATH"...]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// At least one, none empty.
    pub paths: Vec<String>,
}

/// `WORKDIR PATH`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workdir {
    /// Relative to the WORKDIR before.
    pub path: String,
}
