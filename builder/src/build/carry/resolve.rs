//! From the names of container images to their manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use kfs_fs::digest::Digest;
use kfs_fs::error::AtPath as _;
use kfs_fs::oci;
use kfs_fs::oci::find::{Lookup, Pull, Wanted};
use kfs_fs::oci::layout::{LayoutError, Selection};
use kfs_fs::oci::manifest::{Descriptor, is_index};
use kfs_fs::oci::reference::{Name, Source};
use kfs_fs::oci::registry::RegistryError;
use kfs_fs::oci::store::Store;
use kfs_fs::oci::{Image, Layer};

use super::layers::Interruptible;
use super::{CarryError, MANIFESTS_AT_ONCE, Unfound, places};
use crate::build::schedule::Site;
use crate::cluster::collect::{Collection, ImageName};
use crate::cluster::extension::ContainerImage;
use crate::cluster::files::{Files, FilesError};
use crate::cluster::registry_tree::{Held, RegistryTree, TreeImage};
use crate::interrupt::Interrupts;

/// What is to be found.
pub(super) struct Job<'a> {
    pub(super) site: &'a Site<'a>,
    pub(super) store: &'a Store,
    pub(super) collection: &'a Collection,
    pub(super) platforms: &'a [Wanted],
    /// The registry that the image has already.
    pub(super) tree: Option<&'a RegistryTree<'a>>,
    /// What the base says that this registry has.
    pub(super) before: &'a [ContainerImage],
    /// The files of the image.
    pub(super) files: Files<'a>,
    /// The archives that a list of the context names; all others are named by the image's own.
    pub(super) of_context: &'a BTreeSet<ImageName>,
}

/// An image with all that is to be stored of it.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) name: Name,
    pub(super) tree: TreeImage,
    /// Manifests, indexes and configs.
    pub(super) json: BTreeMap<Digest, Vec<u8>>,
    pub(super) layers: BTreeMap<Digest, Layer>,
}

/// What came of looking for images, in the order of their names.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Those that the registry lacks.
    pub(super) resolved: Vec<Resolved>,
    /// What was guessed to be an image and is not to be had.
    pub(super) left_out: Vec<Unfound>,
    /// What the base has for another platform, and is not to be had for the one that is wanted.
    pub(super) kept: Vec<Unfound>,
}

