//! `kfs lint`

use std::path::{Path, PathBuf};

use kfs_builder::kubefile::lint::Level;
use kfs_builder::kubefile::{Dialect, Kubefile, Rule, Warning};
use kfs_fs::error::AtPath as _;
use serde::Serialize;

use super::build::build_file_in;
use super::{Context, print, print_json};
use crate::look::escape;
use crate::report::Failure;
use crate::table::Table;

/// Find what is likely wrong in a Kubefile or Dockerfile
///
/// Prints one line for each finding, with a code at its end. Findings are no failure: the exit code
/// is 0 unless the file cannot be read, or there are warnings and --strict is given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kfs lint
  kfs lint --strict deploy/Kubefile
  kfs lint --rules")]
pub(crate) struct Args {
    /// The build file, or a directory with a Sealfile, Kubefile, Dockerfile or Containerfile
    #[arg(default_value = ".")]
    file: PathBuf,

    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Fail with exit code 1 if there are warnings; notes are none
    #[arg(long)]
    strict: bool,

    /// List the rules instead, and what each demands
    #[arg(long, conflicts_with = "strict")]
    rules: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Lines
    #[default]
    Text,
    /// One JSON document
    Json,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finding<'a> {
    rule: &'static str,
    level: String,
    file: &'a str,
    line: usize,
    last_line: usize,
    message: &'a str,
}

#[derive(Serialize)]
struct RuleEntry {
    rule: &'static str,
    level: String,
    demands: &'static str,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    if args.rules {
        return rules(args.format);
    }
    let path = if args.file.is_dir() { build_file_in(&args.file)? } else { args.file.clone() };
    let file = read(&path)?;
    match args.format {
        Format::Text => print(&text(&file.warnings))?,
        Format::Json => print_json(&file.warnings.iter().map(finding).collect::<Vec<_>>())?,
    }
    let count = |level| file.warnings.iter().filter(|w| w.rule.level() == level).count();
    let (warnings, notes) = (count(Level::Warning), count(Level::Note));
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let shown = escape(file.name.as_bytes());
    let summary = format!("{shown}: {}, {}", counted(warnings, "warning"), counted(notes, "note"));
    if args.strict && warnings > 0 {
        return Err(Failure::new(summary));
    }
    context.say(&summary);
    Ok(())
}

fn read(path: &Path) -> Result<Kubefile, Failure> {
    let text = std::fs::read(path).at("read", path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let dialect = Dialect::of_file_name(&name);
    Ok(Kubefile::parse(&path.display().to_string(), &text, dialect)?)
}

fn text(warnings: &[Warning]) -> String {
    let line = |warning: &Warning| {
        let at = warning.location.as_ref().map_or_else(String::new, |at| format!("{at}: "));
        let line = format!("{at}{}: {} [{}]", warning.rule.level(), warning.message, warning.rule);
        format!("{}\n", escape(line.as_bytes()))
    };
    warnings.iter().map(line).collect()
}

fn finding(warning: &Warning) -> Finding<'_> {
    let at = warning.location.as_ref();
    Finding {
        rule: warning.rule.code(),
        level: warning.rule.level().to_string(),
        file: at.map_or("", |at| &*at.file),
        line: at.map_or(0, |at| at.first),
        last_line: at.map_or(0, |at| at.last),
        message: &warning.message,
    }
}

fn rules(format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        let entry = |rule: &Rule| RuleEntry {
            rule: rule.code(),
            level: rule.level().to_string(),
            demands: rule.sentence(),
        };
        return print_json(&Rule::ALL.iter().map(entry).collect::<Vec<_>>());
    }
    let mut table = Table::new(&["RULE", "LEVEL", "WHAT IT DEMANDS"]);
    for rule in Rule::ALL {
        table.row([rule.code().to_owned(), rule.level().to_string(), rule.sentence().to_owned()]);
    }
    print(&table.to_string())
}
