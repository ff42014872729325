//! `kfs collect`

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use kfs_builder::cluster::collect::{self, ChartSettings, Collection, Place, Scope, Skipped};
use kfs_builder::cluster::files::{Files, FilesError};
use kfs_fs::oci::store::TempDir;
use serde::Serialize;

use super::{Context, ListFormat, Out};
use crate::finding::FindArgs;
use crate::look::Look;
use crate::report::{Failure, talk};

/// List the container images that manifests, charts and lists name
///
/// From a build context or an image: what is below manifests/, charts/, images/shim/ and
/// application/apps/. From a Helm chart: what it renders to. From any other directory: all YAML
/// files. From a file: that file. References that were left out are told on standard error, with
/// the reason.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kfs collect .\n  kfs collect --format json my-cluster:v1")]
pub(crate) struct Args {
    /// A directory or file if there is one of this name, else an image
    #[arg(value_name = "DIR|FILE|IMAGE")]
    what: std::ffi::OsString,

    /// Leave out the images of this list, one a line
    #[arg(long, value_name = "FILE")]
    ignored_image_list: Option<PathBuf>,

    #[command(flatten)]
    charts: ChartArgs,

    #[command(flatten)]
    find: FindArgs,

    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: ListFormat,
}

/// Options of all commands that render charts.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ChartArgs {
    /// The Kubernetes version that charts are rendered for [default: that of Helm]
    #[arg(long, value_name = "VERSION")]
    kube_version: Option<String>,

    /// Values for a chart: the chart's name, =, a YAML file; only the file for all charts
    #[arg(long, value_name = "[CHART=]FILE")]
    values: Vec<String>,

    /// Values for a chart as of helm --set: the chart's name, :, and what is set; without a name
    /// for all charts
    #[arg(long, value_name = "[CHART:]KEY=VALUE")]
    set: Vec<String>,

    /// Render charts with this helm, not with the renderer that is built in
    #[arg(long, value_name = "PROGRAM")]
    helm: Option<PathBuf>,
}

#[derive(Serialize)]
struct Listed<'a> {
    image: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    archive: Option<&'a str>,
    places: Vec<&'a Place>,
}

#[derive(Serialize)]
struct All<'a> {
    images: Vec<Listed<'a>>,
    skipped: &'a BTreeSet<Skipped>,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let context = &context.finding(&args.find);
    let mut settings = args.charts.settings()?;
    let work = prepare(&mut settings, context)?;
    let mut collection = collect_from(&args.what, &settings, context)?;
    // From here on signals do what they always do.
    drop((settings, work));
    if let Some(list) = &args.ignored_image_list {
        let text = std::fs::read_to_string(list).map_err(|error| {
            Failure::new(format!("--ignored-image-list {}: {error}", list.display()))
        })?;
        let names: Vec<String> = collect::names(&text);
        collection.ignore(&names, &list.display().to_string());
    }
    if args.format == ListFormat::Json {
        let all = All { images: listed(&collection), skipped: &collection.skipped };
        return super::print_json(&all);
    }
    let mut out = Out::new();
    for image in listed(&collection) {
        writeln!(out, "{}", image.image)?;
    }
    out.finish()?;
    let guessed = guesses(&collection);
    if !context.quiet && !guessed.is_empty() {
        talk(&format!("guessed by their looks:{guessed}"));
    }
    if !context.quiet && !collection.skipped.is_empty() {
        talk(&left_out(&collection.skipped));
    }
    Ok(())
}

impl ChartArgs {
    /// What the options say of charts.
    pub(crate) fn settings(&self) -> Result<ChartSettings, Failure> {
        let mut settings = ChartSettings {
            kube_version: self.kube_version.clone(),
            helm: self.helm.clone(),
            ..ChartSettings::default()
        };
        for option in &self.values {
            let (chart, file) = option.split_once('=').unwrap_or(("", option));
            let failed =
                |error: &dyn std::fmt::Display| Failure::new(format!("--values {file}: {error}"));
            let text = std::fs::read(file).map_err(|error| failed(&error))?;
            let values = kfs_charts::parse_values(file, &text).map_err(|error| failed(&error))?;
            kfs_charts::merge_values(settings.of(chart), values);
        }
        for option in &self.set {
            let (chart, text) = match option.split_once(':') {
                Some((chart, text)) if !chart.contains('=') => (chart, text),
                _ => ("", option.as_str()),
            };
            kfs_charts::set_values(settings.of(chart), text, false)
                .map_err(|error| Failure::new(error.to_string()).code(crate::report::USAGE))?;
        }
        Ok(settings)
    }
}

