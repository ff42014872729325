use std::fs;

use serde_json::{Value, json};

use super::load::{Input, Loaded, load};
use super::save::{save_to_file, save_to_stream};
use super::*;
use crate::oci::fixture::{Fixture, compress, tar_of};
use crate::oci::image::ImageError;
use crate::oci::layout::Selection;
use crate::oci::manifest::{INDEX, LAYER_GZIP, LAYER_TAR, LAYER_ZSTD, MANIFEST};
use crate::oci::store::StoreError;

/// A tar written header by header, to be odd in many ways.
#[derive(Default)]
struct Odd(Vec<u8>);

impl Odd {
    fn member(mut self, kind: u8, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_link_name_literal(link).unwrap();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.member(b'0', name, "", content)
    }

    fn json(self, name: &str, value: &Value) -> Self {
        self.file(name, value.to_string().as_bytes())
    }

    fn write(self, fixture: &Fixture) -> PathBuf {
        let path = fixture.path("archive.tar");
        fs::write(&path, self.0).unwrap();
        path
    }
}

/// A docker-archive's manifest.json for one image.
fn listed(tags: &[&str], layers: &[&str]) -> Value {
    json!([{"Config": "config.json", "RepoTags": tags, "Layers": layers}])
}

fn config(layers: &[&[u8]]) -> Value {
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}})
}

fn load_file(fixture: &Fixture, path: &Path) -> Result<Vec<Loaded>, StoreError> {
    load(&fixture.store, Input::File(path.to_owned()), &|_| {})
}

fn selected(fixture: &Fixture, names: &[&str]) -> Vec<Selection> {
    let layout = fixture.store.layout().unwrap();
    names.iter().map(|name| layout.select(Some(name), name).unwrap()).collect()
}

fn save(fixture: &Fixture, names: &[&str], format: Format) -> Result<PathBuf, StoreError> {
    let path = fixture.path("saved.tar");
    let store = || panic!("a file takes no other file");
    save_to_file(&selected(fixture, names), format, &path, &store, &|_| {})?;
    Ok(path)
}

#[test]
fn a_docker_archive_is_read_where_it_lies() {
    let fixture = Fixture::new();
    let layers = ["plain", "gzip", "zstd", "linked"].map(|name| tar_of(&[(name, b"x")]));
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let gzip = compress(layers[1], Compression::Gzip);
    let zstd = compress(layers[2], Compression::Zstd);
    let names = ["./a/layer.tar", "b.tar", "c.tar", "d/layer.tar"];
    let path = Odd::default()
        .member(b'2', "d/layer.tar", "../real.tar", b"")
        .member(b'5', "a/", "", b"")
        .file("a/layer.tar", layers[0])
        .member(b'1', "b.tar", "/e/../hard.tar", b"")
        .file("hard.tar", &gzip)
        .file("c.tar", &zstd)
        .file("real.tar", layers[3])
        .json("config.json", &config(&layers))
        .json("manifest.json", &listed(&["x:1", "docker.io/library/y:2"], &names))
        .write(&fixture);
    let layout = open(&path, Some(Format::Docker)).unwrap();
    let image = layout.image("docker.io/library/x:1").unwrap();
    assert_eq!(layout.image("y:2").unwrap().digest, image.digest);
    let stored = [layers[0], &gzip, &zstd, layers[3]];
    let types = [LAYER_TAR, LAYER_GZIP, LAYER_ZSTD, LAYER_TAR];
    for ((layer, stored), media_type) in image.layers.iter().zip(stored).zip(types) {
        assert_eq!(layer.descriptor.digest, Digest::of(stored));
        assert_eq!(layer.descriptor.media_type, media_type);
        let mut bytes = vec![0; stored.len()];
        layer.blob.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, stored);
    }
    let loaded = load_file(&fixture, &path).unwrap();
    let names: Vec<_> = loaded.iter().map(|image| image.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["x:1", "y:2"]);
    assert_eq!(fixture.store.image("x:1").unwrap().digest, image.digest);
    fixture.assert_tidy();
}

