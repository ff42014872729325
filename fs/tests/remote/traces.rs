//! What was read first is fetched ahead at the next start.

use std::sync::Arc;

use kfs_fs::filesystem::ImageFs;
use kfs_fs::trace::TraceEntry;

use crate::fixture::{MIB, Remotely, Store, cached, find, noise};
use crate::source::{Network, wait_until};

const CHUNK: usize = 64 << 10;

fn files() -> [(&'static str, Vec<u8>); 3] {
    [("a", noise(1, 4 * MIB)), ("b", noise(2, 4 * MIB)), ("program", noise(3, 4 * MIB))]
}

/// As the kernel would read.
fn read(fs: &Arc<ImageFs>, path: &str, offset: usize, size: usize) {
    let (done, answer) = std::sync::mpsc::channel();
    fs.read_then(find(fs, path), offset as u64, size, move |data| done.send(data).unwrap());
    answer.recv().unwrap().unwrap();
}

fn run(fs: &Arc<ImageFs>) {
    read(fs, "program", 2 * MIB, 100);
    read(fs, "b", 0, 200_000);
    read(fs, "program", 2 * MIB + 100, 100);
    read(fs, "a", MIB, 10);
    read(fs, "b", 200_000, 100);
}

fn entry(path: &str, offset: usize, size: usize) -> TraceEntry {
    TraceEntry { path: path.to_owned(), offset: offset as u64, size: size as u64 }
}

#[test]
fn first_reads_are_recorded_in_order_and_each_place_once() {
    let store = Store::new();
    let image = Remotely::new(&store, &files(), CHUNK);
    let mut fs = image.open(&store, cached(&store.cache(1 << 30)));
    fs.record_first_reads();
    let fs = Arc::new(fs);
    run(&fs);
    run(&fs);
    let expected = [entry("/program", 2 * MIB, 200), entry("/b", 0, 200_100), entry("/a", MIB, 10)];
    assert_eq!(fs.first_reads().unwrap(), expected);
}

#[test]
fn a_trace_is_fetched_ahead_and_little_else() {
    let store = Store::new();
    let image = Remotely::new(&store, &files(), CHUNK);
    let fs = Arc::new(image.open(&store, cached(&store.cache(1 << 30))));
    let trace = [
        entry("/program", 2 * MIB, 200),
        entry("/is/not/there", 0, 1 << 40),
        entry("/b", 0, 200_100),
        entry("/a", MIB, 10),
        entry("/a", usize::MAX, usize::MAX),
    ];
    assert!(fs.fetch_ahead(&trace).unwrap());
    let stats = || fs.stats();
    wait_until("the trace is there", || stats().spans_fetched >= 6 && stats().in_flight == 0);
    assert!(image.remote.sent() <= 7 * CHUNK as u64, "{}", image.remote.sent());
    image.remote.set(Network::Gone);
    run(&fs);
    // Also for those who come after.
    run(&Arc::new(image.open(&store, cached(&store.cache(1 << 30)))));
}
