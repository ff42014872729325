//! Variables, quotes and escapes in the words of an instruction, as BuildKit's shell lexer does it.
//!
//! | form | value |
//! |---|---|
//! | `$X`, `${X}` | of X, empty if it is unset |
//! | `${X-w}`, `${X:-w}` | w if X is unset (`:` or empty), else of X |
//! | `${X+w}`, `${X:+w}` | w if X is set (`:` and not empty), else nothing |
//! | `${X?w}`, `${X:?w}` | of X; an error with the message w if it is unset (`:` or empty) |
//! | `${X#p}`, `${X##p}` | of X without the shortest, longest prefix that matches p |
//! | `${X%p}`, `${X%%p}` | of X without the shortest, longest suffix that matches p |
//! | `${X/p/w}`, `${X//p/w}` | of X with w for the first, every longest match of p |
//!
//! In a pattern `*` is any text, `?` any character, `\` makes the next character plain; there are
//! no classes, as in BuildKit. In the w of a replacement escapes are kept, as there. A word w that
//! is not needed is not evaluated, as in a shell.

mod pattern;

use pattern::Pattern;

/// A word may not grow beyond this, in bytes: Linux hands no longer string to a program
/// (`MAX_ARG_STRLEN`), and doubling ENVs must not eat the memory.
pub const MAX_WORD: usize = 128 << 10;

/// `${A:-${B:-...}}` may not nest deeper; real files nest once.
const MAX_DEPTH: usize = 32;

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpandError {
    /// The quote that is not closed.
    #[error("a {0} is not closed")]
    OpenQuote(char),
    /// `${X` without `}`.
    #[error("a variable reference lacks its }}")]
    MissingBrace,
    /// `${}`, `${{`, `${:`.
    #[error("a variable reference has no name")]
    NoName,
    /// What follows the name.
    #[error("${{{0}...}} is no known form of a variable reference")]
    Modifier(String),
    /// `${X/p` without a second `/`.
    #[error("${{{0}/...}} lacks the / before the replacement")]
    MissingSlash(String),
    /// `${X:?message}`.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the file says about it.
        message: String,
    },
    /// The result is longer than [`MAX_WORD`].
    #[error("a word grows beyond {MAX_WORD} bytes when its variables are expanded")]
    TooLong,
    /// References nest deeper than any real one.
    #[error("variable references nest deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// Value times pattern is too large.
    #[error("matching a pattern against the value of {0} would take too long")]
    TooCostly(String),
}

