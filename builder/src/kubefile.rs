//! The language of Kubefiles and Dockerfiles: text in, typed instructions out.
//!
//! ```text
//! bytes --lexer--> logical lines --parser--> statements --plan--> steps (variables expanded)
//! ```
//!
//! One module reads both dialects; what differs between them is where a [`Dialect`] is asked for.
//! Nothing here does IO, prints, or reads the environment. Every error names file and lines.

mod error;
pub mod expand;
mod instruction;
mod keyword;
mod lexer;
pub mod lint;
mod parser;
mod words;

use std::fmt;
use std::sync::Arc;

pub(crate) use error::write_source;
pub use error::{KubefileError, Mark, Problem};
pub use instruction::{
    Add, App, AppCmds, AppEnv, AppSource, Arg, BindMount, CacheMount, Cmd, Cmds, Command, Copy,
    Entrypoint, Env, Expose, FileMount, From, HealthCommand, Healthcheck, Heredoc, Instruction,
    KubeVersion, Label, Launch, Maintainer, Mount, MountError, MountOptions, Network, Onbuild,
    Pair, Run, Security, Sharing, Shell, Source, StopSignal, TmpfsMount, User, Volume, Workdir,
};
pub use keyword::Keyword;
pub use lint::Rule;

/// Build files larger than this are refused, in bytes. The largest of 4,000 real ones has 60 KB.
pub const MAX_FILE: usize = 1 << 20;

/// Whose rules a build file follows.
///
/// What differs:
///
/// | | Kubefile | Dockerfile |
/// |---|---|---|
/// | COPY, unless `# copy=...` says | [`CopyRule::Kubefile`] | [`CopyRule::Docker`] |
/// | several CMD lines | all take effect, in order | the last wins |
/// | CMD, ENTRYPOINT elements | shell lines | arguments |
/// | APP, APPCMDS, APPENV, CNI, CSI, LAUNCH, CMDS, KUBEVERSION | known | unknown |
/// | variables in CMD | `$X` of a declared ARG is expanded | never expanded |
/// | `${ARCH}` in COPY | the target architecture | as any name |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The documents of Sealer and Sealos.
    Kubefile,
    /// The Dockerfile reference.
    Dockerfile,
}

impl Dialect {
    /// The dialect of a file with this base name: Kubefile if the name holds `kubefile` or
    /// `sealfile` in any case, Dockerfile else.
    pub fn of_file_name(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        if name.contains("kubefile") || name.contains("sealfile") {
            Self::Kubefile
        } else {
            Self::Dockerfile
        }
    }

    /// The COPY rule that holds when the file and the user say nothing.
    pub const fn copy_rule(self) -> CopyRule {
        match self {
            Self::Kubefile => CopyRule::Kubefile,
            Self::Dockerfile => CopyRule::Docker,
        }
    }
}

/// Where a COPY puts its sources; see [`crate::copy`] for the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyRule {
    /// As Docker: a directory source means its contents, a destination may be a file's new name.
    Docker,
    /// As the Kubefile documents: the destination is a directory, sources keep their names.
    Kubefile,
}

impl CopyRule {
    /// The other rule.
    pub const fn other(self) -> Self {
        match self {
            Self::Docker => Self::Kubefile,
            Self::Kubefile => Self::Docker,
        }
    }
}

impl fmt::Display for CopyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Kubefile => "kubefile",
        })
    }
}

/// Lines of a build file, kept for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// First line, from 1.
    pub first: usize,
    /// Last line, not before `first`.
    pub last: usize,
    /// The lines as they stand in the file, without line ends.
    pub lines: Arc<[String]>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.first)
    }
}

/// An instruction and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its lines.
    pub location: Location,
    /// The instruction as one line: keyword in upper case, continuations joined, comments gone,
    /// variables not expanded, heredoc bodies left out. For progress and history.
    pub text: String,
    /// What it says.
    pub instruction: Instruction,
}

/// Something that is probably not meant, but allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What kind of thing.
    pub rule: Rule,
    /// Where; none if it is about the command line.
    pub location: Option<Location>,
    /// What, lower-case.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.location {
            Some(location) => write!(f, "{location}: {}", self.message)?,
            None => f.write_str(&self.message)?,
        }
        write!(f, " [{}]", self.rule)
    }
}

/// A build file, parsed; variables are not yet expanded.
#[derive(Clone, Debug)]
pub struct Kubefile {
    /// As the user named it.
    pub name: Arc<str>,
    /// Whose rules it follows.
    pub dialect: Dialect,
    /// What escapes: `\`, or a backtick after `# escape=`.
    pub escape: char,
    /// From `# copy=` at its head, if it says.
    pub copy_rule: Option<CopyRule>,
    /// From `# check=` at its head.
    pub checks: lint::Checks,
    /// In the order of the file; at least one FROM, before which stand only ARGs.
    pub statements: Vec<Statement>,
    /// What is probably not meant, in the order of the lines; see [`lint`].
    pub warnings: Vec<Warning>,
}

impl Kubefile {
    /// Parses the bytes of a build file that the user named `name`.
    pub fn parse(name: &str, bytes: &[u8], dialect: Dialect) -> Result<Self, KubefileError> {
        parser::parse(name, bytes, dialect)
    }

    /// Parses an ONBUILD trigger as a base image keeps it. `name` is the image's, for messages.
    pub fn parse_trigger(
        name: &str,
        text: &str,
        dialect: Dialect,
    ) -> Result<Statement, KubefileError> {
        parser::parse_trigger(name, text, dialect)
    }
}

#[cfg(test)]
mod tests;
