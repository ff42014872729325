//! Many who read at once, of an image in a registry: what they ask for goes together, and what one
//! has fetched is there for the others.

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

use crate::remote::{Registry, forget_local};
use crate::sandbox::Sandbox;

/// Small files of an image.
const FILES: u32 = 10_000;
const READERS: u32 = 200;
/// What the server may take, in bytes: the share of content is 64 MiB.
const MEMORY: u64 = 192 << 20;

/// A proxy before a registry, with nothing seen yet.
fn before(registry: &Registry, shape: Shape) -> Proxy {
    Proxy::start("127.0.0.1:0", registry.address(), shape).unwrap()
}

/// Requests for blobs, and bytes of their answers.
fn fetched(proxy: &Proxy) -> (usize, u64) {
    let seen = proxy.seen("/blobs/");
    (seen.len(), seen.iter().map(|seen| seen.bytes).sum())
}

fn content(file: u32) -> Vec<u8> {
    let word = |n: u32| (file << 10 ^ n).wrapping_mul(2_654_435_761).rotate_left(n % 31);
    (0..500).flat_map(|n| word(n).to_le_bytes()).collect()
}

fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in 0..FILES {
        let mut header = tar::Header::new_gnu();
        let content = content(file);
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("{}/{file}", file % 100), &content[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn layer_size(sandbox: &Sandbox, image: &str) -> u64 {
    let image = sandbox.ok(&["inspect", image]);
    let image: serde_json::Value = serde_json::from_str(&image).unwrap();
    image["manifest"]["layers"][0]["size"].as_u64().unwrap()
}

#[test]
fn ten_thousand_small_reads_at_once_become_few_requests() {
    read_ten_thousand(Shape { rate: None, round_trip: Duration::from_millis(5) }, &[]);
}

/// With answers that fail or break off now and then.
#[test]
fn ten_thousand_small_reads_at_once_over_a_slow_and_bad_net() {
    let shape = Shape { rate: Some(5_000_000), round_trip: Duration::from_millis(40) };
    let faults = [
        Rule::on("/blobs/", Fault::Status(503)).after(8).times(3),
        Rule::on("/blobs/", Fault::Truncate(10_000)).after(4).times(3),
        Rule::on("/blobs/", Fault::Reset(100)).after(4).times(3),
    ];
    let Some(proxy) = read_ten_thousand(shape, &faults) else { return };
    let refused = proxy.seen("/blobs/").into_iter().filter(|seen| seen.status == 503);
    assert_eq!(refused.count(), 3);
}

/// Many read all files of an image over such a net, on which these faults begin when it is mounted.
fn read_ten_thousand(shape: Shape, faults: &[Rule]) -> Option<Proxy> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::start(&sandbox)?;
    forget_local(&sandbox);
    fs::write(sandbox.path("many.tar"), tar()).unwrap();
    sandbox.ok(&["import", "many.tar", "plain"]);
    sandbox.ok(&["convert", "plain", "many", "--to", "zstd-chunked"]);
    let size = layer_size(&sandbox, "many");
    let target = format!("{}/many:1", registry.address());
    sandbox.ok(&["push", "--plain-http", "many", &target]);
    sandbox.ok(&["rmi", "plain", "many"]);
    let proxy = before(&registry, shape);
    let image = format!("{}/many:1", proxy.address());
    registry.mount_image(&sandbox, &image, &["--prefetch=off"]);
    let (to_mount, _) = fetched(&proxy);
    faults.iter().for_each(|rule| proxy.add(*rule));
    // Each file twice, by two readers that come to it at different times.
    let mnt = sandbox.path("mnt");
    thread::scope(|scope| {
        for reader in 0..READERS {
            let mnt = &mnt;
            scope.spawn(move || {
                for n in 0..FILES / READERS * 2 {
                    let file = (reader * FILES / READERS + n) % FILES;
                    let read = fs::read(mnt.join(format!("{}/{file}", file % 100))).unwrap();
                    assert!(read == content(file), "{file}");
                }
            });
        }
    });
    let (requests, bytes) = fetched(&proxy);
    let server = fs::read_to_string(format!("/proc/{}/status", sandbox.server())).unwrap();
    let peak = server.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let requests = requests - to_mount;
    eprintln!("{requests} requests, {bytes} of {size} bytes, {peak} KiB");
    assert!(requests < 1000, "{requests} requests for {FILES} files");
    assert!(bytes < size + size / 10, "{bytes} of {size} bytes");
    assert!(peak << 10 < MEMORY, "{peak} KiB");
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
    Some(proxy)
}

#[test]
fn two_mounts_and_a_build_fetch_nothing_twice() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    let proxy = before(&registry, Shape::default());
    let image = format!("{}/app:1", proxy.address());
    fs::create_dir(sandbox.path("mnt2")).unwrap();
    fs::create_dir(sandbox.path("context")).unwrap();
    let text = format!("FROM {image} AS app\nFROM scratch\nCOPY --from=app /big /other /\n");
    fs::write(sandbox.path("context/Dockerfile"), text).unwrap();
    registry.mount_image(&sandbox, &image, &["--prefetch=off"]);
    let again = ["mount", "--prefetch=off", "--plain-http", &image, "mnt2"];
    sandbox.ok(&again);
    let read = |path: &str| -> io::Result<Vec<u8>> { fs::read(sandbox.path(path)) };
    // What one has is there for the others, who come later.
    assert!(read("mnt/big").unwrap() == registry.big);
    let (_, once) = fetched(&proxy);
    assert!(read("mnt2/big").unwrap() == registry.big);
    let (_, twice) = fetched(&proxy);
    assert!(twice < once + once / 10, "{twice} bytes, and {once} before");
    // All at once: what is on its way for one the others wait for.
    thread::scope(|scope| {
        scope.spawn(|| sandbox.ok(&["build", "--plain-http", "-t", "built", "context"]));
        for mnt in ["mnt/other", "mnt2/other"] {
            let (read, other) = (&read, &registry.other);
            scope.spawn(move || assert!(read(mnt).unwrap() == *other));
        }
    });
    let size = layer_size(&sandbox, &image);
    let (_, bytes) = fetched(&proxy);
    eprintln!("{once} and {bytes} of {size} bytes");
    assert!(bytes < size + size / 4, "{bytes} of {size} bytes");
    for (path, content) in [("/big", &registry.big), ("/other", &registry.other)] {
        assert!(sandbox.run(&["cat", "built", path]).stdout == *content, "{path}");
    }
    sandbox.ok(&["umount", "--all"]);
    sandbox.assert_nothing_left();
}
