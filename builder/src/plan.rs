//! What a build file asks for, in order, before anything is done: the base, the steps with their
//! variables expanded, and what may be left undone. Pure.
//!
//! All steps are expanded before the first one runs: their values depend on the file, the build
//! arguments and the base's config, never on what a RUN does. So a mistake in the last line is
//! reported before the first RUN.

mod scope;
mod unsupported;

use kfs_fs::oci::manifest::{ImageConfig, Platform};
use serde_json::Value;

use crate::config::{ConfigError, StageConfig};
use crate::copy;
use crate::kubefile::expand::{self, ExpandError};
use crate::kubefile::{
    App, AppSource, Command, Copy, CopyRule, Dialect, From, Instruction, Kubefile, KubefileError,
    Location, MountError, Pair, Problem, Run, Source, Statement, Warning,
};
use scope::Scope;
use unsupported::unsupported;

/// What the user says beside the file.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--build-arg`, later ones win.
    pub build_args: Vec<(String, String)>,
    /// `--copy-semantics`: goes before what the file says.
    pub copy_rule: Option<CopyRule>,
    /// What the image is built for.
    pub target: Platform,
    /// What the build runs on.
    pub build: Platform,
}

/// What a stage begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// `FROM scratch`: nothing.
    Scratch,
    /// An image.
    Image {
        /// As written, variables expanded.
        name: String,
        /// From `--platform`.
        platform: Option<String>,
    },
}

/// One statement of the stage that is built.
#[derive(Clone, Debug)]
pub struct Step {
    /// From 1, FROM included; so the first step of a stage has index 2.
    pub index: usize,
    /// How many there are, FROM included.
    pub total: usize,
    /// Where it stands.
    pub location: Location,
    /// One line, variables not expanded: for progress and history.
    pub text: String,
    /// Variables expanded.
    pub instruction: Instruction,
    /// The build arguments that a RUN here sees as environment and that belong to its cache key
    /// and history: declared, with a value, not hidden by ENV; in the order of their ARGs.
    pub build_args: Vec<(String, String)>,
    /// A later step is a RUN, so what this step makes has to be in the mounted tree.
    pub needs_tree: bool,
}

/// A file that can be built.
#[derive(Clone, Debug)]
pub struct Plan {
    dialect: Dialect,
    copy_rule: CopyRule,
    base: Base,
    from: Statement,
    statements: Vec<Statement>,
    scope: Scope,
    warnings: Vec<Warning>,
}

impl Plan {
    /// Plans the stage of a file.
    ///
    /// Fails if there is more than one stage, or if the base's name cannot be expanded.
    pub fn new(file: Kubefile, options: Options) -> Result<Self, KubefileError> {
        let copy_rule =
            options.copy_rule.or(file.copy_rule).unwrap_or_else(|| file.dialect.copy_rule());
        let mut scope = Scope::new(file.dialect, file.escape, options);
        let mut warnings = file.warnings;
        warnings.extend(scope.unused(&file.statements));
        let mut stage = None;
        let mut statements = Vec::new();
        for statement in file.statements {
            if let Some(what) = unsupported(&statement.instruction) {
                return Err(KubefileError::new(&statement.location, Problem::Unsupported(what)));
            }
            match (&statement.instruction, &stage) {
                (Instruction::Arg(arg), None) => {
                    scope.declare_before_from(arg).map_err(|e| located(&statement, e))?;
                }
                (Instruction::From(from), None) => {
                    let base = base(from, &scope, &statement)?;
                    stage = Some((base, statement));
                }
                (Instruction::From(_), Some(_)) => {
                    let what = "a second FROM (a multi-stage build)".to_owned();
                    return Err(KubefileError::new(
                        &statement.location,
                        Problem::Unsupported(what),
                    ));
                }
                _ => statements.push(statement),
            }
        }
        let (base, from) = stage.expect("the parser refuses a file without FROM");
        Ok(Self { dialect: file.dialect, copy_rule, base, from, statements, scope, warnings })
    }

    /// Whose rules the file follows.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Where a COPY puts its sources: what the user says, else the file's head, else the dialect.
    pub fn copy_rule(&self) -> CopyRule {
        self.copy_rule
    }

    /// What the stage begins with.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The FROM: step 1.
    pub fn from(&self) -> &Statement {
        &self.from
    }

    /// How many steps there are, FROM included.
    pub fn total(&self) -> usize {
        self.statements.len() + 1
    }

    /// What is probably not meant.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// The proxies that the user passed as build arguments. RUN sees them as environment also
    /// where no ARG declares them; they belong to no cache key and no history.
    pub fn proxies(&self) -> Vec<(String, String)> {
        self.scope.proxies()
    }

