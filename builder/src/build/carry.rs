//! The container images that a cluster image carries in its `registry/`: which ones its files
//! name, and the layers that hold them.
//!
//! ```text
//! merged rootfs, lists ─ collect ─ resolve (manifests) ─ plan of layers ─ fetch, several at once
//! ```
//!
//! **One layer for each image**, put together when all steps are done, above everything else. Blobs
//! stream from the registry straight into it; nothing lies beside it meanwhile. So a build that
//! breaks off has lost the images that were under way, no more; a changed tag makes one new
//! layer; and two cluster images with the same application share its layer in the store and in a
//! registry. A layer's key in the build cache is the list of its files with their digests, for
//! what it holds depends on the others: a blob that several images have lies in the layer of the
//! first of them, in the order of their names, and one that the base has lies in none.
//!
//! Above [`MAX_LAYERS`] images they share layers, by the hash of their repository's name, which
//! keeps most layers as they are when an image comes or goes.

mod layers;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use kfs_fs::error::PathError;
use kfs_fs::layer::writer::WriteError;
use kfs_fs::oci::Layer;
use kfs_fs::oci::find::Wanted;
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::manifest::History;
use kfs_fs::oci::registry::auth::Credentials;
use kfs_fs::oci::store::{Store, StoreError};

use super::schedule::Site;
use super::{Event, Report};
use crate::cluster::collect::auth::{AuthListError, ListWithAuth};
use crate::cluster::collect::{
    self, ARCHIVES, ChartSettings, Collection, IGNORE, ImageName, LIST_WITH_AUTH, Place, Scope,
};
use crate::cluster::extension::{ContainerImage, ImagePlatform, images};
use crate::cluster::files::{Files, FilesError};
use crate::cluster::kubeconfig::PodsError;
use crate::cluster::registry_tree::RegistryTree;
use crate::config::history;
use crate::interrupt::Interrupted;
use layers::Planned;
use resolve::Looked;

/// Manifests are small, and asking for them is mostly waiting.
const MANIFESTS_AT_ONCE: usize = 8;
/// A layer that is written takes some 80 MiB: buffers of the network, and of three compressors.
const LAYERS_AT_ONCE: usize = 2;
/// More layers than this and Docker's limit of 127 would come near.
const MAX_LAYERS: usize = 64;
/// An error names so many images.
const MAX_NAMED: usize = 10;
/// Sealer's label for the version of Kubernetes.
const RUNTIME_VERSION: &str = "cluster.alpha.sealer.io/cluster-runtime-version";
/// The labels that images of Sealos have; beside them `version` is that of Kubernetes.
const SEALOS_TYPE: [&str; 2] = ["sealos.io.type", "apps.sealos.io/type"];
/// What names the images that pods run.
const PODS: &str = "a pod of the cluster";
/// Where an application's files lie.
const APPS: &str = "application/apps/";

/// Which container images an image is to carry.
#[derive(Clone, Debug)]
pub struct Collecting {
    /// Which of its files are searched.
    pub scope: Scope,
    /// How charts are rendered.
    pub charts: ChartSettings,
    /// More lists: what they are called, and their text.
    pub lists: Vec<(String, String)>,
    /// More lists, with credentials.
    pub lists_with_auth: Vec<(String, ListWithAuth)>,
    /// Lists of images that are left out: what they are called, and their text.
    pub ignored: Vec<(String, String)>,
    /// What the images run on; none for what the image is built for.
    pub platforms: Vec<Wanted>,
}

/// What a cluster image carries.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) layers: Vec<Layer>,
    pub(super) history: Vec<History>,
    /// For the annotation; those of the base too.
    pub(super) images: Vec<ContainerImage>,
}

