//! Images made in code, their blobs in memory, and their trees as plain lists.

#![allow(dead_code, reason = "every test uses its part")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use kfs_fs::blob::BlobSource;
use kfs_fs::digest::{DiffId, Digest};
use kfs_fs::filesystem::{ImageFs, Ino};
use kfs_fs::layer::{Device, Entry, Kind, Timestamp};
use kfs_fs::oci::manifest::{CONFIG, Descriptor, ImageConfig, LAYER_TAR, Manifest};
use kfs_fs::oci::{Image, Layer};
use tempfile::TempDir;

/// A blob in memory.
pub(crate) struct Memory(pub(crate) Vec<u8>);

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl BlobSource for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.0.get(at..)).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }

    fn location(&self) -> String {
        "memory".into()
    }
}

/// A layer whose blob is `blob` and whose uncompressed stream is `content`.
pub(crate) fn layer(blob: Vec<u8>, content: &[u8]) -> Layer {
    Layer {
        descriptor: Descriptor::of(LAYER_TAR, &blob),
        diff_id: DiffId::new(Digest::of(content)),
        blob: Arc::new(Memory(blob)),
        ztoc: None,
    }
}

pub(crate) fn image(layers: Vec<Layer>) -> Image {
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::of(CONFIG, b""),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: BTreeMap::new(),
    };
    Image {
        name: "test".into(),
        digest: Digest::of(b""),
        manifest,
        manifest_json: Vec::new(),
        config: ImageConfig::default(),
        config_json: Vec::new(),
        layers,
    }
}

/// A directory for indexes, in memory where that is possible: they are synced to disk.
pub(crate) fn index_dir() -> TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(data, 1).unwrap()
}

/// A tar member.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) entry: Entry,
    pub(crate) content: Vec<u8>,
}

impl Member {
    pub(crate) fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        let (path, mtime, xattrs) = (path.into(), Timestamp::default(), Vec::new());
        let entry = Entry { path, kind, mode: 0o755, uid: 0, gid: 0, mtime, size: 0, xattrs };
        Self { entry, content: Vec::new() }
    }

    pub(crate) fn file(path: impl Into<Vec<u8>>, content: impl Into<Vec<u8>>) -> Self {
        Self { content: content.into(), ..Self::new(path, Kind::File) }
    }
}

