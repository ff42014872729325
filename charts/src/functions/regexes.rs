//! Regular expressions in Go's syntax, which is RE2's.

mod syntax;

use regex::{Regex, RegexBuilder};

use super::strings::charged;
use super::{Args, Function, Host, Outcome, fixed};
use crate::value::{ENTRY, List, Value};

pub(crate) use syntax::translated;

/// The program of a small expression has less than this, in bytes: some forty states.
const SMALL: usize = 1 << 10;
/// No program is larger, in bytes: `SMALL` times a power of four.
const MAX_SIZE: usize = 4 << 20;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        // Not an error: what is no expression matches nothing.
        "regexMatch" => fixed(2, |host, args| {
            let text = args.text(1)?;
            Ok(compiled(host, args).is_ok_and(|regex| regex.is_match(&text)).into())
        }),
        "mustRegexMatch" => {
            fixed(2, |host, args| Ok(compiled(host, args)?.is_match(&args.text(1)?).into()))
        }
        "regexFind" | "mustRegexFind" => fixed(2, |host, args| {
            let text = args.text(1)?;
            Ok(compiled(host, args)?.find(&text).map_or("", |found| found.as_str()).into())
        }),
        "regexFindAll" | "mustRegexFindAll" => fixed(3, |host, args| {
            let text = args.text(1)?;
            let most = usize::try_from(args.int(2)?).unwrap_or(usize::MAX);
            let regex = compiled(host, args)?;
            let found = regex.find_iter(&text).take(most).map(|found| found.as_str());
            let mut list = List::texts(charged(host, found)?);
            list.nil = list.items().is_empty();
            Ok(Value::List(list))
        }),
        "regexReplaceAll" | "mustRegexReplaceAll" => fixed(3, |host, args| {
            replaced(host, args, |captures, by, out| captures.expand(by, out))
        }),
        "regexReplaceAllLiteral" | "mustRegexReplaceAllLiteral" => {
            fixed(3, |host, args| replaced(host, args, |_, by, out| out.push_str(by)))
        }
        "regexSplit" | "mustRegexSplit" => fixed(3, split),
        "regexQuoteMeta" => fixed(1, |_, args| Ok(quoted(&args.text(0)?).into())),
        _ => return None,
    })
}

/// The expression of the first argument, which is charged for the text of the second: a large
/// program may look at each byte with all of its states.
fn compiled(host: &Host, args: Args<'_>) -> Result<Regex, String> {
    let (expression, text) = (args.text(0)?, args.bytes(1)?);
    let mut size = SMALL;
    loop {
        host.reads(size)?;
        match within(&expression, size) {
            Err(regex::Error::CompiledTooBig(_)) if size < MAX_SIZE => size *= 4,
            regex => {
                host.reads(text.len().saturating_mul(size / SMALL))?;
                return regex.map_err(|error| unparsed(&error));
            }
        }
    }
}

/// An expression in Go's syntax.
pub(crate) fn compile(text: &str) -> Result<Regex, String> {
    within(text, MAX_SIZE).map_err(|error| unparsed(&error))
}

/// An expression whose program has at most so many bytes.
fn within(text: &str, size: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translated(text)).size_limit(size).build()
}

fn unparsed(error: &regex::Error) -> String {
    format!("error parsing regexp: {error}")
}

fn replaced(
    host: &Host,
    args: Args<'_>,
    add: fn(&regex::Captures<'_>, &str, &mut String),
) -> Outcome {
    let (text, by) = (args.text(1)?, args.text(2)?);
    let regex = compiled(host, args)?;
    let references = by.matches('$').count();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for captures in regex.captures_iter(&text) {
        let found = captures.get(0).ok_or("a match has no text")?;
        out.push_str(&text[at..found.start()]);
        // Each reference is at most to all that was found.
        let added = references.checked_mul(found.len()).and_then(|all| all.checked_add(by.len()));
        let length = added.and_then(|added| added.checked_add(out.len()));
        super::arguments::limited(length, host.limits.text)?;
        add(&captures, &by, &mut out);
        at = found.end();
    }
    out.push_str(&text[at..]);
    Ok(out.into())
}

fn split(host: &Host, args: Args<'_>) -> Outcome {
    let text = args.text(1)?;
    let most = args.int(2)?;
    if most == 0 {
        return Ok(Value::List(List::unmade()));
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let regex = compiled(host, args)?;
    if text.is_empty() && !args.text(0)?.is_empty() {
        return Ok(Value::List(List::texts([""])));
    }
    let (mut parts, mut start, mut end) = (Vec::new(), 0, 0);
    for found in regex.find_iter(&text) {
        if parts.len() + 1 >= most {
            break;
        }
        end = found.start();
        // A match of nothing at the start makes no part.
        if found.end() != 0 {
            host.charge(ENTRY)?;
            parts.push(&text[start..end]);
        }
        start = found.end();
    }
    if end != text.len() {
        parts.push(&text[start..]);
    }
    Ok(Value::List(List::texts(parts)))
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
