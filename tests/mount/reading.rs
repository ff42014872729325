//! What is said about reading, and how it is steered, on the command line.

use std::fs;

use serde_json::{Value, json};

use crate::sandbox::{Sandbox, wait_until};

#[test]
fn statistics_are_shown_in_three_forms() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["mount", "--prefetch=all", "--cache-size=1M", "test", "mnt"]);
    let list = || -> Value {
        serde_json::from_str(&sandbox.ok(&["mounts", "--stats", "--format", "json"])).unwrap()
    };
    wait_until("the server says what it reads", || !list()[0]["stats"].is_null());
    let list = list();
    assert_eq!(list[0]["image"], "test");
    // What lies here is not fetched.
    assert_eq!(list[0]["stats"]["bytes_fetched"], 0);
    let table = sandbox.ok(&["mounts", "--stats"]);
    assert!(table.contains("FETCHED") && table.contains(" 0B "), "{table}");
    let text = sandbox.ok(&["mounts", "--prometheus"]);
    assert!(text.contains("\nkfs_requests_total{image=\"test\",mountpoint="), "{text}");
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn an_empty_cache_is_shown_and_freed() {
    let Some(sandbox) = Sandbox::new() else { return };
    assert_eq!(sandbox.ok(&["cache", "du", "--format", "json"]).trim(), "[]");
    assert!(sandbox.ok(&["cache", "du"]).starts_with("LAYER"));
    for prune in
        [&["cache", "prune"][..], &["cache", "prune", "--all"], &["cache", "prune", "--keep=1G"]]
    {
        sandbox.ok(prune);
    }
}

#[test]
fn a_trace_goes_in_and_comes_out() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (_, failed) = sandbox.fails(&["trace", "export", "test"]);
    assert!(failed.contains("there is no trace of test"), "{failed}");
    let image: Value = serde_json::from_str(&sandbox.ok(&["images", "--format", "json"])).unwrap();
    let manifest = image[0]["digest"].clone();
    let entry = json!({"path": "/etc/motd", "offset": 0, "size": 6});
    // Of another image.
    let other = format!("sha256:{}", "0".repeat(64));
    let trace = json!({"version": 1, "manifest": other, "entries": [entry]});
    fs::write(sandbox.path("trace"), trace.to_string()).unwrap();
    sandbox.ok(&["trace", "import", "test", "trace"]);
    let out: Value = serde_json::from_str(&sandbox.ok(&["trace", "export", "test"])).unwrap();
    assert_eq!(out, json!({"version": 1, "manifest": manifest, "entries": [entry]}));
    fs::write(sandbox.path("trace"), "{}").unwrap();
    assert!(sandbox.fails(&["trace", "import", "test", "trace"]).1.contains("is no trace"));
    sandbox.ok(&["rmi", "test"]);
    assert_eq!(fs::read_dir(sandbox.path("store/traces")).unwrap().count(), 0);
}
