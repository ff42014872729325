//! The hot loops of the library: index a layer, merge layers, look names up, walk.

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use kfs_fs::blob::FileBlob;
use kfs_fs::digest::{DiffId, Digest};
use kfs_fs::filesystem::{ImageFs, Ino};
use kfs_fs::layer::index::LayerIndex;
use kfs_fs::layer::scan::scan;
use kfs_fs::oci::manifest::{CONFIG, Descriptor, ImageConfig, LAYER_GZIP, LAYER_TAR, Manifest};
use kfs_fs::oci::{Image, Layer};
use kfs_fs::tree;

mod synthetic;

const MEBIBYTES: u32 = 32;
const NAMES: u32 = 100_000;
const LAYERS: u32 = 10;

fn main() {
    divan::main();
}

fn layer(dir: &Path, name: &str, tar: &[u8], compressed: bool) -> Layer {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    let (media_type, blob) = if compressed {
        gzip.write_all(tar).expect("into memory");
        (LAYER_GZIP, gzip.finish().expect("into memory"))
    } else {
        (LAYER_TAR, tar.to_vec())
    };
    let path = dir.join(name);
    std::fs::write(&path, &blob).expect("a directory of our own");
    Layer {
        descriptor: Descriptor::of(media_type, &blob),
        diff_id: DiffId::new(Digest::of(tar)),
        blob: Arc::new(FileBlob::open(&path).expect("just written")),
        ztoc: None,
    }
}

fn tree_layer(dir: &Path, number: u32, files: u32) -> Layer {
    let mut tar = Vec::new();
    synthetic::write_tree(&mut tar, files, number.into()).expect("into memory");
    layer(dir, &format!("layer-{number}"), &tar, false)
}

/// Bytes of content a second: read, verify, inflate, hash, index.
#[divan::bench(args = ["tar", "gzip"], sample_count = 10)]
fn index(bencher: Bencher<'_, '_>, format: &str) {
    let dir = tempfile::tempdir().expect("a directory of our own");
    let mut tar = Vec::new();
    synthetic::write_content(&mut tar, MEBIBYTES).expect("into memory");
    let layer = layer(dir.path(), "layer", &tar, format == "gzip");
    bencher
        .counter(BytesCount::new(tar.len()))
        .bench_local(|| scan(&layer, dir.path(), &|_| ()).expect("a good layer"));
}

/// Entries a second.
#[divan::bench(sample_count = 10)]
fn index_small_files(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a directory of our own");
    let layer = tree_layer(dir.path(), 0, NAMES);
    bencher
        .counter(ItemsCount::new(NAMES))
        .bench_local(|| scan(&layer, dir.path(), &|_| ()).expect("a good layer"));
}

/// Entries of all layers a second; each layer has the names of the one below and more.
#[divan::bench(sample_count = 10)]
fn merge(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a directory of our own");
    let indexes: Vec<LayerIndex> = (1..=LAYERS)
        .map(|number| tree_layer(dir.path(), number, number * 2000))
        .map(|layer| scan(&layer, dir.path(), &|_| ()).expect("a good layer"))
        .collect();
    let layers: Vec<&LayerIndex> = indexes.iter().collect();
    bencher
        .counter(ItemsCount::new(indexes.iter().map(LayerIndex::len).sum::<usize>()))
        .bench_local(|| tree::merge(&layers).expect("good layers"));
}

fn mounted(dir: &Path) -> ImageFs {
    let layer = tree_layer(dir, 0, NAMES);
    let image = Image {
        name: "bench".to_owned(),
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
    };
    ImageFs::open(&image, dir, &|_| ()).expect("a good image")
}

/// Paths of three names a second, all over a tree of 100,000 files.
#[divan::bench(sample_count = 20)]
fn lookup(bencher: Bencher<'_, '_>) {
    let dir = tempfile::tempdir().expect("a directory of our own");
    let fs = mounted(dir.path());
    let paths: Vec<String> = (0..NAMES).step_by(101).map(synthetic::path).collect();
    bencher.counter(ItemsCount::new(paths.len())).bench_local(|| {
        for path in &paths {
            let mut ino = Ino::ROOT;
            for name in path.split('/') {
                let found = fs.lookup(ino, name.as_bytes()).expect("a good index");
                ino = found.expect("a path of the layer").ino;
            }
            black_box(ino);
        }
    });
}

/// Names with attributes a second, as `find -printf %s` asks for them.
#[divan::bench(sample_count = 20)]
fn walk(bencher: Bencher<'_, '_>) {
    fn visit(fs: &ImageFs, directory: Ino) -> u64 {
        let mut bytes = 0;
        for index in 0.. {
            let Some(entry) = fs.entry_at(directory, index).expect("a good index") else { break };
            let attr = fs.attr(entry.ino).expect("a good index");
            bytes += attr.size;
            if attr.mode & 0o170_000 == 0o040_000 {
                bytes += visit(fs, entry.ino);
            }
        }
        bytes
    }
    let dir = tempfile::tempdir().expect("a directory of our own");
    let fs = mounted(dir.path());
    bencher.counter(ItemsCount::new(NAMES)).bench_local(|| visit(&fs, Ino::ROOT));
}
