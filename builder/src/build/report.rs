//! What a build tells while it goes on, and why it fails.

use std::fmt;
use std::time::Duration;

use kfs_fs::layer::writer::WriteTimes;

use super::explain::Explanation;
use super::{
    BadMode, CarryError, CgroupError, CopyError, Digest, Interrupted, KubefileError, LayoutError,
    Location, OpenError, OwnerError, PathError, ReferenceError, RootfsError, StageError,
    StoreError,
};
use crate::cluster::extension::{LaunchError, Malformed};
use crate::config::ConfigError;
use crate::exec::{ExecError, Status};
use crate::kubefile::write_source;
use crate::remote::RemoteError;

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step begins.
    Step {
        /// From 1.
        index: usize,
        /// How many there are.
        total: usize,
        /// The instruction as one line.
        text: String,
    },
    /// The base's layers were read to index them.
    Indexed {
        /// How much of them, in bytes.
        bytes: u64,
    },
    /// A line of a RUN's output.
    Output(Vec<u8>),
    /// Something that is good to know.
    Note(String),
    /// Something that is probably not meant.
    Warning(String),
    /// The layer of an earlier step, which went on while the next ran, is stored.
    Committed {
        /// Of the step, from 1.
        index: usize,
        /// How many there are.
        total: usize,
        /// Of the layer.
        digest: Digest,
        /// Of the layer, in bytes.
        size: u64,
    },
    /// Why the step is done, or need not be.
    Explained(Explanation),
    /// A layer was written, and what that took.
    Written {
        /// The step that it is of, from 1.
        index: usize,
        /// How long the command of a RUN ran.
        run: Duration,
        /// How long it took to find what it changed.
        diff: Duration,
        /// What the writing took.
        times: WriteTimes,
    },
    /// The step ended.
    Done {
        /// How long it took.
        took: Duration,
        /// Digest and size of its layer, if it has one.
        layer: Option<(Digest, u64)>,
        /// The layer was made by an earlier build.
        cached: bool,
    },
}

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The build file is wrong.
    #[error(transparent)]
    File(#[from] KubefileError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] Box<Failed>),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Container images that it is to carry cannot be had.
    #[error(transparent)]
    Carry(#[from] Box<CarryError>),
    /// Limits cannot be kept.
    #[error(transparent)]
    Limits(#[from] CgroupError),
}

impl From<CarryError> for BuildError {
    fn from(error: CarryError) -> Self {
        Self::Carry(Box::new(error))
    }
}

impl From<Failed> for BuildError {
    fn from(failed: Failed) -> Self {
        Self::Step(Box::new(failed))
    }
}

/// A step that failed, and where it stands.
#[derive(Debug)]
pub struct Failed {
    /// Its lines in the build file.
    pub location: Location,
    /// Why.
    pub error: StepError,
}

impl Failed {
    pub(super) fn at(location: Location, error: impl Into<StepError>) -> Self {
        match error.into() {
            StepError::Earlier(failed) => *failed,
            error => Self { location, error },
        }
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.error)?;
        write_source(f, &self.location, None)?;
        if let StepError::Run { tail, .. } = &self.error {
            let title =
                if tail.is_empty() { "it printed nothing" } else { "last lines of output:" };
            write!(f, "\n{title}")?;
            for line in tail {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The command of a RUN failed.
    #[error("{}: {status}", shortened(command))]
    Run {
        /// The instruction as one line.
        command: String,
        /// How the command ended.
        status: Status,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// The base runs on something else.
    #[error("{name} is an image for {found}, but {wanted} is wanted")]
    Platform {
        /// The base's name.
        name: String,
        /// Its platform.
        found: String,
        /// The platform that is built for.
        wanted: String,
    },
    /// A RUN needs a secret that the user does not pass.
    #[error("secret {0} is needed; pass it with --secret id={0},src=FILE or id={0},env=NAME")]
    NoSecret(String),
    /// A RUN needs an SSH agent that the user does not pass.
    #[error("an SSH agent {0} is needed; pass it with --ssh {0}[=SOCKET]")]
    NoAgent(String),
    /// WORKDIR leads through a file.
    #[error("/{0} is not a directory in the image")]
    WorkdirIsAFile(String),
    /// The base's name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The base cannot be found or read.
    #[error(transparent)]
    Base(#[from] LayoutError),
    /// The base's layers cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A COPY cannot be done.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// `--chown` names nobody.
    #[error(transparent)]
    Owner(#[from] OwnerError),
    /// `--chmod` is no mode.
    #[error(transparent)]
    Mode(#[from] BadMode),
    /// A value cannot stand in a config.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The layer cannot be made.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The layer cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signal asks the build to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A source cannot be fetched.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The base's annotations are not what they should be.
    #[error("the base's {0}")]
    Annotation(#[from] Malformed),
    /// An application cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// An archive looks like a chart, and is none that Helm would take.
    #[error("the chart cannot be used: {0}")]
    Chart(Box<kfs_charts::Error>),
    /// What a registry has is no chart.
    #[error("{0} has no chart in it")]
    NotAChart(String),
    /// An earlier step failed while it was stored.
    #[error(transparent)]
    Earlier(Box<Failed>),
    /// A file cannot be used.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl StepError {
    /// The signal that ended the build, if one did.
    pub fn interrupted(&self) -> Option<Interrupted> {
        match self {
            Self::Interrupted(interrupted)
            | Self::Remote(RemoteError::Interrupted(interrupted))
            | Self::Stage(
                StageError::Interrupted(interrupted)
                | StageError::Exec(ExecError::Interrupted(interrupted)),
            ) => Some(*interrupted),
            _ => None,
        }
    }
}

/// The lines of the file are shown below the message.
fn shortened(command: &str) -> String {
    const MAX: usize = 100;
    match command.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &command[..end]),
        None => command.to_owned(),
    }
}

impl From<RootfsError> for StepError {
    fn from(error: RootfsError) -> Self {
        Self::Stage(error.into())
    }
}
