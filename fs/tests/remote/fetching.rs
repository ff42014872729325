//! What is asked of the network, and what becomes of its failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kfs_fs::blob::BlobSource as _;
use kfs_fs::content::Options;
use kfs_fs::filesystem::ReadError;
use kfs_fs::layer::index::Coding;
use kfs_fs::span::SpanError;

use crate::fixture::{MIB, Remotely, Store, find, impatient, noise};
use crate::source::{Network, read_twice, wait_until};

const CHUNK: usize = 64 << 10;

fn one_file(store: &Store, len: usize) -> Remotely {
    Remotely::new(store, &[("file", noise(1, len))], CHUNK)
}

#[test]
fn a_sequential_read_streams_and_fetches_nothing_twice() {
    let store = Store::new();
    let image = one_file(&store, 32 * MIB);
    image.remote.set(Network::Slow(Duration::from_millis(5)));
    let fs = image.open(&store, Options::default());
    let file = find(&fs, "file");
    for at in (0..32 * MIB).step_by(128 << 10) {
        let data = fs.read(file, at as u64, 128 << 10).unwrap();
        assert!(data == image.files["file"][at..at + (128 << 10)], "{at}");
    }
    let reads = image.remote.take_reads();
    assert!(!read_twice(&reads), "{reads:?}");
    assert!(reads.len() < 64, "{} requests for 32 MiB", reads.len());
    let most = image.remote.most_at_once();
    assert!((2..=5).contains(&most), "{most} requests at a time");
    let stats = fs.stats();
    assert_eq!(stats.bytes_fetched, image.remote.sent());
    assert_eq!(stats.requests, reads.len() as u64);
    assert_eq!((stats.errors, stats.waiting), (0, 0));
}

#[test]
fn scattered_reads_fetch_little_more_than_they_need() {
    let store = Store::new();
    let image = one_file(&store, 32 * MIB);
    let fs = image.open(&store, Options::default());
    let file = find(&fs, "file");
    for n in 0..8 {
        fs.read(file, (n * 13 % 8 * 4 * MIB) as u64, 4096).unwrap();
    }
    assert_eq!(image.remote.take_reads().len(), 8);
    assert!(image.remote.sent() <= 8 * 3 * CHUNK as u64, "{}", image.remote.sent());
}

#[test]
fn one_large_read_becomes_few_requests_side_by_side() {
    let store = Store::new();
    let image = one_file(&store, 16 * MIB);
    image.remote.set(Network::Slow(Duration::from_millis(5)));
    let fs = image.open(&store, Options::default());
    image.check(&fs, "file");
    let reads = image.remote.take_reads();
    assert!(!read_twice(&reads) && reads.len() < 40, "{reads:?}");
}

#[test]
fn ten_thousand_small_reads_at_once_need_few_threads_and_requests() {
    let store = Store::new();
    let image = one_file(&store, 64 * MIB);
    image.remote.set(Network::Stalled);
    let memory = 16 << 20;
    let fs = Arc::new(image.open(&store, Options { memory, ..Options::default() }));
    let file = find(&fs, "file");
    let (done, answers) = mpsc::channel();
    let expected = Arc::new(image.files["file"].clone());
    for n in 0..10_000 {
        let (done, expected) = (done.clone(), expected.clone());
        let at = n * 7919 % 16_000 * 4096;
        fs.read_then(file, at as u64, 4096, move |data| {
            done.send(data.is_ok_and(|data| data == expected[at..at + 4096])).unwrap();
        });
    }
    assert_eq!(fs.stats().waiting, 10_000);
    image.remote.wait_for_reads(1);
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    assert!(threads < 24, "{threads} threads");
    image.remote.set(Network::Works);
    drop(done);
    assert_eq!(answers.iter().filter(|right| *right).count(), 10_000);
    let reads = image.remote.take_reads().len();
    assert!(reads < 200, "{reads} requests");
    assert!(image.remote.most_at_once() <= 8);
}

#[test]
fn all_who_want_the_same_wait_for_one_fetch() {
    let store = Store::new();
    let image = one_file(&store, CHUNK);
    image.remote.set(Network::Stalled);
    let fs = image.open(&store, Options::default());
    let file = find(&fs, "file");
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| assert!(fs.read(file, 5, 10).unwrap() == image.files["file"][5..15]));
        }
        wait_until("all wait", || fs.stats().waiting >= 32);
        image.remote.set(Network::Works);
    });
    assert_eq!(image.remote.take_reads().len(), 1);
}

#[test]
fn more_of_a_small_file_comes_with_its_first_read() {
    let store = Store::new();
    let image = one_file(&store, 2 * MIB);
    let fs = image.open(&store, Options::default());
    let file = find(&fs, "file");
    fs.read(file, 0, 10).unwrap();
    let is_sent = || image.remote.sent() >= MIB as u64 / 3;
    wait_until("more has come", || fs.stats().in_flight == 0 && is_sent());
    let reads = image.remote.take_reads();
    assert_eq!(reads.len(), 2, "what was asked for, and what came beside it: {reads:?}");
    image.remote.set(Network::Gone);
    let at = 5 * CHUNK;
    assert!(fs.read(file, at as u64, 10).unwrap() == image.files["file"][at..at + 10]);
    assert!(fs.read(file, MIB as u64, 10).is_err(), "nothing is known of the net yet");
}

