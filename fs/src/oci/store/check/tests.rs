use super::*;
use crate::filesystem::ImageFs;
use crate::layer::toc::fixture::{Encoder, Form};
use crate::oci::fixture::Fixture;

const REPAIR: Check = Check { quick: false, repair: true };

fn check(fixture: &Fixture) -> Health {
    fixture.store.check(Check::default(), &|_| ()).unwrap()
}

fn repair(fixture: &Fixture) -> Health {
    fixture.store.check(REPAIR, &|_| ()).unwrap()
}

/// A store with the image `a:1` of two layers and all its indexes.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.image("a:1", &["x", "y"]);
    index(&fixture, "a:1");
    fixture
}

fn index(fixture: &Fixture, image: &str) {
    let image = fixture.store.image(image).unwrap();
    ImageFs::open(&image, &fixture.store.dir(Part::Indexes), &|_| ()).unwrap();
}

fn flip(path: &Path, place: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let place = place(bytes.len());
    bytes[place] ^= 1;
    // As a disk does it: in place.
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_good_store_is_clean_and_counted() {
    let fixture = fixture();
    let health = check(&fixture);
    assert_eq!(health.findings, []);
    assert_eq!((health.images, health.blobs, health.indexes), (1, 4, 3));
    assert!(!health.is_damaged());
    let empty = Store::open_readonly(&fixture.path("nothing"));
    assert_eq!(empty.check(Check::default(), &|_| ()).unwrap(), Health::default());
}

#[test]
fn progress_tells_of_each_byte() {
    let fixture = fixture();
    let seen = std::cell::Cell::new(0);
    let health = fixture.store.check(Check::default(), &|n| seen.set(seen.get() + n)).unwrap();
    assert_eq!(seen.get(), health.bytes);
}

#[test]
fn a_wrong_blob_is_put_aside_and_its_images_are_named() {
    let fixture = fixture();
    fixture.store.tag("a:1", "b:1").unwrap();
    let layer = fixture.store.image("a:1").unwrap().layers[0].descriptor.digest;
    fixture.flip(layer);
    let health = check(&fixture);
    let [finding] = &health.findings[..] else { panic!("{health:?}") };
    assert_eq!((finding.severity, &finding.repair), (Severity::Lost, &None));
    assert_eq!(finding.images, ["a:1", "b:1"]);
    assert!(health.is_damaged() && fixture.has(layer));
    let quick = fixture.store.check(Check { quick: true, repair: false }, &|_| ()).unwrap();
    assert_eq!(quick.findings, []);

    let health = repair(&fixture);
    let aside = format!("quarantine/{}", layer.hex());
    assert_eq!(health.findings[0].repair, Some(format!("moved to {aside}")));
    assert!(health.is_damaged() && !fixture.has(layer));
    assert!(fixture.store.root().join(aside).exists());
    let health = check(&fixture);
    assert_eq!(health.findings[0].problem, "the blob is missing");
}

#[test]
fn a_layer_with_two_faces_is_found() {
    let fixture = Fixture::new();
    for (name, honest) in [("good", true), ("bad", false)] {
        let mut encoder = Encoder::sample(Form::ZstdChunked);
        if !honest {
            encoder.named("fifo").mode = 0;
        }
        let (layer, _) = encoder.finish().layer();
        fixture.writer().take_in(&layer).unwrap();
        let manifest = fixture.manifest(&[(layer.descriptor, layer.diff_id.digest())]);
        fixture.name(Some(name), &manifest);
    }
    let health = check(&fixture);
    let [finding] = &health.findings[..] else { panic!("{health:?}") };
    assert_eq!((finding.severity, &finding.images[..]), (Severity::Lost, &["bad".to_owned()][..]));
    assert!(finding.problem.contains("fifo: they differ in its mode"), "{}", finding.problem);
    assert!(health.is_damaged());
    fixture.assert_tidy();
    let quick = fixture.store.check(Check { quick: true, repair: false }, &|_| ()).unwrap();
    assert_eq!(quick.findings, []);
}

#[test]
fn a_blob_of_another_size_is_found_without_reading_all() {
    let fixture = fixture();
    let layer = fixture.store.image("a:1").unwrap().layers[1].descriptor.digest;
    fs::write(fixture.store.blob_path(layer), "short").unwrap();
    let quick = fixture.store.check(Check { quick: true, repair: false }, &|_| ()).unwrap();
    assert!(quick.findings.iter().any(|finding| finding.problem.contains("it has 5 bytes")));
    assert!(quick.is_damaged());
}

#[test]
fn a_good_blob_stays_where_it_is_whatever_is_said_of_it() {
    let fixture = fixture();
    let image = fixture.store.image("a:1").unwrap();
    let mut layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| (layer.descriptor.clone(), layer.diff_id.digest()))
        .collect();
    layers[0].0.size += 1;
    fixture.name(Some("liar:1"), &fixture.manifest(&layers));
    for quick in [true, false] {
        let health = fixture.store.check(Check { quick, repair: true }, &|_| ()).unwrap();
        let [finding] = &health.findings[..] else { panic!("{health:?}") };
        assert_eq!((&finding.images[..], &finding.repair), (&["liar:1".to_owned()][..], &None));
        assert!(finding.problem.contains("intact"), "{}", finding.problem);
        assert!(health.is_damaged());
    }
    fixture.store.image("a:1").unwrap();
    fixture.store.remove("liar:1", false).unwrap();
    assert_eq!(check(&fixture).findings, []);
}

