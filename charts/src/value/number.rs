//! Numbers as Go writes and reads them, and as Sprig's `int` and `float64` make them of anything.

use super::{IntKind, Value};

/// The shortest digits that read back as this number, and the power of ten of the first.
fn shortest(number: f64) -> (String, i32) {
    let text = format!("{:e}", number.abs());
    let (digits, exponent) = text.split_once('e').expect("{:e} writes an exponent");
    (digits.replace('.', ""), exponent.parse().expect("{:e} writes a number there"))
}

/// How Go prints what is not finite.
fn unusual(number: f64) -> Option<&'static str> {
    if number.is_nan() {
        Some("NaN")
    } else if number.is_infinite() {
        Some(if number > 0.0 { "+Inf" } else { "-Inf" })
    } else {
        None
    }
}

/// Digits with an exponent for what is below 1e-4 or not below `10^limit`.
fn general_until(number: f64, limit: i32) -> String {
    if let Some(text) = unusual(number) {
        return text.into();
    }
    let (digits, exponent) = shortest(number);
    let sign = if number.is_sign_negative() { "-" } else { "" };
    if exponent < -4 || exponent >= limit {
        scientific(sign, &digits, exponent)
    } else {
        plain(sign, &digits, exponent)
    }
}

/// `%v` of a float: a million is `1e+06`.
pub(crate) fn general(number: f64) -> String {
    general_until(number, 6)
}

/// A float as `encoding/json` writes it; `None` for what JSON has no number for.
pub(crate) fn json(number: f64) -> Option<String> {
    if unusual(number).is_some() {
        return None;
    }
    let (digits, exponent) = shortest(number);
    let sign = if number.is_sign_negative() { "-" } else { "" };
    if number != 0.0 && !(-6..21).contains(&exponent) {
        let text = scientific(sign, &digits, exponent);
        // e-09 is written e-9.
        return Some(text.replace("e-0", "e-"));
    }
    Some(plain(sign, &digits, exponent))
}

fn scientific(sign: &str, digits: &str, exponent: i32) -> String {
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    let mark = if exponent < 0 { '-' } else { '+' };
    format!("{sign}{first}{point}{rest}e{mark}{:02}", exponent.unsigned_abs())
}

fn plain(sign: &str, digits: &str, exponent: i32) -> String {
    let mut text = String::from(sign);
    if exponent < 0 {
        text.push_str("0.");
        text.extend(std::iter::repeat_n('0', usize::try_from(-exponent - 1).unwrap_or(0)));
        text.push_str(digits);
        return text;
    }
    let whole = usize::try_from(exponent).unwrap_or(0) + 1;
    if digits.len() <= whole {
        text.push_str(digits);
        text.extend(std::iter::repeat_n('0', whole - digits.len()));
    } else {
        text.push_str(&digits[..whole]);
        text.push('.');
        text.push_str(&digits[whole..]);
    }
    text
}

/// `%e`, `%f` and `%g` with a precision.
pub(crate) fn with_precision(number: f64, verb: char, precision: usize) -> String {
    if let Some(text) = unusual(number) {
        return text.into();
    }
    match verb {
        'f' | 'F' => format!("{number:.precision$}"),
        'e' | 'E' => {
            let text = format!("{number:.precision$e}");
            let (digits, exponent) = text.split_once('e').expect("{:e} writes an exponent");
            let exponent: i32 = exponent.parse().expect("{:e} writes a number there");
            let mark = if exponent < 0 { '-' } else { '+' };
            let e = verb;
            format!("{digits}{e}{mark}{:02}", exponent.unsigned_abs())
        }
        _ => {
            let rounded = format!("{:.*e}", precision.max(1) - 1, number.abs());
            let (digits, exponent) = rounded.split_once('e').expect("{:e} writes an exponent");
            let exponent: i32 = exponent.parse().expect("{:e} writes a number there");
            let digits = digits.replace('.', "");
            let digits = match digits.trim_end_matches('0') {
                "" => "0",
                digits => digits,
            };
            let limit = i32::try_from(precision.max(1)).unwrap_or(i32::MAX);
            let sign = if number.is_sign_negative() { "-" } else { "" };
            if exponent < -4 || exponent >= limit {
                scientific(sign, digits, exponent)
            } else {
                plain(sign, digits, exponent)
            }
        }
    }
}

/// A number as `strconv.ParseInt` reads it with base 0: `0x`, `0o`, `0b` and a leading zero count.
///
/// With `underscores` they may stand between digits, as in Go's source.
pub(crate) fn parse_int(text: &str, underscores: bool) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let cleaned;
    let digits = if underscores && digits.contains('_') {
        if digits.ends_with('_') || digits.starts_with('_') || digits.contains("__") {
            return None;
        }
        cleaned = digits.replace('_', "");
        &cleaned
    } else {
        digits
    };
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, base).ok()?);
    i64::try_from(if negative { -number } else { number }).ok()
}

