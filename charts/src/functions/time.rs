//! Moments and durations as Go has them. The local time is UTC: nothing here reads the machine's.

pub(super) mod layout;

use std::rc::Rc;
use std::time::SystemTime;

use crate::value::{Object, Value, number};

const DAY: i64 = 24 * 3600;

/// A moment, shown in a zone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Time {
    /// Since 1970, without leap seconds.
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
    /// Seconds east of UTC.
    pub(super) offset: i64,
    pub(super) zone: Rc<str>,
}

/// The date and clock of a moment in its zone.
pub(super) struct Civil {
    pub(super) year: i64,
    /// From 1.
    pub(super) month: u32,
    pub(super) day: u32,
    /// Seconds since midnight.
    pub(super) clock: i64,
    /// 0 is Sunday.
    pub(super) weekday: usize,
    /// From 1.
    pub(super) day_of_year: i64,
}

pub(super) const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

pub(super) const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Days since 1970 of a date; months and days may be out of their ranges.
pub(super) fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let months = year * 12 + month - 1;
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12));
    // Years start in March, so that the leap day is their last.
    let year = if month < 2 { year - 1 } else { year };
    let month = (month + 10) % 12;
    let day_of_year = (153 * month + 2) / 5;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + leaps + day_of_year + day - 1 - 719_468
}

impl Time {
    pub(crate) fn utc(seconds: i64, nanoseconds: u32) -> Time {
        Time { seconds, nanoseconds, offset: 0, zone: "UTC".into() }
    }

    /// Year 1, which Go calls zero.
    pub(super) fn zero() -> Time {
        Time::utc(-62_135_596_800, 0)
    }

    pub(super) fn civil(&self) -> Civil {
        let local = self.seconds.saturating_add(self.offset);
        let (days, clock) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let era_days = days + 719_468;
        let era = era_days.div_euclid(146_097);
        let day_of_era = era_days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let in_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * in_year + 2) / 153;
        let day = in_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let small = |number: i64| u32::try_from(number).unwrap_or(0);
        Civil {
            year,
            month: small(month),
            day: small(day),
            clock,
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
            day_of_year: days - days_of(year, 1, 1) + 1,
        }
    }

    pub(super) fn plus(&self, nanoseconds: i64) -> Time {
        let all = i64::from(self.nanoseconds) + nanoseconds % 1_000_000_000;
        let seconds = nanoseconds / 1_000_000_000 + all.div_euclid(1_000_000_000);
        Time {
            seconds: self.seconds.saturating_add(seconds),
            nanoseconds: u32::try_from(all.rem_euclid(1_000_000_000)).unwrap_or(0),
            ..self.clone()
        }
    }

    /// Nanoseconds from `earlier` to this, as many as fit.
    pub(super) fn since(&self, earlier: &Time) -> i64 {
        let seconds = i128::from(self.seconds) - i128::from(earlier.seconds);
        let all = seconds * 1_000_000_000 + i128::from(self.nanoseconds)
            - i128::from(earlier.nanoseconds);
        i64::try_from(all).unwrap_or(if all > 0 { i64::MAX } else { i64::MIN })
    }

    pub(super) fn in_utc(&self) -> Time {
        Time::utc(self.seconds, self.nanoseconds)
    }

    pub(super) fn value(self) -> Value {
        Value::Object(Rc::new(self))
    }

    /// The moment that a value is, if it is one.
    pub(super) fn of(value: &Value) -> Option<Time> {
        let Value::Object(object) = value else {
            return None;
        };
        if object.type_name() != "time.Time" {
            return None;
        }
        // Its JSON form keeps all but the name of the zone.
        match object.plain() {
            Value::Text(text) => layout::parse("2006-01-02T15:04:05.999999999Z07:00", &text),
            _ => None,
        }
    }
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Time::utc(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
    }
}

