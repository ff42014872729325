//! The cache of steps in registries (`--cache-from`, `--cache-to`): an image repository in which
//! each step is an image of one layer, under the tag `kfs-KEY`.
//!
//! Its manifest says all that a hit has to know, so that a hit costs one request; the layer stays
//! where it is until something reads it, and is then verified as any layer. Who may write to the
//! repository decides what such a build is made of.

use std::collections::BTreeMap;
use std::sync::Mutex;

use kfs_fs::digest::Digest;
use kfs_fs::oci::Layer;
use kfs_fs::oci::image::host_architecture;
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::manifest::{CONFIG, Descriptor, History, ImageConfig, MANIFEST, Manifest};
use kfs_fs::oci::reference::Name;
use kfs_fs::oci::registry::{Reference, Registries, RegistryError, Repository};
use kfs_fs::oci::store::{Store, StoreError};

use super::{Hit, Record};

/// The annotation of a manifest that holds the record of its step, as JSON.
const RECORD: &str = "kfs.build.step";

/// Repositories of steps.
#[derive(Debug)]
pub(crate) struct RegistryCache {
    registries: Registries,
    /// Those that are asked, in this order.
    from: Vec<Name>,
    /// Those that get what was built.
    to: Vec<Name>,
    /// Those that could not be asked, and are asked no more.
    failed: Mutex<Vec<String>>,
}

/// What a push of steps did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PushedSteps {
    pub(crate) sent: usize,
    pub(crate) there: usize,
}

impl RegistryCache {
    /// None if there are no repositories, or no client to ask them with.
    pub(crate) fn new(registries: Option<Registries>, from: &[Name], to: &[Name]) -> Option<Self> {
        if from.is_empty() && to.is_empty() {
            return None;
        }
        let (from, to) = (from.to_vec(), to.to_vec());
        Some(Self { registries: registries?, from, to, failed: Mutex::default() })
    }

    /// Whether any is asked.
    pub(crate) fn is_asked(&self) -> bool {
        !self.from.is_empty()
    }

    /// The step of this key. What goes wrong is warned of: the step is done then.
    pub(crate) fn find(&self, store: &Store, key: Digest) -> Result<Option<Hit>, StoreError> {
        for name in &self.from {
            let repository = name.repository();
            if self.lock_failed().contains(&repository) {
                continue;
            }
            match self.ask(name, key) {
                Ok(Some(record)) => {
                    store.record_remotes(name, &[record.layer.digest])?;
                    let blob = store.layout()?.blob_of(&record.layer);
                    let blob = blob.map_err(|error| LayoutError::Image {
                        name: repository.clone(),
                        source: Box::new(error),
                    })?;
                    let Record { layer: descriptor, diff_id, created, created_by, key } = record;
                    let layer = Layer { descriptor, diff_id, blob, ztoc: None };
                    return Ok(Some(Hit {
                        layer,
                        created,
                        created_by,
                        key,
                        from: Some(repository),
                    }));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!("--cache-from {repository} is not used: {error}");
                    self.lock_failed().push(repository);
                }
            }
        }
        Ok(None)
    }

    fn lock_failed(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn ask(&self, name: &Name, key: Digest) -> Result<Option<Record>, RegistryError> {
        let fetched = match self.registries.repository(name)?.manifest(&tag(key)) {
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            fetched => fetched?,
        };
        // What another program has put there is none of ours.
        let manifest: Option<Manifest> = serde_json::from_slice(&fetched.json).ok();
        let record = manifest.and_then(|manifest| {
            let json = manifest.annotations.get(RECORD)?;
            let record: Record = serde_json::from_str(json).ok()?;
            let is_whole = record.key == key && manifest.layers.first() == Some(&record.layer);
            is_whole.then_some(record)
        });
        Ok(record)
    }

    /// Puts steps into the repositories that are to have them.
    pub(crate) fn push(&self, store: &Store, steps: &[Hit]) -> Result<PushedSteps, StoreError> {
        let mut pushed = PushedSteps { sent: 0, there: 0 };
        for name in &self.to {
            let repository = self.registries.repository(name).map_err(LayoutError::from)?;
            for step in steps {
                match repository.manifest(&tag(step.key)) {
                    Ok(_) => pushed.there += 1,
                    Err(RegistryError::NotFound { .. }) => {
                        push_step(store, &repository, name, step)?;
                        pushed.sent += 1;
                    }
                    Err(error) => return Err(LayoutError::from(error).into()),
                }
            }
        }
        Ok(pushed)
    }
}

fn tag(key: Digest) -> Reference {
    Reference::Tag(format!("kfs-{}", key.hex()))
}

fn push_step(
    store: &Store,
    repository: &Repository,
    name: &Name,
    step: &Hit,
) -> Result<(), StoreError> {
    let record = Record::of(step);
    let config = ImageConfig {
        architecture: host_architecture().to_owned(),
        os: "linux".to_owned(),
        ..ImageConfig::default()
    };
    let mut config = config;
    config.rootfs.diff_ids = vec![record.diff_id];
    config.history = vec![History {
        created: Some(record.created.clone()),
        created_by: Some(record.created_by.clone()),
        ..History::default()
    }];
    let config = serde_json::to_vec(&config).expect("strings, numbers and lists");
    let descriptor = Descriptor::of(CONFIG, &config);
    let push = |descriptor: &Descriptor, blob| {
        let from = store.remotes(descriptor.digest)?;
        let open = || Ok::<_, StoreError>(blob);
        repository.push_blob(
            descriptor,
            &from,
            open,
            &store.upload_path(descriptor.digest),
            &|_| (),
        )
    };
    push(&step.layer.descriptor, step.layer.blob.clone())?;
    store.writer()?.put_bytes(&config)?;
    push(&descriptor, store.blob(descriptor.digest)?)?;
    let record = serde_json::to_string(&record).expect("strings and numbers");
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: descriptor,
        layers: vec![step.layer.descriptor.clone()],
        annotations: BTreeMap::from([(RECORD.to_owned(), record)]),
    };
    let json = serde_json::to_vec(&manifest).expect("strings, numbers and lists");
    repository.push_manifest(&tag(step.key), MANIFEST, json).map_err(LayoutError::from)?;
    store.record_remotes(name, &[step.layer.descriptor.digest])?;
    Ok(())
}
