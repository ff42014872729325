//! A chart as it lies on disk or in an archive.
//!
//! Loading reads all of it into memory, within Helm's own limits. The invariant: no name of a file
//! leads out of the chart, and nothing outside of the given root was read. What a chart means with
//! given values (which dependencies are on, what their values are) is for `dependencies` and
//! `coalesce`.

mod archive;
pub(crate) mod coalesce;
pub(crate) mod dependencies;
mod directory;
mod ignore;
pub(crate) mod metadata;
pub(crate) mod pattern;
pub(crate) mod schema;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::Error;
use crate::value::Value;
use crate::{json, yaml};
use metadata::Metadata;

/// As Helm: bytes of one file of a chart.
pub(crate) const MAX_FILE: u64 = 5 << 20;

/// As Helm: bytes of all files of a chart.
pub(crate) const MAX_CHART: u64 = 100 << 20;

/// Members of archives, headers and directories too.
const MAX_MEMBERS: usize = 50_000;

/// Charts within charts.
const MAX_DEPTH: usize = 32;

/// A loaded chart with the charts in its `charts/`.
#[derive(Clone, Debug)]
pub struct Chart {
    pub(crate) metadata: Metadata,
    pub(crate) values: serde_json::Value,
    pub(crate) schema: Option<Arc<[u8]>>,
    pub(crate) templates: Vec<File>,
    /// What is neither a template nor read by Helm itself.
    pub(crate) files: Vec<File>,
    pub(crate) dependencies: Vec<Chart>,
}

/// A file of a chart.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// Below the chart.
    pub(crate) name: String,
    pub(crate) data: Arc<[u8]>,
}

/// What is left of what a chart may take with all charts in it, in archives within archives too.
struct Budget {
    /// What errors call the chart.
    chart: String,
    /// Bytes of files.
    bytes: u64,
    /// Bytes of what archives unpack to: headers count, and what is skipped.
    unpacked: u64,
    /// Members of archives.
    members: usize,
}

impl Budget {
    fn new(chart: &str) -> Budget {
        let (bytes, unpacked) = (MAX_CHART, 2 * MAX_CHART);
        Budget { chart: chart.into(), bytes, unpacked, members: MAX_MEMBERS }
    }

    /// Takes a file of so many bytes; `name` is what errors call it.
    fn file(&mut self, name: impl FnOnce() -> String, size: u64) -> Result<(), Error> {
        if size > MAX_FILE {
            return Err(Error::TooBig { name: name(), limit: MAX_FILE });
        }
        let left = self.bytes.checked_sub(size);
        let too_big = || Error::TooBig { name: self.chart.clone(), limit: MAX_CHART };
        self.bytes = left.ok_or_else(too_big)?;
        Ok(())
    }
}

impl Chart {
    /// Loads the chart in a directory or in a `.tgz` archive.
    ///
    /// Symbolic links in a directory may lead to other places in it.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is no chart, or is bigger than Helm takes.
    pub fn load(path: &Path) -> Result<Chart, Error> {
        Chart::load_within(path, path)
    }

    /// As `load`, but links may lead to anywhere in `root`: charts of one repository often share
    /// files that way.
    ///
    /// # Errors
    ///
    /// As `load`; and if a link leads out of `root`.
    pub fn load_within(path: &Path, root: &Path) -> Result<Chart, Error> {
        let io = |source| Error::Io { path: path.into(), source };
        let name = path.display().to_string();
        if std::fs::metadata(path).map_err(io)?.is_dir() {
            let name = path.file_name().map_or(name, |name| name.to_string_lossy().into_owned());
            let mut budget = Budget::new(&path.display().to_string());
            return from_files(&name, directory::files(path, root, &mut budget)?, 0, &mut budget);
        }
        let file = std::fs::File::open(path).map_err(io)?;
        Chart::from_archive(&name, std::io::BufReader::new(file))
    }

    /// Loads a chart from an archive that is read elsewhere; `place` is what errors call it.
    ///
    /// # Errors
    ///
    /// As `load`.
    pub fn from_archive(place: &str, stored: impl std::io::BufRead) -> Result<Chart, Error> {
        let mut budget = Budget::new(place);
        from_files(place, archive::files(place, stored, &mut budget)?, 0, &mut budget)
    }

    /// Makes a chart of the files of its directory, given by their names below it and their sizes
    /// in bytes. `read` gives what is in one; it is asked only for those that `.helmignore`, which
    /// is one of them, leaves. `place` is what errors call the chart.
    ///
    /// # Errors
    ///
    /// As `load`; if a name leads out of the chart; and if `read` fails.
    pub fn from_files<E: From<Error>>(
        place: &str,
        files: impl IntoIterator<Item = (String, u64)>,
        read: impl FnMut(&str) -> Result<Vec<u8>, E>,
    ) -> Result<Chart, E> {
        let mut budget = Budget::new(place);
        let files = directory::given(place, files, read, &mut budget)?;
        Ok(from_files(place, files, 0, &mut budget)?)
    }

    /// The chart's name, as `Chart.yaml` has it.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The chart's version.
    pub fn version(&self) -> &str {
        &self.metadata.version
    }

    /// The version of what the chart installs, if it says so.
    pub fn app_version(&self) -> Option<&str> {
        Some(self.metadata.app_version.as_str()).filter(|version| !version.is_empty())
    }

    /// The range of Kubernetes versions that the chart is for, if it says so.
    pub fn kube_version(&self) -> Option<&str> {
        Some(self.metadata.kube_version.as_str()).filter(|version| !version.is_empty())
    }
}

