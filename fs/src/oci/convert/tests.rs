use serde_json::json;

use super::*;
use crate::layer::toc::fixture::{Encoder, FORMS};
use crate::oci;
use crate::oci::fixture::{Fixture, tar_of};
use crate::oci::manifest::{DOCKER_MANIFEST, ImageConfig, Index, LAYER_ZSTD};
use crate::oci::reference::Source;

const CHUNKED: Compression = Compression::ZstdChunked(1);

fn to(fixture: &Fixture, from: &str, name: &str, compression: Compression) -> Converted {
    let source: Source = from.parse().unwrap();
    let image = oci::select(&source, &fixture.store).unwrap();
    let priorities = Priorities::default();
    let conversion = Conversion { name, compression, priorities: &priorities };
    convert(&image, &fixture.store, &conversion, &|_| ()).unwrap()
}

fn open(fixture: &Fixture, name: &str) -> Image {
    oci::open(&name.parse().unwrap(), &fixture.store).unwrap()
}

/// Stores an image of these layers; its config has more than kfs knows.
fn image(fixture: &Fixture, name: Option<&str>, layers: &[Vec<u8>], media_type: &str) -> Digest {
    let blobs = layers.iter().map(|tar| {
        let gzip = crate::oci::fixture::compress(tar, Stored::Gzip);
        json!(fixture.put("application/vnd.docker.image.rootfs.diff.tar.gzip", &gzip))
    });
    let diff_ids: Vec<_> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
    let config = json!({
        "architecture": crate::oci::image::host_architecture(), "os": "linux",
        "config": { "Cmd": ["x"], "Healthcheck": { "Test": ["NONE"] } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created_by": "one" }, { "created_by": "two", "empty_layer": true }],
        "docker_version": "20",
    });
    let config = fixture
        .put("application/vnd.docker.container.image.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config,
        "layers": blobs.collect::<Vec<_>>(),
        "annotations": { "keep": "me", SOCI_INDEX: "sha256:0" },
    });
    fixture.writer().add_image(name, manifest.to_string().as_bytes(), media_type).unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    vec![tar_of(&[("a", b"one")]), tar_of(&[("b", b"two"), ("c", &[3; 100_000])])]
}

#[test]
fn an_image_of_docker_becomes_one_of_oci_with_the_same_config() {
    let fixture = Fixture::new();
    image(&fixture, Some("old"), &layers(), DOCKER_MANIFEST);
    let made = to(&fixture, "old", "new:1", CHUNKED);
    let (old, new) = (open(&fixture, "old"), open(&fixture, "new:1"));
    assert_eq!(new.digest, made.digest);
    assert_eq!(new.config_json, old.config_json);
    assert_eq!(new.manifest.media_type.as_deref(), Some(MANIFEST));
    assert_eq!(new.manifest.annotations, BTreeMap::from([("keep".into(), "me".into())]));
    for (number, layer) in new.layers.iter().enumerate() {
        assert_eq!(layer.descriptor.media_type, LAYER_ZSTD);
        assert!(has_format(&layer.descriptor, CHUNKED));
        assert_eq!(made.layers[number].to, layer.descriptor);
        assert_eq!(made.layers[number].from, old.layers[number].descriptor);
        assert!(!made.layers[number].changed);
    }
    assert_eq!(to(&fixture, "old", "new:2", CHUNKED).digest, made.digest);
    // What has the format is kept as it is.
    let again = to(&fixture, "new:1", "new:3", CHUNKED);
    assert_eq!(again.digest, made.digest);
    assert!(again.layers.iter().all(|layer| layer.from == layer.to));
}

#[test]
fn estargz_changes_the_diff_ids_and_nothing_else_of_the_config() {
    let fixture = Fixture::new();
    image(&fixture, Some("old"), &layers(), DOCKER_MANIFEST);
    let made = to(&fixture, "old", "new", Compression::Estargz(1));
    let (old, new) = (open(&fixture, "old"), open(&fixture, "new"));
    assert!(made.layers.iter().all(|layer| layer.changed));
    assert_ne!(new.config.rootfs.diff_ids, old.config.rootfs.diff_ids);
    let plain = |config: &[u8]| {
        let mut config: ImageConfig = serde_json::from_slice(config).unwrap();
        config.rootfs.diff_ids.clear();
        serde_json::to_value(config).unwrap()
    };
    assert_eq!(plain(&new.config_json), plain(&old.config_json));
    assert!(has_format(&new.layers[0].descriptor, Compression::Estargz(9)));
    // gzip is what it is already; zstd is not.
    assert_eq!(to(&fixture, "new", "g", Compression::Gzip(1)).digest, new.digest);
    assert!(to(&fixture, "new", "z", Compression::Zstd(1)).layers.iter().all(|l| !l.changed));
}

