//! Instructions with their variables expanded, and what is then wrong with them.

use kfs_fs::digest::Digest;
use kfs_fs::oci::reference::Name;

use super::scope::Scope;
use crate::config::{ConfigError, StageConfig};
use crate::copy;
use crate::kubefile::expand::ExpandError;
use crate::kubefile::{
    App, AppSource, Copy, Instruction, KubefileError, MountError, Pair, Problem, Run, Source,
    Statement,
};
use crate::remote::{GitUrl, RemoteKind, is_commit_prefix};

/// Why a statement cannot become a step.
pub(super) enum StepError {
    Expand(ExpandError),
    Config(ConfigError),
    Other(Problem),
}

impl std::convert::From<ExpandError> for StepError {
    fn from(error: ExpandError) -> Self {
        Self::Expand(error)
    }
}

impl std::convert::From<MountError> for StepError {
    fn from(error: MountError) -> Self {
        Self::Other(Problem::Syntax(error.to_string()))
    }
}

impl std::convert::From<ConfigError> for StepError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

pub(super) fn located(statement: &Statement, error: impl Into<StepError>) -> KubefileError {
    let (problem, suggestion) = match error.into() {
        StepError::Expand(error) => {
            let is_copy = matches!(statement.instruction, Instruction::Copy(_));
            let suggestion = match error {
                ExpandError::OpenQuote(_) if is_copy => {
                    Some("write names with blanks as a JSON array: COPY [\"a b\", \"c\"]")
                }
                ExpandError::OpenQuote(_) => Some("close it, or put a backslash before it"),
                ExpandError::Required { .. } => Some("pass it with --build-arg NAME=VALUE"),
                _ => None,
            };
            (Problem::Expand(error), suggestion)
        }
        StepError::Config(error) => (Problem::Config(error), None),
        StepError::Other(problem) => (problem, None),
    };
    let error = KubefileError::new(&statement.location, problem);
    match suggestion {
        Some(suggestion) => error.suggest(suggestion),
        None => error,
    }
}

/// The instruction with its variables expanded; an ARG is declared in `scope`.
pub(super) fn expanded(
    instruction: &Instruction,
    scope: &mut Scope,
    config: &StageConfig,
) -> Result<Instruction, StepError> {
    if let Instruction::Arg(arg) = instruction {
        return Ok(Instruction::Arg(scope.declare(arg, config)?));
    }
    let word = |text: &String| scope.word(text, config);
    let words = |texts: &[String]| texts.iter().map(word).collect::<Result<Vec<_>, _>>();
    let pairs = |pairs: &[Pair]| -> Result<Vec<Pair>, ExpandError> {
        let pair = |p: &Pair| Ok(Pair { key: word(&p.key)?, value: word(&p.value)? });
        pairs.iter().map(pair).collect()
    };
    let mut result = instruction.clone();
    match &mut result {
        // The shell that runs them expands these, or they hold no variables.
        Instruction::Entrypoint(_)
        | Instruction::Healthcheck(_)
        | Instruction::Launch(_)
        | Instruction::Maintainer(_)
        | Instruction::Onbuild(_)
        | Instruction::Shell(_)
        | Instruction::From(_)
        | Instruction::Arg(_) => {}
        Instruction::Run(run) => expand_mounts(run, scope, config)?,
        Instruction::Cmd(cmd) => cmd.command = scope.command(&cmd.command, config)?,
        Instruction::Cmds(cmds) => cmds.commands = scope.lines(&cmds.commands, config)?,
        Instruction::AppCmds(app) => app.commands = scope.lines(&app.commands, config)?,
        Instruction::App(app) | Instruction::Cni(app) | Instruction::Csi(app) => {
            expand_app(app, scope, config)?;
        }
        Instruction::AppEnv(app) => app.pairs = pairs(&app.pairs)?,
        Instruction::KubeVersion(version) => version.range = word(&version.range)?,
        Instruction::Add(add) => {
            add.files = expanded_copy(&add.files, scope, config)?;
            add.checksum = add.checksum.as_ref().map(word).transpose()?;
            check_remote(&add.files, true, add.checksum.as_deref())?;
        }
        Instruction::Copy(copy) => {
            *copy = expanded_copy(copy, scope, config)?;
            check_remote(copy, scope.copy_fetches(), None)?;
        }
        Instruction::Env(env) => env.pairs = pairs(&env.pairs)?,
        Instruction::Label(label) => label.pairs = pairs(&label.pairs)?,
        Instruction::Expose(expose) => {
            // One variable may hold several ports.
            let ports = words(&expose.ports)?;
            expose.ports =
                ports.iter().flat_map(|p| p.split_whitespace()).map(str::to_owned).collect();
        }
        Instruction::StopSignal(stop) => stop.signal = word(&stop.signal)?,
        Instruction::User(user) => user.user = word(&user.user)?,
        Instruction::Volume(volume) => volume.paths = words(&volume.paths)?,
        Instruction::Workdir(workdir) => workdir.path = word(&workdir.path)?,
    }
    Ok(result)
}