/// Why an image cannot carry what its files name.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// Images cannot be found.
    #[error("{}", unfound(.0))]
    Unfound(Vec<Unfound>),
    /// Two images that are the same one to a cluster, which asks its own registry for both.
    #[error(
        "{one} and {other} are both {path} in the registry of the cluster image, and are different images"
    )]
    Collision {
        /// The first.
        one: String,
        /// The second.
        other: String,
        /// What a cluster asks for.
        path: String,
    },
    /// A list of archives names one that is not there.
    #[error("{ARCHIVES} names {line:?}, but the {place} has no such file")]
    Archive {
        /// As it stands there.
        line: String,
        /// `context` or `image`: where it is looked for.
        place: &'static str,
    },
    /// An image breaks off on its way.
    #[error("{image}: {source}")]
    Fetch {
        /// The image, or the images of a layer.
        image: String,
        /// Why.
        source: WriteError,
    },
    /// A file that is searched cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A layer cannot be written or stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file cannot be used.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The base says of the images that it carries what cannot be read.
    #[error("the base's {0}")]
    Annotation(#[from] crate::cluster::extension::Malformed),
    /// The cluster does not say which images its pods run.
    #[error(transparent)]
    Pods(#[from] PodsError),
    /// A list with credentials is malformed.
    #[error(transparent)]
    List(#[from] AuthListError),
    /// A signal asks the build to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// An image that cannot be found.
#[derive(Debug)]
pub struct Unfound {
    /// Its name.
    pub image: ImageName,
    /// The places that name it, as one text.
    pub places: String,
    /// Why.
    pub source: LayoutError,
}

impl Unfound {
    /// Which image, where it is named and why it is not found, in one line.
    fn told(&self) -> String {
        let mut text = format!("{}, which {} names: {}", self.image, self.places, self.source);
        let mut cause = std::error::Error::source(&self.source);
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        text
    }
}

fn unfound(all: &[Unfound]) -> String {
    let mut lines: Vec<String> = all.iter().take(MAX_NAMED).map(Unfound::told).collect();
    if all.len() > MAX_NAMED {
        lines.push(format!("and {} more", all.len() - MAX_NAMED));
    }
    lines.join("\n")
}

impl Site<'_> {
    /// Collects what the finished target names, and makes the layers that hold it.
    pub(super) fn carry(&self, report: &mut Report<'_>) -> Result<Carried, CarryError> {
        let Some(collecting) = &self.options.collecting else { return self.inherited() };
        let finished = self.finished(self.plan.target());
        let with_auth = self.lists_with_auth(collecting)?;
        let (mut collection, of_context) = self.collect(collecting, &with_auth, report)?;
        let mut carried = self.inherited()?;
        let before = std::mem::take(&mut carried.images);
        let platforms = self.platforms(collecting);
        let files = Files::Built(&finished.view);
        let tree = RegistryTree::find(files)?;
        let store = self.asked_store(&with_auth);
        let job = resolve::Job {
            site: self,
            store: &store,
            collection: &collection,
            platforms: &platforms,
            tree: tree.as_ref(),
            before: &before,
            files,
            of_context: &of_context,
        };
        let Looked { resolved, left_out, kept } = job.resolve()?;
        for one in left_out {
            collection.images.remove(&one.image);
            let text = format!("left out, as it may be no image: {}", one.told());
            report("", Event::Note(text));
        }
        for one in kept {
            let text = format!("kept as the base has it, for another platform: {}", one.told());
            report("", Event::Note(text));
        }
        let planned = layers::plan(&resolved, tree.as_ref())?;
        if !collection.images.is_empty() {
            report("", Event::Note(summary(&collection, resolved.len(), planned.len())));
        }
        self.write_all(&planned, &mut carried, report)?;
        let listed = listed(&collection, &platforms);
        let all: BTreeSet<ContainerImage> = before.into_iter().chain(listed).collect();
        carried.images = all.into_iter().collect();
        Ok(carried)
    }

    /// What the base carries.
    fn inherited(&self) -> Result<Carried, CarryError> {
        let base = self.finished(self.plan.target()).base.as_ref();
        let annotations = base.map(|base| &base.image.manifest.annotations);
        let images = annotations.map_or(Ok(Vec::new()), images)?;
        Ok(Carried { images, ..Carried::default() })
    }

    /// What is named, and the archives that the context names.
    fn collect(
        &self,
        collecting: &Collecting,
        with_auth: &[(String, ListWithAuth)],
        report: &mut Report<'_>,
    ) -> Result<(Collection, BTreeSet<ImageName>), CarryError> {
        let finished = self.finished(self.plan.target());
        let (scope, mut charts) = (&collecting.scope, collecting.charts.clone());
        charts.interrupts = self.options.interrupts.clone();
        charts.work = Some(self.work.clone());
        charts.kube_version =
            charts.kube_version.or_else(|| kube_version(&finished.config.config.labels));
        let mut found = collect::collect(&Files::Built(&finished.view), *scope, &charts)?;
        let mut of_context = BTreeSet::new();
        if finished.takes_collected {
            let more = collect::collect(&self.options.context.files(), *scope, &charts)?;
            of_context.extend(more.archives.keys().cloned());
            found.merge(more);
        }
        for (name, text) in &collecting.lists {
            collect::list_text(name, text, &mut found);
        }
        if let Some(cluster) = &self.options.cluster {
            collect::list_text(PODS, &cluster.images_of_pods()?.join("\n"), &mut found);
        }
        for (name, list) in with_auth {
            collect::list_with_auth(name, list, &mut found);
        }
        if let Some(text) = self.options.context.files().text(IGNORE)? {
            found.ignore(&collect::names(&text), IGNORE);
        }
        for (name, text) in &collecting.ignored {
            found.ignore(&collect::names(text), name);
        }
        for skipped in &found.skipped {
            let place = place(&skipped.place);
            let text = format!("{place}: {:?} is left out: {}", skipped.text, skipped.reason);
            report("", Event::Note(text));
        }
        Ok((found, of_context))
    }

    /// The lists with credentials, that of the context too (Sealer v0.8).
    fn lists_with_auth(
        &self,
        collecting: &Collecting,
    ) -> Result<Vec<(String, ListWithAuth)>, CarryError> {
        let mut lists = collecting.lists_with_auth.clone();
        if collecting.scope.lists
            && let Some(text) = self.options.context.files().text(LIST_WITH_AUTH)?
        {
            let list = collect::auth::parse(LIST_WITH_AUTH, &text)?;
            lists.push((LIST_WITH_AUTH.to_owned(), list));
        }
        Ok(lists)
    }

    fn platforms(&self, collecting: &Collecting) -> Vec<Wanted> {
        let mut platforms = collecting.platforms.clone();
        platforms.dedup();
        if platforms.is_empty() {
            let target = &self.options.target;
            platforms.push(Wanted::of(target));
        }
        platforms
    }

    /// The store, with the credentials that lists bring.
    fn asked_store(&self, with_auth: &[(String, ListWithAuth)]) -> Store {
        let mut lookup = self.writer.lookup().clone();
        let given = credentials(with_auth);
        if !given.is_empty() {
            lookup.registries = lookup.registries.map(|client| client.with_credentials(given));
        }
        (**self.writer).clone().with_lookup(lookup)
    }

    /// Makes all layers, several at once; after a failure none is begun, but those that were are
    /// finished: the next build finds them.
    fn write_all(
        &self,
        planned: &[Planned],
        carried: &mut Carried,
        report: &mut Report<'_>,
    ) -> Result<(), CarryError> {
        let next = AtomicUsize::new(0);
        let (sender, receiver) = sync_channel(LAYERS_AT_ONCE);
        let mut done = BTreeMap::new();
        let mut failure = None;
        let noted = layers::Noted::new(self);
        std::thread::scope(|scope| {
            for _ in 0..LAYERS_AT_ONCE.min(planned.len()) {
                let (sender, next, noted) = (sender.clone(), &next, &noted);
                scope.spawn(move || {
                    while let Some(one) = planned.get(next.fetch_add(1, Relaxed)) {
                        let started = Instant::now();
                        let made = self.layer(one, noted);
                        if made.is_err() {
                            next.store(planned.len(), Relaxed);
                        }
                        let told = sender.send((one.number, started.elapsed(), made));
                        told.expect("the receiver outlives the threads");
                    }
                });
            }
            drop(sender);
            for (number, took, made) in receiver {
                let text = planned[number].title.clone();
                match made {
                    Ok((hit, cached)) => {
                        let (index, total) = (done.len() + 1, planned.len());
                        report("", Event::Step { index, total, text });
                        let layer = Some((hit.layer.descriptor.digest, hit.layer.descriptor.size));
                        report("", Event::Done { took, layer, cached });
                        done.insert(number, hit);
                    }
                    Err(error) => drop(failure.get_or_insert(error)),
                }
            }
        });
        if let Some(error) = failure {
            return Err(error);
        }
        for hit in done.into_values() {
            let created = Some(hit.created);
            let created_by = Some(hit.created_by);
            carried.layers.push(hit.layer);
            carried.history.push(History { created, created_by, ..History::default() });
        }
        Ok(())
    }
}

/// The version of Kubernetes that an image brings or is on, as labels of Sealer and Sealos say it.
fn kube_version<'l>(labels: impl IntoIterator<Item = (&'l String, &'l String)>) -> Option<String> {
    let labels: BTreeMap<&str, &str> =
        labels.into_iter().map(|(key, value)| (&key[..], &value[..])).collect();
    let is_sealos = SEALOS_TYPE.iter().any(|key| labels.contains_key(key));
    let sealos = labels.get("version").filter(|_| is_sealos);
    let version = labels.get(RUNTIME_VERSION).or(sealos)?;
    let is_version = |c: char| c.is_ascii_alphanumeric() || "v.+-".contains(c);
    let right = version.trim_start_matches('v').starts_with(|c: char| c.is_ascii_digit());
    (right && version.contains('.') && version.chars().all(is_version))
        .then(|| (*version).to_owned())
}

/// Credentials by registry, those of lists that name none for the registries of their images.
fn credentials(lists: &[(String, ListWithAuth)]) -> Vec<(String, Credentials)> {
    let mut given = Vec::new();
    for list in lists.iter().flat_map(|(_, list)| &list.registries) {
        if list.username.is_empty() {
            continue;
        }
        let credentials = || Credentials::Password {
            username: list.username.clone(),
            password: list.password().to_owned(),
        };
        let named = list.registry.as_deref().map(str::trim).filter(|name| !name.is_empty());
        if let Some(name) = named {
            let name = name.trim_start_matches("https://").trim_start_matches("http://");
            given.push((name.trim_end_matches('/').to_owned(), credentials()));
            continue;
        }
        let names = list.images.iter().filter_map(|image| image.parse::<ImageName>().ok());
        let domains = names.filter_map(|name| Some(name.as_str().split_once('/')?.0.to_owned()));
        let domains: BTreeSet<String> = domains.collect();
        given.extend(domains.into_iter().map(|domain| (domain, credentials())));
    }
    given
}

/// What the annotation says of what was collected.
fn listed(collection: &Collection, platforms: &[Wanted]) -> Vec<ContainerImage> {
    let names = collection.images.keys().chain(collection.archives.keys());
    let names: BTreeSet<&ImageName> = names.collect();
    let mut listed = Vec::new();
    for name in names {
        let places = collection.images.get(name).into_iter().flatten();
        let app = places.filter_map(|place| place.file.strip_prefix(APPS)?.split('/').next());
        let app_name = app.min().unwrap_or_default().to_owned();
        listed.extend(platforms.iter().map(|platform| ContainerImage {
            image: name.to_string(),
            app_name: app_name.clone(),
            platform: Some(ImagePlatform {
                architecture: platform.architecture().to_owned(),
                os: platform.os().to_owned(),
                variant: platform.variant().unwrap_or_default().to_owned(),
            }),
        }));
    }
    listed
}

fn summary(collection: &Collection, new: usize, layers: usize) -> String {
    let all = collection.images.len();
    let here = match all.saturating_sub(new) {
        0 => String::new(),
        here => format!(", of which the base has {here}"),
    };
    let named = if all == 1 {
        "1 container image is".to_owned()
    } else {
        format!("{all} container images are")
    };
    match layers {
        0 => format!("{named} named{here}"),
        _ => format!("{named} named{here}; they go to registry/"),
    }
}

/// A place, as it is told.
fn place(place: &Place) -> String {
    let line = place.line.map(|line| format!(":{line}")).unwrap_or_default();
    format!("{}{line}", place.file)
}

/// The places that name an image, the first few of them.
fn places(places: &BTreeSet<Place>) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<String> = places.iter().take(SHOWN).map(place).collect();
    if places.len() > SHOWN {
        shown.push(format!("{} more", places.len() - SHOWN));
    }
    shown.join(", ")
}

/// What the history says of a layer.
fn created_by(title: &str) -> String {
    history::config_only(&format!("{title} in registry "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_the_version_of_kubernetes() {
        for (labels, expected) in [
            (&[(RUNTIME_VERSION, "v1.22.15")][..], Some("v1.22.15")),
            (&[("sealos.io.type", "rootfs"), ("version", "v1.25.0")], Some("v1.25.0")),
            (&[("version", "v1.25.0")], None),
            (&[(RUNTIME_VERSION, "newest")], None),
            (&[(RUNTIME_VERSION, "1.2 $(x)")], None),
            (&[], None),
        ] {
            let labels: BTreeMap<String, String> =
                labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            assert_eq!(kube_version(&labels).as_deref(), expected, "{labels:?}");
        }
    }
}
