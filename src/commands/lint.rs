//! `kfs lint`

use std::path::{Path, PathBuf};

use kfs_builder::context::Context as BuildContext;
use kfs_builder::kubefile::lint::Level;
use kfs_builder::kubefile::{Dialect, Kubefile, Rule, Warning};
use kfs_builder::{lint, plan};
use kfs_fs::error::AtPath as _;
use serde::Serialize;

use super::build::{build_file_in, host};
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

    /// Directory whose files COPY may take [default: that of the build file]
    #[arg(long, value_name = "DIR")]
    context: Option<PathBuf>,

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
    let directory = match (&args.context, path.parent()) {
        (Some(directory), _) => directory,
        (None, Some(parent)) if !parent.as_os_str().is_empty() => parent,
        (None, _) => Path::new("."),
    };
    let file = read(&path)?;
    let shown = escape(file.name.as_bytes());
    let context_files = BuildContext::open(directory)?.with_ignore_file(&path)?;
    let strict = args.strict || file.checks.error;
    let found = findings(file, &context_files);
    match args.format {
        Format::Text => print(&text(&found))?,
        Format::Json => print_json(&found.iter().map(finding).collect::<Vec<_>>())?,
    }
    let count = |level| found.iter().filter(|w| w.rule.level() == level).count();
    let (warnings, notes) = (count(Level::Warning), count(Level::Note));
    let counted = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    let summary = format!("{shown}: {}, {}", counted(warnings, "warning"), counted(notes, "note"));
    if strict && warnings > 0 {
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

/// What the file tells, and what it tells with its context, by line.
fn findings(file: Kubefile, context: &BuildContext) -> Vec<Warning> {
    let options = plan::Options {
        build_args: Vec::new(),
        copy_rule: None,
        target: host(),
        build: host(),
        stage: None,
        contexts: Vec::new(),
        images: Default::default(),
    };
    let (mut found, checks) = (file.warnings.clone(), file.checks.clone());
    found.extend(lint::copy_rules(file, options, context));
    found.retain(|warning| !checks.skips(warning.rule));
    found.sort_by_key(|warning| warning.location.as_ref().map(|at| at.first));
    found
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
