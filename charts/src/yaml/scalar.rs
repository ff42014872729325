//! What a plain scalar means: YAML 1.1 as `go-yaml` version 2 has it.

use crate::value::{Value, number};

/// What a scalar without quotes and tag is.
#[derive(Debug, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    /// Integers that need more than 64 bits are `Float`.
    Int(i128),
    Float(f64),
    /// Read as text, but written in quotes.
    Timestamp,
    Text,
}

impl Plain {
    pub(crate) fn value(&self, text: &str) -> Value {
        match self {
            Plain::Null => Value::Nil,
            Plain::Bool(value) => Value::Bool(*value),
            #[expect(clippy::cast_precision_loss, reason = "as JSON numbers lose it")]
            Plain::Int(number) => Value::Float(*number as f64),
            Plain::Float(number) => Value::Float(*number),
            Plain::Timestamp | Plain::Text => Value::text(text),
        }
    }
}

pub(crate) fn plain(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Plain::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Plain::Bool(false);
        }
        ".nan" | ".NaN" | ".NAN" => return Plain::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Plain::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Plain::Float(f64::NEG_INFINITY),
        _ => (),
    }
    match text.as_bytes()[0] {
        b'.' => {
            number::parse_float(text).filter(|_| is_float(text)).map_or(Plain::Text, Plain::Float)
        }
        b'0'..=b'9' | b'+' | b'-' => numeric(text),
        _ => Plain::Text,
    }
}

fn numeric(text: &str) -> Plain {
    if is_timestamp(text) {
        return Plain::Timestamp;
    }
    let cleaned = text.replace('_', "");
    if let Some(number) = number::parse_int(&cleaned, false) {
        return Plain::Int(number.into());
    }
    if cleaned.bytes().all(|byte| byte.is_ascii_digit())
        && !(cleaned.len() > 1 && cleaned.starts_with('0'))
        && let Ok(number) = cleaned.parse::<u64>()
    {
        return Plain::Int(number.into());
    }
    if is_float(&cleaned)
        && let Some(number) = number::parse_float(&cleaned)
    {
        return Plain::Float(number);
    }
    Plain::Text
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let whole = digits(text);
    let mut rest = &text[whole..];
    if let Some(after) = rest.strip_prefix('.') {
        let part = digits(after);
        if whole + part == 0 {
            return false;
        }
        rest = &after[part..];
    } else if whole == 0 {
        return false;
    }
    if let Some(after) = rest.strip_prefix(['e', 'E']) {
        let after = after.strip_prefix(['-', '+']).unwrap_or(after);
        let part = digits(after);
        return part > 0 && part == after.len();
    }
    rest.is_empty()
}

/// `2001-01-01`, or with a time behind a `T`, `t` or blank.
fn is_timestamp(text: &str) -> bool {
    let Some((year, rest)) = text.split_once('-') else {
        return false;
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if year.len() != 4 || !is_digits(year) {
        return false;
    }
    let (date, time) = match rest.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some((time, rest.as_bytes()[date.len()] == b' '))),
        None => (rest, None),
    };
    let Some((month, day)) = date.split_once('-') else {
        return false;
    };
    let within = |text: &str, low: u32, high: u32| {
        is_digits(text) && text.len() <= 2 && text.parse().is_ok_and(|n| (low..=high).contains(&n))
    };
    if !within(month, 1, 12) || !within(day, 1, 31) {
        return false;
    }
    let Some((time, bare)) = time else {
        return true;
    };
    let zone = if bare { Some(time.len()) } else { time.find(['Z', '+', '-']) };
    let Some(zone) = zone else {
        return false;
    };
    let (clock, zone) = time.split_at(zone);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let parts: Vec<&str> = clock.split(':').collect();
    let zone_fits = bare
        || zone == "Z"
        || zone.len() == 6
            && zone.as_bytes()[3] == b':'
            && is_digits(&zone[1..3])
            && is_digits(&zone[4..]);
    parts.len() == 3
        && within(parts[0], 0, 23)
        && within(parts[1], 0, 59)
        && within(parts[2], 0, 59)
        && is_digits(fraction)
        && zone_fits
}

/// What YAML 1.1 reads as a number of base sixty: `1:30`.
fn is_base_sixty(text: &str) -> bool {
    let text = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or("");
    let of_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
    let mut rest = 0;
    first.starts_with(|c: char| c.is_ascii_digit())
        && of_digits(first)
        && of_digits(fraction)
        && parts.all(|part| {
            rest += 1;
            matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'])
        })
        && rest > 0
}

/// Whether a string can be written without quotes and still be read as one.
pub(crate) fn reads_as_text(text: &str) -> bool {
    plain(text) == Plain::Text && !is_base_sixty(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_read_as_go_yaml_reads_them() {
        let cases = [
            ("y", Plain::Bool(true)),
            ("off", Plain::Bool(false)),
            ("tRue", Plain::Text),
            ("~", Plain::Null),
            ("nULL", Plain::Text),
            ("0b11", Plain::Int(3)),
            ("0o17", Plain::Int(15)),
            ("017", Plain::Int(15)),
            ("08", Plain::Float(8.0)),
            ("1_000", Plain::Int(1000)),
            ("1__0", Plain::Int(10)),
            ("0x1F", Plain::Int(31)),
            ("0x_1", Plain::Int(1)),
            ("-0b11", Plain::Int(-3)),
            ("+1", Plain::Int(1)),
            (".5", Plain::Float(0.5)),
            ("5.", Plain::Float(5.0)),
            ("1e3", Plain::Float(1000.0)),
            ("1e3_", Plain::Float(1000.0)),
            ("12_3.4", Plain::Float(123.4)),
            ("9223372036854775808", Plain::Int(9_223_372_036_854_775_808)),
            ("99999999999999999999999", Plain::Float(1e23)),
            ("1e400", Plain::Text),
            ("0o8", Plain::Text),
            ("_1", Plain::Text),
            ("1:30", Plain::Text),
            ("2001-01-01", Plain::Timestamp),
            ("2001-01-01T00:00:00Z", Plain::Timestamp),
            ("2001-01-01 00:00:00", Plain::Timestamp),
            ("2001-13-01", Plain::Text),
            ("1.2.3", Plain::Text),
            (".", Plain::Text),
            ("-", Plain::Text),
            ("=", Plain::Text),
        ];
        for (text, expected) in cases {
            assert_eq!(plain(text), expected, "{text}");
        }
        assert!(!reads_as_text("1:30"));
        assert!(!reads_as_text("190:20:30"));
        assert!(reads_as_text("1.5:3"));
        assert!(reads_as_text("1e"));
    }
}
