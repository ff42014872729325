//! What a build file asks for, in order, before anything is done: the stages, their bases, their
//! steps with variables expanded, and which stage needs which. Pure.
//!
//! All steps are expanded before the first one runs: their values depend on the file, the build
//! arguments and the base's config, never on what a RUN does. So a mistake in the last line is
//! reported before the first RUN.

mod expanded;
mod scope;
mod unsupported;

use std::collections::BTreeMap;
use std::sync::Arc;

use kfs_fs::oci::manifest::{ImageConfig, Platform};

use crate::config::{StageConfig, triggers};
use crate::kubefile::expand::{self, ExpandError};
use crate::kubefile::lint::{Checks, Level};
use crate::kubefile::{
    Command, CopyRule, Dialect, From, Instruction, Kubefile, KubefileError, Location, Problem,
    Statement, Warning,
};
use expanded::{expanded, located};
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
    /// `--target`: the stage to build, by name or number; the last one without.
    pub stage: Option<String>,
    /// Names of `--build-context`, in lower case: each goes before a stage or image of its name.
    pub contexts: Vec<String>,
    /// The images among the `--build-context`s, by their names in lower case.
    pub images: BTreeMap<String, String>,
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
    /// An earlier stage, by its number.
    Stage(usize),
    /// The directory of a `--build-context`, by its name.
    Context(String),
}

/// Where a step takes files from, beside the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Another stage, by its number.
    Stage(usize),
    /// A `--build-context`, by its name.
    Context(String),
    /// An image, as written.
    Image(String),
}

/// One statement of a stage.
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
    /// What the names in its `from`s mean.
    pub origins: Vec<(String, Origin)>,
}

impl Step {
    /// What a name in one of its `from`s means.
    pub fn origin(&self, from: &str) -> Option<&Origin> {
        self.origins.iter().find(|(name, _)| name == from).map(|(_, origin)| origin)
    }
}

/// A stage of the file.
#[derive(Clone, Debug)]
pub struct StagePlan {
    name: Option<String>,
    base: Base,
    from: Statement,
    statements: Vec<Statement>,
}

impl StagePlan {
    /// From `AS`, in lower case.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// What it begins with.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The FROM: step 1.
    pub fn from(&self) -> &Statement {
        &self.from
    }
}

/// A stage with its variables expanded.
#[derive(Clone, Debug)]
pub struct Expanded {
    /// After FROM, triggers of the base first.
    pub steps: Vec<Step>,
    /// How many steps there are, FROM included.
    pub total: usize,
    /// What the stage's image has for a config.
    pub config: ImageConfig,
    /// What the last line of the stage sees, for stages that begin with this one.
    scope: Scope,
}

/// A file that can be built.
#[derive(Clone, Debug)]
pub struct Plan {
    dialect: Dialect,
    copy_rule: CopyRule,
    checks: Checks,
    stages: Vec<StagePlan>,
    target: usize,
    named: Named,
    scope: Scope,
    warnings: Vec<Warning>,
}

/// What `--build-context` names.
#[derive(Clone, Debug)]
struct Named {
    directories: Vec<String>,
    images: BTreeMap<String, String>,
}

impl Plan {
    /// Plans the stages of a file.
    ///
    /// Fails if a base's name cannot be expanded, or if there is no stage as the user wants.
    pub fn new(file: Kubefile, options: Options) -> Result<Self, KubefileError> {
        let copy_rule =
            options.copy_rule.or(file.copy_rule).unwrap_or_else(|| file.dialect.copy_rule());
        let named = Named { directories: options.contexts.clone(), images: options.images.clone() };
        let wanted = options.stage.clone();
        let mut scope = Scope::new(file.dialect, file.escape, options);
        let mut warnings = file.warnings;
        warnings.extend(scope.unused(&file.statements));
        warnings.retain(|warning| !file.checks.skips(warning.rule));
        if file.checks.error {
            no_warnings(&file.name, &warnings)?;
        }
        let mut stages: Vec<StagePlan> = Vec::new();
        for statement in file.statements {
            match (&statement.instruction, stages.last_mut()) {
                (Instruction::Arg(arg), None) => {
                    scope.declare_before_from(arg).map_err(|e| located(&statement, e))?;
                }
                (Instruction::From(from), _) => {
                    if stages.len() == MAX_STAGES {
                        let text = format!("the file has more than {MAX_STAGES} stages");
                        let problem = Problem::Syntax(text);
                        return Err(KubefileError::new(&statement.location, problem));
                    }
                    let base = base(from, &scope, &statement, &stages, &named)?;
                    let name = from.name.clone();
                    stages.push(StagePlan { name, base, from: statement, statements: Vec::new() });
                }
                (_, Some(stage)) => stage.statements.push(statement),
                (_, None) => unreachable!("the parser refuses all but ARG before FROM"),
            }
        }
        let target = find_target(&file.name, &stages, wanted.as_deref())?;
        let dialect = file.dialect;
        let checks = file.checks;
        Ok(Self { dialect, copy_rule, checks, stages, target, named, scope, warnings })
    }