#[test]
fn long_names_and_pax_headers_are_understood() {
    let fixture = Fixture::new();
    let layer = tar_of(&[("x", b"x")]);
    let long = "d/".repeat(70) + "layer.tar";
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|n: &usize| n.to_string().len() + rest.len() == *n).unwrap();
        format!("{length}{rest}")
    };
    let pax = record("path", &long) + &record("size", &layer.len().to_string());
    let odd = Odd::default()
        .member(b'g', "global", "", record("comment", "x").as_bytes())
        .member(b'L', "././@LongLink", "", (long.clone() + "\0").as_bytes())
        .member(b'K', "././@LongLink", "", b"real.tar\0")
        .member(b'1', "cut short", "cut short", b"")
        .member(b'x', "pax", "", record("path", "real.tar").as_bytes())
        .file("short", &layer)
        .json("config.json", &config(&[&layer]))
        .json("manifest.json", &listed(&["x:1"], &[&long]));
    open(&odd.write(&fixture), None).unwrap().image("x:1").unwrap();
    // A size in a PAX header counts, the one in the header does not.
    let mut odd = Odd::default().member(b'x', "pax", "", pax.as_bytes()).file("x", &layer);
    let header = odd.0.len() - layer.len() - 512;
    let mut small = tar::Header::from_byte_slice(&odd.0[header..header + 512]).clone();
    small.set_size(1);
    small.set_cksum();
    odd.0[header..header + 512].copy_from_slice(small.as_bytes());
    let path = odd
        .json("config.json", &config(&[&layer]))
        .json("manifest.json", &listed(&["x:1"], &[&long]))
        .write(&fixture);
    let image = open(&path, None).unwrap().image("x:1").unwrap();
    assert_eq!(image.layers[0].descriptor.size, layer.len() as u64);
}

#[test]
fn both_formats_make_the_round_trip_with_several_images() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["shared", "a"]);
    fixture.image("b:1", &["shared", "b"]);
    fixture.store.tag("a:1", "a:2").unwrap();
    let names = ["a:1", "b:1", "a:2"];
    for format in [Format::Oci, Format::Docker] {
        let saved = fs::read(save(&fixture, &names, format).unwrap()).unwrap();
        let path = save(&fixture, &names, format).unwrap();
        assert!(saved == fs::read(&path).unwrap(), "{format}: not deterministic");
        let mut streamed = Vec::new();
        let images = selected(&fixture, &names);
        save_to_stream(&images, format, &fixture.store, &mut streamed, &|_| {}).unwrap();
        assert!(saved == streamed, "{format}: a stream differs from a file");
        fixture.assert_tidy();

        let other = Fixture::new();
        let loaded = load_file(&other, &path).unwrap();
        let mut loaded: Vec<_> = loaded.into_iter().map(|image| image.name.unwrap()).collect();
        loaded.sort();
        assert_eq!(loaded, ["a:1", "a:2", "b:1"]);
        for name in names {
            let (ours, theirs) =
                (fixture.store.image(name).unwrap(), other.store.image(name).unwrap());
            assert_eq!(ours.config_json, theirs.config_json);
            if format == Format::Oci {
                assert_eq!(ours.manifest_json, theirs.manifest_json);
            }
        }
        other.assert_tidy();
    }
}

#[test]
fn a_pipe_is_written_to() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["a"]);
    let images = selected(&fixture, &["a:1"]);
    let pipe = fixture.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    for format in [Format::Oci, Format::Docker] {
        let saved = fs::read(save(&fixture, &["a:1"], format).unwrap()).unwrap();
        let read = std::thread::scope(|scope| {
            let reader = scope.spawn(|| fs::read(&pipe).unwrap());
            let store = || Ok(fixture.store.clone());
            save_to_file(&images, format, &pipe, &store, &|_| {}).unwrap();
            reader.join().unwrap()
        });
        assert!(read == saved, "{format}: what comes through a pipe differs from a file");
        fixture.assert_tidy();
    }
}

#[test]
fn a_compressed_archive_is_loaded_but_not_used_in_place() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["a"]);
    let saved = fs::read(save(&fixture, &["a:1"], Format::Oci).unwrap()).unwrap();
    for compression in [Compression::Gzip, Compression::Zstd] {
        let other = Fixture::new();
        let path = other.path("archive.tar");
        fs::write(&path, compress(&saved, compression)).unwrap();
        let error = open(&path, Some(Format::Oci)).unwrap_err();
        let LayoutError::Archive(ArchiveError::Compressed { .. }) = error else {
            panic!("{error}");
        };
        assert_eq!(load_file(&other, &path).unwrap()[0].name.as_deref(), Some("a:1"));
        let stream = Input::Stream(Box::new(File::open(&path).unwrap()));
        assert_eq!(load(&other.store, stream, &|_| {}).unwrap().len(), 1);
        other.assert_tidy();
    }
}

