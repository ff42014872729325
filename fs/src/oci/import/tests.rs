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

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_compression_that_no_layer_has_is_undone() {
    let tar = tar_of(&[("a", b"1"), ("b", &[7; 100_000])]);
    let fixture = Fixture::new();
    // Two streams are one, as for the program.
    let (head, tail) = tar.split_at(1000);
    let packed = [bzip2(head), bzip2(tail)].concat();
    import_bytes(&fixture, &packed).unwrap();
    let image = fixture.store.image("x:latest").unwrap();
    let [layer] = &image.layers[..] else { panic!("{:?}", image.layers) };
    assert_eq!(layer.descriptor, Descriptor::new(LAYER_TAR, Digest::of(&tar), tar.len() as u64));
    assert_eq!(layer.diff_id.digest(), Digest::of(&tar));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let layer = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        layer_of_tar(&path, dir.path())
    };
    let found = layer(&packed).unwrap().unwrap();
    assert_eq!(found.descriptor.digest, Digest::of(&tar));
    let mut content = vec![0; tar.len()];
    crate::blob::BlobSource::read_exact_at(&*found.blob, 0, &mut content).unwrap();
    assert_eq!(content, tar);
    // What is no tar is none, what is damaged later is told.
    assert!(layer(&bzip2(&[7; 5000])).unwrap().is_none());
    assert!(layer(b"BZh9 and so on").unwrap().is_none());
    assert!(layer(b"\xfd7zXZ\0 and so on").unwrap().is_none());
    layer(&packed[..packed.len() - 9]).unwrap_err();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
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
        &bzip2(&tar)[..40],
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
