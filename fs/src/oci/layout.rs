//! An OCI image layout (OCI image spec, image-layout.md), in a directory or inside an archive:
//! an index of named manifests, and blobs by digest. Read only; the store adds writing.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::Image;
use super::archive::{ArchiveBlobs, ArchiveError};
use super::find::{Remote, Wanted};
use super::image::{self, ImageError};
use super::manifest::{Descriptor, Index, MANIFEST, MAX_JSON, Manifest, REF_NAME, is_manifest};
use super::reference::{Name, ReferenceError};
use super::registry::RegistryError;
use super::store::StoreError;
use crate::blob::{BlobReader, BlobSource, FileBlob, open_regular};
use crate::digest::{Digest, Found, Mismatch, VerifyReader};
use crate::error::{AtPath, PathError};
use crate::printable;

/// How many hex digits of a digest name an image, at least.
const MIN_ID: usize = 4;

/// A layout that was opened: its index as read then, and where its blobs are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The directory or archive, for messages.
    pub(crate) location: PathBuf,
    pub(crate) index: Index,
    pub(crate) blobs: Blobs,
    /// Which image of an index is meant; none: that for this machine.
    pub(crate) platform: Option<Wanted>,
    /// Where blobs are that are not here.
    pub(crate) remote: Option<Remote>,
}

/// Where a layout's blobs are.
#[derive(Clone, Debug)]
pub(crate) enum Blobs {
    /// Files of `blobs/sha256/` below this directory.
    Directory(PathBuf),
    /// Members of an archive.
    Archive(Arc<ArchiveBlobs>),
}

/// Why a layout or an image of it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file could not be read.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The archive is none.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The text is no image name, and no image is called so.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The directory holds no layout.
    #[error("{} is not an OCI image layout: it has no {missing}", dir.display())]
    NotALayout {
        /// The directory.
        dir: PathBuf,
        /// The file that it should have.
        missing: &'static str,
    },
    /// A layout of another version.
    #[error("{} is an OCI image layout of version {version:?}, only 1.0.0 is known", dir.display())]
    Version {
        /// The directory or archive.
        dir: PathBuf,
        /// What it says.
        version: String,
    },
    /// `index.json` or `oci-layout` is broken.
    #[error("{}: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No image is called so.
    #[error("no image {query:?} in {}", location.display())]
    NotFound {
        /// As it was typed.
        query: String,
        /// The layout.
        location: PathBuf,
        /// Names there that look like it, the nearest first.
        similar: Vec<String>,
    },
    /// Several images are called so.
    #[error("{query:?} could be any of {}", list(candidates))]
    Ambiguous {
        /// As it was typed.
        query: String,
        /// Their digests.
        candidates: Vec<String>,
    },
    /// There is nothing to choose from.
    #[error("{} holds no image", location.display())]
    Empty {
        /// The layout.
        location: PathBuf,
    },
    /// No tag was given, and there are several images.
    #[error("{} holds {} images, name one of: {}", location.display(), names.len(), list(names))]
    Several {
        /// The layout.
        location: PathBuf,
        /// Their names or digests.
        names: Vec<String>,
    },
    /// No image is called so, and its registry could not be asked or has none.
    #[error("no image {query:?} in {}, and {source}", location.display())]
    Lookup {
        /// As it was typed.
        query: String,
        /// The layout.
        location: PathBuf,
        /// Names there that look like it, the nearest first.
        similar: Vec<String>,
        /// What came of asking.
        source: Box<RegistryError>,
    },
    /// A registry that had to be asked.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// What a registry sent cannot be stored.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The image is there, but broken or of an unknown kind.
    #[error("image {name}: {source}")]
    Image {
        /// As it was typed, else its digest.
        name: String,
        /// What is wrong.
        source: Box<ImageError>,
    },
}

impl LayoutError {
    /// Whether an image was found, and none for the platform that is wanted.
    pub fn is_about_platform(&self) -> bool {
        matches!(self, Self::Image { source, .. } if matches!(**source, ImageError::Platform { .. }))
    }
}

impl From<RegistryError> for LayoutError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}

/// How a query found an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// By the name under which the layout keeps it.
    Name,
    /// By a digest, or because it is the only one.
    Digest,
}

