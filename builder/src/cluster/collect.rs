//! Which container images the manifests, charts and lists of a cluster image name.
//!
//! Sealer and Sealos look into some places, by lines of text, and keep quiet about what they could
//! not read. This looks into all of their places, reads YAML as YAML and templates by their lines,
//! and tells of each reference that it left out where it stands and why.
//!
//! | place | what is in it |
//! |---|---|
//! | `manifests/**` | YAML of every kind, `.tmpl` included; `imageList` |
//! | `charts/**` | Helm charts, directories and archives; `<chart>.values.yaml` beside them |
//! | `images/shim/**` | lists, one reference a line |
//! | `images/skopeo/tar.txt` | archives that come with the image: `docker-archive:FILE@NAME` |
//! | `application/apps/*/**` | charts as in `charts`, all else as in `manifests` |
//! | `imageListWithAuth.yaml` | lists with credentials (see [`auth`]) |
//!
//! Nothing is fetched here, and nothing outside the files that are given is read.

pub mod auth;
mod charts;
mod helm;
mod lines;
mod lists;
pub mod reference;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::files::{Files, FilesError};
pub use charts::ChartSettings;
pub use reference::ImageName;

/// A YAML file larger than this is read by its lines alone, in bytes: a decoded document takes
/// ten times its size in memory.
const MAX_DOCUMENT: u64 = 16 << 20;

/// The directory of a cluster image whose files say what is to be applied.
const MANIFESTS: &str = "manifests";
/// The directory of a cluster image with Helm charts.
const CHARTS: &str = "charts";
/// The list of images that Sealer reads (seed document 1, "manifests").
const IMAGE_LIST: &str = "manifests/imageList";
/// The lists of images that Sealos reads.
const SHIM: &str = "images/shim";
/// Where Sealos notes archives of images.
pub(crate) const ARCHIVES: &str = "images/skopeo/tar.txt";
/// What the APP instruction puts into an image.
const APPS: &str = "application/apps";
/// The list with credentials (Sealer v0.8).
pub const LIST_WITH_AUTH: &str = "imageListWithAuth.yaml";
/// References to be left out (Sealos).
pub const IGNORE: &str = ".sealignore";

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A list of references.
    List,
    /// A document for Kubernetes, or its template.
    Manifest,
    /// What a Helm chart renders to.
    Chart,
    /// An archive of images.
    Archive,
}

/// Where a reference stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The file, relative to what was searched.
    pub file: String,
    /// The line, from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What the file is.
    pub kind: Kind,
    /// Whether the text only looks like a reference: nothing says that it stands for an image.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub guessed: bool,
}

/// A reference that was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Skipped {
    /// As it stands there.
    pub text: String,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Why.
    pub reason: String,
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// The images, each with the places that name it.
    pub images: BTreeMap<ImageName, BTreeSet<Place>>,
    /// What looks like a reference and was not taken.
    pub skipped: BTreeSet<Skipped>,
    /// Archives of images that come with the files: name of the image, and what the list says.
    pub archives: BTreeMap<ImageName, String>,
}

/// Which kinds of places are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Lists of images.
    pub lists: bool,
    /// Manifests.
    pub manifests: bool,
    /// Charts.
    pub charts: bool,
}

impl Scope {
    /// All of them.
    pub const ALL: Self = Self { lists: true, manifests: true, charts: true };
    /// None of them.
    pub const NONE: Self = Self { lists: false, manifests: false, charts: false };
}

/// Collects from the places of a cluster image, or of the context that becomes one.
pub fn collect(
    files: &Files<'_>,
    scope: Scope,
    settings: &ChartSettings,
) -> Result<Collection, FilesError> {
    let mut collection = Collection::default();
    if scope.lists {
        lists(files, &mut collection)?;
    }
    if scope.manifests {
        manifests(files, MANIFESTS, &mut collection)?;
    }
    if scope.charts {
        charts::below(files, CHARTS, settings, &mut collection)?;
    }
    apps(files, scope, settings, &mut collection)?;
    if let Some(text) = files.text(IGNORE)? {
        collection.ignore(&names(&text), IGNORE);
    }
    Ok(collection)
}