/// Makes a chart of its files; `place` is what errors call it.
fn from_files(
    place: &str,
    files: Vec<File>,
    depth: usize,
    budget: &mut Budget,
) -> Result<Chart, Error> {
    if depth > MAX_DEPTH {
        let message = format!("more than {MAX_DEPTH} charts within one another");
        return Err(Error::Invalid { file: place.into(), message });
    }
    let invalid =
        |file: &str, message: String| Error::Invalid { file: format!("{place}/{file}"), message };
    let parsed = |file: &File| {
        let text = String::from_utf8_lossy(&file.data);
        yaml::read(&text).map_err(|message| invalid(&file.name, message))
    };
    let by_name = |name: &str| files.iter().find(|file| file.name == name);
    let Some(file) = by_name("Chart.yaml") else {
        return Err(invalid("Chart.yaml", "file is missing".into()));
    };
    let mut metadata = Metadata::default();
    metadata.read(&parsed(file)?).map_err(|message| invalid(&file.name, message))?;
    if let Some(file) = by_name("requirements.yaml") {
        metadata.read(&parsed(file)?).map_err(|message| invalid(&file.name, message))?;
    }
    metadata.check().map_err(|message| invalid("Chart.yaml", message))?;

    let mut chart = Chart {
        metadata,
        values: serde_json::Value::Object(serde_json::Map::new()),
        schema: None,
        templates: Vec::new(),
        files: Vec::new(),
        dependencies: Vec::new(),
    };
    let mut below: BTreeMap<String, Vec<File>> = BTreeMap::new();
    for file in files {
        if let Some(name) =
            file.name.strip_prefix("charts/").filter(|_| !file.name.ends_with(".prov"))
        {
            let chart = name.split('/').next().unwrap_or(name).to_owned();
            let file = File { name: name.into(), data: file.data };
            below.entry(chart).or_default().push(file);
            continue;
        }
        chart.take(file).map_err(|(file, message)| invalid(&file, message))?;
    }
    for (name, files) in below {
        if let Some(dependency) = dependency(place, &name, files, depth + 1, budget)? {
            chart.dependencies.push(dependency);
        }
    }
    Ok(chart)
}

/// A chart below `charts/`; `None` for what Helm does not look at.
fn dependency(
    place: &str,
    name: &str,
    files: Vec<File>,
    depth: usize,
    budget: &mut Budget,
) -> Result<Option<Chart>, Error> {
    if name.starts_with(['_', '.']) {
        return Ok(None);
    }
    let place = format!("{place}/charts/{name}");
    if name.ends_with(".tgz") {
        let Some(file) = files.iter().find(|file| file.name == name) else {
            let message = "a directory with the name of an archive".into();
            return Err(Error::Invalid { file: place, message });
        };
        let files = archive::files(&place, &*file.data, budget)?;
        return from_files(&place, files, depth, budget).map(Some);
    }
    let below = files.into_iter().filter_map(|file| {
        let name = file.name.split_once('/')?.1.to_owned();
        Some(File { name, data: file.data })
    });
    let below: Vec<File> = below.collect();
    // A file that lies in charts/ itself.
    if below.is_empty() {
        return Ok(None);
    }
    from_files(&place, below, depth, budget).map(Some)
}

impl Chart {
    /// Puts a file where it belongs; an error names the file.
    fn take(&mut self, file: File) -> Result<(), (String, String)> {
        let is_first = self.metadata.api_version == "v1";
        match file.name.as_str() {
            "Chart.yaml" | "Chart.lock" => (),
            "values.yaml" => {
                self.values = values(&file.data).map_err(|message| (file.name, message))?;
            }
            "values.schema.json" => self.schema = Some(file.data),
            "requirements.yaml" | "requirements.lock" if !is_first => (),
            name if name.starts_with("templates/") => self.templates.push(file),
            _ => self.files.push(file),
        }
        Ok(())
    }
}

/// The values of a file: its documents merged, later ones over earlier ones.
pub(crate) fn values(data: &[u8]) -> Result<serde_json::Value, String> {
    let text = String::from_utf8_lossy(data);
    let mut all = serde_json::Map::new();
    for document in documents(&text) {
        match yaml::read(document)? {
            Value::Nil => (),
            value @ Value::Map(_) => {
                let limit = crate::template::Limits::default().text;
                let json = json::write(&value, json::Style::Raw, limit).ok_or("too big")?;
                let parsed: serde_json::Value =
                    serde_json::from_str(&json).map_err(|error| error.to_string())?;
                if let serde_json::Value::Object(document) = parsed {
                    merge(&mut all, document);
                }
            }
            _ => return Err("the values are not a map".into()),
        }
    }
    Ok(serde_json::Value::Object(all))
}

/// The texts between lines of three dashes.
fn documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        let ends = line.strip_prefix("---").map(str::trim_start);
        if ends.is_some_and(|rest| rest.is_empty() || rest.starts_with('#')) {
            documents.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    documents
}

type Object = serde_json::Map<String, serde_json::Value>;

pub(crate) fn merge(target: &mut Object, source: Object) {
    for (key, value) in source {
        match (target.get_mut(&key), value) {
            (Some(serde_json::Value::Object(before)), serde_json::Value::Object(value)) => {
                merge(before, value);
            }
            (_, value) => {
                target.insert(key, value);
            }
        }
    }
}
