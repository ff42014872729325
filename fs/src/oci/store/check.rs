//! Checking all of a store, and mending what can be mended.
//!
//! Blobs are held against their digests, images against their blobs, and tables of contents inside
//! layers against the layers. What kfs made from them
//! (indexes, cached content, build cache) is held against its checksums, and what is wrong of it
//! can go: it is made again. A wrong blob is put aside, and the images that lose it are named.
//!
//! What a killed process leaves is no damage: all that gets a name is whole. It is told of as
//! left over, like blobs that no image has.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::prune::{Entry, Record, digest_of, files};
use super::{Part, Store, StoreError, temp};
use crate::blob::{BlobReader, BlobSource as _, FileBlob};
use crate::cache::Cache;
use crate::digest::{DiffId, Digest, Mismatch, VerifyReader};
use crate::error::{AtPath, PathError};
use crate::layer::index::{Coding, LayerIndex};
use crate::layer::rewrite::{RewriteError, compare};
use crate::layer::scan::LayerError;
use crate::layer::toc::trusted::names_table;
use crate::mount::Mounts;
use crate::oci::Layer;
use crate::oci::image::ImageError;
use crate::oci::layout::{Layout, label, ref_name};
use crate::oci::manifest::Descriptor;
use crate::oci::walk::claims;
use crate::span;
use crate::tree::Tree;

/// Where wrong blobs are put, below the store.
const QUARANTINE: &str = "quarantine";

/// How to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct Check {
    /// Leave out what reads all bytes: digests of blobs and of cached content, tables of contents,
    /// sums of indexes.
    pub quick: bool,
    /// Mend what can be mended.
    pub repair: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong; it takes space.
    Leftover,
    /// Something that kfs makes again is wrong.
    Derived,
    /// Content is lost.
    Lost,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where: a path in the store.
    pub place: PathBuf,
    /// What it is.
    pub problem: String,
    /// The images that suffer from it.
    pub images: Vec<String>,
    /// What was done about it.
    pub repair: Option<String>,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Images, with and without a name.
    pub images: usize,
    /// Blobs.
    pub blobs: usize,
    /// Bytes of blobs.
    pub bytes: u64,
    /// Indexes of layers and images.
    pub indexes: usize,
    /// Bytes of cached content of layers in registries; 0 if that was left out.
    pub cached: u64,
    /// Records of the build cache.
    pub build_cache: usize,
    /// Mounts.
    pub mounts: usize,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl Health {
    /// Whether content is lost, or something is wrong that was not mended.
    pub fn is_damaged(&self) -> bool {
        self.findings.iter().any(|finding| match finding.severity {
            Severity::Leftover => false,
            Severity::Derived => finding.repair.is_none(),
            Severity::Lost => true,
        })
    }
}

impl Store {
    /// Checks the store. `progress` is called with the number of bytes just read.
    ///
    /// Takes part like a writer, so that nothing is removed meanwhile; to mend, nobody may write.
    pub fn check(&self, how: Check, progress: &dyn Fn(u64)) -> Result<Health, StoreError> {
        let _lock = self.lock_for_check(how)?;
        let health = Health::default();
        let (users, needed) = (BTreeMap::new(), HashSet::new());
        let mut run = Run { store: self, how, progress, health, users, needed };
        run.layout()?;
        run.build_cache()?;
        run.blobs()?;
        run.indexes()?;
        run.cached()?;
        run.temporary()?;
        run.mounts()?;
        run.health.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Ok(run.health)
    }

    /// None where there is no store, or it may only be read.
    fn lock_for_check(&self, how: Check) -> Result<Option<File>, StoreError> {
        let path = self.root.join("writers.lock");
        if !how.repair {
            let Ok(lock) = File::open(&path) else { return Ok(None) };
            lock.lock_shared().at("lock", &path)?;
            return Ok(Some(lock));
        }
        let lock = self.lock_file("writers.lock")?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy { dir: self.root.clone() }),
            Err(TryLockError::Error(error)) => Err(error).at("lock", &path).map_err(Into::into),
        }
    }
}

