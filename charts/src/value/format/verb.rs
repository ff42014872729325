//! One verb of a format, and one value printed by it.

use super::quote::{quote, quote_rune};
use super::{Out, TooBig};
use crate::value::{IntKind, Value, number};

/// A verb with its flags.
#[derive(Default)]
pub(super) struct Spec {
    pub(super) verb: char,
    pub(super) width: Option<usize>,
    pub(super) precision: Option<usize>,
    /// Pad on the right.
    pub(super) minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
}

impl Spec {
    pub(super) fn plain() -> Spec {
        Spec { verb: 'v', ..Spec::default() }
    }

    /// Takes a flag; false for what is none.
    pub(super) fn flag(&mut self, c: char) -> bool {
        match c {
            '-' => self.minus = true,
            '+' => self.plus = true,
            '#' => self.sharp = true,
            ' ' => self.space = true,
            '0' => self.zero = true,
            _ => return false,
        }
        true
    }

    fn is_go_syntax(&self) -> bool {
        self.verb == 'v' && self.sharp
    }

    /// With blanks or zeros to the width; characters count, not bytes. Of numbers the sign stays
    /// before the zeros.
    fn padded(&self, out: &mut Out, bytes: &[u8], is_number: bool) -> Result<(), TooBig> {
        let missing = match self.width {
            Some(width) => width.saturating_sub(String::from_utf8_lossy(bytes).chars().count()),
            None => 0,
        };
        if self.minus {
            out.push(bytes)?;
            return out.repeat(b' ', missing);
        }
        if self.zero && missing > 0 {
            let signed = is_number && matches!(bytes.first(), Some(b'-' | b'+' | b' '));
            let (sign, digits) = bytes.split_at(usize::from(signed));
            out.push(sign)?;
            out.repeat(b'0', missing)?;
            return out.push(digits);
        }
        out.repeat(b' ', missing)?;
        out.push(bytes)
    }
}

/// Prints `value` by the verb; within containers the verb is for each item.
pub(super) fn print(out: &mut Out, value: &Value, spec: &Spec, depth: usize) -> Result<(), TooBig> {
    let depth = depth.checked_sub(1).ok_or(TooBig)?;
    if spec.verb == 'T' {
        return spec.padded(out, value.type_name().as_bytes(), false);
    }
    match value {
        Value::Nil => match spec.verb {
            'v' => spec.padded(out, b"<nil>", false),
            verb => out.text(&format!("%!{verb}(<nil>)")),
        },
        Value::Bool(truth) => match spec.verb {
            't' | 'v' => spec.padded(out, truth.to_string().as_bytes(), false),
            _ => bad_verb(out, value, spec, depth),
        },
        Value::Int(number, kind) => int(out, *number, *kind, spec, depth),
        Value::Float(number) => float(out, *number, spec, depth),
        Value::Text(text) => string(out, text.as_bytes(), value, spec, depth),
        Value::Raw(bytes) => string(out, bytes, value, spec, depth),
        Value::Bytes(bytes) => match spec.verb {
            's' | 'q' | 'x' | 'X' => string(out, bytes, value, spec, depth),
            _ => {
                let items = bytes.iter().map(|byte| Value::Int((*byte).into(), IntKind::Uint8));
                sequence(out, value, &items.collect::<Vec<_>>(), spec, depth)
            }
        },
        Value::List(list) => sequence(out, value, list.items(), spec, depth),
        Value::Map(map) => entries(out, value, &map.snapshot(), spec, depth),
        Value::Object(object) => match object.text() {
            Some(text) if matches!(spec.verb, 'v' | 's' | 'q' | 'x' | 'X') => {
                string(out, text.as_bytes(), value, spec, depth)
            }
            _ => print(out, &object.plain(), spec, depth),
        },
    }
}

/// Within containers nil is printed as it is, whatever the verb.
fn item(out: &mut Out, value: &Value, spec: &Spec, depth: usize) -> Result<(), TooBig> {
    match value {
        Value::Nil if spec.is_go_syntax() => out.text("interface {}(nil)"),
        Value::Nil => spec.padded(out, b"<nil>", false),
        value => print(out, value, spec, depth),
    }
}

fn sequence(
    out: &mut Out,
    whole: &Value,
    items: &[Value],
    spec: &Spec,
    depth: usize,
) -> Result<(), TooBig> {
    enclosed(out, whole, "[", items, spec, &mut |out, value| item(out, value, spec, depth))
}

fn entries(
    out: &mut Out,
    whole: &Value,
    entries: &[(std::rc::Rc<str>, Value)],
    spec: &Spec,
    depth: usize,
) -> Result<(), TooBig> {
    enclosed(out, whole, "map[", entries, spec, &mut |out, (key, value)| {
        item(out, &Value::Text(key.clone()), spec, depth)?;
        out.text(":")?;
        item(out, value, spec, depth)
    })
}

