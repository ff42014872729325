//! Manifests that do not fit the blobs, and blobs that are not there: every command says the same.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use kfs_fs::digest::Digest;
use serde_json::Value;

use crate::server::Registry;

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
    for (tag, more) in [("longer", 100), ("shorter", -1)] {
        let mut manifest = lies.manifest.clone();
        let size = manifest["layers"][0]["size"].as_i64().unwrap();
        manifest["layers"][0]["size"] = (size + more).into();
        lies.put(tag, &manifest);
        lies.fail(tag, 5, &[layer, &format!("{} bytes", size + more)]);
    }
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
