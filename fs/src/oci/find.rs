//! From a name to an image that the store knows: it has it, or asks its registry.
//!
//! An image that was found in a registry is an ordinary image of the store from then on, of which
//! the store has index, manifest and config, and knows where the layers can be had.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::Image;
use super::image::{ImageError, choose_manifest, host_architecture};
use super::layout::{FoundBy, Layout, LayoutError, Selection};
use super::manifest::{Descriptor, ImageConfig, Index, Manifest, Platform, is_index, is_manifest};
use super::reference::Name;
use super::registry::{Fetched, Reference, Registries, RegistryError, Repository};
use super::soci;
use super::store::{Part, Store, StoreError};
use crate::blob::{BlobReader, BlobSource, from_any_place};
use crate::digest::{Digest, Found, Mismatch, VerifyReader};
use crate::layer::scan;

/// How images are found that are named.
#[derive(Clone, Debug, Default)]
pub struct Lookup {
    /// Where registries are asked; none: they are not.
    pub registries: Option<Registries>,
    /// When they are asked.
    pub pull: Pull,
    /// The platform for which an image is wanted; none: this machine's.
    pub platform: Option<Wanted>,
    /// Whether a name stands for all that the registry has under it, also where a platform is
    /// wanted.
    pub whole: bool,
    /// Whether the layers will be read at once: their tables of contents are asked for together
    /// with what else is needed of an image.
    pub layers: bool,
}

/// When a registry is asked for an image's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pull {
    /// When the store does not have it.
    #[default]
    Missing,
    /// Each time; it is an error if the registry cannot be asked.
    Always,
    /// Each time; what the store has is used if the registry cannot be asked.
    Newer,
    /// Not at all.
    Never,
}

/// A platform that is wanted: `linux/arm64`, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// Why a text names no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no platform, expected OS/ARCH[/VARIANT] such as linux/amd64 or linux/arm/v7")]
pub struct PlatformError(String);

impl Wanted {
    /// linux on this machine.
    pub fn host() -> Self {
        Self { os: "linux".to_owned(), architecture: host_architecture().to_owned(), variant: None }
    }

    /// What an image for this platform runs on.
    pub fn of(platform: &Platform) -> Self {
        let Platform { os, architecture, variant, .. } = platform.clone();
        Self { os, architecture, variant }
    }

    /// `linux`, ...
    pub fn os(&self) -> &str {
        &self.os
    }

    /// `amd64`, ...
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// `v7`, ...
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// The entry of an index for this platform; an only entry needs no platform.
    pub fn entry<'i>(&self, index: &'i Index) -> Option<&'i Descriptor> {
        let suited = index.manifests.iter().filter_map(|descriptor| {
            let platform = descriptor.platform.as_ref().filter(|platform| self.fits(platform))?;
            Some((self.rank(platform), descriptor))
        });
        let best = suited.min_by_key(|(rank, _)| *rank).map(|(_, found)| found);
        best.or(match &index.manifests[..] {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
    }

    /// Refuses an image that says of itself that it is for another platform.
    pub fn check(&self, image: &Image) -> Result<(), ImageError> {
        if self.fits_config(&image.config) {
            return Ok(());
        }
        let available = vec![platform_of(&image.config)];
        Err(ImageError::Platform { digest: image.digest, wanted: self.to_string(), available })
    }

    /// Whether an entry of an index is for this platform.
    fn fits(&self, platform: &Platform) -> bool {
        self.fits_parts(&platform.os, &platform.architecture, platform.variant.as_deref())
    }

    /// How well an entry that fits is suited; the least is the best. Without a variant in the
    /// wish that is the entry that most machines can run: one without a variant, then the lowest.
    /// Only `linux/arm` for another machine is v7 first, as Docker has it (containerd, platforms).
    fn rank(&self, platform: &Platform) -> u32 {
        let variant = match (self.architecture.as_str(), platform.variant.as_deref()) {
            (_, None | Some("")) | ("arm64", Some("v8")) | ("amd64", Some("v1")) => return 0,
            (_, Some(variant)) => variant,
        };
        let number =
            variant.strip_prefix('v').map(|text| text.split_once('.').unwrap_or((text, "0")));
        let number = number.and_then(|(major, minor)| {
            Some((major.parse::<u16>().ok()?, minor.parse::<u16>().ok()?))
        });
        let Some((major, minor)) = number else { return u32::MAX };
        let major = match (self.architecture.as_str(), major) {
            ("arm", 0..=7) if host_architecture() != "arm" => 8 - major,
            (_, major) => major,
        };
        u32::from(major) << 16 | u32::from(minor)
    }

    /// Whether an image with this config is for this platform. What it does not say of itself is
    /// as it is wanted: some tools leave it out.
    pub fn fits_config(&self, config: &ImageConfig) -> bool {
        let os = if config.os.is_empty() { &self.os } else { &config.os };
        match config.architecture.as_str() {
            "" => *os == self.os,
            architecture => self.fits_parts(os, architecture, config.variant.as_deref()),
        }
    }

    /// Without a variant any will do (see [`Wanted::rank`]); arm64 has but one that has a name
    /// (containerd, platforms).
    fn fits_parts(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        let plain = |variant: Option<&'_ str>| match (architecture, variant) {
            ("arm64", Some("v8")) => None,
            (_, variant) => variant.map(str::to_owned),
        };
        self.os == os
            && self.architecture == architecture
            && (self.variant.is_none() || plain(self.variant.as_deref()) == plain(variant))
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Wanted {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(PlatformError(text.to_owned())),
        };
        let word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        if !parts.iter().all(word) {
            return Err(PlatformError(text.to_owned()));
        }
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

/// Where blobs are that a store does not have.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    store: Store,
    registries: Registries,
    /// Whether manifests and configs may be fetched; layers may always, when they are read.
    fetch: bool,
    /// The repository that is being looked into, for blobs that were not noted yet.
    current: Option<Name>,
}

