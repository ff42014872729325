//! References in YAML: documents are decoded, whatever their kind.
//!
//! Taken are values of `image`; of keys that end in `image` or `Image` (fields of operators'
//! resources, such as `brokerImage`), as far as they say a tag or digest; of environment variables
//! whose names say that they are images (`RELATED_IMAGE_...`); and `repository` with `tag` below
//! such a key. Text of several lines inside a document, as in a ConfigMap, is searched by its lines.

use serde_json::{Map, Value};

use super::{Found, lines};

/// Documents nest no deeper in practice, and recursion has to end.
const MAX_DEPTH: usize = 100;

/// Looks for references in a file of YAML documents. One that does not decode, as a template, is
/// searched by its lines.
pub(super) fn scan(text: &str, found: &mut Found<'_>) {
    match kfs_charts::documents(found.file, text) {
        Ok(documents) => {
            let mut walk = Walk { text, found };
            documents.iter().for_each(|document| walk.value(document, 0));
        }
        Err(_) => lines::text(text, 1, found),
    }
}

struct Walk<'w, 'f> {
    text: &'w str,
    found: &'w mut Found<'f>,
}

impl Walk<'_, '_> {
    fn value(&mut self, value: &Value, depth: usize) {
        if depth > MAX_DEPTH {
            return;
        }
        match value {
            Value::Object(map) => self.map(map, depth),
            Value::Array(items) => items.iter().for_each(|item| self.value(item, depth + 1)),
            Value::String(text) if text.contains('\n') => {
                // It is there as a block, whose lines are those of the file.
                let first = text.lines().find(|line| !line.trim().is_empty());
                let line = first.and_then(|first| self.line_of(first)).unwrap_or(1);
                lines::text(text, line, self.found);
            }
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn map(&mut self, map: &Map<String, Value>, depth: usize) {
        self.variable(map);
        for (key, value) in map {
            match value {
                Value::String(text) if key == "image" => {
                    let line = self.line_of(text);
                    self.found.certain(text, line);
                }
                Value::String(text) if is_image_key(key) => self.likely(text),
                Value::Object(parts) if key == "image" || is_image_key(key) => {
                    self.parts(parts);
                    self.map(parts, depth + 1);
                }
                other => self.value(other, depth + 1),
            }
        }
    }

    fn likely(&mut self, text: &str) {
        let line = self.line_of(text);
        self.found.likely(text, line);
    }

    /// An environment variable.
    fn variable(&mut self, map: &Map<String, Value>) {
        if let (Some(Value::String(name)), Some(Value::String(value))) =
            (map.get("name"), map.get("value"))
            && is_image_variable(name)
        {
            self.likely(value);
        }
    }

    /// `{registry: r, repository: a/b, tag: c}`.
    fn parts(&mut self, parts: &Map<String, Value>) {
        let text = |key: &str| match parts.get(key) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let repository = text("repository").or_else(|| text("name"));
        if let (Some(repository), Some(tag)) = (repository, text("tag")) {
            let registry = text("registry").map(|registry| registry + "/").unwrap_or_default();
            let line = self.line_of(&repository);
            self.found.likely(&format!("{registry}{repository}:{tag}"), line);
        }
    }

    /// The first line that has this text.
    fn line_of(&self, text: &str) -> Option<usize> {
        let at = self.text.find(text.trim())?;
        Some(self.text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1)
    }
}

fn is_image_key(key: &str) -> bool {
    key.ends_with("image") || key.ends_with("Image")
}

fn is_image_variable(name: &str) -> bool {
    name.starts_with("RELATED_IMAGE") || name.ends_with("_IMAGE") || name == "IMAGE"
}
