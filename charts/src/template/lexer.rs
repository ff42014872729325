//! Cuts template text into tokens.

use std::rc::Rc;

use super::{Fault, Place};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind<'t> {
    Text(&'t str),
    Open,
    Close,
    Word(&'t str),
    /// Without its dot.
    Field(&'t str),
    Dot,
    /// Without its `$`.
    Variable(&'t str),
    Number(&'t str),
    /// With its quotes.
    Char(&'t str),
    /// With its quotes.
    Quoted(&'t str),
    /// Without its quotes.
    Raw(&'t str),
    LeftParen,
    RightParen,
    Pipe,
    Comma,
    Assign,
    Declare,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'t> {
    pub(crate) kind: Kind<'t>,
    pub(crate) line: u32,
    /// White space stands before it.
    pub(crate) spaced: bool,
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

/// All tokens of `text`; `file` is what errors name.
pub(crate) fn tokens<'t>(file: &Rc<str>, text: &'t str) -> Result<Vec<Token<'t>>, Fault> {
    let mut lexer = Lexer { file, text, at: 0, line: 1, tokens: Vec::new() };
    let mut trim = false;
    loop {
        let rest = lexer.rest();
        let open = rest.find("{{");
        let mut piece = &rest[..open.unwrap_or(rest.len())];
        if trim {
            piece = piece.trim_start_matches(SPACES);
        }
        let trims_before = open.is_some_and(|open| is_trim_marker(&rest[open + 2..]));
        if trims_before {
            piece = piece.trim_end_matches(SPACES);
        }
        if !piece.is_empty() {
            lexer.push(Kind::Text(piece), false);
        }
        let Some(open) = open else {
            return Ok(lexer.tokens);
        };
        lexer.advance(open + 2 + if trims_before { 2 } else { 0 });
        trim = lexer.action()?;
    }
}

/// `- ` after an opening delimiter.
fn is_trim_marker(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| rest.starts_with(SPACES))
}

struct Lexer<'f, 't> {
    file: &'f Rc<str>,
    text: &'t str,
    at: usize,
    line: u32,
    tokens: Vec<Token<'t>>,
}

impl<'t> Lexer<'_, 't> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        let lines = self.text[self.at..self.at + bytes].bytes().filter(|b| *b == b'\n').count();
        self.line += u32::try_from(lines).unwrap_or(0);
        self.at += bytes;
    }

    fn push(&mut self, kind: Kind<'t>, spaced: bool) {
        self.tokens.push(Token { kind, line: self.line, spaced });
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::at(Place { file: self.file.clone(), line: self.line }, message)
    }

    /// From behind an opening delimiter to behind the closing one; whether that trims what follows.
    fn action(&mut self) -> Result<bool, Fault> {
        if self.rest().starts_with("/*") {
            return self.comment();
        }
        self.push(Kind::Open, false);
        let mut parens = 0_u32;
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(SPACES).len();
            self.advance(blank);
            let spaced = blank > 0;
            let rest = self.rest();
            let trims = spaced && rest.starts_with("-}}");
            if trims || rest.starts_with("}}") {
                if parens > 0 {
                    return Err(self.fault("unclosed left paren"));
                }
                self.push(Kind::Close, spaced);
                self.advance(if trims { 3 } else { 2 });
                return Ok(trims);
            }
            match rest.as_bytes().first() {
                None => return Err(self.fault("unclosed action")),
                Some(b'(') => parens += 1,
                Some(b')') if parens == 0 => return Err(self.fault("unexpected right paren")),
                Some(b')') => parens -= 1,
                Some(_) => (),
            }
            let (kind, length) = self.token(rest)?;
            self.push(kind, spaced);
            self.advance(length);
        }
    }

    fn comment(&mut self) -> Result<bool, Fault> {
        let rest = self.rest();
        let Some(end) = rest.find("*/") else {
            return Err(self.fault("unclosed comment"));
        };
        let after = &rest[end + 2..];
        let (trims, length) = if after.starts_with("}}") {
            (false, 2)
        } else if after.starts_with(SPACES) && after[1..].starts_with("-}}") {
            (true, 4)
        } else {
            return Err(self.fault("comment ends before closing delimiter"));
        };
        self.advance(end + 2 + length);
        Ok(trims)
    }

    /// The token at the start of `rest`, which is not empty, and its length.
    fn token(&self, rest: &'t str) -> Result<(Kind<'t>, usize), Fault> {
        let first = rest.chars().next().expect("there is a character");
        Ok(match first {
            '(' => (Kind::LeftParen, 1),
            ')' => (Kind::RightParen, 1),
            '|' => (Kind::Pipe, 1),
            ',' => (Kind::Comma, 1),
            '=' => (Kind::Assign, 1),
            ':' if rest.starts_with(":=") => (Kind::Declare, 2),
            '"' => {
                let length = self.quoted(rest, '"', "unterminated quoted string")?;
                (Kind::Quoted(&rest[..length]), length)
            }
            '\'' => {
                let length = self.quoted(rest, '\'', "unterminated character constant")?;
                (Kind::Char(&rest[..length]), length)
            }
            '`' => {
                let end = rest[1..].find('`');
                let end = end.ok_or_else(|| self.fault("unterminated raw quoted string"))?;
                (Kind::Raw(&rest[1..=end]), end + 2)
            }
            '$' => {
                let name = word(&rest[1..]);
                self.terminated(&rest[1 + name.len()..])?;
                (Kind::Variable(name), 1 + name.len())
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let name = word(&rest[1..]);
                if !name.is_empty() {
                    self.terminated(&rest[1 + name.len()..])?;
                    (Kind::Field(name), 1 + name.len())
                } else {
                    (Kind::Dot, 1)
                }
            }
            '+' | '-' | '.' | '0'..='9' => {
                let number = self.number(rest)?;
                (Kind::Number(number), number.len())
            }
            c if is_word(c) => {
                let name = word(rest);
                self.terminated(&rest[name.len()..])?;
                (Kind::Word(name), name.len())
            }
            c => return Err(self.fault(format!("unexpected {c:?} in command"))),
        })
    }

    fn quoted(&self, rest: &str, mark: char, message: &str) -> Result<usize, Fault> {
        let mut escaped = false;
        for (at, c) in rest.char_indices().skip(1) {
            match c {
                '\n' => break,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                c if c == mark => return Ok(at + 1),
                _ => (),
            }
        }
        Err(self.fault(message))
    }

    /// Names must be followed by something that ends them.
    fn terminated(&self, rest: &str) -> Result<(), Fault> {
        match rest.chars().next() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | ')' | '(' | '=') => {
                Ok(())
            }
            Some(_) if rest.starts_with("}}") => Ok(()),
            Some(c) => Err(self.fault(format!("bad character {c:?}"))),
        }
    }

    fn number(&self, rest: &'t str) -> Result<&'t str, Fault> {
        let signed = usize::from(rest.starts_with(['+', '-']));
        let lower = rest[signed..].get(..2).map(str::to_ascii_lowercase);
        let is_hex = lower.as_deref() == Some("0x");
        let mut end = signed + if is_hex { 2 } else { 0 };
        let bytes = rest.as_bytes();
        while let Some(byte) = bytes.get(end) {
            let exponent = if is_hex { b"pP" } else { b"eE" };
            let part = byte.is_ascii_digit()
                || matches!(byte, b'_' | b'.')
                || is_hex && byte.is_ascii_hexdigit()
                || exponent.contains(byte)
                || matches!(byte, b'b' | b'B' | b'o' | b'O') && end == signed + 1
                || matches!(byte, b'+' | b'-') && exponent.contains(&bytes[end - 1]);
            if !part {
                break;
            }
            end += 1;
        }
        let follows = rest[end..].chars().next();
        if end == signed || follows.is_some_and(is_word) {
            let bad: String = rest.chars().take(end + 1).collect();
            return Err(self.fault(format!("bad number syntax: {bad:?}")));
        }
        Ok(&rest[..end])
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}
