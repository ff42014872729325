//! What a cluster image carries.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::skip::skip;
use crate::workplace::{Workplace, noise};

const KUBEFILE: &str = "FROM scratch\nCOPY charts charts\nCOPY manifests manifests\n\
                        APP shop local://shop.yaml\nLAUNCH shop\n";

/// A workplace with a chart, a manifest, a list and an application, which name four images.
fn workplace() -> Option<Workplace> {
    let place = Workplace::start(false)?;
    let shared = noise(300_000, 1);
    place.image("docker.io/library/web:1", &[&shared, &noise(400_000, 2)]);
    place.image("docker.io/library/db:1", &[&shared, &noise(1_500_000, 3)]);
    place.image("quay.io/x/listed:2", &[&noise(600_000, 4)]);
    place.image("quay.io/x/shop:3", &[&shared]);
    place.write("charts/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n");
    place.write("charts/c/values.yaml", "image: web:1\n");
    place.write("charts/c/templates/pod.yaml", "kind: Pod\nimage: {{ .Values.image }}\n");
    place.write("manifests/db.yaml", "kind: Pod\nimage: db:1\n");
    place.write("manifests/imageList", "quay.io/x/listed:2\n");
    place.write("shop.yaml", "kind: Pod\nimage: quay.io/x/shop:3\n");
    Some(place)
}

