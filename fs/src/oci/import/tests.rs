use std::time::Duration;

use super::*;
use crate::oci::fixture::{Fixture, compress, tar_of};
use crate::oci::manifest::layer_compression;

fn import_bytes(fixture: &Fixture, bytes: &[u8]) -> Result<Digest, StoreError> {
    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let what = Import { from: "x.tar", name: "x", created };
    import(&fixture.store, bytes, &what, &|_| {})
}

#[test]
fn a_tar_becomes_a_layer_as_it_is() {
    let tar = tar_of(&[("a", b"1"), ("b", &[7; 100_000])]);
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let fixture = Fixture::new();
        let blob = compress(&tar, compression);
        let digest = import_bytes(&fixture, &blob).unwrap();
        let image = fixture.store.image("x:latest").unwrap();
        assert_eq!(image.digest, digest);
        let [layer] = &image.layers[..] else { panic!("{:?}", image.layers) };
        assert_eq!(layer.descriptor.digest, Digest::of(&blob));
        assert_eq!(layer.diff_id.digest(), Digest::of(&tar));
        assert_eq!(layer_compression(&layer.descriptor.media_type), Some(compression));
        assert_eq!(image.config.created.as_deref(), Some("1970-01-02T00:00:00Z"));
        assert_eq!(image.config.history[0].comment.as_deref(), Some("imported from x.tar"));
        // The same again gives the same.
        assert_eq!(import_bytes(&fixture, &blob).unwrap(), digest);
        fixture.assert_tidy();
    }
}

#[test]
fn what_is_no_tar_leaves_nothing() {
    let tar = tar_of(&[("a", &[7; 100_000])]);
    let gzip = compress(&tar, Compression::Gzip);
    let junk = [7; 5000];
    for bytes in [
        &b""[..],
        b"junk",
        &junk,
        &compress(&junk, Compression::Zstd),
        b"\xfd7zXZ\0 and so on",
        &gzip[..gzip.len() - 9],
        &compress(&tar, Compression::Zstd)[..20],
    ] {
        let fixture = Fixture::new();
        let error = import_bytes(&fixture, bytes).unwrap_err();
        assert!(matches!(error, StoreError::NotATar { .. } | StoreError::Input { .. }), "{error}");
        assert!(error.to_string().contains("x.tar"), "{error}");
        fixture.assert_empty();
    }
}

#[test]
fn a_bad_name_is_told_before_anything_is_read() {
    let fixture = Fixture::new();
    let what = Import { from: "x.tar", name: "X", created: SystemTime::UNIX_EPOCH };
    let error = import(&fixture.store, &b""[..], &what, &|_| {}).unwrap_err();
    assert!(matches!(error, StoreError::Reference(_)), "{error}");
}
