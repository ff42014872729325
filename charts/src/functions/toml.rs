//! TOML as Helm writes and reads it.

use super::time::layout;
use crate::value::format::{Out, TooBig};
use crate::value::{Entries, List, MAX_DEPTH, Map, Value, number};

/// Values in one text. It takes what marks could part values as that, within texts too.
const MAX_VALUES: usize = 1_000_000;

/// The value of a text.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let marks =
        text.bytes().filter(|byte| matches!(byte, b',' | b'[' | b'{' | b'=' | b'.')).count();
    if marks > MAX_VALUES {
        return Err("toml: too many values".into());
    }
    let table: toml::Table = toml::from_str(text).map_err(|error| format!("toml: {error}"))?;
    Ok(table_value(table))
}

fn table_value(table: toml::Table) -> Value {
    let entries = table.into_iter().map(|(key, value)| (key.into(), from_toml(value)));
    Value::Map(Map::from(entries.collect::<Entries>()))
}

fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => Value::int64(number),
        toml::Value::Float(number) => Value::Float(number),
        toml::Value::Boolean(value) => value.into(),
        toml::Value::Datetime(time) => moment(&time),
        toml::Value::Array(items) => Value::list(items.into_iter().map(from_toml).collect()),
        toml::Value::Table(table) => table_value(table),
    }
}

/// The moment, in UTC where no zone is said.
fn moment(time: &toml::value::Datetime) -> Value {
    let date = time.date.map_or("0000-01-01".into(), |date| date.to_string());
    let clock = time.time.map_or("00:00:00".into(), |time| time.to_string());
    let zone = time.offset.map_or("Z".into(), |offset| offset.to_string());
    let text = format!("{date}T{clock}{zone}");
    match layout::parse("2006-01-02T15:04:05Z07:00", &text) {
        Some(time) => time.value(),
        None => text.into(),
    }
}

/// Why a value cannot be written.
enum Fault {
    TooBig,
    Nil,
}

impl From<TooBig> for Fault {
    fn from(_: TooBig) -> Fault {
        Fault::TooBig
    }
}

/// The text of a map.
pub(super) fn write(value: &Value, limit: usize) -> Result<String, String> {
    let mut writer = Writer { out: Out::new(limit), wrote: false };
    let done = match value {
        Value::Map(map) => writer.table(&mut Vec::new(), map),
        Value::Nil => Err(Fault::Nil),
        other => writer.inline(other, 0),
    };
    match done {
        Ok(()) => Ok(String::from_utf8_lossy(&writer.out.into_bytes()).into_owned()),
        Err(Fault::TooBig) => Err("toml: the text is too long".into()),
        Err(Fault::Nil) => Err("toml: cannot encode array with nil element".into()),
    }
}

struct Writer {
    out: Out,
    wrote: bool,
}

/// What gets a heading of its own.
enum Below {
    Table(Map),
    Tables(Vec<Map>),
}

fn below(value: &Value) -> Option<Below> {
    match value {
        Value::Map(map) => Some(Below::Table(map.clone())),
        Value::Object(object) => below(&object.plain()),
        Value::List(list) if !list.items().is_empty() => {
            let maps = list.items().iter().map(|item| match item {
                Value::Map(map) => Some(map.clone()),
                _ => None,
            });
            maps.collect::<Option<Vec<Map>>>().map(Below::Tables)
        }
        _ => None,
    }
}

impl Writer {
    fn text(&mut self, text: &str) -> Result<(), Fault> {
        self.wrote = true;
        Ok(self.out.text(text)?)
    }

    fn line_end(&mut self) -> Result<(), Fault> {
        if self.wrote { self.text("\n") } else { Ok(()) }
    }

    /// The entries of a table: values first, then what gets a heading.
    fn table(&mut self, path: &mut Vec<String>, map: &Map) -> Result<(), Fault> {
        if path.len() > MAX_DEPTH {
            return Err(Fault::TooBig);
        }
        let entries = map.snapshot();
        let mut later = Vec::new();
        for (key, value) in &entries {
            if value.is_nil() {
                continue;
            }
            if let Some(below) = below(value) {
                later.push((key, below));
                continue;
            }
            self.out.repeat(b' ', 2 * path.len())?;
            self.text(&format!("{} = ", quoted_key(key)))?;
            self.inline(value, 0)?;
            self.text("\n")?;
        }
        for (key, below) in later {
            let indent = 2 * path.len();
            path.push(quoted_key(key));
            let name = path.join(".");
            match below {
                Below::Table(map) => {
                    if path.len() == 1 {
                        self.line_end()?;
                    }
                    self.heading(indent, &format!("[{name}]"))?;
                    self.table(path, &map)?;
                }
                Below::Tables(maps) => {
                    for map in maps {
                        self.line_end()?;
                        self.heading(indent, &format!("[[{name}]]"))?;
                        self.table(path, &map)?;
                    }
                }
            }
            path.pop();
        }
        Ok(())
    }

    fn heading(&mut self, indent: usize, text: &str) -> Result<(), Fault> {
        self.out.repeat(b' ', indent)?;
        self.text(text)?;
        self.text("\n")
    }

    fn inline(&mut self, value: &Value, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(Fault::TooBig);
        }
        match value {
            Value::Nil => Err(Fault::Nil),
            Value::Bool(value) => self.text(&value.to_string()),
            Value::Int(number, _) => self.text(&number.to_string()),
            Value::Float(number) => self.text(&float(*number)),
            Value::Text(text) => self.text(&quoted(text)),
            Value::Raw(bytes) | Value::Bytes(bytes) => {
                self.text(&quoted(&String::from_utf8_lossy(bytes)))
            }
            Value::List(list) => self.array(list, depth),
            Value::Map(map) => {
                self.text("{")?;
                let entries = map.snapshot();
                let entries = entries.iter().filter(|(_, value)| !value.is_nil());
                for (index, (key, value)) in entries.enumerate() {
                    self.text(if index > 0 { ", " } else { "" })?;
                    self.text(&format!("{} = ", quoted_key(key)))?;
                    self.inline(value, depth + 1)?;
                }
                self.text("}")
            }
            Value::Object(object) => self.inline(&object.plain(), depth + 1),
        }
    }

    fn array(&mut self, list: &List, depth: usize) -> Result<(), Fault> {
        self.text("[")?;
        for (index, item) in list.items().iter().enumerate() {
            self.text(if index > 0 { ", " } else { "" })?;
            self.inline(item, depth + 1)?;
        }
        self.text("]")
    }
}

fn float(number: f64) -> String {
    let text = number::general(number);
    match text.as_str() {
        "NaN" => "nan".into(),
        "+Inf" => "inf".into(),
        "-Inf" => "-inf".into(),
        _ if text.contains(['e', '.']) => text,
        _ => text + ".0",
    }
}

fn quoted_key(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !key.is_empty() && key.bytes().all(bare) { key.into() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
