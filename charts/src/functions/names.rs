//! Names in other forms: `snakecase`, `kebabcase` and `camelcase`.

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
/// A word starts at an upper case letter behind a lower case one, at the last of a row of upper
/// case letters, and at digits, which the letters behind them belong to.
fn joined(text: &str, connector: char) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len() + 8);
    for (at, &c) in chars.iter().enumerate() {
        if is_connector(c) {
            out.push(connector);
            continue;
        }
        let before = at.checked_sub(1).map(|at| chars[at]);
        let after = chars.get(at + 1).copied();
        let starts = match before {
            None => false,
            Some(before) if is_connector(before) => false,
            Some(before) if c.is_uppercase() => {
                !before.is_uppercase() && !before.is_numeric()
                    || before.is_uppercase() && after.is_some_and(char::is_lowercase)
                    || before.is_numeric() && !in_digit_word(&chars[..at])
                    || before.is_numeric() && after.is_some_and(|c| c.is_lowercase())
            }
            Some(before) if c.is_numeric() => {
                before.is_alphabetic() && !in_digit_word(&chars[..at]) && digits_start(&chars, at)
            }
            Some(_) => false,
        };
        if starts {
            out.push(connector);
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// Whether the word that ends the text has a digit in it.
fn in_digit_word(before: &[char]) -> bool {
    let word = before.iter().rev().take_while(|c| c.is_lowercase() || c.is_numeric());
    word.into_iter().any(|c| c.is_numeric())
}

/// Digits at the end of a word belong to it if an upper case letter follows at once.
fn digits_start(chars: &[char], at: usize) -> bool {
    let after = chars[at..].iter().find(|c| !c.is_numeric());
    match after {
        None => true,
        Some(c) => {
            c.is_lowercase()
                || !c.is_alphabetic()
                || chars[..at].last().is_some_and(|c| c.is_uppercase())
        }
    }
}

/// Words with a capital each and nothing between; connectors at the ends and doubled ones stay.
fn pascal(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let Some(start) = chars.iter().position(|c| !is_connector(*c)) else {
        return text.into();
    };
    out.extend(&chars[..start]);
    let mut at = start;
    let mut starts = true;
    while at < chars.len() {
        let c = chars[at];
        if !is_connector(c) {
            if starts {
                out.extend(c.to_uppercase())
            } else {
                out.extend(c.to_lowercase())
            }
            starts = false;
            at += 1;
            continue;
        }
        let run = chars[at..].iter().take_while(|c| is_connector(**c)).count();
        let ends = at + run == chars.len();
        // One connector between words goes.
        let kept = if ends { run } else { run - 1 };
        out.extend(&chars[at..at + kept]);
        starts = true;
        at += run;
    }
    out
}