impl Remote {
    /// None for a store that asks no registries.
    pub(crate) fn new(store: &Store) -> Option<Self> {
        let registries = store.lookup().registries.clone()?;
        Some(Self { store: store.clone(), registries, fetch: false, current: None })
    }

    /// A blob, if it is known where it can be had. Of several repositories those come first that
    /// are among `homes`, which its image is named by, in their order: anybody's image may list
    /// the same blob, and be gone tomorrow.
    pub(crate) fn blob(
        &self,
        descriptor: &Descriptor,
        homes: &[Name],
    ) -> Result<Option<Arc<dyn BlobSource>>, ImageError> {
        let mut names = self.names(descriptor.digest)?;
        let rank = |name: &Name| homes.iter().position(|home| home.same_repository(name));
        names.sort_by_key(|name| rank(name).unwrap_or(usize::MAX));
        let mut repositories = Vec::new();
        let mut failure = None;
        for name in &names {
            match self.registries.repository(name) {
                Ok(repository) => repositories.push(repository),
                Err(error) => failure = Some(error),
            }
        }
        match (repositories.split_first(), failure) {
            (Some((first, others)), _) => {
                let (digest, size) = (descriptor.digest, descriptor.size);
                Ok(Some(Arc::new(first.blob_or_of(others, digest, size))))
            }
            (None, Some(error)) => Err(error.into()),
            (None, None) => Ok(None),
        }
    }

    /// A manifest, index or config, fetched and kept, if that may be and it is known where.
    pub(crate) fn json(&self, descriptor: &Descriptor) -> Result<Option<Vec<u8>>, ImageError> {
        if !self.fetch {
            return Ok(None);
        }
        let mut failure = None;
        for name in self.names(descriptor.digest)? {
            let corrupt = |mismatch| {
                let (registry, repository) = (name.domain().to_owned(), name.path().to_owned());
                Err(RegistryError::Corrupt { registry, repository, mismatch }.into())
            };
            match fetch(&self.registries.repository(&name)?, descriptor) {
                // A SOCI index is named without its size.
                Ok(json) if ![0, json.len() as u64].contains(&descriptor.size) => {
                    let found = Found::Size(descriptor.size, json.len() as u64);
                    let mismatch = Mismatch { expected: descriptor.digest, found };
                    return corrupt(mismatch);
                }
                Ok(json) => {
                    self.keep(&name, descriptor, &json)
                        .map_err(|e| ImageError::Store(Box::new(e)))?;
                    return Ok(Some(json));
                }
                Err(ImageError::Corrupt(mismatch)) => failure = Some(corrupt(mismatch)),
                Err(error) => failure = Some(Err(error)),
            }
        }
        failure.unwrap_or(Ok(None))
    }

    /// Notes that what an index lists can be had where the index can, if nothing is known of it.
    /// That is done for what is used of an index alone: it may list any number of images.
    pub(crate) fn follow(&self, index: Digest, child: Digest) -> Result<(), ImageError> {
        if self.fetch && self.store.remotes(child)?.is_empty() {
            for name in self.names(index)?.iter().rev() {
                self.store.record_remotes(name, &[child])?;
            }
        }
        Ok(())
    }

