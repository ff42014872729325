//! What can be wrong with a build file, and how it is shown.

use std::fmt;
use std::ops::Range;

use super::Location;
use super::expand::ExpandError;
use crate::config::ConfigError;

/// A mistake in a build file, with the lines it is on.
///
/// Prints as several lines:
///
/// ```text
/// Kubefile:3: RUN has no flag --mont
///     3 | RUN --mont=type=cache,target=/c make
///       |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^
///   did you mean --mount?
/// ```
#[derive(Debug)]
pub struct KubefileError {
    /// The statement's lines.
    pub location: Location,
    /// What is wrong.
    pub problem: Problem,
    /// The place in the lines; none for the whole statement.
    pub mark: Option<Box<Mark>>,
    /// What to do.
    pub suggestion: Option<Box<str>>,
}

/// A place in the lines of a [`Location`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Index into [`Location::lines`].
    pub line: usize,
    /// Bytes of that line.
    pub range: Range<usize>,
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
        Self { location: location.clone(), problem, mark: None, suggestion: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into().into_boxed_str());
        self
    }

    /// Whether the file is right, but asks for something that this version does not build.
    pub fn is_unsupported(&self) -> bool {
        matches!(self.problem, Problem::Unsupported(_))
    }

    /// Says where in the lines.
    #[must_use]
    pub(super) fn mark(mut self, mark: Option<Mark>) -> Self {
        self.mark = mark.map(Box::new);
        self
    }
}

impl std::error::Error for KubefileError {}

/// More source lines than this are not shown.
const MAX_LINES: usize = 8;
/// Messages, which may quote the file, are cut after this many characters.
const MAX_MESSAGE: usize = 400;
/// Of a source line no more than this many characters are shown.
const MAX_COLUMNS: usize = 160;
/// Characters before a mark that are shown of a line that is cut.
const MARGIN: usize = 40;

impl fmt::Display for KubefileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message: String =
            self.problem.to_string().chars().take(MAX_MESSAGE).map(printable).collect();
        write!(f, "{}: {message}", self.location)?;
        let whole = || whole_line(&self.location);
        write_source(f, &self.location, self.mark.as_deref().cloned().or_else(whole).as_ref())?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "\n  {suggestion}"),
            None => Ok(()),
        }
    }
}

/// The text of the first line.
fn whole_line(location: &Location) -> Option<Mark> {
    let line = location.lines.first()?;
    let start = line.len() - line.trim_start().len();
    Some(Mark { line: 0, range: start..line.trim_end().len().max(start) })
}

/// The lines of a location, numbered, with a marker under a part of one.
pub(crate) fn write_source(
    f: &mut fmt::Formatter<'_>,
    location: &Location,
    mark: Option<&Mark>,
) -> fmt::Result {
    // What is marked is shown, even in a statement that is too long to be shown as a whole.
    let start = mark.map_or(0, |mark| (mark.line + 2).saturating_sub(MAX_LINES));
    if start > 0 {
        write!(f, "\n      | ... ({start} lines before)")?;
    }
    for (i, line) in location.lines.iter().enumerate().skip(start).take(MAX_LINES) {
        let here = mark.filter(|mark| mark.line == i && !mark.range.is_empty());
        write_line(f, location.first + i, line, here)?;
    }
    let left = location.lines.len().saturating_sub(start + MAX_LINES);
    if left > 0 {
        write!(f, "\n      | ... ({left} more lines)")?;
    }
    Ok(())
}

/// A line; of a long one the part that is marked.
fn write_line(
    f: &mut fmt::Formatter<'_>,
    number: usize,
    line: &str,
    mark: Option<&Mark>,
) -> fmt::Result {
    let columns = |text: &str| text.chars().count();
    let marked =
        mark.map(|mark| (columns(&line[..mark.range.start]), columns(&line[mark.range.clone()])));
    let skip = match marked {
        Some((before, _)) if before + MARGIN > MAX_COLUMNS => before - MARGIN,
        _ => 0,
    };
    let shown: String = line.chars().skip(skip).take(MAX_COLUMNS).map(printable).collect();
    let before = if skip > 0 { "..." } else { "" };
    let after = if columns(line) > skip + MAX_COLUMNS { "..." } else { "" };
    write!(f, "\n{number:>5} | {before}{shown}{after}")?;
    if let Some((start, length)) = marked {
        let indent = start - skip + before.len();
        let under = length.min((MAX_COLUMNS + skip).saturating_sub(start)).max(1);
        write!(f, "\n      | {}{}", " ".repeat(indent), "^".repeat(under))?;
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

/// The one of some words that a misspelt word most likely stands for; letter case does not count.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    // Longer words are no misspelling of anything, and the table of distances is quadratic.
    if word.chars().count() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 2).min(2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
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
