//! `Chart.yaml`, and `requirements.yaml` of old charts.

use crate::functions::semver::Version;
use crate::value::format::quote;
use crate::value::{Entries, List, Map, MapKind, Value, number};

/// What a chart says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) api_version: String,
    pub(crate) app_version: String,
    pub(crate) kube_version: String,
    /// `application` or `library`.
    pub(crate) kind: String,
    home: String,
    description: String,
    icon: String,
    condition: String,
    tags: String,
    deprecated: bool,
    sources: Vec<String>,
    keywords: Vec<String>,
    /// Name, email, URL.
    maintainers: Vec<[String; 3]>,
    annotations: Option<Vec<(String, String)>>,
    pub(crate) dependencies: Vec<Dependency>,
}

/// A chart that the chart needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) version: String,
    repository: String,
    pub(crate) condition: String,
    pub(crate) tags: Vec<String>,
    pub(crate) enabled: bool,
    pub(crate) import_values: Vec<Import>,
    pub(crate) alias: String,
}

/// Values of a dependency that become the chart's own.
#[derive(Clone, Debug)]
pub(crate) enum Import {
    /// What stands there below `exports`.
    Export(String),
    /// From one place to another.
    Table { child: String, parent: String },
}

/// The scalar as the text that a string field takes it for.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Nil => Some(String::new()),
        Value::Text(text) => Some(sanitized(text)),
        Value::Bool(value) => Some(value.to_string()),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
            Some(number::float_to_int(*number).to_string())
        }
        Value::Float(number) => Some(number::general(*number)),
        _ => None,
    }
}

/// With blanks for all white space, and without what cannot be printed.
fn sanitized(text: &str) -> String {
    let kept = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    kept.filter(|c| *c == ' ' || !quote(c.to_string().as_bytes()).starts_with("\"\\x")).collect()
}

/// The fields of a map of which the types must fit.
struct Fields<'v>(&'v Map);

impl Fields<'_> {
    fn text(&self, key: &str) -> Result<Option<String>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(value) => match scalar_text(&value) {
                Some(text) => Ok(Some(text)),
                None => Err(format!("{key} is no string")),
            },
        }
    }

    fn list(&self, key: &str) -> Result<Option<Vec<Value>>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Nil) => Ok(Some(Vec::new())),
            Some(Value::List(list)) => Ok(Some(list.items().to_vec())),
            Some(_) => Err(format!("{key} is no list")),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<Vec<String>>, String> {
        let Some(items) = self.list(key)? else {
            return Ok(None);
        };
        let texts = items.iter().map(scalar_text).collect::<Option<Vec<_>>>();
        texts.map(Some).ok_or_else(|| format!("{key} is no list of strings"))
    }
}

fn map_of(value: &Value, what: &str) -> Result<Map, String> {
    match value {
        Value::Map(map) => Ok(map.clone()),
        _ => Err(format!("{what} is no map")),
    }
}

impl Metadata {
    /// Takes what a file says; what it does not speak of stays.
    pub(super) fn read(&mut self, value: &Value) -> Result<(), String> {
        if value.is_nil() {
            return Ok(());
        }
        let map = map_of(value, "the file")?;
        let fields = Fields(&map);
        let texts = [
            ("name", &mut self.name),
            ("version", &mut self.version),
            ("apiVersion", &mut self.api_version),
            ("appVersion", &mut self.app_version),
            ("kubeVersion", &mut self.kube_version),
            ("type", &mut self.kind),
            ("home", &mut self.home),
            ("description", &mut self.description),
            ("icon", &mut self.icon),
            ("condition", &mut self.condition),
            ("tags", &mut self.tags),
        ];
        for (key, slot) in texts {
            *slot = fields.text(key)?.unwrap_or(std::mem::take(slot));
        }
        match map.get("deprecated") {
            None | Some(Value::Nil) => (),
            Some(Value::Bool(value)) => self.deprecated = value,
            Some(_) => return Err("deprecated is no bool".into()),
        }
        for (key, slot) in [("sources", &mut self.sources), ("keywords", &mut self.keywords)] {
            *slot = fields.texts(key)?.unwrap_or(std::mem::take(slot));
        }
        if let Some(items) = fields.list("maintainers")? {
            self.maintainers = items.iter().map(maintainer).collect::<Result<_, _>>()?;
        }
        if let Some(value) = map.get("annotations").filter(|value| !value.is_nil()) {
            self.annotations = Some(annotations(&map_of(&value, "annotations")?)?);
        }
        if let Some(items) = fields.list("dependencies")? {
            self.dependencies = items.iter().map(Dependency::read).collect::<Result<_, _>>()?;
        }
        if self.api_version.is_empty() {
            self.api_version = "v1".into();
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("chart.metadata.name is required".into());
        }
        if matches!(self.name.as_str(), "." | "..") || self.name.contains('/') {
            return Err(format!("chart.metadata.name {:?} is invalid", self.name));
        }
        if self.version.is_empty() {
            return Err("chart.metadata.version is required".into());
        }
        if Version::parse(&self.version).is_none() {
            return Err(format!("chart.metadata.version {:?} is invalid", self.version));
        }
        if !matches!(self.kind.as_str(), "" | "application" | "library") {
            return Err("chart.metadata.type must be application or library".into());
        }
        let mut names = std::collections::HashSet::new();
        for dependency in &self.dependencies {
            dependency.check()?;
            let name =
                if dependency.alias.is_empty() { &dependency.name } else { &dependency.alias };
            if !names.insert(name) {
                return Err(format!("more than one dependency with name or alias {name:?}"));
            }
        }
        Ok(())
    }

