//! A cluster image's `registry/` is served, and other tools pull from it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use kfs_fs::digest::Digest;
use serde_json::json;

use crate::layout::{LayerTar, gzip};
use crate::tools::{Workshop, available, run};

fn put(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join("registry/docker/registry/v2").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Puts a blob into a registry's tree, as a layer or a manifest of `library/app`.
fn put_blob(root: &Path, kind: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let hex = digest.hex();
    put(root, &format!("blobs/sha256/{}/{hex}/data", &hex[..2]), bytes);
    let link = format!("repositories/library/app/{kind}/sha256/{hex}/link");
    put(root, &link, digest.to_string().as_bytes());
    digest
}

/// The tree of a registry that has `library/app:1`.
fn registry(root: &Path) {
    let mut tar = LayerTar::new(1_000_000_000);
    tar.file("hello", 0o644, b"hello\n");
    let tar = tar.finish().unwrap();
    let diff_id = Digest::of(&tar);
    let layer = gzip(&tar);
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
    });
    let config = config.to_string();
    let descriptor = |kind: &str, bytes: &[u8]| {
        let digest = put_blob(root, "_layers", bytes).to_string();
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config.as_bytes()),
        "layers": [descriptor("layer.v1.tar+gzip", &layer)],
    });
    let digest = put_blob(root, "_manifests/revisions", manifest.to_string().as_bytes());
    let tag = "repositories/library/app/_manifests/tags/1/current/link";
    put(root, tag, digest.to_string().as_bytes());
}

/// A server that ends with the value.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    fn start(workshop: &Workshop, what: &str) -> Self {
        let mut command = workshop.kfs();
        command.args(["registry", "serve", "--addr", "127.0.0.1:0", what]);
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("http://").expect("an address").1.to_owned();
        Self { process, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = self.process.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "{status}");
    }
}

#[test]
fn skopeo_and_buildah_pull_out_of_a_cluster_image() {
    if !available() {
        return;
    }
    let workshop = Workshop::new();
    let context = workshop.path("context");
    registry(&context);
    fs::write(context.join("Kubefile"), "FROM scratch\nCOPY registry registry\n").unwrap();
    run(workshop.kfs().args(["build", "-t", "cluster:1", "context"]));
    for what in ["cluster:1", "context", "context/registry"] {
        let server = Server::start(&workshop, what);
        let copy = workshop.path(&format!("copy-{}", what.replace(['/', ':'], "-")));
        let source = format!("docker://{}/library/app:1", server.address);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--src-tls-verify=false", &source]);
        run(skopeo.arg(format!("oci:{}:app", copy.display())));
        let found = run(workshop.kfs().args(["cat", &format!("oci:{}", copy.display()), "/hello"]));
        assert_eq!(found, "hello\n", "{what}");
    }
    let server = Server::start(&workshop, "cluster:1");
    let policy = workshop.path("policy.json");
    let mut pull = workshop.buildah("pull");
    pull.arg("--quiet").arg("--tls-verify=false").arg("--signature-policy").arg(policy);
    let id = run(pull.arg(format!("docker://{}/library/app:1", server.address)));
    let mounted = workshop.buildah_mount(id.trim());
    assert_eq!(fs::read_to_string(mounted.join("hello")).unwrap(), "hello\n");
}