    /// The steps after FROM, expanded on a base with this config.
    ///
    /// Fails with the line whose variables, flags or values are wrong, or if the base has ONBUILD
    /// triggers.
    pub fn steps(&self, base: &ImageConfig) -> Result<Vec<Step>, KubefileError> {
        if base.config.extra.get("OnBuild").and_then(Value::as_array).is_some_and(|o| !o.is_empty())
        {
            let what = "a base image with ONBUILD triggers".to_owned();
            return Err(KubefileError::new(&self.from.location, Problem::Unsupported(what)));
        }
        let mut scope = self.scope.clone();
        let mut config = StageConfig::new(base.clone(), self.dialect);
        let last_run = self
            .statements
            .iter()
            .rposition(|statement| matches!(statement.instruction, Instruction::Run(_)));
        let mut steps = Vec::new();
        for (i, statement) in self.statements.iter().enumerate() {
            let instruction = expanded(&statement.instruction, &mut scope, &config)
                .and_then(|instruction| {
                    config.apply(&instruction)?;
                    Ok(instruction)
                })
                .map_err(|error| located(statement, error))?;
            steps.push(Step {
                index: i + 2,
                total: self.total(),
                location: statement.location.clone(),
                text: statement.text.clone(),
                instruction,
                build_args: scope.visible(&config),
                needs_tree: last_run.is_some_and(|run| i < run),
            });
        }
        Ok(steps)
    }
}

/// Why a statement cannot become a step.
enum StepError {
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

fn located(statement: &Statement, error: impl Into<StepError>) -> KubefileError {
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

/// The base that a FROM names.
fn base(from: &From, scope: &Scope, statement: &Statement) -> Result<Base, KubefileError> {
    let expand = |text: &str| scope.before_from(text).map_err(|error| located(statement, error));
    let name = expand(&from.image)?;
    if name.trim().is_empty() {
        let problem = Problem::Syntax(format!("{} is empty, so FROM names no image", from.image));
        return Err(KubefileError::new(&statement.location, problem)
            .suggest("give its ARG before FROM a default, or pass --build-arg NAME=VALUE"));
    }
    let platform = from.platform.as_deref().map(expand).transpose()?.filter(|p| !p.is_empty());
    // `--platform` means nothing where there is nothing to choose from.
    if name == "scratch" { Ok(Base::Scratch) } else { Ok(Base::Image { name, platform }) }
}

/// The instruction with its variables expanded; an ARG is declared in `scope`.
fn expanded(
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
            expand_sources(app, scope, config)?;
        }
        Instruction::AppEnv(app) => app.pairs = pairs(&app.pairs)?,
        Instruction::KubeVersion(version) => version.range = word(&version.range)?,
        Instruction::Add(add) => {
            add.files = expanded_copy(&add.files, scope, config)?;
            add.checksum = add.checksum.as_ref().map(word).transpose()?;
        }
        Instruction::Copy(copy) => *copy = expanded_copy(copy, scope, config)?,
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
fn expand_sources(app: &mut App, scope: &Scope, config: &StageConfig) -> Result<(), ExpandError> {
    for source in &mut app.sources {
        match source {
            AppSource::Local(text) | AppSource::Remote(text) => {
                *text = scope.copy_word(text, config)?;
            }
        }
    }
    Ok(())
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
                let path = word(path)?;
                if path.is_empty() {
                    let text = "a source of COPY is empty once its variables are expanded";
                    return Err(StepError::Other(Problem::Syntax(text.to_owned())));
                }
                if is_remote(&path) {
                    let what = format!("COPY of the remote source {path}");
                    return Err(StepError::Other(Problem::Unsupported(what)));
                }
                Ok(Source::Path(path))
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
    if dest.is_empty() {
        let text = "the destination of COPY is empty once its variables are expanded";
        return Err(StepError::Other(Problem::Syntax(text.to_owned())));
    }
    let chmod = copy.chmod.as_ref().map(word).transpose()?;
    if let Some(chmod) = &chmod {
        copy::parse_mode(chmod).map_err(|e| StepError::Other(Problem::Syntax(e.to_string())))?;
    }
    let chown = copy.chown.as_ref().map(word).transpose()?;
    let sources = copy.sources.iter().map(source).collect::<Result<_, _>>()?;
    let from = copy.from.as_ref().map(word).transpose()?;
    let exclude = copy.exclude.iter().map(word).collect::<Result<_, _>>()?;
    Ok(Copy { from, chown, chmod, exclude, sources, dest, ..copy.clone() })
}

/// Sources that are fetched, not copied.
fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ssh://"].iter().any(|p| source.starts_with(p))
}

/// The command with `expand` applied to its texts.
fn map_command(
    command: &Command,
    expand: impl Fn(&String) -> Result<String, ExpandError>,
) -> Result<Command, ExpandError> {
    Ok(match command {
        Command::Shell(text) => Command::Shell(expand(text)?),
        Command::Exec(elements) => {
            Command::Exec(elements.iter().map(expand).collect::<Result<_, _>>()?)
        }
    })
}

#[cfg(test)]
mod tests;
