//! Findings about stages: their names, and what in them has no effect.

use std::collections::BTreeSet;

use super::{Findings, Rule};
use crate::kubefile::error::did_you_mean;
use crate::kubefile::{
    Command, Dialect, From, Instruction, Keyword, Kubefile, MountOptions, Statement,
};

/// A FROM and what follows it.
pub(super) struct Stage<'a> {
    pub(super) from: &'a From,
    /// With the FROM.
    pub(super) statements: &'a [Statement],
    /// It begins with nothing: FROM scratch, or a stage that does.
    pub(super) is_from_scratch: bool,
    /// The stage that it begins with.
    pub(super) base: Option<usize>,
}

/// The stages of a file, and the statements before the first.
pub(super) fn of(file: &Kubefile) -> (&[Statement], Vec<Stage<'_>>) {
    let is_from = |s: &Statement| matches!(s.instruction, Instruction::From(_));
    let first = file.statements.iter().position(is_from).unwrap_or(file.statements.len());
    let (global, rest) = file.statements.split_at(first);
    let mut stages: Vec<Stage<'_>> = Vec::new();
    let mut names = std::collections::BTreeMap::new();
    for statements in rest.chunk_by(|_, next| !is_from(next)) {
        let Instruction::From(from) = &statements[0].instruction else { continue };
        let base: Option<usize> = names.get(&from.image.to_ascii_lowercase()).copied();
        let is_from_scratch = match base {
            Some(base) => stages[base].is_from_scratch,
            None => from.image == "scratch",
        };
        if let Some(name) = &from.name {
            names.insert(name.clone(), stages.len());
        }
        stages.push(Stage { from, statements, is_from_scratch, base });
    }
    (global, stages)
}

pub(super) fn check(file: &Kubefile, findings: &mut Findings) {
    let (_, stages) = of(file);
    let mut names = BTreeSet::new();
    for stage in &stages {
        if let Some(name) = &stage.from.name
            && !names.insert(name.as_str())
        {
            let message = format!("a stage before this is called {name} too");
            findings.add(Rule::DuplicateStage, &stage.statements[0], message);
        }
    }
    for stage in &stages {
        overridden(stage, file.dialect, findings);
        workdir(stage, findings);
        if file.dialect == Dialect::Dockerfile {
            shell(stage, findings);
        }
        origins(stage, &names, findings);
    }
    apps(&stages, findings);
}

/// Instructions of which a stage has several, but only the last one counts.
fn overridden(stage: &Stage<'_>, dialect: Dialect, findings: &mut Findings) {
    let keywords = match dialect {
        Dialect::Dockerfile => [Keyword::Cmd, Keyword::Entrypoint, Keyword::Healthcheck],
        Dialect::Kubefile => [Keyword::Cmds, Keyword::Entrypoint, Keyword::Healthcheck],
    };
    for keyword in keywords {
        let all: Vec<&Statement> =
            stage.statements.iter().filter(|s| s.instruction.keyword() == keyword).collect();
        let Some((last, before)) = all.split_last() else { continue };
        for statement in before {
            let message = format!(
                "this {keyword} has no effect: the one in line {} counts",
                last.location.first
            );
            findings.add(Rule::Overridden, statement, message);
        }
    }
}

fn workdir(stage: &Stage<'_>, findings: &mut Findings) {
    // Of a stage or of nothing it is known where a path starts.
    if stage.base.is_some() || stage.is_from_scratch {
        return;
    }
    let first = stage.statements.iter().find_map(|statement| match &statement.instruction {
        Instruction::Workdir(workdir) => Some((statement, &workdir.path)),
        _ => None,
    });
    let Some((statement, path)) = first else { return };
    if !path.trim_start_matches(['"', '\'']).starts_with(['/', '$']) {
        let message = format!("{path} is relative to what the base image's WORKDIR happens to be");
        findings.add(Rule::RelativeWorkdir, statement, message);
    }
}

/// A RUN before anything is in the image. In a Kubefile it is for the host's tools.
fn shell(stage: &Stage<'_>, findings: &mut Findings) {
    if !stage.is_from_scratch || stage.base.is_some() {
        return;
    }
    for statement in stage.statements {
        match &statement.instruction {
            Instruction::Copy(_) | Instruction::Add(_) => return,
            Instruction::Run(run) => {
                let program = match &run.command {
                    Command::Shell(_) => "the shell",
                    Command::Exec(_) => "the program",
                };
                let message = format!("an image FROM scratch lacks {program} that this RUN needs");
                findings.add(Rule::NoShell, statement, message);
                return;
            }
            _ => {}
        }
    }
}

/// Images in the place of stages that are spelt nearly so.
fn origins(stage: &Stage<'_>, names: &BTreeSet<&str>, findings: &mut Findings) {
    for statement in stage.statements {
        let from = match &statement.instruction {
            Instruction::Copy(copy) => copy.from.as_deref().into_iter().collect(),
            Instruction::Run(run) => run.mounts.iter().filter_map(mount_from).collect(),
            _ => Vec::new(),
        };
        for name in from {
            let lower = name.to_ascii_lowercase();
            let is_plain = !lower.contains(['/', ':', '$', '@']) && lower.parse::<u64>().is_err();
            if findings.is_full() || !is_plain || names.contains(lower.as_str()) {
                continue;
            }
            if let Some(near) = did_you_mean(&lower, names.iter().copied()) {
                let message =
                    format!("no stage is called {name}, so it is an image; did you mean {near}?");
                findings.add(Rule::UnknownStage, statement, message);
            }
        }
    }
}

fn mount_from(mount: &MountOptions) -> Option<&str> {
    let (_, value) = mount.options.iter().find(|(key, _)| key == "from")?;
    value.as_deref()
}

/// Applications that are nowhere; only where the base cannot have them.
fn apps(stages: &[Stage<'_>], findings: &mut Findings) {
    let mut known: Vec<BTreeSet<&str>> = Vec::new();
    for stage in stages {
        let mut apps = stage.base.map_or_else(BTreeSet::new, |base| known[base].clone());
        for statement in stage.statements {
            let named: Vec<&str> = match &statement.instruction {
                Instruction::App(app) | Instruction::Cni(app) | Instruction::Csi(app) => {
                    apps.insert(&app.name);
                    Vec::new()
                }
                Instruction::AppCmds(cmds) => vec![&cmds.app],
                Instruction::AppEnv(env) => vec![&env.app],
                Instruction::Launch(launch) => launch.apps.iter().map(String::as_str).collect(),
                _ => Vec::new(),
            };
            for name in named {
                if !stage.is_from_scratch || apps.contains(name) || findings.is_full() {
                    continue;
                }
                let near = did_you_mean(name, apps.iter().copied());
                let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
                let message = format!("no APP, CNI or CSI above defines {name}{hint}");
                findings.add(Rule::UnknownApp, statement, message);
            }
        }
        known.push(apps);
    }
}