impl Job<'_> {
    /// Finds the images that the registry lacks.
    pub(super) fn resolve(&self) -> Result<Looked, CarryError> {
        let all = self.collection.images.keys().chain(self.collection.archives.keys());
        let mut names: Vec<&ImageName> = all.collect();
        names.sort_unstable();
        names.dedup();
        let mut wanted = Vec::new();
        for image in names {
            let name: Name = image.as_str().parse().expect("a name that was parsed before");
            let held = self.held(&name)?;
            if held != Held::Whole {
                let source = self.source(image, &name)?;
                wanted.push((image, name, source, held));
            }
        }
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..MANIFESTS_AT_ONCE.min(wanted.len()) {
                scope.spawn(|| {
                    while let Some(one) = wanted.get(next.fetch_add(1, Relaxed)) {
                        let (image, name, source, held) = one;
                        if self.site.options.interrupts.check().is_err() {
                            break;
                        }
                        let result = self.find(image, name, source);
                        results.lock().expect("nobody panics here").push((*image, *held, result));
                    }
                });
            }
        });
        self.site.options.interrupts.check()?;
        let mut results = results.into_inner().expect("nobody panics here");
        results.sort_by_key(|(image, ..)| *image);
        let mut looked = sort_out(self.collection, results)?;
        self.keep_tags(&mut looked.resolved)?;
        self.check_collisions(&looked.resolved)?;
        Ok(looked)
    }

    /// How much the registry of the image has of it already. What the base has under another name
    /// is looked at closely, as is everything if the user wants to know what is new.
    fn held(&self, name: &Name) -> Result<Held, CarryError> {
        let Some(tree) = self.tree else { return Ok(Held::Part) };
        if self.store.lookup().pull == Pull::Always {
            return Ok(Held::Part);
        }
        let at = match (name.digest(), name.tag()) {
            (Some(digest), _) => Some(digest),
            (None, Some(tag)) => tree.tagged(name.path(), tag)?,
            (None, None) => None,
        };
        let Some(digest) = at else { return Ok(Held::Part) };
        let held = tree.held(name.path(), digest, self.platforms)?;
        Ok(if self.namesake(name).is_none() { held } else { Held::Part })
    }

    /// The image of another registry that has the same path and tag, of those that the base lists.
    fn namesake(&self, name: &Name) -> Option<String> {
        let listed = self.before.iter().filter_map(|one| one.image.parse::<Name>().ok());
        let mut same = listed.filter(|one| is_same_place(one, name));
        same.find(|one| one.domain() != name.domain()).map(|one| one.canonical())
    }

    fn find(
        &self,
        image: &ImageName,
        name: &Name,
        source: &Source,
    ) -> Result<Resolved, LayoutError> {
        let failed =
            |source| LayoutError::Image { name: image.to_string(), source: Box::new(source) };
        let (mut json, mut layers) = (BTreeMap::new(), BTreeMap::new());
        let (mut manifests, mut blobs) = (Vec::new(), Vec::new());
        let selections = self.selections(source)?;
        let top = selections[0].descriptor.digest;
        for (platform, selection) in self.platforms.iter().zip(&selections) {
            let found = selection.image()?;
            if !is_index(&selection.descriptor.media_type) {
                platform.check(&found).map_err(failed)?;
            }
            let bytes = selection.layout.json(&selection.descriptor).map_err(failed)?;
            json.insert(top, bytes);
            let Image { digest, manifest, manifest_json, config_json, layers: of, .. } = found;
            manifests.push(digest);
            json.insert(digest, manifest_json);
            json.insert(manifest.config.digest, config_json);
            let digests = manifest.layers.iter().map(|layer: &Descriptor| layer.digest);
            blobs.extend([manifest.config.digest].into_iter().chain(digests));
            layers.extend(of.into_iter().map(|layer| (layer.descriptor.digest, layer)));
        }
        let tag = name.tag().map(str::to_owned);
        let repository = name.path().to_owned();
        let tree = TreeImage { repository, tag, top, manifests, blobs };
        Ok(Resolved { name: name.clone(), tree, json, layers })
    }

    /// The manifest or index that a source names, once for each platform.
    fn selections(&self, source: &Source) -> Result<Vec<Selection>, LayoutError> {
        let select = |platform: &Wanted| {
            let lookup = self.store.lookup().clone();
            let lookup = Lookup { platform: Some(platform.clone()), whole: true, ..lookup };
            oci::select(source, &self.store.clone().with_lookup(lookup))
        };
        let all = || self.platforms.iter().map(select).collect::<Result<Vec<_>, _>>();
        let differ = |all: &[Selection]| {
            all.windows(2).any(|two| two[0].descriptor.digest != two[1].descriptor.digest)
        };
        let selections = all()?;
        if !differ(&selections) {
            return Ok(selections);
        }
        // The store had one platform's image under this name, and has the index now.
        let selections = all()?;
        if differ(&selections) {
            return Err(LayoutError::Ambiguous {
                query: source.to_string(),
                candidates: selections
                    .iter()
                    .map(|one| one.descriptor.digest.to_string())
                    .collect(),
            });
        }
        Ok(selections)
    }

    /// Where an image is: in its registry, or in an archive of the context or of the image.
    fn source(&self, image: &ImageName, name: &Name) -> Result<Source, CarryError> {
        let Some(line) = self.collection.archives.get(image) else {
            return Ok(Source::Registry(name.clone()));
        };
        let (kind, rest) = line.split_once(':').unwrap_or(("", line));
        let file = rest.split_once('@').map_or(rest, |(file, _)| file).trim_start_matches('/');
        let (files, place) = match self.of_context.contains(image) {
            true => (self.site.options.context.files(), "context"),
            false => (self.files, "image"),
        };
        let missing = || CarryError::Archive { line: line.clone(), place };
        let file = self.archive(files, file)?.ok_or_else(missing)?;
        Ok(match kind {
            "oci-archive" => Source::OciArchive { file, tag: None },
            _ => Source::DockerArchive { file, tag: None },
        })
    }

    /// An archive as a file of this machine; one that lies in an image is copied out of it.
    fn archive(&self, files: Files<'_>, file: &str) -> Result<Option<PathBuf>, CarryError> {
        if let Some(path) = files.path(file)? {
            return Ok(Some(path));
        }
        if !files.is_file(file)? {
            return Ok(None);
        }
        let name = format!("archive-{}", Digest::of(file.as_bytes()).hex());
        let path = self.site.work.join(name);
        copy_once(&path, || files.reader(file), &self.site.options.interrupts)?;
        Ok(Some(path))
    }

    /// A tag is that of the name without a digest, if that one is carried too or was before: what
    /// is asked for by its digest needs none.
    fn keep_tags(&self, resolved: &mut [Resolved]) -> Result<(), CarryError> {
        let names = self.collection.images.keys().chain(self.collection.archives.keys());
        let names = names.filter_map(|name| name.as_str().parse::<Name>().ok());
        let unpinned: Vec<Name> = names.filter(|name| name.digest().is_none()).collect();
        for one in resolved.iter_mut().filter(|one| one.name.digest().is_some()) {
            let Some(tag) = one.name.tag() else { continue };
            let before = self.tree.map_or(Ok(None), |tree| tree.tagged(one.name.path(), tag))?;
            let is_taken = before.is_some_and(|digest| digest != one.tree.top);
            if is_taken || unpinned.iter().any(|name| is_same_place(name, &one.name)) {
                one.tree.tag = None;
            }
        }
        Ok(())
    }

    /// A cluster asks for `library/nginx:1` whatever the registry was.
    fn check_collisions(&self, resolved: &[Resolved]) -> Result<(), CarryError> {
        let mut first = BTreeMap::new();
        for one in resolved {
            let Some(tag) = one.tree.tag.as_deref() else { continue };
            let place = (one.name.path(), tag);
            let path = format!("{}:{tag}", one.name.path());
            if let Some(tree) = self.tree
                && let Some(other) = self.namesake(&one.name)
                && tree.tagged(place.0, place.1)?.is_some_and(|digest| digest != one.tree.top)
            {
                return Err(CarryError::Collision {
                    one: other,
                    other: one.name.canonical(),
                    path,
                });
            }
            let other: &Resolved = first.entry(place).or_insert(one);
            if other.tree.top != one.tree.top && other.name.domain() != one.name.domain() {
                let (one, other) = (other.name.canonical(), one.name.canonical());
                return Err(CarryError::Collision { one, other, path });
            }
        }
        Ok(())
    }
}

