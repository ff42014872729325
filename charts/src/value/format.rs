//! Printing as Go's `fmt` does: `%v` of any value, and `Printf` with its verbs and flags.
//!
//! Nothing grows past a limit that the caller gives: a value may hold itself many times over.

mod quote;
mod verb;

pub(crate) use quote::quote;

use super::{MAX_DEPTH, Value};
use verb::Spec;

/// Text as it grows, up to a limit.
pub(crate) struct Out {
    bytes: Vec<u8>,
    limit: usize,
}

/// What was to be printed is bigger than the limit, or is a cycle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooBig;

impl From<TooBig> for String {
    fn from(TooBig: TooBig) -> String {
        "text is too long".into()
    }
}

impl Out {
    pub(crate) fn new(limit: usize) -> Out {
        Out { bytes: Vec::new(), limit }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), TooBig> {
        if bytes.len() > self.limit - self.bytes.len() {
            return Err(TooBig);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<(), TooBig> {
        self.push(text.as_bytes())
    }

    pub(crate) fn repeat(&mut self, byte: u8, count: usize) -> Result<(), TooBig> {
        if count > self.limit - self.bytes.len() {
            return Err(TooBig);
        }
        self.bytes.resize(self.bytes.len() + count, byte);
        Ok(())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// `%v`.
pub(crate) fn value(value: &Value, limit: usize) -> Result<Vec<u8>, TooBig> {
    if let Value::Text(text) = value {
        return if text.len() > limit { Err(TooBig) } else { Ok(text.as_bytes().to_vec()) };
    }
    let mut out = Out::new(limit);
    verb::print(&mut out, value, &Spec::plain(), MAX_DEPTH)?;
    Ok(out.into_bytes())
}

/// `fmt.Sprint`: spaces go only between neighbours of which neither is a string.
pub(crate) fn sprint(values: &[Value], limit: usize) -> Result<Vec<u8>, TooBig> {
    let mut out = Out::new(limit);
    let is_text = |value: &Value| matches!(value, Value::Text(_) | Value::Raw(_));
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !is_text(value) && !is_text(&values[index - 1]) {
            out.text(" ")?;
        }
        verb::print(&mut out, value, &Spec::plain(), MAX_DEPTH)?;
    }
    Ok(out.into_bytes())
}

/// `fmt.Sprintln`.
pub(crate) fn sprintln(values: &[Value], limit: usize) -> Result<Vec<u8>, TooBig> {
    let mut out = Out::new(limit);
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.text(" ")?;
        }
        verb::print(&mut out, value, &Spec::plain(), MAX_DEPTH)?;
    }
    out.text("\n")?;
    Ok(out.into_bytes())
}

/// `fmt.Sprintf`: what does not fit together is said in the text, as Go says it.
pub(crate) fn sprintf(format: &str, values: &[Value], limit: usize) -> Result<Vec<u8>, TooBig> {
    let mut printf = Printf { out: Out::new(limit), values, next: 0, reordered: false };
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        printf.out.text(before)?;
        rest = printf.verb(after)?;
    }
    printf.out.text(rest)?;
    printf.extra()?;
    Ok(printf.out.into_bytes())
}

struct Printf<'a> {
    out: Out,
    values: &'a [Value],
    next: usize,
    /// An explicit index was used, so that left over values are no mistake.
    reordered: bool,
}

