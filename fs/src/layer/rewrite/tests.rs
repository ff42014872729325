use std::sync::Arc;

use super::*;
use crate::blob::FileBlob;
use crate::digest::{DiffId, Digest};
use crate::layer::index::LayerIndex;
use crate::layer::scan;
use crate::oci::fixture::compress;
use crate::oci::manifest::{Compression as Stored, Descriptor, LAYER_GZIP};

const FORMATS: [Compression; 5] = [
    Compression::ZstdChunked(1),
    Compression::Estargz(1),
    Compression::Zstd(1),
    Compression::Gzip(1),
    Compression::None,
];

/// A directory with a layer of this tar stream in it.
struct Workshop {
    dir: tempfile::TempDir,
    layer: Layer,
}

impl Workshop {
    fn new(tar: &[u8]) -> Self {
        Self::of_blob(&compress(tar, Stored::Gzip), DiffId::new(Digest::of(tar)))
    }

    fn of_blob(blob: &[u8], diff_id: DiffId) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        std::fs::write(&path, blob).unwrap();
        std::fs::create_dir(dir.path().join("new")).unwrap();
        let layer = Layer {
            descriptor: Descriptor::of(LAYER_GZIP, blob),
            diff_id,
            blob: Arc::new(FileBlob::open(&path).unwrap()),
            ztoc: None,
        };
        Self { dir, layer }
    }

    fn rewrite(&self, compression: Compression, list: &str) -> Result<Rewritten, RewriteError> {
        let new = self.dir.path().join("new");
        let target = Target { tmp: &new, indexes: &new, compression };
        let priorities = Priorities::parse(list.as_bytes()).unwrap();
        rewrite(&self.layer, target, &priorities, &|_| ())
    }

    fn to(&self, compression: Compression) -> NewLayer {
        self.rewrite(compression, "").unwrap().layer
    }

    /// The layer as it is read from its blob anew.
    fn again(&self, new: &NewLayer) -> LayerIndex {
        let indexes = self.dir.path().join("again");
        std::fs::create_dir_all(&indexes).unwrap();
        let layer = Layer {
            descriptor: new.descriptor.clone(),
            diff_id: new.diff_id,
            blob: Arc::new(FileBlob::open(new.blob.path()).unwrap()),
            ztoc: None,
        };
        scan::open_or_scan(&layer, &indexes, &|_| ()).unwrap()
    }

    fn is_clean(&self) -> bool {
        std::fs::read_dir(self.dir.path().join("new")).unwrap().count() == 0
    }
}

/// Whether the new layer's table and its tar stream say the same.
fn agrees(new: &NewLayer) {
    let dir = tempfile::tempdir().unwrap();
    let blob = Arc::new(FileBlob::open(new.blob.path()).unwrap());
    let (descriptor, diff_id) = (new.descriptor.clone(), new.diff_id);
    let layer = Layer { descriptor, diff_id, blob, ztoc: None };
    compare(&layer, dir.path(), &|_| ()).unwrap();
}

