//! The one place where a failure becomes words and an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the operation failed |
//! | 2 | wrong usage |
//! | 3 | an image, path or mount that was named does not exist, or a registry lacks a part of it |
//! | 4 | what is needed is in use: a mount point, an upper, the store or its cache |
//! | 5 | content does not match its digest, or its format is broken |
//! | 128 + n | ended by signal n, in good order |

mod cluster;
mod mount;
mod reading;
mod registry;

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use kfs_builder::build::{BuildError, StepError};
use kfs_builder::context::ContextError;
use kfs_builder::kubefile::KubefileError;
use kfs_builder::remote::{RemoteContextError, RemoteError};
use kfs_fs::error::PathError;
use kfs_fs::extract::ExtractError;
use kfs_fs::filesystem::{OpenError, ReadError};
use kfs_fs::layer::rewrite::RewriteError;
use kfs_fs::layer::scan::LayerError;
use kfs_fs::oci::archive::ArchiveError;
use kfs_fs::oci::convert::ConvertError;
use kfs_fs::oci::image::ImageError;
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::reference::ReferenceError;
use kfs_fs::oci::store::StoreError;
use kfs_fs::printable;
use kfs_fs::span::SpanError;
use kfs_fs::tree::TreeError;
use kfs_measure::MeasureError;

/// How a command failed: exit code, message, and what the user can do.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

/// Exit code: what was typed makes no sense.
pub(crate) const USAGE: u8 = 2;
/// Exit code: something named does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// Exit code: a mount point, an upper, the store or its cache is in use.
pub(crate) const BUSY: u8 = 4;
/// Exit code: content is not what its digest or format says.
pub(crate) const CORRUPT: u8 = 5;