#[test]
fn an_image_goes_from_a_kubefile_to_a_node_without_the_internet() {
    let Some(place) = workplace() else { return };
    let said = place.build(KUBEFILE, &[]);
    assert!(said.contains("4 container images are named"), "{said}");
    let expected = [
        "docker.io/library/db:1",
        "docker.io/library/web:1",
        "quay.io/x/listed:2",
        "quay.io/x/shop:3",
    ];
    assert_eq!(place.listed("cluster:1"), expected);
    let inspected = place.ok("store", &["inspect", "cluster:1"]);
    let inspected: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    let shop = &inspected["containerImageList"][3];
    assert_eq!((&shop["appName"], &shop["platform"]["os"]), (&"shop".into(), &"linux".into()));
    // A blob that three images have is stored once.
    let tree = place.tree("cluster:1");
    let blobs: Vec<_> = tree.iter().filter(|path| path.ends_with("/data")).collect();
    assert_eq!(blobs.len(), 4 * 2 + 5 - 1, "{blobs:?}");
    let remote = place.registry.name("app/cluster:1");
    place.ok("store", &["push", "cluster:1", &remote]);
    // Nothing but this registry is left, and an empty store.
    let remote = format!("{}/app/cluster:1", place.proxy.address());
    place.proxy.clear();
    let served = place.serve("empty", &remote);
    if Command::new("skopeo").arg("--version").output().is_err() {
        return skip("needs skopeo");
    }
    for (image, layers) in [("library/web:1", 2), ("x/listed:2", 1)] {
        let dir = place.registry.path("pulled");
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--src-tls-verify=false"]);
        skopeo.arg(format!("docker://{}/{image}", served.address));
        let output = skopeo.arg(format!("dir:{}", dir.display())).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let files = fs::read_dir(&dir).unwrap().count();
        assert_eq!(files, layers + 3, "layers, config, manifest and version");
        fs::remove_dir_all(dir).unwrap();
    }
    let crossed: u64 = place.proxy.seen("/blobs/").iter().map(|seen| seen.bytes).sum();
    let size: u64 = inspected["manifest"]["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| layer["size"].as_u64().unwrap())
        .sum();
    println!("{crossed} of {size} bytes crossed the network");
    // 1.3 MB of layers were asked for, and the image has 2.8 MB.
    assert!(crossed < 1_900_000 && size > 2_800_000, "{crossed} of {size}");
}

#[test]
fn docker_registry_serves_what_is_mounted_or_copied() {
    let Some(place) = workplace() else { return };
    place.build(KUBEFILE, &[]);
    // The tree is its own: it is put where the registry looks.
    place.ok("store", &["cp", "cluster:1", "/registry", "out"]);
    let data = place.registry.path("out/docker");
    let Some(mut other) = crate::server::Registry::start(false) else { return };
    other.stop();
    fs::rename(data, other.path("data").join("docker"))
        .or_else(|_| {
            let (from, to) = (place.registry.path("out/docker"), other.path("data"));
            fs::create_dir_all(&to).unwrap();
            let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
            copied.map(|status| assert!(status.success()))
        })
        .unwrap();
    other.start_again();
    let pulled = other.ok("fresh", &["pull", &other.name("library/web:1")]);
    let original = place.ok("origin", &["pull", &place.registry.name("docker.io/library/web:1")]);
    assert_eq!(pulled, original);
}

#[test]
fn what_is_here_is_not_fetched_again() {
    let Some(place) = workplace() else { return };
    place.build(KUBEFILE, &[]);
    place.proxy.clear();
    let digest = |place: &Workplace| {
        let inspected = place.ok("store", &["inspect", "cluster:1"]);
        serde_json::from_str::<serde_json::Value>(&inspected).unwrap()["digest"].clone()
    };
    let first = digest(&place);
    let said = place.build(KUBEFILE, &[]);
    assert_eq!(said.matches("cached").count(), 3 + 4, "{said}");
    assert_eq!((digest(&place), place.proxy.seen("").len()), (first, 0));
    // Neither is what the store has under its own name.
    place.image("quay.io/x/own:1", &[&noise(5000, 7)]);
    place.ok("store", &["pull", "quay.io/x/own:1"]);
    place.write("own", "quay.io/x/own:1\n");
    place.proxy.clear();
    place.build("FROM scratch\n", &["--image-list=context/own"]);
    assert_eq!(place.listed("cluster:1"), ["quay.io/x/own:1"]);
    assert_eq!(place.proxy.seen("").len(), 0);
    place.build(KUBEFILE, &[]);
    // One tag changed: only the blobs that it alone has come.
    place.image("docker.io/library/web:2", &[&noise(300_000, 1), &noise(200_000, 5)]);
    place.proxy.clear();
    place.write("charts/c/values.yaml", "image: web:2\n");
    place.build(KUBEFILE, &[]);
    let blobs = place.proxy.seen("GET /v2/docker.io/library/web/blobs/");
    let bytes: u64 = blobs.iter().map(|seen| seen.bytes).sum();
    assert!(bytes < 220_000, "{bytes}: {blobs:?}");
    assert!(place.proxy.seen("/db/blobs/").is_empty());
    // A child fetches what the base does not have.
    place.ok("store", &["tag", "cluster:1", "base:1"]);
    place.write("manifests/more.yaml", "kind: Pod\nimage: web:1\n");
    place.proxy.clear();
    let said = place.build("FROM base:1\nCOPY manifests/more.yaml manifests\n", &[]);
    assert!(said.contains("of which the base has 4"), "{said}");
    assert_eq!(place.listed("cluster:1").len(), 5);
    assert!(place.proxy.seen("/db/").is_empty() && place.proxy.seen("/listed/").is_empty());
}

#[test]
fn digests_platforms_and_lists() {
    let Some(place) = Workplace::start(false) else { return };
    let digest = place.image("quay.io/x/a:1", &[&noise(2000, 1)]);
    place.image("quay.io/x/b:1", &[&noise(2000, 2)]);
    place.image("quay.io/x/c:1", &[&noise(2000, 3)]);
    place.write("manifests/a.yaml", format!("image: quay.io/x/a@{digest}\n"));
    place.write("manifests/b.yaml", "image: quay.io/x/b:1\n");
    place.write("more", "quay.io/x/c:1 # more\n\n# none\n");
    place.write("fewer", "quay.io/x/b:1\n");
    let text = "FROM scratch\nCOPY manifests manifests\n";
    let lists = ["--image-list=context/more", "--ignored-image-list=context/fewer"];
    let said = place.build(text, &lists);
    assert!(said.contains("\"quay.io/x/b:1\" is left out: context/fewer says so"), "{said}");
    let a = format!("quay.io/x/a@{digest}");
    assert_eq!(place.listed("cluster:1"), [&a[..], "quay.io/x/c:1"]);
    let served = place.serve("store", "cluster:1");
    let by_digest = format!("{}/x/a@{digest}", served.address);
    assert_eq!(place.registry.ok("node", &["pull", &by_digest]).trim(), digest);
    place.write(".sealignore", "quay.io/x/b:1\n");
    place.build(text, &["--collect=manifests"]);
    assert_eq!(place.listed("cluster:1"), [&a[..]]);
    place.build(text, &["--collect=charts,lists"]);
    assert_eq!(place.listed("cluster:1").len(), 0);
    place.build(text, &["--collect=none", "--image-list=context/more"]);
    assert_eq!(place.listed("cluster:1"), ["quay.io/x/c:1"]);
    // Docker's files ask for nothing unless they are told to.
    place.write("D/Dockerfile", text);
    let build = ["build", "-t", "d:1", "-f", "context/D/Dockerfile"];
    place.ok("store", &[&build[..], &["context"]].concat());
    assert_eq!(place.listed("d:1").len(), 0);
    place.ok("store", &[&build[..], &["--collect=all", "context"]].concat());
    assert_eq!(place.listed("d:1"), [&a[..]]);
}

#[test]
fn sealos_files_copy_the_registry_of_their_context() {
    let Some(place) = Workplace::start(false) else { return };
    place.image("quay.io/x/a:1", &[&noise(2000, 1)]);
    place.write("images/shim/list", "quay.io/x/a:1\n");
    let text = "FROM scratch\nCOPY registry ./registry\nCMD [\"ls\"]\n";
    place.build(text, &[]);
    assert_eq!(place.listed("cluster:1"), ["quay.io/x/a:1"]);
    assert!(place.tree("cluster:1").iter().any(|path| path.contains("repositories/x/a")));
    // One that the context has is copied as it is.
    place.write("registry/own", "x");
    place.build(text, &[]);
    assert_eq!(place.listed("cluster:1").len(), 0);
    assert_eq!(place.ok("store", &["cat", "cluster:1", "/registry/own"]), "x");
    fs::remove_dir_all(place.registry.path("context/registry")).unwrap();
    let said = place.build_fails(text, &["--collect=none"]);
    assert!(said.contains("\"registry\" is not in the context"), "{said}");
}

/// Puts an image of two platforms into the registry; the digest of the index.
fn two_platforms(place: &Workplace, name: &str) -> String {
    let mut entries = Vec::new();
    for architecture in ["amd64", "arm64"] {
        let repository = name.rsplit_once(':').unwrap().0;
        let layer = noise(3000, u32::try_from(architecture.len() + entries.len()).unwrap());
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(layer.len() as u64);
        tar.append_data(&mut header, "file", &layer[..]).unwrap();
        let tar = tar.into_inner().unwrap();
        let diff_id = format!("sha256:{}", kfs_fs::digest::Digest::of(&tar).hex());
        let config = json!({"architecture": architecture, "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
        let kind = "application/vnd.oci.image";
        let config = config.to_string();
        let config = place.blob(repository, &format!("{kind}.config.v1+json"), config.as_bytes());
        let layer = place.blob(repository, &format!("{kind}.layer.v1.tar"), &tar);
        let kind = format!("{kind}.manifest.v1+json");
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config,
            "layers": [layer]});
        let digest = place.manifest(&format!("{repository}:{architecture}"), &kind, &manifest);
        entries.push(json!({"mediaType": kind, "digest": digest,
            "size": manifest.to_string().len(),
            "platform": {"os": "linux", "architecture": architecture}}));
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    place.manifest(
        name,
        kind,
        &json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}),
    )
}

