//! The client on a good day.

use std::fs;

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
