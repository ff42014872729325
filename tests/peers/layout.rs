//! OCI layouts made in code, layer by layer.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kfs_fs::digest::Digest;
use serde_json::{Value, json};
use tar::{EntryType, Header};

/// Writes a layout of one image, named `image`, with these layers, the bottom one first: media
/// type, blob, tar.
pub(crate) fn write(dir: &Path, layers: &[(&str, Vec<u8>, &[u8])]) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(dir.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    };
    let put_json = |kind: &str, value: &Value| {
        let media_type = format!("application/vnd.oci.image.{kind}.v1+json");
        put(&media_type, &serde_json::to_vec(value).unwrap())
    };
    let diff_ids: Vec<_> = layers.iter().map(|(_, _, tar)| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let layers: Vec<_> = layers
        .iter()
        .map(|(kind, blob, _)| put(&format!("application/vnd.oci.image.layer.v1.{kind}"), blob))
        .collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put_json("config", &config),
        "layers": layers,
    });
    let mut descriptor = put_json("manifest", &manifest);
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "image" });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// One member of gzip.
pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(data).unwrap();
    gzip.finish().unwrap()
}

/// A layer that grows by what is added; each entry has a time of its own.
pub(crate) struct LayerTar {
    tar: tar::Builder<Vec<u8>>,
    time: u64,
    last: Header,
}

impl LayerTar {
    /// A layer whose times start here.
    pub(crate) fn new(time: u64) -> Self {
        Self { tar: tar::Builder::new(Vec::new()), time, last: Header::new_gnu() }
    }

    fn header(&mut self, kind: EntryType, mode: u32) -> Header {
        self.time += 1;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(self.time);
        header.set_size(0);
        header.set_uid(0);
        header.set_gid(0);
        self.last = header.clone();
        header
    }

    fn append(&mut self, mut header: Header, path: impl AsRef<OsStr>, content: &[u8]) -> &mut Self {
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, Path::new(path.as_ref()), content).unwrap();
        self
    }

    /// A directory.
    pub(crate) fn dir(&mut self, path: &str, mode: u32) -> &mut Self {
        let header = self.header(EntryType::Directory, mode);
        self.append(header, path, b"")
    }

    /// A regular file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut Self {
        let header = self.header(EntryType::Regular, mode);
        self.append(header, path, content)
    }

    /// A file whose name need not be text.
    pub(crate) fn odd(&mut self, path: &[u8]) -> &mut Self {
        let header = self.header(EntryType::Regular, 0o644);
        self.append(header, OsStr::from_bytes(path), path)
    }

    /// A file of another owner.
    pub(crate) fn owned(&mut self, path: &str, uid: u64, gid: u64) -> &mut Self {
        let mut header = self.header(EntryType::Regular, 0o640);
        header.set_uid(uid);
        header.set_gid(gid);
        self.append(header, path, b"owned")
    }

    /// A whiteout or an opaque marker.
    pub(crate) fn mark(&mut self, path: &str) -> &mut Self {
        self.file(path, 0o600, b"")
    }

    /// A FIFO.
    pub(crate) fn fifo(&mut self, path: &str) -> &mut Self {
        let header = self.header(EntryType::Fifo, 0o622);
        self.append(header, path, b"")
    }

    /// A device.
    pub(crate) fn device(&mut self, path: &str, kind: EntryType, numbers: (u32, u32)) -> &mut Self {
        let mut header = self.header(kind, 0o666);
        header.set_device_major(numbers.0).unwrap();
        header.set_device_minor(numbers.1).unwrap();
        self.append(header, path, b"")
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        let mut header = self.header(EntryType::Symlink, 0o777);
        self.tar.append_link(&mut header, path, target).unwrap();
        self
    }

    /// Another name of the file that was added last. Its header says of the file what the first
    /// one said, as all writers do: tools differ in which of the two they take.
    pub(crate) fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        let mut header = self.last.clone();
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        self.tar.append_link(&mut header, path, target).unwrap();
        self
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Self {
        self.tar.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    /// The layer's tar.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        self.tar.into_inner()
    }
}