#[test]
fn the_platforms_that_are_wanted_are_carried() {
    let Some(place) = Workplace::start(false) else { return };
    let index = two_platforms(&place, "quay.io/x/two:1");
    place.write("manifests/imageList", format!("quay.io/x/two:1\nquay.io/x/two@{index}\n"));
    let text = "FROM scratch\nCOPY manifests manifests\n";
    let layers = |place: &Workplace| {
        let tree = place.tree("cluster:1");
        tree.iter().filter(|path| path.contains("/_layers/") && path.ends_with("/link")).count()
    };
    place.build(text, &["--platform=linux/arm64"]);
    assert_eq!(layers(&place), 2);
    let served = place.serve("store", "cluster:1");
    let name = |reference: &str| format!("{}/x/two{reference}", served.address);
    let pull = |store: &str, platform: &str, name: &str| {
        let platform = format!("--platform={platform}");
        place.registry.run(store, &["pull", &platform, name]).status.success()
    };
    assert!(pull("a", "linux/arm64", &name(":1")) && !pull("b", "linux/amd64", &name(":1")));
    // What names the index by its digest finds the index.
    assert!(pull("c", "linux/arm64", &name(&format!("@{index}"))));
    drop(served);
    place.build(text, &["--collect-platform=linux/arm64,linux/amd64"]);
    assert_eq!(layers(&place), 4);
    assert_eq!(place.listed("cluster:1").len(), 4);
    let served = place.serve("store", "cluster:1");
    let name = format!("{}/x/two:1", served.address);
    assert!(pull("d", "linux/arm64", &name) && pull("e", "linux/amd64", &name));
}

