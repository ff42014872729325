//! `eq`, `lt` and their kin as the template language defines them, and `reflect.DeepEqual`.

use std::cmp::Ordering;

use super::{MAX_DEPTH, Value};
use crate::template::BYTES_A_STEP;

/// What one comparison may take, in steps: values that share their parts could take for ever.
const MAX_STEPS: usize = 10_000_000;

/// The kinds that the comparison functions know.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Basic {
    Bool,
    Int,
    Float,
    Text,
    Other,
}

fn basic(value: &Value) -> Basic {
    match value {
        Value::Bool(_) => Basic::Bool,
        Value::Int(..) => Basic::Int,
        Value::Float(_) => Basic::Float,
        Value::Text(_) | Value::Raw(_) => Basic::Text,
        Value::Object(object) if object.kind() == "int64" => Basic::Int,
        Value::Nil | Value::Bytes(_) | Value::List(_) | Value::Map(_) | Value::Object(_) => {
            Basic::Other
        }
    }
}

const INCOMPATIBLE: &str = "incompatible types for comparison";

/// `eq`: whether `left` is any of `others`.
pub(crate) fn eq(left: &Value, others: &[Value]) -> Result<bool, String> {
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for right in others {
        if eq_one(left, right)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn eq_one(left: &Value, right: &Value) -> Result<bool, String> {
    let kind = basic(left);
    if kind != basic(right) {
        if left.is_nil() || right.is_nil() {
            return Ok(false);
        }
        return Err(INCOMPATIBLE.into());
    }
    if kind == Basic::Other {
        if left.is_nil() || right.is_nil() {
            return Ok(left.is_nil() == right.is_nil());
        }
        let comparable = |value: &Value| matches!(value, Value::Object(object) if !matches!(object.kind(), "map" | "slice"));
        if !comparable(left) || !comparable(right) {
            let name = if comparable(left) { right } else { left }.type_name();
            return Err(format!("non-comparable type {name}"));
        }
        return Ok(deep_equal(left, right).0);
    }
    Ok(order(left, right) == Some(Ordering::Equal))
}

/// `None` where a number is not one.
fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Float(left), Value::Float(right)) => left.partial_cmp(right),
        _ => match (bytes(left), bytes(right)) {
            (Some(left), Some(right)) => Some(left.cmp(right)),
            _ => Some(super::number::to_int(left).cmp(&super::number::to_int(right))),
        },
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Text(text) => Some(text.as_bytes()),
        Value::Raw(bytes) => Some(bytes),
        _ => None,
    }
}

/// What `lt`, `le`, `gt` and `ge` compare; `None` where one is not a number.
pub(crate) fn compare(left: &Value, right: &Value) -> Result<Option<Ordering>, String> {
    let (kind, other) = (basic(left), basic(right));
    if kind == Basic::Other || other == Basic::Other {
        return Err("invalid type for comparison".into());
    }
    if kind != other {
        return Err(INCOMPATIBLE.into());
    }
    if kind == Basic::Bool {
        return Err("invalid type for comparison".into());
    }
    Ok(order(left, right))
}

/// `reflect.DeepEqual`: equal types and equal contents; and how many steps it took to tell. What
/// takes too many is not equal.
pub(crate) fn deep_equal(left: &Value, right: &Value) -> (bool, usize) {
    let mut budget = MAX_STEPS;
    let is_equal = equal_within(left, right, MAX_DEPTH, &mut budget);
    (is_equal, MAX_STEPS - budget)
}

fn equal_within(left: &Value, right: &Value, depth: usize, budget: &mut usize) -> bool {
    if depth == 0 || *budget == 0 {
        return false;
    }
    *budget = budget.saturating_sub(1 + left.reach() / BYTES_A_STEP);
    match (left, right) {
        (Value::Nil, Value::Nil) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left, kind), Value::Int(right, other)) => left == right && kind == other,
        (Value::Float(left), Value::Float(right)) => left == right,
        (Value::Text(left), Value::Text(right)) => left == right,
        (Value::Raw(left), Value::Raw(right)) | (Value::Bytes(left), Value::Bytes(right)) => {
            left == right
        }
        (Value::List(left), Value::List(right)) => {
            left.kind == right.kind
                && left.nil == right.nil
                && left.items().len() == right.items().len()
                && left
                    .items()
                    .iter()
                    .zip(right.items())
                    .all(|(left, right)| equal_within(left, right, depth - 1, budget))
        }
        (Value::Map(left), Value::Map(right)) => {
            if left.is(right) {
                return true;
            }
            let (left_entries, right_entries) = (left.entries(), right.entries());
            left.kind() == right.kind()
                && left_entries.len() == right_entries.len()
                && left_entries.iter().all(|(key, left)| {
                    right_entries
                        .get(key)
                        .is_some_and(|right| equal_within(left, right, depth - 1, budget))
                })
        }
        (Value::Object(left), Value::Object(right)) => {
            left.type_name() == right.type_name()
                && equal_within(&left.plain(), &right.plain(), depth - 1, budget)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Map, MapKind};

    #[test]
    fn kinds_are_compared_only_with_their_own() {
        let (one, float, text) = (Value::int(1), Value::Float(1.0), Value::text("1"));
        assert_eq!(eq(&one, &[Value::int64(1)]), Ok(true));
        assert_eq!(eq(&one, std::slice::from_ref(&float)), Err(INCOMPATIBLE.into()));
        assert_eq!(eq(&text, &[Value::text("0"), text.clone()]), Ok(true));
        assert_eq!(eq(&text, &[Value::Nil]), Ok(false));
        assert_eq!(eq(&Value::Nil, &[Value::Nil]), Ok(true));
        let map = Value::Map(Map::new());
        assert!(eq(&map, std::slice::from_ref(&map)).is_err());
        assert!(compare(&one, &float).is_err());
        assert_eq!(compare(&one, &Value::int(2)), Ok(Some(Ordering::Less)));
        assert!(compare(&Value::Bool(true), &Value::Bool(true)).is_err());
    }

    #[test]
    fn deep_equality_looks_at_types() {
        let map = |kind| {
            let map = Map::of(kind, Default::default());
            map.set("a", Value::list(vec![Value::int(1)]));
            Value::Map(map)
        };
        assert_eq!(deep_equal(&map(MapKind::Any), &map(MapKind::Any)), (true, 3));
        assert!(!deep_equal(&map(MapKind::Any), &map(MapKind::Values)).0);
        assert!(!deep_equal(&Value::int(1), &Value::int64(1)).0);
    }
}
