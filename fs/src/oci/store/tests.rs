use serde_json::{Value, json};

use super::*;
use crate::digest::Found;
use crate::oci::fixture::Fixture;
use crate::oci::layout::FoundBy;
use crate::oci::manifest::MANIFEST;

fn index_json(store: &Store) -> Value {
    serde_json::from_slice(&fs::read(store.root().join("index.json")).unwrap()).unwrap()
}

fn not_found(error: &StoreError) -> Option<&[String]> {
    match error {
        StoreError::Layout(LayoutError::NotFound { similar, .. }) => Some(similar),
        _ => None,
    }
}

#[test]
fn an_image_is_found_by_any_spelling_of_its_name_and_by_its_digests() {
    let fixture = Fixture::new();
    let digest = fixture.image("busybox:latest", &["a"]).digest;
    fixture.image("localhost/x:v1", &["b"]);
    let store = &fixture.store;
    let config = store.image("busybox").unwrap().manifest.config.digest;
    let by_digest = format!("docker.io/busybox@{digest}");
    let by_both = format!("busybox:other@{digest}");
    let hex = digest.hex();
    for query in [
        "busybox",
        "docker.io/library/busybox:latest",
        &by_digest,
        &by_both,
        &hex,
        &hex[..12],
        &digest.to_string(),
        &config.hex()[..12],
    ] {
        assert_eq!(store.image(query).unwrap().digest, digest, "{query}");
    }
    let wrong_digest = format!("localhost/x@{digest}");
    for query in ["busybox:1", "busybux", "x:v1", &wrong_digest, &hex[..3]] {
        assert!(not_found(&store.image(query).unwrap_err()).is_some(), "{query}");
    }
    assert_eq!(not_found(&store.image("busybux").unwrap_err()).unwrap(), ["busybox:latest"]);
    let error = store.image("BusyBox").unwrap_err();
    assert!(matches!(error, StoreError::Layout(LayoutError::Reference(_))), "{error}");
}

#[test]
fn a_name_of_another_tool_is_found_as_it_is_and_first() {
    let fixture = Fixture::new();
    let exact = fixture.image("V1.0", &["a"]).digest;
    let full = fixture.image("docker.io/library/t:latest", &["b"]).digest;
    assert_eq!(fixture.store.image("V1.0").unwrap().digest, exact);
    assert_eq!(fixture.store.image("t").unwrap().digest, full);
    // skopeo's `oci:DIR:t` beside it: the exact name wins, the other still has its own.
    let mut index = index_json(&fixture.store);
    let short = fixture.image("other", &["c"]);
    let mut entry = serde_json::to_value(&short).unwrap();
    entry["annotations"] = json!({REF_NAME: "t"});
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(fixture.store.root().join("index.json"), index.to_string()).unwrap();
    assert_eq!(fixture.store.image("t").unwrap().digest, short.digest);
    assert_eq!(fixture.store.image("docker.io/library/t:latest").unwrap().digest, full);
    let error = fixture.store.image("t:latest").unwrap_err();
    assert!(matches!(error, StoreError::Layout(LayoutError::Ambiguous { .. })), "{error}");
}

#[test]
fn what_other_tools_put_in_the_index_stays() {
    let fixture = Fixture::new();
    let descriptor = fixture.image("a:1", &["a"]);
    let index = json!({"schemaVersion": 2, "annotations": {"x": "y"}, "subject": {"z": 1},
        "manifests": [{"mediaType": MANIFEST, "digest": descriptor.digest, "size": descriptor.size,
            "platform": {"architecture": "amd64", "os": "linux", "os.version": "7"},
            "annotations": {"k": "v"}, "urls": ["u"]}]});
    fs::write(fixture.store.root().join("index.json"), index.to_string()).unwrap();
    fixture.store.tag(&descriptor.digest.hex(), "b:1").unwrap();
    let mut expected = index;
    expected["manifests"][0]["annotations"][REF_NAME] = json!("b:1");
    assert_eq!(index_json(&fixture.store), expected);
    // What umoci writes for an empty layout.
    fs::write(fixture.store.root().join("index.json"), r#"{"schemaVersion":2,"manifests":null}"#)
        .unwrap();
    assert_eq!(fixture.names(), []);
}

#[test]
fn a_name_moves_and_the_image_that_lost_it_stays_reachable() {
    let fixture = Fixture::new();
    let old = fixture.image("a", &["old"]).digest;
    let new = fixture.image("docker.io/library/a:latest", &["new"]).digest;
    let named = Some("docker.io/library/a:latest".to_owned());
    assert_eq!(fixture.names(), [(named, new), (None, old)]);
    // A new name of the nameless image takes the place of the nameless entry.
    fixture.store.tag(&old.hex(), "b").unwrap();
    assert_eq!(fixture.names()[1], (Some("b:latest".to_owned()), old));
    let error = fixture.store.tag("b", &format!("c@{old}")).unwrap_err();
    assert!(matches!(error, StoreError::DigestInName(_)), "{error}");
}

#[test]
fn removal_deletes_only_what_no_other_image_needs() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["shared", "own"]);
    let image = fixture.store.image("a:1").unwrap();
    let (shared, own) = (image.layers[0].descriptor.digest, image.layers[1].descriptor.digest);
    fixture.store.tag("a:1", "a:2").unwrap();
    fixture.image("b:1", &["shared"]);
    let before = fixture.blobs();
    let removal = fixture.store.remove("a:1", false).unwrap();
    assert_eq!((removal.untagged, removal.deleted), (vec!["a:1".to_owned()], vec![]));
    assert_eq!(fixture.blobs(), before);
    let removal = fixture.store.remove("a:2", false).unwrap();
    assert_eq!(removal.deleted.last(), Some(&image.digest));
    assert!(removal.kept.is_none());
    assert!(fixture.has(shared) && !fixture.has(own) && !fixture.has(image.digest));
    fixture.store.image("b:1").unwrap();
    fixture.store.remove("b:1", false).unwrap();
    fixture.assert_empty();
}

