//! Several cluster images made one: files, applications, variables, labels, and what is launched.
//!
//! The layers of the second image lie over those of the first; those of a base that several have
//! are there once. Nothing is unpacked, and layers in registries stay there. What several images
//! say differently is told, and the last one's holds; two applications of one name are an error, as
//! the files of one would lie among those of the other. What an image deletes is kept if another
//! one has it (see `restore`).
//!
//! | | what comes out |
//! |---|---|
//! | applications | all |
//! | labels, variables | all; `PATH` is one for containers and left out, as Sealos does it |
//! | supported versions of Kubernetes | those that all images support |
//! | type | the one that brings a cluster, if one does |
//! | LAUNCH in all | the applications of all, in order |
//! | ENTRYPOINT and CMD of Sealos in all | all ENTRYPOINTs, then all CMDs |
//! | else | the lines that each would run, in order, as CMDS |

mod files;
mod launch;
mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, io};

use kfs_fs::digest::Digest;
use kfs_fs::filesystem::{OpenError, ReadError};
use kfs_fs::layer::writer::WriteError;
use kfs_fs::oci::manifest::{CONFIG, Descriptor, History, ImageConfig, MANIFEST, Manifest};
use kfs_fs::oci::store::{Store, StoreError, Writer};
use kfs_fs::oci::{Image, Layer};
use serde_json::Value;

use super::extension::{
    ContainerImage, EXTENSION, Extension, IMAGES, ImageType, KUBE_VERSION_LABEL, LaunchError,
    Malformed, images,
};
use super::files::FilesError;
use super::kube_version::{KubeVersions, NothingInCommon};

/// The labels with the type of an image of Sealos, of which `rootfs` holds before others.
const TYPES: [&str; 2] = ["sealos.io.type", "apps.sealos.io/type"];
const ROOTFS: &str = "rootfs";

/// What several images have differently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// A label or variable: the images, each with its value; the last one holds.
    Value {
        /// `label` or `variable`.
        what: &'static str,
        /// Its name.
        name: String,
        /// Name of the image and value, in order.
        values: Vec<(String, String)>,
    },
    /// A file, symlink or device: the images that have it, of which the last one holds.
    File {
        /// In the image.
        path: String,
        /// Names of the images, in order.
        images: Vec<String>,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { what, name, values } => {
                write!(f, "{what} {name}: ")?;
                for (image, value) in values {
                    write!(f, "{value:?} in {image}, ")?;
                }
                f.write_str("the last holds")
            }
            Self::File { path, images } => {
                write!(f, "file {path}: it is another one in {}, the last holds", images.join(", "))
            }
        }
    }
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Digest of the manifest.
    pub digest: Digest,
    /// What the images have differently, in order.
    pub conflicts: BTreeSet<Conflict>,
    /// How many files and directories of an image are there though another one deletes them.
    pub kept: usize,
    /// How many layers are not here, so that their files could not be compared.
    pub not_compared: usize,
}

