//! JSON as `encoding/json` writes and reads it.

use crate::value::format::{Out, TooBig};
use crate::value::{Entries, List, MAX_DEPTH, Map, MapKind, Value, number};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Style {
    /// `toJson`: `<`, `>` and `&` are escaped.
    Html,
    /// `toRawJson`.
    Raw,
    /// `toPrettyJson`: as `Html`, on many lines.
    Pretty,
}

/// `None` for numbers that JSON does not have, cycles, and what is longer than `limit`.
pub(crate) fn write(value: &Value, style: Style, limit: usize) -> Option<String> {
    let mut writer = Writer { out: Out::new(limit), style };
    writer.node(value, 0).ok()?;
    String::from_utf8(writer.out.into_bytes()).ok()
}

struct Writer {
    out: Out,
    style: Style,
}

impl Writer {
    fn node(&mut self, value: &Value, depth: usize) -> Result<(), TooBig> {
        if depth >= MAX_DEPTH {
            return Err(TooBig);
        }
        match value {
            Value::Nil => self.out.text("null"),
            Value::Bool(value) => self.out.text(if *value { "true" } else { "false" }),
            Value::Int(number, _) => self.out.text(&number.to_string()),
            Value::Float(number) => self.out.text(&number::json(*number).ok_or(TooBig)?),
            Value::Text(text) => self.string(text),
            Value::Raw(bytes) => self.string(&String::from_utf8_lossy(bytes)),
            Value::Bytes(bytes) => self.string(&crate::encoding::base64_encode(bytes)),
            Value::List(list) => self.list(list, depth),
            Value::Map(map) => self.map(map, depth),
            Value::Object(object) => self.node(&object.plain(), depth + 1),
        }
    }

    fn list(&mut self, list: &List, depth: usize) -> Result<(), TooBig> {
        if list.nil {
            return self.out.text("null");
        }
        self.out.text("[")?;
        for (index, item) in list.items().iter().enumerate() {
            self.between(index, depth + 1)?;
            self.node(item, depth + 1)?;
        }
        if !list.items().is_empty() {
            self.line(depth)?;
        }
        self.out.text("]")
    }

    fn map(&mut self, map: &Map, depth: usize) -> Result<(), TooBig> {
        if map.kind() == MapKind::NilText {
            return self.out.text("null");
        }
        self.out.text("{")?;
        let entries = map.snapshot();
        for (index, (key, value)) in entries.iter().enumerate() {
            self.between(index, depth + 1)?;
            self.string(key)?;
            self.out.text(if self.style == Style::Pretty { ": " } else { ":" })?;
            self.node(value, depth + 1)?;
        }
        if !entries.is_empty() {
            self.line(depth)?;
        }
        self.out.text("}")
    }

    fn between(&mut self, index: usize, depth: usize) -> Result<(), TooBig> {
        if index > 0 {
            self.out.text(",")?;
        }
        self.line(depth)
    }

    fn line(&mut self, depth: usize) -> Result<(), TooBig> {
        if self.style != Style::Pretty {
            return Ok(());
        }
        self.out.text("\n")?;
        self.out.repeat(b' ', 2 * depth)
    }

    fn string(&mut self, text: &str) -> Result<(), TooBig> {
        self.out.text("\"")?;
        let mut clean = 0;
        for (at, c) in text.char_indices() {
            let escape = match c {
                '"' => "\\\"",
                '\\' => "\\\\",
                '\n' => "\\n",
                '\r' => "\\r",
                '\t' => "\\t",
                '\u{8}' => "\\b",
                '\u{c}' => "\\f",
                '<' | '>' | '&' if self.style == Style::Raw => continue,
                '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    self.out.text(&text[clean..at])?;
                    self.out.text(&format!("\\u{:04x}", u32::from(c)))?;
                    clean = at + c.len_utf8();
                    continue;
                }
                _ => continue,
            };
            self.out.text(&text[clean..at])?;
            self.out.text(escape)?;
            clean = at + 1;
        }
        self.out.text(&text[clean..])?;
        self.out.text("\"")
    }
}

/// Values in one text. It takes what marks could part values as that, within texts too.
const MAX_VALUES: usize = 1_000_000;

/// The value of a text; all numbers are floats.
pub(crate) fn read(text: &str) -> Result<Value, String> {
    let marks = text.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if marks > MAX_VALUES {
        return Err("json: too many values".into());
    }
    let parsed = serde_json::from_str(text).map_err(|error| format!("json: {error}"))?;
    Ok(from_serde(&parsed))
}

pub(crate) fn from_serde(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => Value::Float(number.as_f64().unwrap_or(f64::MAX)),
        serde_json::Value::String(text) => Value::text(text),
        serde_json::Value::Array(items) => Value::list(items.iter().map(from_serde).collect()),
        serde_json::Value::Object(entries) => Value::Map(Map::from(
            entries
                .iter()
                .map(|(key, value)| (key.as_str().into(), from_serde(value)))
                .collect::<Entries>(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_go_writes_it() {
        let value =
            read(r#"{"b": [1e6, 1.5, null, {}], "a": "<é\u2028\"\u0001>", "c": []}"#).unwrap();
        let html = r#"{"a":"\u003cé\u2028\"\u0001\u003e","b":[1000000,1.5,null,{}],"c":[]}"#;
        assert_eq!(write(&value, Style::Html, 1000).as_deref(), Some(html));
        let raw = r#"{"a":"<é\u2028\"\u0001>","b":[1000000,1.5,null,{}],"c":[]}"#;
        assert_eq!(write(&value, Style::Raw, 1000).as_deref(), Some(raw));
        let pretty = "{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}";
        let value = read(r#"{"a":1,"b":[2]}"#).unwrap();
        assert_eq!(write(&value, Style::Pretty, 1000).as_deref(), Some(pretty));
        assert_eq!(write(&Value::List(List::unmade()), Style::Html, 10).as_deref(), Some("null"));
        assert_eq!(write(&Value::Float(f64::NAN), Style::Html, 10), None);
        assert_eq!(write(&value, Style::Html, 4), None);
    }
}