#[test]
fn newer_docker_saves_are_read_as_layouts() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["a"]);
    let path = save(&fixture, &["a:1"], Format::Oci).unwrap();
    let digest = fixture.store.image("a:1").unwrap().digest;
    let mut index = json!({"schemaVersion": 2, "manifests": [fixture.store.layout().unwrap()
        .descriptors()[0]]});
    index["manifests"][0]["annotations"] =
        json!({CONTAINERD_NAME: "docker.io/library/a:1", REF_NAME: "1"});
    let mut odd = Odd(fs::read(path).unwrap());
    odd.0.truncate(odd.0.len() - 1024);
    // Of several members with one name the last counts.
    let path = odd.json("index.json", &index).json("manifest.json", &json!([])).write(&fixture);
    let layout = open(&path, Some(Format::Docker)).unwrap();
    assert_eq!(layout.image("a:1").unwrap().digest, digest);
}

#[test]
fn a_whole_index_is_loaded_with_the_platforms_that_are_there() {
    let fixture = Fixture::new();
    let platform = |descriptor: &_, os: &str, architecture: &str| {
        let mut entry = serde_json::to_value(descriptor).unwrap();
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let here = fixture.manifest(&[fixture.layer("here", Compression::Gzip)]);
    let gone = fixture.manifest(&[fixture.layer("gone", Compression::Gzip)]);
    let statement = fixture.put("application/vnd.in-toto+json", b"{}");
    let attestation = fixture.manifest(&[(statement, Digest::of(b"{}"))]);
    let index = fixture.put_json(
        INDEX,
        &json!({"schemaVersion": 2, "manifests": [platform(&here, "linux", "mips"),
            platform(&gone, "linux", "s390x"), platform(&attestation, "unknown", "unknown")]}),
    );
    fixture.name(Some("a:1"), &index);
    fs::remove_file(fixture.store.blob_path(gone.digest)).unwrap();
    let path = save(&fixture, &["a:1"], Format::Oci).unwrap();
    let other = Fixture::new();
    assert_eq!(load_file(&other, &path).unwrap()[0].digest, index.digest);
    assert!(other.has(here.digest) && other.has(attestation.digest));
    other.store.remove("a:1", false).unwrap();
    other.assert_empty();
}

#[test]
fn two_sizes_of_one_blob_are_refused() {
    let fixture = Fixture::new();
    let (layer, id) = fixture.layer("x", Compression::Gzip);
    let mut entry = serde_json::to_value(fixture.manifest(&[(layer.clone(), id)])).unwrap();
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut said = layer.clone();
    said.size += 1;
    let mut liar = serde_json::to_value(fixture.manifest(&[(said, id)])).unwrap();
    liar["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    for manifests in [[&entry, &liar], [&liar, &entry]] {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fixture.name(Some("a:1"), &fixture.put_json(INDEX, &index));
        let path = save(&fixture, &["a:1"], Format::Oci);
        let other = Fixture::new();
        if let Ok(path) = path {
            let error = load_file(&other, &path).unwrap_err().to_string();
            assert!(error.contains(&layer.digest.to_string()), "{error}");
        }
        other.assert_empty();
    }
}

/// Every way to spoil an archive leaves the store as it was.
#[test]
fn a_spoilt_archive_leaves_nothing() {
    let fixture = Fixture::new();
    fixture.image("a:1", &["good"]);
    fixture.image("b:1", &["bad"]);
    let bad = fixture.store.image("b:1").unwrap().layers[0].descriptor.digest;
    let saved = fs::read(save(&fixture, &["a:1", "b:1"], Format::Oci).unwrap()).unwrap();
    let blob = fs::read(fixture.store.blob_path(bad)).unwrap();
    let at = saved.windows(blob.len()).position(|window| window == blob).unwrap();
    let spoil = |change: &dyn Fn(&mut Vec<u8>)| {
        let other = Fixture::new();
        let mut bytes = saved.clone();
        change(&mut bytes);
        let path = other.path("archive.tar");
        fs::write(&path, bytes).unwrap();
        let error = load_file(&other, &path).unwrap_err();
        other.assert_empty();
        error
    };
    match spoil(&|bytes| bytes[at + blob.len() / 2] ^= 1) {
        StoreError::Corrupt(mismatch) => assert_eq!(mismatch.expected, bad),
        other => panic!("{other}"),
    }
    let error = spoil(&|bytes| bytes.truncate(at + 5));
    let StoreError::Layout(LayoutError::Archive(ArchiveError::Truncated { .. })) = error else {
        panic!("{error}");
    };
    let error = spoil(&|bytes| bytes.truncate(at - 512 + 7));
    let StoreError::Layout(LayoutError::Archive(ArchiveError::Truncated { .. })) = error else {
        panic!("{error}");
    };
    let error = spoil(&|bytes| bytes[at - 512 + 3] ^= 1);
    let StoreError::Layout(LayoutError::Archive(ArchiveError::Header { .. })) = error else {
        panic!("{error}");
    };
    // The blob under another name: missing.
    let error = spoil(&|bytes| {
        let header = &bytes[at - 512..at];
        let mut header = tar::Header::from_byte_slice(header).clone();
        header.set_path("blobs/other").unwrap();
        header.set_cksum();
        bytes[at - 512..at].copy_from_slice(header.as_bytes());
    });
    let StoreError::Layout(LayoutError::Image { source, .. }) = error else { panic!("{error}") };
    assert!(matches!(*source, ImageError::Missing { digest, .. } if digest == bad), "{source}");
}

#[test]
fn a_docker_archive_with_the_wrong_layer_leaves_nothing() {
    let fixture = Fixture::new();
    let layer = tar_of(&[("x", b"x")]);
    let archive = |layer_member: &[u8]| {
        Odd::default()
            .file("l.tar", layer_member)
            .json("config.json", &config(&[&layer]))
            .json("manifest.json", &listed(&["x:1"], &["l.tar"]))
            .write(&fixture)
    };
    let error = load_file(&fixture, &archive(&tar_of(&[("x", b"y")]))).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    fixture.assert_empty();
    load_file(&fixture, &archive(&layer)).unwrap();
}

#[test]
fn a_layer_is_saved_for_docker_as_it_is_compressed() {
    let tar = tar_of(&[("x", b"x")]);
    let padded = [compress(&tar, Compression::Gzip), vec![0; 100]].concat();
    for blob in [padded, compress(&tar, Compression::Zstd), tar.clone()] {
        let fixture = Fixture::new();
        let layer = fixture.put(LAYER_GZIP, &blob);
        fixture.name(Some("a:1"), &fixture.manifest(&[(layer, Digest::of(&tar))]));
        let path = save(&fixture, &["a:1"], Format::Docker).unwrap();
        let other = Fixture::new();
        load_file(&other, &path).unwrap();
        assert!(other.has(Digest::of(&tar)));
    }
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_not_saved_for_docker() {
    let fixture = Fixture::new();
    let (layer, _) = fixture.layer("x", Compression::Gzip);
    let manifest = fixture.manifest(&[(layer.clone(), Digest::of(b"other"))]);
    fixture.name(Some("a:1"), &manifest);
    let error = save(&fixture, &["a:1"], Format::Docker).unwrap_err();
    assert!(matches!(error, StoreError::DiffId { layer: l, .. } if l == layer.digest), "{error}");
    fixture.flip(layer.digest);
    for format in [Format::Oci, Format::Docker] {
        let error = save(&fixture, &["a:1"], format).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    }
    // Neither the archive nor a temporary file beside it.
    let left = fs::read_dir(fixture.dir.path()).unwrap().count();
    assert_eq!(left, 1, "only the store");
}

#[test]
fn members_that_cannot_be_used_are_named() {
    let fixture = Fixture::new();
    let layer = tar_of(&[("x", b"x")]);
    let problem = |odd: Odd, needle: &str| {
        let path = odd
            .json("config.json", &config(&[&layer]))
            .json("manifest.json", &listed(&["x:1"], &["l.tar"]))
            .write(&fixture);
        let error = open(&path, None).unwrap_err().to_string();
        assert!(error.contains(needle), "{error}");
    };
    problem(Odd::default(), r#""l.tar", which is not in the archive"#);
    problem(Odd::default().member(b'2', "l.tar", "../../m.tar", b""), "is not in the archive");
    let looped = Odd::default().member(b'2', "l.tar", "m.tar", b"");
    problem(looped.member(b'2', "m.tar", "l.tar", b""), "links without end");
    problem(Odd::default().member(b'S', "l.tar", "", &layer), "with holes");
    problem(Odd::default().member(b'L', "l.tar", "", &vec![b'x'; 2 << 20]), "2097152 bytes");
    let path = Odd::default().file("manifest.json", b"{").write(&fixture);
    let error = open(&path, None).unwrap_err().to_string();
    assert!(error.contains(r#""manifest.json" is malformed"#), "{error}");
}

#[test]
fn what_is_no_archive_of_images_says_so() {
    let fixture = Fixture::new();
    let path = fixture.path("x");
    let error = |bytes: &[u8], wanted| {
        fs::write(&path, bytes).unwrap();
        match open(&path, wanted).unwrap_err() {
            LayoutError::Archive(error) => error,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(error(b"", None), ArchiveError::NotATar(_)));
    assert!(matches!(error(&[7; 1000], None), ArchiveError::NotATar(_)));
    assert!(matches!(error(b"short", None), ArchiveError::NotATar(_)));
    assert!(matches!(error(&tar_of(&[("etc/passwd", b"")]), None), ArchiveError::NoImages(_)));
    assert!(matches!(error(b"BZh9", None), ArchiveError::Compressed { how: "bzip2", .. }));
    let docker = tar_of(&[("manifest.json", b"[]")]);
    let oci = tar_of(&[("oci-layout", b"{}"), ("index.json", b"{}")]);
    let wrong = error(&docker, Some(Format::Oci));
    assert!(matches!(wrong, ArchiveError::WrongFormat { found: Format::Docker, .. }), "{wrong}");
    let wrong = error(&oci, Some(Format::Docker));
    assert!(matches!(wrong, ArchiveError::WrongFormat { found: Format::Oci, .. }), "{wrong}");
    let one = Odd::default().file("x", b"").0;
    assert!(matches!(error(&one.repeat(100_001), None), ArchiveError::TooManyMembers { .. }));
    let LayoutError::Archive(ArchiveError::NotAFile(_)) =
        open(fixture.dir.path(), None).unwrap_err()
    else {
        panic!("a directory is no archive");
    };
    // Docker writes this for no image at all.
    fs::write(&path, docker).unwrap();
    let error = load_file(&fixture, &path).unwrap_err();
    assert!(matches!(error, StoreError::Layout(LayoutError::Empty { .. })), "{error}");
}

#[test]
fn a_size_beyond_all_files_is_refused() {
    let fixture = Fixture::new();
    for size in [1 << 63, u64::MAX] {
        let mut header = tar::Header::new_gnu();
        header.set_path("x").unwrap();
        header.set_size(size);
        header.set_cksum();
        let path = fixture.path("x");
        fs::write(&path, header.as_bytes()).unwrap();
        let LayoutError::Archive(error) = open(&path, None).unwrap_err() else { panic!() };
        assert!(
            matches!(error, ArchiveError::Truncated { .. } | ArchiveError::Header { .. }),
            "{error}"
        );
    }
}

#[test]
fn names_that_would_fill_memory_are_refused() {
    let fixture = Fixture::new();
    let refused = |odd: Odd| {
        let LayoutError::Archive(error) = open(&odd.write(&fixture), None).unwrap_err() else {
            panic!()
        };
        assert!(matches!(error, ArchiveError::Header { .. }), "{error}");
        error.to_string()
    };
    let long = vec![b'x'; 4096];
    for kind in [b'L', b'K'] {
        let odd = Odd::default().member(kind, "long", "", &long).member(b'2', "a", "b", b"");
        assert!(refused(odd).contains("4096 bytes"));
    }
    let many = (0..8500_u32).fold(Odd::default(), |odd, number| {
        let name = format!("{number}{}", "x".repeat(4000));
        odd.member(b'L', "long", "", name.as_bytes()).file("a", b"")
    });
    assert!(refused(many).contains("names"));
}

#[test]
fn an_unknown_layer_type_is_refused_before_anything_is_copied() {
    let fixture = Fixture::new();
    let zip = fixture.put("application/zip", b"zip");
    let manifest = fixture.manifest(&[(zip, Digest::of(b"zip"))]);
    fixture.name(Some("a:1"), &manifest);
    let path = save(&fixture, &["a:1"], Format::Oci).unwrap();
    let other = Fixture::new();
    let error = load_file(&other, &path).unwrap_err();
    assert!(error.to_string().contains("application/zip"), "{error}");
    other.assert_empty();
    assert_eq!(manifest.media_type, MANIFEST);
}