/// An image that is not to be had is left out if it is a guess, and kept as the base has it if it
/// has it for another platform: a cluster ran that. Any other that is not found is an error.
fn sort_out(
    collection: &Collection,
    results: Vec<(&ImageName, Held, Result<Resolved, LayoutError>)>,
) -> Result<Looked, CarryError> {
    let (mut looked, mut missing) = (Looked::default(), Vec::new());
    for (image, held, result) in results {
        let source = match result {
            Ok(one) => {
                looked.resolved.push(one);
                continue;
            }
            Err(source) => source,
        };
        let told = match held {
            _ if !is_absent(&source) => &mut missing,
            Held::OtherPlatform => &mut looked.kept,
            _ if collection.is_guessed(image) => &mut looked.left_out,
            Held::Part | Held::Whole => &mut missing,
        };
        let image = image.clone();
        told.push(Unfound { places: named_by(collection, &image), image, source });
    }
    if missing.is_empty() { Ok(looked) } else { Err(CarryError::Unfound(missing)) }
}

/// The places that name an image, as one text.
fn named_by(collection: &Collection, image: &ImageName) -> String {
    match (collection.images.get(image), collection.archives.get(image)) {
        (Some(found), _) => places(found),
        (None, Some(archive)) => archive.clone(),
        (None, None) => String::new(),
    }
}