struct Tar(::tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(::tar::Builder::new(Vec::new()))
    }

    fn add(mut self, kind: ::tar::EntryType, name: &[u8], content: &[u8]) -> Self {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_username("who").unwrap();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        let content = if kind == ::tar::EntryType::Link {
            header.set_link_name(std::str::from_utf8(content).unwrap()).unwrap();
            &[]
        } else {
            content
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn dir(self, name: &str) -> Self {
        self.add(::tar::EntryType::Directory, name.as_bytes(), &[])
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(::tar::EntryType::Regular, name.as_bytes(), content)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.add(::tar::EntryType::Link, name.as_bytes(), target.as_bytes())
    }

    fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn paths(index: &LayerIndex) -> Vec<String> {
    let path = |n| String::from_utf8_lossy(index.entry(n).unwrap().path).into_owned();
    (0..index.len()).map(path).collect()
}

fn message(result: Result<Rewritten, RewriteError>) -> String {
    match result {
        Ok(_) => panic!("it is no error"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_stream_stays_as_far_as_the_format_allows() {
    let tar = Tar::new()
        .dir("./")
        .file("./a", &[7; 70_000])
        .link("b", "./a")
        .file(".wh.c", b"")
        .file("d", b"d")
        .done();
    let workshop = Workshop::new(&tar);
    for format in FORMATS {
        let new = workshop.to(format);
        let same = new.diff_id == workshop.layer.diff_id;
        assert_eq!(same, !format.is_estargz(), "{format:?}");
        assert_eq!(new.plain, None);
        assert_eq!(new.index.summary().toc.is_some(), format.has_table());
        agrees(&new);
        assert_eq!(paths(&new.index), ["", "a", "b", ".wh.c", "d"]);
        assert_eq!(paths(&workshop.again(&new)), paths(&new.index));
        assert_eq!(workshop.to(format).descriptor, new.descriptor, "not deterministic");
        // And from each to each.
        let blob = std::fs::read(new.blob.path()).unwrap();
        let other = Workshop::of_blob(&blob, new.diff_id);
        let back = other.to(Compression::ZstdChunked(1));
        assert_eq!(paths(&back.index), ["", "a", "b", ".wh.c", "d"]);
        if same {
            assert_eq!(back.descriptor, workshop.to(Compression::ZstdChunked(1)).descriptor);
        }
    }
}

#[test]
fn of_a_path_that_is_there_twice_the_last_is_kept() {
    let twice = Tar::new().file("a", b"old").file("b", b"b").file("./a", b"newer").done();
    let linked = Tar::new().file("a", b"old").link("l", "a").file("a", b"newer").done();
    for format in FORMATS {
        let new = Workshop::new(&twice).to(format);
        assert_eq!(new.plain, None);
        let expected: &[&str] = if format.has_table() { &["b", "a"] } else { &["a", "b", "a"] };
        assert_eq!(paths(&new.index), expected);
        // What a hard link means depends on the order: all stays, without a table.
        let new = Workshop::new(&linked).to(format);
        assert_eq!(new.plain.is_some(), format.has_table());
        assert_eq!(paths(&new.index), ["a", "l", "a"]);
        if !format.is_estargz() {
            assert_eq!(new.diff_id, DiffId::new(Digest::of(&linked)));
        }
    }
}

#[test]
fn names_that_a_table_cannot_have_make_a_plain_layer() {
    let regular = ::tar::EntryType::Regular;
    let tar = Tar::new().file("a", b"a").add(regular, b"\xff", b"x").done();
    for format in &FORMATS[..2] {
        let new = Workshop::new(&tar).to(*format);
        assert_eq!(new.plain, Some(Plain::Name(vec![0xff])));
        assert_eq!(new.index.len(), 2);
    }
}

/// A sparse file of this size with 512 bytes at 1 MiB.
fn sparse(size: u64) -> Tar {
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::GNUSparse);
    header.as_mut_bytes()[0] = b's';
    header.set_size(512);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].set_offset(1 << 20);
    gnu.sparse[0].set_length(512);
    gnu.set_real_size(size);
    header.set_cksum();
    let mut tar = ::tar::Builder::new(Vec::new());
    tar.append(&header, &[5; 512][..]).unwrap();
    Tar(tar)
}

#[test]
fn holes_beyond_all_measure_make_a_plain_layer() {
    let tar = sparse(1 << 62).file("next", b"next").done();
    for format in &FORMATS[..2] {
        let new = Workshop::new(&tar).to(*format);
        assert_eq!(new.plain, Some(Plain::Sparse(b"s".to_vec())));
        assert_eq!(new.index.entry(0).unwrap().size, 1 << 62);
        assert_eq!(paths(&new.index), ["s", "next"]);
    }
}

#[test]
fn sparse_files_become_plain_where_there_is_a_table() {
    let tar = sparse(2 << 20).file("next", b"next").done();
    for format in FORMATS {
        let workshop = Workshop::new(&tar);
        let new = workshop.to(format);
        assert_eq!((paths(&new.index), &new.plain), (vec!["s".into(), "next".into()], &None));
        let entry = new.index.entry(0).unwrap();
        assert_eq!(entry.size, 2 << 20);
        assert_eq!(new.diff_id == workshop.layer.diff_id, !format.has_table());
        assert!(new.descriptor.size < 50_000 || format == Compression::None);
        let again = workshop.again(&new);
        assert_eq!(again.entry(0).unwrap().size, 2 << 20);
    }
}

#[test]
fn hot_files_come_first() {
    let tar = Tar::new()
        .dir("usr/")
        .dir("usr/bin/")
        .file("usr/bin/cold", b"cold")
        .file("usr/bin/real", b"real")
        .link("usr/bin/hot", "usr/bin/real")
        .file("etc", b"etc")
        .done();
    let workshop = Workshop::new(&tar);
    let list = "/etc\nusr/bin/hot\nnowhere/x";
    for format in &FORMATS[..2] {
        let new = workshop.rewrite(*format, list).unwrap();
        let expected = ["etc", "usr", "usr/bin", "usr/bin/real", "usr/bin/hot", "usr/bin/cold"];
        assert_eq!(paths(&new.layer.index), expected);
        assert_eq!(paths(&workshop.again(&new.layer)), expected);
        assert_eq!(new.found.len(), 2);
        let again = workshop.rewrite(*format, list).unwrap();
        assert_eq!(again.layer.descriptor, new.layer.descriptor);
    }
}

#[test]
fn the_end_of_the_stream_may_be_missing() {
    let tar = Tar::new().file("a", b"a").done();
    let cut = &tar[..tar.len() - 1024];
    let of = |diff_id| Workshop::of_blob(&compress(cut, Stored::Gzip), diff_id);
    // As gen-1 zstd:chunked has it: the digest is that of the whole stream.
    let whole = DiffId::new(Digest::of(&tar));
    assert_eq!(of(whole).to(FORMATS[0]).diff_id, whole);
    let without = DiffId::new(Digest::of(cut));
    assert_eq!(of(without).to(FORMATS[0]).diff_id, whole);
}

#[test]
fn a_source_that_is_not_what_it_should_be_leaves_nothing() {
    let tar = Tar::new().file("a", &[1; 300_000]).file("b", b"b").done();
    let blob = compress(&tar, Stored::Gzip);
    let diff_id = DiffId::new(Digest::of(&tar));
    let mut flipped = Workshop::of_blob(&blob, diff_id);
    flipped.layer.descriptor.digest = Digest::of(b"other");
    let mut longer = Workshop::of_blob(&blob, diff_id);
    longer.layer.descriptor.size += 1;
    let half = &tar[..tar.len() / 2];
    let cases = [
        (flipped, "is corrupt"),
        (longer, "corrupt"),
        (Workshop::of_blob(&blob[..blob.len() - 20], diff_id), "cannot be decoded"),
        (Workshop::new(half), "ends in the middle"),
        (Workshop::of_blob(&blob, DiffId::new(Digest::of(b""))), "but the image's config says"),
        (Workshop::new(&[b'x'; 2000]), "this is no tar header"),
    ];
    for (workshop, expected) in cases {
        for format in FORMATS {
            let found = message(workshop.rewrite(format, ""));
            assert!(found.contains(expected), "{found}");
            message(workshop.rewrite(format, "a"));
            assert!(workshop.is_clean(), "{found}");
        }
    }
}