#[test]
fn a_registry_that_is_gone_and_back_fails_reads_only_meanwhile() {
    let store = Store::new();
    let image = one_file(&store, 8 * MIB);
    let fs = image.open(&store, impatient());
    let file = find(&fs, "file");
    fs.read(file, 0, 4096).unwrap();
    image.remote.set(Network::Gone);
    let error = fs.read(file, 4 * MIB as u64, 4096).unwrap_err();
    assert_eq!(error.errno(), nix::libc::EIO);
    assert!(error.to_string().contains("connection refused"), "{error}");
    fs.read(file, 0, 4096).expect("what is there needs no registry");
    image.remote.set(Network::Works);
    image.check(&fs, "file");
}

#[test]
fn a_stalled_read_ends_in_time_and_a_later_one_tries_again() {
    let store = Store::new();
    let image = one_file(&store, 8 * MIB);
    let fs = image.open(&store, impatient());
    let file = find(&fs, "file");
    image.remote.set(Network::Stalled);
    let start = Instant::now();
    let error = fs.read(file, 0, 4096).unwrap_err();
    assert!(matches!(error, ReadError::Span(SpanError::TimedOut { .. })), "{error}");
    assert!(start.elapsed() >= Duration::from_millis(300));
    // The first request has not come back, and still the span can be had.
    std::thread::scope(|scope| {
        let again = scope.spawn(|| fs.read(file, 0, 4096));
        image.remote.wait_for_reads(2);
        image.remote.set(Network::Works);
        assert!(again.join().unwrap().unwrap() == image.files["file"][..4096]);
    });
    assert_eq!(fs.stats().waiting, 0);
}

#[test]
fn requests_that_never_end_do_not_use_up_all_threads() {
    let store = Store::new();
    let image = one_file(&store, 64 * MIB);
    let timeout = Duration::from_millis(100);
    let fs = Arc::new(image.open(&store, Options { timeout, ..Options::default() }));
    let file = find(&fs, "file");
    image.remote.set(Network::Stalled);
    let (done, answers) = mpsc::channel();
    for n in 0..16 {
        let done = done.clone();
        fs.read_then(file, n * 4 * MIB as u64, 4096, move |data| done.send(data.is_err()).unwrap());
    }
    drop(done);
    assert!(answers.iter().all(|failed| failed));
    std::thread::scope(|scope| {
        let later = scope.spawn(|| fs.read(file, 2 * MIB as u64, 4096));
        image.remote.wait_for_reads(9);
        image.remote.set(Network::Works);
        later.join().unwrap().unwrap();
    });
}

#[test]
fn wrong_content_is_never_served_and_both_digests_are_named() {
    let store = Store::new();
    let image = one_file(&store, MIB);
    let cache = store.cache(u64::MAX);
    let fs = image.open(&store, crate::fixture::cached(&cache));
    let file = find(&fs, "file");
    image.remote.set(Network::Flips);
    let error = fs.read(file, 0, 4096).unwrap_err();
    assert_eq!(error.errno(), nix::libc::EIO);
    image.remote.set(Network::Works);
    image.check(&fs, "file");

    // A frame that decodes, to something else.
    let other = Remotely::tampered(&store, &[("file", noise(2, MIB))], CHUNK, |number, span| {
        if number == 3 {
            let digest = kfs_fs::digest::Digest::of(b"other");
            span.digest = kfs_fs::layer::index::SpanDigest::Sha256(digest);
        }
    });
    let fs = other.open(&store, crate::fixture::cached(&cache));
    let error = fs.read(find(&fs, "file"), 3 * CHUNK as u64, 4096).unwrap_err().to_string();
    let found = kfs_fs::digest::Digest::of(&other.files["file"][3 * CHUNK..4 * CHUNK]);
    for part in [
        other.image.layers[0].descriptor.digest.to_string(),
        "span 3".to_owned(),
        found.to_string(),
        kfs_fs::digest::Digest::of(b"other").to_string(),
    ] {
        assert!(error.contains(&part), "{error} lacks {part}");
    }
    fs.read(find(&fs, "file"), 0, 3 * CHUNK).expect("its neighbours are fine");
    fs.read(find(&fs, "file"), 4 * CHUNK as u64, 4096).unwrap();
    let again = other.open(&store, crate::fixture::cached(&cache));
    again.read(find(&again, "file"), 3 * CHUNK as u64, 4096).expect_err("it was not kept");
}

