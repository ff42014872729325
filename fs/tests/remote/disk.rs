//! The cache on disk: what is found there, what is not believed, and what goes.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use kfs_fs::cache::CacheError;
use kfs_fs::content::Options;

use crate::fixture::{MIB, Remotely, Store, cached, find, noise, settle};
use crate::skip::skip;
use crate::source::Network;

const CHUNK: usize = 64 << 10;
const AMPLE: u64 = 1 << 30;

fn files() -> [(&'static str, Vec<u8>); 3] {
    [("big", noise(1, 3 * MIB + 5)), ("small", noise(2, 10)), ("zeros", vec![0; 300_000])]
}

fn check_all(image: &Remotely, fs: &kfs_fs::filesystem::ImageFs) {
    for path in image.files.keys() {
        image.check(fs, path);
    }
}

/// What the files of a directory take on disk.
fn allocated(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let each = entries.map(|entry| {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            metadata.blocks() * 512 + allocated(&entry.path())
        } else {
            metadata.blocks() * 512
        }
    });
    each.sum()
}

#[test]
fn a_second_start_needs_no_registry() {
    let store = Store::new();
    let image = Remotely::new(&store, &files(), CHUNK);
    check_all(&image, &image.open(&store, cached(&store.cache(AMPLE))));
    image.remote.take_reads();
    image.remote.set(Network::Gone);
    let fs = image.open(&store, cached(&store.cache(AMPLE)));
    check_all(&image, &fs);
    assert!(image.remote.take_reads().is_empty());
    let stats = fs.stats();
    assert_eq!((stats.misses, stats.damaged, stats.requests), (0, 0, 0));
    assert!(stats.disk_hits > 0);
}

#[test]
fn a_small_read_of_a_large_span_reads_little() {
    let store = Store::new();
    let image = Remotely::new(&store, &files(), 4 * MIB);
    check_all(&image, &image.open(&store, cached(&store.cache(AMPLE))));
    let fs = image.open(&store, cached(&store.cache(AMPLE)));
    let big = find(&fs, "big");
    // Whatever lies outside of the block is of no concern.
    let data = fs::File::options().write(true).open(store.cache_file("data")).unwrap();
    data.write_all_at(&[7; 4096], 2 << 20).unwrap();
    for at in [0_usize, 1, 16_383, 16_384, 1 << 20, 3 * MIB] {
        let expected = &image.files["big"][at..(at + 4096).min(3 * MIB + 5)];
        assert!(fs.read(big, at as u64, 4096).unwrap() == expected, "{at}");
    }
    assert_eq!(fs.stats().misses, 0);
}

#[test]
fn a_damaged_block_is_fetched_again_and_those_beside_it_are_not() {
    const BLOCK: usize = 8192;
    let len = 3 * MIB + 5;
    for (damaged, block) in [
        (10 * BLOCK, 10 * BLOCK..11 * BLOCK),
        (11 * BLOCK - 1, 10 * BLOCK..11 * BLOCK),
        (0, 0..BLOCK),
        (len - 1, 3 * MIB..len),
    ] {
        let store = Store::new();
        let image = Remotely::new(&store, &files(), 4 * MIB);
        check_all(&image, &image.open(&store, cached(&store.cache(AMPLE))));
        let data = fs::File::options().read(true).write(true).open(store.cache_file("data"));
        let data = data.unwrap();
        let mut byte = [0];
        data.read_exact_at(&mut byte, damaged as u64).unwrap();
        data.write_all_at(&[byte[0] ^ 1], damaged as u64).unwrap();
        let options = || Options { memory: 1, ..cached(&store.cache(AMPLE)) };
        let read = |fs: &kfs_fs::filesystem::ImageFs, from: usize, to: usize| {
            let found = fs.read(find(fs, "big"), from as u64, to - from).unwrap();
            assert!(found == image.files["big"][from..to], "{from}..{to}");
        };
        let fs = image.open(&store, options());
        read(&fs, block.start.saturating_sub(5000), block.start);
        read(&fs, block.end, (block.end + 100_000).min(len));
        assert_eq!(fs.stats().damaged, 0, "{damaged}");
        read(&fs, block.start.saturating_sub(1), block.start + 1);
        assert!(fs.stats().damaged > 0, "{damaged}");
        settle(&fs);
        image.remote.set(Network::Gone);
        let fs = image.open(&store, options());
        read(&fs, 0, len);
        assert_eq!(fs.stats().damaged, 0, "it is mended");
    }
}

