use std::sync::Arc;

use super::*;
use crate::blob::FileBlob;
use crate::digest::DiffId;
use crate::oci::manifest::{Descriptor, ImageConfig, LAYER_TAR, Manifest};

/// An image of uncompressed layers, bottom first.
fn image(dir: &Path, tars: &[Vec<u8>]) -> Image {
    let layers: Vec<Layer> = tars
        .iter()
        .enumerate()
        .map(|(number, tar)| {
            let path = dir.join(number.to_string());
            std::fs::write(&path, tar).unwrap();
            Layer {
                descriptor: Descriptor::of(LAYER_TAR, tar),
                diff_id: DiffId::new(Digest::of(tar)),
                blob: Arc::new(FileBlob::open(&path).unwrap()),
                ztoc: None,
            }
        })
        .collect();
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::of("", b""),
        layers: layers.iter().map(|layer| layer.descriptor.clone()).collect(),
        annotations: Default::default(),
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

#[derive(Default)]
pub(crate) struct Tar(Option<tar::Builder<Vec<u8>>>);

impl Tar {
    fn add(mut self, kind: tar::EntryType, path: &str, data: &[u8], link: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4751);
        header.set_uid(1000);
        header.set_mtime(99);
        header.set_size(data.len() as u64);
        let builder = self.0.get_or_insert_with(|| tar::Builder::new(Vec::new()));
        if link.is_empty() {
            builder.append_data(&mut header, path, data).unwrap();
        } else {
            builder.append_link(&mut header, path, link).unwrap();
        }
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.add(tar::EntryType::Regular, path, data, "")
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.add(tar::EntryType::Directory, path, b"", "")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.add(tar::EntryType::Symlink, path, b"", target)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.unwrap().into_inner().unwrap()
    }
}

pub(crate) fn open(dir: &Path, tars: &[Vec<u8>]) -> ImageFs {
    ImageFs::open(&image(dir, tars), dir, &|_| ()).unwrap()
}

fn find(fs: &ImageFs, path: &str) -> Ino {
    match fs.resolve(path.as_bytes(), true).unwrap() {
        Resolved::Found(ino, _) => ino,
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn files_are_read_across_spans_and_at_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..1_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    let fs = open(dir.path(), &[Tar::default().file("big", &data).file("empty", b"").done()]);
    let big = find(&fs, "big");
    let attr = fs.attr(big).unwrap();
    assert_eq!((attr.size, attr.mode, attr.uid), (4_000_000, 0o104_751, 1000));
    assert_eq!((attr.blocks, attr.mtime.seconds, attr.nlink), (7816, 99, 1));
    for (offset, size) in [(0, 10), (262_140, 8), (1, 3_000_000), (3_999_999, 100)] {
        let end = (offset + size).min(data.len());
        assert!(fs.read(big, offset as u64, size).unwrap() == data[offset..end], "{offset}");
    }
    for past in [4_000_000, u64::MAX] {
        assert!(fs.read(big, past, 10).unwrap().is_empty());
    }
    assert!(fs.read(find(&fs, "empty"), 0, 10).unwrap().is_empty());
    assert_eq!(fs.totals(), Totals { inodes: 3, bytes: 4_000_000 });
}

#[test]
fn what_is_asked_of_the_wrong_inode_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let fs = open(dir.path(), &[Tar::default().file("f", b"x").dir("d").symlink("l", "f").done()]);
    let errno = |error: ReadError| error.errno();
    let (f, d) = (find(&fs, "f"), find(&fs, "d"));
    let l = fs.lookup(Ino::ROOT, b"l").unwrap().unwrap().ino;
    assert_eq!(fs.readlink(l).unwrap(), b"f");
    assert_eq!(fs.read(d, 0, 1).map_err(errno), Err(libc_errno("EISDIR")));
    assert_eq!(fs.read(l, 0, 1).map_err(errno), Err(libc_errno("EINVAL")));
    assert_eq!(fs.lookup(f, b"x").map_err(errno), Err(libc_errno("ENOTDIR")));
    assert_eq!(fs.readlink(f).map_err(errno), Err(libc_errno("EINVAL")));
    for ino in [0, 5, u64::MAX] {
        assert_eq!(fs.attr(Ino(ino)).map_err(errno), Err(libc_errno("ESTALE")));
    }
}

fn libc_errno(name: &str) -> i32 {
    use nix::errno::Errno;
    (match name {
        "EISDIR" => Errno::EISDIR,
        "EINVAL" => Errno::EINVAL,
        "ENOTDIR" => Errno::ENOTDIR,
        "ESTALE" => Errno::ESTALE,
        _ => Errno::EIO,
    }) as i32
}

