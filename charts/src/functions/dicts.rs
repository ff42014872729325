//! Sprig's functions on maps. `set`, `unset` and `merge` change the map that they are given.

use super::arguments::strval_text;
use super::{Args, Function, Host, Outcome, fixed, variadic};
use crate::value::{ENTRY, Entries, List, MAX_DEPTH, Map, Value};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "dict" => variadic(0, dict),
        "get" => {
            fixed(2, |_, args| Ok(args.map(0)?.get(&args.text(1)?).unwrap_or_else(|| "".into())))
        }
        "set" => fixed(3, |_, args| {
            if args.any(0).is_nil() {
                return Err("assignment to entry in nil map".into());
            }
            args.map(0)?.set(args.text(1)?, args.any(2).clone());
            Ok(args.any(0).clone())
        }),
        "unset" => fixed(2, |_, args| {
            args.map(0)?.remove(&args.text(1)?);
            Ok(args.any(0).clone())
        }),
        "hasKey" => {
            fixed(2, |_, args| Ok(args.map(0)?.entries().contains_key(&*args.text(1)?).into()))
        }
        "pluck" => variadic(1, pluck),
        "keys" => variadic(0, keys),
        "values" => {
            fixed(1, |_, args| Ok(Value::list(args.map(0)?.entries().values().cloned().collect())))
        }
        "pick" => variadic(1, |host, args| chosen(host, args, true)),
        "omit" => variadic(1, |host, args| chosen(host, args, false)),
        "merge" | "mustMerge" => variadic(1, |host, args| merged(host, args, false)),
        "mergeOverwrite" | "mustMergeOverwrite" => {
            variadic(1, |host, args| merged(host, args, true))
        }
        "dig" => variadic(3, dig),
        _ => return None,
    })
}

fn dict(host: &Host, args: Args<'_>) -> Outcome {
    let mut entries = Entries::new();
    for pair in args.0.chunks(2) {
        let key = strval_text(&pair[0], host.limits.text)?;
        entries.insert(key, pair.get(1).cloned().unwrap_or_else(|| "".into()));
    }
    host.charge(entries.len() * ENTRY)?;
    Ok(Value::Map(Map::from(entries)))
}

fn pluck(_: &Host, args: Args<'_>) -> Outcome {
    let key = args.text(0)?;
    let mut found = Vec::new();
    for at in 1..args.len() {
        found.extend(args.map(at)?.get(&key));
    }
    Ok(Value::list(found))
}

/// In the order of the alphabet, though nobody may count on that.
fn keys(host: &Host, args: Args<'_>) -> Outcome {
    let mut found = Vec::new();
    for at in 0..args.len() {
        let map = args.map(at)?;
        host.charge(map.len() * ENTRY)?;
        found.extend(map.entries().keys().cloned());
    }
    Ok(Value::List(List::texts(found)))
}

fn chosen(host: &Host, args: Args<'_>, named: bool) -> Outcome {
    let mut names = std::collections::HashSet::new();
    for at in 1..args.len() {
        names.insert(args.text(at)?);
    }
    let map = args.map(0)?;
    host.reads(map.len() * ENTRY)?;
    let mut kept = Entries::new();
    for (key, value) in map.entries().iter() {
        if names.contains(key) == named {
            host.charge(ENTRY)?;
            kept.insert(key.clone(), value.clone());
        }
    }
    Ok(Value::Map(Map::from(kept)))
}

fn merged(host: &Host, args: Args<'_>, overwrite: bool) -> Outcome {
    let target = args.map(0)?;
    for at in 1..args.len() {
        merge(host, &target, &*args.map(at)?, overwrite, MAX_DEPTH)?;
    }
    Ok(Value::Map(target.into_owned()))
}

/// What `mergo` does: maps are merged, and what is empty in the target gives way.
fn merge(
    host: &Host,
    target: &Map,
    source: &Map,
    overwrite: bool,
    depth: usize,
) -> Result<(), String> {
    let depth = depth.checked_sub(1).ok_or("maps are nested too deeply")?;
    if target.is(source) {
        return Ok(());
    }
    for (key, value) in source.snapshot() {
        host.step()?;
        let before = target.get(&key);
        if value.is_nil() {
            if overwrite {
                target.set(key, value);
            }
            continue;
        }
        if let (Some(Value::Map(before)), Value::Map(value)) = (&before, &value) {
            merge(host, before, value, overwrite, depth)?;
            if before.len() > 0 {
                continue;
            }
        }
        if overwrite || !before.is_some_and(|before| before.is_true()) {
            target.set(key, value);
        }
    }
    Ok(())
}

/// The value under keys within keys, or the default before the map.
fn dig(_: &Host, args: Args<'_>) -> Outcome {
    let (keys, otherwise) = (args.len() - 2, args.any(args.len() - 2));
    let mut map = args.map(args.len() - 1)?.into_owned();
    for at in 0..keys {
        let Some(value) = map.get(&args.text(at)?) else {
            return Ok(otherwise.clone());
        };
        if at + 1 == keys {
            return Ok(value);
        }
        let Value::Map(next) = value else {
            let name = value.type_name();
            return Err(format!(
                "interface conversion: interface {{}} is {name}, not map[string]interface {{}}"
            ));
        };
        map = next;
    }
    Ok(otherwise.clone())
}
