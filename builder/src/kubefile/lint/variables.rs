//! Findings about ARG, ENV and the variables that lines name.

use std::collections::{BTreeMap, BTreeSet};

use super::stages::{self, Stage};
use super::{Findings, Rule};
use crate::kubefile::error::did_you_mean;
use crate::kubefile::expand::{self, Reference};
use crate::kubefile::{AppSource, Command, Copy, Instruction, Kubefile, Pair, Source, Statement};

/// So many known names are compared with an unknown one.
const MAX_COMPARED: usize = 200;

/// Names that FROM and ARG know without a declaration.
const PLATFORM: [&str; 8] = [
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
];

pub(super) fn check(file: &Kubefile, findings: &mut Findings) {
    file.statements.iter().for_each(|statement| secrets(statement, findings));
    let (global, stages) = stages::of(file);
    let globals = check_from(file, global, &stages, findings);
    let mut known: Vec<Known> = Vec::new();
    for (i, stage) in stages.iter().enumerate() {
        let inherited = stage.base.map_or_else(Known::default, |base| known[base].clone());
        let (unused, told) = (BTreeMap::new(), BTreeSet::new());
        let mut scope = Scope { file, globals: &globals, stage, known: inherited, unused, told };
        stage.statements.iter().for_each(|statement| scope.statement(statement, findings));
        // A stage that begins with this one knows its ARGs.
        if stages[i..].iter().all(|other| other.base != Some(i)) {
            scope.finish(findings);
        }
        known.push(scope.known);
    }
}

/// Names that a stage has declared.
#[derive(Clone)]
struct Known {
    /// By ENV.
    environment: BTreeSet<String>,
    /// By ARG.
    args: BTreeSet<String>,
}

impl Default for Known {
    fn default() -> Self {
        Self { environment: BTreeSet::from(["PATH".to_owned()]), args: BTreeSet::new() }
    }
}

/// Looks at the ARGs before FROM and at the FROMs; the names of those ARGs.
fn check_from<'a>(
    file: &'a Kubefile,
    global: &'a [Statement],
    stages: &[Stage<'a>],
    findings: &mut Findings,
) -> BTreeMap<&'a str, bool> {
    let mut used = BTreeSet::new();
    let mut has_default = BTreeMap::new();
    let args = global.iter().filter_map(|statement| match &statement.instruction {
        Instruction::Arg(arg) => Some((statement, arg)),
        _ => None,
    });
    for (_, arg) in args.clone() {
        for (name, default) in &arg.args {
            used.extend(references(default.as_deref(), file.escape).into_iter().map(|r| r.name));
            has_default.insert(name.as_str(), default.is_some());
        }
    }
    for stage in stages {
        for reference in references([&stage.from.image], file.escape) {
            let known = has_default.get(reference.name.as_str());
            from_variable(&reference, known.copied(), &stage.statements[0], findings);
            used.insert(reference.name);
        }
        let platform = references(stage.from.platform.as_deref(), file.escape);
        used.extend(platform.into_iter().map(|reference| reference.name));
        for statement in stage.statements {
            if let Instruction::Arg(arg) = &statement.instruction {
                used.extend(arg.args.iter().map(|(name, _)| name.clone()));
            }
        }
    }
    for (statement, arg) in args {
        let unused = |(name, _): &&(String, _)| !used.contains(name) && !is_platform(name);
        for (name, _) in arg.args.iter().filter(unused) {
            let message = format!("no FROM uses {name}, and no stage takes it with ARG {name}");
            findings.add(Rule::UnusedArg, statement, message);
        }
    }
    has_default
}

/// A variable of FROM, and whether it is an ARG, with a default.
fn from_variable(
    reference: &Reference,
    known: Option<bool>,
    statement: &Statement,
    findings: &mut Findings,
) {
    let name = &reference.name;
    if reference.guarded || is_platform(name) || known == Some(true) {
        return;
    }
    if known == Some(false) {
        let message = format!("{name} has no default, so FROM needs --build-arg {name}=VALUE");
        findings.add(Rule::ArgWithoutDefault, statement, message);
    } else {
        let message = format!("no ARG before FROM declares {name}");
        findings.add(Rule::UndefinedVariable, statement, message);
    }
}