    /// Keeps what was fetched, and notes that what it points to can be had there as well.
    fn keep(&self, name: &Name, descriptor: &Descriptor, json: &[u8]) -> Result<(), StoreError> {
        if is_manifest(&descriptor.media_type)
            && let Ok(manifest) = serde_json::from_slice::<Manifest>(json)
        {
            if let Ok(repository) = self.registries.repository(name) {
                expect_tables(&self.store, &repository, &manifest);
            }
            let blobs = [&manifest.config].into_iter().chain(&manifest.layers);
            let digests: Vec<Digest> = blobs.map(|blob| blob.digest).collect();
            self.store.record_remotes(name, &digests)?;
        }
        self.store.writer()?.put_bytes(json)?;
        Ok(())
    }

    /// Where a blob can be had.
    fn names(&self, digest: Digest) -> Result<Vec<Name>, ImageError> {
        let mut names = self.store.remotes(digest)?;
        if let Some(current) = &self.current {
            names.retain(|name| !name.same_repository(current));
            names.insert(0, current.clone());
        }
        Ok(names)
    }
}

fn fetch(repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    if is_index(&descriptor.media_type) || is_manifest(&descriptor.media_type) {
        return Ok(repository.manifest(&Reference::Digest(descriptor.digest))?.json);
    }
    let blob: Arc<dyn BlobSource> = Arc::new(repository.blob(descriptor.digest, descriptor.size));
    let is_damaged = |error: &ImageError| matches!(error, ImageError::Corrupt(_));
    from_any_place(blob.as_ref(), is_damaged, || read_small(&blob, descriptor))
}

/// Reads and verifies a blob that has its place in memory.
fn read_small(blob: &Arc<dyn BlobSource>, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let blob = BlobReader::new(blob.clone());
    let mut json = Vec::new();
    let mut reader = VerifyReader::new(blob, descriptor.digest, descriptor.size);
    match std::io::Read::read_to_end(&mut reader, &mut json) {
        Ok(_) => Ok(json),
        Err(error) => Err(match error.downcast::<Mismatch>() {
            Ok(mismatch) => ImageError::Corrupt(mismatch),
            Err(error) => match error.downcast::<RegistryError>() {
                Ok(error) => error.into(),
                Err(error) => RegistryError::SetUp(error.to_string()).into(),
            },
        }),
    }
}

/// Finds an image by its name in the store or in its registry, by an id in the store.
pub(super) fn named(store: &Store, query: &str, typed: &str) -> Result<Selection, LayoutError> {
    let layout = fetching(store, None)?;
    let local = layout.select(Some(query), typed);
    let how = store.lookup();
    let (Some(registries), Ok(name)) = (&how.registries, query.parse::<Name>()) else {
        return local;
    };
    let lookup = |known| lookup(store, registries, &name, known, typed);
    match (how.pull, local) {
        (Pull::Never, local) => local,
        (_, Ok(found)) if found.by == FoundBy::Digest => Ok(found),
        (Pull::Missing, Ok(found)) if is_for(&found, how.platform.as_ref())? => Ok(found),
        (Pull::Missing, Ok(_)) => lookup(None),
        (Pull::Always, Ok(found)) => lookup(Some(found)),
        (Pull::Newer, Ok(found)) => match lookup(Some(found.clone())) {
            Err(LayoutError::Registry(error)) if error.is_transient() => {
                tracing::warn!("{typed} is used as it is known: {error}");
                Ok(found)
            }
            other => other,
        },
        (_, Err(LayoutError::NotFound { query, location, similar })) => {
            lookup(None).map_err(|error| match error {
                LayoutError::Registry(source) => {
                    LayoutError::Lookup { query, location, similar, source }
                }
                other => other,
            })
        }
        (_, Err(other)) => Err(other),
    }
}

/// Finds an image that is to be copied or sent elsewhere. What the store has under a name is what
/// the user means by it, whenever registries are to be asked: it may have been built here.
pub(super) fn as_it_is(store: &Store, query: &str, typed: &str) -> Result<Selection, LayoutError> {
    let local = fetching(store, None)?.select(Some(query), typed);
    let found = match local {
        Err(LayoutError::NotFound { .. }) => return named(store, query, typed),
        local => local?,
    };
    if let Some(wanted) = &store.lookup().platform {
        let broken = |e| LayoutError::Image { name: typed.to_owned(), source: Box::new(e) };
        wanted.check(&found.image()?).map_err(broken)?;
    }
    Ok(found)
}

