//! The same sample layer in every format that other tools write, held against the sample as the
//! `tar` crate reads it.
//!
//! Formats with a table of contents are read by it, and as the plain files that they also are.
//! The samples lie outside the repository, in `$KFS_SHARED/corpus/formats`.

mod images;
#[path = "../../tests/shared_inputs/mod.rs"]
mod shared_inputs;
#[path = "../../tests/skip/mod.rs"]
mod skip;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

use images::{Listing, S_IFDIR, S_IFLNK, S_IFREG, Seen, index_dir, lines, listing};
use kfs_fs::blob::BlobSource;
use kfs_fs::filesystem::{ImageFs, OpenError};
use kfs_fs::layer::Timestamp;
use kfs_fs::layer::scan::LayerError;
use kfs_fs::oci::Image;
use kfs_fs::oci::reference::Source;
use kfs_fs::oci::store::Store;
use shared_inputs::shared;
use tar::EntryType;

fn open(formats: &Path, variant: &str) -> Result<Listing, OpenError> {
    listing_of(&image(formats, variant))
}

fn image(formats: &Path, variant: &str) -> Image {
    let source: Source = format!("oci:{}/oci/{variant}", formats.display()).parse().unwrap();
    let store = Store::open_readonly(Path::new("/nonexistent"));
    kfs_fs::oci::open(&source, &store).unwrap()
}

fn listing_of(image: &Image) -> Result<Listing, OpenError> {
    let indexes = index_dir();
    let fs = ImageFs::open(image, indexes.path(), &|_| ())?;
    let listing = listing(&fs);
    drop(fs);
    let again = ImageFs::open(image, indexes.path(), &|_| panic!("the index was made again"))?;
    assert_eq!(lines(&images::listing(&again)), lines(&listing));
    Ok(listing)
}

/// The sample's tree, without what its whiteouts name, as there is nothing below it.
fn sample(path: &Path) -> Listing {
    let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
    let mut listing = Listing::from([(Vec::new(), directory())]);
    for (number, entry) in (1..).zip(archive.entries().unwrap()) {
        let mut entry = entry.unwrap();
        let path = entry.path_bytes().into_owned();
        let path = path.strip_prefix(b"./").unwrap_or(&path);
        let path = path.strip_suffix(b"/").unwrap_or(path).to_vec();
        if path.rsplit(|byte| *byte == b'/').next().unwrap().starts_with(b".wh.") {
            continue;
        }
        let mut parent = images::parent_of(&path);
        while !parent.is_empty() {
            listing.entry(parent.to_vec()).or_insert_with(directory);
            parent = images::parent_of(parent);
        }
        let seen = match entry.header().entry_type() {
            EntryType::Link => listing[&entry.link_name_bytes().unwrap().into_owned()].clone(),
            _ => seen(&mut entry, number),
        };
        listing.insert(path, seen);
    }
    for (number, seen) in (1 << 32..).zip(listing.values_mut()).filter(|(_, seen)| seen.inode == 0)
    {
        seen.inode = number;
    }
    images::count_links(&mut listing);
    listing
}

fn directory() -> Seen {
    Seen {
        inode: 0,
        mode: S_IFDIR | 0o755,
        uid: 0,
        gid: 0,
        device: 0,
        mtime: Timestamp::default(),
        nlink: 0,
        size: 0,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
        content: Vec::new(),
    }
}

fn seen<R: Read>(entry: &mut tar::Entry<'_, R>, inode: u64) -> Seen {
    let mut pax = BTreeMap::new();
    for record in entry.pax_extensions().unwrap().into_iter().flatten() {
        let record = record.unwrap();
        pax.insert(record.key().unwrap().to_owned(), record.value_bytes().to_vec());
    }
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        EntryType::Directory => S_IFDIR,
        EntryType::Symlink => S_IFLNK,
        EntryType::Char => 0o020_000,
        EntryType::Block => 0o060_000,
        EntryType::Fifo => 0o010_000,
        _ => S_IFREG,
    };
    let mut mtime = Timestamp { seconds: header.mtime().unwrap().cast_signed(), nanos: 0 };
    if let Some(text) = pax.get("mtime") {
        let (seconds, fraction) = std::str::from_utf8(text).unwrap().split_once('.').unwrap();
        mtime.seconds = seconds.parse().unwrap();
        mtime.nanos = format!("{fraction:0<9}").parse().unwrap();
    }
    // The fields are empty in all other entries.
    let device = match header.entry_type() {
        EntryType::Char | EntryType::Block => {
            let (major, minor) = (header.device_major().unwrap(), header.device_minor().unwrap());
            major.unwrap() << 8 | minor.unwrap()
        }
        _ => 0,
    };
    let target = match header.entry_type() {
        EntryType::Symlink => entry.link_name_bytes().unwrap().into_owned(),
        _ => Vec::new(),
    };
    let xattr = |(name, value): (&String, &Vec<u8>)| {
        let name = name.strip_prefix("SCHILY.xattr.")?;
        Some((name.as_bytes().to_vec(), value.clone()))
    };
    let mut content = Vec::new();
    entry.read_to_end(&mut content).unwrap();
    Seen {
        inode,
        mode: kind | header.mode().unwrap(),
        uid: header.uid().unwrap().try_into().unwrap(),
        gid: header.gid().unwrap().try_into().unwrap(),
        device,
        mtime,
        size: (content.len() + target.len()) as u64,
        xattrs: pax.iter().filter_map(xattr).collect(),
        target,
        content,
        ..directory()
    }
}

