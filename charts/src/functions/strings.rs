//! Sprig's functions on strings. Positions count bytes, as in Go.

mod random;
mod words;

use std::rc::Rc;

use super::arguments::{limited, strval, strval_text};
use super::{Args, Function, Host, Outcome, fixed, variadic};
use crate::value::format::{self, Out};
use crate::value::{ENTRY, Entries, List, Map, MapKind, Value};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "hello" => fixed(0, |_, _| Ok("Hello!".into())),
        "trim" => fixed(1, |_, args| Ok(args.text(0)?.trim().into())),
        "upper" => {
            fixed(1, |_, args| Ok(args.text(0)?.chars().map(upper).collect::<String>().into()))
        }
        "lower" => {
            fixed(1, |_, args| Ok(args.text(0)?.chars().map(lower).collect::<String>().into()))
        }
        "trimAll" | "trimall" => fixed(2, |_, args| {
            let cut = args.text(0)?;
            Ok(args.text(1)?.trim_matches(|c| cut.contains(c)).into())
        }),
        "trimSuffix" => fixed(2, |_, args| {
            let (text, end) = (args.text(1)?, args.text(0)?);
            Ok(text.strip_suffix(&*end).unwrap_or(&text).into())
        }),
        "trimPrefix" => fixed(2, |_, args| {
            let (text, start) = (args.text(1)?, args.text(0)?);
            Ok(text.strip_prefix(&*start).unwrap_or(&text).into())
        }),
        "contains" => fixed(2, |_, args| Ok(args.text(1)?.contains(&*args.text(0)?).into())),
        "hasPrefix" => fixed(2, |_, args| Ok(args.text(1)?.starts_with(&*args.text(0)?).into())),
        "hasSuffix" => fixed(2, |_, args| Ok(args.text(1)?.ends_with(&*args.text(0)?).into())),
        "repeat" => fixed(2, repeat),
        "substr" => fixed(3, substr),
        "trunc" => fixed(2, trunc),
        "quote" => variadic(0, |host, args| quoted(host, args, format::quote)),
        "squote" => variadic(0, |host, args| {
            quoted(host, args, |text| format!("'{}'", String::from_utf8_lossy(text)))
        }),
        "cat" => variadic(0, cat),
        "indent" => fixed(2, |host, args| indent(host, args, "")),
        "nindent" => fixed(2, |host, args| indent(host, args, "\n")),
        "replace" => fixed(3, replace),
        "plural" => fixed(3, |_, args| {
            Ok(if args.int(2)? == 1 { args.text(0)? } else { args.text(1)? }.as_ref().into())
        }),
        "toString" => fixed(1, |host, args| strval(args.any(0), host.limits.text)),
        "toStrings" => fixed(1, |host, args| Ok(Value::List(strslice(host, args.any(0))?))),
        "join" => fixed(2, join),
        "sortAlpha" => fixed(1, sort_alpha),
        "split" => {
            fixed(2, |host, args| numbered(host, parts(host, &args.text(1)?, &args.text(0)?, -1)?))
        }
        "splitn" => fixed(3, |host, args| {
            numbered(host, parts(host, &args.text(2)?, &args.text(0)?, args.int(1)?)?)
        }),
        "splitList" => fixed(2, |host, args| {
            let (text, between) = (args.text(1)?, args.text(0)?);
            Ok(Value::List(List::texts(parts(host, &text, &between, -1)?)))
        }),
        _ => return words::find(name).or_else(|| random::find(name)),
    })
}

/// Go changes characters one by one: what would become two stays.
pub(super) fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(upper), None) => upper,
        _ => c,
    }
}

pub(super) fn lower(c: char) -> char {
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(lower), None) => lower,
        _ => c,
    }
}

fn repeat(host: &Host, args: Args<'_>) -> Outcome {
    let (count, text) = (args.int(0)?, args.bytes(1)?);
    let Ok(count) = usize::try_from(count) else {
        return Err("strings: negative Repeat count".into());
    };
    limited(text.len().checked_mul(count), host.limits.text)?;
    Ok(Value::string(text.repeat(count)))
}

fn substr(_: &Host, args: Args<'_>) -> Outcome {
    let (start, end, text) = (args.int(0)?, args.int(1)?, args.bytes(2)?);
    let at = |position: i64| usize::try_from(position).unwrap_or(usize::MAX);
    let slice = if start < 0 {
        text.get(..at(end))
    } else if end < 0 || at(end) > text.len() {
        text.get(at(start)..)
    } else {
        text.get(at(start)..at(end))
    };
    match slice {
        Some(slice) => Ok(Value::string(slice.to_vec())),
        None => Err(format!("slice bounds out of range [{start}:{end}]")),
    }
}

fn trunc(_: &Host, args: Args<'_>) -> Outcome {
    let (count, text) = (args.int(0)?, args.bytes(1)?);
    let size = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if size >= text.len() {
        return Ok(args.any(1).clone());
    }
    let kept = if count < 0 { &text[text.len() - size..] } else { &text[..size] };
    Ok(Value::string(kept.to_vec()))
}

