//! The functions of the template language itself.

use std::cmp::Ordering;
use std::rc::Rc;

use super::{Args, Function, Host, Outcome, fixed, variadic};
use crate::value::{IntKind, Value, compare, format, number};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "not" => fixed(1, |_, args| Ok((!args.any(0).is_true()).into())),
        "len" => fixed(1, len),
        "index" => variadic(1, index),
        "print" => {
            variadic(0, |host, args| Ok(Value::string(format::sprint(args.0, host.limits.text)?)))
        }
        "println" => {
            variadic(0, |host, args| Ok(Value::string(format::sprintln(args.0, host.limits.text)?)))
        }
        "printf" => variadic(1, |host, args| {
            let text = format::sprintf(&args.text(0)?, args.from(1), host.limits.text)?;
            Ok(Value::string(text))
        }),
        "eq" => variadic(1, |_, args| Ok(compare::eq(args.any(0), args.from(1))?.into())),
        "ne" => fixed(2, |_, args| Ok((!compare::eq(args.any(0), args.from(1))?).into())),
        "lt" => fixed(2, |_, args| ordered(args, |order| order == Ordering::Less)),
        "le" => fixed(2, |_, args| ordered(args, |order| order != Ordering::Greater)),
        "gt" => fixed(2, |_, args| ordered(args, |order| order == Ordering::Greater)),
        "ge" => fixed(2, |_, args| ordered(args, |order| order != Ordering::Less)),
        "html" => variadic(0, |host, args| escaped(host, args, html)),
        "js" => variadic(0, |host, args| escaped(host, args, js)),
        "urlquery" => variadic(0, |host, args| escaped(host, args, super::urls::query_escape)),
        "call" => variadic(1, |_, args| {
            let name = args.any(0).type_name();
            Err(format!("non-function of type {name}"))
        }),
        _ => return None,
    })
}

fn ordered(args: Args<'_>, holds: fn(Ordering) -> bool) -> Outcome {
    let order = compare::compare(args.any(0), args.any(1))?;
    Ok(order.is_some_and(holds).into())
}

fn len(_: &Host, args: Args<'_>) -> Outcome {
    let length = match args.any(0) {
        Value::Text(text) => text.len(),
        Value::Raw(bytes) | Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.items().len(),
        Value::Map(map) => map.len(),
        Value::Object(object) => match object.plain() {
            Value::Map(map) if object.kind() == "map" => map.len(),
            Value::List(list) => list.items().len(),
            _ => return Err(format!("len of type {}", object.type_name())),
        },
        Value::Nil => return Err("len of nil pointer".into()),
        other @ (Value::Bool(_) | Value::Int(..) | Value::Float(_)) => {
            return Err(format!("len of type {}", other.type_name()));
        }
    };
    Ok(Value::count(length))
}

/// Follows keys and numbers into maps and lists.
fn index(_: &Host, args: Args<'_>) -> Outcome {
    let mut value = args.any(0).clone();
    if value.is_nil() {
        return Err("index of untyped nil".into());
    }
    for key in args.from(1) {
        if let Value::Object(object) = &value {
            value = object.plain();
        }
        value = match &value {
            Value::Map(map) => match key {
                Value::Text(key) => match map.get(key) {
                    Some(value) => value,
                    None => map.kind().zero(),
                },
                Value::Nil => return Err("value is nil; should be of type string".into()),
                other => {
                    let name = other.type_name();
                    return Err(format!("value has type {name}; should be string"));
                }
            },
            Value::List(list) => list.items()[position(key, list.items().len())?].clone(),
            Value::Text(text) => byte_at(text.as_bytes(), key)?,
            Value::Raw(bytes) | Value::Bytes(bytes) => byte_at(bytes, key)?,
            Value::Nil => return Err("index of nil pointer".into()),
            other @ (Value::Bool(_) | Value::Int(..) | Value::Float(_) | Value::Object(_)) => {
                return Err(format!("can't index item of type {}", other.type_name()));
            }
        };
    }
    Ok(value)
}

fn byte_at(bytes: &[u8], key: &Value) -> Outcome {
    let byte = bytes[position(key, bytes.len())?];
    Ok(Value::Int(byte.into(), IntKind::Uint8))
}

fn position(key: &Value, length: usize) -> Result<usize, String> {
    let Value::Int(number, _) = key else {
        return Err(format!("cannot index slice/array with type {}", key.type_name()));
    };
    let position = usize::try_from(*number).ok().filter(|position| *position < length);
    position.ok_or_else(|| format!("index out of range: {number}"))
}

fn escaped(host: &Host, args: Args<'_>, escape: fn(&str) -> String) -> Outcome {
    let text = match args.0 {
        [Value::Text(text)] => text.clone(),
        values => {
            let bytes = format::sprint(values, host.limits.text)?;
            Rc::from(String::from_utf8_lossy(&bytes))
        }
    };
    Ok(escape(&text).into())
}

fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' => out.push_str("\\u003C"),
            '>' => out.push_str("\\u003E"),
            '&' => out.push_str("\\u0026"),
            '=' => out.push_str("\\u003D"),
            c if c < ' ' || !c.is_ascii() && !format_is_print(c) => {
                out.push_str(&format!("\\u{:04X}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out
}

fn format_is_print(c: char) -> bool {
    !format::quote(c.to_string().as_bytes()).contains('\\')
}

/// A number as an index of a slice.
pub(super) fn as_index(value: &Value) -> Option<usize> {
    usize::try_from(number::to_int(value)).ok()
}