#[test]
fn by_a_digest_several_names_go_only_by_force() {
    let fixture = Fixture::new();
    let digest = fixture.image("a:1", &["x"]).digest;
    fixture.store.tag("a:1", "b:1").unwrap();
    let error = fixture.store.remove(&digest.hex()[..12], false).unwrap_err();
    assert!(matches!(error, StoreError::SeveralNames { .. }), "{error}");
    assert_eq!(fixture.names().len(), 2);
    let removal = fixture.store.remove(&digest.hex()[..12], true).unwrap();
    assert_eq!(removal.untagged, ["a:1", "b:1"]);
    fixture.assert_empty();
}

#[test]
fn a_writer_keeps_blobs_and_the_image_can_be_removed_later() {
    let fixture = Fixture::new();
    let digest = fixture.image("a:1", &["x"]).digest;
    let before = fixture.blobs();
    let writer = fixture.writer();
    let removal = fixture.store.remove("a:1", false).unwrap();
    assert!(matches!(removal.kept, Some(Kept::Writers)));
    assert_eq!(fixture.names(), [(None, digest)]);
    assert_eq!(fixture.blobs(), before);
    drop(writer);
    fixture.store.remove(&digest.hex(), false).unwrap();
    fixture.assert_empty();
}

#[test]
fn a_live_mount_keeps_its_image() {
    let fixture = Fixture::new();
    let digest = fixture.image("a:1", &["x"]).digest;
    fixture.image("b:1", &["x", "y"]);
    let mount = fixture.store.dir(Part::Mounts).join("m1");
    fs::create_dir(&mount).unwrap();
    let lock = File::create(mount.join("lock")).unwrap();
    lock.lock_shared().unwrap();
    let state = json!({"manifest_digest": digest, "more": 1}).to_string();
    fs::write(mount.join("state.json"), state).unwrap();
    let kept = fixture.store.remove("a:1", false).unwrap().kept.unwrap();
    assert!(matches!(&kept, Kept::Mounted(ids) if ids == &["m1"]), "{kept}");
    // Another image goes, without the layer that the mount needs.
    fixture.store.remove("b:1", false).unwrap();
    let image = fixture.store.image(&digest.hex()).unwrap();
    assert!(fixture.has(image.layers[0].descriptor.digest));
    // A state that cannot be read could be any image's.
    fs::write(mount.join("state.json"), "{").unwrap();
    assert!(fixture.store.remove(&digest.hex(), false).unwrap().kept.is_some());
    drop(lock);
    fixture.store.remove(&digest.hex(), false).unwrap();
    fixture.assert_empty();
}

#[test]
fn a_broken_image_can_be_removed_and_keeps_others_from_losing_blobs() {
    let fixture = Fixture::new();
    let broken = fixture.image("broken:1", &["x"]).digest;
    fixture.image("a:1", &["x", "y"]);
    fixture.flip(broken);
    let images = fixture.store.images().unwrap();
    assert!(images[0].details.is_err() && images[1].details.is_ok());
    let kept = fixture.store.remove("a:1", false).unwrap().kept.unwrap();
    assert!(matches!(&kept, Kept::Unreadable { image, .. } if image == "broken:1"), "{kept}");
    fixture.store.remove("broken:1", false).unwrap();
    assert!(!fixture.has(broken));
}

#[test]
fn a_blob_that_is_not_what_it_should_be_is_not_stored() {
    let fixture = Fixture::new();
    let right = Descriptor::of(MANIFEST, b"right");
    for (bytes, found) in [
        (&b"wrong"[..], Found::Digest(Digest::of(b"wrong"))),
        (b"righ", Found::Size(5, 4)),
        (b"right!", Found::Size(5, 6)),
    ] {
        let result = fixture.writer().put_blob(bytes, Expected::from(&right), "test");
        match result.unwrap_err() {
            StoreError::Corrupt(mismatch) => assert_eq!(mismatch.found, found),
            other => panic!("{other}"),
        }
    }
    fixture.assert_empty();
    // A damaged blob is healed by storing it again.
    fixture.put(MANIFEST, b"right");
    fixture.flip(right.digest);
    fixture.put(MANIFEST, b"right");
    assert_eq!(fs::read(fixture.store.blob_path(right.digest)).unwrap(), b"right");
}

