use std::fs::{File, FileTimes};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::filesystem::ImageFs;
use crate::oci::fixture::Fixture;

const EVERYTHING: Wanted = Wanted {
    images: true,
    all: false,
    build_cache: true,
    all_build_cache: false,
    indexes: true,
    cache: true,
    all_cache: false,
    before: None,
    keep: 0,
};

fn names(items: &[Pruned], kind: Kind) -> Vec<&str> {
    items.iter().filter(|item| item.kind == kind).map(|item| &*item.name).collect()
}

fn record(fixture: &Fixture, key: &str, layer: &Descriptor) -> PathBuf {
    let path = fixture.store.dir(Part::BuildCache).join(Digest::of(key.as_bytes()).hex());
    fs::write(&path, json!({"layer": layer, "more": 1}).to_string()).unwrap();
    path
}

fn mount(fixture: &Fixture, manifest: Digest, image: &str) -> File {
    let dir = fixture.store.dir(Part::Mounts).join("m1");
    fs::create_dir(&dir).unwrap();
    let lock = File::create(dir.join("lock")).unwrap();
    lock.lock_shared().unwrap();
    let state = json!({"manifest_digest": manifest, "image": image}).to_string();
    fs::write(dir.join("state.json"), state).unwrap();
    lock
}

fn age(path: &Path, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(then)).unwrap();
}

fn index_count(fixture: &Fixture) -> usize {
    fs::read_dir(fixture.store.dir(Part::Indexes)).unwrap().count()
}

fn index(fixture: &Fixture, image: &str) {
    let image = fixture.store.image(image).unwrap();
    ImageFs::open(&image, &fixture.store.dir(Part::Indexes), &|_| ()).unwrap();
}

#[test]
fn nameless_images_go_and_named_ones_stay() {
    let fixture = Fixture::new();
    let old = fixture.image("a:1", &["old", "shared"]).digest;
    let old_layer = fixture.store.image("a:1").unwrap().layers[0].descriptor.digest;
    let new = fixture.image("a:1", &["new", "shared"]).digest;
    let before = fixture.blobs();
    let found = fixture.store.prune(&EVERYTHING, true).unwrap();
    assert_eq!(fixture.blobs(), before, "a dry run changes nothing");
    let pruned = fixture.store.prune(&EVERYTHING, false).unwrap();
    assert_eq!(found, pruned);
    assert_eq!(names(&pruned, Kind::Image), [old.to_string()]);
    // The manifest goes last.
    assert_eq!(names(&pruned, Kind::Blob).last().unwrap(), &old.to_string());
    assert!(!fixture.has(old) && !fixture.has(old_layer) && fixture.has(new));
    assert_eq!(fixture.names(), [(Some("a:1".to_owned()), new)]);
    fixture.store.image("a:1").unwrap();
    assert_eq!(fixture.store.prune(&EVERYTHING, false).unwrap(), []);
}

#[test]
fn with_all_only_what_is_mounted_stays() {
    let fixture = Fixture::new();
    let mounted = fixture.image("m:1", &["x", "y"]).digest;
    fixture.image("a:1", &["z"]);
    fixture.store.tag("a:1", "b:1").unwrap();
    index(&fixture, "m:1");
    let indexes = index_count(&fixture);
    index(&fixture, "a:1");
    let _lock = mount(&fixture, mounted, "m:1");
    let all = Wanted { all: true, ..EVERYTHING };
    let pruned = fixture.store.prune(&all, false).unwrap();
    assert_eq!(names(&pruned, Kind::Image), ["a:1, b:1"]);
    assert_eq!(fixture.names(), [(Some("m:1".to_owned()), mounted)]);
    assert_eq!(index_count(&fixture), indexes);
    fixture.store.image("m:1").unwrap();
}

