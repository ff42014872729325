//! How a cluster image is launched: which shell lines, in which order and environment.
//!
//! | the image has | what is run |
//! |---|---|
//! | LAUNCH | the applications that it names, in its order |
//! | CMDS, CMD (in the annotation) | these lines |
//! | ENTRYPOINT, CMD (in the config, as of Sealos) | each element, a line; ENTRYPOINT's first |
//!
//! The first row that the image has holds. Applications that are chosen stand before all of them,
//! lines that are given in the place of CMDS and CMD. Nothing is read or run here.

mod expand;

use std::collections::{BTreeMap, BTreeSet};

use kfs_fs::oci::manifest::ContainerConfig;
use serde::Serialize;

use super::app::{AppKind, Application, quoted};
use super::extension::{self, Extension};
pub use expand::is_name;

/// Names of variables with it are Sealos's own (seed document 4, "Kubefile Parameters").
const PROTECTED: &str = "SEALOS_SYS";
/// The labels that say what an image of Sealos is.
const TYPE_LABELS: [&str; 2] = ["sealos.io.type", "apps.sealos.io/type"];
/// The variable with the version of Kubernetes that an image brings.
const KUBE_VERSION: &str = "SEALOS_SYS_KUBE_VERSION";

/// Variables by their names.
pub type Variables = BTreeMap<String, String>;

/// What is asked for beside what the image says.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Applications, instead of those that the image launches.
    pub apps: Vec<String>,
    /// Shell lines, instead of CMDS and CMD.
    pub commands: Vec<String>,
    /// Variables; they hold before the image's.
    pub env: Variables,
    /// Files with values for the charts of applications, by application, as the lines will name
    /// them.
    pub values: BTreeMap<String, Vec<String>>,
}

/// A shell line to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The application that it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// For `/bin/sh -c`, in the root of the image's file system.
    pub command: String,
    /// Variables for it alone, beside those for all.
    #[serde(skip_serializing_if = "Variables::is_empty")]
    pub env: Variables,
}

/// All that is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The lines, in order.
    pub steps: Vec<Step>,
    /// Variables for all of them, and for templates.
    pub env: Variables,
    /// Variables of the applications that are launched, or of all if lines are; those for all are
    /// in them.
    pub app_env: BTreeMap<String, Variables>,
    /// Variables that stand in lines as `$(NAME)` and that nobody sets.
    pub unknown: BTreeSet<String>,
}

