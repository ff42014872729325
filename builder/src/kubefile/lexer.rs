//! Physical lines to logical ones: directives, comments, continuations, heredocs.
//!
//! The rules are BuildKit's (`frontend/dockerfile/parser`): a comment may be indented and may stand
//! inside a continuation, blank lines inside a continuation are skipped, the next line's leading
//! blanks are kept, a doubled escape at the end of a line does not continue it.

use std::ops::Range;
use std::sync::Arc;

use super::lint::Checks;
use super::words::{self, HeredocStart, Json};
use super::{CopyRule, Heredoc, Keyword, KubefileError, Location, Mark, Problem, Rule, Warning};

/// What the lexer makes of a file.
#[derive(Debug)]
pub(super) struct Lexed {
    /// The escape character: `\` or, after `# escape=`, a backtick.
    pub(super) escape: char,
    /// From `# copy=`.
    pub(super) copy_rule: Option<CopyRule>,
    /// From `# check=`.
    pub(super) checks: Checks,
    pub(super) lines: Vec<Logical>,
    pub(super) warnings: Vec<Warning>,
}

/// One instruction's lines.
#[derive(Debug)]
pub(super) struct Logical {
    pub(super) location: Location,
    /// Trimmed, continuations joined.
    pub(super) text: String,
    /// In the order of their `<<NAME`.
    pub(super) heredocs: Vec<Body>,
    /// A blank line, from 1 in the file, inside a continuation: an error in time to come, says the
    /// Dockerfile reference.
    pub(super) blank: Option<usize>,
    /// What of `text` comes from which line.
    pieces: Vec<Piece>,
}

/// A part of a logical line that stands on one line of the file.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it begins in the logical line.
    at: usize,
    /// Index into the lines of the location.
    line: usize,
    /// Where it begins in that line.
    column: usize,
}

impl Logical {
    /// Where a part of `text` stands in the file; none if it is no part of it.
    pub(super) fn mark(&self, part: &str) -> Option<Mark> {
        let start = (part.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        if start + part.len() > self.text.len() {
            return None;
        }
        self.mark_range(start..start + part.len())
    }

    /// Where bytes of `text` stand in the file: up to the end of the line that they begin on.
    fn mark_range(&self, range: Range<usize>) -> Option<Mark> {
        let after = self.pieces.partition_point(|piece| piece.at <= range.start);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let line = self.location.lines.get(piece.line)?;
        let start = piece.column + (range.start - piece.at);
        let end = (start + range.len()).min(line.len());
        line.get(start..end)?;
        Some(Mark { line: piece.line, range: start..end })
    }
}

/// A heredoc and its lines as they stand in the file.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) heredoc: Heredoc,
    /// The lines with the terminator, line ends included: what a shell would be fed.
    pub(super) raw: String,
}

/// Lexes the text of a file.
pub(super) fn lex(file: &Arc<str>, text: &str) -> Result<Lexed, KubefileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.split_inclusive('\n').collect();
    let (checks, warnings) = (Checks::default(), Vec::new());
    let mut lexer = Lexer { file, lines, next: 0, escape: '\\', checks, warnings };
    let copy_rule = lexer.directives()?;
    let mut lines = Vec::new();
    while let Some(line) = lexer.logical()? {
        lines.push(line);
    }
    let Lexer { escape, checks, warnings, .. } = lexer;
    Ok(Lexed { escape, copy_rule, checks, lines, warnings })
}

struct Lexer<'a> {
    file: &'a Arc<str>,
    /// With their line ends.
    lines: Vec<&'a str>,
    /// The first line that is not consumed, from 0.
    next: usize,
    escape: char,
    checks: Checks,
    warnings: Vec<Warning>,
}