    pub(crate) fn is_library(&self) -> bool {
        self.kind.eq_ignore_ascii_case("library")
    }

    /// What `.Chart` is.
    pub(crate) fn object(&self, is_root: bool) -> Value {
        let texts =
            |items: &[String]| Value::list(items.iter().map(|item| item.as_str().into()).collect());
        let maintainers = self.maintainers.iter().map(|[name, email, url]| {
            let entries = [("Name", name), ("Email", email), ("URL", url)];
            map(entries.map(|(key, text)| (key, text.as_str().into())))
        });
        let annotations = match &self.annotations {
            Some(annotations) => {
                let entries = annotations.iter();
                let entries =
                    entries.map(|(key, text)| (key.as_str().into(), text.as_str().into()));
                Value::Map(Map::of(MapKind::Text, entries.collect::<Entries>()))
            }
            None => Value::Map(Map::of(MapKind::NilText, Entries::new())),
        };
        map([
            ("Name", self.name.as_str().into()),
            ("Home", self.home.as_str().into()),
            ("Sources", texts(&self.sources)),
            ("Version", self.version.as_str().into()),
            ("Description", self.description.as_str().into()),
            ("Keywords", texts(&self.keywords)),
            ("Maintainers", Value::list(maintainers.collect())),
            ("Icon", self.icon.as_str().into()),
            ("APIVersion", self.api_version.as_str().into()),
            ("Condition", self.condition.as_str().into()),
            ("Tags", self.tags.as_str().into()),
            ("AppVersion", self.app_version.as_str().into()),
            ("Deprecated", self.deprecated.into()),
            ("Annotations", annotations),
            ("KubeVersion", self.kube_version.as_str().into()),
            (
                "Dependencies",
                Value::list(self.dependencies.iter().map(Dependency::object).collect()),
            ),
            ("Type", self.kind.as_str().into()),
            ("IsRoot", is_root.into()),
        ])
    }
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.into_iter().map(|(key, value)| (key.into(), value));
    Value::Map(Map::from(entries.collect::<Entries>()))
}

fn maintainer(value: &Value) -> Result<[String; 3], String> {
    let map = map_of(value, "a maintainer")?;
    let fields = Fields(&map);
    let text = |key| fields.text(key).map(Option::unwrap_or_default);
    Ok([text("name")?, text("email")?, text("url")?])
}

fn annotations(map: &Map) -> Result<Vec<(String, String)>, String> {
    let pairs = map.snapshot().into_iter().map(|(key, value)| {
        let text = match &value {
            Value::Text(text) => Some(text.to_string()),
            other => scalar_text(other),
        };
        text.map(|text| (key.to_string(), text))
            .ok_or_else(|| format!("annotation {key} is no string"))
    });
    pairs.collect()
}

impl Dependency {
    fn read(value: &Value) -> Result<Dependency, String> {
        let map = map_of(value, "a dependency")?;
        let fields = Fields(&map);
        let text = |key| fields.text(key).map(Option::unwrap_or_default);
        let imports = fields.list("import-values")?.unwrap_or_default();
        let printed = |map: &Map, key: &str| match map.get(key) {
            Some(value) => scalar_text(&value).unwrap_or_default(),
            None => "<nil>".into(),
        };
        let imports = imports.iter().filter_map(|import| match import {
            Value::Text(name) => Some(Import::Export(name.to_string())),
            Value::Map(map) => {
                Some(Import::Table { child: printed(map, "child"), parent: printed(map, "parent") })
            }
            _ => None,
        });
        Ok(Dependency {
            name: text("name")?,
            version: text("version")?,
            repository: text("repository")?,
            condition: text("condition")?,
            tags: fields.texts("tags")?.unwrap_or_default(),
            enabled: matches!(map.get("enabled"), Some(Value::Bool(true))),
            import_values: imports.collect(),
            alias: text("alias")?,
        })
    }

    fn check(&self) -> Result<(), String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !self.alias.bytes().all(allowed) {
            let name = &self.name;
            return Err(format!("dependency {name:?} has disallowed characters in the alias"));
        }
        Ok(())
    }

    fn object(&self) -> Value {
        let imports = self.import_values.iter().map(|import| {
            let (child, parent) = match import {
                Import::Export(name) => (format!("exports.{name}"), "."),
                Import::Table { child, parent } => (child.clone(), parent.as_str()),
            };
            let entries = [("child".into(), child.into()), ("parent".into(), parent.into())];
            Value::Map(Map::of(MapKind::Text, Entries::from(entries)))
        });
        let tags = List::texts(&self.tags).items().to_vec();
        map([
            ("Name", self.name.as_str().into()),
            ("Version", self.version.as_str().into()),
            ("Repository", self.repository.as_str().into()),
            ("Condition", self.condition.as_str().into()),
            ("Tags", Value::list(tags)),
            ("Enabled", self.enabled.into()),
            ("ImportValues", Value::list(imports.collect())),
            ("Alias", self.alias.as_str().into()),
        ])
    }
}
