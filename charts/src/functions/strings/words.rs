//! Functions that look at the words of a text.

use super::super::{Args, Function, Host, Outcome, fixed};
use super::{lower, upper};
use crate::functions::arguments::limited;
use crate::value::Value;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "title" => fixed(1, |_, args| Ok(title(&args.text(0)?).into())),
        "untitle" => fixed(1, |_, args| Ok(untitle(&args.text(0)?).into())),
        "swapcase" => fixed(1, |_, args| Ok(swapcase(&args.text(0)?).into())),
        "nospace" => fixed(1, |_, args| {
            Ok(args.text(0)?.chars().filter(|c| !c.is_whitespace()).collect::<String>().into())
        }),
        "initials" => fixed(1, |_, args| {
            let text = args.text(0)?;
            let first = text.split_whitespace().filter_map(|word| word.chars().next());
            Ok(first.collect::<String>().into())
        }),
        "abbrev" => fixed(2, |_, args| {
            let (width, text) = (args.int(0)?, args.bytes(1)?);
            Ok(Value::string(if width < 4 { text.to_vec() } else { abbreviated(text, 0, width) }))
        }),
        "abbrevboth" => fixed(3, |_, args| {
            let (left, right, text) = (args.int(0)?, args.int(1)?, args.bytes(2)?);
            let as_it_is = right < 4 || left > 0 && right < 7;
            let text = if as_it_is { text.to_vec() } else { abbreviated(text, left, right) };
            Ok(Value::string(text))
        }),
        "wrap" => fixed(2, |host, args| wrap(host, args.int(0)?, "\n", args.bytes(1)?, false)),
        "wrapWith" => fixed(3, wrap_with),
        _ => return None,
    })
}

/// The first letter of each word in upper case.
fn title(text: &str) -> String {
    let mut before = ' ';
    let separates = |c: char| {
        if c.is_ascii() { !c.is_ascii_alphanumeric() && c != '_' } else { c.is_whitespace() }
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if separates(before) {
            out.push(upper(c))
        } else {
            out.push(c)
        }
        before = c;
    }
    out
}

fn untitle(text: &str) -> String {
    let mut before = ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if before.is_whitespace() {
            out.push(lower(c))
        } else {
            out.push(c)
        }
        before = c;
    }
    out
}

fn swapcase(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() { out.push(lower(c)) } else { out.push(upper(c)) }
    }
    out
}

/// At most `width` bytes from about `offset` on, with dots for what is left out.
fn abbreviated(text: &[u8], offset: i64, width: i64) -> Vec<u8> {
    let size = |number: i64| usize::try_from(number).unwrap_or(0);
    let width = size(width);
    if text.len() <= width {
        return text.to_vec();
    }
    let mut offset = size(offset).min(text.len());
    if text.len() - offset < width - 3 {
        offset = text.len() - (width - 3);
    }
    if offset <= 4 {
        return [&text[..width - 3], b"..."].concat();
    }
    if width < 7 {
        return Vec::new();
    }
    if offset + (width - 3) < text.len() {
        let width = i64::try_from(width - 3).unwrap_or(i64::MAX);
        return [&b"..."[..], &abbreviated(&text[offset..], 0, width)].concat();
    }
    [b"...", &text[text.len() - (width - 3)..]].concat()
}

fn wrap_with(host: &Host, args: Args<'_>) -> Outcome {
    let between = args.text(1)?;
    let between = if between.is_empty() { "\n" } else { &between };
    wrap(host, args.int(0)?, between, args.bytes(2)?, true)
}

/// Lines of at most `width` bytes, broken at blanks; words that are longer are cut if `cuts`.
fn wrap(host: &Host, width: i64, between: &str, text: &[u8], cuts: bool) -> Outcome {
    let width = usize::try_from(width.max(1)).map_err(|error| error.to_string())?;
    let lines = text.len() / width + text.iter().filter(|byte| **byte == b' ').count() + 1;
    let added = lines.checked_mul(between.len());
    limited(added.and_then(|added| added.checked_add(text.len())), host.limits.text)?;
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while text.len() - at > width {
        if text[at] == b' ' {
            at += 1;
            continue;
        }
        let window = &text[at..at + width + 1];
        let blank = match window.iter().rposition(|byte| *byte == b' ') {
            Some(blank) => Some(at + blank),
            None if cuts => None,
            None => {
                let after = text[at + width..].iter().position(|byte| *byte == b' ');
                let Some(after) = after else {
                    break;
                };
                Some(at + width + after)
            }
        };
        let end = blank.unwrap_or(at + width);
        out.extend_from_slice(&text[at..end]);
        out.extend_from_slice(between.as_bytes());
        at = if blank.is_some() { end + 1 } else { end };
    }
    out.extend_from_slice(&text[at.min(text.len())..]);
    Ok(Value::string(out))
}
