//! Images with a SOCI index, made here as `soci convert` makes them.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compress, Compression, Crc, FlushCompress};
use kfs_fs::digest::Digest;
use kfs_measure::proxy::{Proxy, Shape};
use serde_json::{Value, json};

use crate::server::Registry;
use tables::{Field, Writer, number, text};

#[path = "../../fs/src/layer/soci/tests/tables.rs"]
#[expect(dead_code, reason = "the unit tests of the format need more of it")]
mod tables;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Content between two places where inflating can start, in bytes.
const SPAN: usize = 1 << 20;

/// A gzip layer that can be inflated from several places on.
#[derive(Clone)]
struct Layer {
    content: Vec<u8>,
    gzip: Vec<u8>,
    /// Offsets in `gzip` and in `content`.
    places: Vec<(usize, usize)>,
    /// Name, offset in the content, size.
    files: Vec<(&'static str, usize, usize)>,
}

impl Layer {
    fn new(files: &[(&'static str, &[u8])]) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut listed = Vec::new();
        for (name, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            let at = tar.get_ref().len() + 512;
            tar.append_data(&mut header, name, *content).unwrap();
            listed.push((*name, at, content.len()));
        }
        let content = tar.into_inner().unwrap();
        let mut layer = Self { content, gzip: Vec::new(), places: Vec::new(), files: listed };
        layer.compress();
        layer
    }

    /// What is before a full flush is not referred to behind it (zlib, `deflate`).
    fn compress(&mut self) {
        self.gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        let mut deflate = Compress::new(Compression::fast(), false);
        let mut crc = Crc::new();
        for (number, piece) in self.content.chunks(SPAN).enumerate() {
            self.places.push((self.gzip.len(), number * SPAN));
            crc.update(piece);
            let mut out = Vec::with_capacity(2 * SPAN);
            deflate.compress_vec(piece, &mut out, FlushCompress::Full).unwrap();
            self.gzip.extend(out);
        }
        let mut end = Vec::with_capacity(1024);
        deflate.compress_vec(&[], &mut end, FlushCompress::Finish).unwrap();
        self.gzip.extend(end);
        self.gzip.extend(crc.sum().to_le_bytes());
        self.gzip.extend(crc.amount().to_le_bytes());
    }

    fn ztoc(&self) -> Vec<u8> {
        let mut zinfo = u32::try_from(self.places.len()).unwrap().to_le_bytes().to_vec();
        zinfo.extend((SPAN as u64).to_le_bytes());
        for (blob, content) in &self.places {
            zinfo.extend((*blob as u64).to_le_bytes());
            zinfo.extend((*content as u64).to_le_bytes());
            zinfo.extend([0; 1 + (32 << 10)]);
        }
        let ends = self.places.iter().skip(1).map(|(blob, _)| *blob).chain([self.gzip.len()]);
        let spans = self.places.iter().zip(ends);
        let digests =
            spans.map(|((start, _), end)| Digest::of(&self.gzip[*start..end]).to_string());
        let length = |len: usize| number(i64::try_from(len).unwrap());
        let file = |(name, offset, size): &(&str, usize, usize)| {
            let nothing = || Field::None;
            vec![
                text(name),
                text("reg"),
                length(*offset),
                length(*size),
                text(""),
                number(0o644),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                text("1970-01-01T00:01:39Z"),
                nothing(),
                nothing(),
                Field::Tables(Vec::new()),
            ]
        };
        let compression = vec![
            Field::Number(vec![1]),
            Field::Number(i32::try_from(self.places.len() - 1).unwrap().to_le_bytes().to_vec()),
            Field::Strings(digests.collect()),
            Field::Bytes(zinfo),
        ];
        Writer::buffer(vec![
            text("0.9"),
            text("test"),
            length(self.gzip.len()),
            length(self.content.len()),
            Field::Table(vec![Field::Tables(self.files.iter().map(file).collect())]),
            Field::Table(compression),
        ])
    }

    /// Makes a layout with the layer's image and a table for it.
    fn write(&self, layout: &Path, table: &[u8]) {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |kind: &str, bytes: &[u8]| {
            let digest = Digest::of(bytes);
            fs::File::create(blobs.join(digest.hex())).unwrap().write_all(bytes).unwrap();
            json!({"mediaType": kind, "digest": digest.to_string(), "size": bytes.len()})
        };
        let put_json = |kind: &str, value: Value| put(kind, value.to_string().as_bytes());
        let layer = put("application/vnd.oci.image.layer.v1.tar+gzip", &self.gzip);
        let mut ztoc = put("application/octet-stream", table);
        ztoc["annotations"] = json!({"com.amazon.soci.image-layer-digest": layer["digest"]});
        let config = put_json("application/vnd.amazon.soci.index.v2+json", json!({}));
        let index = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [ztoc]});
        let index = put_json(MANIFEST, index);
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&self.content).to_string()]}});
        let config = put_json("application/vnd.oci.image.config.v1+json", config);
        let annotations = json!({"com.amazon.soci.index-digest": index["digest"]});
        let image = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
            "layers": [layer], "annotations": annotations});
        let image = put_json(MANIFEST, image);
        let list = json!({"schemaVersion": 2, "manifests": [image]}).to_string();
        fs::write(layout.join("index.json"), list).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

