//! Layers that `kfs convert` writes, pulled in parts by containers/storage: it reads the table of
//! contents, fetches the ranges that it names, and checks what is in them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use kfs_fs::digest::Digest;
use serde_json::{Value, json};

use crate::converted::{LAYERS_WITH_TABLE, has, is_of_overlayfs, odd_image};
use crate::images::assert_none;
use crate::server::Registry;
use crate::skip::skip;
use crate::tools::{Workshop, available, run};
use crate::walk::{differences, walk};

const ANNOTATION: &str = "io.github.containers.zstd-chunked.";
/// How versions before 1.45 of containers/storage call it.
const OLD_ANNOTATION: &str = "io.containers.zstd-chunked.";

#[test]
fn layers_are_pulled_in_parts() {
    if !available() || !has(&["skopeo"]) {
        return;
    }
    let mut shop = Workshop::new();
    if shop.is_on_overlay() {
        return skip("needs a disk that an overlayfs can be on");
    }
    let Some(registry) = Registry::start(false) else { return };
    odd_image(&shop);
    for format in ["zstd-chunked", "estargz"] {
        let name = format!("mine:{format}");
        run(shop.kfs().args(["convert", "--to", format, "oci:layout:image", &name]));
        let layout = format!("converted-{format}");
        shop.skopeo_copy(&format!("oci:store:{name}"), &format!("oci:{layout}:image"));
        annotate_for_old(&shop.path(&layout));
        let remote = registry.name(&format!("mine:{format}"));
        run(shop.kfs().args(["push", &format!("oci:{layout}:image"), &remote]));

        // Later versions of it want to build the tar again, which eStargz has nothing for.
        let insecure = format == "estargz";
        let log = pull_in_parts(&shop, &remote, &format!("localhost/{name}"), insecure);
        let parts = log.matches("Retrieved partial blob").count();
        assert_eq!(parts, LAYERS_WITH_TABLE, "{format}: {log}");
        let theirs = walk(&shop.buildah_mount(&format!("localhost/{name}")));
        let ours = walk(&shop.kfs_mount(&name));
        assert_none(differences(&ours, &theirs, is_lost), format);
    }
}

/// What a partial pull makes differently of any image: no devices and FIFOs, no times of
/// directories and links, no modes of directories without an entry; before 1.45 also no owners, no
/// times at all, and names as JSON has them.
fn is_lost(path: &str, property: &str) -> bool {
    let is_device = |path: &str| ["./dev/null", "./dev/disk"].contains(&path);
    match property {
        "path" => is_device(path) || path.contains('\\'),
        "mtime" | "owner" => true,
        "mode" if path.starts_with("./odd/long-") => true,
        _ => is_of_overlayfs(path, property),
    }
}

/// Adds the annotations' old names to the layers of a layout's only image.
fn annotate_for_old(layout: &Path) {
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let mut index = read("index.json");
    let descriptor = &mut index["manifests"][0];
    let digest = descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/");
    let mut manifest = read(&digest);
    for layer in manifest["layers"].as_array_mut().unwrap() {
        let Some(annotations) = layer["annotations"].as_object_mut() else { continue };
        let old =
            |key: &String| key.strip_prefix(ANNOTATION).map(|key| format!("{OLD_ANNOTATION}{key}"));
        let more: Vec<_> = annotations
            .iter()
            .filter_map(|(key, value)| Some((old(key)?, value.clone())))
            .collect();
        annotations.extend(more);
    }
    let manifest = manifest.to_string();
    let digest = Digest::of(manifest.as_bytes());
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &manifest).unwrap();
    descriptor["digest"] = json!(digest.to_string());
    descriptor["size"] = json!(manifest.len());
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

/// Has skopeo pull an image to buildah's storage; what it says of that.
fn pull_in_parts(shop: &Workshop, remote: &str, name: &str, insecure: bool) -> String {
    let config = shop.path("storage.conf");
    let text = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = {:?}\nrunroot = {:?}\n\
         [storage.options]\npull_options = {{enable_partial_images = \"true\", \
         insecure_allow_unpredictable_image_contents = \"{insecure}\"}}\n",
        shop.path("buildah/root"),
        shop.path("buildah/run"),
    );
    fs::write(&config, text).unwrap();
    let mut copy = Command::new("skopeo");
    copy.env("CONTAINERS_STORAGE_CONF", config).stdin(Stdio::null());
    copy.arg("--debug").arg("--policy").arg(shop.path("policy.json"));
    copy.args(["copy", "--quiet", "--src-tls-verify=false", &format!("docker://{remote}")]);
    let output = copy.arg(format!("containers-storage:{name}")).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{log}");
    log
}