/// Whether each platform's image can be pulled from what `cluster:1` carries.
fn pulls(place: &Workplace, name: &str, platforms: &[&str]) -> Vec<bool> {
    let served = place.serve("store", "cluster:1");
    let name = format!("{}/{name}", served.address);
    let pull = |platform: &&str| {
        let store = format!("node-{platform}");
        let args = ["pull", &format!("--platform=linux/{platform}"), &name];
        let done = place.registry.run(&store, &args).status.success();
        let inspected = place.registry.run(&store, &["inspect", &name]);
        // It may be there from before.
        drop(fs::remove_dir_all(place.registry.path(&store)));
        done && String::from_utf8_lossy(&inspected.stdout).contains(platform)
    };
    platforms.iter().map(pull).collect()
}

#[test]
fn what_the_base_has_of_an_image_is_completed() {
    let Some(place) = Workplace::start(false) else { return };
    two_platforms(&place, "quay.io/x/two:1");
    place.write("manifests/imageList", "quay.io/x/two:1\n");
    let text = "FROM scratch\nCOPY manifests manifests\n";
    place.build(text, &["--collect-platform=linux/amd64"]);
    let both = ["amd64", "arm64"];
    assert_eq!(pulls(&place, "x/two:1", &both), [true, false]);
    place.ok("store", &["tag", "cluster:1", "base:1"]);
    let child = "FROM base:1\nLABEL a=b\n";
    let said = place.build(child, &["--collect-platform=linux/amd64"]);
    assert!(said.contains("of which the base has 1"), "{said}");
    place.build(child, &["--collect-platform=linux/amd64,linux/arm64"]);
    assert_eq!(pulls(&place, "x/two:1", &both), [true, true]);
    // A registry that was copied without one of its layers.
    place.ok("store", &["cp", "cluster:1", "/registry", "context/registry"]);
    let blobs = place.registry.path("context/registry/docker/registry/v2/blobs/sha256");
    let largest = walk(&blobs).into_iter().max_by_key(|file| fs::metadata(file).unwrap().len());
    fs::write(largest.unwrap(), "cut short").unwrap();
    let copied = "FROM scratch\nCOPY manifests manifests\nCOPY registry registry\n";
    place.build(copied, &["--collect-platform=linux/amd64,linux/arm64"]);
    assert_eq!(pulls(&place, "x/two:1", &both), [true, true]);
}

/// The regular files below a directory.
fn walk(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { walk(&path) } else { vec![path] };
    entries.flat_map(below).collect()
}