#[test]
fn files_that_are_cut_flipped_or_removed_are_fetched_again() {
    let damages: [(&str, Damage); 9] = [
        ("flipped data", |dir| flip(&dir.join("data"))),
        ("flipped sums", |dir| flip(&dir.join("sums.2"))),
        ("flipped use", |dir| flip(&dir.join("used"))),
        ("cut data", |dir| cut(&dir.join("data"), 100_000)),
        ("cut sums", |dir| cut(&dir.join("sums.2"), 100)),
        ("no data", |dir| cut(&dir.join("data"), 0)),
        ("removed data", |dir| fs::remove_file(dir.join("data")).unwrap()),
        ("removed directory", |dir| fs::remove_dir_all(dir).unwrap()),
        ("removed cache", |dir| fs::remove_dir_all(dir.parent().unwrap()).unwrap()),
    ];
    for (what, damage) in damages {
        let store = Store::new();
        let image = Remotely::new(&store, &files(), CHUNK);
        // So little memory that each read asks the disk.
        let options = || Options { memory: 1, ..cached(&store.cache(AMPLE)) };
        let live = image.open(&store, options());
        check_all(&image, &live);
        damage(store.cache_file("data").parent().unwrap());
        check_all(&image, &live);
        check_all(&image, &image.open(&store, options()));
        // All is well again.
        check_all(&image, &live);
        image.remote.set(Network::Gone);
        let fs = image.open(&store, options());
        check_all(&image, &fs);
        assert_eq!(fs.stats().damaged, 0, "{what}");
    }
}

type Damage = fn(&Path);

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
}

fn cut(path: &Path, len: u64) {
    fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn an_index_with_other_spans_does_not_believe_the_old_ones() {
    let store = Store::new();
    let image = Remotely::new(&store, &[("file", noise(1, MIB))], CHUNK);
    let cache = store.cache(AMPLE);
    image.check(&image.open(&store, cached(&cache)), "file");
    // The same layer, but now its chunks are said to be something else.
    let digest = kfs_fs::digest::Digest::of(b"something else");
    let other = Remotely::tampered(&store, &[("file", noise(1, MIB))], CHUNK, |_, span| {
        span.digest = kfs_fs::layer::index::SpanDigest::Sha256(digest);
    });
    let fs = other.open(&store, cached(&cache));
    fs.read(find(&fs, "file"), 0, 4096).expect_err("no content has that digest");
}

#[test]
fn the_next_version_fetches_only_what_changed() {
    let store = Store::new();
    let mut content = noise(1, 4 * MIB);
    let first = Remotely::new(&store, &[("file", content.clone())], CHUNK);
    let cache = store.cache(AMPLE);
    first.check(&first.open(&store, cached(&cache)), "file");
    content[2 * MIB] ^= 1;
    let next = Remotely::new(&store, &[("new", noise(9, 5)), ("file", content)], CHUNK);
    let fs = next.open(&store, cached(&store.cache(AMPLE)));
    check_all(&next, &fs);
    assert!(next.remote.sent() < 4 * CHUNK as u64, "{} bytes", next.remote.sent());
    assert!(fs.stats().bytes_copied > 3 * MIB as u64);
    next.remote.set(Network::Gone);
    check_all(&next, &next.open(&store, cached(&store.cache(AMPLE))));
}

#[test]
fn the_limit_holds_and_what_was_not_used_for_longest_goes() {
    let store = Store::new();
    let image = Remotely::new(&store, &[("file", noise(1, 24 * MIB))], CHUNK);
    let limit = 8 * MIB as u64;
    let fs = image.open(&store, Options { memory: 1, ..cached(&store.cache(limit)) });
    let file = find(&fs, "file");
    for at in (0..24 * MIB).step_by(256 << 10) {
        let data = fs.read(file, at as u64, 256 << 10).unwrap();
        assert!(data == image.files["file"][at..at + (256 << 10)]);
        let now = allocated(&store.cache_dir());
        assert!(now <= limit, "{now} bytes are allocated");
    }
    image.remote.set(Network::Gone);
    // The end is there, the start is not.
    fs.read(file, (23 * MIB) as u64, MIB).unwrap();
    fs.read(file, 0, 4096).unwrap_err();
    assert_eq!(fs.stats().damaged, 0, "what went is missing, not damaged");
}

#[test]
fn a_chunk_that_is_too_large_for_the_limit_pushes_nothing_out() {
    for large in [5 * MIB, 9 * MIB] {
        let store = Store::new();
        let small = ["a", "b", "c", "d", "e", "f"];
        let mut files: Vec<_> = small.iter().zip(1..).map(|(f, n)| (*f, noise(n, MIB))).collect();
        files.push(("large", noise(0, large)));
        // Each file is one chunk.
        let image = Remotely::new(&store, &files, 16 * MIB);
        let limit = 8 * MIB as u64;
        let options = || Options { memory: 1, ..cached(&store.cache(limit)) };
        let fs = image.open(&store, options());
        for (name, _) in &files {
            image.check(&fs, name);
            assert!(allocated(&store.cache_dir()) <= limit);
        }
        assert_eq!(fs.stats().uncached, 1, "the large one");
        image.remote.set(Network::Gone);
        let fs = image.open(&store, options());
        small.iter().for_each(|name| image.check(&fs, name));
        fs.read(find(&fs, "large"), 0, 4096).unwrap_err();
    }
}

#[test]
fn the_limit_holds_for_two_processes_and_a_build_together() {
    let store = Store::new();
    let limit = 6 * MIB as u64;
    let images: Vec<Remotely> =
        (0..3).map(|n| Remotely::new(&store, &[("file", noise(n, 12 * MIB))], CHUNK)).collect();
    std::thread::scope(|scope| {
        for image in &images {
            // Each with a cache of its own, as a process has: its lock is another's, too.
            for _ in 0..2 {
                scope.spawn(|| {
                    let options = Options { memory: 1 << 20, ..cached(&store.cache(limit)) };
                    image.check(&image.open(&store, options), "file");
                });
            }
        }
        for _ in 0..200 {
            let now = allocated(&store.cache_dir());
            assert!(now <= limit, "{now} bytes are allocated");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    });
    assert!(allocated(&store.cache_dir()) > limit / 2);
}

#[test]
fn a_sum_that_a_killed_process_left_heals() {
    let store = Store::new();
    let image = Remotely::new(&store, &[("file", noise(1, 4 * MIB))], CHUNK);
    let lock = store.cache_dir().join("lock");
    for wrong in [u64::MAX.to_le_bytes().to_vec(), vec![1, 2], Vec::new()] {
        fs::write(&lock, wrong).unwrap();
        let fs = image.open(&store, cached(&store.cache(AMPLE)));
        image.check(&fs, "file");
        assert_eq!(fs.stats().uncached, 0);
    }
}

#[test]
fn a_stopped_process_that_holds_the_lock_holds_nobody_up() {
    let store = Store::new();
    let image = Remotely::new(&store, &[("file", noise(1, MIB))], CHUNK);
    let lock = fs::File::create(store.cache_dir().join("lock")).unwrap();
    lock.lock().unwrap();
    let fs = image.open(&store, cached(&store.cache(AMPLE)));
    image.check(&fs, "file");
    assert!(fs.stats().uncached > 0);
    drop(lock);
    image.check(&image.open(&store, cached(&store.cache(AMPLE))), "file");
    image.remote.set(Network::Gone);
    image.check(&image.open(&store, cached(&store.cache(AMPLE))), "file");
}

#[test]
fn a_full_disk_means_uncached_reads() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root, to mount a small file system");
    }
    let store = Store::new();
    let image = Remotely::new(&store, &[("file", noise(1, 8 * MIB))], CHUNK);
    let dir = store.cache_dir();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("kfs"), &dir, Some("tmpfs"), flags, Some("size=2m")).unwrap();
    let fs = image.open(&store, cached(&store.cache(AMPLE)));
    image.check(&fs, "file");
    image.check(&fs, "file");
    let uncached = fs.stats().uncached;
    drop(fs);
    nix::mount::umount2(&dir, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(uncached > 0);
}

