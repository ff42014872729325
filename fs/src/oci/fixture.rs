//! Images and stores for tests, made in code.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::manifest::{
    CONFIG, Compression, Descriptor, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MANIFEST,
};
use super::store::{Expected, Part, Store, Writer};
use crate::digest::Digest;

/// A tar with these files.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn compress(data: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => data.to_vec(),
        Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(data).unwrap();
            gzip.finish().unwrap()
        }
    }
}

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn writer(&self) -> Writer {
        self.store.writer().unwrap()
    }

    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        self.writer().put_blob(bytes, Expected::from(&descriptor), "test").unwrap();
        descriptor
    }

    pub(crate) fn put_json(&self, media_type: &str, value: &Value) -> Descriptor {
        self.put(media_type, &serde_json::to_vec(value).unwrap())
    }

    /// A layer with one file, and its diffID.
    pub(crate) fn layer(&self, content: &str, compression: Compression) -> (Descriptor, Digest) {
        let tar = tar_of(&[("file", content.as_bytes())]);
        let media_type = match compression {
            Compression::None => LAYER_TAR,
            Compression::Gzip => LAYER_GZIP,
            Compression::Zstd => LAYER_ZSTD,
        };
        (self.put(media_type, &compress(&tar, compression)), Digest::of(&tar))
    }

    /// An image's manifest, not yet in the index.
    pub(crate) fn manifest(&self, layers: &[(Descriptor, Digest)]) -> Descriptor {
        let (descriptors, ids): (Vec<_>, Vec<_>) = layers.iter().cloned().unzip();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids}});
        let config = self.put_json(CONFIG, &config);
        self.put_json(
            MANIFEST,
            &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors}),
        )
    }

    /// An image with gzip layers of these contents.
    pub(crate) fn image(&self, name: &str, contents: &[&str]) -> Descriptor {
        let layers: Vec<_> =
            contents.iter().map(|content| self.layer(content, Compression::Gzip)).collect();
        let descriptor = self.manifest(&layers);
        self.name(Some(name), &descriptor);
        descriptor
    }

    pub(crate) fn name(&self, name: Option<&str>, descriptor: &Descriptor) {
        let entry = (name.map(str::to_owned), descriptor.clone());
        self.writer().add_entries(vec![entry]).unwrap();
    }

    /// Names and digests in the order of the index.
    pub(crate) fn names(&self) -> Vec<(Option<String>, Digest)> {
        let images = self.store.images().unwrap();
        images.into_iter().map(|image| (image.name, image.digest)).collect()
    }

    pub(crate) fn blobs(&self) -> BTreeMap<String, u64> {
        list(&self.store.root().join("blobs/sha256"))
    }

    pub(crate) fn has(&self, digest: Digest) -> bool {
        self.store.blob_path(digest).exists()
    }

    /// Nothing is stored, and nothing is left over.
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.names(), []);
        assert_eq!(self.blobs(), BTreeMap::new());
        self.assert_tidy();
    }

    pub(crate) fn assert_tidy(&self) {
        assert_eq!(list(&self.store.dir(Part::Tmp)), BTreeMap::new());
    }

    /// Overwrites a byte in the middle of a blob.
    pub(crate) fn flip(&self, digest: Digest) {
        let path = self.store.blob_path(digest);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
}

fn list(dir: &Path) -> BTreeMap<String, u64> {
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
    };
    std::fs::read_dir(dir).unwrap().map(entry).collect()
}
