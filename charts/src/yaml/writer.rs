//! Values to YAML text, letter for letter as Helm's `toYaml` writes them.
//!
//! Charts make checksums of that text, so folding, quoting and the order of keys all count.

mod analysis;

use std::cmp::Ordering;

use super::scalar;
use crate::value::format::{Out, TooBig};
use crate::value::{MAX_DEPTH, MapKind, Value, number};
use analysis::Analysis;

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Style {
    /// `toYaml`: lists are not indented, long strings are folded.
    Plain,
    /// `toYamlPretty`: lists are indented, nothing is folded.
    Pretty,
}

/// Lines are folded at the first blank behind this column.
const WIDTH: usize = 80;

/// Keys longer than this get a line of their own.
const MAX_SIMPLE_KEY: usize = 128;

/// Why a value cannot be written.
#[derive(Debug, PartialEq)]
pub(crate) enum Unwritable {
    TooBig,
    /// A number that JSON does not have.
    Number,
}

impl From<TooBig> for Unwritable {
    fn from(_: TooBig) -> Unwritable {
        Unwritable::TooBig
    }
}

/// The document, with a line end.
pub(crate) fn write(value: &Value, style: Style, limit: usize) -> Result<String, Unwritable> {
    let mut writer = Writer { out: Out::new(limit), column: 0, blank: true, style };
    writer.node(value, 0, Within::Root, MAX_DEPTH)?;
    if writer.column > 0 {
        writer.out.text("\n")?;
    }
    let bytes = writer.out.into_bytes();
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into()))
}

#[derive(Clone, Copy, PartialEq)]
enum Within {
    Root,
    Mapping,
    Sequence,
    Key,
}

struct Writer {
    out: Out,
    /// In characters.
    column: usize,
    /// The line holds nothing but blanks and indicators so far.
    blank: bool,
    style: Style,
}

impl Writer {
    fn raw(&mut self, text: &str) -> Result<(), TooBig> {
        self.column += text.chars().count();
        self.out.text(text)
    }

    fn line_end(&mut self) -> Result<(), TooBig> {
        self.column = 0;
        self.blank = true;
        self.out.text("\n")
    }

    /// To `indent` on a line that has nothing before it.
    fn indent(&mut self, indent: usize) -> Result<(), TooBig> {
        if !self.blank || self.column > indent {
            self.line_end()?;
        }
        self.out.repeat(b' ', indent - self.column)?;
        self.column = indent;
        Ok(())
    }

    fn word(&mut self, text: &str) -> Result<(), TooBig> {
        self.space()?;
        self.blank = false;
        self.raw(text)
    }

    /// A blank before what follows a key or a dash, if one is not there.
    fn space(&mut self) -> Result<(), TooBig> {
        if !self.blank { self.raw(" ") } else { Ok(()) }
    }

    /// `indent`: that of the line that the node stands in.
    fn node(
        &mut self,
        value: &Value,
        indent: usize,
        within: Within,
        depth: usize,
    ) -> Result<(), Unwritable> {
        let depth = depth.checked_sub(1).ok_or(Unwritable::TooBig)?;
        match value {
            Value::Nil => Ok(self.word("null")?),
            Value::Bool(true) => Ok(self.word("true")?),
            Value::Bool(false) => Ok(self.word("false")?),
            Value::Int(number, _) => Ok(self.word(&number.to_string())?),
            Value::Float(number) => {
                let text = self.float(*number)?;
                Ok(self.word(&text)?)
            }
            Value::Text(text) => Ok(self.string(text, indent, within)?),
            Value::Raw(bytes) => {
                Ok(self.string(&String::from_utf8_lossy(bytes), indent, within)?)
            }
            Value::Bytes(bytes) => {
                let text = crate::encoding::base64_encode(bytes);
                Ok(self.string(&text, indent, within)?)
            }
            Value::List(list) if list.nil => Ok(self.word("null")?),
            Value::List(list) => self.sequence(list.items(), indent, within, depth),
            Value::Map(map) if map.kind() == MapKind::NilText => Ok(self.word("null")?),
            Value::Map(map) => self.mapping(&map.snapshot(), indent, within, depth),
            Value::Object(object) => self.node(&object.plain(), indent, within, depth),
        }
    }

    /// Plain goes through JSON, so that whole numbers are written as such.
    fn float(&self, number: f64) -> Result<String, Unwritable> {
        if self.style == Style::Pretty && number.is_finite() {
            return Ok(number::general(number));
        }
        let text = number::json(number).ok_or(Unwritable::Number)?;
        Ok(match scalar::plain(&text) {
            scalar::Plain::Int(number) => number.to_string(),
            _ => number::general(number),
        })
    }

