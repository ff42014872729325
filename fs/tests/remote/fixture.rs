//! An image with one layer of chunks, each a zstd frame of its own, as zstd:chunked has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kfs_fs::cache::Cache;
use kfs_fs::content::Options;
use kfs_fs::digest::{DiffId, Digest};
use kfs_fs::filesystem::{ImageFs, Ino, Resolved};
use kfs_fs::layer::index::{Coding, Extent, IndexBuilder, Span, SpanDigest, Summary};
use kfs_fs::layer::{Entry, Kind};
use kfs_fs::oci::manifest::{CONFIG, Descriptor, ImageConfig, LAYER_ZSTD, Manifest};
use kfs_fs::oci::{Image, Layer};
use tempfile::TempDir;

use crate::source::{Remote, wait_until};

pub(crate) const MIB: usize = 1 << 20;

/// The directories of a store.
pub(crate) struct Store {
    dir: TempDir,
}

impl Store {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["indexes", "cache"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn indexes(&self) -> PathBuf {
        self.dir.path().join("indexes")
    }

    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    pub(crate) fn cache(&self, limit: u64) -> Arc<Cache> {
        Arc::new(Cache::new(&self.cache_dir(), &self.indexes(), limit))
    }

    /// A file of the only layer's cache.
    pub(crate) fn cache_file(&self, name: &str) -> PathBuf {
        let dirs = std::fs::read_dir(self.cache_dir()).unwrap();
        let mut dirs = dirs.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
        let dir = dirs.next().expect("something is cached");
        assert!(dirs.next().is_none());
        dir.join(name)
    }
}

/// A layer in the registry.
pub(crate) struct Remotely {
    pub(crate) remote: Arc<Remote>,
    pub(crate) image: Image,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

/// Bytes that do not compress and differ by `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

impl Remotely {
    /// Puts a layer of these files into the registry, and its index into the store.
    pub(crate) fn new(store: &Store, files: &[(&str, Vec<u8>)], chunk: usize) -> Self {
        Self::tampered(store, files, chunk, |_, _| ())
    }

    /// As `new`, but the index says what `tamper` makes of each span.
    pub(crate) fn tampered(
        store: &Store,
        files: &[(&str, Vec<u8>)],
        chunk: usize,
        tamper: impl Fn(usize, &mut Span),
    ) -> Self {
        let mut builder = IndexBuilder::new(&store.indexes()).unwrap();
        let (mut blob, mut content_len, mut number) = (Vec::new(), 0, 0);
        for (path, data) in files {
            let extent =
                Extent { file_offset: 0, content_offset: content_len, len: data.len() as u64 };
            builder.entry(&entry(path, data.len()), &[extent]).unwrap();
            for piece in data.chunks(chunk) {
                let stored = zstd::bulk::compress(piece, 1).unwrap();
                let mut span = Span {
                    content_offset: content_len,
                    content_len: piece.len() as u64,
                    blob_offset: blob.len() as u64,
                    blob_len: stored.len() as u64,
                    coding: Coding::Zstd,
                    bits: 0,
                    inner_offset: 0,
                    digest: SpanDigest::Sha256(Digest::of(piece)),
                };
                tamper(number, &mut span);
                builder.span(&span, &[]).unwrap();
                number += 1;
                blob.extend(stored);
                content_len += piece.len() as u64;
            }
        }
        let descriptor = Descriptor::of(LAYER_ZSTD, &blob);
        let diff_id = DiffId::new(descriptor.digest);
        let digest = descriptor.digest;
        let summary =
            Summary { digest, diff_id, toc: None, blob_len: blob.len() as u64, content_len };
        builder.finish(&summary).unwrap();
        let remote = Remote::new(blob);
        let layer = Layer { descriptor, diff_id, blob: remote.clone(), ztoc: None };
        let files = files.iter().map(|(path, data)| ((*path).to_owned(), data.clone())).collect();
        Self { remote, image: image(layer), files }
    }

    pub(crate) fn open(&self, store: &Store, options: Options) -> ImageFs {
        ImageFs::open_with(&self.image, &store.indexes(), &|_| (), options).unwrap()
    }

    /// Reads the whole of a file, and waits until all that was fetched is kept.
    pub(crate) fn check(&self, fs: &ImageFs, path: &str) {
        let data = fs.read(find(fs, path), 0, usize::MAX).unwrap();
        assert!(data == self.files[path], "{path} is wrong");
        settle(fs);
    }
}

/// Waits until nothing is being fetched.
pub(crate) fn settle(fs: &ImageFs) {
    wait_until("nothing is being fetched", || fs.stats().in_flight == 0);
}

pub(crate) fn cached(cache: &Arc<Cache>) -> Options {
    Options { cache: Some(cache.clone()), ..Options::default() }
}

/// No cache on disk, and no patience.
pub(crate) fn impatient() -> Options {
    Options { timeout: Duration::from_millis(300), ..Options::default() }
}

pub(crate) fn find(fs: &ImageFs, path: &str) -> Ino {
    match fs.resolve(path.as_bytes(), true).unwrap() {
        Resolved::Found(ino, _) => ino,
        other => panic!("{path}: {other:?}"),
    }
}

fn entry(path: &str, size: usize) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind: Kind::File,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Default::default(),
        size: size as u64,
        xattrs: Default::default(),
    }
}

pub(crate) fn image(layer: Layer) -> Image {
    Image {
        name: "test".to_owned(),
        digest: Digest::of(b"{}"),
        manifest: Manifest {
            schema_version: 2,
            media_type: None,
            config: Descriptor::of(CONFIG, b"{}"),
            layers: vec![layer.descriptor.clone()],
            annotations: Default::default(),
        },
        manifest_json: b"{}".to_vec(),
        config: ImageConfig::default(),
        config_json: b"{}".to_vec(),
        layers: vec![layer],
    }
}

impl Remotely {
    /// The same with other stored bytes, as the tampered index describes them.
    pub(crate) fn with_blob(mut self, blob: Vec<u8>) -> Self {
        self.remote = Remote::new(blob);
        self.image.layers[0].blob = self.remote.clone();
        self
    }
}
