//! References in what Helm charts render to.
//!
//! A chart is rendered as `helm template` would, or by it (see [`helm`]), with its own values, what
//! the files beside it say (`<chart>.values.yaml`, as Sealos has it) and what the caller sets. A
//! chart that does not render is told of; its templates are then searched by their lines, which is
//! better than nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kfs_charts::{Chart, Options, Stop, merge_values, parse_values};
use kfs_fs::error::PathError;
use serde_json::{Map, Value};

use super::{Collection, Found, Kind, Place, Skipped, helm, lines, rendered};
use crate::cluster::files::{Files, FilesError, join};
use crate::interrupt::Interrupts;

/// The file that makes a directory a chart.
const CHART: &str = "Chart.yaml";

/// With what charts are rendered.
#[derive(Clone, Debug, Default)]
pub struct ChartSettings {
    /// `.Capabilities.KubeVersion`; the default is Helm's.
    pub kube_version: Option<String>,
    /// Values by the name of the chart; those under the empty name are for all.
    pub values: BTreeMap<String, Value>,
    /// The `helm` that renders charts, a path or a name in `PATH`; none for the renderer that is
    /// built in.
    pub helm: Option<PathBuf>,
    /// The directory in which charts are laid out for `helm`; none for that for temporary files.
    pub work: Option<PathBuf>,
    /// Ends the search when a signal has come.
    pub interrupts: Arc<Interrupts>,
}

impl ChartSettings {
    /// The values for a chart, empty name for all, to be added to.
    pub fn of(&mut self, chart: &str) -> &mut Value {
        self.values.entry(chart.to_owned()).or_insert_with(|| Value::Object(Map::new()))
    }
}

/// Collects from all charts below a directory, as far as they are not parts of others.
pub(super) fn below(
    files: &Files<'_>,
    directory: &str,
    settings: &ChartSettings,
    collection: &mut Collection,
) -> Result<(), FilesError> {
    for place in places(files, directory)? {
        chart(files, &place, settings, collection)?;
    }
    Ok(())
}

/// The charts below a directory, itself among them, as far as they are not parts of others:
/// directories and archives.
pub(super) fn places(files: &Files<'_>, directory: &str) -> Result<Vec<String>, FilesError> {
    let mut places = Vec::new();
    files.each_directory(directory, &mut |directory, names| {
        if names.iter().any(|name| name == CHART) {
            places.push(directory.to_owned());
            return Ok(false);
        }
        let archives = names.iter().filter(|name| is_archive(name));
        places.extend(archives.map(|name| join(directory, name)));
        Ok(true)
    })?;
    Ok(places)
}

/// Whether this directory or archive is a chart, as far as can be told from outside.
pub(super) fn is_chart(files: &Files<'_>, place: &str) -> Result<bool, FilesError> {
    Ok(is_archive(place) || files.is_file(&join(place, CHART))?)
}

/// Collects from one chart: a directory, or an archive.
pub(super) fn chart(
    files: &Files<'_>,
    place: &str,
    settings: &ChartSettings,
    collection: &mut Collection,
) -> Result<(), FilesError> {
    settings.interrupts.check()?;
    let outcome = match &settings.helm {
        None => load(files, place, &mut |_, _| Ok(()))
            .and_then(|chart| render(files, place, &chart, settings, collection)),
        Some(program) => by_helm(files, place, program, settings, collection),
    };
    settings.interrupts.check()?;
    if let Err(error) = outcome {
        let error = error.of_chart()?;
        let place_of =
            Place { file: place.to_owned(), line: None, kind: Kind::Chart, guessed: false };
        let reason = format!("the chart cannot be rendered: {error}");
        let text = last(place).to_owned();
        collection.skipped.insert(Skipped { text, place: place_of, reason });
        by_lines(files, place, collection)?;
    }
    Ok(())
}

