//! What templates compute with: Go's dynamic values, as `text/template` sees them.
//!
//! Maps are references, as in Go: a change made through one name shows through all others. Lists
//! never change; functions that add to one make a new one. The invariant: a `Text` is UTF-8, and
//! what is not is a `Raw`. Which Go type a value has is kept where templates can see it (`typeOf`,
//! `%T`, `deepEqual`), not otherwise.

pub(crate) mod compare;
pub(crate) mod format;
pub(crate) mod number;

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Containers within containers beyond this are taken for a cycle: what walks values stops there.
pub(crate) const MAX_DEPTH: usize = 500;

/// About what an item of a list or an entry of a map takes beside its texts, in bytes.
pub(crate) const ENTRY: usize = 64;

#[derive(Clone, Debug, Default)]
pub(crate) enum Value {
    #[default]
    Nil,
    Bool(bool),
    Int(i64, IntKind),
    Float(f64),
    Text(Rc<str>),
    /// A string that is not UTF-8.
    Raw(Rc<[u8]>),
    /// A `[]uint8`.
    Bytes(Rc<[u8]>),
    List(List),
    Map(Map),
    Object(Rc<dyn Object>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntKind {
    Int,
    Int64,
    Uint8,
    Uint64,
}

/// A Go value with fields and methods.
pub(crate) trait Object: std::fmt::Debug {
    /// As `%T` prints it.
    fn type_name(&self) -> &'static str;

    /// As `kindOf` prints it.
    fn kind(&self) -> &'static str {
        "struct"
    }

    fn field(&self, name: &str) -> Option<Value>;

    /// `None`: there is no such method.
    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>>;

    /// What `encoding/json` makes of it, as a value.
    fn plain(&self) -> Value;

    /// What its `String` method gives, if it has one.
    fn text(&self) -> Option<String> {
        None
    }

    /// About how much memory it takes by itself, in bytes.
    fn weight(&self) -> usize {
        ENTRY
    }
}

/// A slice. Its items are shared and never change.
#[derive(Clone, Debug)]
pub(crate) struct List {
    items: Items,
    pub(crate) kind: ItemKind,
    /// A slice that was never made: `null` to JSON.
    pub(crate) nil: bool,
}

#[derive(Clone, Debug)]
struct Items(Rc<Vec<Value>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    Any,
    Text,
    Int,
    Lists,
}

/// A map with string keys, shared and changeable.
///
/// The same map may be known as another Go type elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Map {
    shared: Rc<Shared>,
    kind: MapKind,
}

#[derive(Debug)]
struct Shared {
    entries: RefCell<Entries>,
}

pub(crate) type Entries = BTreeMap<Rc<str>, Value>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MapKind {
    Any,
    /// What `.Values` is.
    Values,
    Text,
    /// A `Text` map that was never made: `null` to JSON.
    NilText,
}

impl MapKind {
    /// What a key that is not there gives.
    pub(crate) fn zero(self) -> Value {
        match self {
            MapKind::Any | MapKind::Values => Value::Nil,
            MapKind::Text | MapKind::NilText => Value::text(""),
        }
    }
}

impl List {
    pub(crate) fn new(items: Vec<Value>) -> List {
        List { items: Items(Rc::new(items)), kind: ItemKind::Any, nil: false }
    }

    pub(crate) fn of(kind: ItemKind, items: Vec<Value>) -> List {
        List { items: Items(Rc::new(items)), kind, nil: false }
    }

    /// A nil slice.
    pub(crate) fn unmade() -> List {
        List { items: Items(Rc::new(Vec::new())), kind: ItemKind::Any, nil: true }
    }

    pub(crate) fn texts<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> List {
        List::of(ItemKind::Text, items.into_iter().map(|item| Value::text(item.as_ref())).collect())
    }

    pub(crate) fn items(&self) -> &[Value] {
        &self.items.0
    }
}

impl Map {
    pub(crate) fn new() -> Map {
        Map::from(Entries::new())
    }

    pub(crate) fn of(kind: MapKind, entries: Entries) -> Map {
        Map { shared: Rc::new(Shared { entries: RefCell::new(entries) }), kind }
    }

    pub(crate) fn kind(&self) -> MapKind {
        self.kind
    }

    pub(crate) fn get(&self, key: &str) -> Option<Value> {
        self.shared.entries.borrow().get(key).cloned()
    }