impl Printf<'_> {
    /// Prints for what follows a `%`; the rest of the format is given back.
    fn verb<'f>(&mut self, format: &'f str) -> Result<&'f str, TooBig> {
        let mut spec = Spec::default();
        let mut rest = format.trim_start_matches(|c| spec.flag(c));
        let mut good_index = true;
        rest = self.index(rest, &mut good_index);
        rest = self.width(rest, &mut spec);
        if let Some(after) = rest.strip_prefix('.') {
            rest = self.index(after, &mut good_index);
            rest = self.precision(rest, &mut spec);
        }
        rest = self.index(rest, &mut good_index);
        let Some(verb) = rest.chars().next() else {
            self.out.text("%!(NOVERB)")?;
            return Ok(rest);
        };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            self.out.text("%")?;
            return Ok(rest);
        }
        spec.verb = verb;
        if !good_index {
            self.out.text(&format!("%!{verb}(BADINDEX)"))?;
        } else if let Some(value) = self.values.get(self.next) {
            self.next += 1;
            verb::print(&mut self.out, value, &spec, MAX_DEPTH)?;
        } else {
            self.out.text(&format!("%!{verb}(MISSING)"))?;
        }
        Ok(rest)
    }

    /// `[2]`: which value comes next.
    fn index<'f>(&mut self, format: &'f str, good: &mut bool) -> &'f str {
        let Some((inside, rest)) = format.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        else {
            return format;
        };
        self.reordered = true;
        match inside.parse::<usize>() {
            Ok(number) if number >= 1 && number <= self.values.len() => self.next = number - 1,
            _ => *good = false,
        }
        rest
    }

    fn width<'f>(&mut self, format: &'f str, spec: &mut Spec) -> &'f str {
        if let Some(rest) = format.strip_prefix('*') {
            match self.star() {
                Some(width) => {
                    spec.minus |= width < 0;
                    spec.width = usize::try_from(width.unsigned_abs()).ok();
                }
                None => spec.width = None,
            }
            return rest;
        }
        let (number, rest) = leading_number(format);
        spec.width = number;
        rest
    }

    fn precision<'f>(&mut self, format: &'f str, spec: &mut Spec) -> &'f str {
        if let Some(rest) = format.strip_prefix('*') {
            spec.precision = self.star().and_then(|number| usize::try_from(number).ok());
            return rest;
        }
        let (number, rest) = leading_number(format);
        spec.precision = Some(number.unwrap_or(0));
        rest
    }

    /// The next value as a width, within what Go allows.
    fn star(&mut self) -> Option<i64> {
        let value = self.values.get(self.next);
        self.next += 1;
        match value {
            Some(Value::Int(number, _)) if number.unsigned_abs() <= 1_000_000 => Some(*number),
            _ => None,
        }
    }

    /// Values that no verb asked for.
    fn extra(&mut self) -> Result<(), TooBig> {
        if self.reordered || self.next >= self.values.len() {
            return Ok(());
        }
        self.out.text("%!(EXTRA ")?;
        for (index, value) in self.values[self.next..].iter().enumerate() {
            if index > 0 {
                self.out.text(", ")?;
            }
            self.out.text(value.type_name())?;
            if !value.is_nil() {
                self.out.text("=")?;
                verb::print(&mut self.out, value, &Spec::plain(), MAX_DEPTH)?;
            }
        }
        self.out.text(")")
    }
}

