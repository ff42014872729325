//! The client on a good day.

use std::fs;

use kfs_fs::digest::Digest;
use serde_json::json;

use crate::server::Registry;

#[test]
fn an_image_is_looked_into_where_it_lies() {
    let Some(mut registry) = Registry::start(false) else { return };
    let digest = registry.image("a/b:1");
    let name = registry.name("a/b:1");
    assert_eq!(registry.ok("lazy", &["cat", &name, "/hello"]), "world");
    let list = registry.ok("lazy", &["inspect", &name]);
    assert!(list.contains(&digest), "{list}");
    let blobs = fs::read_dir(registry.path("lazy/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 2, "manifest and config, and no layer");
    assert!(registry.ok("lazy", &["images"]).trim_end().ends_with(" none"));
    let listed = registry.ok("lazy", &["images", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed[0]["layers"], &listed[0]["remoteLayers"]), (&1.into(), &1.into()));
    let (code, error) = registry.fails("lazy", &["ls", &registry.name("a/none:1")]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("a/none"), "{error}");
    // What is known needs no registry.
    registry.stop();
    assert_eq!(registry.ok("lazy", &["ls", &name]), "hello\n");
    registry.ok("lazy", &["rmi", &name]);
    assert_eq!(fs::read_dir(registry.path("lazy/remotes")).unwrap().count(), 0);
}

#[test]
fn what_was_pulled_needs_no_registry_and_is_pushed_once() {
    let Some(mut registry) = Registry::start(false) else { return };
    let digest = registry.image("a:1");
    let name = registry.name("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &name]).trim(), digest);
    let again = registry.run("pulled", &["push", &name, &registry.name("b:2")]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("0 blobs sent, 2 were there"), "{said}");
    registry.stop();
    assert!(registry.ok("pulled", &["images"]).trim_end().ends_with(" all"));
    assert_eq!(registry.ok("pulled", &["cat", &name, "/hello"]), "world");
}

#[test]
fn a_pull_goes_on_where_it_was_broken_off_and_mends_what_is_damaged() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image("a:1");
    let name = registry.name("a:1");
    registry.ok("pulled", &["ls", &name]);
    let inspected: serde_json::Value =
        serde_json::from_str(&registry.ok("pulled", &["inspect", &name])).unwrap();
    let layer = inspected["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    let partial = registry.path("pulled/remotes").join(format!("{layer}.partial"));
    let whole = fs::read(registry.path("origin/blobs/sha256").join(&layer)).unwrap();
    for start in [&whole[..100], b"damaged"] {
        fs::write(&partial, start).unwrap();
        registry.ok("pulled", &["pull", &name]);
        assert!(!partial.exists());
        let blob = registry.path("pulled/blobs/sha256").join(&layer);
        assert_eq!(fs::read(&blob).unwrap(), whole);
        fs::remove_file(blob).unwrap();
    }
}

#[test]
fn credentials_are_kept_used_and_forgotten_and_never_shown() {
    let Some(registry) = Registry::start(true) else { return };
    let name = registry.name("a:1");
    let (code, error) = registry.fails("lazy", &["ls", &name]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("kfs login 127.0.0.1"), "{error}");
    let wrong = registry.login(&registry.address().to_string(), "wrongsecret");
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && !said.contains("wrongsecret"), "{said}");
    assert!(!registry.path("auth.json").exists());
    assert!(registry.login(&registry.address().to_string(), "secret\n").status.success());
    registry.image("a:1");
    assert_eq!(registry.ok("lazy", &["cat", &name, "/hello"]), "world");
    registry.ok("lazy", &["logout", &registry.address().to_string()]);
    let (_, error) = registry.fails("pulled", &["pull", &name]);
    assert!(error.contains("kfs login"), "{error}");
}

#[test]
fn an_image_is_copied_from_anywhere_to_anywhere_and_stays_the_same() {
    let Some(registry) = Registry::start(false) else { return };
    let digest = registry.image("a:1");
    let remote = |name: &str| format!("docker://{}", registry.name(name));
    let places = [
        &remote("a:1"),
        "oci:layout:one",
        "oci-archive:x.oci:two",
        "copied:3",
        &remote("b:4"),
        "oci:layout:five",
        "oci:other",
    ];
    for pair in places.windows(2) {
        assert_eq!(registry.ok("copies", &["copy", pair[0], pair[1]]).trim(), digest, "{pair:?}");
        assert_eq!(registry.ok("copies", &["cat", pair[1], "/hello"]), "world");
    }
    let index = fs::read(registry.path("layout/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let names = index["manifests"].as_array().unwrap().iter();
    let names: Vec<_> =
        names.map(|entry| &entry["annotations"]["org.opencontainers.image.ref.name"]).collect();
    assert_eq!(names, ["one", "five"]);
    registry.ok("copies", &["copy", "copied:3", "docker-archive:x.docker"]);
    assert_eq!(registry.ok("new", &["cat", "docker-archive:x.docker", "/hello"]), "world");
    registry.ok("new", &["load", "x.docker"]);
    assert_eq!(registry.ok("new", &["cat", "copied:3", "/hello"]), "world");
    // What is no layout is left alone.
    fs::create_dir(registry.path("full")).unwrap();
    fs::write(registry.path("full/x"), "x").unwrap();
    let (_, error) = registry.fails("copies", &["copy", "copied:3", "oci:full"]);
    assert!(error.contains("oci-layout"), "{error}");
    assert_eq!(fs::read_dir(registry.path("full")).unwrap().count(), 1);
    // What is damaged is not copied.
    let blobs = fs::read_dir(registry.path("layout/blobs/sha256")).unwrap();
    let blobs = blobs.map(|blob| blob.unwrap().path());
    let layer = blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&layer).unwrap();
    bytes[600] ^= 1;
    fs::write(&layer, bytes).unwrap();
    for target in ["oci:fourth", "x:1"] {
        let (code, error) = registry.fails("third", &["copy", "oci:layout:one", target]);
        assert_eq!(code, 5, "{error}");
    }
    assert_eq!(registry.ok("third", &["images", "-q"]), "");
    assert!(!registry.path("fourth/index.json").exists());
}

#[test]
fn a_copy_of_all_platforms_has_all_or_is_none() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image("a:1");
    registry.ok("origin", &["copy", "x:1", "oci:layout:one"]);
    let path = registry.path("layout/index.json");
    let layout: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let mut here = layout["manifests"][0].clone();
    here.as_object_mut().unwrap().remove("annotations");
    let mut missing = here.clone();
    missing["digest"] = Digest::of(b"elsewhere").to_string().into();
    here["platform"] = json!({"os": "linux", "architecture": "amd64"});
    missing["platform"] = json!({"os": "linux", "architecture": "arm64"});
    for (manifests, whole) in [(vec![&here], true), (vec![&here, &missing], false)] {
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        let index = index.to_string();
        let digest = Digest::of(index.as_bytes());
        let blob = registry.path("layout/blobs/sha256").join(digest.hex());
        fs::write(blob, &index).unwrap();
        let entry = json!({"mediaType": kind, "digest": digest.to_string(), "size": index.len()});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(&path, index.to_string()).unwrap();
        let one = ["copy", "--platform=linux/amd64", "oci:layout", "one:1"];
        assert_eq!(registry.ok("copies", &one).trim(), here["digest"]);
        let all = ["copy", "--all-platforms", "oci:layout", "oci:all:x"];
        if whole {
            assert_eq!(registry.ok("copies", &all).trim(), digest.to_string());
        } else {
            let (_, error) = registry.fails("copies", &all);
            assert!(error.contains("--all-platforms"), "{error}");
        }
    }
}