/// Sources of an application see what those of COPY see.
fn expand_app(app: &mut App, scope: &Scope, config: &StageConfig) -> Result<(), StepError> {
    let wrong = |text: String| Err(StepError::Other(Problem::Syntax(text)));
    for source in &mut app.sources {
        let (AppSource::Local(text) | AppSource::Remote(text) | AppSource::Chart(text)) = source;
        *text = scope.copy_word(text, config)?;
        if text.is_empty() {
            return wrong("a source is empty once its variables are expanded".to_owned());
        }
        match source {
            AppSource::Remote(text) if RemoteKind::of(text) == Some(RemoteKind::Git) => {
                let what = format!("the git repository {text} as a source of an application");
                return Err(StepError::Other(Problem::Unsupported(what)));
            }
            AppSource::Chart(text) => {
                let parsed = text.parse::<Name>();
                parsed.map_err(|e| StepError::Other(Problem::Syntax(e.to_string())))?;
                let last = text.rsplit('/').next().unwrap_or_default();
                if !last.contains([':', '@']) {
                    return wrong(format!(
                        "oci://{text} has no version: write oci://{text}:VERSION"
                    ));
                }
            }
            AppSource::Local(_) | AppSource::Remote(_) => {}
        }
    }
    let Some(checksum) = &mut app.checksum else { return Ok(()) };
    *checksum = scope.copy_word(checksum, config)?;
    if checksum.parse::<Digest>().is_err() {
        return wrong(format!("--checksum={checksum} is no digest such as sha256:HEX"));
    }
    match &app.sources[..] {
        [AppSource::Remote(_) | AppSource::Chart(_)] => Ok(()),
        _ => wrong("--checksum is for one source, an http, https or oci URL".to_owned()),
    }
}

fn expand_mounts(run: &mut Run, scope: &Scope, config: &StageConfig) -> Result<(), StepError> {
    for mount in &mut run.mounts {
        for (_, value) in &mut mount.options {
            if let Some(text) = value {
                *text = scope.word(text, config)?;
            }
        }
        mount.mount()?;
    }
    Ok(())
}

fn expanded_copy(copy: &Copy, scope: &Scope, config: &StageConfig) -> Result<Copy, StepError> {
    let word = |text: &String| scope.copy_word(text, config);
    let source = |source: &Source| -> Result<Source, StepError> {
        match source {
            Source::Path(path) => {
                let plain = word(path)?;
                // A URL is no pattern.
                let is_remote = RemoteKind::of(&plain).is_some();
                Ok(Source::Path(if is_remote { plain } else { scope.copy_source(path, config)? }))
            }
            Source::Inline(heredoc) => {
                let mut heredoc = heredoc.clone();
                if heredoc.expand {
                    heredoc.content = scope.heredoc(&heredoc.content, config)?;
                }
                Ok(Source::Inline(heredoc))
            }
        }
    };
    let dest = word(&copy.dest)?;
    // Empty is as not given.
    let chmod = copy.chmod.as_ref().map(word).transpose()?.filter(|text| !text.is_empty());
    if let Some(chmod) = &chmod {
        copy::Mode::parse(chmod).map_err(|e| StepError::Other(Problem::Syntax(e.to_string())))?;
    }
    let chown = copy.chown.as_ref().map(word).transpose()?.filter(|text| !text.is_empty());
    let sources = copy.sources.iter().map(source).collect::<Result<_, _>>()?;
    let from = copy.from.as_ref().map(word).transpose()?;
    let exclude = copy.exclude.iter().map(word).collect::<Result<_, _>>()?;
    Ok(Copy { from, chown, chmod, exclude, sources, dest, ..copy.clone() })
}

/// Looks at the sources that are not in the context: which there may be.
fn check_remote(files: &Copy, may_fetch: bool, checksum: Option<&str>) -> Result<(), StepError> {
    let paths = files.sources.iter().filter_map(|source| match source {
        Source::Path(path) if files.from.is_none() => Some((path, RemoteKind::of(path))),
        Source::Path(_) | Source::Inline(_) => None,
    });
    let wrong = |text: String| Err(StepError::Other(Problem::Syntax(text)));
    for (path, kind) in paths.clone() {
        match kind {
            None => {}
            Some(_) if !may_fetch => {
                return wrong(format!("COPY does not fetch {path}: ADD does"));
            }
            Some(RemoteKind::Http) => {}
            Some(RemoteKind::Git) => {
                GitUrl::parse(path).map_err(|text| StepError::Other(Problem::Syntax(text)))?;
            }
        }
    }
    let Some(checksum) = checksum else { return Ok(()) };
    if files.sources.len() == 1 && paths.clone().any(|(_, kind)| kind == Some(RemoteKind::Git)) {
        if is_commit_prefix(checksum) {
            return Ok(());
        }
        return wrong(format!("--checksum={checksum} is no commit of git"));
    }
    if checksum.parse::<Digest>().is_err() {
        return wrong(format!("--checksum={checksum} is no digest such as sha256:HEX"));
    }
    if files.sources.len() != 1 || paths.clone().all(|(_, kind)| kind.is_none()) {
        return wrong(
            "--checksum is for one source, an http or https URL or a git repository".to_owned(),
        );
    }
    Ok(())
}
