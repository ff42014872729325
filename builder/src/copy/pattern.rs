//! Go's `filepath.Match`, which Docker's and Sealer's wildcards are.
//!
//! `*` any characters, `?` one, `[a-z]` and `[^a-z]` one of a class, `\` makes the next plain. A
//! pattern matches one component of a path as a whole; a leading dot is nothing special.

/// A malformed pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern: a class like [a-z] is not closed or empty, or a \\ ends it")]
pub struct BadPattern(String);

impl BadPattern {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[derive(Clone, Debug)]
enum Token {
    Any,
    One,
    Plain(char),
    Class(Class),
}

/// A class like `[a-z]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

/// A compiled pattern for one component.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Vec<Token>);

/// Whether the text holds anything that a pattern gives a meaning to.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, BadPattern> {
        let bad = || BadPattern(text.to_owned());
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => Token::Plain(chars.next().ok_or_else(bad)?),
                '[' => Token::Class(Class::after_bracket(&mut chars).ok_or_else(bad)?),
                c => Token::Plain(c),
            });
        }
        Ok(Self(tokens))
    }

    /// Whether the whole name matches. Only the last `*` is ever taken back, so the cost is at most
    /// pattern times name.
    pub(super) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut token, mut at) = (0, 0);
        let mut star = None;
        while at < name.len() {
            match self.0.get(token) {
                Some(Token::Any) => {
                    star = Some((token, at));
                    token += 1;
                }
                Some(one) if one.accepts(name[at]) => {
                    token += 1;
                    at += 1;
                }
                _ => {
                    let Some((star_token, star_at)) = star else { return false };
                    star = Some((star_token, star_at + 1));
                    token = star_token + 1;
                    at = star_at + 1;
                }
            }
        }
        self.0[token..].iter().all(|token| matches!(token, Token::Any))
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Plain(plain) => *plain == c,
            Self::Class(class) => class.accepts(c),
        }
    }
}

impl Class {
    /// The class after a `[`; none if it is malformed.
    pub(crate) fn after_bracket(
        chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    ) -> Option<Self> {
        let negated = chars.next_if_eq(&'^').is_some();
        let mut ranges = Vec::new();
        loop {
            if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                return Some(Self { negated, ranges });
            }
            let low = member(chars)?;
            let high = match chars.next_if_eq(&'-') {
                Some(_) => member(chars)?,
                None => low,
            };
            ranges.push((low, high));
        }
    }

    pub(crate) fn accepts(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != self.negated
    }
}

/// A character of a class; `-` and `]` need a backslash.
fn member(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of Go's `path/filepath/match_test.go` that hold no slash: pattern, name, match; none
    /// means that the pattern is malformed.
    const GO: &[(&str, &str, Option<bool>)] = &[
        ("abc", "abc", Some(true)),
        ("*", "abc", Some(true)),
        ("*c", "abc", Some(true)),
        ("a*", "a", Some(true)),
        ("a*", "abc", Some(true)),
        ("a*b*c*d*e*", "axbxcxdxe", Some(true)),
        ("a*b*c*d*e*", "axbxcxdxexxx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
        ("ab[c]", "abc", Some(true)),
        ("ab[b-d]", "abc", Some(true)),
        ("ab[e-g]", "abc", Some(false)),
        ("ab[^c]", "abc", Some(false)),
        ("ab[^b-d]", "abc", Some(false)),
        ("ab[^e-g]", "abc", Some(true)),
        ("a\\*b", "a*b", Some(true)),
        ("a\\*b", "ab", Some(false)),
        ("a?b", "a☺b", Some(true)),
        ("a[^a]b", "a☺b", Some(true)),
        ("a???b", "a☺b", Some(false)),
        ("a[^a][^a][^a]b", "a☺b", Some(false)),
        ("[a-ζ]*", "α", Some(true)),
        ("*[a-ζ]", "A", Some(false)),
        ("[\\]a]", "]", Some(true)),
        ("[\\-]", "-", Some(true)),
        ("[x\\-]", "x", Some(true)),
        ("[x\\-]", "z", Some(false)),
        ("[\\-x]", "a", Some(false)),
        ("[]a]", "]", None),
        ("[-]", "-", None),
        ("[x-]", "x", None),
        ("[-x]", "x", None),
        ("\\", "a", None),
        ("[a-b-c]", "a", None),
        ("[", "a", None),
        ("[^", "a", None),
        ("[^bc", "a", None),
        ("a[", "a", None),
        ("a[", "ab", None),
        ("*x", "xxx", Some(true)),
        ("*", ".hidden", Some(true)),
        ("", "", Some(true)),
        ("*", "", Some(true)),
    ];

    #[test]
    fn as_go() {
        for (pattern, name, expected) in GO {
            let result = Pattern::new(pattern).ok().map(|pattern| pattern.matches(name));
            assert_eq!(result, *expected, "{pattern} {name}");
        }
    }
}
