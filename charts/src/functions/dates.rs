//! Sprig's functions on dates.

use super::time::{Time, format_duration, layout, moment, parse_duration};
use super::{Args, Function, Host, Outcome, fixed};
use crate::value::{IntKind, Value};

const SECOND: i64 = 1_000_000_000;

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "now" => fixed(0, |host, _| Ok(host.now.clone().value())),
        "date" => fixed(2, |host, args| Ok(in_layout(host, args.any(1), &args.text(0)?))),
        "dateInZone" | "date_in_zone" => fixed(3, |host, args| {
            args.text(2)?;
            Ok(in_layout(host, args.any(1), &args.text(0)?))
        }),
        "htmlDate" => fixed(1, |host, args| Ok(in_layout(host, args.any(0), "2006-01-02"))),
        "htmlDateInZone" => fixed(2, |host, args| {
            args.text(1)?;
            Ok(in_layout(host, args.any(0), "2006-01-02"))
        }),
        "dateModify" | "date_modify" => fixed(2, |_, args| {
            let time = time(args, 1)?;
            Ok(time.plus(parse_duration(&args.text(0)?).unwrap_or(0)).value())
        }),
        "mustDateModify" | "must_date_modify" => fixed(2, |_, args| {
            let text = args.text(0)?;
            let duration = parse_duration(&text);
            let duration = duration.ok_or_else(|| format!("time: invalid duration {text:?}"))?;
            Ok(time(args, 1)?.plus(duration).value())
        }),
        "toDate" => fixed(2, |_, args| {
            Ok(layout::parse(&args.text(0)?, &args.text(1)?).unwrap_or_else(Time::zero).value())
        }),
        "mustToDate" => fixed(2, |_, args| {
            let (layout, text) = (args.text(0)?, args.text(1)?);
            let time = layout::parse(&layout, &text);
            Ok(time.ok_or_else(|| format!("cannot parse {text:?} as {layout:?}"))?.value())
        }),
        "unixEpoch" => fixed(1, |_, args| Ok(time(args, 0)?.seconds.to_string().into())),
        "ago" => fixed(1, |host, args| {
            let since = host.now.since(&moment(args.any(0)).unwrap_or_else(|| host.now.clone()));
            let rest = since % SECOND;
            let up = if rest >= SECOND / 2 { SECOND } else { 0 };
            Ok(format_duration((since - rest).saturating_add(up)).into())
        }),
        "duration" => fixed(1, |_, args| {
            let seconds = match args.any(0) {
                Value::Text(text) => text.parse().unwrap_or(0),
                Value::Int(seconds, IntKind::Int64) => *seconds,
                _ => 0,
            };
            Ok(format_duration(i64::saturating_mul(seconds, SECOND)).into())
        }),
        "durationRound" => fixed(1, duration_round),
        _ => return None,
    })
}

fn time(args: Args<'_>, at: usize) -> Result<Time, String> {
    let value = args.any(at);
    let name = value.type_name();
    Time::of(value).ok_or_else(|| format!("wrong type for value; expected time.Time; got {name}"))
}

/// Every zone is UTC; what is no date is now.
fn in_layout(host: &Host, value: &Value, layout: &str) -> Value {
    let time = moment(value).unwrap_or_else(|| host.now.clone());
    layout::format(&time.in_utc(), layout).into()
}

/// The biggest unit that a duration is more than one of.
fn duration_round(host: &Host, args: Args<'_>) -> Outcome {
    let nanoseconds = match args.any(0) {
        Value::Text(text) => parse_duration(text).unwrap_or(0),
        Value::Int(nanoseconds, IntKind::Int64) => *nanoseconds,
        other => Time::of(other).map_or(0, |time| host.now.since(&time)),
    };
    let size = nanoseconds.unsigned_abs();
    let hour = 3600 * SECOND.unsigned_abs();
    let units = [
        (hour * 24 * 365, "y"),
        (hour * 24 * 30, "mo"),
        (hour * 24, "d"),
        (hour, "h"),
        (hour / 60, "m"),
        (SECOND.unsigned_abs(), "s"),
    ];
    let unit = units.iter().find(|(unit, _)| size > *unit);
    Ok(unit.map_or("0s".into(), |(unit, name)| format!("{}{name}", size / unit).into()))
}
