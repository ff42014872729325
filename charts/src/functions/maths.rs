//! Sprig's arithmetic: whole numbers wrap as in Go, and the `f` forms count in decimals.

mod decimal;

use super::arguments::strval_text;
use super::{Args, Function, Host, Outcome, fixed, lists, variadic};
use crate::value::number::{to_float, to_int};
use crate::value::{List, Value, format};
use decimal::Decimal;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "int" => fixed(1, |_, args| Ok(Value::int(to_int(args.any(0))))),
        "int64" => fixed(1, |_, args| Ok(Value::int64(to_int(args.any(0))))),
        "float64" => fixed(1, |_, args| Ok(Value::Float(to_float(args.any(0))))),
        "atoi" => fixed(1, |_, args| Ok(Value::int(args.text(0)?.parse().unwrap_or(0)))),
        "toDecimal" => fixed(1, |host, args| {
            let text = strval_text(args.any(0), host.limits.text)?;
            Ok(Value::int64(i64::from_str_radix(&text, 8).unwrap_or(0)))
        }),
        "add1" => fixed(1, |_, args| Ok(Value::int64(to_int(args.any(0)).wrapping_add(1)))),
        "add" => variadic(0, |_, args| Ok(folded(0, args.0, i64::wrapping_add))),
        "sub" => fixed(2, |_, args| {
            Ok(Value::int64(to_int(args.any(0)).wrapping_sub(to_int(args.any(1)))))
        }),
        "mul" => variadic(1, |_, args| Ok(folded(1, args.0, i64::wrapping_mul))),
        "div" => fixed(2, |_, args| divided(args, i64::wrapping_div)),
        "mod" => fixed(2, |_, args| divided(args, i64::wrapping_rem)),
        "max" | "biggest" => variadic(1, |_, args| Ok(folded(i64::MIN, args.0, i64::max))),
        "min" => variadic(1, |_, args| Ok(folded(i64::MAX, args.0, i64::min))),
        "maxf" => variadic(1, |_, args| Ok(chosen(args, f64::max))),
        "minf" => variadic(1, |_, args| Ok(chosen(args, f64::min))),
        "ceil" => fixed(1, |_, args| Ok(Value::Float(to_float(args.any(0)).ceil()))),
        "floor" => fixed(1, |_, args| Ok(Value::Float(to_float(args.any(0)).floor()))),
        "round" => variadic(2, round),
        "add1f" => fixed(1, |_, args| {
            Ok(in_decimals(to_float(args.any(0)), &[Value::int(1)], Decimal::add))
        }),
        "addf" => variadic(0, |_, args| Ok(in_decimals(0.0, args.0, Decimal::add))),
        "subf" => variadic(1, |_, args| {
            Ok(in_decimals(to_float(args.any(0)), args.from(1), Decimal::sub))
        }),
        "mulf" => variadic(1, |_, args| {
            Ok(in_decimals(to_float(args.any(0)), args.from(1), Decimal::mul))
        }),
        "divf" => variadic(1, |_, args| {
            if args.from(1).iter().any(|value| to_float(value) == 0.0) {
                return Err("decimal division by 0".into());
            }
            Ok(in_decimals(to_float(args.any(0)), args.from(1), Decimal::div))
        }),
        "seq" => variadic(0, seq),
        "randInt" => fixed(2, |host, args| {
            let (low, high) = (args.int(0)?, args.int(1)?);
            let span = u64::try_from(i128::from(high) - i128::from(low)).unwrap_or(0);
            if span == 0 {
                return Err("invalid argument to Intn".into());
            }
            let offset = i64::try_from(host.random_below(span)).unwrap_or(0);
            Ok(Value::int(low.wrapping_add(offset)))
        }),
        _ => return None,
    })
}

fn folded(start: i64, values: &[Value], step: fn(i64, i64) -> i64) -> Value {
    Value::int64(values.iter().fold(start, |sum, value| step(sum, to_int(value))))
}

fn divided(args: Args<'_>, operation: fn(i64, i64) -> i64) -> Outcome {
    match to_int(args.any(1)) {
        0 => Err("runtime error: integer divide by zero".into()),
        divisor => Ok(Value::int64(operation(to_int(args.any(0)), divisor))),
    }
}

fn chosen(args: Args<'_>, choose: fn(f64, f64) -> f64) -> Value {
    let first = to_float(args.any(0));
    Value::Float(args.from(1).iter().fold(first, |best, value| choose(best, to_float(value))))
}

fn round(_: &Host, args: Args<'_>) -> Outcome {
    let places = i32::try_from(args.int(1)?).map_err(|error| error.to_string())?;
    let up_from = args.from(2).first().map_or(0.5, to_float);
    let power = 10_f64.powi(places);
    let shifted = power * to_float(args.any(0));
    let rounded = if shifted.fract() >= up_from { shifted.ceil() } else { shifted.floor() };
    Ok(Value::Float(rounded / power))
}

fn in_decimals(start: f64, values: &[Value], operation: fn(Decimal, Decimal) -> Decimal) -> Value {
    let start = Decimal::from(start);
    let result = values.iter().fold(start, |sum, value| operation(sum, to_float(value).into()));
    Value::Float(result.into())
}

/// As the `seq` of a shell, on one line.
fn seq(host: &Host, args: Args<'_>) -> Outcome {
    let (start, step, end) = match args.len() {
        1 => (1, None, args.int(0)?),
        2 => (args.int(0)?, None, args.int(1)?),
        3 => (args.int(0)?, Some(args.int(1)?), args.int(2)?),
        _ => return Ok("".into()),
    };
    let toward = if end < start { -1 } else { 1 };
    let step = step.unwrap_or(toward);
    if toward < 0 && step > 0 {
        return Ok("".into());
    }
    let Value::List(list) = lists::numbers(host, start, end.saturating_add(toward), step)? else {
        return Ok("".into());
    };
    let text = format::value(&Value::List(List::new(list.items().to_vec())), host.limits.text)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Ok(text.trim_matches(['[', ']']).into())
}
