//! Which of a chart's dependencies are on, under which names, and what values they give to it.

use tracing::warn;

use super::Chart;
use super::coalesce::{self, coalesce};
use super::metadata::{Dependency, Import, Metadata};
use crate::functions::semver::{Constraint, Version};
use crate::json;
use crate::value::{Map, Value};

/// A chart as it is with given values.
pub(crate) struct Node<'c> {
    pub(crate) chart: &'c Chart,
    /// With the name that it has here.
    pub(crate) metadata: Metadata,
    pub(crate) values: Map,
    pub(crate) dependencies: Vec<Node<'c>>,
}

impl<'c> Node<'c> {
    /// The chart with all that lies in its `charts/`.
    pub(crate) fn new(chart: &'c Chart) -> Node<'c> {
        let Value::Map(values) = json::from_serde(&chart.values) else {
            unreachable!("the values of a chart are a map");
        };
        Node {
            chart,
            metadata: chart.metadata.clone(),
            values,
            dependencies: chart.dependencies.iter().map(Node::new).collect(),
        }
    }

    /// Leaves only the dependencies that are on, and takes over the values that they give.
    ///
    /// An error says what does not fit together.
    pub(crate) fn settle(&mut self, given: &Map) -> Result<(), String> {
        self.enable(given, "")?;
        self.import()
    }

    /// `path`: where the values of this chart lie in the given ones, with a dot at its end.
    fn enable(&mut self, given: &Map, path: &str) -> Result<(), String> {
        if self.metadata.dependencies.is_empty() {
            return Ok(());
        }
        self.name_dependencies();
        for dependency in &mut self.metadata.dependencies {
            dependency.enabled = true;
        }
        let values = coalesce(self, given)?;
        if let Some(tags) = values.map("tags") {
            for dependency in &mut self.metadata.dependencies {
                dependency.enabled = tags_allow(dependency, &tags);
            }
        }
        for dependency in &mut self.metadata.dependencies {
            if let Some(enabled) = condition(dependency, &values, path) {
                dependency.enabled = enabled;
            }
        }
        let off: Vec<String> = self
            .metadata
            .dependencies
            .iter()
            .filter(|dependency| !dependency.enabled)
            .map(|dependency| dependency.name.clone())
            .collect();
        self.dependencies.retain(|below| !off.contains(&below.metadata.name));
        self.metadata.dependencies.retain(|dependency| !off.contains(&dependency.name));
        for below in &mut self.dependencies {
            let path = format!("{path}{}.", below.metadata.name);
            below.enable(&values, &path)?;
        }
        Ok(())
    }

    /// One chart for each dependency that `Chart.yaml` names, and those that it does not name.
    fn name_dependencies(&mut self) {
        let present = std::mem::take(&mut self.dependencies);
        let is_for = |dependency: &Dependency, chart: &Chart| {
            chart.metadata.name == dependency.name
                && is_in_range(&dependency.version, &chart.metadata.version)
        };
        let charts: Vec<&'c Chart> = present.iter().map(|node| node.chart).collect();
        for node in present {
            if !self.metadata.dependencies.iter().any(|wanted| is_for(wanted, node.chart)) {
                self.dependencies.push(node);
            }
        }
        for wanted in &mut self.metadata.dependencies {
            if let Some(chart) = charts.iter().find(|chart| is_for(wanted, chart)) {
                let mut node = Node::new(chart);
                if !wanted.alias.is_empty() {
                    node.metadata.name.clone_from(&wanted.alias);
                }
                self.dependencies.push(node);
            }
            if !wanted.alias.is_empty() {
                wanted.name.clone_from(&wanted.alias);
            }
        }
    }

    fn import(&mut self) -> Result<(), String> {
        for below in &mut self.dependencies {
            below.import()?;
        }
        if self.metadata.dependencies.is_empty() {
            return Ok(());
        }
        let values = coalesce::merged(self)?;
        let imported = Map::new();
        for dependency in &self.metadata.dependencies {
            for import in &dependency.import_values {
                let (from, to) = match import {
                    Import::Export(name) => (format!("exports.{name}"), "."),
                    Import::Table { child, parent } => (child.clone(), parent.as_str()),
                };
                match table(&values, &format!("{}.{from}", dependency.name)) {
                    Some(found) => coalesce::merge_tables(&imported, &below_path(to, found)),
                    None => warn!("{}: no table {from} to import", dependency.name),
                }
            }
        }
        self.values = coalesce::copied(&values)?;
        coalesce::merge_tables(&self.values, &imported);
        Ok(())
    }
}

/// A version without a range to be in is in none.
pub(crate) fn is_in_range(range: &str, version: &str) -> bool {
    match (Constraint::parse(range), Version::parse(version)) {
        (Ok(range), Some(version)) => range.allows(&version),
        _ => false,
    }
}

/// On where any of its tags is, or none of them is off.
fn tags_allow(dependency: &Dependency, tags: &Map) -> bool {
    let set: Vec<bool> = dependency
        .tags
        .iter()
        .filter_map(|tag| match tags.get(tag) {
            Some(Value::Bool(value)) => Some(value),
            _ => None,
        })
        .collect();
    set.contains(&true) || !set.contains(&false)
}

/// The first path of the condition that leads to a bool.
fn condition(dependency: &Dependency, values: &Map, path: &str) -> Option<bool> {
    for condition in dependency.condition.trim().split(',').filter(|path| !path.is_empty()) {
        let path = format!("{path}{condition}");
        let (parent, key) = path.rsplit_once('.').unwrap_or(("", &path));
        let parent = if parent.is_empty() { Some(values.clone()) } else { table(values, parent) };
        match parent.and_then(|parent| parent.get(key)) {
            Some(Value::Bool(value)) => return Some(value),
            Some(Value::Map(_)) | None => (),
            Some(_) => warn!("{}: the condition {condition} is no bool", dependency.name),
        }
    }
    None
}

/// The map at a path of names with dots between.
pub(crate) fn table(values: &Map, path: &str) -> Option<Map> {
    path.split('.').try_fold(values.clone(), |map, name| map.map(name))
}

/// A map that holds another one at a path; `.` is the other itself.
fn below_path(path: &str, map: Map) -> Map {
    if path == "." {
        return map;
    }
    path.split('.').rev().fold(map, |inner, name| {
        let outer = Map::new();
        outer.set(name, Value::Map(inner));
        outer
    })
}