fn apps(
    files: &Files<'_>,
    scope: Scope,
    settings: &ChartSettings,
    collection: &mut Collection,
) -> Result<(), FilesError> {
    for app in files.directories(APPS)? {
        let place = format!("{APPS}/{app}");
        let charts = charts::places(files, &place)?;
        for chart in charts.iter().filter(|_| scope.charts) {
            charts::chart(files, chart, settings, collection)?;
        }
        let in_chart = |file: &str| {
            charts.iter().any(|chart| file.strip_prefix(chart).is_some_and(|f| f.starts_with('/')))
        };
        for file in files.below(&place)?.iter().filter(|_| scope.manifests) {
            if is_manifest(file) && !in_chart(file) {
                manifest(files, file, collection)?;
            }
        }
    }
    Ok(())
}

/// Collects from a chart: a directory, empty for the files' own root, or an archive.
pub fn chart(
    files: &Files<'_>,
    place: &str,
    settings: &ChartSettings,
) -> Result<Collection, FilesError> {
    let mut collection = Collection::default();
    charts::chart(files, place, settings, &mut collection)?;
    Ok(collection)
}

/// Whether this directory, empty for the files' own root, or archive is a chart.
pub fn is_chart(files: &Files<'_>, place: &str) -> Result<bool, FilesError> {
    charts::is_chart(files, place)
}

/// Whether there is any of the places that [`collect`] looks into.
pub fn has_places(files: &Files<'_>) -> Result<bool, FilesError> {
    for directory in [MANIFESTS, CHARTS, SHIM, APPS] {
        if files.is_directory(directory)? {
            return Ok(true);
        }
    }
    Ok(files.is_file(ARCHIVES)? || files.is_file(LIST_WITH_AUTH)?)
}

/// The references of a list, one a line, without comments and quotes.
pub fn names(list: &str) -> Vec<String> {
    lists::names(list)
}

/// Collects from every YAML file below a directory, empty for all files.
pub fn manifests(
    files: &Files<'_>,
    directory: &str,
    collection: &mut Collection,
) -> Result<(), FilesError> {
    for file in files.below(directory)? {
        if is_manifest(&file) {
            manifest(files, &file, collection)?;
        }
    }
    Ok(())
}

/// Collects from one YAML file or template.
pub fn manifest(
    files: &Files<'_>,
    file: &str,
    collection: &mut Collection,
) -> Result<(), FilesError> {
    let mut found = Found { file, kind: Kind::Manifest, collection };
    if files.size(file)? > MAX_DOCUMENT {
        return files
            .for_each_line(file, &mut |number, line| lines::line(number, line, &mut found));
    }
    if let Some(text) = files.text(file)? {
        yaml::scan(&text, &mut found);
    }
    Ok(())
}

/// Collects from a list, one reference a line.
pub fn list(files: &Files<'_>, file: &str, collection: &mut Collection) -> Result<(), FilesError> {
    let mut found = Found { file, kind: Kind::List, collection };
    files.for_each_line(file, &mut |number, line| lists::line(number, line, &mut found))
}

/// Collects from text that a chart's template rendered to.
fn rendered(file: &str, text: &str, collection: &mut Collection) {
    yaml::scan(text, &mut Found { file, kind: Kind::Chart, collection });
}

/// Collects from a list that was read as a whole; `file` is what it is called.
pub fn list_text(file: &str, text: &str, collection: &mut Collection) {
    let mut found = Found { file, kind: Kind::List, collection };
    for (number, line) in (1..).zip(text.lines()) {
        lists::line(number, line, &mut found);
    }
}

/// Collects the images of a list with credentials; `file` is what it is called.
pub fn list_with_auth(file: &str, list: &auth::ListWithAuth, collection: &mut Collection) {
    let mut found = Found { file, kind: Kind::List, collection };
    list.images().for_each(|image| found.certain(image, None));
}