/// Digits at the start, up to the million that Go allows.
fn leading_number(text: &str) -> (Option<usize>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().ok().filter(|number| *number <= 1_000_000), &text[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Map, Object};
    use std::rc::Rc;

    #[derive(Debug)]
    struct Version;

    impl Object for Version {
        fn type_name(&self) -> &'static str {
            "Version"
        }

        fn field(&self, _: &str) -> Option<Value> {
            None
        }

        fn call(&self, _: &str, _: &[Value]) -> Option<Result<Value, String>> {
            None
        }

        fn plain(&self) -> Value {
            Value::Nil
        }

        fn text(&self) -> Option<String> {
            Some("v1".into())
        }
    }

    fn printed(format: &str, values: &[Value]) -> String {
        String::from_utf8(sprintf(format, values, 1 << 20).unwrap()).unwrap()
    }

    fn map() -> Value {
        let map = Map::new();
        map.set("b", Value::list(vec![Value::int(1), Value::text("x"), Value::Nil]));
        map.set("a", Value::Float(1e6));
        Value::Map(map)
    }

    #[test]
    fn verbs_print_as_gos() {
        let (text, number, float) = (Value::text("hé"), Value::int(42), Value::Float(2.25159));
        let yes = Value::Bool(true);
        let cases: &[(&str, &[Value], &str)] = &[
            (
                "%v|%s|%d",
                &[map(), text.clone(), number.clone()],
                "map[a:1e+06 b:[1 x <nil>]]|hé|42",
            ),
            (
                "%5d|%-5d|%05d|%+d|%x|%X|%o|%b|%c|%U",
                &vec![number.clone(); 10],
                "   42|42   |00042|+42|2a|2A|52|101010|*|U+002A",
            ),
            ("%5s|%-5s|%.1s|%q|%x", &vec![text.clone(); 5], "   hé|hé   |h|\"hé\"|68c3a9"),
            (
                "%f|%.2f|%8.2f|%e|%g|%v",
                &vec![float.clone(); 6],
                "2.251590|2.25|    2.25|2.251590e+00|2.25159|2.25159",
            ),
            ("%t %v %T", &[yes.clone(), yes.clone(), float.clone()], "true true float64"),
            ("%d", std::slice::from_ref(&text), "%!d(string=hé)"),
            ("%s", std::slice::from_ref(&number), "%!s(int=42)"),
            ("%s", &[Value::Nil], "%!s(<nil>)"),
            ("%v", &[Value::Nil], "<nil>"),
            ("%d %d", std::slice::from_ref(&number), "42 %!d(MISSING)"),
            ("%d", &[number.clone(), text.clone()], "42%!(EXTRA string=hé)"),
            ("100%", &[], "100%!(NOVERB)"),
            ("%%|%[2]s|%[1]d", &[number.clone(), text.clone()], "%|hé|42"),
            ("%[3]d", std::slice::from_ref(&number), "%!d(BADINDEX)"),
            (
                "%*d|%-*d|",
                &[Value::int(4), number.clone(), Value::int(4), number.clone()],
                "  42|42  |",
            ),
            ("%q", &[Value::list(vec![Value::text("a"), Value::text("b")])], "[\"a\" \"b\"]"),
            ("%s", &[Value::list(vec![Value::int(1)])], "[%!s(int=1)]"),
            ("%v %s", &[Value::Object(Rc::new(Version)), Value::Object(Rc::new(Version))], "v1 v1"),
            (
                "%#v",
                &[map()],
                "map[string]interface {}{\"a\":1e+06, \"b\":[]interface {}{1, \"x\", interface {}(nil)}}",
            ),
            ("%s|%v|%x", &vec![Value::Bytes(Rc::from(&b"ab"[..])); 3], "ab|[97 98]|6162"),
        ];
        for (format, values, expected) in cases {
            assert_eq!(&printed(format, values), expected, "{format}");
        }
    }

    #[test]
    fn spaces_are_set_as_print_sets_them() {
        let values = [Value::text("a"), Value::int(1), Value::int(2), Value::text("b"), Value::Nil];
        assert_eq!(sprint(&values, 100).unwrap(), b"a1 2b<nil>");
        assert_eq!(sprintln(&values, 100).unwrap(), b"a 1 2 b <nil>\n");
    }

    #[test]
    fn what_grows_without_end_is_stopped() {
        let mut value = Value::text("x");
        for _ in 0..60 {
            value = Value::list(vec![value.clone(), value]);
        }
        assert_eq!(super::value(&value, 1 << 16), Err(TooBig));
        assert_eq!(sprintf("%999999d", &[Value::int(1)], 1 << 16), Err(TooBig));
        let cycle = Map::new();
        cycle.set("self", Value::Map(cycle.clone()));
        assert_eq!(super::value(&Value::Map(cycle.clone()), 1 << 20), Err(TooBig));
        cycle.remove("self");
    }
}
