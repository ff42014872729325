//! What the user is told about registries.

use std::io;

use kfs_fs::oci::registry::RegistryError;

use super::{CORRUPT, Failure, MADE_WRONG, NOT_FOUND};

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::from_error(&error).about_registry(&error)
    }
}

impl Failure {
    /// Adds exit code and hint for a read of a blob, if it was a registry's.
    pub(super) fn about_read(self, error: &io::Error) -> Self {
        match error.get_ref().and_then(|source| source.downcast_ref()) {
            Some(error) => self.about_registry(error),
            None => self,
        }
    }

    /// Adds exit code and hint for a registry's error.
    pub(super) fn about_registry(self, error: &RegistryError) -> Self {
        match error {
            RegistryError::Denied { registry, credentials_from: None, .. } => {
                self.hint(format!("log in with `kfs login {registry}`, or check the name"))
            }
            RegistryError::Denied { registry, credentials_from: Some(_), .. } => self.hint(
                format!("check the name, or log in as somebody who may: `kfs login {registry}`"),
            ),
            RegistryError::Untrusted { registry, .. } => self.hint(format!(
                "put its certificate, or that of its authority, into \
                 /etc/containers/certs.d/{registry}/ca.crt"
            )),
            RegistryError::Unreachable { may_speak_http: true, .. } => self.hint(
                "check the name and the network; a registry that speaks http needs --plain-http",
            ),
            RegistryError::Unreachable { .. } | RegistryError::Stalled { .. } => {
                self.hint("check the name and the network")
            }
            RegistryError::NotFound { .. } => self.code(NOT_FOUND),
            RegistryError::Corrupt { .. } => self.code(CORRUPT).hint(MADE_WRONG),
            RegistryError::Damaged { .. } => self.code(CORRUPT),
            RegistryError::Conf(_)
            | RegistryError::Auth(_)
            | RegistryError::Blocked { .. }
            | RegistryError::Truncated { .. }
            | RegistryError::Unavailable { .. }
            | RegistryError::Refused { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::Spool(_)
            | RegistryError::SetUp(_) => self,
            RegistryError::Shared(error) => self.about_registry(error),
        }
    }
}
