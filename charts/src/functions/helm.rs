//! What Helm adds beside `include` and `tpl`.

use super::time::{self, Duration};
use super::{Args, Function, Host, Outcome, fixed};
use crate::value::{Map, Value, number};
use std::rc::Rc;

const SECOND: i64 = 1_000_000_000;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "required" => fixed(2, required),
        "fail" => fixed(1, |_, args| Err(args.text(0)?.to_string())),
        // There is no cluster to look things up in.
        "lookup" => fixed(4, |_, args| {
            for at in 0..4 {
                args.text(at)?;
            }
            Ok(Value::Map(Map::new()))
        }),
        "mustToDuration" => fixed(1, |_, args| Ok(of(nanoseconds(args.any(0))?))),
        "durationNanoseconds" => fixed(1, |_, args| Ok(Value::int64(given(args)))),
        "durationMicroseconds" => fixed(1, |_, args| Ok(Value::int64(given(args) / 1000))),
        "durationMilliseconds" => fixed(1, |_, args| Ok(Value::int64(given(args) / 1_000_000))),
        "durationSeconds" => fixed(1, |_, args| in_units(args, SECOND)),
        "durationMinutes" => fixed(1, |_, args| in_units(args, 60 * SECOND)),
        "durationHours" => fixed(1, |_, args| in_units(args, 3600 * SECOND)),
        "durationDays" => fixed(1, |_, args| in_units(args, 24 * 3600 * SECOND)),
        "durationWeeks" => fixed(1, |_, args| in_units(args, 7 * 24 * 3600 * SECOND)),
        "durationRoundTo" => fixed(2, |_, args| Ok(of(to_multiple(args, true)))),
        "durationTruncateTo" => fixed(2, |_, args| Ok(of(to_multiple(args, false)))),
        _ => return None,
    })
}

fn required(_: &Host, args: Args<'_>) -> Outcome {
    let message = args.text(0)?;
    match args.any(1) {
        Value::Nil => Err(message.to_string()),
        Value::Text(text) if text.is_empty() => Err(message.to_string()),
        value => Ok(value.clone()),
    }
}

fn of(nanoseconds: i64) -> Value {
    Value::Object(Rc::new(Duration(nanoseconds)))
}

/// A duration: itself, a text such as `1h`, or a number of seconds.
fn nanoseconds(value: &Value) -> Result<i64, String> {
    match value {
        Value::Object(object) if object.type_name() == "time.Duration" => {
            Ok(number::to_int(&object.plain()))
        }
        Value::Text(text) => {
            let text = text.trim();
            match (time::parse_duration(text), number::parse_float(text)) {
                _ if text.is_empty() => Err("empty duration".into()),
                (Some(nanoseconds), _) => Ok(nanoseconds),
                (None, Some(seconds)) => from_seconds(seconds),
                (None, None) => Err(format!("could not parse duration {text:?}")),
            }
        }
        Value::Int(seconds, _) => {
            let all = seconds.checked_mul(SECOND);
            all.ok_or_else(|| format!("duration seconds overflow: {seconds}"))
        }
        Value::Float(seconds) => from_seconds(*seconds),
        Value::Nil => Err("invalid duration".into()),
        other => Err(format!("unsupported duration type {}", other.type_name())),
    }
}

fn from_seconds(seconds: f64) -> Result<i64, String> {
    let all = seconds * 1e9;
    if all.is_finite() && all.abs() < 9.2e18 {
        return Ok(number::float_to_int(all));
    }
    Err(format!("duration seconds overflow: {}", number::general(seconds)))
}

/// What is no duration counts as zero.
fn given(args: Args<'_>) -> i64 {
    nanoseconds(args.any(0)).unwrap_or(0)
}

fn in_units(args: Args<'_>, unit: i64) -> Outcome {
    Ok(Value::Float(number::int_to_float(given(args)) / number::int_to_float(unit)))
}

/// The nearest multiple of the second duration, or the one below.
fn to_multiple(args: Args<'_>, rounds: bool) -> i64 {
    let duration = given(args);
    let unit = nanoseconds(args.any(1)).unwrap_or(0);
    if unit <= 0 {
        return duration;
    }
    let rest = duration % unit;
    let low = duration - rest;
    if rounds && rest.unsigned_abs() * 2 >= unit.unsigned_abs() {
        return low.saturating_add(unit * rest.signum());
    }
    low
}
