//! What can go wrong with a registry. No error holds a credential, and no URL of a redirect: those
//! are signed, and who has one may read.

use std::time::Duration;

use super::auth::AuthError;
use super::conf::ConfError;
use crate::digest::Mismatch;
use crate::error::PathError;

/// Why a registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or one that broke.
    #[error("registry {registry} cannot be reached: {reason}")]
    Unreachable {
        /// `host[:port]`.
        registry: String,
        /// What the network said.
        reason: String,
        /// Whether https is all that was tried, and was never answered.
        may_speak_http: bool,
    },
    /// A certificate that nobody vouches for.
    #[error("registry {registry} has a certificate that is not trusted: {reason}")]
    Untrusted {
        /// `host[:port]`.
        registry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing came for too long, or next to nothing.
    #[error("registry {registry} sent {} for {} s", few(*got), waited.as_secs_f32())]
    Stalled {
        /// `host[:port]`.
        registry: String,
        /// How long.
        waited: Duration,
        /// Bytes that came.
        got: u64,
    },
    /// The answer ended early.
    #[error("registry {registry} broke off after {got} of {expected} bytes")]
    Truncated {
        /// `host[:port]`.
        registry: String,
        /// Bytes that were asked for.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A failure of the server's that may pass.
    #[error("registry {registry} answered {status} to {request}{message}{}", again(*after))]
    Unavailable {
        /// `host[:port]`.
        registry: String,
        /// HTTP status.
        status: u16,
        /// Method and repository.
        request: String,
        /// What the registry says, after `: `.
        message: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// An answer that asking again does not change.
    #[error("registry {registry} answered {status} to {request}{message}")]
    Refused {
        /// `host[:port]`.
        registry: String,
        /// HTTP status.
        status: u16,
        /// Method and repository.
        request: String,
        /// What the registry says, after `: `.
        message: String,
    },
    /// Not allowed, or not there: many registries do not tell which.
    #[error("registry {registry} denies access to {repository}{message} ({})", credentials(credentials_from.as_ref()))]
    Denied {
        /// `host[:port]` as the user names it.
        registry: String,
        /// The repository, `the registry` for a login.
        repository: String,
        /// What the registry says, after `: `.
        message: String,
        /// Where the credentials that were sent were found, if there were some.
        credentials_from: Option<String>,
    },
    /// The registry does not have it.
    #[error("registry {registry} has no {what} in {repository}")]
    NotFound {
        /// `host[:port]` as the user names it.
        registry: String,
        /// The repository.
        repository: String,
        /// `tag x`, `manifest sha256:...`, `blob sha256:...`.
        what: String,
    },
    /// The registry sent something else than what the digest names.
    #[error("registry {registry}, {repository}: {mismatch}")]
    Corrupt {
        /// `host[:port]`.
        registry: String,
        /// The repository.
        repository: String,
        /// What differs.
        mismatch: Mismatch,
    },
    /// What was to be sent is not what its digest names.
    #[error("{what}: {mismatch}")]
    Damaged {
        /// Where it was read.
        what: String,
        /// What differs.
        mismatch: Mismatch,
    },
    /// An answer that makes no sense.
    #[error("registry {registry}: {reason}")]
    Protocol {
        /// `host[:port]`.
        registry: String,
        /// What is wrong.
        reason: String,
    },
    /// `registries.conf` forbids the name.
    #[error("{name} is blocked in {}", conf.display())]
    Blocked {
        /// Registry and repository.
        name: String,
        /// The file.
        conf: std::path::PathBuf,
    },
    /// Another read of the same bytes got this, and both waited for it.
    #[error(transparent)]
    Shared(std::sync::Arc<RegistryError>),
    /// The file in which a blob is kept that cannot be had in parts.
    #[error(transparent)]
    Spool(#[from] PathError),
    /// The client cannot be set up.
    #[error("set up the registry client: {0}")]
    SetUp(String),
    /// `registries.conf` or a certificate cannot be used.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// Credentials cannot be read.
    #[error(transparent)]
    Auth(#[from] AuthError),
}

fn credentials(from: Option<&String>) -> String {
    match from {
        Some(place) => format!("the credentials are from {place}"),
        None => "no credentials were found for it".to_owned(),
    }
}

fn again(after: Option<Duration>) -> String {
    match after {
        Some(after) => {
            format!("; it wants to be asked again in {:.0} s", after.as_secs_f64().ceil())
        }
        None => String::new(),
    }
}

fn few(bytes: u64) -> String {
    match bytes {
        0 => "nothing".to_owned(),
        bytes => format!("only {bytes} bytes"),
    }
}

impl RegistryError {
    /// Whether asking again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::Truncated { .. }
            | Self::Unavailable { .. } => true,
            // The other read did all that could be done.
            Self::Shared(_)
            | Self::Untrusted { .. }
            | Self::Refused { .. }
            | Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Corrupt { .. }
            | Self::Damaged { .. }
            | Self::Protocol { .. }
            | Self::Blocked { .. }
            | Self::Spool(_)
            | Self::SetUp(_)
            | Self::Conf(_)
            | Self::Auth(_) => false,
        }
    }

    /// When the registry wants to be asked again.
    pub(super) fn after(&self) -> Option<Duration> {
        match self {
            Self::Unavailable { after, .. } => *after,
            _ => None,
        }
    }
}

impl From<RegistryError> for std::io::Error {
    fn from(error: RegistryError) -> Self {
        Self::new(error.kind(), error)
    }
}

impl RegistryError {
    fn kind(&self) -> std::io::ErrorKind {
        use std::io::ErrorKind;
        match self {
            RegistryError::Stalled { .. } => ErrorKind::TimedOut,
            RegistryError::Denied { .. } | RegistryError::Blocked { .. } => {
                ErrorKind::PermissionDenied
            }
            RegistryError::NotFound { .. } => ErrorKind::NotFound,
            RegistryError::Corrupt { .. } | RegistryError::Damaged { .. } => ErrorKind::InvalidData,
            RegistryError::Shared(error) => error.kind(),
            RegistryError::Spool(error) => error.source.kind(),
            _ => ErrorKind::Other,
        }
    }
}