#[test]
fn a_damaged_index_is_made_again() {
    for place in [|_| 3, |_| 50, |len| len / 2, |len| len - 1] {
        for kind in ["layer", "tree"] {
            let fixture = fixture();
            let dir = fixture.store.dir(Part::Indexes);
            let files = files(&dir).unwrap();
            let path = files.iter().find(|entry| entry.name.ends_with(kind)).unwrap().path.clone();
            flip(&path, place);
            let health = check(&fixture);
            assert_eq!(health.findings.len(), 1, "{health:?}");
            assert_eq!(health.findings[0].severity, Severity::Derived);
            assert!(health.is_damaged() && path.exists());
            assert!(!repair(&fixture).is_damaged());
            assert!(!path.exists());
            index(&fixture, "a:1");
            assert_eq!(check(&fixture).findings, []);
        }
    }
}

#[test]
fn an_index_of_another_version_is_no_damage() {
    let fixture = fixture();
    for entry in files(&fixture.store.dir(Part::Indexes)).unwrap() {
        flip(&entry.path, |_| 8);
    }
    let health = check(&fixture);
    assert_eq!(health.findings.len(), 3, "{health:?}");
    assert!(health.findings.iter().all(|finding| finding.problem.contains("another version")));
    assert!(!health.is_damaged());
}

#[test]
fn a_missing_blob_and_a_broken_manifest_are_told_apart() {
    let fixture = fixture();
    let manifest = fixture.image("b:1", &["z"]).digest;
    let layer = fixture.store.image("a:1").unwrap().layers[0].descriptor.digest;
    fs::remove_file(fixture.store.blob_path(layer)).unwrap();
    fixture.flip(manifest);
    let health = check(&fixture);
    let images: BTreeSet<_> = health.findings.iter().flat_map(|finding| &finding.images).collect();
    assert_eq!(images.len(), 2, "{health:?}");
    assert!(health.is_damaged());
}

#[test]
fn a_list_of_images_that_cannot_be_read_is_told_of() {
    let fixture = fixture();
    fs::write(fixture.store.root().join("index.json"), "{").unwrap();
    let health = check(&fixture);
    assert_eq!(health.findings[0].place, Path::new("index.json"));
    assert!(health.is_damaged());
}

#[test]
fn what_killed_processes_leave_is_no_damage() {
    let fixture = fixture();
    fixture.put("layer", b"of no image");
    fs::write(fixture.store.dir(Part::Tmp).join("left"), "x").unwrap();
    fs::create_dir(fixture.store.dir(Part::Mounts).join("m1")).unwrap();
    // A removal: the blobs go first, the entry without a name last.
    let removed = fixture.image("gone:1", &["z"]);
    let mut nameless = removed.clone();
    nameless.annotations.clear();
    fixture.store.tag("a:1", "gone:1").unwrap();
    fs::remove_file(fixture.store.blob_path(removed.digest)).unwrap();
    let health = check(&fixture);
    assert!(!health.is_damaged(), "{health:?}");
    assert_eq!(health.findings.len(), 4, "{health:?}");
    let problems: String = health.findings.iter().map(|finding| &*finding.problem).collect();
    for told in ["belong to no image", "temporary files", "dead mounts", "not finished"] {
        assert!(problems.contains(told), "{problems}");
    }
    let health = repair(&fixture);
    assert_eq!(health.findings.len(), 2, "{health:?}");
}

#[test]
fn a_record_of_the_build_cache_that_is_none_goes() {
    let fixture = fixture();
    let dir = fixture.store.dir(Part::BuildCache);
    fs::write(dir.join("marker"), "{}").unwrap();
    fs::write(dir.join("broken"), "{\"layer\":").unwrap();
    let health = check(&fixture);
    assert_eq!((health.build_cache, health.findings.len()), (2, 1));
    assert!(!repair(&fixture).is_damaged());
    assert!(dir.join("marker").exists() && !dir.join("broken").exists());
}

#[test]
fn a_layer_that_a_registry_has_is_not_missing() {
    let fixture = fixture();
    let layers = fixture.store.image("a:1").unwrap().layers;
    let [known, wrong] = [0, 1].map(|place: usize| layers[place].descriptor.digest);
    let name = "registry.example/a:1".parse().unwrap();
    fixture.store.record_remotes(&name, &[known, wrong]).unwrap();
    fs::remove_file(fixture.store.blob_path(known)).unwrap();
    assert_eq!(check(&fixture).findings, []);
    fixture.flip(wrong);
    assert!(check(&fixture).is_damaged());
    assert!(!repair(&fixture).is_damaged());
    assert_eq!(check(&fixture).findings, []);
    fixture
        .store
        .prune(&crate::oci::store::Wanted { images: true, ..Default::default() }, false)
        .unwrap();
    assert!(!fixture.store.remotes(known).unwrap().is_empty());
}

#[test]
fn to_mend_nobody_may_write() {
    let fixture = fixture();
    let writer = fixture.writer();
    assert!(!check(&fixture).is_damaged());
    let error = fixture.store.check(REPAIR, &|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
    drop(writer);
    repair(&fixture);
}