fn is_platform(name: &str) -> bool {
    PLATFORM.contains(&name)
}

/// What the lines of a stage know.
struct Scope<'a> {
    file: &'a Kubefile,
    /// ARGs before FROM.
    globals: &'a BTreeMap<&'a str, bool>,
    stage: &'a Stage<'a>,
    /// So far, also in the stage that this one begins with.
    known: Known,
    /// ARGs that nothing has used yet.
    unused: BTreeMap<String, &'a Statement>,
    /// Names that were found undefined already.
    told: BTreeSet<String>,
}

impl<'a> Scope<'a> {
    fn statement(&mut self, statement: &'a Statement, findings: &mut Findings) {
        for reference in self.references(statement) {
            self.unused.remove(&reference.name);
            if !reference.guarded && !findings.is_full() {
                self.undefined(&reference.name, statement, findings);
            }
        }
        match &statement.instruction {
            Instruction::Arg(arg) => {
                for (name, _) in &arg.args {
                    self.known.args.insert(name.clone());
                    self.unused.insert(name.clone(), statement);
                }
            }
            Instruction::Env(env) => {
                self.known.environment.extend(env.pairs.iter().map(|pair| pair.key.clone()));
            }
            // What it runs may read all of them from its environment.
            Instruction::Run(_) => self.unused.clear(),
            _ => {}
        }
    }

    fn finish(&mut self, findings: &mut Findings) {
        for (name, statement) in std::mem::take(&mut self.unused) {
            let message = format!("nothing in the stage uses {name}");
            findings.add(Rule::UnusedArg, statement, message);
        }
    }

    /// A variable that nothing declares. The environment of a base image is not known; there only
    /// what looks like a slip counts.
    fn undefined(&mut self, name: &str, statement: &Statement, findings: &mut Findings) {
        let is_arch = name == "ARCH" && self.file.dialect == super::super::Dialect::Kubefile;
        let is_name = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
        let Known { environment, args } = &self.known;
        let known = environment.contains(name) || args.contains(name);
        if known || is_arch || !is_name || !self.told.insert(name.to_owned()) {
            return;
        }
        let message = if self.globals.contains_key(name) || is_platform(name) {
            format!("{name} is not known in this stage; take it with ARG {name}")
        } else {
            let names = environment.iter().chain(args).map(String::as_str);
            match did_you_mean(name, names.take(MAX_COMPARED)) {
                Some(near) => format!("no ARG or ENV declares {name}; did you mean {near}?"),
                None if self.stage.is_from_scratch => format!("no ARG or ENV declares {name}"),
                None => return,
            }
        };
        findings.add(Rule::UndefinedVariable, statement, message);
    }

    /// The variables that a statement of a stage names.
    fn references(&self, statement: &Statement) -> Vec<Reference> {
        let escape = self.file.escape;
        match &statement.instruction {
            Instruction::Arg(arg) => {
                references(arg.args.iter().filter_map(|(_, d)| d.as_deref()), escape)
            }
            Instruction::Env(env) => in_pairs(&env.pairs, escape),
            Instruction::Label(label) => in_pairs(&label.pairs, escape),
            Instruction::AppEnv(env) => in_pairs(&env.pairs, escape),
            Instruction::Add(add) => {
                let mut found = in_copy(&add.files, escape);
                found.extend(references(add.checksum.as_deref(), escape));
                found
            }
            Instruction::Copy(copy) => in_copy(copy, escape),
            Instruction::Expose(expose) => references(expose.ports.iter(), escape),
            Instruction::StopSignal(stop) => references([&stop.signal], escape),
            Instruction::User(user) => references([&user.user], escape),
            Instruction::Volume(volume) => references(volume.paths.iter(), escape),
            Instruction::Workdir(workdir) => references([&workdir.path], escape),
            Instruction::KubeVersion(version) => references([&version.range], escape),
            Instruction::App(app) | Instruction::Cni(app) | Instruction::Csi(app) => {
                let texts = app.sources.iter().map(|source| match source {
                    AppSource::Local(text) | AppSource::Remote(text) | AppSource::Chart(text) => {
                        text
                    }
                });
                references(texts.chain(&app.checksum), escape)
            }
            Instruction::Run(run) => {
                let options = run.mounts.iter().flat_map(|mount| &mount.options);
                references(options.filter_map(|(_, value)| value.as_deref()), escape)
            }
            Instruction::Cmd(cmd) => in_command(&cmd.command),
            Instruction::Entrypoint(entrypoint) => in_command(&entrypoint.command),
            Instruction::Cmds(cmds) => shell(cmds.commands.iter()),
            Instruction::AppCmds(cmds) => shell(cmds.commands.iter()),
            Instruction::From(_)
            | Instruction::Healthcheck(_)
            | Instruction::Launch(_)
            | Instruction::Maintainer(_)
            | Instruction::Onbuild(_)
            | Instruction::Shell(_) => Vec::new(),
        }
    }
}

