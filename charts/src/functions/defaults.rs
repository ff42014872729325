//! Emptiness, defaults, choice, and what type a value has.

use super::{Args, Function, Host, Outcome, fixed, variadic};
use crate::value::{Value, compare};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "default" => variadic(1, |_, args| match args.from(1).first() {
            Some(given) if given.is_true() => Ok(given.clone()),
            _ => Ok(args.any(0).clone()),
        }),
        "empty" => fixed(1, |_, args| Ok((!args.any(0).is_true()).into())),
        "coalesce" => variadic(0, |_, args| {
            Ok(args.0.iter().find(|value| value.is_true()).cloned().unwrap_or_default())
        }),
        "all" => variadic(0, |_, args| Ok(args.0.iter().all(Value::is_true).into())),
        "any" => variadic(0, |_, args| Ok(args.0.iter().any(Value::is_true).into())),
        "ternary" => fixed(3, |_, args| Ok(args.any(if args.bool(2)? { 0 } else { 1 }).clone())),
        "deepCopy" | "mustDeepCopy" => fixed(1, deep_copy),
        "typeOf" => fixed(1, |_, args| Ok(args.any(0).type_name().into())),
        "typeIs" => fixed(2, |_, args| Ok((*args.text(0)? == *args.any(1).type_name()).into())),
        "typeIsLike" => fixed(2, |_, args| {
            let (target, name) = (args.text(0)?, args.any(1).type_name());
            Ok((*target == *name || name.strip_prefix('*') == Some(&target)).into())
        }),
        "kindOf" => fixed(1, |_, args| Ok(args.any(0).kind_name().into())),
        "kindIs" => fixed(2, |_, args| Ok((*args.text(0)? == *args.any(1).kind_name()).into())),
        "deepEqual" => fixed(2, |host, args| {
            let (is_equal, steps) = compare::deep_equal(args.any(0), args.any(1));
            host.steps(steps).map(|()| is_equal.into())
        }),
        _ => return None,
    })
}

fn deep_copy(host: &Host, args: Args<'_>) -> Outcome {
    let most = host.limits.text / size_of::<Value>();
    let mut budget = most;
    let copy = args.any(0).deep_copy(&mut budget).ok_or("the value is too big to be copied")?;
    host.charge((most - budget) * size_of::<Value>())?;
    Ok(copy)
}