/// A tar stream of these members, by the `tar` crate.
pub(crate) fn tar_of(members: &[Member]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for Member { entry, content } in members {
        let mut header = tar::Header::new_ustar();
        let (flag, link, device) = match &entry.kind {
            Kind::File => (tar::EntryType::Regular, &[][..], None),
            Kind::Directory => (tar::EntryType::Directory, &[][..], None),
            Kind::Symlink(target) => (tar::EntryType::Symlink, &target[..], None),
            Kind::Hardlink(target) => (tar::EntryType::Link, &target[..], None),
            Kind::CharDevice(device) => (tar::EntryType::Char, &[][..], Some(device)),
            Kind::BlockDevice(device) => (tar::EntryType::Block, &[][..], Some(device)),
            Kind::Fifo => (tar::EntryType::Fifo, &[][..], None),
        };
        header.set_entry_type(flag);
        let ustar = header.as_ustar_mut().unwrap();
        let name: &[u8] = if entry.path.is_empty() { b"./" } else { &entry.path };
        let (short_name, short_link) = (&name[..name.len().min(100)], &link[..link.len().min(100)]);
        ustar.name[..short_name.len()].copy_from_slice(short_name);
        ustar.linkname[..short_link.len()].copy_from_slice(short_link);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_size(content.len() as u64);
        if let Some(Device { major, minor }) = device {
            header.set_device_major(*major).unwrap();
            header.set_device_minor(*minor).unwrap();
        }
        header.set_cksum();
        let mut records = vec![("mtime".to_owned(), pax_time(entry.mtime).into_bytes())];
        records.extend(entry.xattrs.iter().map(|(name, value)| {
            (format!("SCHILY.xattr.{}", std::str::from_utf8(name).unwrap()), value.clone())
        }));
        for (key, value) in [("path", name), ("linkpath", link)] {
            if value.len() > 100 {
                records.push((key.to_owned(), value.to_vec()));
            }
        }
        let records = records.iter().map(|(key, value)| (&key[..], &value[..]));
        tar.append_pax_extensions(records).unwrap();
        tar.append(&header, &content[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn pax_time(time: Timestamp) -> String {
    let Timestamp { seconds, nanos } = time;
    if seconds < 0 && nanos > 0 {
        return format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

/// All that can be seen of a name in a tree.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Names with the same value are one inode.
    pub(crate) inode: u64,
    /// With the type.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) nlink: u32,
    pub(crate) size: u64,
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) content: Vec<u8>,
}

/// A tree by paths, the root's being empty.
pub(crate) type Listing = BTreeMap<Vec<u8>, Seen>;

pub(crate) const S_IFMT: u32 = 0o170_000;
pub(crate) const S_IFREG: u32 = 0o100_000;
pub(crate) const S_IFDIR: u32 = 0o040_000;
pub(crate) const S_IFLNK: u32 = 0o120_000;

impl Seen {
    pub(crate) fn is_dir(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }
}

/// Everything of an image through the interface that FUSE uses.
pub(crate) fn listing(fs: &ImageFs) -> Listing {
    let mut listing = Listing::new();
    let mut todo = vec![(Vec::new(), Ino::ROOT, Ino::ROOT)];
    while let Some((path, ino, parent)) = todo.pop() {
        let seen = seen(fs, ino);
        if seen.is_dir() {
            assert_eq!(fs.parent(ino).unwrap(), parent, "{}", path.escape_ascii());
            for (name, child) in names(fs, ino) {
                let child_path =
                    if path.is_empty() { name } else { [&path, &name[..]].join(&b'/') };
                todo.push((child_path, child, ino));
            }
        }
        listing.insert(path, seen);
    }
    listing
}

/// The names of a directory, held against `lookup`.
fn names(fs: &ImageFs, dir: Ino) -> Vec<(Vec<u8>, Ino)> {
    let mut names: Vec<(Vec<u8>, Ino)> = Vec::new();
    while let Some(entry) = fs.entry_at(dir, names.len() as u64).unwrap() {
        let found = fs.lookup(dir, entry.name).unwrap().unwrap();
        assert_eq!((found.ino, found.mode), (entry.ino, entry.mode));
        assert!(names.last().is_none_or(|(last, _)| &last[..] < entry.name), "names are sorted");
        names.push((entry.name.to_vec(), entry.ino));
    }
    names
}

fn seen(fs: &ImageFs, ino: Ino) -> Seen {
    let attr = fs.attr(ino).unwrap();
    let xattrs = fs.xattr_names(ino).unwrap().into_iter();
    let kind = attr.mode & S_IFMT;
    Seen {
        inode: ino.0,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        device: attr.rdev,
        mtime: attr.mtime,
        nlink: attr.nlink,
        size: attr.size,
        target: if kind == S_IFLNK { fs.readlink(ino).unwrap().to_vec() } else { Vec::new() },
        xattrs: xattrs
            .map(|name| (name.to_vec(), fs.xattr(ino, name).unwrap().unwrap().to_vec()))
            .collect(),
        content: if kind == S_IFREG { fs.read(ino, 0, usize::MAX).unwrap() } else { Vec::new() },
    }
}

/// A line for each name, in which inode numbers do not show, but which names share one.
pub(crate) fn lines(listing: &Listing) -> Vec<String> {
    let mut first: BTreeMap<u64, &[u8]> = BTreeMap::new();
    for (path, seen) in listing {
        first.entry(seen.inode).or_insert(path);
    }
    let line = |(path, seen): (&Vec<u8>, &Seen)| {
        let Seen { mode, uid, gid, device, nlink, size, .. } = seen;
        let Timestamp { seconds, nanos } = seen.mtime;
        let shared = first[&seen.inode].escape_ascii();
        let (path, target) = (path.escape_ascii(), seen.target.escape_ascii());
        let content = Digest::of(&seen.content).short();
        let xattrs: Vec<String> = seen
            .xattrs
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        format!(
            "/{path}: {mode:o} {uid}:{gid} {device:x} {seconds}.{nanos:09} links {nlink} size {size} \
             -> '{target}' {xattrs:?} {content} as /{shared}"
        )
    };
    listing.iter().map(line).collect()
}

/// Counts links anew, for listings that were put together.
pub(crate) fn count_links(listing: &mut Listing) {
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    let mut subdirs: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for (path, seen) in &*listing {
        *counts.entry(seen.inode).or_default() += 1;
        if seen.is_dir() && !path.is_empty() {
            *subdirs.entry(parent_of(path).to_vec()).or_default() += 1;
        }
    }
    for (path, seen) in listing {
        seen.nlink = match seen.is_dir() {
            true => 2 + subdirs.get(path).copied().unwrap_or(0),
            false => counts[&seen.inode],
        };
    }
}

pub(crate) fn parent_of(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}
