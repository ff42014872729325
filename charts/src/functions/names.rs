//! Names in other forms: `snakecase`, `kebabcase` and `camelcase`.

use super::strings::{lower, upper};
use super::{Function, fixed};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "snakecase" => fixed(1, |_, args| Ok(joined(&args.text(0)?, '_').into())),
        "kebabcase" => fixed(1, |_, args| Ok(joined(&args.text(0)?, '-').into())),
        "camelcase" => fixed(1, |_, args| Ok(pascal(&args.text(0)?).into())),
        _ => return None,
    })
}

fn is_connector(c: char) -> bool {
    matches!(c, '-' | '_') || c.is_whitespace()
}

/// The words of a name in lower case with `connector` between them.
///
/// A word starts at an upper case letter behind a lower case one or a digit, at the last of a row
/// of upper case letters, and at digits that lower case letters follow.
fn joined(text: &str, connector: char) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len() + 8);
    for (at, &c) in chars.iter().enumerate() {
        if is_connector(c) {
            out.push(connector);
            continue;
        }
        if starts_word(&chars, at) {
            out.push(connector);
        }
        out.push(lower(c));
    }
    out
}

fn starts_word(chars: &[char], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).map(|at| chars[at]) else {
        return false;
    };
    if chars[at].is_uppercase() {
        let ends_row = chars.get(at + 1).is_some_and(|next| next.is_lowercase());
        return before.is_lowercase() || before.is_numeric() || before.is_uppercase() && ends_row;
    }
    let after = chars[at..].iter().find(|c| !c.is_numeric());
    chars[at].is_numeric()
        && before.is_alphabetic()
        && after.is_some_and(|c| c.is_lowercase())
        && !ends_in_digits(&chars[..at])
}

/// Whether the word that ends the text has a digit in it.
fn ends_in_digits(before: &[char]) -> bool {
    let mut word = before.iter().rev().take_while(|c| c.is_lowercase() || c.is_numeric());
    word.any(|c| c.is_numeric())
}

/// Words with a capital each and nothing between; connectors at the ends and doubled ones stay.
fn pascal(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let Some(start) = chars.iter().position(|c| !is_connector(*c)) else {
        // Of connectors alone the last is written twice.
        out.push_str(text);
        out.extend(chars.last());
        return out;
    };
    out.extend(&chars[..start]);
    let mut at = start;
    while at < chars.len() {
        let connectors = chars[at..].iter().take_while(|c| is_connector(**c)).count();
        if connectors == 0 {
            let word = chars[at..].iter().take_while(|c| !is_connector(**c)).count();
            capitalize(&mut out, &chars[at..at + word]);
            at += word;
            continue;
        }
        let ends = at + connectors == chars.len();
        // One connector between words goes.
        let kept = if ends { connectors } else { connectors - 1 };
        out.extend(&chars[at..at + kept]);
        at += connectors;
    }
    out
}

/// The first letter large; a row of large ones that the word starts with small.
fn capitalize(out: &mut String, word: &[char]) {
    out.push(upper(word[0]));
    let mut in_row = !word[0].is_lowercase();
    for c in &word[1..] {
        in_row = in_row && !c.is_lowercase();
        out.push(if in_row { lower(*c) } else { *c });
    }
}