    fn sequence(
        &mut self,
        items: &[Value],
        indent: usize,
        within: Within,
        depth: usize,
    ) -> Result<(), Unwritable> {
        if items.is_empty() {
            return Ok(self.word("[]")?);
        }
        let indent = match (within, self.style) {
            (Within::Root, _) | (Within::Mapping, Style::Plain) => indent,
            _ => indent + 2,
        };
        for item in items {
            self.indent(indent)?;
            // What follows the dash may stand on the same line.
            self.raw("- ")?;
            self.node(item, indent, Within::Sequence, depth)?;
        }
        Ok(())
    }

    fn mapping(
        &mut self,
        entries: &[(std::rc::Rc<str>, Value)],
        indent: usize,
        within: Within,
        depth: usize,
    ) -> Result<(), Unwritable> {
        if entries.is_empty() {
            return Ok(self.word("{}")?);
        }
        let indent = if within == Within::Root { indent } else { indent + 2 };
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by(|left, right| key_order(&left.0, &right.0));
        for (key, value) in entries {
            self.indent(indent)?;
            if key.len() > MAX_SIMPLE_KEY || key.contains('\n') || key.contains('\r') {
                self.raw("? ")?;
                self.string(key, indent, Within::Mapping)?;
                self.blank = false;
                self.indent(indent)?;
                self.raw(": ")?;
                self.node(value, indent, Within::Sequence, depth)?;
                continue;
            }
            self.string(key, indent, Within::Key)?;
            self.raw(":")?;
            self.blank = false;
            self.node(value, indent, Within::Mapping, depth)?;
        }
        Ok(())
    }

    fn string(&mut self, text: &str, indent: usize, within: Within) -> Result<(), TooBig> {
        let analysis = Analysis::of(text);
        // What goes on in another line is indented further.
        let indent = indent + 2;
        let folds = within != Within::Key && self.style == Style::Plain;
        if text.contains('\n') && within != Within::Key {
            if analysis.block {
                return self.literal(text, indent);
            }
            return self.double_quoted(text, indent, folds);
        }
        if !scalar::reads_as_text(text) && text != "<<" {
            return self.double_quoted(text, indent, folds);
        }
        if analysis.plain {
            return self.plain(text, indent, folds);
        }
        if analysis.single {
            return self.single_quoted(text, indent, folds);
        }
        self.double_quoted(text, indent, folds)
    }

    fn plain(&mut self, text: &str, indent: usize, folds: bool) -> Result<(), TooBig> {
        self.space()?;
        self.blank = false;
        self.folded(text, indent, folds, false)
    }

    fn single_quoted(&mut self, text: &str, indent: usize, folds: bool) -> Result<(), TooBig> {
        self.word("'")?;
        self.folded(&text.replace('\'', "''"), indent, folds, true)?;
        self.raw("'")
    }

    /// Text with single blanks made into line ends where lines are long.
    fn folded(
        &mut self,
        text: &str,
        indent: usize,
        folds: bool,
        inner: bool,
    ) -> Result<(), TooBig> {
        let mut spaces = false;
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|(_, c)| *c);
            let is_edge = inner && (at == 0 || next.is_none());
            if c == ' ' && folds && !spaces && self.column > WIDTH && !is_edge && next != Some(' ')
            {
                self.fold(indent)?;
            } else {
                self.raw(c.encode_utf8(&mut [0; 4]))?;
            }
            spaces = c == ' ';
        }
        Ok(())
    }

    fn fold(&mut self, indent: usize) -> Result<(), TooBig> {
        self.line_end()?;
        self.indent(indent)?;
        self.blank = false;
        Ok(())
    }

    fn double_quoted(&mut self, text: &str, indent: usize, folds: bool) -> Result<(), TooBig> {
        self.word("\"")?;
        let mut spaces = false;
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|(_, c)| *c);
            let is_edge = at == 0 || next.is_none();
            if let Some(escape) = analysis::escape(c) {
                self.raw(&escape)?;
            } else if c == ' ' && folds && !spaces && self.column > WIDTH && !is_edge {
                self.fold(indent)?;
                if next == Some(' ') {
                    self.raw("\\")?;
                }
            } else {
                self.raw(c.encode_utf8(&mut [0; 4]))?;
            }
            spaces = c == ' ';
        }
        self.raw("\"")
    }

    fn literal(&mut self, text: &str, indent: usize) -> Result<(), TooBig> {
        self.word("|")?;
        if text.starts_with([' ', '\n']) {
            self.raw("2")?;
        }
        if !text.ends_with('\n') {
            self.raw("-")?;
        } else if text == "\n" || text.ends_with("\n\n") {
            self.raw("+")?;
        }
        self.line_end()?;
        for line in text.split_inclusive('\n') {
            let content = line.strip_suffix('\n').unwrap_or(line);
            if !content.is_empty() {
                self.indent(indent)?;
                self.raw(content)?;
                self.blank = false;
            }
            if content.len() < line.len() {
                self.line_end()?;
            }
        }
        Ok(())
    }
}