/// Whether an image of the store will do for a platform that was asked for.
fn is_for(found: &Selection, wanted: Option<&Wanted>) -> Result<bool, LayoutError> {
    match wanted {
        Some(wanted) if !is_index(&found.descriptor.media_type) => {
            Ok(wanted.fits_config(&found.image()?.config))
        }
        // An index is asked when the image is opened.
        Some(_) | None => Ok(true),
    }
}

/// The layout, with leave to fetch manifests and configs.
fn fetching(store: &Store, current: Option<Name>) -> Result<Layout, LayoutError> {
    let mut layout = store.layout()?;
    layout.platform.clone_from(&store.lookup().platform);
    if let Some(remote) = &mut layout.remote {
        remote.fetch = true;
        remote.current = current;
    }
    Ok(layout)
}

/// Asks the registry for a name, and makes what it has an image of the store.
fn lookup(
    store: &Store,
    registries: &Registries,
    name: &Name,
    known: Option<Selection>,
    typed: &str,
) -> Result<Selection, LayoutError> {
    let failed = |error| LayoutError::Registry(Box::new(error));
    let repository = registries.repository(name).map_err(failed)?;
    let reference = Reference::of(name);
    let wanted = store.lookup().platform.as_ref();
    if let Some(known) = known
        && repository.digest_of(&reference).map_err(failed)? == Some(known.descriptor.digest)
        && is_for(&known, wanted)?
    {
        return Ok(known);
    }
    let fetched = repository.manifest(&reference).map_err(failed)?;
    if is_manifest(&fetched.descriptor.media_type)
        && let Ok(manifest) = serde_json::from_slice(&fetched.json)
    {
        expect_tables(store, &repository, &manifest);
    }
    // Makes what a store needs.
    let store = Store::open(store.root())?.with_lookup(store.lookup().clone());
    keep(&store, name, fetched, typed)?;
    fetching(&store, None)?.select(Some(&name.to_string()), typed)
}

/// Asks for the tables of contents of an image whose layers will be read next.
fn expect_tables(store: &Store, repository: &Repository, manifest: &Manifest) {
    if !store.lookup().layers {
        return;
    }
    let indexes = store.dir(Part::Indexes);
    for layer in &manifest.layers {
        let Some(range) = scan::first_read(layer, &indexes) else { continue };
        if let Ok(len) = usize::try_from(range.end - range.start)
            && !store.has(layer)
        {
            repository.blob(layer.digest, layer.size).expect(range.start, len);
        }
    }
}

/// Stores a manifest that was found, with what else is needed to open its image, under its name.
fn keep(store: &Store, name: &Name, fetched: Fetched, typed: &str) -> Result<(), LayoutError> {
    // Until the image has its name nobody removes what is stored.
    let writer = store.writer()?;
    let top = fetched.descriptor;
    let top_digest = top.digest;
    writer.put_bytes(&fetched.json)?;
    let layout = fetching(store, Some(name.clone()))?;
    let image = layout.image_at(typed, &top)?;
    let broken = |source| LayoutError::Image { name: typed.to_owned(), source: Box::new(source) };
    let wanted = &store.lookup().platform;
    wanted.iter().try_for_each(|wanted| wanted.check(&image)).map_err(broken)?;
    let entry = match wanted {
        // With a platform, the name stands for that one's image, as docker has it.
        Some(_) if !store.lookup().whole => choose_manifest(&layout, &top).map_err(broken)?,
        Some(_) | None => top,
    };
    let mut blobs = vec![top_digest, image.digest, image.manifest.config.digest];
    blobs.extend(soci::index_of(&image.manifest.annotations));
    blobs.extend(
        image.layers.iter().filter_map(|layer| Some(layer.ztoc.as_ref()?.descriptor.digest)),
    );
    blobs.extend(image.manifest.layers.iter().map(|layer| layer.digest));
    store.record_remotes(name, &blobs)?;
    let plain = Descriptor::new(&entry.media_type, entry.digest, entry.size);
    writer.add_entries(vec![(Some(name.to_string()), plain)])?;
    Ok(())
}

fn platform_of(config: &ImageConfig) -> String {
    let variant = config.variant.iter().map(|variant| format!("/{variant}"));
    format!("{}/{}{}", config.os, config.architecture, variant.collect::<String>())
}

impl From<StoreError> for LayoutError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Layout(error) => error,
            other => Self::Store(Box::new(other)),
        }
    }
}
