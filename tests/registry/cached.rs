//! What `kfs fsck` says of the cache.

use std::fs;

use crate::bad::Bad;

#[test]
fn cached_content_that_is_damaged_is_found_and_dropped() {
    let Some(bad) = Bad::start() else { return };
    let (registry, name) = (&bad.registry, bad.name());
    let cat = ["cat", "--plain-http", &name, "/big"];
    assert!(registry.run("lazy", &cat).stdout == bad.big);
    let clean = registry.run("lazy", &["fsck"]);
    let said = String::from_utf8(clean.stderr).unwrap();
    assert!(clean.status.success() && said.contains("1.6MB of the cache"), "{said}");
    let dirs = fs::read_dir(registry.path("lazy/cache")).unwrap();
    let mut data = dirs.map(|entry| entry.unwrap().path().join("data"));
    let data = data.find(|path| path.exists()).unwrap();
    let mut bytes = fs::read(&data).unwrap();
    bytes[700_000] ^= 1;
    fs::write(&data, bytes).unwrap();
    registry.ok("lazy", &["fsck", "--quick"]);
    for repair in [false, true] {
        let fsck: &[&str] = if repair { &["fsck", "--repair"] } else { &["fsck"] };
        let found = registry.run("lazy", fsck);
        let text = String::from_utf8(found.stdout).unwrap();
        assert_eq!(found.status.code(), Some(if repair { 0 } else { 5 }), "{text}");
        assert!(text.starts_with("damaged cache/") && text.contains("1 of "), "{text}");
        assert_eq!(text.contains("dropped"), repair, "{text}");
    }
    assert_eq!(registry.ok("lazy", &["fsck"]), "");
    bad.proxy.clear();
    assert!(registry.run("lazy", &cat).stdout == bad.big);
    assert_eq!(bad.proxy.seen("/blobs/").len(), 1, "what was dropped is fetched again");
}
