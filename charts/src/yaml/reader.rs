//! YAML text to values.

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::scalar::{Plain, plain};
use crate::encoding;
use crate::value::{Entries, MAX_DEPTH, Map, Value, number};

/// Values in one document, aliases counted as often as they are used.
const MAX_NODES: usize = 1_000_000;

/// The first document of a text; nothing is nil.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    Reader::new(text).document().map(Option::unwrap_or_default)
}

/// All documents of a text.
pub(super) fn read_all(text: &str) -> Result<Vec<Value>, String> {
    let mut reader = Reader::new(text);
    let mut documents = Vec::new();
    while let Some(document) = reader.document()? {
        documents.push(document);
    }
    Ok(documents)
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Value>,
    budget: usize,
}

type Spanned<'t> = (Event<'t>, Span);

impl<'t> Reader<'t> {
    fn new(text: &'t str) -> Reader<'t> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut options = granit_parser::Options::default();
        // As libyaml, which Helm's reader is made after.
        options.block_scalar_eof_without_line_feed = true;
        let parser = Parser::new_from_str_with_options(text, options);
        Reader { parser, anchors: HashMap::new(), budget: MAX_NODES }
    }

    /// The next document; `None` at the end.
    fn document(&mut self) -> Result<Option<Value>, String> {
        loop {
            match self.next()? {
                (Event::DocumentStart(..), _) => {
                    self.anchors.clear();
                    let first = self.next()?;
                    let value = self.node(first, MAX_DEPTH)?;
                    // What follows is looked at only so far that it must be another document.
                    return self.next().map(|_| Some(value));
                }
                (Event::StreamEnd, _) => return Ok(None),
                _ => (),
            }
        }
    }

    fn next(&mut self) -> Result<Spanned<'t>, String> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                Err(format!("yaml: line {}: {}", error.marker().line(), error.info()))
            }
            None => Err("yaml: the text ends too early".into()),
        }
    }

    fn node(&mut self, (event, span): Spanned<'t>, depth: usize) -> Result<Value, String> {
        let line = span.start.line();
        let fault = |message: &str| format!("yaml: line {line}: {message}");
        let depth = depth.checked_sub(1).ok_or_else(|| fault("nested too deeply"))?;
        self.budget = self.budget.checked_sub(1).ok_or_else(|| fault("too many nodes"))?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor);
                let value = value.ok_or_else(|| fault("anchor value contains itself"))?;
                return value.deep_copy(&mut self.budget).ok_or_else(|| fault("too many nodes"));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.as_deref();
                (scalar(&text, style, tag).map_err(|error| fault(&error))?, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        event => items.push(self.node(event, depth)?),
                    }
                }
                (Value::list(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (self.mapping(depth)?, anchor),
            _ => return Err(fault("did not find expected node content")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, String> {
        let mut entries = Entries::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Value::Map(Map::from(entries)));
            }
            let line = span.start.line();
            let fault = |message: String| format!("yaml: line {line}: {message}");
            let merges =
                matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.node((event, span), depth)?;
            let event = self.next()?;
            let value = self.node(event, depth)?;
            if merges {
                merge(&mut entries, &value).map_err(fault)?;
            } else {
                entries.insert(key_text(&key).map_err(fault)?, value);
            }
        }
    }
}

/// `<<`: the entries of a map, or of each map of a list, the first of which counts most.
fn merge(entries: &mut Entries, value: &Value) -> Result<(), String> {
    match value {
        Value::Map(map) => entries.extend(map.snapshot()),
        Value::List(list) => {
            for item in list.items().iter().rev() {
                let Value::Map(map) = item else {
                    return Err("map merge requires map or sequence of maps as the value".into());
                };
                entries.extend(map.snapshot());
            }
        }
        _ => return Err("map merge requires map or sequence of maps as the value".into()),
    }
    Ok(())
}

/// A key as JSON has it.
fn key_text(key: &Value) -> Result<Rc<str>, String> {
    match key {
        Value::Text(text) => Ok(text.clone()),
        Value::Bool(value) => Ok(Rc::from(if *value { "true" } else { "false" })),
        Value::Float(number) => {
            // Integers keep their digits, other numbers are written as 32 bit floats.
            let whole = number::float_to_int(*number);
            if number.fract() == 0.0 && number.abs() < 1e15 {
                return Ok(whole.to_string().into());
            }
            Ok(number::general(*number).into())
        }
        other => Err(format!("unsupported map key of type {}", other.kind_name())),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let resolved = || plain(text);
    let core = |tag: &'_ Tag| {
        tag.suffix_in_namespace("tag:yaml.org,2002:").map(|suffix| suffix.into_owned())
    };
    let suffix = match tag.map(core) {
        Some(suffix) => suffix.unwrap_or_default(),
        None if style == ScalarStyle::Plain => return checked(&resolved(), text),
        None => "str".into(),
    };
    let wrong = || Err(format!("cannot decode `{text}` as a !!{suffix}"));
    match (suffix.as_str(), resolved()) {
        ("null", Plain::Null) => Ok(Value::Nil),
        ("bool", plain @ Plain::Bool(_)) => Ok(plain.value(text)),
        ("int", plain @ Plain::Int(_)) | ("float", plain @ (Plain::Int(_) | Plain::Float(_))) => {
            checked(&plain, text)
        }
        ("null" | "bool" | "int" | "float", _) => wrong(),
        ("binary", _) => {
            let bytes = encoding::base64_decode(text.replace(['\n', ' '], "").as_bytes());
            bytes.map(Value::string).or_else(|_| wrong())
        }
        _ => Ok(Value::text(text)),
    }
}