/// Each but nil, with a blank between.
fn quoted(host: &Host, args: Args<'_>, quote: impl Fn(&[u8]) -> String) -> Outcome {
    let mut out = Out::new(host.limits.text);
    for (index, value) in args.0.iter().filter(|value| !value.is_nil()).enumerate() {
        if index > 0 {
            out.text(" ")?;
        }
        let text = match strval(value, host.limits.text)? {
            Value::Text(text) => quote(text.as_bytes()),
            Value::Raw(bytes) => quote(&bytes),
            _ => String::new(),
        };
        out.text(&text)?;
    }
    Ok(Value::string(out.into_bytes()))
}

fn cat(host: &Host, args: Args<'_>) -> Outcome {
    let mut out = Out::new(host.limits.text);
    for (index, value) in args.0.iter().filter(|value| !value.is_nil()).enumerate() {
        if index > 0 {
            out.text(" ")?;
        }
        out.push(&format::value(value, host.limits.text)?)?;
    }
    Ok(Value::string(out.into_bytes()))
}

fn indent(host: &Host, args: Args<'_>, before: &str) -> Outcome {
    let text = args.bytes(1)?;
    let Ok(count) = usize::try_from(args.int(0)?) else {
        return Err("strings: negative Repeat count".into());
    };
    let mut out = Out::new(host.limits.text);
    out.text(before)?;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        out.repeat(b' ', count)?;
        out.push(line)?;
    }
    if text.is_empty() || text.ends_with(b"\n") {
        out.repeat(b' ', count)?;
    }
    Ok(Value::string(out.into_bytes()))
}

fn replace(host: &Host, args: Args<'_>) -> Outcome {
    let (old, new, text) = (args.text(0)?, args.text(1)?, args.text(2)?);
    let count = text.matches(&*old).count();
    limited(
        count.checked_mul(new.len()).and_then(|more| more.checked_add(text.len())),
        host.limits.text,
    )?;
    Ok(text.replace(&*old, &new).into())
}

/// Sprig's `strslice`: what is no list becomes one of a single string.
pub(super) fn strslice(host: &Host, value: &Value) -> Result<List, String> {
    let plain;
    let value = match value {
        Value::Object(object) if object.kind() == "slice" => {
            plain = object.plain();
            &plain
        }
        value => value,
    };
    let items = match value {
        Value::List(list) => list.items(),
        Value::Nil => &[],
        single => std::slice::from_ref(single),
    };
    host.reads(size_of_val(items))?;
    let mut texts = Vec::with_capacity(items.len());
    let mut total = 0_usize;
    for item in items.iter().filter(|item| !item.is_nil()) {
        let text = strval(item, host.limits.text)?;
        if let Value::Text(text) = &text {
            total += text.len();
        }
        limited(Some(total), host.limits.text)?;
        texts.push(text);
    }
    Ok(List::of(crate::value::ItemKind::Text, texts))
}

fn join(host: &Host, args: Args<'_>) -> Outcome {
    let between = args.text(0)?;
    let mut out = Out::new(host.limits.text);
    for (index, item) in strslice(host, args.any(1))?.items().iter().enumerate() {
        if index > 0 {
            out.text(&between)?;
        }
        match item {
            Value::Text(text) => out.text(text)?,
            Value::Raw(bytes) => out.push(bytes)?,
            _ => (),
        }
    }
    Ok(Value::string(out.into_bytes()))
}

fn sort_alpha(host: &Host, args: Args<'_>) -> Outcome {
    let list = strslice(host, args.any(0))?;
    let mut texts = Vec::with_capacity(list.items().len());
    for item in list.items() {
        texts.push(strval_text(item, host.limits.text)?);
    }
    texts.sort();
    Ok(Value::List(List::texts(texts)))
}

/// `strings.SplitN`; a negative `limit` is none.
pub(super) fn parts<'t>(
    host: &Host,
    text: &'t str,
    between: &str,
    limit: i64,
) -> Result<Vec<&'t str>, String> {
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    if most == 0 {
        return Ok(Vec::new());
    }
    if !between.is_empty() {
        return charged(host, text.splitn(most, between));
    }
    // Each character by itself; the last part is all that is left.
    let starts = text.char_indices().map(|(at, _)| at).take(most);
    charged(
        host,
        starts.enumerate().map(|(index, at)| {
            let rest = &text[at..];
            let size = rest.chars().next().map_or(0, char::len_utf8);
            if index + 1 == most { rest } else { &rest[..size] }
        }),
    )
}

/// Parts of a text, as many as may be made.
pub(super) fn charged<'t>(
    host: &Host,
    parts: impl Iterator<Item = &'t str>,
) -> Result<Vec<&'t str>, String> {
    parts.map(|part| host.charge(ENTRY + part.len()).map(|()| part)).collect()
}

/// `_0`, `_1`, ...
fn numbered(host: &Host, parts: Vec<&str>) -> Outcome {
    host.charge(parts.len() * ENTRY)?;
    let entries = parts.into_iter().enumerate();
    let entries = entries.map(|(index, part)| (Rc::from(format!("_{index}")), part.into()));
    Ok(Value::Map(Map::of(MapKind::Text, entries.collect::<Entries>())))
}
