//! Images for several platforms, which the store knows from a registry and has nothing of.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use kfs_fs::digest::Digest;
use kfs_measure::proxy::{Proxy, Shape};
use serde_json::{Value, json};

use crate::server::Registry;

/// Bytes of a layer.
const LARGE: u32 = 96 << 20;
/// What a process may take while a layer of that size passes through it, in bytes.
const MEMORY: u64 = 88 << 20;

/// Bytes that do not compress.
fn noise(len: u32, seed: u32) -> Vec<u8> {
    (0..len / 4).flat_map(|n| (n ^ seed << 30).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// A registry behind a proxy, with the image `a:all` for two platforms, and another one.
struct Several {
    registry: Registry,
    proxy: Proxy,
    other: Registry,
    digest: String,
}

impl Several {
    fn start(files: [&[u8]; 2]) -> Option<Self> {
        let (registry, other) = (Registry::start(false)?, Registry::start(false)?);
        let mut manifests = Vec::new();
        for (file, architecture) in files.into_iter().zip(["amd64", "arm64"]) {
            registry.image_with("x:1", &[("file", file)]);
            registry.ok("origin", &["copy", "x:1", &format!("oci:layout:{architecture}")]);
            manifests.push(for_platform(&registry.path("layout"), architecture));
        }
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        let index = index.to_string();
        let digest = Digest::of(index.as_bytes());
        fs::write(registry.path("layout/blobs/sha256").join(digest.hex()), &index).unwrap();
        let entry = json!({"mediaType": kind, "digest": digest.to_string(), "size": index.len()});
        let list = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        fs::write(registry.path("layout/index.json"), list).unwrap();
        registry.ok("origin", &["push", "--all-platforms", "oci:layout", &registry.name("a:all")]);
        let start = || Proxy::start("127.0.0.1:0", registry.address(), Shape::default());
        let proxy = start().unwrap();
        let digest = digest.to_string();
        Some(Self { registry, proxy, other, digest })
    }

    fn name(&self) -> String {
        format!("{}/a:all", self.proxy.address())
    }

    #[track_caller]
    fn assert_has(&self, name: &str, platform: &str, file: &[u8]) {
        let args = ["cat", "--platform", platform, "--plain-http", name, "/file"];
        assert!(self.registry.run(platform, &args).stdout == file, "{name} for {platform}");
    }

    /// Blobs larger than a config that came in.
    fn layers_fetched(&self) -> usize {
        self.proxy.seen("/blobs/sha256:").iter().filter(|seen| seen.bytes > 1000).count()
    }
}

/// Makes the last image of a layout one for an architecture; its entry in an index.
fn for_platform(layout: &Path, architecture: &str) -> Value {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let blobs = layout.join("blobs/sha256");
    let hex = |descriptor: &Value| descriptor["digest"].as_str().unwrap().replace("sha256:", "");
    let put = |descriptor: &mut Value, json: Value| {
        let json = json.to_string();
        let digest = Digest::of(json.as_bytes());
        fs::write(blobs.join(digest.hex()), &json).unwrap();
        descriptor["digest"] = digest.to_string().into();
        descriptor["size"] = json.len().into();
    };
    let index = read(&layout.join("index.json"));
    let mut entry = index["manifests"].as_array().unwrap().last().unwrap().clone();
    let mut manifest = read(&blobs.join(hex(&entry)));
    let mut config = read(&blobs.join(hex(&manifest["config"])));
    config["architecture"] = architecture.into();
    put(&mut manifest["config"], config);
    put(&mut entry, manifest);
    entry.as_object_mut().unwrap().remove("annotations");
    entry["platform"] = json!({"os": "linux", "architecture": architecture});
    entry
}

#[test]
fn an_image_known_lazily_is_pushed_for_all_platforms() {
    let contents = [noise(10_000, 1), noise(10_000, 2)];
    let files = contents.each_ref().map(Vec::as_slice);
    let Some(several) = Several::start(files) else { return };
    let (registry, name) = (&several.registry, several.name());
    let inside = format!("{}/b/c:2", several.proxy.address());
    let elsewhere = several.other.name("d:3");
    let push = |from: &str, to: &str| {
        let args = ["push", "--plain-http", "--all-platforms", from, to];
        assert_eq!(registry.ok("lazy", &args).trim(), several.digest);
    };
    registry.ok("lazy", &["inspect", "--plain-http", &name]);
    several.proxy.clear();
    push(&name, &inside);
    assert_eq!(several.layers_fetched(), 0, "layers are mounted");
    push(&name, &elsewhere);
    assert_eq!(several.layers_fetched(), 2);
    for target in [&inside, &elsewhere] {
        several.assert_has(target, "linux/amd64", files[0]);
        several.assert_has(target, "linux/arm64", files[1]);
    }
    let from = format!("docker://{name}");
    for to in ["oci:copy:x", "oci-archive:copy.tar:x", "local:1"] {
        let copy = ["copy", "--plain-http", "--all-platforms", &from, to];
        assert_eq!(registry.ok("copies", &copy).trim(), several.digest);
        for (platform, file) in ["linux/amd64", "linux/arm64"].into_iter().zip(files) {
            let cat = registry.run("copies", &["cat", "--platform", platform, to, "/file"]);
            assert!(cat.stdout == file, "{to} for {platform}: {cat:?}");
        }
    }
}

/// Whatever the name stood for before, and stands for afterwards.
#[test]
fn a_base_is_taken_for_the_platform_that_its_line_names() {
    let contents = [noise(10_000, 1), noise(10_000, 2)];
    let files = contents.each_ref().map(Vec::as_slice);
    let Some(several) = Several::start(files) else { return };
    let (registry, name) = (&several.registry, several.name());
    let text = format!(
        "FROM --platform=linux/arm64 {name} AS arm\n\
         FROM --platform=amd64 {name} AS amd\n\
         FROM scratch\nCOPY --from=arm /file /arm64\nCOPY --from=amd /file /amd64\n"
    );
    fs::create_dir(registry.path("context")).unwrap();
    fs::write(registry.path("context/Dockerfile"), text).unwrap();
    fs::write(
        registry.path("context/Dockerfile.arm"),
        format!("FROM --platform=linux/arm64 {name}\nLABEL a=b\n"),
    )
    .unwrap();
    for before in [None, Some("linux/amd64"), Some("linux/arm64")] {
        let store = format!("build{}", before.unwrap_or_default().replace('/', ""));
        if let Some(before) = before {
            registry.ok(&store, &["inspect", "--plain-http", "--platform", before, &name]);
        }
        registry.ok(&store, &["build", "--plain-http", "-t", "built", "context"]);
        for (file, content) in ["/amd64", "/arm64"].into_iter().zip(files) {
            let cat = registry.run(&store, &["cat", "built", file]);
            assert!(cat.stdout == content, "{file} in {store}: {cat:?}");
        }
        let args =
            ["build", "--plain-http", "-t", "arm", "-f", "context/Dockerfile.arm", "context"];
        registry.ok(&store, &args);
        let built = registry.ok(&store, &["inspect", "arm"]);
        let built: Value = serde_json::from_str(&built).unwrap();
        assert_eq!(built["config"]["architecture"], "arm64", "{built}");
    }
}

#[test]
fn of_an_index_is_noted_what_is_used() {
    let Some(several) = Several::start([b"one", b"two"]) else { return };
    let (registry, name) = (&several.registry, several.name());
    let noted = || fs::read_dir(registry.path("lazy/remotes")).unwrap().count();
    registry.ok("lazy", &["inspect", "--plain-http", &name]);
    assert_eq!(noted(), 4, "index, manifest, config and layer");
    let here = registry.ok("lazy", &["cat", "--plain-http", &name, "/file"]);
    // The name keeps its index: what else that lists is found where it was.
    for (platform, content) in [("linux/amd64", "one"), ("linux/arm64", "two")] {
        let cat = ["cat", "--platform", platform, "--plain-http", &name, "/file"];
        assert_eq!(registry.ok("lazy", &cat), content);
    }
    assert!(["one", "two"].contains(&here.as_str()));
    assert_eq!(noted(), 7);
    let pull = ["pull", "--plain-http", "--all-platforms", &name];
    assert_eq!(registry.ok("pulled", &pull).trim(), several.digest);
}

#[test]
fn layers_pass_through_in_bounded_memory() {
    let Some(several) = Several::start([&noise(LARGE, 1), &noise(10_000, 2)]) else { return };
    let from = format!("docker://{}", several.name());
    let to = format!("docker://{}", several.other.name("d:3"));
    let copy = ["copy", "--plain-http", "--all-platforms", &from, &to];
    let mut child = several.registry.command("lazy", &copy).stdout(Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(&status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kib.unwrap_or(0) << 10);
        thread::sleep(Duration::from_millis(2));
    }
    assert!(child.wait_with_output().unwrap().stdout.starts_with(several.digest.as_bytes()));
    assert!((1..MEMORY).contains(&peak), "{peak} bytes");
}