/// Looks a variable up; none if it is unset.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Expands variables in `text` and removes quotes and escapes.
pub fn word(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<String, ExpandError> {
    Reader::new(text, escape, lookup).until(None, false)
}

/// The same for a word that is a pattern of file names: a backslash stays before `*`, `?`, `[` and
/// another one, as these would mean something else without it.
pub fn pattern(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<String, ExpandError> {
    let mut reader = Reader::new(text, escape, lookup);
    reader.is_pattern = escape == '\\';
    reader.until(None, false)
}

/// A variable that a text names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reference {
    pub(super) name: String,
    /// The reference says itself what holds if the variable is unset.
    pub(super) guarded: bool,
}

/// The variables that [`word`] would look up, also those that are needed only if others are unset;
/// none from where the text is broken.
pub(super) fn references(text: &str, escape: char) -> Vec<Reference> {
    let mut reader = Reader::new(text, escape, &|_| None);
    drop(reader.until(None, false));
    reader.seen
}

/// The variables that a shell would look up in `text`, whatever it quotes.
pub(super) fn shell_references(text: &str) -> Vec<Reference> {
    let after_dollar = text.split('$').skip(1);
    let name = |rest: &str| name_of(rest.strip_prefix('{').unwrap_or(rest)).to_owned();
    let names = after_dollar.map(name).filter(|name| !name.is_empty());
    names.map(|name| Reference { name, guarded: true }).collect()
}

/// Expands only references to variables that `lookup` knows, and keeps quotes, escapes and all
/// other references as they are: for text that a shell reads later. Between single quotes and after
/// a backslash nothing is expanded.
pub fn known(text: &str, lookup: &Lookup<'_>) -> Result<String, ExpandError> {
    let mut out = String::new();
    let mut at = 0;
    let (mut single, mut double) = (false, false);
    while let Some(c) = text[at..].chars().next() {
        let mut end = at + c.len_utf8();
        match c {
            '\'' if !double => single = !single,
            _ if single => {}
            '"' => double = !double,
            '\\' => end += text[end..].chars().next().map_or(0, char::len_utf8),
            '$' => {
                let after = text[end..].strip_prefix('{').unwrap_or(&text[end..]);
                if lookup(name_of(after)).is_some() {
                    let mut reader = Reader::new(text, '\\', lookup);
                    reader.at = at;
                    out.push_str(&reader.dollar()?);
                    at = reader.at;
                    continue;
                }
            }
            _ => {}
        }
        push(&mut out, &text[at..end])?;
        at = end;
    }
    Ok(out)
}

/// Expands variables in the lines of a heredoc that COPY writes: quotes are plain characters, a
/// backslash is dropped and makes the next character plain, whatever the escape character is.
/// Heredocs whose name is quoted are not expanded, which keeps their backslashes.
pub fn heredoc(text: &str, lookup: &Lookup<'_>) -> Result<String, ExpandError> {
    let mut reader = Reader::new(text, '\\', lookup);
    let mut out = String::new();
    while let Some(c) = reader.peek() {
        if c == '$' {
            out.push_str(&reader.dollar()?);
        } else {
            reader.next();
            out.extend(if c == '\\' { reader.next() } else { Some(c) });
        }
        // A heredoc is a file, not a word; it may be as long as the build file it stands in.
        if out.len() > super::MAX_FILE {
            return Err(ExpandError::TooLong);
        }
    }
    Ok(out)
}

struct Reader<'a> {
    text: &'a str,
    /// The first byte that is not consumed.
    at: usize,
    escape: char,
    lookup: &'a Lookup<'a>,
    /// Escapes that mean something in a pattern of file names stay.
    is_pattern: bool,
    /// False while a word is read that is not needed.
    live: bool,
    depth: usize,
    /// All references so far, for [`references`].
    seen: Vec<Reference>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, escape: char, lookup: &'a Lookup<'a>) -> Self {
        let (is_pattern, live, seen) = (false, true, Vec::new());
        Self { text, at: 0, escape, lookup, is_pattern, live, depth: 0, seen }
    }

    fn see(&mut self, name: &str, guarded: bool) {
        self.seen.push(Reference { name: name.to_owned(), guarded });
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn get(&self, name: &str) -> Option<String> {
        if self.live { (self.lookup)(name) } else { None }
    }

    /// Reads up to `stop`, which is consumed, or to the end of the text. With `keep_escapes` escape
    /// characters stay before what they escape, for a pattern.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<String, ExpandError> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.next();
                return Ok(out);
            }
            match c {
                '\'' => push(&mut out, &self.single_quoted()?)?,
                '"' => push(&mut out, &self.double_quoted()?)?,
                '$' => push(&mut out, &self.dollar()?)?,
                _ => {
                    self.next();
                    let escaped = if c == self.escape { self.next() } else { None };
                    if c != self.escape || keep_escapes || self.keeps(escaped) {
                        out.push(c);
                    }
                    out.extend(escaped);
                }
            }
        }
        match stop {
            None => Ok(out),
            Some(_) => Err(ExpandError::MissingBrace),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        self.next();
        let rest = &self.text[self.at..];
        let end = rest.find('\'').ok_or(ExpandError::OpenQuote('\''))?;
        self.at += end + 1;
        Ok(rest[..end].to_owned())
    }

    /// Between double quotes the escape character escapes `"`, `$` and itself only.
    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        self.next();
        let mut out = String::new();
        loop {
            match self.peek() {
                None => return Err(ExpandError::OpenQuote('"')),
                Some('"') => {
                    self.next();
                    return Ok(out);
                }
                Some('$') => push(&mut out, &self.dollar()?)?,
                Some(c) => {
                    self.next();
                    match self.peek() {
                        Some(escaped)
                            if c == self.escape
                                && (matches!(escaped, '"' | '$') || escaped == self.escape) =>
                        {
                            self.next();
                            out.extend(self.keeps(Some(escaped)).then_some(c));
                            out.push(escaped);
                        }
                        _ => out.push(c),
                    }
                }
            }
        }
    }

    /// Whether the escape before a character stays.
    fn keeps(&self, escaped: Option<char>) -> bool {
        self.is_pattern && matches!(escaped, Some('*' | '?' | '[' | '\\'))
    }

    /// Reads a reference, beginning with its `$`.
    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if !self.take('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            self.see(name, false);
            return Ok(self.get(name).unwrap_or_default());
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(ExpandError::TooDeep);
        }
        let value = self.braced();
        self.depth -= 1;
        value
    }

    fn name(&mut self) -> &'a str {
        let text = self.text;
        let name = name_of(&text[self.at..]);
        self.at += name.len();
        name
    }

    /// The inside of `${...}` with its closing brace.
    fn braced(&mut self) -> Result<String, ExpandError> {
        let name = self.name().to_owned();
        if name.is_empty() {
            return Err(match self.peek() {
                None => ExpandError::MissingBrace,
                Some(_) => ExpandError::NoName,
            });
        }
        let value = self.get(&name);
        let modifier = self.next().ok_or(ExpandError::MissingBrace)?;
        self.see(&name, matches!(modifier, ':' | '-' | '+' | '?'));
        match modifier {
            '}' => Ok(value.unwrap_or_default()),
            ':' => match self.next() {
                Some(c @ ('-' | '+' | '?')) => {
                    self.default(c, &name, value.filter(|value| !value.is_empty()), true)
                }
                Some(c) => Err(ExpandError::Modifier(format!("{name}:{c}"))),
                None => Err(ExpandError::MissingBrace),
            },
            '-' | '+' | '?' => self.default(modifier, &name, value, false),
            '#' | '%' => self.strip(modifier, &name, &value.unwrap_or_default()),
            '/' => self.replace(&name, &value.unwrap_or_default()),
            c => Err(ExpandError::Modifier(format!("{name}{c}"))),
        }
    }

    /// Reads a word that is evaluated only if `needed`.
    fn operand(&mut self, stop: char, needed: bool) -> Result<String, ExpandError> {
        let live = self.live;
        self.live = live && needed;
        let word = self.until(Some(stop), false);
        self.live = live;
        word
    }

    fn default(
        &mut self,
        modifier: char,
        name: &str,
        value: Option<String>,
        or_empty: bool,
    ) -> Result<String, ExpandError> {
        let needed = value.is_none() != (modifier == '+');
        let word = self.operand('}', needed)?;
        match (modifier, value) {
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            ('-', None) => Ok(word),
            ('?', None) if self.live => {
                let message = match (word.is_empty(), or_empty) {
                    (false, _) => word,
                    (true, true) => "is not set or empty".to_owned(),
                    (true, false) => "is not set".to_owned(),
                };
                Err(ExpandError::Required { name: name.to_owned(), message })
            }
            (_, value) => Ok(value.unwrap_or_default()),
        }
    }

    fn strip(&mut self, side: char, name: &str, value: &str) -> Result<String, ExpandError> {
        let longest = self.take(side);
        let text = self.until(Some('}'), true)?;
        let pattern = Pattern::new(&text, self.escape);
        let stripped = if side == '#' {
            pattern.strip_prefix(value, longest)
        } else {
            pattern.strip_suffix(value, longest)
        };
        stripped.ok_or_else(|| ExpandError::TooCostly(name.to_owned()))
    }

    fn replace(&mut self, name: &str, value: &str) -> Result<String, ExpandError> {
        let all = self.take('/');
        let text = self.until(Some('/'), true).map_err(|error| match error {
            ExpandError::MissingBrace => ExpandError::MissingSlash(name.to_owned()),
            other => other,
        })?;
        let replacement = self.until(Some('}'), true)?;
        Pattern::new(&text, self.escape)
            .replace(value, &replacement, all)
            .ok_or_else(|| ExpandError::TooCostly(name.to_owned()))?
            .ok_or(ExpandError::TooLong)
    }
}

/// Appends within [`MAX_WORD`].
fn push(out: &mut String, text: &str) -> Result<(), ExpandError> {
    if out.len() + text.len() > MAX_WORD {
        return Err(ExpandError::TooLong);
    }
    out.push_str(text);
    Ok(())
}

/// The variable's name that `text` begins with: letters, digits and `_`; digits alone; or one of
/// the shell's special parameters.
fn name_of(text: &str) -> &str {
    let Some(first) = text.chars().next() else { return "" };
    let end = |member: fn(char) -> bool| text.find(|c| !member(c)).unwrap_or(text.len());
    match first {
        '0'..='9' => &text[..end(|c| c.is_ascii_digit())],
        '@' | '*' | '#' | '?' | '-' | '$' | '!' => &text[..1],
        _ => &text[..end(|c| c.is_alphanumeric() || c == '_')],
    }
}

#[cfg(test)]
mod tests;