/// Where charts are laid out for helm. They are gone when a signal has ended the search, and at the
/// next opening of the store if this process is killed.
fn prepare(settings: &mut ChartSettings, context: &Context) -> Result<Option<TempDir>, Failure> {
    if settings.helm.is_none() {
        return Ok(None);
    }
    // Before there are threads, which would be interrupted else.
    let hold = settings.interrupts.hold();
    hold.map_err(|error| Failure::new(format!("hold back signals: {error}")))?;
    // Who cannot write to the store may search all the same; the charts lie in the directory for
    // temporary files then.
    let work = context.store().ok().and_then(|store| store.temp_dir().ok());
    settings.work = work.as_ref().map(|work| work.path().to_owned());
    Ok(work)
}

/// From a path if it exists, else from an image.
fn collect_from(
    what: &OsStr,
    settings: &ChartSettings,
    context: &Context,
) -> Result<Collection, Failure> {
    let path = Path::new(what);
    if path.is_dir() {
        return Ok(from_directory(path, settings)?);
    }
    if path.exists() {
        return Ok(from_file(path, settings)?);
    }
    let source = what.to_str().ok_or_else(|| {
        Failure::new(format!(
            "{}: there is no such file, and no image is called so",
            path.display()
        ))
    })?;
    let look = Look::open(&source.parse()?, context)?;
    Ok(collect::collect(&Files::Image(&look.fs), Scope::ALL, settings)?)
}

/// A directory that has none of a cluster image's places is one of manifests itself.
fn from_directory(path: &Path, settings: &ChartSettings) -> Result<Collection, FilesError> {
    let files = Files::Directory(path);
    if collect::is_chart(&files, "")? {
        return collect::chart(&files, "", settings);
    }
    if collect::has_places(&files)? {
        return collect::collect(&files, Scope::ALL, settings);
    }
    let mut collection = Collection::default();
    collect::manifests(&files, "", &mut collection)?;
    Ok(collection)
}

/// A file that is no YAML by its name is a list.
fn from_file(path: &Path, settings: &ChartSettings) -> Result<Collection, FilesError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let files = Files::Directory(directory.unwrap_or(Path::new(".")));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if collect::is_chart(&files, &name)? {
        return collect::chart(&files, &name, settings);
    }
    let mut collection = Collection::default();
    if collect::is_manifest(&name) || name.ends_with(".json") {
        collect::manifest(&files, &name, &mut collection)?;
    } else {
        collect::list(&files, &name, &mut collection)?;
    }
    Ok(collection)
}

fn listed(collection: &Collection) -> Vec<Listed<'_>> {
    let images = collection.images.iter().map(|(image, places)| Listed {
        image: image.as_str(),
        archive: collection.archives.get(image).map(String::as_str),
        places: places.iter().collect(),
    });
    let archives =
        collection.archives.iter().filter(|(image, _)| !collection.images.contains_key(image));
    let archives = archives.map(|(image, archive)| Listed {
        image: image.as_str(),
        archive: Some(archive),
        places: Vec::new(),
    });
    images.chain(archives).collect()
}

/// A line for each image of which nothing but its look says that it is one; empty for none.
fn guesses(collection: &Collection) -> String {
    let guessed = collection.images.iter().filter(|(image, _)| collection.is_guessed(image));
    guessed.fold(String::new(), |mut text, (image, places)| {
        let place = places.first().expect("each image has a place");
        write!(text, "\n  {}: {image}", at(place)).expect("writing to a string does not fail");
        text
    })
}

/// A place, as it is told.
fn at(place: &Place) -> String {
    let line = place.line.map(|line| format!(":{line}")).unwrap_or_default();
    format!("{}{line}", place.file)
}

/// A line for each reference that was left out.
fn left_out(skipped: &BTreeSet<Skipped>) -> String {
    let mut text = "left out:".to_owned();
    for Skipped { text: name, place, reason } in skipped {
        write!(text, "\n  {}: {name:?}: {reason}", at(place))
            .expect("writing to a string does not fail");
    }
    text
}
