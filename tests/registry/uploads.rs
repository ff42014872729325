//! Uploads that are broken off: by a line, by a registry that forgets, by `kill -9`.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

use crate::server::Registry;

/// More than a piece of an upload, and less than two.
const LEN: u32 = 12 << 20;

/// A registry behind a proxy, and the image `x:1` of one layer of two pieces in a store.
fn start() -> Option<(Registry, Proxy)> {
    let registry = Registry::start(false)?;
    let large: Vec<u8> =
        (0..LEN / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    registry.image_with("x:1", &[("large", &large)]);
    let proxy = Proxy::start("127.0.0.1:0", registry.address(), Shape::default()).unwrap();
    Some((registry, proxy))
}

/// Debian's registry forgets an upload when a connection breaks in the middle of a piece: what it
/// has is then not what it said.
#[test]
fn an_upload_that_the_registry_lost_is_begun_anew() {
    let Some((registry, proxy)) = start() else { return };
    let name = format!("{}/b:1", proxy.address());
    // The registry has time to note what it got.
    proxy.add(Rule::on("GET /v2/b/blobs/uploads/", Fault::Status(503)).times(3));
    // Of config and layer the first; the config is shorter.
    proxy.add(Rule::on("PATCH", Fault::Cut(3 << 20)).times(2));
    registry.ok("origin", &["push", "--plain-http", "x:1", &name]);
    assert!(proxy.seen("POST /v2/b/blobs/uploads/").len() >= 3, "layer, config, layer again");
    registry.ok("other", &["pull", "--plain-http", &name]);
    // One that it loses each time is an error in the end.
    proxy.clear();
    proxy.add(Rule::on("PATCH", Fault::Status(404)));
    let name = format!("{}/c:1", proxy.address());
    // A store that knows of no other repository with the layer.
    registry.ok("origin", &["copy", "x:1", "oci:layout:x"]);
    let (code, error) = registry.fails("new", &["push", "--plain-http", "oci:layout:x", &name]);
    assert!(code == 1 && error.contains("404"), "{code}: {error}");
}

#[test]
fn an_upload_that_was_killed_is_taken_up_by_the_next_push() {
    let Some((registry, proxy)) = start() else { return };
    let name = format!("{}/b:1", proxy.address());
    let push = ["push", "--plain-http", "x:1", &name];
    // The first piece of the layer passes, the second one does not.
    let second = Rule::on("PATCH", Fault::Status(503)).after(2);
    proxy.add(second);
    let mut command = registry.command("origin", &push);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while proxy.seen("PATCH").len() < 4 {
        assert!(Instant::now() < deadline, "the push does not come so far");
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let uploads = || {
        let files = std::fs::read_dir(registry.path("origin/remotes")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".upload")).count()
    };
    assert_eq!(uploads(), 1);
    proxy.clear();
    registry.ok("origin", &push);
    assert_eq!(proxy.seen("POST").len(), 0, "no upload is begun");
    assert_eq!(proxy.seen("PATCH").len(), 1, "one piece is left");
    assert_eq!(uploads(), 0);
    registry.ok("other", &["pull", "--plain-http", &name]);
    // One that the registry does not know any more, and one to another repository.
    for (stale, target) in [("b", "b2"), ("c", "c")] {
        let url = format!("http://{}/v2/{stale}/blobs/uploads/0?_state=x", proxy.address());
        let repository = format!("{}/{stale}", proxy.address());
        for blob in std::fs::read_dir(registry.path("origin/blobs/sha256")).unwrap() {
            let hex = blob.unwrap().file_name().into_string().unwrap();
            let path = registry.path(&format!("origin/remotes/{hex}.upload"));
            std::fs::write(path, format!("{repository}\n{url}\n")).unwrap();
        }
        let name = format!("{}/{target}:1", proxy.address());
        registry.ok("origin", &["push", "--plain-http", "x:1", &name]);
    }
}
