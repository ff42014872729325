//! Values that a user gives: files of them, and single ones in Helm's `--set` form.

use serde_json::{Map, Value};

use crate::Error;
use crate::chart;

/// The highest index of a list, as Helm has it.
const MAX_INDEX: usize = 65_536;

/// Keys within one another, as Helm has it.
const MAX_DEPTH: usize = 30;

/// The values of a YAML file; `name` is what errors call it.
///
/// # Errors
///
/// If it is no YAML or no map.
pub fn parse_values(name: &str, data: &[u8]) -> Result<Value, Error> {
    chart::values(data).map_err(|message| Error::Invalid { file: name.into(), message })
}

/// Lays `over` on `values`: maps are merged, all else is replaced.
pub fn merge_values(values: &mut Value, over: Value) {
    match (values, over) {
        (Value::Object(values), Value::Object(over)) => chart::merge(values, over),
        (values, over) => *values = over,
    }
}

/// Sets what `text` says, as `helm --set`: `a.b=1,c[0].d=x,e={1,2}`.
///
/// Whole numbers, `true`, `false` and `null` are taken as such, unless `as_text`. A backslash
/// takes the meaning from what follows it.
///
/// # Errors
///
/// If the text is not of that form.
pub fn set_values(values: &mut Value, text: &str, as_text: bool) -> Result<(), Error> {
    let mut setter = Setter { rest: text, as_text };
    while !setter.rest.is_empty() {
        setter.assignment(values, 0).map_err(|message| Error::Option {
            option: "set",
            message: format!("{text:?}: {message}"),
        })?;
    }
    Ok(())
}

struct Setter<'t> {
    rest: &'t str,
    as_text: bool,
}

impl Setter<'_> {
    /// Text up to one of `stops`, which is taken too and given back.
    fn until(&mut self, stops: &[char]) -> (String, Option<char>) {
        let mut text = String::new();
        let mut chars = self.rest.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == '\\' {
                text.extend(chars.next().map(|(_, c)| c));
            } else if stops.contains(&c) {
                self.rest = &self.rest[at + c.len_utf8()..];
                return (text, Some(c));
            } else {
                text.push(c);
            }
        }
        self.rest = "";
        (text, None)
    }

    /// `key.key[0]=value` and the comma behind it, below `target`.
    fn assignment(&mut self, target: &mut Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} keys within one another"));
        }
        let (key, stop) = self.until(&['=', '[', ',', '.']);
        if key.is_empty() && stop.is_some() {
            return Err("a key is empty".into());
        }
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let entries = target.as_object_mut().ok_or("no map")?;
        match stop {
            None | Some(',') => Err(format!("key {key:?} has no value")),
            Some('=') => {
                let value = self.value();
                entries.insert(key, value);
                Ok(())
            }
            Some('.') => {
                let below = entries.entry(key).or_insert_with(|| Value::Object(Map::new()));
                self.assignment(below, depth + 1)
            }
            Some(_) => {
                let list = entries.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                self.item(list, depth + 1)
            }
        }
    }

    /// `0]=value` or `0].key=value` below `target`.
    fn item(&mut self, target: &mut Value, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} keys within one another"));
        }
        let (index, stop) = self.until(&[']']);
        let index: usize = match (index.parse(), stop) {
            (Ok(index), Some(_)) if index <= MAX_INDEX => index,
            _ => return Err(format!("{index:?} is no index of a list")),
        };
        if !target.is_array() {
            *target = Value::Array(Vec::new());
        }
        let items = target.as_array_mut().ok_or("no list")?;
        if items.len() <= index {
            items.resize(index + 1, Value::Null);
        }
        let item = &mut items[index];
        let next = self.rest.chars().next();
        self.rest = &self.rest[next.map_or(0, char::len_utf8)..];
        match next {
            Some('=') => {
                *item = self.value();
                Ok(())
            }
            Some('[') => self.item(item, depth + 1),
            Some('.') => self.assignment(item, depth + 1),
            _ => Err("an index is followed by neither = nor a key".into()),
        }
    }

    /// A value, or a list of them in braces, and the comma behind it.
    fn value(&mut self) -> Value {
        let Some(inner) = self.rest.strip_prefix('{') else {
            let (text, _) = self.until(&[',']);
            return self.typed(text);
        };
        self.rest = inner;
        let mut items = Vec::new();
        loop {
            let (text, stop) = self.until(&[',', '}']);
            if !(text.is_empty() && items.is_empty() && stop == Some('}')) {
                items.push(self.typed(text));
            }
            if stop != Some(',') {
                self.rest = self.rest.strip_prefix(',').unwrap_or(self.rest);
                return Value::Array(items);
            }
        }
    }

    fn typed(&self, text: String) -> Value {
        if self.as_text {
            return Value::String(text);
        }
        match text.as_str() {
            "true" => true.into(),
            "false" => false.into(),
            "null" => Value::Null,
            "0" => 0.into(),
            // A number with a zero before it is a name to most.
            digits if !digits.starts_with('0') && !digits.starts_with('+') => {
                digits.parse::<i64>().map_or_else(|_| text.clone().into(), Value::from)
            }
            _ => Value::String(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_set_as_helm_sets_them() {
        let cases = [
            ("a=1", json!({"a": 1})),
            ("a=1,b=x", json!({"a": 1, "b": "x"})),
            ("a.b.c=true", json!({"a": {"b": {"c": true}}})),
            ("a=null", json!({"a": null})),
            ("a=", json!({"a": ""})),
            ("a=1.5", json!({"a": "1.5"})),
            ("a=0123", json!({"a": "0123"})),
            ("a=-5", json!({"a": -5})),
            ("a={x,1,true}", json!({"a": ["x", 1, true]})),
            ("a={},b=1", json!({"a": [], "b": 1})),
            ("a[0]=x,a[2].b=1", json!({"a": ["x", null, {"b": 1}]})),
            ("a[0][1]=x", json!({"a": [[null, "x"]]})),
            (r"a\.b=1\,2", json!({"a.b": "1,2"})),
            ("a=b=c", json!({"a": "b=c"})),
            ("a=x y", json!({"a": "x y"})),
        ];
        for (text, expected) in cases {
            let mut values = json!({});
            set_values(&mut values, text, false).unwrap();
            assert_eq!(values, expected, "{text}");
        }
        let mut values = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        set_values(&mut values, "a.b=x,l[1]=5", false).unwrap();
        assert_eq!(values, json!({"a": {"b": "x", "c": 2}, "l": [1, 5]}));
        set_values(&mut values, "a.b=1", true).unwrap();
        assert_eq!(values["a"]["b"], "1");
        for bad in ["a", "=1", "a.=1", "a[x]=1", "a[0", "a[99999999]=1", "a[0]x", &"a.".repeat(50)]
        {
            assert!(set_values(&mut json!({}), bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_are_laid_over_each_other() {
        let mut values = parse_values("a", b"a: {b: 1, c: [1]}\nd: yes\n").unwrap();
        merge_values(&mut values, parse_values("b", b"a: {c: [2], e: null}\n").unwrap());
        assert_eq!(values, json!({"a": {"b": 1, "c": [2], "e": null}, "d": true}));
        assert!(parse_values("v.yaml", b"- a").unwrap_err().to_string().starts_with("v.yaml: "));
    }
}