fn lists(files: &Files<'_>, collection: &mut Collection) -> Result<(), FilesError> {
    if files.is_file(IMAGE_LIST)? {
        list(files, IMAGE_LIST, collection)?;
    }
    for file in files.below(SHIM)? {
        list(files, &file, collection)?;
    }
    if files.is_file(ARCHIVES)? {
        let mut found = Found { file: ARCHIVES, kind: Kind::Archive, collection };
        files.for_each_line(ARCHIVES, &mut |number, line| {
            lists::archive(number, line, &mut found);
        })?;
    }
    if let Some(text) = files.text(LIST_WITH_AUTH)? {
        match auth::parse(LIST_WITH_AUTH, &text) {
            Ok(list) => list_with_auth(LIST_WITH_AUTH, &list, collection),
            Err(error) => {
                let mut found = Found { file: LIST_WITH_AUTH, kind: Kind::List, collection };
                found.skip(LIST_WITH_AUTH, None, &error.to_string());
            }
        }
    }
    Ok(())
}

/// Whether a file is one for Kubernetes, by its name, as both originals tell it.
pub fn is_manifest(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let ends = [".yaml", ".yml", ".yaml.tmpl", ".yml.tmpl", ".tmpl"];
    ends.iter().any(|end| name.len() > end.len() && name.ends_with(end))
}

impl Collection {
    /// Adds what another one has.
    pub fn merge(&mut self, other: Self) {
        for (image, places) in other.images {
            self.images.entry(image).or_default().extend(places);
        }
        self.skipped.extend(other.skipped);
        self.archives.extend(other.archives);
    }

    /// Whether nothing but its look says that this is an image.
    pub fn is_guessed(&self, image: &ImageName) -> bool {
        let places = self.images.get(image).filter(|_| !self.archives.contains_key(image));
        places.is_some_and(|places| places.iter().all(|place| place.guessed))
    }

    /// Leaves out these references, which are compared as images, not as text.
    pub fn ignore(&mut self, names: &[String], list: &str) {
        let ignored: BTreeSet<ImageName> =
            names.iter().filter_map(|name| name.parse().ok()).collect();
        for (image, places) in std::mem::take(&mut self.images) {
            if !ignored.contains(&image) {
                self.images.insert(image, places);
                continue;
            }
            let reason = format!("{list} says so");
            let skipped =
                |place| Skipped { text: image.to_string(), place, reason: reason.clone() };
            self.skipped.extend(places.into_iter().map(skipped));
        }
        self.archives.retain(|image, archive| {
            let keep = !ignored.contains(image);
            if !keep {
                let file = ARCHIVES.to_owned();
                let place = Place { file, line: None, kind: Kind::Archive, guessed: false };
                let (text, reason) = (archive.clone(), format!("{list} says so"));
                self.skipped.insert(Skipped { text, place, reason });
            }
            keep
        });
    }
}

/// Takes what a scan of one file finds.
struct Found<'a> {
    file: &'a str,
    kind: Kind,
    collection: &'a mut Collection,
}

impl Found<'_> {
    fn place(&self, line: Option<usize>) -> Place {
        Place { file: self.file.to_owned(), line, kind: self.kind, guessed: false }
    }

    /// Takes a text that must be a reference.
    fn certain(&mut self, text: &str, line: Option<usize>) {
        match reference::read(text) {
            Ok(Some(image)) => self.add(image, self.place(line)),
            Ok(None) => {}
            Err(reason) => self.skip(text, line, &reason),
        }
    }

    /// Takes a text that may be a reference, by the name that it has: only what could hardly be
    /// anything else.
    fn likely(&mut self, text: &str, line: Option<usize>) {
        match reference::read(text) {
            Ok(Some(image)) if reference::is_likely(text) => self.add(image, self.place(line)),
            Ok(_) | Err(_) => {
                self.skip(
                    text,
                    line,
                    "it is the value of a field for images, but no full reference",
                );
            }
        }
    }

    /// Takes a text that looks like a reference, wherever it stands.
    fn guessed(&mut self, text: &str, line: Option<usize>) {
        if let Ok(Some(image)) = reference::read(text) {
            self.add(image, Place { guessed: true, ..self.place(line) });
        }
    }

    fn add(&mut self, image: ImageName, place: Place) {
        self.collection.images.entry(image).or_default().insert(place);
    }

    fn skip(&mut self, text: &str, line: Option<usize>, reason: &str) {
        let place = self.place(line);
        let (text, reason) = (text.trim().to_owned(), reason.to_owned());
        self.collection.skipped.insert(Skipped { text, place, reason });
    }
}

#[cfg(test)]
mod tests;