impl Object for Time {
    fn type_name(&self) -> &'static str {
        "time.Time"
    }

    fn field(&self, _: &str) -> Option<Value> {
        None
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let civil = self.civil();
        let argument = |at: usize| arguments.get(at).map_or(0, number::to_int);
        Some(Ok(match method {
            "Format" => match arguments {
                [Value::Text(layout)] => layout::format(self, layout).into(),
                _ => return Some(Err("Format takes a layout".into())),
            },
            "Unix" => Value::int64(self.seconds),
            "UnixMilli" => Value::int64(
                self.seconds
                    .saturating_mul(1000)
                    .saturating_add(i64::from(self.nanoseconds / 1_000_000)),
            ),
            "UnixNano" => Value::int64(
                self.seconds
                    .saturating_mul(1_000_000_000)
                    .saturating_add(i64::from(self.nanoseconds)),
            ),
            "Year" => Value::int(civil.year),
            "Month" => {
                Value::Object(Rc::new(Named(civil.month.into(), MONTHS[civil.month as usize - 1])))
            }
            "Weekday" => {
                let number = i64::try_from(civil.weekday).unwrap_or(0);
                Value::Object(Rc::new(Named(number, WEEKDAYS[civil.weekday])))
            }
            "Day" => Value::int(civil.day.into()),
            "YearDay" => Value::int(civil.day_of_year),
            "Hour" => Value::int(civil.clock / 3600),
            "Minute" => Value::int(civil.clock / 60 % 60),
            "Second" => Value::int(civil.clock % 60),
            "Nanosecond" => Value::int(self.nanoseconds.into()),
            "UTC" | "Local" => self.in_utc().value(),
            "String" => self.text().unwrap_or_default().into(),
            "IsZero" => (self.in_utc() == Time::zero()).into(),
            "Add" => self.plus(argument(0)).value(),
            "AddDate" => {
                let days = days_of(
                    civil.year.saturating_add(argument(0).clamp(-100_000, 100_000)),
                    i64::from(civil.month) + argument(1).clamp(-100_000, 100_000),
                    i64::from(civil.day) + argument(2).clamp(-10_000_000, 10_000_000),
                );
                let seconds = days.saturating_mul(DAY).saturating_add(civil.clock - self.offset);
                Time { seconds, ..self.clone() }.value()
            }
            "Sub" | "After" | "Before" | "Equal" => {
                let Some(other) = arguments.first().and_then(Time::of) else {
                    return Some(Err("expected time.Time".into()));
                };
                let difference = self.since(&other);
                match method {
                    "Sub" => Value::Object(Rc::new(Duration(difference))),
                    "After" => (difference > 0).into(),
                    "Before" => (difference < 0).into(),
                    _ => (difference == 0).into(),
                }
            }
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        layout::format(self, "2006-01-02T15:04:05.999999999Z07:00").into()
    }

    fn text(&self) -> Option<String> {
        Some(layout::format(self, "2006-01-02 15:04:05.999999999 -0700 MST"))
    }
}

/// A month or a day of the week.
#[derive(Debug)]
struct Named(i64, &'static str);

impl Object for Named {
    fn type_name(&self) -> &'static str {
        if MONTHS.contains(&self.1) { "time.Month" } else { "time.Weekday" }
    }

    fn kind(&self) -> &'static str {
        "int"
    }

    fn field(&self, _: &str) -> Option<Value> {
        None
    }

    fn call(&self, method: &str, _: &[Value]) -> Option<Result<Value, String>> {
        (method == "String").then(|| Ok(self.1.into()))
    }

    fn plain(&self) -> Value {
        Value::int(self.0)
    }

    fn text(&self) -> Option<String> {
        Some(self.1.into())
    }
}

/// Nanoseconds.
#[derive(Debug)]
pub(super) struct Duration(pub(super) i64);

impl Object for Duration {
    fn type_name(&self) -> &'static str {
        "time.Duration"
    }

    fn kind(&self) -> &'static str {
        "int64"
    }

    fn field(&self, _: &str) -> Option<Value> {
        None
    }

    fn call(&self, method: &str, _: &[Value]) -> Option<Result<Value, String>> {
        let in_units = |unit: f64| Value::Float(number::int_to_float(self.0) / unit);
        Some(Ok(match method {
            "Hours" => in_units(3.6e12),
            "Minutes" => in_units(6e10),
            "Seconds" => in_units(1e9),
            "Milliseconds" => Value::int64(self.0 / 1_000_000),
            "Microseconds" => Value::int64(self.0 / 1000),
            "Nanoseconds" => Value::int64(self.0),
            "String" => format_duration(self.0).into(),
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        Value::int64(self.0)
    }

    fn text(&self) -> Option<String> {
        Some(format_duration(self.0))
    }
}

/// `1h2m3.5s`.
pub(super) fn format_duration(nanoseconds: i64) -> String {
    let size = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let with_part = |whole: u64, part: u64, digits: usize| {
        let part = format!("{part:0digits$}");
        match part.trim_end_matches('0') {
            "" => whole.to_string(),
            part => format!("{whole}.{part}"),
        }
    };
    match size {
        0 => "0s".into(),
        1..1000 => format!("{sign}{size}ns"),
        1000..1_000_000 => format!("{sign}{}µs", with_part(size / 1000, size % 1000, 3)),
        1_000_000..1_000_000_000 => {
            format!("{sign}{}ms", with_part(size / 1_000_000, size % 1_000_000, 6))
        }
        _ => {
            let (seconds, part) = (size / 1_000_000_000, size % 1_000_000_000);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let seconds = with_part(seconds % 60, part, 9);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `1h30m`, `-1.5s`: nanoseconds.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum = 0_i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (digits, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, after) = after.split_at(unit_end.unwrap_or(after.len()));
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && part.is_empty() || whole.len() > 18 || part.contains('.') {
            return None;
        }
        sum += whole.parse::<i128>().unwrap_or(0) * unit;
        let part = &part[..part.len().min(18)];
        let scale = 10_i128.pow(u32::try_from(part.len()).ok()?);
        sum += part.parse::<i128>().unwrap_or(0) * unit / scale;
        rest = after;
    }
    i64::try_from(sum * sign).ok()
}

/// The moment of a number of seconds, or the value's own.
pub(super) fn moment(value: &Value) -> Option<Time> {
    match value {
        Value::Int(seconds, _) => Some(Time::utc(*seconds, 0)),
        other => Time::of(other),
    }
}
