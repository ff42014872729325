//! The instructions. The doc comment of each type is its grammar, so this file is also the
//! language reference. Grammar: `[x]` optional, `...` repeated, `|` or.

use std::fmt;

/// Every word that may begin a line, also those that this version does not build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyword {
    /// `ADD`, not yet supported.
    Add,
    /// `APP`, not yet supported.
    App,
    /// `APPCMDS`, not yet supported.
    Appcmds,
    /// `APPENV`, not yet supported.
    Appenv,
    /// See [`Arg`].
    Arg,
    /// See [`Cmd`].
    Cmd,
    /// `CMDS`, not yet supported.
    Cmds,
    /// `CNI`, not yet supported.
    Cni,
    /// See [`Copy`](struct@Copy).
    Copy,
    /// `CSI`, not yet supported.
    Csi,
    /// See [`Entrypoint`].
    Entrypoint,
    /// See [`Env`].
    Env,
    /// See [`Expose`].
    Expose,
    /// See [`From`].
    From,
    /// `HEALTHCHECK`, not yet supported.
    Healthcheck,
    /// `KUBEVERSION`, not yet supported.
    Kubeversion,
    /// See [`Label`].
    Label,
    /// `LAUNCH`, not yet supported.
    Launch,
    /// See [`Maintainer`].
    Maintainer,
    /// `ONBUILD`, not yet supported.
    Onbuild,
    /// See [`Run`].
    Run,
    /// See [`Shell`].
    Shell,
    /// See [`StopSignal`].
    Stopsignal,
    /// See [`User`].
    User,
    /// See [`Volume`].
    Volume,
    /// See [`Workdir`].
    Workdir,
}

impl Keyword {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Add,
        Self::App,
        Self::Appcmds,
        Self::Appenv,
        Self::Arg,
        Self::Cmd,
        Self::Cmds,
        Self::Cni,
        Self::Copy,
        Self::Csi,
        Self::Entrypoint,
        Self::Env,
        Self::Expose,
        Self::From,
        Self::Healthcheck,
        Self::Kubeversion,
        Self::Label,
        Self::Launch,
        Self::Maintainer,
        Self::Onbuild,
        Self::Run,
        Self::Shell,
        Self::Stopsignal,
        Self::User,
        Self::Volume,
        Self::Workdir,
    ];

    /// The word in upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::App => "APP",
            Self::Appcmds => "APPCMDS",
            Self::Appenv => "APPENV",
            Self::Arg => "ARG",
            Self::Cmd => "CMD",
            Self::Cmds => "CMDS",
            Self::Cni => "CNI",
            Self::Copy => "COPY",
            Self::Csi => "CSI",
            Self::Entrypoint => "ENTRYPOINT",
            Self::Env => "ENV",
            Self::Expose => "EXPOSE",
            Self::From => "FROM",
            Self::Healthcheck => "HEALTHCHECK",
            Self::Kubeversion => "KUBEVERSION",
            Self::Label => "LABEL",
            Self::Launch => "LAUNCH",
            Self::Maintainer => "MAINTAINER",
            Self::Onbuild => "ONBUILD",
            Self::Run => "RUN",
            Self::Shell => "SHELL",
            Self::Stopsignal => "STOPSIGNAL",
            Self::User => "USER",
            Self::Volume => "VOLUME",
            Self::Workdir => "WORKDIR",
        }
    }

    /// The keyword with this name, in any letter case.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|keyword| keyword.as_str().eq_ignore_ascii_case(word))
    }
}

impl fmt::Display for Keyword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An instruction that this version builds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instruction {
    /// Declares a build argument.
    Arg(Arg),
    /// What a container or cluster starts with.
    Cmd(Cmd),
    /// Files of the context into the image.
    Copy(Copy),
    /// What stands before CMD.
    Entrypoint(Entrypoint),
    /// Environment.
    Env(Env),
    /// Ports.
    Expose(Expose),
    /// The base image; begins a stage.
    From(From),
    /// Labels.
    Label(Label),
    /// The author.
    Maintainer(Maintainer),
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
            Self::Arg(_) => Keyword::Arg,
            Self::Cmd(_) => Keyword::Cmd,
            Self::Copy(_) => Keyword::Copy,
            Self::Entrypoint(_) => Keyword::Entrypoint,
            Self::Env(_) => Keyword::Env,
            Self::Expose(_) => Keyword::Expose,
            Self::From(_) => Keyword::From,
            Self::Label(_) => Keyword::Label,
            Self::Maintainer(_) => Keyword::Maintainer,
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

/// `COPY [--chown=USER[:GROUP]] [--chmod=OCTAL] SOURCE... DEST | COPY [FLAGS] ["SOURCE"..., "DEST"]`
///
/// A source is a path or pattern in the context, or `<<NAME`: the heredoc below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Owner, names or numbers; root without.
    pub chown: Option<String>,
    /// Permission bits in octal; those of the source without.
    pub chmod: Option<String>,
    /// At least one.
    pub sources: Vec<Source>,
    /// A path in the image, relative to WORKDIR.
    pub dest: String,
}

/// What COPY copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path or pattern in the context.
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

/// `RUN TEXT | RUN ["ARGUMENT"...] | RUN <<NAME`
///
/// A heredoc alone is the script; one beside other words is the shell's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What to run; the shell expands its variables.
    pub command: Command,
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
