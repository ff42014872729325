//! Sprig's functions on lists. Each makes a new list.

use super::arguments::limited;
use super::go::as_index;
use super::{Args, Function, Host, Outcome, fixed, variadic};
use crate::value::{ENTRY, ItemKind, List, Value, compare};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "list" | "tuple" => variadic(0, |_, args| Ok(Value::list(args.0.to_vec()))),
        "append" | "push" | "mustAppend" | "mustPush" => fixed(2, |_, args| {
            let mut items = args.list(0)?.items().to_vec();
            items.push(args.any(1).clone());
            Ok(Value::list(items))
        }),
        "prepend" | "mustPrepend" => fixed(2, |_, args| {
            let mut items = vec![args.any(1).clone()];
            items.extend_from_slice(args.list(0)?.items());
            Ok(Value::list(items))
        }),
        "first" | "mustFirst" => {
            fixed(1, |_, args| Ok(args.list(0)?.items().first().cloned().unwrap_or_default()))
        }
        "last" | "mustLast" => {
            fixed(1, |_, args| Ok(args.list(0)?.items().last().cloned().unwrap_or_default()))
        }
        "rest" | "mustRest" => {
            fixed(1, |_, args| Ok(part(args.list(0)?.items().split_first().map(|(_, rest)| rest))))
        }
        "initial" | "mustInitial" => {
            fixed(1, |_, args| Ok(part(args.list(0)?.items().split_last().map(|(_, rest)| rest))))
        }
        "reverse" | "mustReverse" => fixed(1, |_, args| {
            Ok(Value::list(args.list(0)?.items().iter().rev().cloned().collect()))
        }),
        "compact" | "mustCompact" => fixed(1, |host, args| {
            let list = args.list(0)?;
            host.reads(size_of_val(list.items()))?;
            Ok(Value::list(list.items().iter().filter(|item| item.is_true()).cloned().collect()))
        }),
        "uniq" | "mustUniq" => fixed(1, uniq),
        "without" | "mustWithout" => variadic(1, without),
        "has" | "mustHas" => fixed(2, |host, args| {
            if args.any(1).is_nil() {
                return Ok(false.into());
            }
            let list = args.list(1)?;
            Ok(contains(host, list.items(), args.any(0))?.into())
        }),
        "slice" | "mustSlice" => variadic(1, slice),
        "concat" => variadic(0, concat),
        "chunk" | "mustChunk" => fixed(2, chunk),
        "until" => fixed(1, |host, args| {
            let count = args.int(0)?;
            numbers(host, 0, count, if count < 0 { -1 } else { 1 })
        }),
        "untilStep" => {
            fixed(3, |host, args| numbers(host, args.int(0)?, args.int(1)?, args.int(2)?))
        }
        _ => return None,
    })
}

/// Of no items nothing is left, which is nil.
fn part(items: Option<&[Value]>) -> Value {
    match items {
        Some(items) => Value::list(items.to_vec()),
        None => Value::List(List::unmade()),
    }
}

fn contains(host: &Host, items: &[Value], wanted: &Value) -> Result<bool, String> {
    for item in items {
        let (is_equal, steps) = compare::deep_equal(item, wanted);
        host.steps(steps)?;
        if is_equal {
            return Ok(true);
        }
    }
    Ok(false)
}

fn uniq(host: &Host, args: Args<'_>) -> Outcome {
    let mut kept: Vec<Value> = Vec::new();
    for item in args.list(0)?.items() {
        if !contains(host, &kept, item)? {
            kept.push(item.clone());
        }
    }
    Ok(Value::list(kept))
}

fn without(host: &Host, args: Args<'_>) -> Outcome {
    let mut kept = Vec::new();
    for item in args.list(0)?.items() {
        if !contains(host, args.from(1), item)? {
            kept.push(item.clone());
        }
    }
    Ok(Value::list(kept))
}

fn slice(_: &Host, args: Args<'_>) -> Outcome {
    let list = args.list(0)?;
    let items = list.items();
    if items.is_empty() {
        return Ok(Value::Nil);
    }
    let start = args.from(1).first().map_or(Some(0), as_index);
    let end = args.from(2).first().map_or(Some(items.len()), as_index);
    let range = start.zip(end).and_then(|(start, end)| items.get(start..end));
    let items = range.ok_or("reflect.Value.Slice: slice index out of bounds")?;
    Ok(Value::List(List::of(list.kind, items.to_vec())))
}

fn concat(host: &Host, args: Args<'_>) -> Outcome {
    let mut items = Vec::new();
    for at in 0..args.len() {
        items.extend_from_slice(args.list(at)?.items());
        limited(items.len().checked_mul(size_of::<Value>()), host.limits.text)?;
    }
    if items.is_empty() {
        return Ok(Value::List(List::unmade()));
    }
    Ok(Value::list(items))
}

fn chunk(host: &Host, args: Args<'_>) -> Outcome {
    let size = args.count(0)?;
    if size == 0 {
        return Err("runtime error: integer divide by zero".into());
    }
    let list = args.list(1)?;
    host.charge(list.items().len().div_ceil(size) * ENTRY)?;
    let chunks = list.items().chunks(size).map(|items| Value::list(items.to_vec()));
    Ok(Value::List(List::of(ItemKind::Lists, chunks.collect())))
}

/// From `start` to before `stop`; none where the step leads away from it.
pub(super) fn numbers(host: &Host, start: i64, stop: i64, step: i64) -> Outcome {
    let mut items = Vec::new();
    let leads = if stop < start { step < 0 } else { step > 0 };
    if leads {
        let count = start.abs_diff(stop).div_ceil(step.unsigned_abs());
        let count = usize::try_from(count).ok();
        limited(count.and_then(|count| count.checked_mul(size_of::<Value>())), host.limits.text)?;
        let mut number = start;
        while if step > 0 { number < stop } else { number > stop } {
            items.push(Value::int(number));
            let Some(next) = number.checked_add(step) else {
                break;
            };
            number = next;
        }
    }
    Ok(Value::List(List::of(ItemKind::Int, items)))
}
