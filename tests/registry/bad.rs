//! A registry behind a proxy.

use std::fs;
use std::io;
use std::time::Duration;

use kfs_fs::blob::BlobSource as _;
use kfs_fs::digest::Digest;
use kfs_fs::oci::registry::{Registries, RegistryBlob, Settings};

use crate::server::Registry;
use kfs_measure::proxy::{Proxy, Shape};

/// Requests for blobs, where the proxy did not redirect them to.
pub(crate) const BLOBS: &str = "GET /v2/a/blobs/";
/// What is on its way when a connection breaks, in bytes.
pub(crate) const SLACK: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(1);

/// A registry behind a proxy, with the image `a:1` of one layer.
pub(crate) struct Bad {
    pub(crate) registry: Registry,
    pub(crate) proxy: Proxy,
    pub(crate) digest: String,
    /// The file `big`.
    pub(crate) big: Vec<u8>,
    pub(crate) layer: Vec<u8>,
}

impl Bad {
    pub(crate) fn start() -> Option<Self> {
        Self::start_shaped(Shape::default())
    }

    pub(crate) fn start_shaped(shape: Shape) -> Option<Self> {
        let registry = Registry::start(false)?;
        let big: Vec<u8> = (0..400_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes())
            .collect();
        let files: [(&str, &[u8]); 2] = [("big", &big), ("hello", b"world")];
        let digest = registry.image_with("a:1", &files);
        let layers = fs::read_dir(registry.path("origin/blobs/sha256")).unwrap();
        let layers = layers.map(|entry| fs::read(entry.unwrap().path()).unwrap());
        let layer = layers.max_by_key(Vec::len).unwrap();
        let proxy = Proxy::start("127.0.0.1:0", registry.address(), shape).unwrap();
        Some(Self { registry, proxy, digest, big, layer })
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/a:1", self.proxy.address())
    }

    /// The layer, for a client of its own.
    pub(crate) fn blob(&self) -> RegistryBlob {
        let dir = self.registry.path("");
        let mut settings = Settings::new(dir).with_read_timeout(PATIENCE);
        settings.plain_http = true;
        let repository = Registries::new(settings).repository(&self.name().parse().unwrap());
        repository.unwrap().blob(Digest::of(&self.layer), self.layer.len() as u64)
    }

    #[track_caller]
    pub(crate) fn assert_reads(&self, blob: &RegistryBlob, offset: usize, len: usize) {
        let read = read(blob, offset, len).unwrap();
        assert!(read == self.layer[offset..offset + len], "other bytes at {offset}");
    }

    /// Bytes that passed in answers to requests for blobs.
    pub(crate) fn bytes(&self) -> u64 {
        self.proxy.seen("/blobs/").iter().map(|seen| seen.bytes).sum()
    }

    /// Whether a store has the layer, as a whole or in part.
    pub(crate) fn has_layer(&self, store: &str) -> bool {
        let hex = Digest::of(&self.layer).hex();
        let store = self.registry.path(store);
        let whole = store.join("blobs/sha256").join(&hex);
        whole.exists() || store.join("remotes").join(hex + ".partial").exists()
    }
}

pub(crate) fn read(blob: &RegistryBlob, offset: usize, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let n = blob.read_at(offset as u64, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}
