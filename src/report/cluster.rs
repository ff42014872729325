//! Failures of cluster images: what is searched, served and launched.

use kfs_builder::build::CarryError;
use kfs_builder::cluster::extension::Malformed;
use kfs_builder::cluster::files::FilesError;
use kfs_builder::cluster::launch::PlanError;
use kfs_builder::cluster::merge::MergeError;
use kfs_builder::cluster::run::RunError;
use kfs_builder::cluster::serve::{HtpasswdError, ServeError};
use kfs_builder::cluster::template::TemplateError;
use kfs_builder::exec::ExecError;
use kfs_builder::interrupt::Interrupted;

use super::{CORRUPT, Failure, NOT_FOUND, USAGE};

const LEAVE_OUT: &str = "images that are not needed are left out";

impl From<FilesError> for Failure {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Path(error) => error.into(),
            FilesError::Image { source, .. } => source.into(),
            FilesError::Interrupted(interrupted) => interrupted.into(),
            FilesError::TooLarge { .. } | FilesError::Links(_) => Self::from_error(&error),
        }
    }
}

impl From<HtpasswdError> for Failure {
    fn from(error: HtpasswdError) -> Self {
        match error {
            HtpasswdError::Path(error) => error.into(),
            HtpasswdError::Line { .. } => Self::from_error(&error).code(USAGE),
        }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Files(error) => error.into(),
            ServeError::NoRegistry => Self::from_error(&error)
                .code(NOT_FOUND)
                .hint("only cluster images have one: the images that `kfs collect` shows"),
            ServeError::Listen { .. } => Self::from_error(&error).hint("choose another --addr"),
            ServeError::Tls(_) | ServeError::Start(_) => Self::from_error(&error),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::from_error(&error).code(CORRUPT)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        let failure = Self::from_error(&error);
        match error {
            PlanError::Nothing => failure.hint("say what to run with --app or --cmd"),
            PlanError::Container => failure.hint(
                "`kfs run` launches cluster images; to run a program of this one, mount it: kfs mount",
            ),
            PlanError::Application(_) | PlanError::NotLaunched(_) => failure.code(NOT_FOUND),
            PlanError::Name(_) | PlanError::Protected(_) | PlanError::NoChart(..) => {
                failure.code(USAGE)
            }
        }
    }
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Files(error) => error.into(),
            TemplateError::Template(_) | TemplateError::TooMuch(_) => Self::from_error(&error),
        }
    }
}

impl From<Interrupted> for Failure {
    fn from(error: Interrupted) -> Self {
        let number = u8::try_from(error.0 as i32).unwrap_or_default();
        Self::from_error(&error).code(128 + number)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Store(error) => error.into(),
            RunError::Path(error) => error.into(),
            RunError::Interrupted(error) | RunError::Exec(ExecError::Interrupted(error)) => {
                error.into()
            }
            RunError::Fuse(_) | RunError::Rootfs(_) | RunError::Exec(_) => Self::from_error(&error),
        }
    }
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Self {
        let failure = Self::from_error(&error);
        match error {
            MergeError::TooFew => failure.code(USAGE),
            MergeError::Application { .. } => {
                failure.hint("build one of the images with another name for it")
            }
            MergeError::Malformed { .. } => failure.code(CORRUPT),
            MergeError::Open(error) => error.into(),
            MergeError::Files(error) => error.into(),
            MergeError::Read(error) => error.into(),
            MergeError::Store(error) => error.into(),
            MergeError::Platform { .. }
            | MergeError::KubeVersion { .. }
            | MergeError::Launch { .. }
            | MergeError::Compare { .. }
            | MergeError::Write(_) => failure,
        }
    }
}

impl From<CarryError> for Failure {
    fn from(error: CarryError) -> Self {
        let message = error.to_string();
        match error {
            CarryError::Unfound(mut all) => {
                let first = (!all.is_empty()).then(|| all.swap_remove(0).source);
                let failure = first.map_or_else(|| Self::new(""), Self::from);
                let leave_out = format!("{LEAVE_OUT} with --ignored-image-list or .sealignore");
                let hint = match failure.hint {
                    Some(hint) => format!("{hint}; {leave_out}"),
                    None => leave_out,
                };
                Self { message, hint: Some(hint), ..failure }
            }
            CarryError::Collision { .. } => Self::new(message).hint(
                "name one of them by its digest, give one another name in a registry of your \
                 own, or leave one out with --ignored-image-list",
            ),
            CarryError::Interrupted(interrupted) => interrupted.into(),
            CarryError::Fetch { ref source, .. } => {
                let failure = Self::from_error(&error)
                    .hint("images that are done are kept: the next build goes on from there");
                if source.damage().is_some() { failure.code(CORRUPT) } else { failure }
            }
            CarryError::Files(error) => error.into(),
            CarryError::Store(error) => error.into(),
            CarryError::Path(error) => error.into(),
            CarryError::Annotation(_) => Self::from_error(&error).code(CORRUPT),
            CarryError::Pods(_) => Self::from_error(&error).hint(
                "--mode local needs a kubectl that reaches the cluster; --mode lite does without",
            ),
            CarryError::List(_) | CarryError::Archive { .. } => Self::from_error(&error),
        }
    }
}