/// An image that was found in a layout and not yet read.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Where it lies.
    pub layout: Layout,
    /// Its entry in the layout's index.
    pub descriptor: Descriptor,
    /// How it was found.
    pub by: FoundBy,
    /// As the user named it.
    pub typed: String,
}

impl Selection {
    /// Reads manifest and config, and finds the layers.
    pub fn image(&self) -> Result<Image, LayoutError> {
        self.layout.image_at(&self.typed, &self.descriptor)
    }

    /// The name that goes with the image when it is copied: the one by which it was found, or
    /// that of the layout's only image.
    pub fn name(&self) -> Option<&str> {
        let alone = self.layout.index.manifests.len() == 1;
        ref_name(&self.descriptor).filter(|_| alone || self.by == FoundBy::Name)
    }
}

/// The name under which a layout keeps an image.
pub fn ref_name(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations.get(REF_NAME).map(String::as_str)
}

impl Layout {
    /// Opens the layout in a directory.
    pub fn open(dir: &Path) -> Result<Self, LayoutError> {
        // A clear "no such directory" before a guess at what is missing in it.
        std::fs::read_dir(dir).at("open", dir)?;
        let marker = dir.join("oci-layout");
        let bytes = read_capped(&marker)?
            .ok_or(LayoutError::NotALayout { dir: dir.to_owned(), missing: "oci-layout" })?;
        check_version(dir, &marker, &bytes)?;
        let path = dir.join("index.json");
        let bytes = read_capped(&path)?
            .ok_or(LayoutError::NotALayout { dir: dir.to_owned(), missing: "index.json" })?;
        Self::with_index(dir, &path, &bytes, Blobs::Directory(dir.to_owned()))
    }

    pub(crate) fn new(location: &Path, index: Index, blobs: Blobs) -> Self {
        Self { location: location.to_owned(), index, blobs, platform: None, remote: None }
    }

    pub(crate) fn with_index(
        location: &Path,
        path: &Path,
        bytes: &[u8],
        blobs: Blobs,
    ) -> Result<Self, LayoutError> {
        let index: Index = parse(path, bytes)?;
        match index.schema_version {
            2 => Ok(Self::new(location, index, blobs)),
            version => Err(LayoutError::Broken {
                path: path.to_owned(),
                reason: format!("schemaVersion is {version}, only 2 is known"),
            }),
        }
    }