fn checked(plain: &Plain, text: &str) -> Result<Value, String> {
    match plain {
        Plain::Float(number) if !number.is_finite() => {
            Err(format!("json: unsupported value: {}", number::general(*number)))
        }
        plain => Ok(plain.value(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn as_json(text: &str) -> String {
        match read(text) {
            Ok(value) => json::write(&value, json::Style::Raw, 1 << 20).unwrap(),
            Err(_) => "error".into(),
        }
    }

    #[test]
    fn documents_are_read_as_helm_reads_them() {
        let cases = [
            ("", "null"),
            ("# nothing\n", "null"),
            ("v: y", r#"{"v":true}"#),
            ("!!str 1", r#""1""#),
            ("!foo 1", r#""1""#),
            ("!!int \"3\"", "3"),
            ("!!binary aGk=", r#""hi""#),
            ("!!null x", "error"),
            ("{1: 2, true: 3, 1.5: 4}", r#"{"1":2,"1.5":4,"true":3}"#),
            ("{~: 1}", "error"),
            ("{a: 1, a: 2}", r#"{"a":2}"#),
            ("{<<: {a: 1}, b: 2}", r#"{"a":1,"b":2}"#),
            ("p: &x {a: 1}\nq: {<<: [*x, {a: 2, b: 3}]}", r#"{"p":{"a":1},"q":{"a":1,"b":3}}"#),
            ("&a [*a]", "error"),
            ("[&a 1, *a]", "[1,1]"),
            ("[a, b", "error"),
            ("a: b: c", "error"),
            ("a:\n\t- b", "error"),
            ("@a", "error"),
            ("- a\n-b", "error"),
            ("[a,]", r#"["a"]"#),
            ("[,]", "error"),
            ("{a}", r#"{"a":null}"#),
            ("[a b: c]", r#"[{"a b":"c"}]"#),
            ("--- 1\n--- 2", "1"),
            ("a: \"b\" c", "error"),
            ("|+\n a\n\n", r#""a\n\n""#),
            (">\n a\n b\n\n c", r#""a b\nc""#),
            ("a: |\n  x\n  y", r#"{"a":"x\ny"}"#),
            ("a: |\n  x\n  y\n", r#"{"a":"x\ny\n"}"#),
            ("a: |+\n  x", r#"{"a":"x"}"#),
            ("a: |\n  x\n  ", r#"{"a":"x\n"}"#),
            ("a: |\n  x\nb: 1", r#"{"a":"x\n","b":1}"#),
            ("v: .nan", "error"),
            ("a:\n- b\n-   - c\n", r#"{"a":["b",["c"]]}"#),
        ];
        for (text, expected) in cases {
            assert_eq!(as_json(text), expected, "{text}");
        }
    }

    #[test]
    fn all_documents_of_a_text() {
        let text = "# head\n---\na: 017\n---\n---\n- yes\n- 1.5\n...\n---\n# only a note\n";
        let documents = crate::yaml::documents("x", text).unwrap();
        assert_eq!(documents, [serde_json::json!({"a": 15}), serde_json::json!([true, 1.5])]);
        let error = crate::yaml::documents("x.yaml", "a: 1\n---\na: b: c\n").unwrap_err();
        assert!(error.to_string().starts_with("x.yaml: "), "{error}");
    }

    #[test]
    fn a_long_text_is_not_repeated_by_aliases() {
        let long = "x".repeat(1 << 20);
        let one = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 1000].join(","));
        let error = crate::yaml::documents("x", &one).unwrap_err().to_string();
        assert!(error.contains("aliases make it too big"), "{error}");
        // Nor by many documents, each of which is not too big.
        let ten = format!("--- {{a: &a {long}, b: [{}]}}\n", ["*a"; 9].join(","));
        assert!(crate::yaml::documents("x", &ten).is_ok());
        assert!(crate::yaml::documents("x", &ten.repeat(7)).is_err());
    }

    #[test]
    fn a_bomb_of_aliases_is_not_unfolded() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..20 {
            let before = format!("*a{}", level - 1);
            let row = vec![before; 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{row}]\n"));
        }
        assert!(read(&text).unwrap_err().contains("too many nodes"));
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&format!("{}x{}", "[".repeat(600), "]".repeat(600))).is_err());
        assert!(read(&"- ".repeat(50_000)).is_err());
    }
}