#[test]
fn an_index_that_claims_chunks_beyond_the_blob_fails_these_alone() {
    let store = Store::new();
    let files = [("file", noise(1, MIB))];
    let image = Remotely::tampered(&store, &files, CHUNK, |number, span| match number {
        9 => span.blob_offset += 10 << 20,
        10 => span.blob_offset = u64::MAX - 10,
        11 => span.blob_len = u64::MAX,
        12 => span.content_len = u64::MAX / 2,
        _ => {}
    });
    let fs = image.open(&store, Options::default());
    let file = find(&fs, "file");
    for number in 0..9 {
        fs.read(file, (number * CHUNK) as u64, CHUNK).unwrap();
    }
    for number in 9..12 {
        let error = fs.read(file, (number * CHUNK) as u64, 10).unwrap_err();
        assert_eq!(error.errno(), nix::libc::EIO, "{error}");
    }
    assert!(image.remote.take_reads().iter().all(|(at, len)| at + *len as u64 <= 2 * MIB as u64));
}

#[test]
fn shutting_down_fails_all_who_wait_and_who_come() {
    let store = Store::new();
    let image = one_file(&store, 8 * MIB);
    let fs = Arc::new(image.open(&store, Options::default()));
    let file = find(&fs, "file");
    fs.read(file, 0, 4096).unwrap();
    image.remote.set(Network::Stalled);
    let failed = Arc::new(AtomicUsize::new(0));
    for n in 1..100 {
        let failed = failed.clone();
        fs.read_then(file, n * 80_000, 4096, move |data| {
            failed.fetch_add(usize::from(data.is_err()), SeqCst);
        });
    }
    fs.shut_down();
    let waited = failed.load(SeqCst);
    assert!(waited > 90, "{waited}");
    let error = fs.read(file, 7 * MIB as u64, 4096).unwrap_err();
    assert!(matches!(error, ReadError::Span(SpanError::Closed { .. })), "{error}");
    fs.read(file, 0, 4096).expect("what is there is still served");
    image.remote.set(Network::Works);
}

#[test]
fn little_memory_is_enough() {
    let store = Store::new();
    let image = one_file(&store, 8 * MIB);
    let fs = image.open(&store, Options { memory: 1, ..Options::default() });
    image.check(&fs, "file");
    let fs = Arc::new(fs);
    let (done, answers) = mpsc::channel();
    for n in 0..64 {
        let done = done.clone();
        let at = n * (128 << 10);
        let expected = image.files["file"][at..at + (128 << 10)].to_vec();
        fs.read_then(find(&fs, "file"), at as u64, 128 << 10, move |data| {
            done.send(data.unwrap() == expected).unwrap();
        });
    }
    drop(done);
    assert!(answers.iter().all(|right| right));
}

#[test]
fn chunks_in_one_compressed_member_are_decoded_once() {
    // As eStargz has small files: many chunks in the same stored bytes.
    let store = Store::new();
    let files: Vec<(String, Vec<u8>)> =
        (0..200).map(|n| (format!("f{n}"), noise(n, 1000))).collect();
    let all: Vec<u8> = files.iter().flat_map(|(_, data)| data.clone()).collect();
    let stored = zstd::bulk::compress(&all, 1).unwrap();
    let borrowed: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(path, data)| (path.as_str(), data.clone())).collect();
    let image = Remotely::tampered(&store, &borrowed, CHUNK, |number, span| {
        span.blob_offset = 0;
        span.blob_len = stored.len() as u64;
        span.inner_offset = number as u64 * 1000;
        span.coding = Coding::Zstd;
    });
    let image = image.with_blob(stored);
    let fs = image.open(&store, Options::default());
    for (path, _) in &files {
        image.check(&fs, path);
    }
    assert_eq!(image.remote.take_reads().len(), 1);
}

#[test]
fn what_is_fetched_in_the_background_yields_to_whoever_waits() {
    let store = Store::new();
    let image = one_file(&store, 16 * MIB);
    let cache = store.cache(1 << 30);
    let fs = image.open(&store, crate::fixture::cached(&cache));
    let file = find(&fs, "file");
    image.remote.set(Network::Stalled);
    assert!(fs.fetch_all());
    image.remote.wait_for_reads(3);
    std::thread::scope(|scope| {
        let demand = scope.spawn(|| fs.read(file, 12 * MIB as u64, 4096));
        image.remote.wait_for_reads(4);
        image.remote.set(Network::Works);
        demand.join().unwrap().unwrap();
    });
    wait_until("all is fetched", || fs.stats().bytes_fetched >= image.remote.size());
    let reads = image.remote.take_reads();
    assert!(reads[..3].iter().all(|read| read.0 < 4 * MIB as u64), "the background began");
    assert!(reads[3].0 >= 11 * MIB as u64, "demand was next");
    assert!(!read_twice(&reads) && reads.len() < 24, "{reads:?}");
    image.remote.set(Network::Gone);
    image.check(&fs, "file");

    let without = image.open(&store, Options::default());
    assert!(!without.fetch_all(), "there is no place for it");
}
