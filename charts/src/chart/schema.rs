//! `values.schema.json`: the JSON Schema of a chart's values.
//!
//! Drafts 4 to 2020-12 as far as they agree, without what is only noted (`title`, `default`, ...).
//! References are followed within the schema; those to other documents allow anything, as there
//! is no network here.

mod formats;

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tracing::warn;

use crate::functions::regex;

/// Faults that are told.
const MAX_FAULTS: usize = 20;

/// Schemas within one another, references followed.
const MAX_DEPTH: usize = 200;

/// Checks of one schema against one value.
const MAX_STEPS: usize = 2_000_000;

/// What of `values` the schema does not allow; an error says why the schema itself is none.
pub(crate) fn faults(schema: &[u8], values: &Value) -> Result<Vec<String>, String> {
    let schema: Value = serde_json::from_slice(schema).map_err(|error| error.to_string())?;
    let mut checker = Checker { root: &schema, faults: Vec::new(), steps: 0, depth: 0 };
    checker.check(&schema, values, "")?;
    Ok(checker.faults)
}

struct Checker<'s> {
    root: &'s Value,
    faults: Vec<String>,
    steps: usize,
    depth: usize,
}

type Checked = Result<(), String>;

impl<'s> Checker<'s> {
    fn fault(&mut self, at: &str, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            let at = if at.is_empty() { "(root)" } else { &at[1..] };
            self.faults.push(format!("- {at}: {}", message.into()));
        }
    }

    /// Notes the faults of a value; `at` is its path, with a dot before each part.
    fn check(&mut self, schema: &'s Value, value: &Value, at: &str) -> Checked {
        self.steps += 1;
        if self.steps > MAX_STEPS || self.depth >= MAX_DEPTH {
            return Err("the schema takes too long to check".into());
        }
        let rules = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) => {
                self.fault(at, "not allowed");
                return Ok(());
            }
            Value::Object(rules) => rules,
            _ => return Err("a schema is neither an object nor a bool".into()),
        };
        self.depth += 1;
        self.reference(rules, value, at)?;
        self.any_value(rules, value, at)?;
        match value {
            Value::Number(number) => self.number(rules, number, at),
            Value::String(text) => self.string(rules, text, at)?,
            Value::Array(items) => self.array(rules, items, at)?,
            Value::Object(entries) => self.object(rules, entries, at)?,
            Value::Null | Value::Bool(_) => (),
        }
        self.combined(rules, value, at)?;
        self.depth -= 1;
        Ok(())
    }

    /// Whether a value fits, without a note.
    fn fits(&mut self, schema: &'s Value, value: &Value) -> Result<bool, String> {
        let before = std::mem::take(&mut self.faults);
        self.check(schema, value, "")?;
        let found = std::mem::replace(&mut self.faults, before);
        Ok(found.is_empty())
    }

    fn reference(&mut self, rules: &'s Map<String, Value>, value: &Value, at: &str) -> Checked {
        for key in ["$ref", "$dynamicRef", "$recursiveRef"] {
            let Some(Value::String(reference)) = rules.get(key) else {
                continue;
            };
            match self.resolve(reference)? {
                Some(schema) => self.check(schema, value, at)?,
                None => warn!("the schema {reference} is not at hand: what it says is not checked"),
            }
        }
        Ok(())
    }

    /// `None` for what is in another document.
    fn resolve(&self, reference: &str) -> Result<Option<&'s Value>, String> {
        let Some((document, fragment)) = reference.split_once('#') else {
            return Ok(by_id(self.root, reference, 0));
        };
        let own = self.root.get("$id").and_then(Value::as_str).unwrap_or_default();
        let root = match document {
            "" => Some(self.root),
            document if document == own.trim_end_matches('#') => Some(self.root),
            document => by_id(self.root, document, 0),
        };
        let Some(root) = root else {
            return Ok(None);
        };
        let pointer = fragment.replace("%25", "%").replace("%24", "$").replace("%20", " ");
        let found = if pointer.is_empty() || pointer.starts_with('/') {
            root.pointer(&pointer)
        } else {
            by_anchor(root, &pointer, 0)
        };
        found.map(Some).ok_or_else(|| format!("the schema has no {reference}"))
    }

    fn any_value(&mut self, rules: &'s Map<String, Value>, value: &Value, at: &str) -> Checked {
        if let Some(types) = rules.get("type") {
            let one;
            let types = match types {
                Value::Array(types) => types,
                single => {
                    one = vec![single.clone()];
                    &one
                }
            };
            let names: Vec<&str> = types.iter().filter_map(Value::as_str).collect();
            if !names.iter().any(|name| is_type(value, name)) {
                let got = type_name(value);
                self.fault(at, format!("got {got}, want {}", names.join(" or ")));
            }
        }
        if let Some(Value::Array(allowed)) = rules.get("enum")
            && !allowed.iter().any(|allowed| equal(allowed, value))
        {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            self.fault(at, format!("value must be one of {}", allowed.join(", ")));
        }
        if let Some(wanted) = rules.get("const")
            && !equal(wanted, value)
        {
            self.fault(at, format!("value must be {wanted}"));
        }
        Ok(())
    }

    fn number(&mut self, rules: &Map<String, Value>, number: &serde_json::Number, at: &str) {
        let number = number.as_f64().unwrap_or(f64::NAN);
        let rule = |key: &str| rules.get(key).and_then(Value::as_f64);
        // In draft 4 these say how the limit counts.
        let strict = |key: &str| rules.get(key) == Some(&Value::Bool(true));
        let checks = [
            (
                "minimum",
                rule("minimum")
                    .is_some_and(|low| number < low || strict("exclusiveMinimum") && number == low),
            ),
            (
                "maximum",
                rule("maximum").is_some_and(|high| {
                    number > high || strict("exclusiveMaximum") && number == high
                }),
            ),
            ("exclusiveMinimum", rule("exclusiveMinimum").is_some_and(|low| number <= low)),
            ("exclusiveMaximum", rule("exclusiveMaximum").is_some_and(|high| number >= high)),
            (
                "multipleOf",
                rule("multipleOf").is_some_and(|unit| {
                    let quotient = number / unit;
                    (quotient - quotient.round()).abs() > 1e-9
                }),
            ),
        ];
        for (key, _) in checks.iter().filter(|(_, fails)| *fails) {
            let limit = &rules[*key];
            self.fault(at, format!("{key}: got {number}, want {limit}"));
        }
    }

    fn string(&mut self, rules: &Map<String, Value>, text: &str, at: &str) -> Checked {
        self.size(rules, "minLength", "maxLength", text.chars().count(), at);
        if let Some(Value::String(pattern)) = rules.get("pattern")
            && !regex(pattern)?.is_match(text)
        {
            self.fault(at, format!("{text:?} does not match pattern {pattern:?}"));
        }
        if let Some(Value::String(format)) = rules.get("format")
            && formats_count(self.root)
            && !formats::fits(format, text)
        {
            self.fault(at, format!("{text:?} is not valid {format}"));
        }
        Ok(())
    }

    fn size(&mut self, rules: &Map<String, Value>, low: &str, high: &str, size: usize, at: &str) {
        let limit = |key: &str| {
            let number = rules.get(key).and_then(Value::as_f64)?;
            usize::try_from(crate::value::number::float_to_int(number)).ok()
        };
        if let Some(least) = limit(low).filter(|least| size < *least) {
            self.fault(at, format!("{low}: got {size}, want {least}"));
        }
        if let Some(most) = limit(high).filter(|most| size > *most) {
            self.fault(at, format!("{high}: got {size}, want {most}"));
        }
    }

    fn array(&mut self, rules: &'s Map<String, Value>, items: &[Value], at: &str) -> Checked {
        self.size(rules, "minItems", "maxItems", items.len(), at);
        let tuple = match (rules.get("prefixItems"), rules.get("items")) {
            (Some(Value::Array(tuple)), _) | (None, Some(Value::Array(tuple))) => tuple.as_slice(),
            _ => &[],
        };
        let rest = match rules.get("items") {
            Some(Value::Array(_)) => rules.get("additionalItems"),
            other => other,
        };
        for (index, item) in items.iter().enumerate() {
            if let Some(schema) = tuple.get(index).or(rest) {
                self.check(schema, item, &format!("{at}.{index}"))?;
            }
        }
        if rules.get("uniqueItems") == Some(&Value::Bool(true)) {
            let texts: BTreeSet<String> = items.iter().map(canonical).collect();
            if texts.len() < items.len() {
                self.fault(at, "items must be unique");
            }
        }
        if let Some(schema) = rules.get("contains") {
            let mut count = 0;
            for item in items {
                count += usize::from(self.fits(schema, item)?);
            }
            self.size(rules, "minContains", "maxContains", count, at);
            if count == 0 && !rules.contains_key("minContains") {
                self.fault(at, "no item fits the schema of contains");
            }
        }
        Ok(())
    }

    fn object(
        &mut self,
        rules: &'s Map<String, Value>,
        entries: &Map<String, Value>,
        at: &str,
    ) -> Checked {
        self.size(rules, "minProperties", "maxProperties", entries.len(), at);
        if let Some(Value::Array(required)) = rules.get("required") {
            let missing = required.iter().filter_map(Value::as_str);
            let missing: Vec<&str> = missing.filter(|key| !entries.contains_key(*key)).collect();
            if !missing.is_empty() {
                self.fault(at, format!("missing properties {}", missing.join(", ")));
            }
        }
        let of = |key: &str| match rules.get(key) {
            Some(Value::Object(schemas)) => Some(schemas),
            _ => None,
        };
        let properties = of("properties");
        let mut patterns = Vec::new();
        if let Some(schemas) = of("patternProperties") {
            for (pattern, schema) in schemas {
                patterns.push((regex(pattern)?, schema));
            }
        }
        for (key, value) in entries {
            let at = format!("{at}.{key}");
            let named = properties.and_then(|properties| properties.get(key));
            if let Some(schema) = named {
                self.check(schema, value, &at)?;
            }
            let mut known = named.is_some();
            for (pattern, schema) in &patterns {
                if pattern.is_match(key) {
                    known = true;
                    self.check(schema, value, &at)?;
                }
            }
            match rules.get("additionalProperties") {
                Some(Value::Bool(false)) if !known => {
                    self.fault(&at, "additional properties are not allowed");
                }
                Some(schema) if !known => self.check(schema, value, &at)?,
                _ => (),
            }
            if let Some(schema) = rules.get("propertyNames") {
                self.check(schema, &Value::String(key.clone()), &at)?;
            }
        }
        self.dependent(rules, entries, at)
    }

    /// What must be there, or fit, where another property is.
    fn dependent(
        &mut self,
        rules: &'s Map<String, Value>,
        entries: &Map<String, Value>,
        at: &str,
    ) -> Checked {
        for keyword in ["dependencies", "dependentRequired", "dependentSchemas"] {
            let Some(Value::Object(dependents)) = rules.get(keyword) else {
                continue;
            };
            for (key, rule) in dependents.iter().filter(|(key, _)| entries.contains_key(*key)) {
                match rule {
                    Value::Array(required) => {
                        for needed in required.iter().filter_map(Value::as_str) {
                            if !entries.contains_key(needed) {
                                self.fault(
                                    at,
                                    format!("property {needed} is required, as {key} is there"),
                                );
                            }
                        }
                    }
                    schema => self.check(schema, &Value::Object(entries.clone()), at)?,
                }
            }
        }
        Ok(())
    }

    /// Schemas made of schemas.
    fn combined(&mut self, rules: &'s Map<String, Value>, value: &Value, at: &str) -> Checked {
        let all = |key: &str| match rules.get(key) {
            Some(Value::Array(schemas)) => Some(schemas),
            _ => None,
        };
        for schema in all("allOf").into_iter().flatten() {
            self.check(schema, value, at)?;
        }
        if let Some(schemas) = all("anyOf") {
            let mut fits = false;
            for schema in schemas {
                fits = fits || self.fits(schema, value)?;
            }
            if !fits {
                self.fault(at, "fits none of anyOf");
            }
        }
        if let Some(schemas) = all("oneOf") {
            let mut count = 0;
            for schema in schemas {
                count += usize::from(self.fits(schema, value)?);
            }
            if count != 1 {
                self.fault(at, format!("fits {count} of oneOf, not one"));
            }
        }
        if let Some(schema) = rules.get("not")
            && self.fits(schema, value)?
        {
            self.fault(at, "fits what it must not");
        }
        if let Some(condition) = rules.get("if") {
            let branch = if self.fits(condition, value)? { "then" } else { "else" };
            if let Some(schema) = rules.get(branch) {
                self.check(schema, value, at)?;
            }
        }
        Ok(())
    }
}

