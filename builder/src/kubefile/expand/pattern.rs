//! Shell patterns of variable references: `*`, `?` and escaped characters.
//!
//! A pattern is run as a set of states over the text, so the cost is at most pattern times text
//! (times text again for a replacement); [`MAX_CELLS`] bounds it.

/// More steps than this are refused: some milliseconds, and far beyond real values.
const MAX_CELLS: usize = 1 << 22;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// `*`
    Text,
    /// `?`
    Character,
    Plain(char),
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    /// An escape at the end stands for itself.
    pub(super) fn new(text: &str, escape: char) -> Self {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' => Token::Text,
                '?' => Token::Character,
                c if c == escape || c == '\\' => Token::Plain(chars.next().unwrap_or(c)),
                c => Token::Plain(c),
            };
            if token != Token::Text || tokens.last() != Some(&Token::Text) {
                tokens.push(token);
            }
        }
        Self(tokens)
    }

    /// `value` without the shortest or longest prefix that matches; none if that costs too much.
    pub(super) fn strip_prefix(&self, value: &str, longest: bool) -> Option<String> {
        let mut budget = MAX_CELLS;
        let end = matched(&self.0, value.chars(), longest, &mut budget)?;
        Some(value.chars().skip(end.unwrap_or(0)).collect())
    }

    /// The same for the suffix.
    pub(super) fn strip_suffix(&self, value: &str, longest: bool) -> Option<String> {
        let mut budget = MAX_CELLS;
        let reversed: Vec<Token> = self.0.iter().rev().copied().collect();
        let end = matched(&reversed, value.chars().rev(), longest, &mut budget)?;
        let keep = value.chars().count() - end.unwrap_or(0);
        Some(value.chars().take(keep).collect())
    }

    /// `value` with `replacement` for the first or every match, each as long as it can be.
    /// None if it costs too much, `Some(None)` if the result is too long for a word.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
    ) -> Option<Option<String>> {
        let mut budget = MAX_CELLS;
        if self.0.is_empty() {
            return Some(Some(value.to_owned()));
        }
        if value.is_empty() {
            let any = self.0 == [Token::Text];
            return Some(Some(if any { replacement.to_owned() } else { String::new() }));
        }
        let mut out = String::new();
        let mut rest = value;
        while let Some(c) = rest.chars().next() {
            if out.len() > super::MAX_WORD {
                return Some(None);
            }
            let found = matched(&self.0, rest.chars(), true, &mut budget)?.filter(|n| *n > 0);
            let Some(count) = found else {
                out.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            };
            out.push_str(replacement);
            rest = rest.char_indices().nth(count).map_or("", |(at, _)| &rest[at..]);
            if !all {
                break;
            }
        }
        out.push_str(rest);
        Some((out.len() <= super::MAX_WORD).then_some(out))
    }
}

/// How many characters the shortest or longest match at the start of `text` takes. The outer
/// option is none when the budget is spent.
fn matched(
    tokens: &[Token],
    text: impl Iterator<Item = char>,
    longest: bool,
    budget: &mut usize,
) -> Option<Option<usize>> {
    // states[i]: the first i tokens have matched what was read.
    let mut states = vec![false; tokens.len() + 1];
    let mut next = states.clone();
    states[0] = true;
    close(tokens, &mut states);
    let mut found = states[tokens.len()].then_some(0);
    for (read, c) in text.enumerate() {
        if (found.is_some() && !longest) || !states.contains(&true) {
            break;
        }
        *budget = budget.checked_sub(tokens.len() + 1)?;
        next.fill(false);
        for (i, token) in tokens.iter().enumerate().filter(|(i, _)| states[*i]) {
            match token {
                Token::Text => next[i] = true,
                Token::Character => next[i + 1] = true,
                Token::Plain(plain) => next[i + 1] |= *plain == c,
            }
        }
        std::mem::swap(&mut states, &mut next);
        close(tokens, &mut states);
        if states[tokens.len()] {
            found = Some(read + 1);
        }
    }
    Some(found)
}

/// A `*` may match nothing.
fn close(tokens: &[Token], states: &mut [bool]) {
    for (i, token) in tokens.iter().enumerate() {
        if *token == Token::Text && states[i] {
            states[i + 1] = true;
        }
    }
}
