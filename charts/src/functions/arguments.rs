//! The arguments of a call, taken as the types that the function declares.

use std::borrow::Cow;
use std::rc::Rc;

use crate::value::format::{self, TooBig};
use crate::value::{List, Map, Value};

pub(crate) type Outcome = Result<Value, String>;

#[derive(Clone, Copy)]
pub(crate) struct Args<'a>(pub(crate) &'a [Value]);

impl<'a> Args<'a> {
    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    pub(crate) fn any(self, at: usize) -> &'a Value {
        &self.0[at]
    }

    pub(crate) fn from(self, at: usize) -> &'a [Value] {
        &self.0[at.min(self.0.len())..]
    }

    fn wrong<T>(self, at: usize, expected: &str) -> Result<T, String> {
        let got = match &self.0[at] {
            Value::Nil => "nil",
            value => value.type_name(),
        };
        Err(format!("wrong type for value; expected {expected}; got {got}"))
    }

    /// What is not UTF-8 in it is lost.
    pub(crate) fn text(self, at: usize) -> Result<Rc<str>, String> {
        match &self.0[at] {
            Value::Text(text) => Ok(text.clone()),
            Value::Raw(bytes) => Ok(String::from_utf8_lossy(bytes).into()),
            _ => self.wrong(at, "string"),
        }
    }

    pub(crate) fn bytes(self, at: usize) -> Result<&'a [u8], String> {
        match &self.0[at] {
            Value::Text(text) => Ok(text.as_bytes()),
            Value::Raw(bytes) => Ok(bytes),
            _ => self.wrong(at, "string"),
        }
    }

    pub(crate) fn int(self, at: usize) -> Result<i64, String> {
        match &self.0[at] {
            Value::Int(number, _) => Ok(*number),
            _ => self.wrong(at, "int"),
        }
    }

    /// A count: what is negative is none.
    pub(crate) fn count(self, at: usize) -> Result<usize, String> {
        Ok(usize::try_from(self.int(at)?).unwrap_or(0))
    }

    pub(crate) fn bool(self, at: usize) -> Result<bool, String> {
        match &self.0[at] {
            Value::Bool(value) => Ok(*value),
            _ => self.wrong(at, "bool"),
        }
    }

    /// Nil is a map without entries, which nothing can be put into.
    pub(crate) fn map(self, at: usize) -> Result<Cow<'a, Map>, String> {
        match &self.0[at] {
            Value::Map(map) => Ok(Cow::Borrowed(map)),
            Value::Nil => Ok(Cow::Owned(Map::new())),
            _ => self.wrong(at, "map[string]interface {}"),
        }
    }

    /// A slice of any type.
    pub(crate) fn list(self, at: usize) -> Result<Cow<'a, List>, String> {
        match &self.0[at] {
            Value::List(list) => Ok(Cow::Borrowed(list)),
            Value::Bytes(bytes) => {
                let kind = crate::value::IntKind::Uint8;
                let items = bytes.iter().map(|byte| Value::Int((*byte).into(), kind)).collect();
                Ok(Cow::Owned(List::new(items)))
            }
            Value::Object(object) if object.kind() == "slice" => match object.plain() {
                Value::List(list) => Ok(Cow::Owned(list)),
                _ => self.wrong(at, "a list"),
            },
            _ => self.wrong(at, "a list"),
        }
    }
}

/// Sprig's `strval`: strings as they are, all else as it prints.
pub(crate) fn strval(value: &Value, limit: usize) -> Result<Value, String> {
    match value {
        Value::Text(_) | Value::Raw(_) => Ok(value.clone()),
        Value::Bytes(bytes) => Ok(Value::string(bytes.to_vec())),
        other => Ok(Value::string(format::value(other, limit)?)),
    }
}

/// `strval` as text.
pub(crate) fn strval_text(value: &Value, limit: usize) -> Result<Rc<str>, String> {
    match strval(value, limit)? {
        Value::Text(text) => Ok(text),
        Value::Raw(bytes) => Ok(String::from_utf8_lossy(&bytes).into()),
        _ => Ok(Rc::from("")),
    }
}

/// Text that may not become longer than `limit`.
pub(crate) fn limited(length: Option<usize>, limit: usize) -> Result<(), String> {
    match length {
        Some(length) if length <= limit => Ok(()),
        _ => Err(TooBig.into()),
    }
}