/// Whether there is no such image, or none for the platform, as far as others can be asked. Trouble
/// that may pass, or that this machine has, says nothing of the image.
fn is_absent(error: &LayoutError) -> bool {
    let no_registry_has_it = |error: &RegistryError| {
        matches!(
            error,
            RegistryError::Unreachable { .. }
                | RegistryError::Untrusted { .. }
                | RegistryError::Refused { .. }
                | RegistryError::Denied { .. }
                | RegistryError::NotFound { .. }
                | RegistryError::Protocol { .. }
                | RegistryError::Blocked { .. }
        )
    };
    match error {
        LayoutError::NotFound { .. } => true,
        LayoutError::Lookup { source, .. } | LayoutError::Registry(source) => {
            no_registry_has_it(source)
        }
        other => other.is_about_platform(),
    }
}

/// Writes a file, unless an earlier call did: an archive may have many images.
fn copy_once<'r>(
    path: &Path,
    open: impl FnOnce() -> Result<Box<dyn Read + 'r>, FilesError>,
    interrupts: &Interrupts,
) -> Result<(), CarryError> {
    if path.exists() {
        return Ok(());
    }
    let mut copy = File::create(path).at("create", path)?;
    let copied = io::copy(&mut Interruptible { reader: open()?, interrupts }, &mut copy);
    // What failed because of a signal says so.
    interrupts.check()?;
    copied.at("write", path)?;
    Ok(())
}

fn is_same_place(one: &Name, other: &Name) -> bool {
    one.path() == other.path() && one.tag() == other.tag() && one.tag().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::collect::{ChartSettings, Scope, collect};

    #[test]
    fn a_guess_that_is_not_to_be_had_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let text = "args: [--x-image=r.example/guess:1, --image=r.example/known:1]\n\
            image: r.example/known:1\n";
        std::fs::create_dir(dir.path().join("manifests")).unwrap();
        std::fs::write(dir.path().join("manifests/a.yaml"), text).unwrap();
        let files = Files::Directory(dir.path());
        let collection = collect(&files, Scope::ALL, &ChartSettings::default()).unwrap();
        let [guess, known] = ["guess", "known"]
            .map(|name| format!("r.example/{name}:1").parse::<ImageName>().unwrap());
        let registry = || "r.example".to_owned();
        let absent = || {
            let (repository, what) = ("x".to_owned(), "tag 1".to_owned());
            LayoutError::from(RegistryError::NotFound { registry: registry(), repository, what })
        };
        let looked = sort_out(&collection, vec![(&guess, Held::Part, Err(absent()))]).unwrap();
        let told: Vec<String> = looked.left_out.iter().map(Unfound::told).collect();
        let expected = "r.example/guess:1, which manifests/a.yaml:1 names: registry r.example has";
        assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
        let results = [&guess, &known].map(|image| (image, Held::Part, Err(absent()))).into();
        let Err(CarryError::Unfound(missing)) = sort_out(&collection, results) else { panic!() };
        assert_eq!(Vec::from_iter(missing.iter().map(|one| &one.image)), [&known]);
        let (got, expected) = (0, 1);
        let passing = RegistryError::Truncated { registry: registry(), expected, got };
        sort_out(&collection, vec![(&guess, Held::Part, Err(passing.into()))]).unwrap_err();
        let results = vec![(&known, Held::OtherPlatform, Err(absent()))];
        assert_eq!(sort_out(&collection, results).unwrap().kept[0].image, known);
    }

    #[test]
    fn an_archive_is_copied_once_and_a_signal_ends_the_copy() {
        let dir = tempfile::tempdir().unwrap();
        let (path, interrupts) = (dir.path().join("a"), Interrupts::default());
        let reader = || -> Result<Box<dyn Read>, FilesError> { Ok(Box::new(&b"archive"[..])) };
        copy_once(&path, reader, &interrupts).unwrap();
        copy_once(&path, || panic!("it is copied again"), &interrupts).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"archive");
        let endless = || -> Result<Box<dyn Read>, FilesError> { Ok(Box::new(io::repeat(0))) };
        interrupts.cancel();
        let error = copy_once(&dir.path().join("b"), endless, &interrupts).unwrap_err();
        assert!(matches!(error, CarryError::Interrupted(_)), "{error}");
    }
}
