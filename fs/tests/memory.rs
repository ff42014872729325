//! Memory does not grow with the size of a layer. One test in a process of its own: what is
//! measured is the peak of the whole process.

mod images;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use images::image;
use kfs_fs::blob::FileBlob;
use kfs_fs::digest::{DiffId, Digest, Hasher};
use kfs_fs::filesystem::{ImageFs, Ino};
use kfs_fs::oci::Layer;
use kfs_fs::oci::manifest::{Descriptor, LAYER_TAR};

const MIB: u64 = 1 << 20;
const LARGE: u64 = 400 * MIB;
const MANY: u64 = 200_000;

/// Mostly zeros, every eighth MiB noise.
struct Content {
    at: u64,
    state: u64,
}

impl Read for Content {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(LARGE - self.at).unwrap();
        let n = buf.len().min(left);
        for byte in &mut buf[..n] {
            *byte = 0;
            if (self.at / MIB).is_multiple_of(8) {
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = self.state.to_be_bytes()[0];
            }
            self.at += 1;
        }
        Ok(n)
    }
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header
}

fn digest(path: &Path) -> Digest {
    let (mut file, mut hasher) = (File::open(path).unwrap(), Hasher::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hasher.finish(),
            n => hasher.update(&piece[..n]),
        }
    }
}

/// The layer whose blob is the file `blob` and whose content is the file `tar`.
fn layer(blob: &Path, tar: &Path) -> Layer {
    let size = fs::metadata(blob).unwrap().len();
    Layer {
        descriptor: Descriptor::new(LAYER_TAR, digest(blob), size),
        diff_id: DiffId::new(digest(tar)),
        blob: Arc::new(FileBlob::open(blob).unwrap()),
        ztoc: None,
    }
}

/// A field of this process's status, in bytes.
fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// How far memory grows beyond what it was, at its peak, in MiB.
fn growth(what: impl FnOnce()) -> u64 {
    // 5 sets the peak back to what is used now (proc(5), clear_refs).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmRSS");
    what();
    status("VmHWM").saturating_sub(before) / MIB
}

fn read_all(fs: &ImageFs, name: &[u8]) {
    let file = fs.lookup(Ino::ROOT, name).unwrap().unwrap();
    let mut hasher = Hasher::new();
    for offset in (0..file.size).step_by(1 << 20) {
        hasher.update(&fs.read(file.ino, offset, 1 << 20).unwrap());
    }
    let mut expected = Hasher::new();
    let (mut content, mut piece) = (Content { at: 0, state: 1 }, vec![0; 1 << 20]);
    while content.read(&mut piece).unwrap() > 0 {
        expected.update(&piece);
    }
    assert_eq!(hasher.finish(), expected.finish());
}

#[test]
fn memory_does_not_grow_with_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (tar_path, blob) = (dir.path().join("tar"), dir.path().join("blob"));
    let mut tar = tar::Builder::new(File::create(&tar_path).unwrap());
    let content = Content { at: 0, state: 1 };
    tar.append_data(&mut header(LARGE), "large", content).unwrap();
    tar.into_inner().unwrap();

    for coding in ["tar", "gzip", "zstd"] {
        let mut from = File::open(&tar_path).unwrap();
        let to = File::create(&blob).unwrap();
        match coding {
            "gzip" => {
                let mut to = flate2::write::GzEncoder::new(to, flate2::Compression::fast());
                io::copy(&mut from, &mut to).unwrap();
                to.finish().unwrap();
            }
            "zstd" => zstd::stream::copy_encode(from, to, 1).unwrap(),
            _ => _ = io::copy(&mut from, &mut { to }).unwrap(),
        }
        let image = image(vec![layer(&blob, &tar_path)]);
        let grown = growth(|| {
            let fs = ImageFs::open(&image, dir.path(), &|_| ()).unwrap();
            read_all(&fs, b"large");
        });
        eprintln!("{coding}: {grown} MiB for a layer of {} MiB", LARGE / MIB);
        assert!(grown < 64, "{coding}: {grown} MiB");
    }

    let mut tar = tar::Builder::new(io::BufWriter::new(File::create(&tar_path).unwrap()));
    for number in 0..MANY {
        let path = format!("dir{}/file{number}", number % 2000);
        tar.append_data(&mut header(0), path, io::empty()).unwrap();
    }
    tar.into_inner().unwrap();
    let image = image(vec![layer(&tar_path, &tar_path)]);
    let open = || {
        let fs = ImageFs::open(&image, dir.path(), &|_| ()).unwrap();
        assert_eq!(fs.totals().inodes, MANY + 2001);
    };
    let (first, again) = (growth(open), growth(open));
    eprintln!("{MANY} files: {first} MiB to index and merge, {again} MiB to open");
    assert!(first < 128, "{first} MiB");
    assert!(again < 2, "{again} MiB");
}