    /// The layout's images, in its order.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.index.manifests
    }

    /// Finds an image: by the exact name that the layout has for it, by a name that means the
    /// same, by digits of a manifest's or config's digest; without a query the only one.
    pub fn select(&self, query: Option<&str>, typed: &str) -> Result<Selection, LayoutError> {
        let (descriptor, by) = match query {
            Some(query) => self.find(query)?,
            None => (self.only()?, FoundBy::Digest),
        };
        Ok(Selection {
            layout: self.clone(),
            descriptor: descriptor.clone(),
            by,
            typed: typed.to_owned(),
        })
    }

    /// Reads an image that is called so.
    pub fn image(&self, query: &str) -> Result<Image, LayoutError> {
        self.select(Some(query), query)?.image()
    }

    /// Reads the image with this manifest, whether it has a name or not.
    pub(crate) fn image_of_manifest(
        &self,
        name: &str,
        digest: Digest,
    ) -> Result<Image, LayoutError> {
        let missing = || ImageError::Missing { digest, location: self.location.clone() };
        let failed =
            |source| LayoutError::Image { name: name.to_owned(), source: Box::new(source) };
        let blob = self.blob(digest)?.ok_or_else(|| failed(missing()))?;
        let mut descriptor = Descriptor::new(MANIFEST, digest, blob.size());
        let json = self.json(&descriptor).map_err(failed)?;
        // Docker's manifests say what they are.
        if let Ok(Manifest { media_type: Some(media_type), .. }) = serde_json::from_slice(&json) {
            descriptor.media_type = media_type;
        }
        self.image_at(name, &descriptor)
    }

    pub(crate) fn image_at(
        &self,
        name: &str,
        descriptor: &Descriptor,
    ) -> Result<Image, LayoutError> {
        image::open(self, name, descriptor).map_err(|source| LayoutError::Image {
            name: name.to_owned(),
            source: Box::new(source),
        })
    }

    fn only(&self) -> Result<&Descriptor, LayoutError> {
        match &self.index.manifests[..] {
            [only] => Ok(only),
            [] => Err(LayoutError::Empty { location: self.location.clone() }),
            several => Err(LayoutError::Several {
                location: self.location.clone(),
                names: several.iter().map(label).collect(),
            }),
        }
    }

    pub(crate) fn find(&self, query: &str) -> Result<(&Descriptor, FoundBy), LayoutError> {
        let all = &self.index.manifests;
        let exact = all.iter().filter(|d| ref_name(d) == Some(query)).collect();
        if let Some(found) = one(query, exact)? {
            return Ok((found, FoundBy::Name));
        }
        let name = query.parse::<Name>();
        if let Ok(name) = &name {
            let same = all.iter().filter(|descriptor| is_called(descriptor, name)).collect();
            if let Some(found) = one(query, same)? {
                return Ok((found, FoundBy::Name));
            }
        }
        if let Some(digits) = id_digits(query)
            && let Some(found) = one(query, self.with_id(digits))?
        {
            return Ok((found, FoundBy::Digest));
        }
        match name {
            Err(error) if !matches!(error, ReferenceError::LooksLikeId(_)) => Err(error.into()),
            Ok(_) | Err(_) => Err(LayoutError::NotFound {
                query: query.to_owned(),
                location: self.location.clone(),
                similar: super::similar::names(query, all.iter().filter_map(ref_name)),
            }),
        }
    }

    fn with_id(&self, digits: &str) -> Vec<&Descriptor> {
        let has_id = |descriptor: &&Descriptor| {
            let config = || {
                // An unreadable manifest has no config by which it could be named.
                let json = self.json(descriptor).ok()?;
                Some(serde_json::from_slice::<Manifest>(&json).ok()?.config.digest)
            };
            descriptor.digest.hex().starts_with(digits)
                || is_manifest(&descriptor.media_type)
                    && config().is_some_and(|digest| digest.hex().starts_with(digits))
        };
        self.index.manifests.iter().filter(has_id).collect()
    }

    /// The blob with this digest, if it is there.
    pub fn blob(&self, digest: Digest) -> Result<Option<Arc<dyn BlobSource>>, PathError> {
        match &self.blobs {
            Blobs::Archive(blobs) => blobs.blob(digest),
            Blobs::Directory(dir) => {
                let path = blob_path(dir, digest);
                match FileBlob::open(&path) {
                    Ok(blob) => Ok(Some(Arc::new(blob))),
                    Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// The blob that a descriptor points to, its size checked. A blob of a registry, if it is not
    /// here and is known to be there; nothing is asked until it is read.
    pub fn blob_of(&self, descriptor: &Descriptor) -> Result<Arc<dyn BlobSource>, ImageError> {
        self.blob_from(descriptor, &[])
    }

    /// As [`Layout::blob_of`], from these repositories first.
    pub(crate) fn blob_from(
        &self,
        descriptor: &Descriptor,
        homes: &[Name],
    ) -> Result<Arc<dyn BlobSource>, ImageError> {
        let digest = descriptor.digest;
        let here = self.blob(digest)?;
        if let Some(blob) = here.as_ref().filter(|blob| blob.size() == descriptor.size) {
            return Ok(blob.clone());
        }
        // A blob that was cut short here may still be whole there.
        if let Some(remote) = &self.remote
            && let Some(blob) = remote.blob(descriptor, homes)?
        {
            return Ok(blob);
        }
        Err(match here {
            Some(blob) => ImageError::Corrupt(Mismatch {
                expected: digest,
                found: Found::Size(descriptor.size, blob.size()),
            }),
            None => ImageError::Missing { digest, location: self.location.clone() },
        })
    }

    /// Is called before something of an index is read that may not be here.
    pub(crate) fn follow(&self, index: Digest, child: Digest) -> Result<(), ImageError> {
        self.remote.as_ref().map_or(Ok(()), |remote| remote.follow(index, child))
    }

    /// What an image is named by: as the user typed it, and as the layout keeps it.
    pub(crate) fn names_of(&self, typed: &str, top: Digest) -> Vec<Name> {
        let typed = typed.strip_prefix("docker://").unwrap_or(typed);
        let entries = self.index.manifests.iter().filter(|entry| entry.digest == top);
        let names = [typed].into_iter().chain(entries.filter_map(ref_name));
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// The bytes of a manifest, index or config, verified. One that is not here, or is
    /// damaged, is fetched and kept, if the layout may do that.
    pub fn json(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        if descriptor.size > MAX_JSON {
            return Err(ImageError::TooLarge { digest: descriptor.digest, size: descriptor.size });
        }
        let damage = match self.blob(descriptor.digest)?.map(|blob| read_json(blob, descriptor)) {
            Some(Err(ImageError::Corrupt(damage))) => Some(damage),
            Some(other) => return other,
            None => None,
        };
        match self.remote.as_ref().map(|remote| remote.json(descriptor)) {
            Some(Ok(Some(json))) => return Ok(json),
            Some(Err(error)) if damage.is_none() => return Err(error),
            Some(Err(error)) => {
                tracing::warn!("{} is not fetched again: {error}", descriptor.digest)
            }
            Some(Ok(None)) | None => {}
        }
        match damage {
            Some(damage) => Err(ImageError::Corrupt(damage)),
            None => read_json(self.blob_of(descriptor)?, descriptor),
        }
    }
}

/// Reads and verifies a blob that has its place in memory.
fn read_json(blob: Arc<dyn BlobSource>, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let location = PathBuf::from(blob.location());
    let mut bytes = Vec::new();
    VerifyReader::new(BlobReader::new(blob), descriptor.digest, descriptor.size)
        .read_to_end(&mut bytes)
        .map_err(|error| match error.downcast::<Mismatch>() {
            Ok(mismatch) => ImageError::Corrupt(mismatch),
            Err(source) => PathError { action: "read", path: location, source }.into(),
        })?;
    Ok(bytes)
}

/// The first of `names`, and how many more there are.
pub(crate) fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| printable::text(name)).collect();
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

/// Where a layout in a directory keeps a blob.
pub(crate) fn blob_path(dir: &Path, digest: Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

/// Its name, else its digest, for messages.
pub(crate) fn label(descriptor: &Descriptor) -> String {
    ref_name(descriptor).map_or_else(|| descriptor.digest.to_string(), printable::text)
}

/// The only one of `found`; several entries for one manifest are one.
fn one<'a>(query: &str, found: Vec<&'a Descriptor>) -> Result<Option<&'a Descriptor>, LayoutError> {
    let Some(first) = found.first() else { return Ok(None) };
    if found.iter().all(|other| other.digest == first.digest) {
        return Ok(Some(first));
    }
    let candidates = found.iter().map(|descriptor| descriptor.digest.to_string()).collect();
    Err(LayoutError::Ambiguous { query: query.to_owned(), candidates })
}

fn is_called(descriptor: &Descriptor, name: &Name) -> bool {
    let kept = ref_name(descriptor).and_then(|text| text.parse::<Name>().ok());
    match (kept, name.digest()) {
        // Docker's rule: with a digest, the tag is for people.
        (Some(kept), Some(digest)) => kept.same_repository(name) && descriptor.digest == digest,
        (Some(kept), None) => kept == *name,
        (None, _) => false,
    }
}

fn id_digits(query: &str) -> Option<&str> {
    let digits = query.strip_prefix("sha256:").unwrap_or(query);
    let hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (hex && (MIN_ID..=64).contains(&digits.len())).then_some(digits)
}

/// A file's bytes, none if it is not there; a larger one than [`MAX_JSON`] is an error.
fn read_capped(path: &Path) -> Result<Option<Vec<u8>>, LayoutError> {
    let file = match open_regular(path) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut bytes).at("read", path)?;
    if bytes.len() as u64 > MAX_JSON {
        let reason = format!("larger than {MAX_JSON} bytes");
        return Err(LayoutError::Broken { path: path.to_owned(), reason });
    }
    Ok(Some(bytes))
}

pub(crate) fn parse<T: for<'a> Deserialize<'a>>(
    path: &Path,
    bytes: &[u8],
) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|error| LayoutError::Broken {
        path: path.to_owned(),
        reason: format!("malformed JSON: {error}"),
    })
}

/// Refuses a layout of another version than 1.0.0.
pub(crate) fn check_version(
    location: &Path,
    path: &Path,
    marker: &[u8],
) -> Result<(), LayoutError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let marker: Marker = parse(path, marker)?;
    match marker.image_layout_version.as_str() {
        "1.0.0" => Ok(()),
        version => {
            Err(LayoutError::Version { dir: location.to_owned(), version: version.to_owned() })
        }
    }
}
