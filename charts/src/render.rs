//! A chart with values to the documents that `helm template` prints.
//!
//! Values are settled first, then all templates of all charts are parsed, then each is run, in
//! Helm's order: templates may change values that later ones see. Last, what they printed is cut
//! into documents and sorted. Nothing is looked up in a cluster, a file or the network.

mod capabilities;
mod files;
mod manifests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::SystemTime;

use crate::chart::coalesce::coalesce;
use crate::chart::dependencies::{Node, is_in_range, table};
use crate::chart::{Chart, schema};
use crate::functions::{Host, Time, base_name, clean_path};
use crate::template::{Limits, Set, Stop, run};
use crate::value::{Entries, Map, MapKind, Value};
use crate::{Error, json};
use capabilities::{Capabilities, KubeVersion};
use files::Files;

/// Templates call each other up to a thousand levels deep.
const STACK: usize = 512 << 20;

/// As Helm: the longest name of a release.
const MAX_RELEASE_NAME: usize = 53;

/// How a chart is rendered.
#[derive(Clone, Debug)]
pub struct Options {
    /// `.Release.Name`.
    pub release_name: String,
    /// `.Release.Namespace`.
    pub namespace: String,
    /// What is set over the chart's own values; an object.
    pub values: serde_json::Value,
    /// `.Capabilities.KubeVersion`; the default is that of Helm 4.3.
    pub kube_version: Option<String>,
    /// What `.Capabilities.APIVersions` has beside what Helm knows by itself.
    pub api_versions: Vec<String>,
    /// `.Release.IsUpgrade`, else `.Release.IsInstall`.
    pub is_upgrade: bool,
    /// Whether the files in `crds/` are documents too.
    pub include_crds: bool,
    /// Whether values are rendered that the chart's schema does not allow.
    pub skip_schema: bool,
    /// Whether a chart is rendered that lacks dependencies or is for another version of Kubernetes.
    pub skip_checks: bool,
    /// What `now` is; the default is the time of the call.
    pub now: Option<SystemTime>,
    /// With the same seed random functions give the same; the default differs each time.
    pub seed: Option<[u8; 32]>,
    /// What the templates may use.
    pub limits: Limits,
    /// Ends the rendering early, with an error.
    pub stop: Stop,
}

impl Default for Options {
    /// As `helm template release-name CHART`.
    fn default() -> Options {
        Options {
            release_name: "release-name".into(),
            namespace: "default".into(),
            values: serde_json::Value::Object(serde_json::Map::new()),
            kube_version: None,
            api_versions: Vec::new(),
            is_upgrade: false,
            include_crds: false,
            skip_schema: false,
            skip_checks: false,
            now: None,
            seed: None,
            limits: Limits::default(),
            stop: Stop::default(),
        }
    }
}

/// A document that a chart gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The template that it comes from, below the chart's parent: `chart/templates/x.yaml`.
    pub source: String,
    /// The document's YAML, without a separator.
    pub text: String,
    /// What Helm does with it.
    pub role: Role,
}

/// What Helm does with a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A file of `crds/`, which may hold several documents.
    Crd,
    /// Installs it.
    Manifest,
    /// Runs it on these events: `pre-install`, `test`, ...
    Hook(Vec<String>),
}

/// The documents of a chart in the order in which Helm prints them: definitions of resources if
/// asked for, manifests by kind, and hooks.
///
/// # Errors
///
/// If the chart is a library, lacks a dependency, or is for another version of Kubernetes; if its
/// schema does not allow the values; if a template fails or uses more than it may; if what a
/// template printed is no YAML.
pub fn render(chart: &Chart, options: &Options) -> Result<Vec<Rendered>, Error> {
    on_big_stack(|| render_here(chart, options))
}

/// What `helm template` writes for these documents.
pub fn to_text(documents: &[Rendered]) -> String {
    let mut manifests = String::new();
    let mut hooks = String::new();
    for document in documents {
        let out = match document.role {
            Role::Crd | Role::Manifest => &mut manifests,
            Role::Hook(_) => &mut hooks,
        };
        out.push_str(&format!("---\n# Source: {}\n{}\n", document.source, document.text));
    }
    format!("{}\n{hooks}", manifests.trim())
}