/// Why a chart is not rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unrendered {
    #[error(transparent)]
    Chart(#[from] kfs_charts::Error),
    #[error(transparent)]
    Files(#[from] FilesError),
    /// What helm says.
    #[error("helm template: {0}")]
    Helm(String),
}

impl From<PathError> for Unrendered {
    fn from(error: PathError) -> Self {
        Self::Files(error.into())
    }
}

impl Unrendered {
    /// What is wrong with the chart, if it is that and not that files cannot be searched.
    fn of_chart(self) -> Result<String, FilesError> {
        match self {
            Self::Files(error) if !matches!(error, FilesError::TooLarge { .. }) => Err(error),
            told @ (Self::Files(_) | Self::Chart(_) | Self::Helm(_)) => Ok(told.to_string()),
        }
    }
}

/// The values that a file sets, none if it is not there.
fn values_of(files: &Files<'_>, file: &str) -> Result<Value, Unrendered> {
    Ok(match files.bytes(file)? {
        Some(text) => parse_values(file, &text)?,
        None => Value::Object(Map::new()),
    })
}

/// Is given all that is read of a chart: the files of a directory by their names below it, or an
/// archive by its own name.
type Take<'t> = dyn FnMut(&str, &[u8]) -> Result<(), FilesError> + 't;

/// Loads a chart.
fn load(files: &Files<'_>, place: &str, take: &mut Take<'_>) -> Result<Chart, Unrendered> {
    if is_archive(place) {
        let archive = files.bytes(place)?.unwrap_or_default();
        take(last(place), &archive)?;
        return Ok(Chart::from_archive(place, &archive[..])?);
    }
    let mut sizes = Vec::new();
    for file in files.below(place)? {
        let name = file.strip_prefix(place).unwrap_or(&file).trim_start_matches('/').to_owned();
        sizes.push((name, files.size(&file)?));
    }
    Chart::from_files(place, sizes, |name| {
        let data = files.bytes(&join(place, name))?.unwrap_or_default();
        take(name, &data)?;
        Ok(data)
    })
}

/// How a chart is rendered.
fn options(
    files: &Files<'_>,
    place: &str,
    chart: &Chart,
    settings: &ChartSettings,
    collection: &mut Collection,
) -> Result<Options, FilesError> {
    let beside = place.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut values = Value::Object(Map::new());
    let override_file = join(beside, &format!("{}.values.yaml", chart.name()));
    match values_of(files, &override_file) {
        Ok(beside) => merge_values(&mut values, beside),
        Err(error) => {
            let error = error.of_chart()?;
            let mut found = Found { file: &override_file, kind: Kind::Chart, collection };
            found.skip(chart.name(), None, &format!("its values cannot be read: {error}"));
        }
    }
    for name in ["", chart.name()] {
        if let Some(set) = settings.values.get(name) {
            merge_values(&mut values, set.clone());
        }
    }
    Ok(Options {
        values,
        // Some charts do not want to be installed in `default`.
        namespace: chart.name().to_owned(),
        kube_version: settings.kube_version.clone(),
        include_crds: true,
        stop: Stop::when({
            let interrupts = settings.interrupts.clone();
            move || interrupts.check().is_err()
        }),
        ..Options::default()
    })
}

fn render(
    files: &Files<'_>,
    place: &str,
    chart: &Chart,
    settings: &ChartSettings,
    collection: &mut Collection,
) -> Result<(), Unrendered> {
    let mut options = options(files, place, chart, settings, collection)?;
    let mut documents = kfs_charts::render(chart, &options);
    if let Err(error) = &documents
        && is_check(error)
    {
        // What it would run is known all the same; that something is amiss is told.
        let mut found = Found { file: place, kind: Kind::Chart, collection };
        found.skip(chart.name(), None, &format!("rendered although {error}"));
        (options.skip_checks, options.skip_schema) = (true, true);
        documents = kfs_charts::render(chart, &options);
    }
    for document in documents? {
        rendered(&format!("{place}: {}", document.source), &document.text, collection);
    }
    Ok(())
}

/// Has helm render a chart.
fn by_helm(
    files: &Files<'_>,
    place: &str,
    program: &Path,
    settings: &ChartSettings,
    collection: &mut Collection,
) -> Result<(), Unrendered> {
    let run = helm::Run::new(program, settings.work.as_deref(), &settings.interrupts)?;
    let name = if is_archive(place) { last(place) } else { "" };
    let chart = load(files, place, &mut |name, data| run.put(name, data))?;
    let options = options(files, place, &chart, settings, collection)?;
    for (source, text) in run.documents(name, &options)? {
        rendered(&format!("{place}: {source}"), &text, collection);
    }
    Ok(())
}

/// Whether a chart only does not pass a check, and can be rendered without it.
fn is_check(error: &kfs_charts::Error) -> bool {
    use kfs_charts::Error;
    matches!(
        error,
        Error::MissingDependencies { .. } | Error::KubeVersion { .. } | Error::Schema { .. }
    )
}

/// The templates of a chart that is a directory, by their lines.
fn by_lines(files: &Files<'_>, place: &str, collection: &mut Collection) -> Result<(), FilesError> {
    for file in files.below(&join(place, "templates"))? {
        let mut found = Found { file: &file, kind: Kind::Chart, collection };
        files.for_each_line(&file, &mut |number, line| lines::line(number, line, &mut found))?;
    }
    Ok(())
}

/// The last part of a name.
fn last(place: &str) -> &str {
    place.rsplit('/').next().unwrap_or(place)
}

fn is_archive(name: &str) -> bool {
    name.ends_with(".tgz") || name.ends_with(".tar.gz")
}