#[test]
fn a_layer_with_a_table_of_the_index_is_read_where_it_is_used() {
    let Some(registry) = Registry::start(false) else { return };
    let proxy = Proxy::start("127.0.0.1:0", registry.address(), Shape::default()).unwrap();
    let big: Vec<u8> =
        (0..2_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = Layer::new(&[("first", b"1"), ("big", &big), ("last", b"2")]);
    layer.write(&registry.path("layout"), &layer.ztoc());
    registry.ok("origin", &["push", "oci:layout", &registry.name("a:1")]);
    let name = format!("{}/a:1", proxy.address());
    let of_layer = format!("GET /v2/a/blobs/{}", Digest::of(&layer.gzip));
    // The second process knows the index and not the table.
    for (file, content) in [("/first", "1"), ("/last", "2")] {
        assert_eq!(registry.ok("lazy", &["cat", "--plain-http", &name, file]), content);
        let reads = proxy.seen(&of_layer);
        let bytes: u64 = reads.iter().map(|seen| seen.bytes).sum();
        assert!(reads.iter().all(|seen| seen.range.is_some()), "{reads:?}");
        assert!((1..layer.gzip.len() as u64 / 2).contains(&bytes), "{bytes} bytes");
    }
    let whole = registry.run("lazy", &["cat", "--plain-http", &name, "/big"]);
    assert!(whole.stdout == big, "{}", String::from_utf8_lossy(&whole.stderr));
    // With the layers in the store, and without the index.
    registry.ok("pulled", &["pull", "--plain-http", &name]);
    assert_eq!(registry.ok("pulled", &["cat", "--plain-http", &name, "/last"]), "2");
}

#[test]
fn a_table_that_makes_no_sense_leaves_the_layer_as_good_as_without() {
    let Some(registry) = Registry::start(false) else { return };
    let big: Vec<u8> = (0..600_000_u32).flat_map(|n| (n ^ n << 13).to_le_bytes()).collect();
    let layer = Layer::new(&[("big", &big)]);
    let table = layer.ztoc();
    // Each entry by itself is as good as any.
    let fights = Layer { files: vec![layer.files[0], ("big/below", 0, 1)], ..layer.clone() }.ztoc();
    let digest = Digest::of(&layer.gzip).to_string();
    let tables =
        [("junk", &b"no table"[..]), ("cut", &table[..table.len() - 40_000]), ("fights", &fights)];
    for (tag, broken) in tables {
        layer.write(&registry.path(tag), broken);
        let name = registry.name(&format!("a:{tag}"));
        registry.ok("origin", &["push", &format!("oci:{tag}"), &name]);
        for known in [false, true] {
            let cat = registry.run(tag, &["cat", "--plain-http", &name, "/big"]);
            let said = String::from_utf8(cat.stderr).unwrap();
            assert!(cat.stdout == big, "{said}");
            let warning =
                format!("warning: layer {digest} cannot be read in parts: its SOCI index");
            assert_eq!(said.contains(&warning), !known, "{said}");
        }
    }
}