/// Runs a text as a template with the same functions; `data` is its dot, and `name` what errors
/// call it. What is missing in `data` prints as `<no value>`, as Go prints it.
///
/// # Errors
///
/// If the template cannot be parsed, fails, or uses more than `limits`.
pub fn render_text(
    name: &str,
    text: &str,
    data: &serde_json::Value,
    limits: &Limits,
) -> Result<Vec<u8>, Error> {
    on_big_stack(|| {
        let now = Time::from(SystemTime::now());
        let host = Host::new(limits.clone(), now, new_seed(), Stop::default());
        let set = Rc::new(Set::default());
        set.parse(name, text)?;
        Ok(run::run(&host, &set, name, json::from_serde(data))?)
    })
}

fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("charts".into()).stack_size(STACK);
        match thread.spawn_scoped(scope, work) {
            Ok(thread) => thread.join().unwrap_or(Err(Error::Thread)),
            Err(source) => Err(Error::Io { path: "a thread to render in".into(), source }),
        }
    })
}

/// Not the same twice: the keys of hash maps come from the system's random numbers.
fn new_seed() -> [u8; 32] {
    use std::hash::{BuildHasher, RandomState};
    let mut seed = [0; 32];
    for part in seed.chunks_mut(8) {
        part.copy_from_slice(&RandomState::new().hash_one(0).to_le_bytes());
    }
    seed
}

fn render_here(chart: &Chart, options: &Options) -> Result<Vec<Rendered>, Error> {
    check(chart, options)?;
    let kube_version = match &options.kube_version {
        Some(text) => KubeVersion::parse(text).ok_or_else(|| Error::Option {
            option: "kube version",
            message: format!("{text:?} is not a version"),
        })?,
        None => KubeVersion::default(),
    };
    if let Some(constraint) = chart.kube_version()
        && !options.skip_checks
        && !is_in_range(constraint, &kube_version.normalized)
    {
        return Err(Error::KubeVersion {
            chart: chart.name().into(),
            constraint: constraint.into(),
            version: kube_version.version.clone(),
        });
    }
    let invalid = |message| Error::Invalid { file: chart.name().into(), message };
    let Value::Map(given) = json::from_serde(&options.values) else {
        return Err(Error::Option { option: "values", message: "they are not a map".into() });
    };
    let mut root = Node::new(chart);
    root.settle(&given).map_err(invalid)?;
    let values = coalesce(&root, &given).map_err(invalid)?;
    if !options.skip_schema {
        check_schemas(&root, &values, chart.name())?;
    }
    let texts = run_templates(&root, values, kube_version, options)?;
    let mut documents = Vec::new();
    if options.include_crds {
        definitions(&root, chart.name(), &mut documents);
    }
    documents.extend(manifests::sorted(texts)?);
    Ok(documents)
}

/// What can be said without looking at values.
fn check(chart: &Chart, options: &Options) -> Result<(), Error> {
    let name = &options.release_name;
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > MAX_RELEASE_NAME || !name.split('.').all(is_label) {
        let message = format!("{name:?} is not of at most {MAX_RELEASE_NAME} characters a-z0-9.-");
        return Err(Error::Option { option: "release name", message });
    }
    if chart.metadata.is_library() {
        return Err(Error::Library { chart: chart.name().into() });
    }
    let present = |name: &str| chart.dependencies.iter().any(|below| below.name() == name);
    let wanted = chart.metadata.dependencies.iter().map(|wanted| &wanted.name);
    let missing: Vec<String> = wanted.filter(|name| !present(name)).cloned().collect();
    if missing.is_empty() || options.skip_checks {
        return Ok(());
    }
    Err(Error::MissingDependencies { chart: chart.name().into(), missing })
}

fn check_schemas(node: &Node<'_>, values: &Map, path: &str) -> Result<(), Error> {
    if let Some(schema) = &node.chart.schema {
        let invalid = |message: String| Error::Invalid {
            file: format!("{path}/values.schema.json"),
            message,
        };
        let limit = Limits::default().text;
        let json = json::write(&Value::Map(values.clone()), json::Style::Raw, limit)
            .ok_or_else(|| invalid("the values are too big".into()))?;
        let values = serde_json::from_str(&json).map_err(|error| invalid(error.to_string()))?;
        let faults = schema::faults(schema, &values).map_err(invalid)?;
        if !faults.is_empty() {
            return Err(Error::Schema { chart: path.into(), faults });
        }
    }
    for below in &node.dependencies {
        let name = &below.metadata.name;
        if let Some(values) = values.map(name) {
            check_schemas(below, &values, &format!("{path}/charts/{name}"))?;
        }
    }
    Ok(())
}