/// Who has a blob, how large it has to be, and what else is said of it.
#[derive(Debug, Default)]
struct User {
    images: BTreeSet<String>,
    /// Sizes in bytes, and the images that say so.
    sizes: BTreeMap<u64, BTreeSet<String>>,
    /// As layers with a table of contents, by what the annotations say, and the images with them.
    tables: BTreeMap<BTreeMap<String, String>, (Descriptor, BTreeSet<String>)>,
    /// An entry without a name that a removal did not finish with.
    only_nameless: bool,
}

struct Run<'a> {
    store: &'a Store,
    how: Check,
    progress: &'a dyn Fn(u64),
    health: Health,
    users: BTreeMap<Digest, User>,
    /// Blobs that the build cache has.
    needed: HashSet<Digest>,
}

impl Run<'_> {
    fn found(&mut self, severity: Severity, path: &Path, problem: String) -> &mut Finding {
        let place = path.strip_prefix(&self.store.root).unwrap_or(path).to_owned();
        let (images, repair) = (Vec::new(), None);
        self.health.findings.push(Finding { severity, place, problem, images, repair });
        self.health.findings.last_mut().expect("it was pushed just now")
    }

    fn layout(&mut self) -> Result<(), StoreError> {
        let layout = match self.store.layout() {
            Ok(layout) => layout,
            Err(error) => {
                let index = self.store.root.join("index.json");
                self.found(Severity::Lost, &index, error.to_string());
                return Ok(());
            }
        };
        self.health.images = layout.descriptors().len();
        for image in layout.descriptors() {
            self.image(&layout, image);
        }
        Ok(())
    }

    fn image(&mut self, layout: &Layout, image: &Descriptor) {
        let nameless = ref_name(image).is_none();
        let path = self.store.blob_path(image.digest);
        match claims(layout, image) {
            Ok(blobs) => {
                for blob in blobs {
                    let new = User { only_nameless: true, ..User::default() };
                    let user = self.users.entry(blob.digest).or_insert(new);
                    user.images.insert(label(image));
                    user.sizes.entry(blob.size).or_default().insert(label(image));
                    user.only_nameless &= nameless;
                    if names_table(&blob) {
                        let table = user.tables.entry(blob.annotations.clone());
                        let (_, images) = table.or_insert_with(|| (blob, BTreeSet::new()));
                        images.insert(label(image));
                    }
                }
            }
            Err(ImageError::Missing { .. }) if nameless => {
                let problem = "a removal was not finished; `kfs prune` does it".to_owned();
                self.found(Severity::Leftover, &path, problem);
            }
            Err(error) => {
                self.users.entry(image.digest).or_default().images.insert(label(image));
                let finding = self.found(Severity::Lost, &path, error.to_string());
                finding.images.push(label(image));
            }
        }
    }

    fn blobs(&mut self) -> Result<(), StoreError> {
        let dir = self.store.root.join("blobs/sha256");
        let (mut there, mut unused) = (HashSet::new(), (0_usize, 0_u64));
        for entry in files(&dir)? {
            let Some(digest) = digest_of(&entry.name) else {
                self.found(Severity::Leftover, &entry.path, "no blob has this name".to_owned());
                continue;
            };
            self.health.blobs += 1;
            self.health.bytes += entry.metadata.len();
            there.insert(digest);
            if !self.users.contains_key(&digest) && !self.needed.contains(&digest) {
                unused = (unused.0 + 1, unused.1 + entry.metadata.len());
            }
            match self.wrong(digest, &entry)? {
                Some(problem) => self.wrong_blob(digest, &entry.path, &problem)?,
                None => {
                    self.wrong_claims(digest, &entry);
                    self.contradictions(digest, &entry)?;
                }
            }
        }
        if unused.0 > 0 {
            let (blobs, bytes) = unused;
            let problem = format!(
                "{blobs} blobs ({bytes} bytes) belong to no image; \
                                   `kfs prune` removes them"
            );
            self.found(Severity::Leftover, &dir, problem);
        }
        self.missing_blobs(&there)?;
        Ok(())
    }

    /// How a blob differs from what it should be: its digest alone decides that.
    fn wrong(&self, digest: Digest, entry: &Entry) -> Result<Option<String>, PathError> {
        let size = entry.metadata.len();
        let sizes = self.users.get(&digest).map(|user| &user.sizes);
        let other = sizes.and_then(|sizes| sizes.keys().find(|other| **other != size));
        if self.how.quick && other.is_none() {
            return Ok(None);
        }
        let blob = Arc::new(FileBlob::open(&entry.path)?);
        let mut reader = VerifyReader::new(BlobReader::new(blob), digest, size);
        let Err(error) = io::copy(&mut reader, &mut Counted(self.progress)) else {
            return Ok(None);
        };
        Ok(Some(match (error.downcast::<Mismatch>(), other) {
            (Ok(_), Some(expected)) => format!("it has {size} bytes, and should have {expected}"),
            (Ok(mismatch), None) => mismatch.to_string(),
            (Err(error), _) => format!("it cannot be read: {error}"),
        }))
    }

    /// Images that say another size of a blob that is intact. They cannot be used; the blob can.
    fn wrong_claims(&mut self, digest: Digest, entry: &Entry) {
        let size = entry.metadata.len();
        let Some(user) = self.users.get(&digest) else { return };
        let wrong: Vec<_> = user.sizes.iter().filter(|(said, _)| **said != size).collect();
        let wrong: Vec<(u64, Vec<String>)> =
            wrong.into_iter().map(|(said, who)| (*said, who.iter().cloned().collect())).collect();
        for (said, images) in wrong {
            let problem = format!("it is intact and has {size} bytes; a descriptor says {said}");
            self.found(Severity::Lost, &entry.path, problem).images = images;
        }
    }

    /// Images of whose layer the table of contents says something else than the tar stream.
    fn contradictions(&mut self, digest: Digest, entry: &Entry) -> Result<(), StoreError> {
        let Some(user) = self.users.get_mut(&digest).filter(|_| !self.how.quick) else {
            return Ok(());
        };
        for (descriptor, images) in std::mem::take(&mut user.tables).into_values() {
            // Of another size it was told already, and is of no use.
            if descriptor.size != entry.metadata.len() {
                continue;
            }
            let blob = Arc::new(FileBlob::open(&entry.path)?);
            // The diffID plays no part.
            let layer = Layer { descriptor, diff_id: DiffId::new(digest), blob, ztoc: None };
            match self.compare(&layer)? {
                Ok(()) => {}
                Err(RewriteError::Source(LayerError::Index { dir, source, .. })) => {
                    return Err(PathError { action: "index a layer in", path: dir, source }.into());
                }
                Err(error) => {
                    let finding = self.found(Severity::Lost, &entry.path, error.to_string());
                    finding.images = images.into_iter().collect();
                }
            }
        }
        Ok(())
    }

    fn compare(&self, layer: &Layer) -> Result<Result<(), RewriteError>, PathError> {
        let read = AtomicU64::new(0);
        let count = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        };
        let in_store = self.store.temp_dir().ok().map(|dir| compare(layer, dir.path(), &count));
        let compared = match in_store {
            Some(compared) if !is_full(&compared) => compared,
            // A store that may only be read, or on a full disk.
            Some(_) | None => {
                let dir = tempfile::tempdir().at("create", &std::env::temp_dir())?;
                compare(layer, dir.path(), &count)
            }
        };
        (self.progress)(read.into_inner());
        Ok(compared)
    }

    fn wrong_blob(&mut self, digest: Digest, path: &Path, problem: &str) -> Result<(), PathError> {
        let images = self.images_of(digest);
        let unneeded = images.is_empty() && !self.needed.contains(&digest);
        // What is not here is fetched, where a registry is known to have it.
        let again = unneeded || !self.store.remotes(digest)?.is_empty();
        let severity = if again { Severity::Derived } else { Severity::Lost };
        let repair = if self.how.repair {
            let dir = self.store.root.join(QUARANTINE);
            fs::create_dir_all(&dir).at("create", &dir)?;
            let aside = dir.join(digest.hex());
            fs::rename(path, &aside).at("rename to", &aside)?;
            Some(format!("moved to {QUARANTINE}/{}", digest.hex()))
        } else {
            None
        };
        let finding = self.found(severity, path, problem.to_owned());
        (finding.images, finding.repair) = (images, repair);
        Ok(())
    }

    fn images_of(&self, digest: Digest) -> Vec<String> {
        let user = self.users.get(&digest);
        user.map(|user| user.images.iter().cloned().collect()).unwrap_or_default()
    }

    /// Blobs that are neither here nor known to be in a registry.
    fn missing_blobs(&mut self, there: &HashSet<Digest>) -> Result<(), PathError> {
        let missing: Vec<(Digest, bool)> = self
            .users
            .iter()
            .filter(|(digest, user)| !there.contains(digest) && !user.sizes.is_empty())
            .map(|(digest, user)| (*digest, user.only_nameless))
            .collect();
        for (digest, only_nameless) in missing {
            if !self.store.remotes(digest)?.is_empty() {
                continue;
            }
            let images = self.images_of(digest);
            let path = self.store.blob_path(digest);
            let finding = if only_nameless {
                let problem = "a removal was not finished; `kfs prune` does it".to_owned();
                self.found(Severity::Leftover, &path, problem)
            } else {
                self.found(Severity::Lost, &path, "the blob is missing".to_owned())
            };
            finding.images = images;
        }
        Ok(())
    }

    /// Records whose layer is gone are as good as none, and no finding.
    fn build_cache(&mut self) -> Result<(), PathError> {
        for entry in files(&self.store.dir(Part::BuildCache))? {
            self.health.build_cache += 1;
            let json = fs::read(&entry.path).at("read", &entry.path)?;
            match serde_json::from_slice::<Record>(&json) {
                Ok(record) => self.needed.extend(record.layer.map(|layer| layer.digest)),
                Err(error) => self.derived(&entry.path, format!("no record: {error}"))?,
            }
        }
        Ok(())
    }

    /// Something that kfs makes again when it is not there.
    fn derived(&mut self, path: &Path, problem: String) -> Result<(), PathError> {
        let repair = if self.how.repair {
            fs::remove_file(path).at("remove", path)?;
            Some("removed; it is made again when it is needed".to_owned())
        } else {
            None
        };
        self.found(Severity::Derived, path, problem).repair = repair;
        Ok(())
    }

    fn indexes(&mut self) -> Result<(), PathError> {
        let dir = self.store.dir(Part::Indexes);
        let mut known = HashMap::new();
        let mut trees = Vec::new();
        for entry in files(&dir)? {
            if entry.name.ends_with(".tree") {
                trees.push(entry);
            } else if let Some(id) = LayerIndex::id_of(&entry.name) {
                self.health.indexes += 1;
                match LayerIndex::open(&dir, id).at("read", &entry.path)? {
                    Some(index) => match self.wrong_layer_index(&index) {
                        None => drop(known.insert(id.digest(), index.summary().content_len)),
                        Some(problem) => self.derived(&entry.path, problem)?,
                    },
                    None => {
                        let older = LayerIndex::is_of_another_version(&entry.path);
                        self.not_opened(&entry.path, older.at("read", &entry.path)?)?;
                    }
                }
            }
        }
        for entry in trees {
            self.health.indexes += 1;
            let layers = Tree::layers(&entry.path).at("read", &entry.path)?;
            match Tree::open(&dir, &layers).at("read", &entry.path)? {
                Some(tree) if Tree::path(&dir, &layers) == entry.path => {
                    if !self.how.quick && !tree.is_intact() {
                        self.derived(&entry.path, "its checksum is wrong".to_owned())?;
                    }
                }
                _ => {
                    let older = Tree::is_of_another_version(&entry.path);
                    self.not_opened(&entry.path, older.at("read", &entry.path)?)?;
                }
            }
        }
        Ok(())
    }

    fn not_opened(&mut self, path: &Path, older: bool) -> Result<(), PathError> {
        if older {
            let problem = "another version of kfs made it; `kfs prune` removes it".to_owned();
            self.found(Severity::Leftover, path, problem);
            return Ok(());
        }
        self.derived(path, "it is cut short or damaged".to_owned())
    }

    fn wrong_layer_index(&self, index: &LayerIndex) -> Option<String> {
        let summary = index.summary();
        let blob = FileBlob::open(&self.store.blob_path(summary.digest)).ok();
        if let Some(blob) = &blob
            && blob.size() != summary.blob_len
        {
            return Some(format!(
                "it is of a blob of {} bytes, which has {}",
                summary.blob_len,
                blob.size()
            ));
        }
        if self.how.quick {
            return None;
        }
        if !index.is_intact() {
            return Some("its checksum is wrong".to_owned());
        }
        // Nothing but the digests of the spans protects the file of unpacked ones.
        let unpacked = index.unpacked()?;
        (0..index.span_count()).find_map(|number| match index.span(number) {
            Ok(span) if span.coding == Coding::Unpacked => {
                span::decode(index, unpacked, number).err().map(|error| error.to_string())
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        })
    }

    /// What is kept of layers in registries; what is wrong of it can be fetched again.
    fn cached(&mut self) -> Result<(), StoreError> {
        if self.how.quick {
            return Ok(());
        }
        let (dir, indexes) = (self.store.dir(Part::Cache), self.store.dir(Part::Indexes));
        let cache = Cache::new(&dir, &indexes, u64::MAX);
        let checked = cache.check(self.how.repair, self.progress)?;
        self.health.cached = checked.bytes;
        for damaged in checked.damaged {
            let repair = self.how.repair.then(|| "dropped; it is fetched again".to_owned());
            self.found(Severity::Derived, &damaged.path, damaged.problem).repair = repair;
        }
        Ok(())
    }

    fn temporary(&mut self) -> Result<(), PathError> {
        let dir = self.store.dir(Part::Tmp);
        if self.how.repair {
            temp::sweep(&dir)?;
        }
        let left = temp::left_over(&dir)?;
        if left > 0 {
            let problem = format!(
                "{left} temporary files of processes that were killed; \
                                   the next command that writes removes them"
            );
            self.found(Severity::Leftover, &dir, problem);
        }
        Ok(())
    }

    fn mounts(&mut self) -> Result<(), StoreError> {
        let mounts = Mounts::new(&self.store.root);
        if self.how.repair {
            for state in mounts.list().map_err(StoreError::mounts)?.cleared {
                let problem = format!("the mount of {} was dead", state.image);
                let dir = self.store.dir(Part::Mounts).join(state.id);
                self.found(Severity::Leftover, &dir, problem).repair = Some("unmounted".to_owned());
            }
        }
        let (live, dead) = mounts.count().map_err(StoreError::mounts)?;
        self.health.mounts = live;
        if dead > 0 {
            let problem = format!("{dead} dead mounts; `kfs mounts` clears them away");
            self.found(Severity::Leftover, &self.store.dir(Part::Mounts), problem);
        }
        Ok(())
    }
}

/// Where the bytes of a blob go that is only to be verified.
struct Counted<'a>(&'a dyn Fn(u64));

impl io::Write for Counted<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        (self.0)(data.len() as u64);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether there was no room for what a comparison needs.
fn is_full(compared: &Result<(), RewriteError>) -> bool {
    match compared {
        Err(RewriteError::Source(LayerError::Index { source, .. })) => {
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        }
        Ok(()) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