    /// Whose rules the file follows.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Where a COPY puts its sources: what the user says, else the file's head, else the dialect.
    pub fn copy_rule(&self) -> CopyRule {
        self.copy_rule
    }

    /// Which rules the file is not to be held to.
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// All stages of the file, by their number.
    pub fn stages(&self) -> &[StagePlan] {
        &self.stages
    }

    /// The number of the stage to build.
    pub fn target(&self) -> usize {
        self.target
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

    /// The steps of stage `number`, expanded on a base with this config. For a stage that begins
    /// with another one, `parent` is that one: its ARGs are known in this stage, too (Dockerfile
    /// reference, "Scope" of ARG).
    ///
    /// Fails with the line whose variables, flags or values are wrong.
    pub fn expand(
        &self,
        number: usize,
        base: &ImageConfig,
        parent: Option<&Expanded>,
    ) -> Result<Expanded, KubefileError> {
        let stage = &self.stages[number];
        let mut statements = self.triggers(stage, base)?;
        statements.extend(stage.statements.iter().cloned());
        let total = statements.len() + 1;
        let mut scope = parent.map_or_else(|| self.scope.clone(), |parent| parent.scope.clone());
        let mut config = StageConfig::new(base.clone(), self.dialect);
        let mut steps = Vec::new();
        for (i, statement) in statements.iter().enumerate() {
            if let Some(what) = unsupported(&statement.instruction) {
                return Err(KubefileError::new(&statement.location, Problem::Unsupported(what)));
            }
            let instruction = expanded(&statement.instruction, &mut scope, &config)
                .and_then(|instruction| {
                    config.apply(&instruction)?;
                    Ok(instruction)
                })
                .map_err(|error| located(statement, error))?;
            steps.push(Step {
                index: i + 2,
                total,
                location: statement.location.clone(),
                text: statement.text.clone(),
                origins: self.origins(&instruction),
                instruction,
                build_args: scope.visible(&config),
            });
        }
        Ok(Expanded { steps, total, config: config.into_image(), scope })
    }

    /// The statements that a base which is a directory, or its ONBUILD lines, put at the head of a
    /// stage.
    fn triggers(
        &self,
        stage: &StagePlan,
        base: &ImageConfig,
    ) -> Result<Vec<Statement>, KubefileError> {
        let location = &stage.from.location;
        let mut statements = Vec::new();
        // A directory is what the stage begins with, as for BuildKit, if its files are copied
        // first.
        let copied = match &stage.base {
            Base::Context(name) => Some(format!("COPY --from={name} . /")),
            Base::Scratch | Base::Image { .. } | Base::Stage(_) => None,
        };
        for trigger in copied.into_iter().chain(triggers(base)) {
            let refused = |why: String| {
                let text = format!("the base's trigger ONBUILD {trigger} cannot be built: {why}");
                KubefileError::new(location, Problem::Syntax(text))
            };
            // The same language, so the same parser; only what may stand in a file is left.
            let file = format!("FROM scratch\n{trigger}\n");
            let file = Kubefile::parse("ONBUILD", file.as_bytes(), self.dialect)
                .map_err(|error| refused(error.problem.to_string()))?;
            let mut rest = file.statements.into_iter().skip(1);
            match (rest.next(), rest.next()) {
                (Some(one), None)
                    if !matches!(
                        one.instruction,
                        Instruction::From(_) | Instruction::Onbuild(_)
                    ) =>
                {
                    statements.push(Statement { location: location.clone(), ..one });
                }
                _ => return Err(refused("it is not one instruction of a stage".to_owned())),
            }
        }
        Ok(statements)
    }

    /// What the `from`s of an instruction mean: a named context goes before a stage of that name
    /// or number, and a stage before an image.
    fn origins(&self, instruction: &Instruction) -> Vec<(String, Origin)> {
        let mut origins = Vec::new();
        for from in froms(instruction) {
            let name = from.to_ascii_lowercase();
            let origin = if self.named.directories.contains(&name) {
                Origin::Context(name)
            } else if let Some(image) = self.named.images.get(&name) {
                Origin::Image(image.clone())
            } else if let Some(number) = find_stage(&self.stages, &from) {
                Origin::Stage(number)
            } else {
                Origin::Image(from.clone())
            };
            origins.push((from, origin));
        }
        origins
    }
}

/// More than any real file has; planning follows stages from one to the other.
const MAX_STAGES: usize = 250;

/// The names of other trees that an instruction takes files from.
fn froms(instruction: &Instruction) -> Vec<String> {
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().cloned().collect(),
        Instruction::Run(run) => {
            let mounts = run.mounts.iter().filter_map(|options| options.mount().ok());
            mounts.filter_map(|mount| mount.from().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

/// A stage by its name, the last one of that name, or by its number.
fn find_stage(stages: &[StagePlan], wanted: &str) -> Option<usize> {
    let named = |stage: &StagePlan| {
        stage.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(wanted))
    };
    let number = || wanted.parse().ok().filter(|number| *number < stages.len());
    stages.iter().rposition(named).or_else(number)
}

/// Fails for the first of the warnings: `# check=error=true`.
fn no_warnings(file: &Arc<str>, warnings: &[Warning]) -> Result<(), KubefileError> {
    let mut warnings = warnings.iter().filter(|warning| warning.rule.level() == Level::Warning);
    let Some(Warning { rule, location, message }) = warnings.next() else { return Ok(()) };
    let start = || Location { file: file.clone(), first: 1, last: 1, lines: Arc::new([]) };
    let problem = Problem::Syntax(format!("{message} [{rule}]"));
    let error = KubefileError::new(&location.clone().unwrap_or_else(start), problem);
    Err(error.suggest(format!("the file's # check wants no warnings; or add skip={rule} to it")))
}

/// The stage that the user wants to have built.
fn find_target(
    file: &Arc<str>,
    stages: &[StagePlan],
    wanted: Option<&str>,
) -> Result<usize, KubefileError> {
    let Some(wanted) = wanted else { return Ok(stages.len() - 1) };
    find_stage(stages, wanted).ok_or_else(|| {
        let location = Location { file: file.clone(), first: 1, last: 1, lines: Arc::new([]) };
        let problem = Problem::File(format!("the file has no stage {wanted}"));
        let names: Vec<&str> = stages.iter().filter_map(StagePlan::name).collect();
        KubefileError::new(&location, problem).suggest(match &names[..] {
            [] => format!(
                "name stages with FROM IMAGE AS NAME, or use numbers from 0 to {}",
                stages.len() - 1
            ),
            names => format!("its stages: {}", names.join(", ")),
        })
    })
}

/// The base that a FROM names.
fn base(
    from: &From,
    scope: &Scope,
    statement: &Statement,
    stages: &[StagePlan],
    known: &Named,
) -> Result<Base, KubefileError> {
    let expand = |text: &str| scope.before_from(text).map_err(|error| located(statement, error));
    let name = expand(&from.image)?;
    if name.trim().is_empty() {
        let problem = Problem::Syntax(format!("{} is empty, so FROM names no image", from.image));
        return Err(KubefileError::new(&statement.location, problem)
            .suggest("give its ARG before FROM a default, or pass --build-arg NAME=VALUE"));
    }
    let platform = from.platform.as_deref().map(expand).transpose()?.filter(|p| !p.is_empty());
    // `--platform` means nothing where there is nothing to choose from.
    let lower = name.to_ascii_lowercase();
    if known.directories.contains(&lower) {
        return Ok(Base::Context(lower));
    }
    if let Some(image) = known.images.get(&lower) {
        return Ok(Base::Image { name: image.clone(), platform });
    }
    // A number is no stage here: images may be called so.
    let named = |stage: &StagePlan| {
        stage.name.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(&name))
    };
    Ok(match stages.iter().rposition(named) {
        Some(number) => Base::Stage(number),
        None if name == "scratch" => Base::Scratch,
        None => Base::Image { name, platform },
    })
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
