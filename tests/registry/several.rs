//! Blobs that are in several places: repositories, and the store.

use std::fs;

use kfs_fs::digest::Digest;

use crate::bad::{BLOBS, Bad};
use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

#[test]
fn an_image_is_read_from_where_it_is_named_and_from_elsewhere_if_it_is_gone_there() {
    let Some(bad) = Bad::start() else { return };
    let other = Proxy::start("127.0.0.1:0", bad.registry.address(), Shape::default()).unwrap();
    let (here, there) = (bad.name(), format!("{}/a:1", other.address()));
    let ok = |args: &[&str]| bad.registry.ok("lazy", args);
    let reads = |name: &str| {
        bad.registry.run("lazy", &["cat", "--plain-http", name, "/big"]).stdout == bad.big
    };
    let from = |proxy: &Proxy| proxy.seen(BLOBS).len();
    // Whatever was seen last.
    ok(&["ls", "--plain-http", &here]);
    ok(&["ls", "--plain-http", "--pull=always", &there]);
    for proxy in [&bad.proxy, &other] {
        proxy.clear();
    }
    other.add(Rule::on("", Fault::Status(503)));
    for name in [&here, &format!("docker://{here}")] {
        ok(&["cache", "prune", "--all"]);
        assert!(reads(name), "{name}");
        assert_eq!(from(&other), 0, "{name}");
    }
    // Where the image is named by has lost the layer.
    for proxy in [&bad.proxy, &other] {
        proxy.clear();
    }
    bad.proxy.add(Rule::on(BLOBS, Fault::Status(404)));
    ok(&["cache", "prune", "--all"]);
    assert!(reads(&here));
    assert!(from(&bad.proxy) > 0 && from(&other) > 0);
}

#[test]
fn what_is_damaged_in_the_store_is_fetched_again() {
    let Some(bad) = Bad::start() else { return };
    let (registry, name) = (&bad.registry, bad.name());
    let blobs = registry.path("pulled/blobs/sha256");
    let pull = || {
        let pulled = registry.run("pulled", &["pull", "--plain-http", &name]);
        String::from_utf8(pulled.stderr).unwrap()
    };
    let reads = || registry.run("pulled", &["cat", "--plain-http", &name, "/big"]);
    assert!(pull().contains("1 layers fetched, 0 were there"));
    // Cut short, which shows without reading: read from the registry, and healed by a pull.
    let layer = blobs.join(Digest::of(&bad.layer).hex());
    fs::write(&layer, &bad.layer[..1000]).unwrap();
    assert!(reads().stdout == bad.big);
    assert!(pull().contains("1 layers fetched, 0 were there"));
    assert!(fs::read(&layer).unwrap() == bad.layer);
    // Manifest and config are small enough to be held against their digests each time.
    for entry in fs::read_dir(&blobs).unwrap() {
        let path = entry.unwrap().path();
        let good = fs::read(&path).unwrap();
        if path == layer {
            continue;
        }
        for damaged in [&good[..10], &vec![b' '; good.len()]] {
            fs::write(&path, damaged).unwrap();
            registry.ok("pulled", &["inspect", "--plain-http", &name]);
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }
    // Of a layer it shows when it is read, and what helps is said.
    let mut flipped = bad.layer.clone();
    flipped[700_000] ^= 1;
    fs::write(&layer, flipped).unwrap();
    let failed = reads();
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(5) && said.contains("kfs fsck --repair"), "{said}");
    registry.run("pulled", &["fsck", "--repair"]);
    assert!(pull().contains("1 layers fetched, 0 were there"));
    assert!(reads().stdout == bad.big);
}

#[test]
fn tables_of_contents_come_with_the_config() {
    // So long that nobody asks for anything else before an answer.
    let round_trip = std::time::Duration::from_millis(300);
    let Some(bad) = Bad::start_shaped(Shape { round_trip, ..Shape::default() }) else { return };
    let name = bad.registry.name("a:2");
    bad.registry.ok("origin", &["convert", "x:1", &name, "--to=zstd-chunked"]);
    bad.registry.ok("origin", &["push", &name]);
    bad.proxy.clear();
    let through = format!("{}/a:2", bad.proxy.address());
    assert_eq!(bad.registry.ok("lazy", &["ls", "--plain-http", &through]), "big\nhello\n");
    let seen = bad.proxy.seen(BLOBS);
    let of = |is_part: bool| seen.iter().find(|seen| seen.range.is_some() == is_part).unwrap();
    assert_eq!(seen.len(), 2, "a config and a table: {seen:?}");
    // One of them needs a connection, which takes as long as the answer to the other.
    let begun = |is_part| of(is_part).connected.unwrap_or(of(is_part).asked);
    assert!(begun(true) < of(false).ended.unwrap(), "{seen:?}");
    assert!(begun(false) < of(true).ended.unwrap(), "{seen:?}");
    // Nobody asks for what is indexed already, or not to be read.
    bad.proxy.clear();
    bad.registry.ok("lazy", &["ls", "--plain-http", "--pull=always", &through]);
    bad.registry.ok("inspected", &["inspect", "--plain-http", &through]);
    assert!(bad.proxy.seen(BLOBS).iter().all(|seen| seen.range.is_none()));
}
