//! What can be wrong with a build file, and how it is shown.

use std::fmt;

use super::expand::ExpandError;
use super::{Keyword, Location};
use crate::config::ConfigError;

/// A mistake in a build file, with the lines it is on.
///
/// Prints as several lines:
///
/// ```text
/// Kubefile:3: unknown instruction COPPY
///     3 | COPPY a b
///       | ^^^^^
///   did you mean COPY?
/// ```
#[derive(Debug)]
pub struct KubefileError {
    /// The statement's lines.
    pub location: Location,
    /// What is wrong.
    pub problem: Problem,
    /// What to do.
    pub suggestion: Option<String>,
}

/// What is wrong with a statement.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Not a word of the language.
    #[error("unknown instruction {0}")]
    UnknownInstruction(String),
    /// A word of the language that this version does not build.
    #[error("{0} is not supported by this version of kfs")]
    Unsupported(String),
    /// The words after the keyword do not fit it.
    #[error("{0}")]
    Syntax(String),
    /// A variable reference is broken or refuses its value.
    #[error("{0}")]
    Expand(ExpandError),
    /// The value cannot stand in an image's config.
    #[error("{0}")]
    Config(ConfigError),
    /// The file as a whole: too large, no FROM, not UTF-8.
    #[error("{0}")]
    File(String),
}

impl KubefileError {
    /// An error without a suggestion.
    pub fn new(location: &Location, problem: Problem) -> Self {
        Self { location: location.clone(), problem, suggestion: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Whether the file is right, but asks for something that this version does not build.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.problem, Problem::Unsupported(_))
    }

    /// Range in bytes of the first source line that the marker stands under.
    fn marked(&self, line: &str) -> std::ops::Range<usize> {
        let start = line.len() - line.trim_start().len();
        let text = line.trim_end();
        let word = match &self.problem {
            Problem::UnknownInstruction(_) => {
                text[start..].find(char::is_whitespace).unwrap_or(text.len() - start)
            }
            _ => text.len().saturating_sub(start),
        };
        start..start + word
    }
}

impl std::error::Error for KubefileError {}

/// More source lines than this are not shown.
const MAX_LINES: usize = 8;
/// Messages, which may quote the file, are cut after this many characters.
const MAX_MESSAGE: usize = 400;
/// Source lines are cut after this many characters.
const MAX_COLUMNS: usize = 160;

impl fmt::Display for KubefileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message: String =
            self.problem.to_string().chars().take(MAX_MESSAGE).map(printable).collect();
        write!(f, "{}: {message}", self.location)?;
        write_source(f, &self.location, |line| self.marked(line))?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "\n  {suggestion}"),
            None => Ok(()),
        }
    }
}

/// The lines of a location, numbered, with a marker under a part of the first.
pub(crate) fn write_source(
    f: &mut fmt::Formatter<'_>,
    location: &Location,
    marked: impl Fn(&str) -> std::ops::Range<usize>,
) -> fmt::Result {
    for (i, line) in location.lines.iter().take(MAX_LINES).enumerate() {
        let shown: String = line.chars().take(MAX_COLUMNS).map(printable).collect();
        let more = if line.chars().count() > MAX_COLUMNS { "..." } else { "" };
        write!(f, "\n{:>5} | {shown}{more}", location.first + i)?;
        let range = marked(line);
        if i == 0 && !range.is_empty() {
            let before = line[..range.start].chars().count();
            let under = line[range].chars().count().min(MAX_COLUMNS.saturating_sub(before));
            write!(f, "\n      | {}{}", " ".repeat(before), "^".repeat(under))?;
        }
    }
    if location.lines.len() > MAX_LINES {
        write!(f, "\n      | ... ({} more lines)", location.lines.len() - MAX_LINES)?;
    }
    Ok(())
}

/// Tabs become one blank so that the marker stands right; control characters are not sent on to
/// a terminal.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// The instruction that a misspelt word most likely stands for.
pub(super) fn nearest(word: &str) -> Option<Keyword> {
    let word = word.to_ascii_uppercase();
    // Longer words are no misspelling of any keyword, and the table of distances is quadratic.
    if word.chars().count() > 16 {
        return None;
    }
    Keyword::ALL
        .iter()
        .map(|keyword| (distance(&word, keyword.as_str()), *keyword))
        .filter(|(distance, keyword)| *distance <= keyword.as_str().len() / 2 && *distance <= 2)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, keyword)| keyword)
}

/// How many characters have to be added, removed, replaced or swapped to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j - 1] + same).min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
