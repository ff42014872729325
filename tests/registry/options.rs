//! Options of finding and reading images, where they are easily forgotten.

use std::fs;

use crate::server::Registry;

#[test]
fn an_image_that_only_its_registry_has_is_converted() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image("a/b:1");
    for format in ["zstd-chunked", "gzip"] {
        let name = format!("mine:{format}");
        let args = ["convert", "--plain-http", "--to", format, &registry.name("a/b:1"), &name];
        registry.ok("lazy", &args);
        assert_eq!(registry.ok("lazy", &["cat", &name, "/hello"]), "world");
    }
    let (code, error) = registry.fails("lazy", &["convert", &registry.name("a/none:1"), "x"]);
    assert_eq!(code, 3, "{error}");
    let never = ["convert", "--pull=never", &registry.name("a/b:1"), "x"];
    assert_eq!(registry.fails("other", &never).0, 3);
}

#[test]
fn the_size_of_the_cache_in_the_environment_holds_for_all_commands() {
    let Some(registry) = Registry::start(false) else { return };
    let name = registry.name("a/b:1");
    registry.image("a/b:1");
    let collect = |store: &str, size: &str| {
        let mut command = registry.command(store, &["collect", &name]);
        let output = command.env("KFS_CACHE_SIZE", size).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // Its layer has no table of contents: it streams by, and is kept.
    assert_eq!(collect("kept", "1M").0, Some(0));
    assert!(registry.path("kept/cache/lock").exists());
    assert_eq!(collect("none", "0").0, Some(0));
    assert!(!registry.path("none/cache/lock").exists());
    let (code, error) = collect("none", "much");
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("--cache-size"), "{error}");
}

#[test]
fn nobody_waits_for_ever() {
    let Some(registry) = Registry::start(false) else { return };
    let (code, error) =
        registry.fails("lazy", &["ls", "--read-timeout=18446744073709551615s", "a:1"]);
    assert!(code == 2 && error.contains("--read-timeout"), "{code}: {error}");
    registry.image("a:1");
    registry.ok("lazy", &["ls", "--read-timeout=24h", &registry.name("a:1")]);
}

/// Makes an image of one file in a store, under a name for which a registry has another image.
fn rebuilt(registry: &Registry, name: &str, store: &str) -> String {
    registry.image("a:1");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    tar.append_data(&mut header, "hello", &b"new"[..]).unwrap();
    fs::write(registry.path("new.tar"), tar.into_inner().unwrap()).unwrap();
    registry.ok(store, &["import", "new.tar", name]).trim().to_owned()
}

#[test]
fn what_is_sent_or_copied_is_what_the_store_has() {
    let Some(registry) = Registry::start(false) else { return };
    let name = registry.name("a:1");
    rebuilt(&registry, &name, "mine");
    let always = |args: &[&str]| {
        let output = registry.command("mine", args).env("KFS_PULL", "always").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(registry.ok("mine", &["cat", &name, "/hello"]), "new", "{args:?}");
    };
    always(&["save", "-o", "x.tar", &name]);
    always(&["copy", &name, "oci:layout:x"]);
    always(&["convert", &name, "converted:1"]);
    for image in ["oci-archive:x.tar", "oci:layout:x", "converted:1"] {
        assert_eq!(registry.ok("mine", &["cat", image, "/hello"]), "new", "{image}");
    }
    // For another platform there is nothing under the name; it is not looked for elsewhere.
    for args in [&["push", &name][..], &["save", "-o", "y.tar", &name]] {
        let (code, error) =
            registry.fails("mine", &[args, &["--platform", "linux/s390x"]].concat());
        assert!(code == 3 && error.contains("linux/s390x"), "{error}");
    }
    always(&["push", &name]);
    assert_eq!(registry.ok("theirs", &["cat", &name, "/hello"]), "new");
    // A name that the store lacks is asked for, as ever.
    registry.ok("other", &["save", "-o", "z.tar", &name]);
}

#[test]
fn what_a_build_writes_is_what_it_built() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image("a:1");
    let name = registry.name("a:1");
    fs::create_dir(registry.path("context")).unwrap();
    fs::write(registry.path("context/hello"), "new").unwrap();
    fs::write(registry.path("context/Dockerfile"), "FROM scratch\nCOPY hello /\n").unwrap();
    for (output, image) in [
        ("type=oci,dest=oci.tar", format!("oci-archive:oci.tar:{name}")),
        ("type=docker,dest=docker.tar", format!("docker-archive:docker.tar:{name}")),
    ] {
        registry.ok("built", &["build", "--pull", "-t", &name, "-o", output, "context"]);
        for image in [image.as_str(), &name] {
            assert_eq!(registry.ok("built", &["cat", image, "/hello"]), "new", "{image}");
        }
    }
    // Nobody is asked for names, whatever they look like.
    for tag in ["oci:v1", "x"] {
        registry.ok("built", &["build", "--pull", "-t", tag, "-o", "out", "context"]);
        assert_eq!(fs::read(registry.path("out/hello")).unwrap(), b"new");
        fs::remove_dir_all(registry.path("out")).unwrap();
    }
}