#[test]
fn blobs_of_no_image_go_and_what_is_no_blob_stays() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["x"]);
    let stray = fixture.put("application/octet-stream", b"stray").digest;
    let foreign = fixture.store.root().join("blobs/sha256/README");
    fs::write(&foreign, "").unwrap();
    let pruned = fixture.store.prune(&EVERYTHING, false).unwrap();
    assert_eq!(names(&pruned, Kind::Blob), [stray.to_string()]);
    assert!(foreign.exists());
}

#[test]
fn a_writer_is_not_disturbed() {
    let fixture = Fixture::new();
    let stray = fixture.put("application/octet-stream", b"stray").digest;
    let writer = fixture.writer();
    let error = fixture.store.prune(&EVERYTHING, false).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    drop(writer);
    fixture.store.prune(&EVERYTHING, false).unwrap();
    assert!(!fixture.has(stray));
}

#[test]
fn the_build_cache_keeps_its_layers_until_it_is_asked_for() {
    let fixture = Fixture::new();
    let image = fixture.image("a:1", &["x"]);
    let in_image = fixture.store.image("a:1").unwrap().layers[0].descriptor.clone();
    let [old, new] = [[1_u8; 100], [2; 100]].map(|bytes| fixture.put("layer", &bytes));
    age(&record(&fixture, "old", &old), 48);
    record(&fixture, "new", &new);
    record(&fixture, "new, by another name", &new);
    record(&fixture, "in image", &in_image);
    let stale = record(&fixture, "stale", &Descriptor::of("layer", b"gone"));
    let pruned = fixture.store.prune(&EVERYTHING, false).unwrap();
    assert_eq!(names(&pruned, Kind::BuildCache), [stale.file_name().unwrap().to_str().unwrap()]);
    assert!(fixture.has(old.digest) && fixture.has(new.digest));

    let cache = Wanted { build_cache: true, all_build_cache: true, ..Wanted::default() };
    let day = SystemTime::now() - Duration::from_secs(24 * 3600);
    for wanted in
        [Wanted { keep: 150, ..cache.clone() }, Wanted { before: Some(day), ..cache.clone() }]
    {
        let found = fixture.store.prune(&wanted, true).unwrap();
        let old_key = Digest::of(b"old").hex();
        assert_eq!(names(&found, Kind::BuildCache), [old_key]);
    }
    let pruned = fixture.store.prune(&Wanted { keep: 150, ..cache.clone() }, false).unwrap();
    assert_eq!(names(&pruned, Kind::Blob), [old.digest.to_string()]);
    fixture.store.prune(&cache, false).unwrap();
    assert!(!fixture.has(new.digest) && fixture.has(in_image.digest) && fixture.has(image.digest));
    assert_eq!(fs::read_dir(fixture.store.dir(Part::BuildCache)).unwrap().count(), 0);
}

#[test]
fn indexes_go_with_the_last_image_that_has_their_layer() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["x"]);
    index(&fixture, "a:1");
    let kept = index_count(&fixture);
    fixture.image("b:1", &["x", "y"]);
    index(&fixture, "b:1");
    // As another tool removes an image.
    let list = fixture.store.root().join("index.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    json["manifests"].as_array_mut().unwrap().pop();
    fs::write(&list, json.to_string()).unwrap();
    fs::write(fixture.store.dir(Part::Indexes).join("junk.tree"), "x").unwrap();
    fixture.store.prune(&Wanted { indexes: true, ..Wanted::default() }, false).unwrap();
    assert_eq!(index_count(&fixture), kept);
}