    pub(crate) fn set(&self, key: impl Into<Rc<str>>, value: Value) {
        // What was there is dropped after the borrow: dropping may come back to this map.
        let before = self.shared.entries.borrow_mut().insert(key.into(), value);
        drop(before);
    }

    pub(crate) fn remove(&self, key: &str) {
        let before = self.shared.entries.borrow_mut().remove(key);
        drop(before);
    }

    /// The entries; the map must not be changed while they are held.
    pub(crate) fn entries(&self) -> Ref<'_, Entries> {
        self.shared.entries.borrow()
    }

    /// The entries at this moment, which later changes do not touch.
    pub(crate) fn snapshot(&self) -> Vec<(Rc<str>, Value)> {
        let entries = self.shared.entries.borrow();
        entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.shared.entries.borrow().len()
    }

    pub(crate) fn is(&self, other: &Map) -> bool {
        Rc::ptr_eq(&self.shared, &other.shared)
    }

    /// The map under `key`, if a map is there.
    pub(crate) fn map(&self, key: &str) -> Option<Map> {
        match self.shared.entries.borrow().get(key) {
            Some(Value::Map(map)) => Some(map.clone()),
            _ => None,
        }
    }

    /// The same map as another Go type.
    pub(crate) fn retyped(&self, kind: MapKind) -> Map {
        Map { shared: self.shared.clone(), kind }
    }
}

impl From<Entries> for Map {
    fn from(entries: Entries) -> Map {
        Map::of(MapKind::Any, entries)
    }
}