/// The parts of a list or map, in Go's syntax or after `open`.
fn enclosed<T>(
    out: &mut Out,
    whole: &Value,
    open: &str,
    parts: &[T],
    spec: &Spec,
    print: &mut dyn FnMut(&mut Out, &T) -> Result<(), TooBig>,
) -> Result<(), TooBig> {
    let (open, between, close) = if spec.is_go_syntax() {
        out.text(whole.type_name())?;
        ("{", ", ", "}")
    } else {
        (open, " ", "]")
    };
    out.text(open)?;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            out.text(between)?;
        }
        print(out, part)?;
    }
    out.text(close)
}

fn bad_verb(out: &mut Out, value: &Value, spec: &Spec, depth: usize) -> Result<(), TooBig> {
    out.text(&format!("%!{}({}=", spec.verb, value.type_name()))?;
    print(out, value, &Spec { verb: 'v', ..*spec }, depth)?;
    out.text(")")
}

fn string(
    out: &mut Out,
    bytes: &[u8],
    value: &Value,
    spec: &Spec,
    depth: usize,
) -> Result<(), TooBig> {
    let shortened;
    let bytes = match (spec.precision, spec.verb) {
        (Some(precision), 'v' | 's' | 'q') => {
            let text = String::from_utf8_lossy(bytes);
            shortened = text.chars().take(precision).collect::<String>().into_bytes();
            &shortened
        }
        _ => bytes,
    };
    match spec.verb {
        'v' if spec.sharp => spec.padded(out, quote(bytes).as_bytes(), false),
        'v' | 's' => spec.padded(out, bytes, false),
        'q' => {
            let text = std::str::from_utf8(bytes);
            match text {
                Ok(text) if spec.sharp && !text.contains(['`', '\n', '\r']) => {
                    spec.padded(out, format!("`{text}`").as_bytes(), false)
                }
                _ => spec.padded(out, quote(bytes).as_bytes(), false),
            }
        }
        'x' | 'X' => spec.padded(out, hex(bytes, spec.verb == 'X').as_bytes(), false),
        _ => bad_verb(out, value, spec, depth),
    }
}

fn hex(bytes: &[u8], upper: bool) -> String {
    let digits = if upper { b"0123456789ABCDEF" } else { b"0123456789abcdef" };
    let pairs = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    pairs.map(|digit| char::from(digits[usize::from(digit)])).collect()
}

fn int(out: &mut Out, number: i64, kind: IntKind, spec: &Spec, depth: usize) -> Result<(), TooBig> {
    let size = number.unsigned_abs();
    let digits = match spec.verb {
        'v' | 'd' => size.to_string(),
        'b' => format!("{size:b}"),
        'o' if spec.sharp => format!("0{size:o}"),
        'o' => format!("{size:o}"),
        'O' => format!("0o{size:o}"),
        'x' if spec.sharp => format!("0x{size:x}"),
        'x' => format!("{size:x}"),
        'X' if spec.sharp => format!("0X{size:X}"),
        'X' => format!("{size:X}"),
        'c' | 'q' | 'U' => {
            let c = u32::try_from(number).ok().and_then(char::from_u32);
            let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
            let text = match spec.verb {
                'c' => c.to_string(),
                'q' => quote_rune(c),
                _ => format!("U+{number:04X}"),
            };
            return spec.padded(out, text.as_bytes(), false);
        }
        _ => return bad_verb(out, &Value::Int(number, kind), spec, depth),
    };
    let digits = match spec.precision {
        Some(0) if number == 0 => String::new(),
        Some(precision) if precision > digits.len() => {
            let mut padded = Out::new(out.limit);
            padded.repeat(b'0', precision - digits.len())?;
            String::from_utf8(padded.into_bytes()).expect("zeros are text") + &digits
        }
        _ => digits,
    };
    let text = format!("{}{digits}", sign(number < 0, spec));
    // With a precision zeros do not pad.
    let zero = spec.zero && spec.precision.is_none();
    Spec { zero, ..*spec }.padded(out, text.as_bytes(), true)
}

fn sign(negative: bool, spec: &Spec) -> &'static str {
    match (negative, spec.plus, spec.space) {
        (true, _, _) => "-",
        (false, true, _) if spec.verb != 'v' => "+",
        (false, _, true) => " ",
        _ => "",
    }
}

fn float(out: &mut Out, value: f64, spec: &Spec, depth: usize) -> Result<(), TooBig> {
    // More digits than this are zeros to any float.
    let precision = spec.precision.map(|precision| precision.min(1100));
    let text = match (spec.verb, precision) {
        ('v' | 'g' | 'G', None) => number::general(value),
        ('v', Some(precision)) => number::with_precision(value, 'g', precision),
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', precision) => {
            number::with_precision(value, spec.verb, precision.unwrap_or(6))
        }
        _ => return bad_verb(out, &Value::Float(value), spec, depth),
    };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let plus = if text.starts_with('+') { "+" } else { sign(negative, spec) };
    let zero = spec.zero && value.is_finite();
    let text = format!("{plus}{digits}");
    let text = if matches!(spec.verb, 'G' | 'E') { text.to_uppercase() } else { text };
    Spec { zero, ..*spec }.padded(out, text.as_bytes(), true)
}
