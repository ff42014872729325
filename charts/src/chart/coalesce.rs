//! A chart's own values under those that were given, for it and all charts in it.
//!
//! Nil takes away what a chart sets by itself. Maps are shared where Helm shares them, so that a
//! template that changes one is seen where Helm would show it.

use tracing::warn;

use super::dependencies::Node;
use crate::value::{Map, Value};

/// The key of what all charts see.
const GLOBAL: &str = "global";

/// Values may be copied up to this many, in all charts together.
const MAX_VALUES: usize = 4_000_000;

/// The values of a chart and, below their names, of the charts in it.
///
/// An error says what does not fit together.
pub(crate) fn coalesce(chart: &Node<'_>, given: &Map) -> Result<Map, String> {
    with_nil(chart, given, false)
}

/// As `coalesce`, but nil is a value like any other.
pub(crate) fn merged(chart: &Node<'_>) -> Result<Map, String> {
    with_nil(chart, &Map::new(), true)
}

fn with_nil(chart: &Node<'_>, given: &Map, keeps_nil: bool) -> Result<Map, String> {
    let mut coalescing = Coalescing { keeps_nil, budget: MAX_VALUES };
    let values = coalescing.copy(given)?;
    coalescing.chart(chart, &values)?;
    Ok(values)
}

/// A copy of a map that shares nothing with it.
pub(crate) fn copied(map: &Map) -> Result<Map, String> {
    Coalescing { keeps_nil: true, budget: MAX_VALUES }.copy(map)
}

/// Adds to `target` what it does not have; maps in both are merged. Nil is kept.
pub(crate) fn merge_tables(target: &Map, source: &Map) {
    tables(target, source, true);
}

struct Coalescing {
    keeps_nil: bool,
    budget: usize,
}

impl Coalescing {
    fn copy(&mut self, map: &Map) -> Result<Map, String> {
        match Value::Map(map.clone()).deep_copy(&mut self.budget) {
            Some(Value::Map(copy)) => Ok(copy),
            _ => Err("the values are too big".into()),
        }
    }

    fn chart(&mut self, chart: &Node<'_>, values: &Map) -> Result<(), String> {
        self.own(chart, values)?;
        for below in &chart.dependencies {
            let name = below.metadata.name.as_str();
            let table = match values.get(name) {
                Some(Value::Map(table)) => table,
                Some(_) => return Err(format!("type mismatch on {name}: not a table")),
                None => Map::new(),
            };
            values.set(name, Value::Map(table.clone()));
            globals(&table, values);
            self.chart(below, &table)?;
        }
        Ok(())
    }

    /// What the chart itself sets.
    fn own(&mut self, chart: &Node<'_>, values: &Map) -> Result<(), String> {
        let defaults = self.copy(&chart.values)?;
        for (key, default) in defaults.snapshot() {
            match (values.get(&key), default) {
                (Some(Value::Nil), _) if !self.keeps_nil => values.remove(&key),
                (Some(Value::Map(table)), Value::Map(default)) => {
                    // What is for a chart below is settled there.
                    let is_chart = chart.dependencies.iter().any(|d| *d.metadata.name == *key);
                    let keeps_nil = self.keeps_nil || is_chart;
                    if !keeps_nil {
                        remove_nil(&default);
                    }
                    tables(&table, &default, keeps_nil);
                }
                (Some(Value::Map(_)), default) => {
                    if !default.is_nil() {
                        warn!(
                            "{}: value of {key} is no table and is left out",
                            chart.metadata.name
                        );
                    }
                }
                (Some(_), _) => (),
                (None, Value::Nil) if !self.keeps_nil => (),
                (None, default) => {
                    if let (Value::Map(table), false) = (&default, self.keeps_nil) {
                        remove_nil(table);
                    }
                    values.set(key, default);
                }
            }
        }
        Ok(())
    }
}

/// Gives the values for all charts to one chart.
fn globals(target: &Map, source: &Map) {
    let table = |map: &Map| match map.get(GLOBAL) {
        None => Some(Map::new()),
        Some(Value::Map(table)) => Some(table),
        Some(_) => None,
    };
    let (Some(own), Some(given)) = (table(target), table(source)) else {
        warn!("global values that are no table are left out");
        return;
    };
    for (key, value) in given.snapshot() {
        match (own.get(&key), value) {
            (None, Value::Map(value)) => own.set(key, Value::Map(shallow(&value))),
            (Some(Value::Map(before)), Value::Map(value)) => {
                let value = shallow(&value);
                tables(&value, &before, true);
                own.set(key, Value::Map(value));
            }
            // A table and no table cannot be merged.
            (Some(_), Value::Map(_)) | (Some(Value::Map(_)), _) => (),
            (_, value) => own.set(key, value),
        }
    }
    target.set(GLOBAL, Value::Map(own));
}

fn shallow(map: &Map) -> Map {
    Map::from(map.entries().clone())
}

fn tables(target: &Map, source: &Map, keeps_nil: bool) {
    if target.is(source) {
        return;
    }
    let before = source.snapshot();
    for (key, value) in target.snapshot() {
        if value.is_nil() {
            source.set(key, Value::Nil);
        }
    }
    let was_set =
        |key: &str| before.iter().any(|(known, value)| **known == *key && !value.is_nil());
    for (key, value) in source.snapshot() {
        match (target.get(&key), value) {
            (Some(Value::Nil), _) if !keeps_nil && was_set(&key) => target.remove(&key),
            (None, value) => target.set(key, value),
            (Some(Value::Map(before)), Value::Map(value)) => tables(&before, &value, keeps_nil),
            (Some(_), _) => (),
        }
    }
}

fn remove_nil(map: &Map) {
    for (key, value) in map.snapshot() {
        match value {
            Value::Nil => map.remove(&key),
            Value::Map(map) => remove_nil(&map),
            _ => (),
        }
    }
}
