//! Layers of earlier builds, by the key of the step that made them.
//!
//! A key is the hash of all that goes into a step: the key of the step before, the instruction
//! with its variables expanded, and what it reads. Steps that only change the config have no part
//! in it: what they change is in the key of the steps that it matters to.
//!
//! `build-cache/KEY` names the layer; the layer's blob lies with those of the images. A record
//! whose blob is gone is as good as none.

pub(crate) mod directory;
pub(crate) mod registry;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use kfs_fs::digest::{DiffId, Digest};
use kfs_fs::error::{AtPath, PathError};
use kfs_fs::oci::Layer;
use kfs_fs::oci::manifest::Descriptor;
use kfs_fs::oci::store::{Part, Store, StoreError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use registry::{PushedSteps, RegistryCache};

/// What the key of a step is made of; `parts` in an order that the kind of the step fixes.
pub(crate) fn key(parent: Digest, parts: &[&str]) -> Digest {
    let mut text = format!("kfs-build-3\n{parent}\n").into_bytes();
    for part in parts {
        // Lengths keep parts apart.
        text.extend(format!("{} ", part.len()).bytes());
        text.extend(part.bytes());
    }
    Digest::of(&text)
}

#[derive(Serialize, Deserialize)]
struct Record {
    layer: Descriptor,
    diff_id: DiffId,
    created: String,
    created_by: String,
    /// The key of the step, where this one is another name of it.
    key: Digest,
}

impl Record {
    fn of(hit: &Hit) -> Self {
        Self {
            layer: hit.layer.descriptor.clone(),
            diff_id: hit.layer.diff_id,
            created: hit.created.clone(),
            created_by: hit.created_by.clone(),
            key: hit.key,
        }
    }
}

/// What a step made before.
#[derive(Clone, Debug)]
pub(crate) struct Hit {
    pub(crate) layer: Layer,
    /// When, in the form of RFC 3339.
    pub(crate) created: String,
    /// What the history says of it.
    pub(crate) created_by: String,
    /// The key of the step.
    pub(crate) key: Digest,
    /// The repository of a registry that has it; none for the store.
    pub(crate) from: Option<String>,
}

/// The cache of a store.
#[derive(Debug)]
pub(crate) struct Cache {
    store: Store,
    /// `--no-cache`: nothing is found, all is recorded.
    ignore: bool,
    registry: Option<RegistryCache>,
    /// What this build has done or found, for the registry.
    steps: Mutex<Vec<Hit>>,
}

impl Cache {
    pub(crate) fn new(store: &Store, ignore: bool) -> Self {
        Self { store: store.clone(), ignore, registry: None, steps: Mutex::default() }
    }

    /// The same, with what registries have.
    pub(crate) fn with_registry(self, registry: Option<RegistryCache>) -> Self {
        Self { registry, ..self }
    }

    /// The layer of a step, if it was made before and is still there; else, if it is a step's own
    /// key, what a registry has.
    pub(crate) fn find(&self, key: Digest) -> Result<Option<Hit>, StoreError> {
        if self.ignore {
            return Ok(None);
        }
        match (self.find_here(key)?, &self.registry) {
            (None, Some(registry)) => registry.find(&self.store, key),
            (found, _) => Ok(found),
        }
    }

    /// Takes part of the image that is built.
    pub(crate) fn use_step(&self, step: &Hit) {
        if self.registry.is_some() {
            self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(step.clone());
        }
    }

    /// Puts all that was used into the registries that are to have it.
    pub(crate) fn push(&self) -> Result<Option<PushedSteps>, StoreError> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        self.registry.as_ref().map(|registry| registry.push(&self.store, &steps)).transpose()
    }

    /// The layer of a step, if it was made before and is still there. Other names of it are known
    /// here alone.
    pub(crate) fn find_here(&self, key: Digest) -> Result<Option<Hit>, PathError> {
        if self.ignore {
            return Ok(None);
        }
        let path = self.path(key);
        let json = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            json => json.at("read", &path)?,
        };
        let Ok(record) = serde_json::from_slice::<Record>(&json) else {
            // Of another version, or cut short: the step is done again and the record replaced.
            return Ok(None);
        };
        let Record { layer: descriptor, diff_id, created, created_by, key } = record;
        match self.store.blob(descriptor.digest) {
            Ok(blob) if blob.size() == descriptor.size => {
                let layer = Layer { descriptor, diff_id, blob, ztoc: None };
                Ok(Some(Hit { layer, created, created_by, key, from: None }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there may be anything under a key that other keys are made from.
    pub(crate) fn has(&self, key: Digest) -> bool {
        let elsewhere = self.registry.as_ref().is_some_and(RegistryCache::is_asked);
        !self.ignore && (elsewhere || self.path(key).exists())
    }

    /// Remembers the layer of a step under its key, and under `alias` too if there is one.
    pub(crate) fn record(&self, hit: &Hit, alias: Option<Digest>) -> Result<(), StoreError> {
        let json = serde_json::to_vec(&Record::of(hit)).expect("strings and numbers");
        self.write(hit.key, &json)?;
        alias.map_or(Ok(()), |alias| self.write(alias, &json))
    }

    /// Something else that is known under a key.
    pub(crate) fn note<T: DeserializeOwned>(&self, key: Digest) -> Result<Option<T>, PathError> {
        if self.ignore {
            return Ok(None);
        }
        let path = self.path(key);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            json => Ok(serde_json::from_slice(&json.at("read", &path)?).ok()),
        }
    }

    /// Remembers something else under a key.
    pub(crate) fn put_note(&self, key: Digest, note: &impl Serialize) -> Result<(), StoreError> {
        self.write(key, &serde_json::to_vec(note).expect("strings and numbers"))
    }

    /// Remembers that there are keys made from this one.
    pub(crate) fn mark(&self, key: Digest) -> Result<(), StoreError> {
        if self.path(key).exists() { Ok(()) } else { self.write(key, b"{}") }
    }

    fn write(&self, key: Digest, data: &[u8]) -> Result<(), StoreError> {
        let mut file = self.store.temp_file()?;
        file.write_all(data)?;
        Ok(file.persist(&self.path(key))?)
    }

    fn path(&self, key: Digest) -> PathBuf {
        self.store.dir(Part::BuildCache).join(key.hex())
    }
}
