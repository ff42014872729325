//! Docker's own archive format (Docker image spec v1.2, "Combined Image JSON + Filesystem
//! Changeset Format"): `manifest.json` lists configs, tags and layers; a layer may be a link.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::members::Members;
use super::{ArchiveBlobs, ArchiveError, Magic, Place};
use crate::blob::{BlobReader, FileBlob};
use crate::digest::{DiffId, Digest, Hasher};
use crate::error::AtPath;
use crate::oci::layout::{Blobs, Layout};
use crate::oci::manifest::{
    CONFIG, Descriptor, ImageConfig, Index, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MANIFEST, Manifest,
    REF_NAME,
};

/// The member that lists the images.
const MANIFEST_JSON: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Makes up what an OCI layout would have.
pub(super) fn open(members: Members, path: &Path) -> Result<Layout, ArchiveError> {
    let listed: Vec<Listed> =
        parse(path, MANIFEST_JSON, &members.json(MANIFEST_JSON, "the archive")?)?;
    let mut made = Made { members, path, places: HashMap::new(), layers: HashMap::new() };
    let mut index = Index::default();
    for image in &listed {
        let descriptor = made.image(image)?;
        match image.repo_tags.as_deref() {
            None | Some([]) => index.manifests.push(descriptor),
            Some(tags) => index.manifests.extend(tags.iter().map(|tag| {
                let mut descriptor = descriptor.clone();
                descriptor.annotations.insert(REF_NAME.to_owned(), tag.clone());
                descriptor
            })),
        }
    }
    let Made { members, places, .. } = made;
    let (file, _) = members.into_parts();
    let blobs = Blobs::Archive(Arc::new(ArchiveBlobs { file, path: path.to_owned(), places }));
    Ok(Layout::new(path, index, blobs))
}

struct Made<'a> {
    members: Members,
    path: &'a Path,
    places: HashMap<Digest, Place>,
    /// By offset in the archive: images share layers, and a compressed one is hashed whole.
    layers: HashMap<u64, Descriptor>,
}

impl Made<'_> {
    fn image(&mut self, listed: &Listed) -> Result<Descriptor, ArchiveError> {
        let config_json = self.members.json(&listed.config, MANIFEST_JSON)?;
        let config: ImageConfig = parse(self.path, &listed.config, &config_json)?;
        let names = listed.layers.as_deref().unwrap_or_default();
        let diff_ids = &config.rootfs.diff_ids;
        if names.len() != diff_ids.len() {
            return Err(ArchiveError::LayerCount {
                path: self.path.to_owned(),
                config: listed.config.clone(),
                layers: names.len(),
                diff_ids: diff_ids.len(),
            });
        }
        let layers = names.iter().zip(diff_ids).map(|(name, id)| self.layer(name, *id));
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            layers: layers.collect::<Result<_, _>>()?,
            config: self.keep(CONFIG, config_json),
            annotations: Default::default(),
        };
        let json = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        Ok(self.keep(MANIFEST, json))
    }

    fn keep(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::of(media_type, &bytes);
        self.places.insert(descriptor.digest, Place::Memory(bytes.into()));
        descriptor
    }

    fn layer(&mut self, name: &str, diff_id: DiffId) -> Result<Descriptor, ArchiveError> {
        let (start, size) = self.members.locate(name, MANIFEST_JSON)?;
        if let Some(known) = self
            .layers
            .get(&start)
            .filter(|known| known.media_type != LAYER_TAR || known.digest == diff_id.digest())
        {
            return Ok(known.clone());
        }
        let head = self.members.read(start, size.min(Magic::SIZE as u64))?;
        let (media_type, digest) = match Magic::of(&head) {
            // Whoever reads the layer verifies it against the diffID.
            Magic::Plain | Magic::Xz | Magic::Bzip2 | Magic::Unsupported(_) => {
                (LAYER_TAR, diff_id.digest())
            }
            Magic::Gzip => (LAYER_GZIP, self.hash(start, size)?),
            Magic::Zstd => (LAYER_ZSTD, self.hash(start, size)?),
        };
        let descriptor = Descriptor::new(media_type, digest, size);
        self.places.insert(digest, Place::Range { start, size });
        self.layers.insert(start, descriptor.clone());
        Ok(descriptor)
    }

    fn hash(&self, start: u64, size: u64) -> Result<Digest, ArchiveError> {
        let file = self.members.file().try_clone().at("open", self.path)?;
        let blob = FileBlob::range(file, self.path, start, size);
        let mut reader = BlobReader::new(Arc::new(blob));
        let mut hasher = Hasher::new();
        let mut buf = vec![0; 1 << 17];
        loop {
            match reader.read(&mut buf).at("read", self.path)? {
                0 => return Ok(hasher.finish()),
                n => hasher.update(&buf[..n]),
            }
        }
    }
}

fn parse<T: for<'a> Deserialize<'a>>(
    path: &Path,
    member: &str,
    bytes: &[u8],
) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Json {
        path: path.to_owned(),
        member: member.to_owned(),
        source,
    })
}