/// A number as `strconv.ParseFloat` reads it, infinities and not-a-number included.
pub(crate) fn parse_float(text: &str) -> Option<f64> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace()) {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| {
        // Too big is an error to Go, unless infinity is what is meant.
        !number.is_infinite() || text.to_ascii_lowercase().contains("inf")
    })
}

/// Go's conversion: towards zero; what does not fit becomes the smallest number.
#[expect(clippy::cast_possible_truncation, reason = "checked, and Go's result otherwise")]
pub(crate) fn float_to_int(number: f64) -> i64 {
    // The bounds are exact: 2^63 and -2^63.
    if (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number) {
        number as i64
    } else {
        i64::MIN
    }
}

#[expect(clippy::cast_precision_loss, reason = "as Go's conversion")]
pub(crate) fn int_to_float(number: i64) -> f64 {
    number as f64
}

/// `int64`: zero for what is no number.
pub(crate) fn to_int(value: &Value) -> i64 {
    match value {
        Value::Int(number, _) => *number,
        Value::Float(number) => float_to_int(*number),
        Value::Bool(value) => i64::from(*value),
        Value::Text(text) => text_to_int(text),
        Value::Object(object) => match object.plain() {
            Value::Int(number, _) => number,
            _ => 0,
        },
        Value::Nil | Value::Raw(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => 0,
    }
}

/// Digits behind a point are left off if they are zeros; a leading zero makes an octal number.
fn text_to_int(text: &str) -> i64 {
    let whole = match text.split_once('.') {
        Some((whole, rest)) if !rest.is_empty() && rest.bytes().all(|b| b == b'0') => whole,
        _ => text,
    };
    parse_int(whole, true).unwrap_or(0)
}

/// `float64`: zero for what is no number.
pub(crate) fn to_float(value: &Value) -> f64 {
    match value {
        Value::Int(number, IntKind::Uint64) => int_to_float(*number),
        Value::Int(number, _) => int_to_float(*number),
        Value::Float(number) => *number,
        Value::Bool(value) => f64::from(u8::from(*value)),
        Value::Text(text) => parse_float(text).unwrap_or(0.0),
        Value::Object(object) => match object.plain() {
            Value::Int(number, _) => int_to_float(number),
            _ => 0.0,
        },
        Value::Nil | Value::Raw(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_go_prints_them() {
        let cases = [
            (0.0, "0", "0"),
            (-0.0, "-0", "-0"),
            (1.5, "1.5", "1.5"),
            (100_000.0, "100000", "100000"),
            (1_000_000.0, "1e+06", "1000000"),
            (1_234_567.0, "1.234567e+06", "1234567"),
            (0.0001, "0.0001", "0.0001"),
            (0.000_01, "1e-05", "0.00001"),
            (1e-7, "1e-07", "1e-7"),
            (1e21, "1e+21", "1e+21"),
            (1e20, "1e+20", "100000000000000000000"),
            (12_345_678_901_234_567_890.0, "1.2345678901234567e+19", "12345678901234567000"),
        ];
        for (number, general_text, json_text) in cases {
            assert_eq!(general(number), general_text);
            assert_eq!(json(number).as_deref(), Some(json_text));
        }
        assert_eq!(general(f64::INFINITY), "+Inf");
        assert_eq!(json(f64::NAN), None);
        assert_eq!(with_precision(2.71928, 'f', 2), "2.72");
        assert_eq!(with_precision(31415.9, 'e', 2), "3.14e+04");
        assert_eq!(with_precision(31415.9, 'g', 3), "3.14e+04");
        assert_eq!(with_precision(0.5, 'g', 3), "0.5");
    }

    #[test]
    fn integers_are_read_in_each_of_gos_bases() {
        let cases = [
            ("10", Some(10)),
            ("-10", Some(-10)),
            ("+7", Some(7)),
            ("017", Some(15)),
            ("0o17", Some(15)),
            ("0x1F", Some(31)),
            ("-0b11", Some(-3)),
            ("08", None),
            ("", None),
            ("-", None),
            ("0x", None),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
        ];
        for (text, number) in cases {
            assert_eq!(parse_int(text, false), number, "{text}");
        }
        assert_eq!(parse_int("1_000", true), Some(1000));
        assert_eq!(parse_int("1__0", true), None);
    }

    #[test]
    fn int_takes_anything() {
        let cases = [
            ("12", 12),
            ("0012", 10),
            ("08", 0),
            ("1.0", 1),
            ("1.5", 0),
            ("0x10", 16),
            ("a", 0),
            ("", 0),
        ];
        for (text, number) in cases {
            assert_eq!(to_int(&Value::text(text)), number, "{text}");
        }
        assert_eq!(to_int(&Value::Float(-1.9)), -1);
        assert_eq!(to_int(&Value::Bool(true)), 1);
        assert_eq!(to_int(&Value::Nil), 0);
    }
}
