//! `.Files`: what a chart has beside its templates.

use std::rc::Rc;

use crate::chart::{File, pattern};
use crate::encoding::base64_encode;
use crate::functions::base_name;
use crate::template::Limits;
use crate::value::{ENTRY, Entries, List, Map, MapKind, Object, Value};
use crate::yaml;

#[derive(Debug)]
pub(super) struct Files(Vec<(Rc<str>, Rc<[u8]>)>);

impl Files {
    pub(super) fn new(files: &[File]) -> Files {
        Files(files.iter().map(|file| (file.name.as_str().into(), file.data[..].into())).collect())
    }

    fn get(&self, name: &str) -> Rc<[u8]> {
        let file = self.0.iter().find(|(known, _)| **known == *name);
        file.map_or_else(|| Rc::from([]), |(_, data)| data.clone())
    }

    /// Those that a pattern matches; a pattern that is none matches all.
    fn glob(&self, text: &str) -> Files {
        let pattern = pattern::glob(text);
        let matches = |name: &str| pattern.as_ref().is_none_or(|pattern| pattern.is_match(name));
        Files(self.0.iter().filter(|(name, _)| matches(name)).cloned().collect())
    }

    /// A YAML map of their last names to what `text` makes of them.
    fn as_map(&self, text: fn(&[u8]) -> Value) -> Result<Value, String> {
        let entries = self.0.iter().map(|(name, data)| (base_name(name).into(), text(data)));
        let map = Value::Map(Map::of(MapKind::Text, entries.collect::<Entries>()));
        let limit = Limits::default().text;
        let text =
            yaml::write(&map, yaml::Style::Plain, limit).map_err(|_| "the files are too big")?;
        Ok(text.strip_suffix('\n').unwrap_or(&text).into())
    }

    fn lines(&self, name: &str) -> Value {
        let data = self.get(name);
        let text = String::from_utf8_lossy(&data);
        if text.is_empty() {
            return Value::List(List::texts::<&str>([]));
        }
        Value::List(List::texts(text.strip_suffix('\n').unwrap_or(&text).split('\n')))
    }
}

impl Object for Files {
    fn type_name(&self) -> &'static str {
        "engine.files"
    }

    fn kind(&self) -> &'static str {
        "map"
    }

    fn field(&self, name: &str) -> Option<Value> {
        Some(Value::Bytes(self.get(name)))
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let argument = || match arguments {
            [Value::Text(text)] => Ok(text.clone()),
            [other] => Err(format!("expected string; got {}", other.type_name())),
            _ => Err(format!("wrong number of args: want 1 got {}", arguments.len())),
        };
        Some(match method {
            "Get" => argument().map(|name| Value::string(self.get(&name).to_vec())),
            "GetBytes" => argument().map(|name| Value::Bytes(self.get(&name))),
            "Glob" => argument().map(|text| Value::Object(Rc::new(self.glob(&text)))),
            "Lines" => argument().map(|name| self.lines(&name)),
            "AsConfig" => self.as_map(|data| Value::string(data.to_vec())),
            "AsSecrets" => self.as_map(|data| base64_encode(data).into()),
            _ => return None,
        })
    }

    fn weight(&self) -> usize {
        self.0.len() * ENTRY
    }

    fn plain(&self) -> Value {
        let entries = self.0.iter();
        let entries = entries.map(|(name, data)| (name.clone(), Value::Bytes(data.clone())));
        Value::Map(Map::from(entries.collect::<Entries>()))
    }
}