#[track_caller]
fn check(variant: &str, expected: &[String], found: &Listing) {
    let found = lines(found);
    let of_one = |list: &[String], other: &[String]| -> Vec<String> {
        list.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    let (missing, extra) = (of_one(expected, &found), of_one(&found, expected));
    assert!(missing.is_empty() && extra.is_empty(), "{variant}: {missing:#?}\nbut {extra:#?}");
}

#[test]
fn every_format_gives_the_same_tree() {
    let Some(formats) = shared("corpus/formats") else { return };
    let expected = sample(&formats.join("sample.tar"));
    assert_eq!(expected[&b"usr/share/text"[..]].size, 262_144, "the sample was read");
    let lines_of_all = lines(&expected);
    for variant in ["tar", "tar.gz", "tar.gz-3members", "tar.zst", "tar.zst-3frames", "zstdchunked"]
    {
        check(variant, &lines_of_all, &open(&formats, variant).unwrap());
    }
    let lines_of_all = lines(&in_whole_seconds(expected));
    for variant in ["estargz", "estargz.prio", "zstdchunked-stargz"] {
        check(variant, &lines_of_all, &open(&formats, variant).unwrap());
    }
}

/// eStargz keeps no fractions of a second.
fn in_whole_seconds(mut listing: Listing) -> Listing {
    listing.values_mut().for_each(|seen| seen.mtime.nanos = 0);
    listing
}

/// Without the annotations, a layer is the plain gzip or zstd file that it also is, in which
/// eStargz has landmarks and its table of contents as entries.
#[test]
fn without_annotations_the_layer_is_read_whole() {
    let Some(formats) = shared("corpus/formats") else { return };
    let expected = lines(&sample(&formats.join("sample.tar")));
    for (variant, own) in [
        ("estargz", &[&b".no.prefetch.landmark"[..], b"stargz.index.json"][..]),
        ("estargz.prio", &[b".prefetch.landmark", b"stargz.index.json"]),
        ("zstdchunked-stargz", &[b".no.prefetch.landmark"]),
        ("zstdchunked", &[]),
    ] {
        let mut image = image(&formats, variant);
        image.layers[0].descriptor.annotations.clear();
        let mut found = listing_of(&image).unwrap();
        for name in own {
            let seen = found.remove(*name).unwrap_or_else(|| panic!("{variant} has no {name:?}"));
            assert_eq!(seen.mode & images::S_IFMT, S_IFREG, "{variant}");
        }
        check(variant, &expected, &found);
    }
}

/// Its writer drops a block of the tar's end, so that the content is not the one that the config
/// names. The table of contents does not mind, but lacks empty extended attributes.
#[test]
fn the_first_generation_of_zstd_chunked_can_only_be_read_by_its_table() {
    let Some(formats) = shared("corpus/formats") else { return };
    let mut expected = sample(&formats.join("sample.tar"));
    expected.values_mut().for_each(|seen| seen.xattrs.retain(|_, value| !value.is_empty()));
    let mut image = image(&formats, "zstdchunked-gen1");
    check("zstdchunked-gen1", &lines(&expected), &listing_of(&image).unwrap());
    image.layers[0].descriptor.annotations.clear();
    let error = listing_of(&image).unwrap_err();
    let OpenError::Layer(LayerError::DiffId { expected, found, .. }) = &error else {
        panic!("{error}");
    };
    assert!(expected.to_string().starts_with("sha256:08b1847b"), "{error}");
    assert!(found.to_string().starts_with("sha256:bd4560ac"), "{error}");
}

/// What other tools write has one face.
#[test]
fn tables_and_tar_streams_agree() {
    let Some(formats) = shared("corpus/formats") else { return };
    let variants = ["estargz", "estargz.prio", "zstdchunked", "zstdchunked-gen1"];
    for variant in variants.into_iter().chain(["zstdchunked-stargz", "tar.gz"]) {
        let tmp = index_dir();
        for layer in image(&formats, variant).layers {
            let compared = kfs_fs::layer::rewrite::compare(&layer, tmp.path(), &|_| ());
            compared.unwrap_or_else(|error| panic!("{variant}: {error}"));
        }
    }
}

/// A blob that counts what is read of it.
#[derive(Debug)]
struct Counted {
    blob: Arc<dyn BlobSource>,
    reads: Arc<Mutex<Vec<(u64, usize)>>>,
}

impl BlobSource for Counted {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        self.reads.lock().unwrap().push((offset, buf.len()));
        self.blob.read_at(offset, buf)
    }

    fn location(&self) -> String {
        self.blob.location()
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[test]
fn of_a_table_one_request_is_enough() {
    let Some(formats) = shared("corpus/formats") else { return };
    for (variant, most) in
        [("estargz", 256 << 10), ("zstdchunked", 3 << 10), ("zstdchunked-gen1", 3 << 10)]
    {
        let mut image = image(&formats, variant);
        let reads = Arc::new(Mutex::new(Vec::new()));
        let blob = image.layers[0].blob.clone();
        image.layers[0].blob = Arc::new(Counted { blob, reads: reads.clone() });
        let indexes = index_dir();
        drop(ImageFs::open(&image, indexes.path(), &|_| ()).unwrap());
        let reads = reads.lock().unwrap();
        assert!(reads.len() == 1 && reads[0].1 <= most, "{variant}: {reads:?}");
    }
}