/// Takes chains of containers apart one by one: dropping a long one must not use up the stack.
fn drop_all(mut waiting: Vec<Value>) {
    while let Some(value) = waiting.pop() {
        match value {
            Value::List(mut list) => {
                if let Some(items) = Rc::get_mut(&mut list.items.0) {
                    waiting.append(items);
                }
            }
            Value::Map(mut map) => {
                if let Some(shared) = Rc::get_mut(&mut map.shared) {
                    waiting.extend(std::mem::take(shared.entries.get_mut()).into_values());
                }
            }
            Value::Nil
            | Value::Bool(_)
            | Value::Int(..)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Raw(_)
            | Value::Bytes(_)
            | Value::Object(_) => (),
        }
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        if let Some(items) = Rc::get_mut(&mut self.0)
            && items.iter().any(Value::is_container)
        {
            drop_all(std::mem::take(items));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let entries = self.entries.get_mut();
        if entries.values().any(Value::is_container) {
            drop_all(std::mem::take(entries).into_values().collect());
        }
    }
}

impl Value {
    pub(crate) fn text(text: &str) -> Value {
        Value::Text(Rc::from(text))
    }

    pub(crate) fn int(number: i64) -> Value {
        Value::Int(number, IntKind::Int)
    }

    pub(crate) fn int64(number: i64) -> Value {
        Value::Int(number, IntKind::Int64)
    }

    pub(crate) fn count(number: usize) -> Value {
        Value::int(i64::try_from(number).unwrap_or(i64::MAX))
    }

    pub(crate) fn list(items: Vec<Value>) -> Value {
        Value::List(List::new(items))
    }

    /// A string of any bytes.
    pub(crate) fn string(bytes: Vec<u8>) -> Value {
        match String::from_utf8(bytes) {
            Ok(text) => Value::Text(text.into()),
            Err(error) => Value::Raw(error.into_bytes().into()),
        }
    }

    pub(crate) fn is_nil(&self) -> bool {
        matches!(self, Value::Nil)
    }

    fn is_container(&self) -> bool {
        matches!(self, Value::List(_) | Value::Map(_))
    }

    /// About how much memory the value takes with all that is in it, in bytes. For values that
    /// were just made: what walks them is not bounded.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Value::Nil | Value::Bool(_) | Value::Int(..) | Value::Float(_) => 0,
            Value::Text(text) => text.len(),
            Value::Raw(bytes) | Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.items().iter().map(|item| ENTRY + item.weight()).sum(),
            Value::Map(map) => {
                let entries = map.entries();
                entries.iter().map(|(key, value)| ENTRY + key.len() + value.weight()).sum()
            }
            Value::Object(object) => object.weight(),
        }
    }

    /// How many bytes most functions read of the value. Those that go through lists and maps
    /// count that by themselves: to take one item or entry is no work.
    pub(crate) fn reach(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::Raw(bytes) | Value::Bytes(bytes) => bytes.len(),
            Value::Object(object) => object.weight(),
            Value::Nil
            | Value::Bool(_)
            | Value::Int(..)
            | Value::Float(_)
            | Value::List(_)
            | Value::Map(_) => 0,
        }
    }

    /// Whether `if` takes it: neither nil nor zero nor without items.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Value::Nil => false,
            Value::Bool(value) => *value,
            Value::Int(number, _) => *number != 0,
            Value::Float(number) => *number != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::Raw(bytes) | Value::Bytes(bytes) => !bytes.is_empty(),
            Value::List(list) => !list.items().is_empty(),
            Value::Map(map) => map.len() != 0,
            Value::Object(object) => match object.plain() {
                Value::Map(map) if object.kind() == "map" => map.len() != 0,
                Value::List(list) if object.kind() == "slice" => !list.items().is_empty(),
                Value::Int(number, _) => number != 0,
                _ => true,
            },
        }
    }

    /// As `%T` prints it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Nil => "<nil>",
            Value::Bool(_) => "bool",
            Value::Int(_, kind) => match kind {
                IntKind::Int => "int",
                IntKind::Int64 => "int64",
                IntKind::Uint8 => "uint8",
                IntKind::Uint64 => "uint64",
            },
            Value::Float(_) => "float64",
            Value::Text(_) | Value::Raw(_) => "string",
            Value::Bytes(_) => "[]uint8",
            Value::List(list) => match list.kind {
                ItemKind::Any => "[]interface {}",
                ItemKind::Text => "[]string",
                ItemKind::Int => "[]int",
                ItemKind::Lists => "[][]interface {}",
            },
            Value::Map(map) => match map.kind() {
                MapKind::Any => "map[string]interface {}",
                MapKind::Values => "common.Values",
                MapKind::Text | MapKind::NilText => "map[string]string",
            },
            Value::Object(object) => object.type_name(),
        }
    }

    /// As `kindOf` prints it.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self {
            Value::Nil => "invalid",
            Value::Text(_) | Value::Raw(_) => "string",
            Value::Bytes(_) | Value::List(_) => "slice",
            Value::Map(_) => "map",
            Value::Object(object) => object.kind(),
            Value::Bool(_) | Value::Int(..) | Value::Float(_) => self.type_name(),
        }
    }

    /// The value with all its maps anew, so that changes to one do not show in the other.
    ///
    /// `budget` is how many values may be made; `None` when it is used up.
    pub(crate) fn deep_copy(&self, budget: &mut usize) -> Option<Value> {
        self.deep_copy_within(MAX_DEPTH, budget)
    }

    fn deep_copy_within(&self, depth: usize, budget: &mut usize) -> Option<Value> {
        *budget = budget.checked_sub(1)?;
        let depth = depth.checked_sub(1)?;
        Some(match self {
            Value::List(list) => {
                let items = list.items().iter().map(|item| item.deep_copy_within(depth, budget));
                let items = items.collect::<Option<Vec<_>>>()?;
                Value::List(List { items: Items(Rc::new(items)), ..*list })
            }
            Value::Map(map) => {
                let mut entries = Entries::new();
                for (key, value) in map.entries().iter() {
                    entries.insert(key.clone(), value.deep_copy_within(depth, budget)?);
                }
                Value::Map(Map::of(map.kind(), entries))
            }
            other => other.clone(),
        })
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::text(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Value {
        Value::Map(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_references_and_copies_are_not() {
        let map = Map::new();
        map.set("a", Value::int(1));
        let alias = map.clone();
        let mut budget = 100;
        let Some(Value::Map(copy)) = Value::Map(map.clone()).deep_copy(&mut budget) else {
            panic!("no copy")
        };
        alias.set("a", Value::int(2));
        assert!(matches!(map.get("a"), Some(Value::Int(2, _))));
        assert!(matches!(copy.get("a"), Some(Value::Int(1, _))));
        assert_eq!(budget, 98);
    }

    #[test]
    fn a_chain_of_a_million_containers_is_dropped() {
        let mut chain = Value::Nil;
        for turn in 0..1_000_000 {
            chain = if turn % 2 == 0 {
                Value::list(vec![chain])
            } else {
                let map = Map::new();
                map.set("next", chain);
                Value::Map(map)
            };
        }
        drop(chain);
    }

    #[test]
    fn a_cycle_is_not_followed_without_end() {
        let map = Map::new();
        map.set("self", Value::Map(map.clone()));
        assert!(Value::Map(map.clone()).deep_copy(&mut { usize::MAX }).is_none());
        map.remove("self");
    }
}