#[test]
fn several_processes_change_the_index_one_after_the_other() {
    let fixture = Fixture::new();
    let descriptor = fixture.image("a:0", &["x"]);
    std::thread::scope(|scope| {
        for number in 1..=16 {
            let (fixture, descriptor) = (&fixture, &descriptor);
            scope.spawn(move || fixture.name(Some(&format!("a:{number}")), descriptor));
        }
    });
    assert_eq!(fixture.names().len(), 17);
    fixture.assert_tidy();
}

#[test]
fn a_store_says_why_it_cannot_be_opened() {
    let fixture = Fixture::new();
    let file = fixture.path("file");
    fs::write(&file, "").unwrap();
    for dir in [file.clone(), file.join("below")] {
        let error = Store::open(&dir).unwrap_err();
        assert!(matches!(error, StoreError::NotWritable { .. }), "{error}");
        assert!(error.to_string().contains(&dir.display().to_string()), "{error}");
    }
    let error = Store::open(fixture.dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
    let root = fixture.store.root();
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    let error = Store::open(root).unwrap_err();
    assert!(matches!(error, StoreError::Layout(LayoutError::Version { .. })), "{error}");
}

#[test]
fn reading_makes_nothing() {
    let fixture = Fixture::new();
    let dir = fixture.path("none");
    let store = Store::open_readonly(&dir);
    assert!(store.images().unwrap().is_empty());
    assert!(not_found(&store.image("x").unwrap_err()).is_some());
    assert!(!dir.exists());
    // Something else than a store is not an empty one.
    assert!(Store::open_readonly(fixture.dir.path()).images().is_err());
}

#[test]
fn an_interrupted_creation_is_finished() {
    let fixture = Fixture::new();
    let root = fixture.path("new");
    fs::create_dir_all(root.join("tmp")).unwrap();
    fs::write(root.join("tmp/left"), "").unwrap();
    fs::write(root.join("index.lock"), "").unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.images().unwrap().is_empty());
    assert!(!root.join("tmp/left").exists());
    assert!(Part::ALL.iter().all(|part| store.dir(*part).is_dir()));
}

#[test]
fn without_a_tag_the_only_image_is_meant() {
    let fixture = Fixture::new();
    let layout = || fixture.store.layout().unwrap();
    let error = layout().select(None, "x").unwrap_err();
    assert!(matches!(error, LayoutError::Empty { .. }), "{error}");
    fixture.image("a:1", &["x"]);
    let only = layout().select(None, "x").unwrap();
    assert_eq!((only.name(), only.by), (Some("a:1"), FoundBy::Digest));
    fixture.image("b:1", &["y"]);
    match layout().select(None, "x").unwrap_err() {
        LayoutError::Several { names, .. } => assert_eq!(names, ["a:1", "b:1"]),
        other => panic!("{other}"),
    }
}

#[test]
fn an_index_that_nobody_could_read_again_is_not_written() {
    let fixture = Fixture::new();
    fixture.image("small:1", &["a"]);
    let store = &fixture.store;
    let mut entry = index_json(store)["manifests"][0].clone();
    entry["annotations"] =
        json!({ REF_NAME: "big:1", "note": "x".repeat(usize::try_from(MAX_JSON).unwrap() - 700) });
    let mut index = index_json(store);
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(store.root().join("index.json"), index.to_string()).unwrap();
    store.tag("small:1", "small:2").unwrap();
    let error = store.tag("big:1", "big:2").unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(store.images().unwrap().len(), 3);
    store.remove("big:1", false).unwrap();
    store.tag("small:1", "small:3").unwrap();
}

#[test]
fn of_entries_added_at_once_the_last_has_the_name() {
    let entry = |content: &str| Descriptor::of(MANIFEST, content.as_bytes());
    let mut index = Index::default();
    let name = |name: &str| Some(name.to_owned());
    put_entries(&mut index, vec![(name("a"), entry("1")), (name("odd NAME"), entry("2"))]);
    let at = |digest| format!("x@{}", Digest::of(digest));
    put_entries(
        &mut index,
        vec![
            (name("docker.io/library/a:latest"), entry("3")),
            (None, entry("4")),
            (name("a:latest"), entry("4")),
            (name(&at(b"5")), entry("5")),
            (name(&at(b"6")), entry("6")),
            (None, entry("2")),
            (None, entry("7")),
            (None, entry("7")),
        ],
    );
    let mut found: Vec<_> = index
        .manifests
        .iter()
        .map(|entry| (ref_name(entry).unwrap_or("-"), entry.digest))
        .collect();
    found.sort();
    let (x5, x6) = (at(b"5"), at(b"6"));
    let mut expected = vec![
        ("odd NAME", Digest::of(b"2")),
        ("a:latest", Digest::of(b"4")),
        (&x5[..], Digest::of(b"5")),
        (&x6[..], Digest::of(b"6")),
        ("-", Digest::of(b"1")),
        ("-", Digest::of(b"3")),
        ("-", Digest::of(b"7")),
    ];
    expected.sort();
    assert_eq!(found, expected);
}