/// What is in `crds/` of a chart and of those in it.
fn definitions(node: &Node<'_>, path: &str, documents: &mut Vec<Rendered>) {
    for file in &node.chart.files {
        let is_manifest = [".yaml", ".yml", ".json"].iter().any(|end| file.name.ends_with(end));
        if file.name.starts_with("crds/") && is_manifest {
            documents.push(Rendered {
                source: format!("{path}/{}", file.name),
                text: String::from_utf8_lossy(&file.data).into_owned(),
                role: Role::Crd,
            });
        }
    }
    for below in &node.dependencies {
        definitions(below, &format!("{path}/charts/{}", below.metadata.name), documents);
    }
}

/// A template with what it is run with.
struct Unit<'c> {
    text: &'c [u8],
    data: Map,
    base: String,
}

/// What each template printed, by its path; partial ones print nothing of their own.
fn run_templates(
    root: &Node<'_>,
    values: Map,
    kube_version: KubeVersion,
    options: &Options,
) -> Result<Vec<(String, String)>, Error> {
    let top = Map::new();
    top.set("Values", Value::Map(values.retyped(MapKind::Values)));
    top.set("Release", release(options));
    let capabilities = Capabilities::new(kube_version, &options.api_versions);
    top.set("Capabilities", Value::Object(Rc::new(capabilities)));
    let mut units = BTreeMap::new();
    collect(root, &top, None, &mut units);

    let now = options.now.unwrap_or_else(SystemTime::now);
    let seed = options.seed.unwrap_or_else(new_seed);
    let host = Host::new(options.limits.clone(), Time::from(now), seed, options.stop.clone());
    let mut paths: Vec<&String> = units.keys().collect();
    // Deeper ones first, so that those of the chart itself replace what has the same name.
    paths.sort_by_key(|path| std::cmp::Reverse((path.matches('/').count(), *path)));
    let set = Rc::new(Set::default());
    for path in &paths {
        set.parse(path, &String::from_utf8_lossy(units[*path].text))?;
    }
    let mut texts = Vec::new();
    for path in paths {
        if base_name(path).starts_with('_') {
            continue;
        }
        let unit = &units[path];
        let entries =
            [("Name".into(), path.as_str().into()), ("BasePath".into(), unit.base.as_str().into())];
        let template = Map::of(MapKind::Values, Entries::from(entries));
        unit.data.set("Template", Value::Map(template));
        let data = Value::Map(unit.data.retyped(MapKind::Values));
        let bytes = run::render(&host, &set, path, data)?;
        texts.push((path.clone(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    Ok(texts)
}

fn release(options: &Options) -> Value {
    let entries = [
        ("Name", options.release_name.as_str().into()),
        ("Namespace", options.namespace.as_str().into()),
        ("IsUpgrade", options.is_upgrade.into()),
        ("IsInstall", (!options.is_upgrade).into()),
        ("Revision", Value::int(1)),
        ("Service", "Helm".into()),
    ];
    let entries = entries.into_iter().map(|(key, value)| (key.into(), value));
    Value::Map(Map::from(entries.collect::<Entries>()))
}

/// Gathers the templates of a chart and of those in it; gives what the chart's run with.
///
/// `path` is that of the chart that it is in.
fn collect<'c>(
    node: &Node<'c>,
    outer: &Map,
    path: Option<&str>,
    units: &mut BTreeMap<String, Unit<'c>>,
) -> Map {
    let name = &node.metadata.name;
    let own_path = match path {
        Some(path) => format!("{path}/charts/{name}"),
        None => name.clone(),
    };
    let values = match path {
        Some(_) => table(outer, &format!("Values.{name}")),
        None => outer.map("Values"),
    };
    let values = values.unwrap_or_else(Map::new).retyped(MapKind::Values);
    let below = Map::new();
    let data = Map::new();
    let entries = [
        ("Chart", node.metadata.object(path.is_none())),
        ("Files", Value::Object(Rc::new(Files::new(&node.chart.files)))),
        ("Release", outer.get("Release").unwrap_or_default()),
        ("Capabilities", outer.get("Capabilities").unwrap_or_default()),
        ("Values", Value::Map(values)),
        ("Subcharts", Value::Map(below.clone())),
    ];
    for (key, value) in entries {
        data.set(key, value);
    }
    for node in &node.dependencies {
        let inner = collect(node, &data, Some(&own_path), units);
        below.set(node.metadata.name.as_str(), Value::Map(inner));
    }
    for file in &node.chart.templates {
        if node.metadata.is_library() && !base_name(&file.name).starts_with('_') {
            continue;
        }
        let base = format!("{own_path}/templates");
        let unit = Unit { text: &file.data, data: data.clone(), base };
        units.insert(clean_path(&format!("{own_path}/{}", file.name)), unit);
    }
    data
}
