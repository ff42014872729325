//! Options of finding and reading images, where they are easily forgotten.

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
