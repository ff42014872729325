//! Which variables a line sees, by Docker's rules.
//!
//! | where | sees, the first that knows the name |
//! |---|---|
//! | ARG before FROM, FROM | ARGs before FROM so far, platform arguments |
//! | after FROM | the image's environment, ARGs of the stage so far |
//!
//! An ARG's value is the user's `--build-arg`, else its default, which is not looked at otherwise,
//! else (for an ARG without default after FROM) what an ARG of this name has before FROM, else the
//! platform argument's, else what an earlier ARG of the stage gave it.

use std::collections::BTreeSet;

use kfs_fs::oci::manifest::Platform;

use super::{Options, expand, map_command};
use crate::config::StageConfig;
use crate::kubefile::expand::ExpandError;
use crate::kubefile::{Arg, Command, Dialect, Instruction, Rule, Statement, Warning};

/// Docker knows these without an ARG, in upper and lower case.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// The variables of a file while it is read from top to bottom.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    dialect: Dialect,
    escape: char,
    /// What COPY of a Kubefile calls `${ARCH}`.
    arch: String,
    build_args: Vec<(String, String)>,
    platform: Vec<(String, String)>,
    before_from: Vec<(String, Option<String>)>,
    stage: Vec<(String, Option<String>)>,
}

impl Scope {
    pub(super) fn new(dialect: Dialect, escape: char, options: Options) -> Self {
        let mut platform = platform_args("TARGET", &options.target);
        platform.extend(platform_args("BUILD", &options.build));
        Self {
            dialect,
            escape,
            arch: options.target.architecture,
            build_args: options.build_args,
            platform,
            before_from: Vec::new(),
            stage: Vec::new(),
        }
    }

    /// Whether COPY takes URLs, too.
    pub(super) fn copy_fetches(&self) -> bool {
        self.dialect == Dialect::Kubefile
    }

    /// Declares an ARG that stands before FROM.
    pub(super) fn declare_before_from(&mut self, arg: &Arg) -> Result<(), ExpandError> {
        let mut declared = Vec::new();
        for (name, default) in &arg.args {
            let given = match self.build_arg(name) {
                Some(value) => Some(value),
                None => default.as_ref().map(|text| self.before_from(text)).transpose()?,
            };
            declared.push((name.clone(), given.or_else(|| get(&self.platform, name))));
        }
        declared.into_iter().for_each(|(name, value)| set(&mut self.before_from, name, value));
        Ok(())
    }

    /// Declares an ARG of the stage and returns it with its values.
    pub(super) fn declare(&mut self, arg: &Arg, config: &StageConfig) -> Result<Arg, ExpandError> {
        let mut args = Vec::new();
        for (name, default) in &arg.args {
            let name = self.word(name, config)?;
            let given = match self.build_arg(&name) {
                Some(value) => Some(value),
                None => default.as_ref().map(|text| self.word(text, config)).transpose()?,
            };
            let value = given
                .or_else(|| get_opt(&self.before_from, &name))
                .or_else(|| get(&self.platform, &name))
                .or_else(|| get_opt(&self.stage, &name));
            args.push((name, value));
        }
        for (name, value) in &args {
            set(&mut self.stage, name.clone(), value.clone());
        }
        Ok(Arg { args })
    }

    /// Expands a word of FROM or of an ARG before it.
    pub(super) fn before_from(&self, text: &str) -> Result<String, ExpandError> {
        let lookup = |name: &str| {
            get_opt(&self.before_from, name).or_else(|| {
                let declared = self.before_from.iter().any(|(known, _)| known == name);
                if declared { None } else { self.build_platform(name) }
            })
        };
        expand::word(text, self.escape, &lookup)
    }

    /// Expands a word of the stage.
    pub(super) fn word(&self, text: &str, config: &StageConfig) -> Result<String, ExpandError> {
        expand::word(text, self.escape, &|name| self.get(name, config))
    }

    /// Expands a word of COPY: a Kubefile's also knows ARCH, unless the file declares it itself.
    pub(super) fn copy_word(
        &self,
        text: &str,
        config: &StageConfig,
    ) -> Result<String, ExpandError> {
        expand::word(text, self.escape, &|name| self.copy_get(name, config))
    }

    /// Expands a source of COPY that may be a pattern.
    pub(super) fn copy_source(
        &self,
        text: &str,
        config: &StageConfig,
    ) -> Result<String, ExpandError> {
        expand::pattern(text, self.escape, &|name| self.copy_get(name, config))
    }

    fn copy_get(&self, name: &str, config: &StageConfig) -> Option<String> {
        let arch = (self.dialect == Dialect::Kubefile).then_some(&self.arch);
        self.get(name, config).or_else(|| arch.filter(|_| name == "ARCH").cloned())
    }