#[test]
fn a_layer_with_two_faces_is_refused() {
    for form in FORMS {
        let fixture = Fixture::new();
        let mut encoder = Encoder::sample(form);
        encoder.named("empty").name = "x".into();
        encoder.named("d/small").name = "empty".into();
        encoder.named("x").name = "d/small".into();
        let (layer, _) = encoder.finish().layer();
        fixture.writer().take_in(&layer).unwrap();
        let diff_id = layer.diff_id.digest();
        let manifest = fixture.manifest(&[(layer.descriptor.clone(), diff_id)]);
        fixture.name(Some("old"), &manifest);
        let blobs = fixture.blobs();
        for compression in [Compression::Gzip(1), Compression::Zstd(1), Compression::None] {
            let image = oci::select(&"old".parse().unwrap(), &fixture.store).unwrap();
            let priorities = Priorities::default();
            let conversion = Conversion { name: "new", compression, priorities: &priorities };
            let error = convert(&image, &fixture.store, &conversion, &|_| ()).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("contradict") && said.contains("d/small"), "{said}");
            assert!(said.contains(&layer.descriptor.digest.to_string()), "{said}");
            assert_eq!(fixture.blobs(), blobs);
        }
    }
}

#[test]
fn all_platforms_of_an_index_that_are_at_hand() {
    let fixture = Fixture::new();
    let first = image(&fixture, None, &layers(), MANIFEST);
    let second = image(&fixture, None, &layers()[..1], MANIFEST);
    let artifact = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": fixture.put("application/vnd.oci.empty.v1+json", b"{}"), "layers": [],
    });
    let artifact = fixture.put(MANIFEST, artifact.to_string().as_bytes()).digest;
    let missing = Digest::of(b"missing");
    let entry = |digest: Digest, architecture: &str| {
        let size = fixture.store.blob(digest).map_or(7, |blob| blob.size());
        json!({ "mediaType": MANIFEST, "digest": digest, "size": size,
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        entry(first, crate::oci::image::host_architecture()), entry(second, "mips"),
        entry(missing, "s390x"), entry(artifact, "unknown"),
    ]});
    fixture.writer().add_image(Some("old"), index.to_string().as_bytes(), INDEX).unwrap();
    let made = to(&fixture, "old", "new", CHUNKED);
    assert_eq!((made.images, made.layers.len()), (2, 2));
    assert_eq!(made.left_out, [missing, artifact]);
    let blob = fixture.store.blob(made.digest).unwrap();
    let mut json = vec![0; usize::try_from(blob.size()).unwrap()];
    blob.read_exact_at(0, &mut json).unwrap();
    let index: Index = serde_json::from_slice(&json).unwrap();
    let platforms = index.manifests.iter().map(|m| m.platform.clone().unwrap().architecture);
    let expected = [crate::oci::image::host_architecture(), "mips"];
    assert_eq!(platforms.collect::<Vec<_>>(), expected);
    assert_eq!(open(&fixture, "new").layers.len(), 2);
}

#[test]
fn paths_that_no_layer_has_are_told() {
    let fixture = Fixture::new();
    image(&fixture, Some("old"), &layers(), MANIFEST);
    let image = oci::select(&"old".parse().unwrap(), &fixture.store).unwrap();
    let priorities = Priorities::parse(b"/c\n/d\n/a\n/b/e\n").unwrap();
    let conversion = Conversion { name: "new", compression: CHUNKED, priorities: &priorities };
    let made = convert(&image, &fixture.store, &conversion, &|_| ()).unwrap();
    assert_eq!(made.unfound, [b"d".to_vec(), b"b/e".to_vec()]);
}

#[test]
fn a_broken_layer_leaves_the_store_as_it_was() {
    let fixture = Fixture::new();
    let tar = tar_of(&[("a", &[9; 200_000])]);
    image(&fixture, Some("old"), &[layers()[0].clone(), tar[..100_000].to_vec()], MANIFEST);
    let files = || {
        let blobs = std::fs::read_dir(fixture.path("store/blobs/sha256")).unwrap();
        let tmp = std::fs::read_dir(fixture.store.dir(Part::Tmp)).unwrap();
        (blobs.count(), tmp.count(), fixture.store.images().unwrap().len())
    };
    let before = files();
    let image = oci::select(&"old".parse().unwrap(), &fixture.store).unwrap();
    let priorities = Priorities::default();
    let conversion = Conversion { name: "new", compression: CHUNKED, priorities: &priorities };
    let error = convert(&image, &fixture.store, &conversion, &|_| ()).unwrap_err().to_string();
    assert!(error.contains("ends in the middle"), "{error}");
    let conversion = Conversion { name: "Not a name", ..conversion };
    assert!(convert(&image, &fixture.store, &conversion, &|_| ()).is_err());
    assert_eq!(files(), before);
}
