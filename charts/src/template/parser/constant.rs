//! Literals: numbers of each of Go's forms, characters and strings.

use crate::template::lexer::Kind;
use crate::value::{Value, number};

/// The value of a literal token.
pub(super) fn constant(kind: Kind<'_>) -> Result<Value, String> {
    match kind {
        Kind::Number(text) => number_constant(text),
        Kind::Raw(text) => Ok(Value::text(text)),
        Kind::Quoted(text) => Ok(Value::string(unquote(text)?)),
        Kind::Char(text) => {
            let bytes = unquote(text)?;
            let mut chars = std::str::from_utf8(&bytes).unwrap_or("").chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => Ok(Value::int(u32::from(c).into())),
                _ => Err(format!("malformed character constant: {text}")),
            }
        }
        _ => Err("not a literal".into()),
    }
}

fn number_constant(text: &str) -> Result<Value, String> {
    if let Some(number) = number::parse_int(text, true) {
        return Ok(Value::int(number));
    }
    let unsigned = text.trim_start_matches(['+', '-']);
    let lower = unsigned.to_ascii_lowercase();
    let bad = || format!("bad number syntax: {text:?}");
    if let Some(digits) = lower.strip_prefix("0x") {
        let size = hex_float(digits).ok_or_else(bad)?;
        return Ok(Value::Float(if text.starts_with('-') { -size } else { size }));
    }
    if !lower.contains(['.', 'e']) {
        let digits = lower.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
        return Err(if digits { format!("integer overflow: {text:?}") } else { bad() });
    }
    number::parse_float(&text.replace('_', "")).map(Value::Float).ok_or_else(bad)
}

/// `1.8p3` is 12: hexadecimal digits times a power of two.
fn hex_float(text: &str) -> Option<f64> {
    let (digits, exponent) = text.split_once('p')?;
    let exponent: i32 = exponent.parse().ok()?;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let all = [whole, part].concat().replace('_', "");
    let mut size = 0.0;
    for c in all.chars() {
        size = size * 16.0 + f64::from(c.to_digit(16)?);
    }
    let places = i32::try_from(part.len()).ok()?;
    (!all.is_empty()).then(|| size * 2f64.powi(exponent.saturating_sub(4 * places)))
}

/// What a literal in double or single quotes stands for.
pub(super) fn unquote(text: &str) -> Result<Vec<u8>, String> {
    let bad = || format!("invalid syntax in {text}");
    let inner = text.get(1..text.len() - 1).ok_or_else(bad)?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = chars.next().ok_or_else(bad)?;
        match escape {
            'a' => bytes.push(7),
            'b' => bytes.push(8),
            'f' => bytes.push(12),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(11),
            '\\' => bytes.push(b'\\'),
            '\'' | '"' if text.starts_with(escape) => bytes.extend(escape.to_string().bytes()),
            'x' => {
                bytes.push(code(&mut chars, 2, 16).and_then(|c| c.try_into().ok()).ok_or_else(bad)?)
            }
            'u' | 'U' => {
                let digits = if escape == 'u' { 4 } else { 8 };
                let c = code(&mut chars, digits, 16).and_then(char::from_u32).ok_or_else(bad)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            '0'..='7' => {
                let first = escape.to_digit(8).ok_or_else(bad)?;
                let rest = code(&mut chars, 2, 8).ok_or_else(bad)?;
                bytes.push((first * 64 + rest).try_into().map_err(|_| bad())?);
            }
            _ => return Err(bad()),
        }
    }
    Ok(bytes)
}

fn code(chars: &mut std::str::Chars<'_>, digits: u32, base: u32) -> Option<u32> {
    let mut code = 0_u32;
    for _ in 0..digits {
        code = code.checked_mul(base)? + chars.next()?.to_digit(base)?;
    }
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_each_form() {
        let cases = [
            ("0", 0),
            ("-12", -12),
            ("+3", 3),
            ("1_000", 1000),
            ("0x1F", 31),
            ("0b101", 5),
            ("0o17", 15),
            ("017", 15),
        ];
        for (text, number) in cases {
            let value = constant(Kind::Number(text));
            assert!(matches!(value, Ok(Value::Int(n, _)) if n == number), "{text}: {value:?}");
        }
        for (text, number) in
            [("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("-2.", -2.0), ("0x1.8p3", 12.0)]
        {
            let value = constant(Kind::Number(text));
            assert!(matches!(value, Ok(Value::Float(n)) if n == number), "{text}: {value:?}");
        }
        for text in ["08", "0x", "1x", "99999999999999999999"] {
            assert!(constant(Kind::Number(text)).is_err(), "{text}");
        }
        assert!(matches!(constant(Kind::Char("'a'")), Ok(Value::Int(97, _))));
        assert!(matches!(constant(Kind::Char(r"'\n'")), Ok(Value::Int(10, _))));
        assert!(constant(Kind::Char("'ab'")).is_err());
    }

    #[test]
    fn strings_with_escapes() {
        let cases: [(&str, &[u8]); 4] = [
            (r#""a\tb\\\"""#, b"a\tb\\\""),
            (r#""\u00e9\U0001F600\x41""#, "é😀A".as_bytes()),
            (r#""\101\xff""#, b"A\xff"),
            (r#""'""#, b"'"),
        ];
        for (text, expected) in cases {
            assert_eq!(unquote(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [r#""\z""#, r#""\'""#, r#""\ud800""#, r#""\x4""#] {
            assert!(unquote(text).is_err(), "{text}");
        }
    }
}