impl<'a> Lexer<'a> {
    /// Reads `# key=value` lines at the head. They are comments as well, so nothing is consumed.
    /// `syntax` means nothing to kfs, which is told; unknown keys are plain comments.
    fn directives(&mut self) -> Result<Option<CopyRule>, KubefileError> {
        let mut seen = Vec::new();
        let mut copy_rule = None;
        for at in 0..self.lines.len() {
            let Some((key, value)) = directive(without_end(self.lines[at])) else { break };
            let here = self.location(at, at);
            if seen.contains(&key) {
                let text = format!("the directive {key} stands here for the second time");
                return Err(KubefileError::new(&here, Problem::Syntax(text)));
            }
            match key.as_str() {
                "escape" => {
                    self.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        _ => return Err(bad_directive(&here, &key, value, "\\ or `")),
                    };
                }
                "copy" => {
                    copy_rule = Some(match value.to_ascii_lowercase().as_str() {
                        "docker" => CopyRule::Docker,
                        "kubefile" => CopyRule::Kubefile,
                        _ => return Err(bad_directive(&here, &key, value, "docker or kubefile")),
                    });
                }
                "syntax" => self.warnings.push(Warning {
                    rule: Rule::IgnoredSyntax,
                    message: format!("# syntax={value} is ignored: kfs reads the language itself"),
                    location: Some(here),
                }),
                "check" => {
                    let allowed = "skip=RULE,... or error=true, with a ; between them";
                    let bad = || bad_directive(&here, &key, value, allowed);
                    self.checks = Checks::parse(value).ok_or_else(bad)?;
                }
                _ => continue,
            }
            seen.push(key);
        }
        Ok(copy_rule)
    }

    /// The next instruction's lines; none at the end of the file.
    fn logical(&mut self) -> Result<Option<Logical>, KubefileError> {
        self.skip_comments();
        let first = self.next;
        if first == self.lines.len() {
            return Ok(None);
        }
        let mut text = String::new();
        let mut pieces = Vec::new();
        let mut blank = None;
        loop {
            let at = self.next;
            let Some(line) = self.take() else { break };
            pieces.push(Piece { at: text.len(), line: at - first, column: 0 });
            let Some(head) = continued(line, self.escape) else {
                text.push_str(line);
                break;
            };
            text.push_str(head);
            blank = self.skip_comments().or(blank);
        }
        let trimmed = text.len() - text.trim_start().len();
        for piece in &mut pieces {
            piece.column += trimmed.saturating_sub(piece.at);
            piece.at = piece.at.saturating_sub(trimmed);
        }
        let text = text.trim().to_owned();
        let last = self.last();
        let heredocs = self.heredocs(&text, first, last)?;
        let location = self.location(first, self.last());
        // A blank line at the end of the file continues nothing.
        let blank = blank.filter(|line| *line < location.last);
        Ok(Some(Logical { location, text, heredocs, blank, pieces }))
    }

    /// The bodies of the heredocs that `text` announces.
    fn heredocs(
        &mut self,
        text: &str,
        first: usize,
        last: usize,
    ) -> Result<Vec<Body>, KubefileError> {
        let mut bodies = Vec::new();
        for word in heredoc_words(text, self.escape) {
            let Some(start) = words::heredoc_start(word, self.escape) else { continue };
            let name = start.name.clone();
            bodies.push(self.body(start).ok_or_else(|| {
                let text = format!("the heredoc <<{name} has no end");
                KubefileError::new(&self.location(first, last), Problem::Syntax(text))
                    .suggest(format!("end it with a line that holds only {name}"))
            })?);
        }
        Ok(bodies)
    }

    /// The lines up to the terminator of a heredoc; none if it does not come.
    fn body(&mut self, start: HeredocStart) -> Option<Body> {
        let mut content = String::new();
        let mut raw = String::new();
        while let Some(line) = self.lines.get(self.next) {
            self.next += 1;
            raw.push_str(line);
            let line = if start.chomp { line.trim_start_matches('\t') } else { line };
            if without_end(line) == start.name {
                let heredoc = Heredoc { name: start.name, content, expand: start.expand };
                return Some(Body { heredoc, raw });
            }
            content.push_str(line);
        }
        None
    }

    fn take(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.next)?;
        self.next += 1;
        Some(without_end(line))
    }

    /// Skips comments and blank lines; the first blank one, from 1.
    fn skip_comments(&mut self) -> Option<usize> {
        let mut blank = None;
        while let Some(line) = self.lines.get(self.next) {
            let line = line.trim_start();
            if !line.is_empty() && !line.starts_with('#') {
                break;
            }
            self.next += 1;
            if line.is_empty() {
                blank = blank.or(Some(self.next));
            }
        }
        blank
    }

    /// The last consumed line that is neither blank nor a comment's trail, from 0.
    fn last(&self) -> usize {
        let mut last = self.next.saturating_sub(1);
        while last > 0 && self.lines[last].trim().is_empty() {
            last -= 1;
        }
        last
    }

    fn location(&self, first: usize, last: usize) -> Location {
        let last = last.max(first);
        Location {
            file: Arc::clone(self.file),
            first: first + 1,
            last: last + 1,
            lines: self.lines[first..=last].iter().map(|l| without_end(l).to_owned()).collect(),
        }
    }
}

/// The words of a line that may announce heredocs: those of RUN, COPY and ADD, also behind
/// ONBUILD, unless they are a JSON array.
fn heredoc_words(text: &str, escape: char) -> Vec<&str> {
    let (mut word, mut rest) = words::first(text);
    if Keyword::of(word) == Some(Keyword::Onbuild) {
        (word, rest) = words::first(rest);
    }
    let may = matches!(Keyword::of(word), Some(Keyword::Run | Keyword::Copy | Keyword::Add));
    if !may || !rest.contains("<<") || matches!(words::json(words::flags(rest).1), Json::Strings(_))
    {
        return Vec::new();
    }
    words::split(rest, escape)
}

/// A line without its LF or CRLF.
fn without_end(line: &str) -> &str {
    let line = line.strip_suffix('\n').unwrap_or(line);
    line.strip_suffix('\r').unwrap_or(line)
}

/// What stands before the escape that continues the line, if one does.
fn continued(line: &str, escape: char) -> Option<&str> {
    let head = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    (!head.ends_with(escape)).then_some(head)
}

/// `# key=value`, the key in lower case.
fn directive(line: &str) -> Option<(String, &str)> {
    let (key, value) = line.strip_prefix('#')?.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let starts_right = key.starts_with(|c: char| c.is_ascii_alphabetic());
    let word = starts_right && key.chars().all(|c| c.is_ascii_alphanumeric());
    (word && !value.is_empty()).then(|| (key.to_ascii_lowercase(), value))
}

fn bad_directive(location: &Location, key: &str, value: &str, allowed: &str) -> KubefileError {
    let text = format!("the directive {key} cannot be {value:?}");
    KubefileError::new(location, Problem::Syntax(text)).suggest(format!("write {allowed}"))
}