    /// Expands the lines of a heredoc that COPY writes.
    pub(super) fn heredoc(&self, text: &str, config: &StageConfig) -> Result<String, ExpandError> {
        expand::heredoc(text, &|name| self.get(name, config))
    }

    /// A CMD: in a Kubefile ARGs are expanded, as no shell will know them when the cluster starts.
    /// A name that ENV sets too is left to that shell, where its value can still be changed.
    pub(super) fn command(
        &self,
        command: &Command,
        config: &StageConfig,
    ) -> Result<Command, ExpandError> {
        if self.dialect == Dialect::Dockerfile {
            return Ok(command.clone());
        }
        map_command(command, |text| expand::known(text, &self.args_only(config)))
    }

    /// The same for shell lines of a cluster image.
    pub(super) fn lines(
        &self,
        lines: &[String],
        config: &StageConfig,
    ) -> Result<Vec<String>, ExpandError> {
        lines.iter().map(|line| expand::known(line, &self.args_only(config))).collect()
    }

    /// ARGs that no ENV hides.
    fn args_only(&self, config: &StageConfig) -> impl Fn(&str) -> Option<String> {
        move |name: &str| match config.env(name) {
            Some(_) => None,
            None => get_opt(&self.stage, name),
        }
    }

    /// The ARGs that a RUN sees.
    pub(super) fn visible(&self, config: &StageConfig) -> Vec<(String, String)> {
        let visible = |(name, value): &(String, Option<String>)| {
            let value = value.clone()?;
            config.env(name).is_none().then(|| (name.clone(), value))
        };
        self.stage.iter().filter_map(visible).collect()
    }

    /// Proxies among the user's build arguments.
    pub(super) fn proxies(&self) -> Vec<(String, String)> {
        let mut proxies = Vec::new();
        for (name, value) in self.build_args.iter().filter(|(name, _)| is_proxy(name)) {
            set(&mut proxies, name.clone(), value.clone());
        }
        proxies
    }

    /// Build arguments that no ARG of the file takes.
    pub(super) fn unused(&self, statements: &[Statement]) -> Vec<Warning> {
        let declared: BTreeSet<&str> = statements
            .iter()
            .filter_map(|statement| match &statement.instruction {
                Instruction::Arg(arg) => Some(arg),
                _ => None,
            })
            .flat_map(|arg| arg.args.iter().map(|(name, _)| name.as_str()))
            .collect();
        let known = |name: &str| declared.contains(name) || is_proxy(name);
        let platform = |name: &str| self.platform.iter().any(|(known, _)| known == name);
        let unused: BTreeSet<&str> = self
            .build_args
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !known(name) && !platform(name))
            .collect();
        unused
            .into_iter()
            .map(|name| Warning {
                rule: Rule::UnusedBuildArg,
                location: None,
                message: format!("build argument {name} is not used: no ARG declares it"),
            })
            .collect()
    }

    fn get(&self, name: &str, config: &StageConfig) -> Option<String> {
        config.env(name).map(str::to_owned).or_else(|| get_opt(&self.stage, name))
    }

    fn build_arg(&self, name: &str) -> Option<String> {
        self.build_args.iter().rev().find(|(known, _)| known == name).map(|(_, v)| v.clone())
    }

    /// A platform argument, which the user may override.
    fn build_platform(&self, name: &str) -> Option<String> {
        let own = get(&self.platform, name)?;
        Some(self.build_arg(name).unwrap_or(own))
    }
}

fn is_proxy(name: &str) -> bool {
    PROXIES.iter().any(|proxy| name == *proxy || name == proxy.to_ascii_lowercase())
}

fn get(list: &[(String, String)], name: &str) -> Option<String> {
    list.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

fn get_opt(list: &[(String, Option<String>)], name: &str) -> Option<String> {
    list.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.clone())
}

/// A name that is there keeps its place.
fn set<T>(list: &mut Vec<(String, T)>, name: String, value: T) {
    match list.iter_mut().find(|(known, _)| *known == name) {
        Some((_, old)) => *old = value,
        None => list.push((name, value)),
    }
}

/// BuildKit's predefined arguments for one platform.
fn platform_args(prefix: &str, platform: &Platform) -> Vec<(String, String)> {
    let variant = platform.variant.clone().unwrap_or_default();
    let mut whole = format!("{}/{}", platform.os, platform.architecture);
    if !variant.is_empty() {
        whole = format!("{whole}/{variant}");
    }
    [
        ("PLATFORM", whole),
        ("OS", platform.os.clone()),
        ("ARCH", platform.architecture.clone()),
        ("VARIANT", variant),
    ]
    .map(|(name, value)| (format!("{prefix}{name}"), value))
    .to_vec()
}