fn references(texts: impl IntoIterator<Item = impl AsRef<str>>, escape: char) -> Vec<Reference> {
    texts.into_iter().flat_map(|text| expand::references(text.as_ref(), escape)).collect()
}

fn shell<'t>(texts: impl IntoIterator<Item = &'t String>) -> Vec<Reference> {
    texts.into_iter().flat_map(|text| expand::shell_references(text)).collect()
}

fn in_pairs(pairs: &[Pair], escape: char) -> Vec<Reference> {
    references(pairs.iter().flat_map(|pair| [&pair.key, &pair.value]), escape)
}

fn in_command(command: &Command) -> Vec<Reference> {
    match command {
        Command::Shell(line) => shell([line]),
        Command::Exec(elements) => shell(elements),
    }
}

fn in_copy(copy: &Copy, escape: char) -> Vec<Reference> {
    let words = copy.sources.iter().filter_map(|source| match source {
        Source::Path(path) => Some(path),
        Source::Inline(_) => None,
    });
    let flags = [&copy.from, &copy.chown, &copy.chmod].into_iter().flatten();
    let words = words.chain(flags).chain(&copy.exclude).chain([&copy.dest]);
    let mut found = references(words, escape);
    for source in &copy.sources {
        if let Source::Inline(heredoc) = source
            && heredoc.expand
        {
            found.extend(expand::shell_references(&heredoc.content));
        }
    }
    found
}

/// Parts of names that tell of a secret.
const SECRETS: [&str; 12] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "passwd",
    "password",
    "passphrase",
    "pword",
    "pwd",
    "secret",
    "token",
];

fn secrets(statement: &Statement, findings: &mut Findings) {
    let names: Vec<&String> = match &statement.instruction {
        Instruction::Arg(arg) => arg.args.iter().map(|(name, _)| name).collect(),
        Instruction::Env(env) => env.pairs.iter().map(|pair| &pair.key).collect(),
        _ => return,
    };
    let keyword = statement.instruction.keyword();
    for name in names.into_iter().filter(|name| is_secret(name)) {
        let message = format!("{keyword} {name} looks like a secret, which the image would keep");
        findings.add(Rule::SecretName, statement, message);
    }
}

fn is_secret(name: &str) -> bool {
    // The shell's current directory.
    if matches!(name, "PWD" | "OLDPWD") {
        return false;
    }
    let parts = parts(name);
    let has = |word: &str| parts.iter().any(|part| part == word);
    SECRETS.iter().any(|word| has(word)) && !has("public")
}

/// The words of `SNAKE_CASE` or `camelCase`, in lower case.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut before_lower = false;
    for c in name.chars() {
        let starts = !c.is_alphanumeric() || (c.is_uppercase() && before_lower);
        if starts {
            parts.push(String::new());
        }
        if c.is_alphanumeric() {
            let last = parts.last_mut().expect("there is always one");
            last.extend(c.to_lowercase());
        }
        before_lower = c.is_lowercase();
    }
    parts
}
