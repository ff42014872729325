//! References in YAML: documents are decoded, whatever their kind.
//!
//! - `image`: all.
//! - Keys that end in `image` or `Image`, which are fields of operators' resources, as
//!   `brokerImage`: what is hardly anything else, and `repository` with `tag` below it.
//! - Environment variables whose names say that they are images, `RELATED_IMAGE_...`: what is
//!   hardly anything else.
//! - Keys that have `image` elsewhere, as `imageName`, and lists under them: a guess, what has a
//!   tag or digest.
//! - What stands behind the `=` of an argument or of a word of a command: a guess, what has a
//!   registry, and a tag or digest.
//!
//! A guess may be anything else: taints of nodes look like images, `node.example/x:NoExecute`. So
//! keys with a `/` are left out, which are annotations, and an argument's name has to have `image`,
//! or its value a digest or version.
//!
//! Text of several lines inside a document, as in a ConfigMap, is searched by its lines.

use serde_json::{Map, Value};

use super::{Found, lines, reference};

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
                Value::String(text) if key == "image" => self.certain(text),
                Value::String(text) if is_image_key(key) => self.likely(text),
                Value::Object(parts) if key == "image" || is_image_key(key) => {
                    self.parts(parts);
                    self.map(parts, depth + 1);
                }
                Value::String(text) if is_about_images(key) && !text.contains('\n') => {
                    self.about_images(key, text);
                }
                Value::Array(items) if is_about_images(key) => {
                    self.items(items, depth, |walk, text| {
                        walk.about_images(key, text);
                    })
                }
                Value::Array(items) if key == "args" || key == "command" => {
                    self.items(items, depth, Self::argument);
                }
                other => self.value(other, depth + 1),
            }
        }
    }

    /// The items of a list, of which `take` gets the texts.
    fn items(&mut self, items: &[Value], depth: usize, take: impl Fn(&mut Self, &str)) {
        for item in items {
            match item {
                Value::String(text) if !text.contains('\n') => take(self, text),
                other => self.value(other, depth + 1),
            }
        }
    }

    /// The value of a key that says something about images: the name of one, or how it is pulled.
    fn about_images(&mut self, key: &str, text: &str) {
        if reference::is_full(text) && (text.contains('/') || is_for_names(key)) {
            self.guessed(text);
        } else if reference::has_registry(text) {
            // A path without a tag may be that of many images.
            let line = self.line_of(text);
            self.found.skip(text, line, "it may name an image, but has neither tag nor digest");
        }
    }

    fn argument(&mut self, text: &str) {
        if let Some((name, value)) = text.split_once('=')
            && reference::has_registry(value)
            && reference::is_full(value)
            && (says_image(name) || reference::is_versioned(value))
        {
            self.guessed(value);
        }
    }

    fn guessed(&mut self, text: &str) {
        let line = self.line_of(text);
        self.found.guessed(text, line);
    }

    fn certain(&mut self, text: &str) {
        let line = self.line_of(text);
        self.found.certain(text, line);
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

/// Whether a key has to do with images; most of them hold no names.
fn is_about_images(key: &str) -> bool {
    says_image(key) && !key.contains('/')
}

fn says_image(name: &str) -> bool {
    name.to_ascii_lowercase().contains("image")
}

/// Whether a key is for names of images: not for a registry, which looks like one that has its port
/// as a tag.
fn is_for_names(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["image", "images", "imagename", "imageref", "imagereference"]
        .iter()
        .any(|end| key.ends_with(end))
}

fn is_image_variable(name: &str) -> bool {
    name.starts_with("RELATED_IMAGE") || name.ends_with("_IMAGE") || name == "IMAGE"
}