#[test]
fn paths_follow_symlinks_inside_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let tar = Tar::default()
        .dir("a")
        .file("a/f", b"1")
        .symlink("up", "../../../a")
        .symlink("abs", "/a/f")
        .symlink("a/rel", "../abs")
        .symlink("loop", "loop")
        .done();
    let fs = open(dir.path(), &[tar]);
    let f = find(&fs, "a/f");
    for path in ["/a/f", "up/f", "abs", "a/rel", "./a//../up/./rel", "a/f/"] {
        assert_eq!(find(&fs, path), f, "{path}");
    }
    let resolved = |path: &str, follow| fs.resolve(path.as_bytes(), follow).unwrap();
    assert_eq!(resolved("up/rel", true), Resolved::Found(f, b"/a/f".to_vec()));
    assert!(matches!(resolved("abs", false), Resolved::Found(ino, _) if ino != f));
    assert_eq!(resolved("", true), Resolved::Found(Ino::ROOT, b"/".to_vec()));
    assert_eq!(resolved("loop/x", true), Resolved::Loop);
    assert_eq!(resolved("a/f/x", true), Resolved::NotADirectory(b"/a/f".to_vec()));
    let (parent, name) = (b"/a".to_vec(), b"no".to_vec());
    let missing = |last| Resolved::Missing { parent: parent.clone(), name: name.clone(), last };
    assert_eq!(resolved("up/no/x", true), missing(false));
    assert_eq!(resolved("up/no", true), missing(true));
}

#[test]
fn wrong_content_is_an_error_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let tar = Tar::default().file("f", &[7; 600_000]).done();
    let image = image(dir.path(), &[tar]);
    let fs = ImageFs::open(&image, dir.path(), &|_| ()).unwrap();
    let mut blob = std::fs::read(dir.path().join("0")).unwrap();
    blob[300_000] ^= 1;
    std::fs::write(dir.path().join("0"), blob).unwrap();
    let f = find(&fs, "f");
    assert_eq!(fs.read(f, 0, 100).unwrap(), [7; 100], "another span is not concerned");
    // The file starts behind its header, in the middle of a block.
    let block = 36 * 8192 - 512..37 * 8192 - 512;
    assert_eq!(fs.read(f, block.start - 9, 9).unwrap(), [7; 9], "nor is the block before it");
    assert_eq!(fs.read(f, block.end, 50_000).unwrap(), [7; 50_000], "nor are those after it");
    for (at, size) in [(block.start, 1), (block.end - 1, 1), (block.start - 1, 2), (0, 600_000)] {
        let error = fs.read(f, at, size).unwrap_err();
        assert_eq!(error.errno(), libc_errno("EIO"), "{at}");
        let message = error.to_string();
        let digest = image.layers[0].descriptor.digest.to_string();
        let told = [digest.as_str(), "span 1", "at byte 294912"];
        assert!(told.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn each_byte_is_verified_up_to_the_last() {
    // With 1 KiB of zeros at its end, the stream ends at the end of a block, and behind it.
    for size in [4 * 8192 - 1536, 4 * 8192 - 1024, 100] {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path(), &[Tar::default().file("f", &vec![7; size]).done()]);
        let fs = ImageFs::open(&image, dir.path(), &|_| ()).unwrap();
        let f = find(&fs, "f");
        let whole = std::fs::read(dir.path().join("0")).unwrap();
        for (damaged, read) in [(0, 0), (1, 1), (size - 1, size - 1), (size + 500, size - 1)] {
            let mut blob = whole.clone();
            blob[512 + damaged] ^= 1;
            std::fs::write(dir.path().join("0"), blob).unwrap();
            let error = fs.read(f, read as u64, 1).unwrap_err();
            assert_eq!(error.errno(), libc_errno("EIO"), "{damaged} of {size}");
        }
        std::fs::write(dir.path().join("0"), &whole[..512 + size - 1]).unwrap();
        assert_eq!(fs.read(f, size as u64 - 1, 1).unwrap_err().errno(), libc_errno("EIO"));
        std::fs::write(dir.path().join("0"), whole).unwrap();
        assert_eq!(fs.read(f, 0, size + 1).unwrap(), vec![7; size]);
    }
}

#[test]
fn a_tree_of_another_version_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), &[Tar::default().file("f", b"x").done()]);
    drop(ImageFs::open(&image, dir.path(), &|_| ()).unwrap());
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "tree" || end == "layer") {
            let mut data = std::fs::read(&path).unwrap();
            data[8] += 1;
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, &data[..data.len() - 1]).unwrap();
        }
    }
    let fs = ImageFs::open(&image, dir.path(), &|_| ()).unwrap();
    assert_eq!(fs.read(find(&fs, "f"), 0, 1).unwrap(), b"x");
}