/// Why images cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// One or none.
    #[error("there is nothing to merge: name at least two images")]
    TooFew,
    /// Images for different machines.
    #[error("{first} is for {one}, but {second} for {other}")]
    Platform {
        /// An image.
        first: String,
        /// What it is for.
        one: String,
        /// Another.
        second: String,
        /// What that is for.
        other: String,
    },
    /// Two applications of one name.
    #[error("application {name:?} of {second} is another one than that of {first}")]
    Application {
        /// The name.
        name: String,
        /// An image.
        first: String,
        /// Another.
        second: String,
    },
    /// The images are for no version of Kubernetes in common.
    #[error("{image}: {source}")]
    KubeVersion {
        /// The image that does not fit those before it.
        image: String,
        /// The ranges.
        source: NothingInCommon,
    },
    /// Annotations of an image.
    #[error("{image}: {source}")]
    Malformed {
        /// The image.
        image: String,
        /// What is wrong.
        source: Malformed,
    },
    /// An image launches what it does not have.
    #[error("{image}: {source}")]
    Launch {
        /// The image.
        image: String,
        /// What is wrong.
        source: LaunchError,
    },
    /// Layers cannot be read for their files to be compared.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file cannot be read to be compared.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// A directory cannot be read for its files to be compared.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What an image deletes and another one has cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A file cannot be read to be compared.
    #[error("compare {path} of several images: {source}")]
    Compare {
        /// In the images.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Merges images and names the result. Layers that lie in a registry are not fetched.
pub fn merge(all: &[Image], store: &Store, name: &str) -> Result<Merged, MergeError> {
    let mut parts = Parts::of(all)?;
    let mut conflicts = parts.conflicts;
    let mut layers = stack(all);
    let writer = store.writer()?;
    let not_compared = files::conflicts(all, store, &mut conflicts)?;
    let restored = restore::layer(all, &layers, store, &writer)?;
    let kept = restored.as_ref().map_or(0, |restored| restored.count);
    if let Some(restored) = restored {
        layers.push(restored.layer);
        let created_by = Some("kfs merge: what an image deletes and another one has".to_owned());
        parts.config.history.push(History { created_by, ..History::default() });
    }
    for layer in &layers {
        if !layer.blob.is_remote() {
            writer.take_in(layer)?;
        }
    }
    let digest = put(&writer, &layers, parts.config, parts.annotations, name)?;
    Ok(Merged { digest, conflicts, kept, not_compared })
}

/// All of a new image but its layers.
struct Parts {
    config: ImageConfig,
    annotations: BTreeMap<String, String>,
    conflicts: BTreeSet<Conflict>,
}

impl Parts {
    fn of(all: &[Image]) -> Result<Self, MergeError> {
        let [first, _, ..] = all else { return Err(MergeError::TooFew) };
        check_platforms(all)?;
        let malformed =
            |image: &Image, source| MergeError::Malformed { image: image.name.clone(), source };
        let extensions = all.iter().map(|image| {
            Extension::read(&image.manifest.annotations).map_err(|error| malformed(image, error))
        });
        let extensions: Vec<Option<Extension>> = extensions.collect::<Result<_, _>>()?;
        let mut values = Values::default();
        let mut config = ImageConfig {
            architecture: first.config.architecture.clone(),
            os: first.config.os.clone(),
            variant: first.config.variant.clone(),
            created: newest(all),
            history: history(all),
            ..ImageConfig::default()
        };
        let env = values.merged("variable", all, env_of);
        config.config.env = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        config.config.labels =
            values.merged("label", all, |image| image.config.config.labels.clone());
        keep_rootfs(&mut config, all);
        kube_versions(&mut config, all, &mut values)?;
        let mut extension = extension_of(all, &extensions)?;
        launch::merge(all, &extensions, &mut config.config, &mut extension)?;
        let mut annotations =
            values.merged("annotation", all, |image| image.manifest.annotations.clone());
        values.0.retain(|conflict| !is_own(conflict));
        let mut carried: BTreeSet<ContainerImage> = BTreeSet::new();
        for image in all {
            let images = images(&image.manifest.annotations);
            carried.extend(images.map_err(|error| malformed(image, error))?);
        }
        if !carried.is_empty() {
            let json = serde_json::to_string(&carried).expect("strings");
            annotations.insert(IMAGES.to_owned(), json);
        }
        if extensions.iter().any(Option::is_some) {
            annotations.insert(EXTENSION.to_owned(), extension.to_json());
        }
        Ok(Self { config, annotations, conflicts: values.0 })
    }
}

/// Values that several images have, and those that they have differently.
#[derive(Default)]
struct Values(BTreeSet<Conflict>);

impl Values {
    fn merged(
        &mut self,
        what: &'static str,
        all: &[Image],
        of: impl Fn(&Image) -> BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for image in all {
            for (name, value) in of(image) {
                found.entry(name).or_default().push((image.name.clone(), value));
            }
        }
        let mut merged = BTreeMap::new();
        for (name, values) in found {
            let (_, last) = values.last().expect("one was pushed").clone();
            if values.iter().any(|(_, value)| *value != last) {
                self.0.insert(Conflict::Value { what, name: name.clone(), values });
            }
            merged.insert(name, last);
        }
        merged
    }
}

/// What is made anew of the images' own is no conflict.
fn is_own(conflict: &Conflict) -> bool {
    let own = [EXTENSION, IMAGES, KUBE_VERSION_LABEL];
    matches!(conflict, Conflict::Value { name, .. } if own.contains(&name.as_str()))
}

fn check_platforms(all: &[Image]) -> Result<(), MergeError> {
    let platform = |image: &Image| {
        let config = &image.config;
        let variant = config.variant.iter().map(|variant| format!("/{variant}"));
        format!("{}/{}{}", config.os, config.architecture, variant.collect::<String>())
    };
    let (first, one) = (&all[0], platform(&all[0]));
    match all.iter().find(|image| platform(image) != one) {
        None => Ok(()),
        Some(second) => Err(MergeError::Platform {
            first: first.name.clone(),
            one,
            second: second.name.clone(),
            other: platform(second),
        }),
    }
}

fn env_of(image: &Image) -> BTreeMap<String, String> {
    let pairs = image.config.config.env.iter().filter_map(|line| line.split_once('='));
    let pairs = pairs.filter(|(name, _)| *name != "PATH");
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The latest of the images' times, so that the same images always make the same one.
fn newest(all: &[Image]) -> Option<String> {
    let times = all.iter().filter_map(|image| image.config.created.as_deref());
    let parsed = times.filter_map(|text| Some((humantime::parse_rfc3339(text).ok()?, text)));
    parsed.max().map(|(_, text)| text.to_owned())
}

/// An image that brings a cluster makes the whole one that does.
fn keep_rootfs(config: &mut ImageConfig, all: &[Image]) {
    for label in TYPES {
        let is_rootfs = |image: &&Image| {
            image.config.config.labels.get(label).is_some_and(|kind| kind == ROOTFS)
        };
        if all.iter().any(|image| is_rootfs(&image)) {
            config.config.labels.insert(label.to_owned(), ROOTFS.to_owned());
        }
    }
}

/// The label with the versions that all images allow.
fn kube_versions(
    config: &mut ImageConfig,
    all: &[Image],
    values: &mut Values,
) -> Result<(), MergeError> {
    let mut known: Option<(KubeVersions, String)> = None;
    for image in all {
        let Some(text) = image.config.config.labels.get(KUBE_VERSION_LABEL) else { continue };
        // One that is no range is as good as none, as in builds.
        let Ok(range) = KubeVersions::parse(text) else { continue };
        known = Some(match known {
            None => (range, text.clone()),
            Some((before, text)) if before == range => (range, text),
            Some((before, written)) => match before.intersection(&range) {
                Some(both) => (both.clone(), both.to_string()),
                None => {
                    let source = NothingInCommon { range: text.clone(), before: written };
                    return Err(MergeError::KubeVersion { image: image.name.clone(), source });
                }
            },
        });
    }
    if let Some((_, text)) = known {
        config.config.labels.insert(KUBE_VERSION_LABEL.to_owned(), text);
        values.0.retain(|conflict| !is_own(conflict));
    }
    Ok(())
}

/// All but the launch.
fn extension_of(all: &[Image], extensions: &[Option<Extension>]) -> Result<Extension, MergeError> {
    let mut merged = Extension::of_base(None);
    merged.build_client.insert("kfsVersion".to_owned(), Value::from(env!("CARGO_PKG_VERSION")));
    merged.image_type = ImageType::AppInstaller;
    let mut owners: BTreeMap<&str, (&Image, &super::app::Application)> = BTreeMap::new();
    for (image, extension) in all.iter().zip(extensions) {
        let Some(extension) = extension else { continue };
        if extension.image_type == ImageType::KubeInstaller {
            merged.image_type = ImageType::KubeInstaller;
        }
        merged.labels.extend(extension.labels.clone());
        merged.env.extend(extension.env.clone());
        for app in &extension.applications {
            if let Some((first, other)) = owners.insert(&app.name, (image, app))
                && other != app
            {
                return Err(MergeError::Application {
                    name: app.name.clone(),
                    first: first.name.clone(),
                    second: image.name.clone(),
                });
            }
            merged.put(app.clone());
        }
    }
    Ok(merged)
}

/// How many of each image's lowest layers are there already: those that it has in common with an
/// earlier image, and then those that are on top by chance. Any other layer that is there already
/// comes again: between the two there is something that it has to lie over.
fn shared(all: &[Image]) -> Vec<usize> {
    let digests = |image: &Image| -> Vec<Digest> {
        image.layers.iter().map(|layer| layer.descriptor.digest).collect()
    };
    let all: Vec<Vec<Digest>> = all.iter().map(digests).collect();
    let mut stack: Vec<Digest> = Vec::new();
    let mut counts = Vec::new();
    for (number, own) in all.iter().enumerate() {
        let common = |earlier: &Vec<Digest>| {
            own.iter().zip(earlier).take_while(|(one, other)| one == other).count()
        };
        let common = all[..number].iter().map(common).max().unwrap_or(0);
        let rest = &own[common..];
        let on_top = (0..=rest.len()).rev().find(|count| stack.ends_with(&rest[..*count]));
        let count = common + on_top.expect("nothing is on top of everything");
        stack.extend(&own[count..]);
        counts.push(count);
    }
    counts
}

/// The layers of all images, without those that are there already.
fn stack(all: &[Image]) -> Vec<Layer> {
    let own = all.iter().zip(shared(all)).flat_map(|(image, shared)| &image.layers[shared..]);
    own.cloned().collect()
}

/// The histories of all images, without what belongs to layers that are left out. One that does not
/// fit its image is replaced by a line a layer.
fn history(all: &[Image]) -> Vec<History> {
    let mut merged = Vec::new();
    for (image, shared) in all.iter().zip(shared(all)) {
        let mut layers = (0..image.layers.len()).map(|number| number >= shared);
        let old = &image.config.history;
        if old.iter().filter(|step| !step.empty_layer).count() == image.layers.len() {
            let is_kept = |step: &&History| step.empty_layer || layers.next().expect("one a layer");
            merged.extend(old.iter().filter(is_kept).cloned());
            continue;
        }
        let text = format!("kfs merge {}", image.name);
        let kept = layers.filter(|is_new| *is_new);
        let step = History { created_by: Some(text), ..History::default() };
        merged.extend(kept.map(|_| step.clone()));
    }
    merged
}

fn put(
    writer: &Writer,
    layers: &[Layer],
    mut config: ImageConfig,
    annotations: BTreeMap<String, String>,
    name: &str,
) -> Result<Digest, StoreError> {
    config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
    let config = serde_json::to_vec(&config).expect("a config is plain data");
    writer.put_bytes(&config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: Descriptor::of(CONFIG, &config),
        layers: layers.iter().map(|layer| layer.descriptor.in_oci_terms()).collect(),
        annotations,
    };
    let manifest = serde_json::to_vec(&manifest).expect("a manifest is plain data");
    writer.add_image(Some(name), &manifest, MANIFEST)
}
