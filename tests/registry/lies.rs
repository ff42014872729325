//! Manifests that do not fit the blobs, and blobs that are not there: every command says the same.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use kfs_fs::digest::Digest;
use serde_json::{Value, json};

use crate::bad::{BLOBS, Bad};
use crate::server::Registry;
use kfs_measure::proxy::{Fault, Rule};

/// A registry with the image `a:1` of one layer.
struct Lies {
    registry: Registry,
    manifest: Value,
}

impl Lies {
    fn start() -> Option<Self> {
        let registry = Registry::start(false)?;
        let digest: Digest = registry.image("a:1").parse().unwrap();
        let path = registry.path("origin/blobs/sha256").join(digest.hex());
        let manifest = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        Some(Self { registry, manifest })
    }

    /// Puts a manifest or index, as it is, under a tag of `a`.
    fn put(&self, tag: &str, manifest: &Value) {
        let (host, json) = (self.registry.address(), manifest.to_string());
        let mut stream = TcpStream::connect(host).unwrap();
        write!(
            stream,
            "PUT /v2/a/manifests/{tag} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\
             Content-Type: {}\r\nConnection: close\r\n\r\n{json}",
            json.len(),
            manifest["mediaType"].as_str().unwrap(),
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }

    /// Has all commands that read a layer do so, and says how they fail.
    #[track_caller]
    fn fail(&self, tag: &str, code: i32, parts: &[&str]) -> Vec<String> {
        let name = self.registry.name(&format!("a:{tag}"));
        fs::create_dir_all(self.registry.path("mnt")).unwrap();
        let commands: [&[&str]; 4] = [
            &["cat", &name, "/hello"],
            &["mount", &name, "mnt"],
            &["pull", &name],
            &["convert", "--to", "gzip", &name, "new:1"],
        ];
        let failed = commands.map(|command| {
            let (found, error) = self.registry.fails(&format!("{tag}.{}", command[0]), command);
            assert_eq!(found, code, "{command:?}: {error}");
            for part in parts {
                assert!(error.contains(part), "{command:?}: no {part}: {error}");
            }
            error
        });
        failed.into()
    }
}

#[test]
fn a_size_that_does_not_fit_is_the_same_to_all_commands() {
    let Some(lies) = Lies::start() else { return };
    let layer = lies.manifest["layers"][0]["digest"].as_str().unwrap();
    let right = lies.manifest["layers"][0]["size"].as_i64().unwrap();
    for (tag, size) in [("longer", right + 100), ("shorter", right - 1), ("none", 0)] {
        let mut manifest = lies.manifest.clone();
        manifest["layers"][0]["size"] = size.into();
        lies.put(tag, &manifest);
        for error in lies.fail(tag, 5, &[layer]) {
            assert!(!error.contains("fsck"), "nothing is wrong with the store: {error}");
        }
    }
}

#[test]
fn an_index_that_does_not_fit_its_manifests_is_nothing_that_fsck_mends() {
    let Some(lies) = Lies::start() else { return };
    let json = lies.manifest.to_string();
    lies.put("2", &lies.manifest);
    let entry = json!({
        "mediaType": lies.manifest["mediaType"],
        "digest": Digest::of(json.as_bytes()),
        "size": json.len() + 5,
        "platform": { "os": "linux", "architecture": "amd64" },
    });
    let index = |manifests: &[Value]| {
        let media_type = "application/vnd.oci.image.index.v1+json";
        json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests })
    };
    lies.put("index", &index(&[entry]));
    let name = lies.registry.name("a:index");
    let args = ["--platform", "linux/amd64", &name, "/hello"];
    let (code, error) = lies.registry.fails("index", &[&["cat"], &args[..]].concat());
    assert!(code == 5 && error.contains("it ends after"), "{error}");
    assert!(error.contains("has to mend it") && !error.contains("fsck"), "{error}");
    lies.put("empty", &index(&[]));
    let (code, error) = lies.registry.fails("index", &["cat", &lies.registry.name("a:empty"), "/"]);
    assert!(code == 3 && error.contains("has no image at all"), "{error}");
}

#[test]
fn http_is_no_advice_for_a_registry_that_speaks_it() {
    let Some(bad) = Bad::start() else { return };
    let advice = "check the name and the network";
    bad.proxy.add(Rule::on(BLOBS, Fault::Reset(0)));
    let name = bad.name();
    for http in [&["--plain-http"][..], &[]] {
        let args = [&["cat", "--read-timeout=300ms", &name, "/hello"], http].concat();
        let (code, error) = bad.registry.fails("lazy", &args);
        assert!(code == 1 && error.contains(advice), "{error}");
        assert!(!error.contains("--plain-http"), "{error}");
    }
    // Not an address of this machine to the eye: https alone is tried, and nobody answers.
    let free = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap();
    let args = ["cat", "--read-timeout=300ms", &format!("{free}/a:1"), "/hello"];
    let (_, error) = bad.registry.fails("lazy", &args);
    assert!(error.contains(advice) && error.contains("--plain-http"), "{error}");
}

#[test]
fn a_layer_that_the_registry_lacks_is_the_same_to_all_commands() {
    let Some(lies) = Lies::start() else { return };
    let layer: Digest = lies.manifest["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let layers = "data/docker/registry/v2/repositories/a/_layers/sha256";
    fs::remove_dir_all(lies.registry.path(layers).join(layer.hex())).unwrap();
    let error = format!("registry {} has no blob {layer} in a", lies.registry.address());
    lies.fail("1", 3, &[&error]);
}