/// The order of keys: numbers in them count as numbers, and letters come last.
fn key_order(left: &str, right: &str) -> Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut after_digit = false;
    for at in 0..left.len().min(right.len()) {
        let (a, b) = (left[at], right[at]);
        if a == b {
            after_digit = a.is_numeric();
            continue;
        }
        match (a.is_alphabetic(), b.is_alphabetic()) {
            (true, true) => return a.cmp(&b),
            // A number that goes on is the bigger one.
            (a_is_letter, b_is_letter) if a_is_letter != b_is_letter => {
                let less = if after_digit { a_is_letter } else { b_is_letter };
                return if less { Ordering::Less } else { Ordering::Greater };
            }
            _ => (),
        }
        let mut start = 0_i64;
        if a == '0' || b == '0' {
            let before = left[..at].iter().rev().take_while(|c| c.is_numeric());
            start = i64::from(before.into_iter().any(|c| *c != '0'));
        }
        let (a_number, a_length) = digits(&left[at..], start);
        let (b_number, b_length) = digits(&right[at..], start);
        return a_number.cmp(&b_number).then(a_length.cmp(&b_length)).then(a.cmp(&b));
    }
    left.len().cmp(&right.len())
}

fn digits(chars: &[char], start: i64) -> (i64, usize) {
    let digits = chars.iter().map_while(|c| c.to_digit(10));
    digits.fold((start, 0), |(number, count), digit| {
        (number.wrapping_mul(10).wrapping_add(digit.into()), count + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Map;

    fn written(value: impl Into<Value>) -> String {
        write(&value.into(), Style::Plain, 1 << 20).unwrap()
    }

    #[test]
    fn strings_are_quoted_only_where_they_must_be() {
        let cases = [
            ("y", r#""y""#),
            ("", r#""""#),
            ("a b", "a b"),
            ("=", "="),
            ("<<", "<<"),
            ("@a", "'@a'"),
            ("a #b", "'a #b'"),
            ("a: b", "'a: b'"),
            (" a", "' a'"),
            ("a,b", "a,b"),
            ("?a", "?a"),
            ("-a", "-a"),
            (":", "':'"),
            (":a", ":a"),
            ("'", "''''"),
            ("it's", "it's"),
            ("a\nb", "|-\n  a\n  b"),
            ("a\nb\n", "|\n  a\n  b"),
            ("a\nb\n\n", "|+\n  a\n  b\n"),
            (" a\nb", "|2-\n   a\n  b"),
            ("\n a", "|2-\n\n   a"),
            ("a \nb", r#""a \nb""#),
            ("a\tb", r#""a\tb""#),
            ("é", "é"),
            ("😀", r#""\U0001F600""#),
            ("\0\u{1b}", r#""\0\e""#),
            ("---", "'---'"),
            ("1.2.3", "1.2.3"),
            ("2001-01-01", r#""2001-01-01""#),
            ("1:30", r#""1:30""#),
        ];
        for (text, expected) in cases {
            assert_eq!(written(text), format!("{expected}\n"), "{text:?}");
            let read = crate::yaml::read(&written(text)).unwrap();
            assert!(
                matches!(&read, Value::Text(read) if **read == *text) || text == "<<",
                "{read:?}"
            );
        }
    }

    #[test]
    fn containers_and_numbers() {
        let map = Map::new();
        map.set(
            "list",
            Value::list(vec![
                Value::list(vec![1.into_value(), 2.into_value()]),
                Value::Map(Map::from(
                    [("a".into(), Value::text("x\ny")), ("b".into(), Value::Nil)]
                        .into_iter()
                        .collect::<crate::value::Entries>(),
                )),
                Value::list(Vec::new()),
            ]),
        );
        map.set("a10", Value::Float(1e6));
        map.set("a9", Value::Float(1.5));
        map.set("empty", Value::Map(Map::new()));
        map.set("big", Value::Float(1e21));
        let plain = "a9: 1.5\na10: 1000000\nbig: 1e+21\nempty: {}\nlist:\n- - 1\n  - 2\n- a: |-\n    x\n    y\n  b: null\n- []\n";
        assert_eq!(written(map.clone()), plain);
        let pretty = write(&Value::Map(map), Style::Pretty, 1 << 20).unwrap();
        assert!(pretty.contains("list:\n  - - 1\n    - 2\n  - a: |-\n      x\n"), "{pretty}");
        assert_eq!(write(&Value::Float(f64::NAN), Style::Plain, 10), Err(Unwritable::Number));
    }

    trait IntoValue {
        fn into_value(self) -> Value;
    }

    impl IntoValue for i64 {
        fn into_value(self) -> Value {
            Value::int(self)
        }
    }

    #[test]
    fn long_lines_are_folded() {
        let words = "aaaa bbbb cccc dddd eeee ffff gggg hhhh iiii jjjj kkkk llll mmmm nnnn oooo pppp qqqq rrrr";
        let map = Map::new();
        map.set("a", Value::text(words));
        let expected = "a: aaaa bbbb cccc dddd eeee ffff gggg hhhh iiii jjjj kkkk llll mmmm nnnn oooo pppp\n  qqqq rrrr\n";
        assert_eq!(written(map), expected);
    }
}