#[test]
fn what_was_fetched_of_layers_of_no_image_goes() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["x"]);
    let known = fixture.store.image("a:1").unwrap().layers[0].descriptor.digest;
    let other = Digest::of(b"of no image");
    let dir = fixture.store.dir(Part::Cache);
    let fetched = |layer: Digest| dir.join(layer.hex());
    for layer in [known, other] {
        fs::create_dir(fetched(layer)).unwrap();
        fs::write(fetched(layer).join("data"), [1; 10_000]).unwrap();
    }
    fs::write(dir.join("lock"), "").unwrap();
    let pruned = fixture.store.prune(&EVERYTHING, false).unwrap();
    assert_eq!(names(&pruned, Kind::Cache), [other.to_string()]);
    assert!(pruned[0].bytes >= 10_000);
    assert!(fetched(known).exists() && !fetched(other).exists());
    let all = Wanted { cache: true, all_cache: true, ..Wanted::default() };
    fixture.store.prune(&all, false).unwrap();
    assert!(!fetched(known).exists());
    fixture.store.image("a:1").unwrap();
}

#[test]
fn what_came_after_a_time_stays() {
    let fixture = Fixture::new();
    let old = fixture.put("x", b"old").digest;
    let new = fixture.put("x", b"new").digest;
    age(&fixture.store.blob_path(old), 48);
    let day = SystemTime::now() - Duration::from_secs(24 * 3600);
    fixture.store.prune(&Wanted { before: Some(day), ..EVERYTHING }, false).unwrap();
    assert!(!fixture.has(old) && fixture.has(new));
}

#[test]
fn a_broken_image_keeps_all_blobs_and_is_named() {
    let fixture = Fixture::new();
    let broken = fixture.image("broken:1", &["x"]).digest;
    fs::write(fixture.store.blob_path(broken), "broken").unwrap();
    let stray = fixture.put("x", b"stray").digest;
    let error = fixture.store.prune(&EVERYTHING, false).unwrap_err();
    assert!(
        matches!(&error, StoreError::Undecided { image, .. } if image == "broken:1"),
        "{error}"
    );
    assert!(fixture.has(stray));
    // What a removal that was not finished left is no such image.
    fs::remove_file(fixture.store.blob_path(broken)).unwrap();
    fixture.store.prune(&Wanted { all: true, ..EVERYTHING }, false).unwrap();
    fixture.assert_empty();
}

#[test]
fn mounted_caches_go_with_the_build_cache_unless_they_are_in_use() {
    let fixture = Fixture::new();
    let mounts = fixture.store.dir(Part::BuildCache).join("mounts");
    let cache = |name: &str, hours| {
        let data = mounts.join(name).join("data-0/below");
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("file"), [0; 100]).unwrap();
        let lock = mounts.join(name).join("lock-0");
        fs::write(&lock, "").unwrap();
        age(&lock, hours);
        lock
    };
    let (old, _new) = (cache("old", 5), cache("new", 1));
    let in_use = File::open(cache("in-use", 9)).unwrap();
    in_use.lock_shared().unwrap();
    let found = |wanted: &Wanted| {
        let items = fixture.store.prune(wanted, true).unwrap();
        let items = items.iter().filter(|item| item.kind == Kind::BuildCache);
        items.map(|item| (item.name.clone(), item.bytes)).collect::<Vec<_>>()
    };
    let name = |name: &str| (format!("mounts/{name}"), 100);
    assert_eq!(found(&EVERYTHING), []);
    let all = Wanted { all: true, ..EVERYTHING };
    assert_eq!(found(&all), [name("new"), name("old")]);
    assert_eq!(found(&Wanted { keep: 150, ..all.clone() }), [name("old")]);
    let before = Some(SystemTime::now() - Duration::from_secs(2 * 3600));
    let aged = Wanted { before, all_build_cache: true, ..EVERYTHING };
    assert_eq!(found(&aged), [name("old")]);
    fixture.store.prune(&aged, false).unwrap();
    assert!(!old.parent().unwrap().exists() && mounts.join("new/data-0/below/file").exists());
    drop(in_use);
    fixture.store.prune(&all, false).unwrap();
    assert_eq!(fs::read_dir(&mounts).unwrap().count(), 0);
    assert_eq!(fs::read_dir(fixture.store.dir(Part::Tmp)).unwrap().count(), 0);
}
