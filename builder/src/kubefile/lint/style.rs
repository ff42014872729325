//! Findings about how single lines are written.

use super::{Findings, Rule};
use crate::kubefile::{Command, Dialect, Instruction, Keyword, Kubefile, Statement, words};

pub(super) fn check(file: &Kubefile, findings: &mut Findings) {
    keyword_case(file, findings);
    for (i, statement) in file.statements.iter().enumerate() {
        match &statement.instruction {
            Instruction::From(from) => {
                as_case(statement, findings);
                platform(from.platform.as_deref(), statement, findings);
                stage_name(statement, findings);
            }
            Instruction::Maintainer(_) => {
                let message = "MAINTAINER is deprecated; write LABEL \
                               org.opencontainers.image.authors=\"...\"";
                findings.add(Rule::Maintainer, statement, message);
            }
            Instruction::Env(_) | Instruction::Label(_) => legacy_pair(statement, findings),
            Instruction::Expose(expose) => published(&expose.ports, statement, findings),
            Instruction::Cmd(cmd) => json(file, i, &cmd.command, findings),
            Instruction::Entrypoint(entry) => json(file, i, &entry.command, findings),
            _ => {}
        }
    }
}

/// The word that a statement begins with, as it is written.
fn written(statement: &Statement) -> &str {
    statement.location.lines.first().map_or("", |line| words::first(line.trim_start()).0)
}

fn is_upper(word: &str) -> bool {
    !word.contains(|c: char| c.is_ascii_lowercase())
}

fn is_lower(word: &str) -> bool {
    !word.contains(|c: char| c.is_ascii_uppercase())
}

/// The case of most keywords is the one that is meant.
fn keyword_case(file: &Kubefile, findings: &mut Findings) {
    let count = |is: fn(&str) -> bool| file.statements.iter().filter(|s| is(written(s))).count();
    let (is_right, name): (fn(&str) -> bool, _) =
        if count(is_lower) > count(is_upper) { (is_lower, "lower") } else { (is_upper, "upper") };
    for statement in &file.statements {
        let word = written(statement);
        // With an odd line end the word may have more on it; then it is left alone.
        if !is_right(word) && Keyword::of(word).is_some() {
            let message = format!("{word} is not in {name} case like most keywords of the file");
            findings.add(Rule::KeywordCase, statement, message);
        }
    }
}

/// The words of a FROM after its flags.
fn from_words(statement: &Statement) -> Vec<&str> {
    let rest = words::first(&statement.text).1;
    words::flags(rest).1.split_whitespace().collect()
}

fn as_case(statement: &Statement, findings: &mut Findings) {
    let from = written(statement);
    let [_, as_, _] = from_words(statement)[..] else { return };
    let same = (is_upper(from) && is_upper(as_)) || (is_lower(from) && is_lower(as_));
    if !same && (is_upper(from) || is_lower(from)) {
        findings.add(Rule::FromAsCase, statement, format!("{as_} is not in the case of {from}"));
    }
}

fn stage_name(statement: &Statement, findings: &mut Findings) {
    let [_, _, name] = from_words(statement)[..] else { return };
    if !is_lower(name) {
        let message = format!("the stage {name} is not in lower case");
        findings.add(Rule::StageNameCase, statement, message);
    }
    if ["scratch", "context"].contains(&name.to_ascii_lowercase().as_str()) {
        let message = format!("{name} cannot be told from what Docker calls so");
        findings.add(Rule::ReservedStage, statement, message);
    }
}

fn platform(platform: Option<&str>, statement: &Statement, findings: &mut Findings) {
    let Some(platform) = platform else { return };
    if ["$TARGETPLATFORM", "${TARGETPLATFORM}"].contains(&platform) {
        let message = format!("--platform={platform} can be left out");
        findings.add(Rule::RedundantPlatform, statement, message);
    } else if !platform.contains('$') {
        let message = format!(
            "--platform={platform} is the same for every target; \
             a variable like $BUILDPLATFORM is not"
        );
        findings.add(Rule::ConstantPlatform, statement, message);
    }
}

fn published(ports: &[String], statement: &Statement, findings: &mut Findings) {
    for port in ports.iter().filter(|port| !port.contains('$')) {
        if let Some((_, container)) = crate::config::published(port) {
            let message = format!("EXPOSE {port} exposes {container}; the rest has no effect");
            findings.add(Rule::PublishedPort, statement, message);
        }
    }
}

fn legacy_pair(statement: &Statement, findings: &mut Findings) {
    let (keyword, rest) = words::first(&statement.text);
    // The blank may not be the end of the first word.
    if words::split(rest, '\\').first().is_none_or(|word| word.contains('=')) {
        return;
    }
    let key = words::first(rest).0;
    let message = format!("{keyword} {key} VALUE is the old form; write {keyword} {key}=VALUE");
    findings.add(Rule::LegacyPair, statement, message);
}

/// CMD and ENTRYPOINT of a Dockerfile; in a Kubefile they are shell lines in any form. Who chose a
/// shell with SHELL wants one.
fn json(file: &Kubefile, at: usize, command: &Command, findings: &mut Findings) {
    let before = file.statements[..at].iter().rev();
    let mut stage = before.take_while(|s| !matches!(s.instruction, Instruction::From(_)));
    let is_shell = matches!(command, Command::Shell(_));
    if file.dialect == Dialect::Kubefile
        || !is_shell
        || findings.is_full()
        || stage.any(|s| matches!(s.instruction, Instruction::Shell(_)))
    {
        return;
    }
    let statement = &file.statements[at];
    let message = format!(
        "{} runs in a shell, which keeps signals from it; a JSON array does not",
        statement.instruction.keyword()
    );
    findings.add(Rule::JsonRecommended, statement, message);
}