#[test]
fn one_platform_that_the_store_has_does_not_stand_for_all() {
    let Some(place) = Workplace::start(false) else { return };
    two_platforms(&place, "quay.io/x/two:1");
    place.write("manifests/imageList", "quay.io/x/two:1\n");
    place.ok("store", &["pull", "--platform=linux/amd64", "quay.io/x/two:1"]);
    let text = "FROM scratch\nCOPY manifests manifests\n";
    let both = "--collect-platform=linux/amd64,linux/arm64";
    let said = place.build_fails(text, &[both, "--pull=never"]);
    assert!(said.contains("no image for linux/arm64, only for: linux/amd64"), "{said}");
    place.build(text, &[both]);
    assert_eq!(pulls(&place, "x/two:1", &["amd64", "arm64"]), [true, true]);
}

#[test]
fn a_pinned_image_leaves_the_tag_to_the_one_that_is_not() {
    let Some(place) = Workplace::start(false) else { return };
    let old = place.image("quay.io/x/a:1", &[&noise(2000, 1)]);
    let new = place.image("quay.io/x/a:1", &[&noise(3000, 2)]);
    place.write("manifests/imageList", format!("quay.io/x/a:1\nquay.io/x/a:1@{old}\n"));
    place.build("FROM scratch\nCOPY manifests manifests\n", &[]);
    assert_eq!(place.listed("cluster:1").len(), 2);
    let pulled = |place: &Workplace, reference: &str| {
        let served = place.serve("store", "cluster:1");
        let name = format!("{}/x/a{reference}", served.address);
        place.registry.ok("node", &["pull", "--pull=always", &name]).trim().to_owned()
    };
    assert_eq!(pulled(&place, ":1"), new);
    assert_eq!(pulled(&place, &format!("@{old}")), old);
    // The base has the tag.
    place.write("manifests/imageList", "quay.io/x/a:1\n");
    place.build("FROM scratch\nCOPY manifests manifests\n", &[]);
    place.ok("store", &["tag", "cluster:1", "base:1"]);
    place.write("manifests/imageList", format!("quay.io/x/a:1@{old}\n"));
    place.build("FROM base:1\nCOPY manifests manifests\n", &[]);
    assert_eq!(pulled(&place, ":1"), new);
    // Alone, it has its tag.
    place.build("FROM scratch\nCOPY manifests manifests\n", &[]);
    assert_eq!(pulled(&place, ":1"), old);
}

/// Puts a chart into the registry as `quay.io/charts/c:1.0.0`.
pub(crate) fn push_chart(place: &Workplace) {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), Default::default()));
    for (name, content) in [
        ("c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n"),
        ("c/templates/pod.yaml", "kind: Pod\nimage: {{ .Values.image }}\n"),
        ("c/values.yaml", "image: gone:1\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let archive = tar.into_inner().unwrap().finish().unwrap();
    let kind = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    let layer = place.blob("quay.io/charts/c", kind, &archive);
    let config = "application/vnd.cncf.helm.config.v1+json";
    let config = place.blob("quay.io/charts/c", config, b"{}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config,
        "layers": [layer]});
    place.manifest("quay.io/charts/c:1.0.0", kind, &manifest);
}

#[test]
fn charts_come_from_registries() {
    let Some(place) = Workplace::start(false) else { return };
    place.image("docker.io/library/web:1", &[&noise(2000, 1)]);
    push_chart(&place);
    let text = "FROM scratch\nAPP c oci://quay.io/charts/c:1.0.0\nLAUNCH c\n";
    place.build(text, &["--set", "c:image=web:1"]);
    assert_eq!(place.listed("cluster:1"), ["docker.io/library/web:1"]);
    let chart = place.ok("store", &["cat", "cluster:1", "/application/apps/c/Chart.yaml"]);
    assert!(chart.contains("name: c"), "{chart}");
    // The archive is here; only its tag is asked for.
    place.proxy.clear();
    place.build(text, &["--set", "c:image=web:1"]);
    assert!(place.proxy.seen("/charts/c/blobs/").is_empty());
    let wrong = format!("sha256:{}", "0".repeat(64));
    for (line, message) in [
        ("APP c oci://docker.io/library/web:1".to_owned(), "is no Helm chart"),
        ("APP c oci://quay.io/charts/c:2.0.0".to_owned(), "2.0.0"),
        (format!("APP --checksum={wrong} c oci://quay.io/charts/c:1.0.0"), "but --checksum says"),
    ] {
        let said = place.build_fails(&format!("FROM scratch\n{line}\n"), &[]);
        assert!(said.contains("Kubefile:2") && said.contains(message), "{said}");
    }
    // Without the registry, what was fetched is used.
    place.proxy.clear();
    place.build(text, &["--set", "c:image=web:1", "--pull=never"]);
    assert!(place.proxy.seen("").is_empty());
}