/// From draft 2019-09 on a format is only a note.
fn formats_count(root: &Value) -> bool {
    let draft = root.get("$schema").and_then(Value::as_str).unwrap_or("2020-12");
    !draft.contains("2019-09") && !draft.contains("2020-12")
}

fn by_id<'s>(schema: &'s Value, id: &str, depth: usize) -> Option<&'s Value> {
    found(schema, depth, &|candidate| {
        let own = candidate.get("$id").or(candidate.get("id")).and_then(Value::as_str);
        own.is_some_and(|own| own == id || own.rsplit('/').next() == Some(id))
    })
}

fn by_anchor<'s>(schema: &'s Value, name: &str, depth: usize) -> Option<&'s Value> {
    found(schema, depth, &|candidate| {
        let is = |key: &str, prefix: &str| {
            let text = candidate.get(key).and_then(Value::as_str);
            text.is_some_and(|text| text.strip_prefix(prefix) == Some(name))
        };
        is("$anchor", "") || is("$dynamicAnchor", "") || is("$id", "#") || is("id", "#")
    })
}

/// The first schema in a schema for which `is` holds.
fn found<'s>(
    schema: &'s Value,
    depth: usize,
    is: &dyn Fn(&Map<String, Value>) -> bool,
) -> Option<&'s Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    match schema {
        Value::Object(entries) if is(entries) => Some(schema),
        Value::Object(entries) => entries.values().find_map(|value| found(value, depth + 1, is)),
        Value::Array(items) => items.iter().find_map(|value| found(value, depth + 1, is)),
        _ => None,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_type(value: &Value, name: &str) -> bool {
    match (name, value) {
        ("integer", Value::Number(number)) => {
            number.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        (name, value) => type_name(value) == name,
    }
}

/// `1` and `1.0` are equal.
fn equal(left: &Value, right: &Value) -> bool {
    canonical(left) == canonical(right)
}

/// A text that only equal values have.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => number.as_f64().map_or(number.to_string(), |n| n.to_string()),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(entries) => {
            let entries =
                entries.iter().map(|(key, value)| format!("{key:?}:{}", canonical(value)));
            let entries: BTreeSet<String> = entries.collect();
            format!("{{{}}}", Vec::from_iter(entries).join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