/// Why an image cannot be launched.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// It says nothing of that.
    #[error("the image does not say how it is launched: it has no LAUNCH, CMDS, CMD or ENTRYPOINT")]
    Nothing,
    /// It has a `/bin/sh` and no sign of being a cluster image.
    #[error("it is the image of a container, not of a cluster or its applications")]
    Container,
    /// An application is not there or cannot be started.
    #[error(transparent)]
    Application(#[from] extension::LaunchError),
    /// The name of a variable that is given.
    #[error("{0:?} cannot be the name of a variable")]
    Name(String),
    /// A variable that only the launch itself may set.
    #[error("{0} cannot be set: names that begin with {PROTECTED} are the launch's own")]
    Protected(String),
    /// Values for what no chart starts.
    #[error("values for {0:?}: it is not started by `helm install`, but by {1}")]
    NoChart(String, &'static str),
    /// Values for what is not launched.
    #[error("values for {0:?}: it is not launched")]
    NotLaunched(String),
}

impl Launch {
    /// What is run of an image with this config and extension. `has_shell` is whether its file
    /// system has a `/bin/sh`.
    pub fn plan(
        config: &ContainerConfig,
        extension: Option<&Extension>,
        has_shell: bool,
        request: &Request,
    ) -> Result<Self, PlanError> {
        check_names(&request.env)?;
        let mut env = image_env(config, extension);
        env.extend(request.env.clone());
        env.extend(kube_version(config));
        let mut launch =
            Self { steps: Vec::new(), env, app_env: BTreeMap::new(), unknown: BTreeSet::new() };
        let default = Extension::default();
        let known = extension.unwrap_or(&default);
        if !request.apps.is_empty()
            || (request.commands.is_empty() && !known.launch.apps.is_empty())
        {
            launch.applications(known, request)?;
        } else if let Some(app) = request.values.keys().next() {
            return Err(PlanError::NotLaunched(app.clone()));
        } else if !known.launch.cmds.is_empty() {
            launch.commands(config, &known.launch.cmds, &request.commands);
        } else {
            if extension.is_none() && !has_sealos_label(config) && has_shell {
                return Err(PlanError::Container);
            }
            launch.sealos(config, &request.commands);
        }
        if launch.app_env.is_empty() {
            launch.app_env =
                known.applications.iter().map(|app| launch.env_of(app, request)).collect();
        }
        if launch.steps.is_empty() { Err(PlanError::Nothing) } else { Ok(launch) }
    }

    fn applications(&mut self, extension: &Extension, request: &Request) -> Result<(), PlanError> {
        let apps = extension.launched(&request.apps)?;
        let is_launched = |name: &&String| apps.iter().any(|app| app.name == **name);
        if let Some(name) = request.values.keys().find(|name| !is_launched(name)) {
            return Err(PlanError::NotLaunched(name.clone()));
        }
        for app in apps {
            let mut command = Extension::command_of(app)?;
            for file in request.values.get(&app.name).into_iter().flatten() {
                is_chart(app)?;
                command.push_str(" -f ");
                command.push_str(&quoted(file));
            }
            let (name, env) = self.env_of(app, request);
            let own = env.iter().filter(|(name, value)| self.env.get(*name) != Some(value));
            let own = own.map(|(name, value)| (name.clone(), value.clone())).collect();
            self.steps.push(Step { application: Some(name.clone()), command, env: own });
            self.app_env.insert(name, env);
        }
        Ok(())
    }

    /// The lines of CMDS and CMD, or those that are given. CMD stands in the config as well, and is
    /// what Sealos would read there.
    fn commands(&mut self, config: &ContainerConfig, cmds: &[String], given: &[String]) {
        if !given.is_empty() {
            return self.steps.extend(given.iter().cloned().map(Step::of));
        }
        let of_cmd = config.cmd.as_deref().unwrap_or(&[]);
        for line in cmds {
            match of_cmd.contains(line) {
                true => self.expanded(line),
                false => self.steps.push(Step::of(line.clone())),
            }
        }
    }

    /// A line in which variables are written as Kubernetes has them.
    fn expanded(&mut self, line: &str) {
        let expanded = expand::expand(line, &|name| self.env.contains_key(name));
        self.unknown.extend(expanded.unknown);
        self.steps.push(Step::of(expanded.line));
    }

    /// The lines of ENTRYPOINT, and of CMD; in its place those that are given, which are a shell's.
    fn sealos(&mut self, config: &ContainerConfig, given: &[String]) {
        let lines = |lines: &Option<Vec<String>>| without_shell(lines.as_deref().unwrap_or(&[]));
        let mut all = lines(&config.entrypoint);
        if given.is_empty() {
            all.extend(lines(&config.cmd));
        }
        all.iter().for_each(|line| self.expanded(line));
        self.steps.extend(given.iter().cloned().map(Step::of));
    }

    /// The variables of an application: APPENV holds before ENV, what is given before both.
    fn env_of(&self, app: &Application, request: &Request) -> (String, Variables) {
        let mut env = self.env.clone();
        env.extend(app.env.clone());
        env.extend(request.env.clone());
        (app.name.clone(), env)
    }
}

impl Step {
    fn of(command: String) -> Self {
        Self { application: None, command, env: Variables::new() }
    }
}

/// Whether it is an image of Sealos, by its labels.
pub fn has_sealos_label(config: &ContainerConfig) -> bool {
    TYPE_LABELS.iter().any(|label| config.labels.contains_key(*label))
}

/// Checks the names of variables that are given.
fn check_names(env: &Variables) -> Result<(), PlanError> {
    for name in env.keys() {
        if name.starts_with(PROTECTED) {
            return Err(PlanError::Protected(name.clone()));
        }
        // dash drops variables with other names, and no template could say them.
        if !is_name(name) {
            return Err(PlanError::Name(name.clone()));
        }
    }
    Ok(())
}

/// ENV: as the config has it, then as Sealer noted it. PATH is one for containers.
fn image_env(config: &ContainerConfig, extension: Option<&Extension>) -> Variables {
    let pairs = config.env.iter().filter_map(|line| line.split_once('='));
    let mut env: Variables =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    env.extend(extension.into_iter().flat_map(|extension| extension.env.clone()));
    env.remove("PATH");
    env
}

/// What Sealos sets for an image that brings Kubernetes, of which the label `version` tells.
fn kube_version(config: &ContainerConfig) -> Option<(String, String)> {
    let is_rootfs = TYPE_LABELS.iter().any(|label| {
        config.labels.get(*label).is_some_and(|kind| kind.eq_ignore_ascii_case("rootfs"))
    });
    let version = config.labels.get("version").filter(|_| is_rootfs)?;
    Some((KUBE_VERSION.to_owned(), version.clone()))
}

/// The lines without the `/bin/sh -c` that the shell form of an instruction puts before them.
pub(super) fn without_shell(lines: &[String]) -> Vec<String> {
    match lines {
        [shell, option, rest @ ..] if shell == "/bin/sh" && option == "-c" => rest.to_vec(),
        all => all.to_vec(),
    }
}

fn is_chart(app: &Application) -> Result<(), PlanError> {
    let by = match app.kind {
        _ if !app.cmds.is_empty() => "APPCMDS",
        Some(AppKind::Helm) => return Ok(()),
        Some(AppKind::Kube) => "`kubectl apply`",
        Some(AppKind::Shell) | None => "its scripts",
    };
    Err(PlanError::NoChart(app.name.clone(), by))
}

#[cfg(test)]
mod tests;
