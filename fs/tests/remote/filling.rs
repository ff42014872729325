//! Layers without a table of contents: what is streamed to index them is not fetched again.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;

use kfs_fs::digest::{DiffId, Digest};
use kfs_fs::filesystem::ImageFs;
use kfs_fs::oci::Layer;
use kfs_fs::oci::manifest::{Descriptor, LAYER_TAR};

use crate::fixture::{MIB, Remotely, Store, cached, image, noise, settle};
use crate::source::{Network, Remote};

const AMPLE: u64 = 1 << 30;

fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, &data[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn frames(data: &[u8]) -> Vec<u8> {
    data.chunks(300_000).flat_map(|part| zstd::bulk::compress(part, 1).unwrap()).collect()
}

/// An image whose layer has these files and is stored as `code` makes it.
fn remote(files: &[(&str, Vec<u8>)], code: fn(&[u8]) -> Vec<u8>) -> Remotely {
    let tar = tar(files);
    let blob = code(&tar);
    let descriptor = Descriptor::of(LAYER_TAR, &blob);
    let remote = Remote::new(blob);
    let diff_id = DiffId::new(Digest::of(&tar));
    let layer = Layer { descriptor, diff_id, blob: remote.clone(), ztoc: None };
    let files = files.iter().map(|(path, data)| ((*path).to_owned(), data.clone())).collect();
    Remotely { remote, image: image(layer), files }
}

fn files() -> [(&'static str, Vec<u8>); 3] {
    [("big", noise(1, 3 * MIB + 5)), ("small", noise(2, 10)), ("zeros", vec![0; 300_000])]
}

fn check_all(image: &Remotely, fs: &ImageFs) {
    image.files.keys().for_each(|path| image.check(fs, path));
}

#[test]
fn what_was_streamed_to_index_a_layer_is_read_without_a_request() {
    for code in [<[u8]>::to_vec, gzip, frames] {
        let store = Store::new();
        let image = remote(&files(), code);
        let fs = image.open(&store, cached(&store.cache(AMPLE)));
        assert_eq!(image.remote.sent(), image.image.layers[0].descriptor.size);
        image.remote.take_reads();
        image.remote.set(Network::Gone);
        check_all(&image, &fs);
        assert!(image.remote.take_reads().is_empty());
        assert_eq!((fs.stats().misses, fs.stats().damaged), (0, 0));
        // And at the next start.
        check_all(&image, &image.open(&store, cached(&store.cache(AMPLE))));
        assert!(image.remote.take_reads().is_empty());
    }
}

#[test]
fn nothing_stays_of_a_layer_that_is_not_what_it_should_be() {
    let is_empty = |store: &Store| {
        let entries = fs::read_dir(store.cache_dir()).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names == ["lock"]
    };
    for code in [<[u8]>::to_vec, gzip, frames] {
        let store = Store::new();
        let open = |image: &Remotely| {
            let options = cached(&store.cache(AMPLE));
            ImageFs::open_with(&image.image, &store.indexes(), &|_| (), options)
        };
        let mut other_content = remote(&files(), code);
        other_content.image.layers[0].diff_id = DiffId::new(Digest::of(b""));
        let error = open(&other_content).unwrap_err().to_string();
        assert!(error.contains("has diffID"), "{error}");
        assert!(is_empty(&store), "{error}");
        let mut other_blob = remote(&files(), code);
        other_blob.image.layers[0].descriptor.digest = Digest::of(b"");
        let error = open(&other_blob).unwrap_err().to_string();
        assert!(error.contains("is corrupt"), "{error}");
        assert!(is_empty(&store), "{error}");
        // What is right is kept after that, and only what is right is read.
        let image = remote(&files(), code);
        check_all(&image, &open(&image).unwrap());
    }
}

#[test]
fn a_cache_that_is_too_small_for_a_layer_takes_a_part_of_it() {
    let store = Store::new();
    let limit = 2 * MIB as u64;
    let image = remote(&files(), <[u8]>::to_vec);
    let fs = image.open(&store, cached(&store.cache(limit)));
    let sizes = ["data", "sums.2", "used"].map(|name| {
        let metadata = fs::metadata(store.cache_file(name)).unwrap();
        metadata.blocks() * 512
    });
    let kept: u64 = sizes.iter().sum();
    assert!(kept > 0 && kept <= limit, "{sizes:?}");
    image.remote.take_reads();
    image.check(&fs, "zeros");
    image.check(&fs, "big");
    settle(&fs);
    assert!(!image.remote.take_reads().is_empty());
}