impl Failure {
    /// A plain failure.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into(), hint: None }
    }

    /// A failure with the whole chain of an error's causes in its message.
    pub(crate) fn from_error(error: &(dyn Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Errors that print their source already would say it twice.
            if !message.contains(&text) {
                write!(message, ": {text}").expect("writing to a string does not fail");
            }
            source = cause.source();
        }
        let failure = Self::new(message);
        if is_disk_full(error) { failure.hint(DISK_FULL) } else { failure }
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says before the message what was being done.
    pub(crate) fn context(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// Sets the exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Content that is not what its digest says: that of a registry, or of the store.
    fn damaged(self, remote: bool) -> Self {
        self.code(CORRUPT).hint(if remote { MADE_WRONG } else { DAMAGED })
    }

    /// Prints the failure to stderr.
    pub(crate) fn print(&self) -> ExitCode {
        talk(&format!("kfs: {}", self.message));
        if let Some(hint) = &self.hint {
            talk(&format!("hint: {hint}"));
        }
        ExitCode::from(self.code)
    }
}

/// Writes lines to stderr. They may quote images: what a terminal would act on is escaped.
pub(crate) fn talk(text: &str) {
    let lines = text.lines().map(|line| {
        let columns: Vec<String> = line.split('\t').map(printable::text).collect();
        columns.join("\t") + "\n"
    });
    let text: String = lines.collect();
    // Nobody is left to be told that stderr cannot be written.
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

const FETCH_AGAIN: &str = "check the address and the network; what was fetched before is used \
                           without asking if ADD says its --checksum";
const DAMAGED: &str = "`kfs fsck --repair` puts aside what is damaged in the store; then get the image \
                       again";
const MADE_WRONG: &str = "nothing in the store is damaged; whoever made the image, or runs its \
                          registry, has to mend it";
const NEEDS_GIT: &str = "install it: apt-get install git, or dnf install git";
const DISK_FULL: &str = "free some space; nothing was kept of what was being written";

/// Whether no space is what is behind an error.
fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let is_full = |error: &io::Error| matches!(error.kind(), StorageFull | QuotaExceeded);
    error.downcast_ref().is_some_and(is_full) || error.source().is_some_and(is_disk_full)
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<MeasureError> for Failure {
    fn from(error: MeasureError) -> Self {
        match error {
            MeasureError::Path(error) => error.into(),
            MeasureError::Image(error) => error.into(),
            MeasureError::Open(error) => error.into(),
            MeasureError::Read(error) => error.into(),
            MeasureError::Missing(_) => {
                Self::from_error(&error).hint("install it, or leave the tool out of --against")
            }
            MeasureError::NoProgram(_) => Self::from_error(&error).code(NOT_FOUND),
            MeasureError::Interrupted(signal) => {
                Self::from_error(&error).code(128 + u8::try_from(signal).unwrap_or_default())
            }
            MeasureError::Build { code, .. } => {
                let code = code.and_then(|code| u8::try_from(code).ok());
                Self::from_error(&error).code(code.unwrap_or(1))
            }
            MeasureError::System { .. }
            | MeasureError::Command { .. }
            | MeasureError::Side(_)
            | MeasureError::Trace(_) => Self::from_error(&error),
        }
    }
}

impl From<ReferenceError> for Failure {
    fn from(error: ReferenceError) -> Self {
        Self::from_error(&error).code(USAGE)
    }
}

impl From<PathError> for Failure {
    fn from(error: PathError) -> Self {
        let failure = Self::from_error(&error);
        match error.source.kind() {
            io::ErrorKind::NotFound => failure.code(NOT_FOUND),
            _ => failure,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Path(error) => error.into(),
            StoreError::Layout(error) => error.into(),
            StoreError::Reference(error) => error.into(),
            StoreError::NotWritable { .. } => {
                Self::from_error(&error).hint("use another store: --root DIR or KFS_ROOT")
            }
            StoreError::Full { .. } => Self::from_error(&error)
                .hint("remove images with `kfs rmi`, or use another store: --root DIR"),
            StoreError::Foreign { .. } => {
                Self::from_error(&error).hint("give an empty directory, or one that is not there")
            }
            StoreError::Input { ref source, .. } => {
                let failure = Self::from_error(&error).about_read(source);
                match source.kind() {
                    io::ErrorKind::InvalidData
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::UnexpectedEof => failure.code(CORRUPT),
                    _ => failure,
                }
            }
            StoreError::Corrupt(_) | StoreError::DiffId { .. } => {
                Self::from_error(&error).code(CORRUPT)
            }
            StoreError::Cache(error) => error.into(),
            StoreError::Mounts(error) => (*error).into(),
            StoreError::Busy { .. } => {
                Self::from_error(&error).code(BUSY).hint("try again when it is done")
            }
            StoreError::Undecided { ref image, .. } => {
                let hint = format!("get the image again, or remove it with `kfs rmi {image}`");
                Self::from_error(&error).code(CORRUPT).hint(hint)
            }
            StoreError::NotATar { .. } => Self::from_error(&error).code(CORRUPT),
            StoreError::DigestInName(_) => Self::from_error(&error).code(USAGE),
            StoreError::SeveralNames { .. } => Self::from_error(&error)
                .hint("remove the names one by one, or all of them with --force"),
        }
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        let failure = Self::from_error(&error);
        match error {
            LayoutError::Path(error) => error.into(),
            LayoutError::Archive(error) => error.into(),
            LayoutError::Reference(error) => error.into(),
            LayoutError::NotALayout { .. }
            | LayoutError::Version { .. }
            | LayoutError::Broken { .. } => failure.code(CORRUPT),
            LayoutError::NotFound { similar, .. } => {
                let hint = match similar.is_empty() {
                    true => "`kfs images` lists the images of the store".to_owned(),
                    false => format!("did you mean {}?", similar.join(", ")),
                };
                failure.code(NOT_FOUND).hint(hint)
            }
            LayoutError::Lookup { similar, source, .. } => {
                let mut failure = failure.about_registry(&source);
                if similar.is_empty() {
                    return failure;
                }
                let meant = format!("did you mean {}?", similar.join(", "));
                match failure.hint.take() {
                    Some(hint) => failure.hint(format!("{meant} Or {hint}")),
                    None => failure.hint(meant),
                }
            }
            LayoutError::Registry(error) => Self::from(*error),
            LayoutError::Store(error) => Self::from(*error),
            LayoutError::Empty { .. } => failure.code(NOT_FOUND),
            LayoutError::Ambiguous { .. } => failure.code(USAGE).hint("give more digits"),
            LayoutError::Several { .. } => failure.code(USAGE).hint("add :TAG"),
            LayoutError::Image { source, .. } => match *source {
                ImageError::Path(_) => failure,
                ImageError::Registry(error) => failure.about_registry(&error),
                ImageError::Store(error) => Self::from(*error),
                ImageError::Corrupt(_) => failure.code(CORRUPT).hint(DAMAGED),
                ImageError::Missing { .. } => {
                    failure.code(CORRUPT).hint("get the image again: its copy here is damaged")
                }
                ImageError::Platform { .. } => failure.code(NOT_FOUND),
                ImageError::TooLarge { .. }
                | ImageError::Json { .. }
                | ImageError::NotAManifest { .. }
                | ImageError::Disagreement { .. }
                | ImageError::Artifact { .. }
                | ImageError::Schema1 { .. }
                | ImageError::SchemaVersion { .. }
                | ImageError::LayerType { .. }
                | ImageError::LayerCount { .. }
                | ImageError::TooDeep { .. } => failure.code(CORRUPT),
            },
        }
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let failure = Self::from_error(&error).code(CORRUPT);
        let import = "`kfs import FILE NAME` makes an image of a root file system's tar";
        match error {
            ArchiveError::Path(error) => error.into(),
            ArchiveError::NotAFile(_) => failure.code(USAGE),
            ArchiveError::Compressed { how: "gzip" | "zstd", path } => failure
                .hint(format!("`kfs load {}` copies its images to the store", path.display())),
            ArchiveError::Compressed { .. } => failure.hint("decompress it first"),
            ArchiveError::NoImages(_) | ArchiveError::TooManyMembers { .. } => failure.hint(import),
            ArchiveError::WrongFormat { path, found, .. } => {
                failure.code(USAGE).hint(format!("name it {found}:{}", path.display()))
            }
            ArchiveError::NotATar(_)
            | ArchiveError::Truncated { .. }
            | ArchiveError::Header { .. }
            | ArchiveError::Member { .. }
            | ArchiveError::Json { .. }
            | ArchiveError::LayerCount { .. } => failure,
        }
    }
}

impl From<io::Error> for Failure {
    /// Only output is written without a path.
    fn from(error: io::Error) -> Self {
        Self::new(format!("write standard output: {error}"))
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let failure = Self::from_error(&error);
        match error {
            OpenError::Layer(LayerError::Read { source, .. }) => failure.about_read(&source),
            OpenError::Layer(LayerError::Index { .. })
            | OpenError::Index { .. }
            | OpenError::Tree(TreeError::TooMany) => failure,
            OpenError::Layer(LayerError::Corrupt { remote, .. }) => failure.damaged(remote),
            OpenError::Layer(
                LayerError::DiffId { .. }
                | LayerError::Decode { .. }
                | LayerError::Tar { .. }
                | LayerError::Toc { .. }
                | LayerError::Contradiction { .. }
                | LayerError::Flood { .. },
            )
            | OpenError::Tree(TreeError::Entry { .. } | TreeError::Index(_)) => {
                failure.code(CORRUPT)
            }
        }
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Store(error) => error.into(),
            ConvertError::Rewrite(RewriteError::Source(error)) => OpenError::Layer(error).into(),
            ConvertError::Rewrite(RewriteError::Write(_) | RewriteError::Aside { .. })
            | ConvertError::Nothing(_) => Self::from_error(&error),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let failure = Self::from_error(&error);
        match error {
            ReadError::NoInode(_)
            | ReadError::NotADirectory(_)
            | ReadError::IsADirectory(_)
            | ReadError::WrongKind(_)
            | ReadError::Span(SpanError::Closed { .. }) => failure,
            ReadError::Span(SpanError::Read { source, .. }) => failure.about_read(&source),
            ReadError::Span(SpanError::TimedOut { .. }) => failure.hint("try again later"),
            ReadError::Span(SpanError::Mismatch { remote, .. }) => failure.damaged(remote),
            ReadError::Span(SpanError::Index(_) | SpanError::TooLarge { .. })
            | ReadError::Tree(_)
            | ReadError::NoContent { .. } => failure.code(CORRUPT),
        }
    }
}

impl From<ExtractError> for Failure {
    fn from(error: ExtractError) -> Self {
        let failure = Self::from_error(&error);
        match error {
            ExtractError::Image { path, source } => {
                Self::from(source).context(&path.display().to_string())
            }
            ExtractError::Destination(error) => error.into(),
            ExtractError::InTheWay { .. } => failure.hint("give another destination, or remove it"),
            ExtractError::Name { .. } => failure.code(CORRUPT),
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::File(error) => Self::new(error.to_string()),
            BuildError::Store(error) => error.into(),
            BuildError::Limits(error) => Self::from_error(&error),
            BuildError::Carry(error) => Self::from(*error),
            BuildError::Step(failed) => {
                if let Some(interrupted) = failed.error.interrupted() {
                    let message = format!("{}: {interrupted}", failed.location);
                    let number = u8::try_from(interrupted.0 as i32).unwrap_or_default();
                    return Self::new(message).code(128 + number);
                }
                let message = failed.to_string();
                let failure = match failed.error {
                    StepError::Base(error) => Self::from(error),
                    StepError::Reference(error) => Self::from(error),
                    StepError::Open(error) => Self::from(error),
                    StepError::Store(error) => Self::from(error),
                    StepError::Remote(error) => Self::from(error),
                    other => Self::from_error(&other),
                };
                Self { message, ..failure }
            }
        }
    }
}

impl From<RemoteContextError> for Failure {
    fn from(error: RemoteContextError) -> Self {
        match error {
            RemoteContextError::Remote(error) => error.into(),
            RemoteContextError::Store(error) => error.into(),
            RemoteContextError::Open(error) => error.into(),
            RemoteContextError::Extract(error) => error.into(),
            RemoteContextError::Path(error) => error.into(),
            RemoteContextError::Nothing(_) | RemoteContextError::Outside { .. } => {
                Self::from_error(&error)
            }
        }
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Interrupted(interrupted) => interrupted.into(),
            RemoteError::Download(error) if error.is_transient => {
                Self::from_error(&error).hint(FETCH_AGAIN)
            }
            RemoteError::NoGit(_) => Self::from_error(&error).hint(NEEDS_GIT),
            RemoteError::GitUrl(_) => Self::from_error(&error).code(USAGE),
            RemoteError::NoGitReference { .. } | RemoteError::NoGitDirectory { .. } => {
                Self::from_error(&error).code(NOT_FOUND)
            }
            RemoteError::Store(error) => error.into(),
            RemoteError::Path(error) => error.into(),
            RemoteError::Registry { ref source, .. } => {
                let failure = Self::from_error(&error);
                failure.about_registry(source)
            }
            RemoteError::Download(_)
            | RemoteError::NoChart { .. }
            | RemoteError::NoClient(_)
            | RemoteError::Checksum { .. }
            | RemoteError::NoName(_)
            | RemoteError::Commit { .. }
            | RemoteError::Git { .. } => Self::from_error(&error),
        }
    }
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        match error {
            ContextError::Path(error) => error.into(),
            ContextError::Pattern { .. } | ContextError::Nothing { .. } => Self::from_error(&error),
        }
    }
}

impl From<KubefileError> for Failure {
    fn from(error: KubefileError) -> Self {
        Self::new(error.to_string())
    }
}