#[test]
fn a_cache_that_cannot_be_made_means_uncached_reads() {
    let store = Store::new();
    let image = Remotely::new(&store, &[("file", noise(1, MIB))], CHUNK);
    fs::remove_dir(store.cache_dir()).unwrap();
    fs::write(store.cache_dir(), "a file").unwrap();
    let fs = image.open(&store, cached(&store.cache(AMPLE)));
    image.check(&fs, "file");
    let too_small = image.open(&store, cached(&store.cache(1)));
    image.check(&too_small, "file");
}

#[test]
fn pruning_beside_a_live_reader_is_safe() {
    let store = Store::new();
    let image = Remotely::new(&store, &files(), CHUNK);
    let cache = store.cache(AMPLE);
    let fs = image.open(&store, Options { memory: 1, ..cached(&cache) });
    check_all(&image, &fs);
    let usage = cache.usage().unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].layer, image.image.layers[0].descriptor.digest);
    assert!(usage[0].bytes > 3 * MIB as u64 && usage[0].last_used.is_some());
    let other = store.cache(AMPLE);
    assert!(other.prune(MIB as u64).unwrap() > 2 * MIB as u64);
    check_all(&image, &fs);
    assert!(other.forget(|layer| layer == usage[0].layer).unwrap() > 3 * MIB as u64);
    assert!(other.usage().unwrap().is_empty());
    check_all(&image, &fs);
    assert_eq!(fs.stats().damaged, 0);
    other.prune(0).unwrap();
    assert_eq!(other.usage().unwrap(), []);
}

#[test]
fn layers_without_a_cache_are_no_error() {
    let store = Store::new();
    fs::remove_dir(store.cache_dir()).unwrap();
    let cache = store.cache(AMPLE);
    assert_eq!(cache.usage().unwrap(), []);
    assert_eq!(cache.forget(|_| true).unwrap(), 0);
    fs::write(store.path().join("other"), "a file").unwrap();
    let nowhere = kfs_fs::cache::Cache::new(&store.path().join("other"), Path::new("/"), 5);
    assert!(matches!(nowhere.prune(0), Err(CacheError::Path(_))));
}