#[test]
fn charts_are_rendered_for_the_version_of_the_cluster() {
    let Some(place) = Workplace::start(false) else { return };
    for image in ["old:1", "new:1"] {
        place.image(&format!("docker.io/library/{image}"), &[image.as_bytes()]);
    }
    place.write("charts/c/Chart.yaml", "apiVersion: v2\nname: c\nversion: 1.0.0\n");
    let template = "image: {{ if semverCompare \"<1.23\" .Capabilities.KubeVersion.Version }}old{{ else \
                    }}new{{ end }}:1\n";
    place.write("charts/c/templates/pod.yaml", template);
    let text = "FROM scratch\nLABEL cluster.alpha.sealer.io/cluster-runtime-version=v1.22.15\n\
                COPY charts charts\n";
    place.build(text, &[]);
    assert_eq!(place.listed("cluster:1"), ["docker.io/library/old:1"]);
    place.build(text, &["--kube-version=1.30.0"]);
    assert_eq!(place.listed("cluster:1"), ["docker.io/library/new:1"]);
}

#[test]
fn archives_of_the_context_are_carried() {
    let Some(place) = Workplace::start(false) else { return };
    place.image("x/a:1", &[&noise(2000, 1)]);
    place.ok("origin", &["save", "-o", "context/a.tar", "x:1"]);
    place.write("images/skopeo/tar.txt", "oci-archive:a.tar@quay.io/x/saved:1\n");
    place.build("FROM scratch\nCOPY registry registry\n", &[]);
    assert_eq!(place.listed("cluster:1"), ["quay.io/x/saved:1"]);
    assert!(place.tree("cluster:1").iter().any(|path| path.contains("repositories/x/saved")));
    place.write("ignored", "quay.io/x/saved:1\n");
    place
        .build("FROM scratch\nCOPY registry registry\n", &["--ignored-image-list=context/ignored"]);
    assert!(place.listed("cluster:1").is_empty());
    // An image that brings both list and archive.
    place.write(".sealignore", "quay.io/x/saved:1\n");
    place.build("FROM scratch\nCOPY images images\nCOPY a.tar /\n", &["--collect=none"]);
    place.ok("store", &["tag", "cluster:1", "base:1"]);
    fs::remove_dir_all(place.registry.path("context")).unwrap();
    place.build("FROM base:1\nLABEL a=b\n", &[]);
    assert_eq!(place.listed("cluster:1"), ["quay.io/x/saved:1"]);
    assert!(place.tree("cluster:1").iter().any(|path| path.contains("repositories/x/saved")));
}

#[test]
fn no_archive_of_this_machine_is_carried() {
    let Some(place) = Workplace::start(false) else { return };
    place.image("x/a:1", &[&noise(2000, 1)]);
    place.ok("origin", &["save", "-o", "private.tar", "x:1"]);
    let private = place.registry.path("private.tar");
    symlink(&private, place.registry.path("context/link.tar")).unwrap();
    for file in ["../private.tar", private.to_str().unwrap(), "link.tar", "images"] {
        place.write("images/skopeo/tar.txt", format!("oci-archive:{file}@quay.io/x/saved:1\n"));
        for (text, has_none) in [
            ("FROM scratch\nCOPY registry registry\n", "the context has no such file"),
            ("FROM scratch\nCOPY images images\n", "the image has no such file"),
        ] {
            let said = place.build_fails(text, &[]);
            assert!(said.contains("images/skopeo/tar.txt names"), "{said}");
            assert!(said.contains(has_none), "{said}");
        }
    }
}
