use serde_json::{Value, json};

use super::*;
use crate::digest::Found;
use crate::oci::fixture::Fixture;
use crate::oci::manifest::{Compression, DOCKER_MANIFEST, INDEX, MANIFEST, MAX_JSON};
use crate::oci::walk::closure;

fn open_in(fixture: &Fixture, descriptor: &Descriptor) -> Result<Image, ImageError> {
    open(&fixture.store.layout().unwrap(), "x", descriptor)
}

fn refused(fixture: &Fixture, descriptor: &Descriptor) -> ImageError {
    open_in(fixture, descriptor).unwrap_err()
}

fn entry(descriptor: &Descriptor, os: &str, architecture: &str) -> Value {
    let mut entry = serde_json::to_value(descriptor).unwrap();
    entry["platform"] = json!({"os": os, "architecture": architecture});
    entry
}

fn index(fixture: &Fixture, entries: &[Value]) -> Descriptor {
    fixture.put_json(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
}

/// The manifest of a good image as a value, to be spoilt.
fn manifest_value(fixture: &Fixture) -> Value {
    let layer = fixture.layer("x", Compression::Gzip);
    let descriptor = fixture.manifest(&[layer]);
    serde_json::from_slice(&fixture.store.layout().unwrap().json(&descriptor).unwrap()).unwrap()
}

#[test]
fn an_index_gives_the_image_for_this_machine() {
    let fixture = Fixture::new();
    let host = host_architecture();
    let right = fixture.manifest(&[fixture.layer("right", Compression::Zstd)]);
    let wrong = fixture.manifest(&[fixture.layer("wrong", Compression::None)]);
    let several = [
        entry(&wrong, "linux", "mips"),
        entry(&wrong, "windows", host),
        entry(&right, "linux", host),
    ];
    let top = index(&fixture, &several);
    assert_eq!(open_in(&fixture, &top).unwrap().digest, right.digest);
    let nested = index(&fixture, &[entry(&top, "linux", host)]);
    assert_eq!(open_in(&fixture, &nested).unwrap().digest, right.digest);
    // A lone entry needs no platform.
    let lone = index(&fixture, &[serde_json::to_value(&right).unwrap()]);
    assert_eq!(open_in(&fixture, &lone).unwrap().digest, right.digest);
    match refused(&fixture, &index(&fixture, &several[..2])) {
        ImageError::Platform { available, .. } => {
            assert_eq!(available, ["linux/mips".to_owned(), format!("windows/{host}")]);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn of_several_variants_the_one_that_runs_everywhere_is_taken() {
    let fixture = Fixture::new();
    let taken = |architecture: &str, variants: &[Option<&str>]| {
        let of = |variant: &Option<&str>| {
            let layer = fixture.layer(variant.unwrap_or("none"), Compression::None);
            let mut entry = entry(&fixture.manifest(&[layer]), "linux", architecture);
            if let Some(variant) = variant {
                entry["platform"]["variant"] = json!(variant);
            }
            entry
        };
        let entries: Vec<Value> = variants.iter().map(of).collect();
        let top = index(&fixture, &entries);
        let mut layout = fixture.store.layout().unwrap();
        layout.platform = Some(format!("linux/{architecture}").parse().unwrap());
        let chosen = choose_manifest(&layout, &top).unwrap().digest.to_string();
        let at = entries.iter().position(|entry| entry["digest"] == chosen).unwrap();
        variants[at].map(str::to_owned)
    };
    let some = |variant: &str| Some(variant.to_owned());
    assert_eq!(taken("amd64", &[Some("v3"), None, Some("v2")]), None);
    assert_eq!(taken("amd64", &[Some("v3"), Some("v2"), Some("odd")]), some("v2"));
    assert_eq!(taken("amd64", &[Some("v4"), Some("v1")]), some("v1"));
    assert_eq!(taken("arm64", &[Some("v9"), Some("v8.1"), Some("v8")]), some("v8"));
    assert_eq!(taken("arm64", &[Some("v9"), Some("v8.1")]), some("v8.1"));
    let arm = if host_architecture() == "arm" { "v5" } else { "v7" };
    assert_eq!(taken("arm", &[Some("v6"), Some("v5"), Some("v7"), Some("v8")]), some(arm));
}

#[test]
fn indexes_in_indexes_come_to_an_end() {
    let fixture = Fixture::new();
    let mut top = fixture.manifest(&[]);
    for _ in 0..=MAX_DEPTH + 1 {
        top = index(&fixture, &[entry(&top, "linux", host_architecture())]);
    }
    assert!(matches!(refused(&fixture, &top), ImageError::TooDeep { .. }));
}

#[test]
fn a_manifest_of_the_wrong_type_is_named() {
    let fixture = Fixture::new();
    let good = manifest_value(&fixture);
    let put = |media_type: &str, value: &Value| fixture.put_json(media_type, value);
    let spoilt = |path: &str, value: Value| {
        let mut manifest = good.clone();
        *manifest.pointer_mut(path).unwrap() = value;
        put(MANIFEST, &manifest)
    };
    let error = refused(&fixture, &put("text/plain", &good));
    assert!(matches!(&error, ImageError::NotAManifest { found, .. } if found == "text/plain"));
    let error = refused(&fixture, &put(DOCKER_MANIFEST, &good));
    assert!(matches!(&error, ImageError::Disagreement { found, .. } if found == MANIFEST));
    let error = refused(&fixture, &spoilt("/config/mediaType", json!("application/x.helm")));
    assert!(matches!(&error, ImageError::Artifact { found, .. } if found == "application/x.helm"));
    let error = refused(&fixture, &spoilt("/layers/0/mediaType", json!("application/zip")));
    assert!(matches!(&error, ImageError::LayerType { found, .. } if found == "application/zip"));
    assert!(error.to_string().contains("application/zip"), "{error}");
    let error = refused(&fixture, &spoilt("/schemaVersion", json!(3)));
    assert!(matches!(error, ImageError::SchemaVersion { version: 3, .. }), "{error}");
    let error = refused(&fixture, &spoilt("/schemaVersion", json!(1)));
    assert!(matches!(error, ImageError::Schema1 { .. }), "{error}");
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    assert!(matches!(refused(&fixture, &put(schema1, &good)), ImageError::Schema1 { .. }));
    let error = refused(&fixture, &spoilt("/layers", json!([])));
    assert!(matches!(error, ImageError::LayerCount { layers: 0, diff_ids: 1, .. }), "{error}");
    let error = refused(&fixture, &spoilt("/layers", json!("x")));
    assert!(matches!(error, ImageError::Json { what: "manifest", .. }), "{error}");
    let mut both = good.clone();
    both["manifests"] = json!([]);
    let error = refused(&fixture, &put(MANIFEST, &both));
    assert!(matches!(error, ImageError::Disagreement { .. }), "{error}");
}

#[test]
fn damage_is_found_before_a_layer_is_read() {
    let fixture = Fixture::new();
    let image = |content: &str| {
        let layer = fixture.layer(content, Compression::Gzip);
        (fixture.manifest(std::slice::from_ref(&layer)), layer.0)
    };
    let (manifest, _) = image("manifest");
    fixture.flip(manifest.digest);
    let error = refused(&fixture, &manifest);
    assert!(matches!(&error, ImageError::Corrupt(m) if matches!(m.found, Found::Digest(_))));
    assert!(error.to_string().contains(&manifest.digest.to_string()), "{error}");

    let (manifest, _) = image("config");
    let config = open_in(&fixture, &manifest).unwrap().manifest.config.digest;
    fixture.flip(config);
    let error = refused(&fixture, &manifest);
    assert!(matches!(&error, ImageError::Corrupt(m) if m.expected == config), "{error}");

    let (manifest, layer) = image("short");
    let path = fixture.store.blob_path(layer.digest);
    std::fs::write(&path, &std::fs::read(&path).unwrap()[1..]).unwrap();
    let error = refused(&fixture, &manifest);
    assert!(matches!(&error, ImageError::Corrupt(m) if matches!(m.found, Found::Size(..))));

    std::fs::remove_file(&path).unwrap();
    let error = refused(&fixture, &manifest);
    assert!(matches!(error, ImageError::Missing { digest, .. } if digest == layer.digest));
}

#[test]
fn a_giant_manifest_is_refused_unread() {
    let fixture = Fixture::new();
    let mut descriptor = fixture.manifest(&[]);
    descriptor.size = MAX_JSON + 1;
    assert!(matches!(refused(&fixture, &descriptor), ImageError::TooLarge { .. }));
}

#[test]
fn null_lists_are_empty_ones() {
    let fixture = Fixture::new();
    let mut manifest = manifest_value(&fixture);
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": null}});
    manifest["config"] = serde_json::to_value(fixture.put_json(CONFIG, &config)).unwrap();
    manifest["layers"] = Value::Null;
    let descriptor = fixture.put_json(MANIFEST, &manifest);
    assert!(open_in(&fixture, &descriptor).unwrap().layers.is_empty());
}

/// An image whose manifest names an index of this type, with a table for its layer.
fn with_soci_index(fixture: &Fixture, config_type: &str) -> (Descriptor, Descriptor, Descriptor) {
    let mut manifest = manifest_value(fixture);
    let mut ztoc = fixture.put("application/octet-stream", b"table");
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    ztoc.annotations.insert("com.amazon.soci.image-layer-digest".into(), layer);
    let config = fixture.put_json(config_type, &json!({}));
    let index = fixture.put_json(
        MANIFEST,
        &json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [ztoc]}),
    );
    manifest["annotations"] = json!({"com.amazon.soci.index-digest": index.digest});
    (fixture.put_json(MANIFEST, &manifest), index, ztoc)
}

#[test]
fn a_soci_index_gives_layers_their_tables() {
    const V1: &str = "application/vnd.amazon.soci.index.v1+json";
    const V2: &str = "application/vnd.amazon.soci.index.v2+json";
    let fixture = Fixture::new();
    let table_of = |image: &Descriptor| {
        let mut image = open_in(&fixture, image).unwrap();
        image.layers.remove(0).ztoc
    };
    assert!(table_of(&fixture.manifest(&[fixture.layer("x", Compression::Gzip)])).is_none());
    let (image, index, ztoc) = with_soci_index(&fixture, V2);
    assert_eq!(table_of(&image).unwrap().descriptor.digest, ztoc.digest);
    // It goes with the image wherever that goes.
    let with_it = closure(&fixture.store.layout().unwrap(), &image).unwrap();
    let digests: Vec<_> = with_it.iter().map(|blob| blob.digest).collect();
    assert_eq!(digests.last(), Some(&image.digest));
    assert!(digests.contains(&index.digest) && digests.contains(&ztoc.digest));
    // Whatever is wrong with the index, the layers can be read whole.
    fixture.flip(index.digest);
    assert!(table_of(&image).is_none());
    std::fs::remove_file(fixture.store.blob_path(index.digest)).unwrap();
    assert!(table_of(&image).is_none());
    let (image, ..) = with_soci_index(&fixture, V1);
    assert!(table_of(&image).is_none());
}
