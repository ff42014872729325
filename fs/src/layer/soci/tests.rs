use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::blob::FileBlob;
use crate::digest::DiffId;
use crate::filesystem::{ImageFs, Ino};
use crate::layer::index::{LayerIndex, Summary, Xattr};
use crate::layer::scan::{LayerError, open_or_scan, scan};
use crate::layer::toc::fixture::{Memory, noise};
use crate::oci::Layer;
use crate::oci::manifest::{Descriptor, LAYER_GZIP, LAYER_TAR};
use crate::span;
use crate::sys::WINDOW;
use tables::{Field, Writer, number, text};

mod tables;

/// What the ztoc of a layer says.
#[derive(Clone)]
struct Said {
    version: &'static str,
    algorithm: Option<u8>,
    blob_len: i64,
    content_len: i64,
    digests: Vec<String>,
    zinfo: Vec<u8>,
    entries: Vec<File>,
    /// The first entry, so many times.
    repeated: Option<usize>,
}

/// An entry of a ztoc.
#[derive(Clone)]
struct File {
    kind: &'static str,
    name: String,
    link: &'static str,
    offset: i64,
    size: i64,
    mtime: &'static str,
    pax: Vec<(&'static str, &'static str)>,
}

impl Said {
    fn encode(&self) -> Vec<u8> {
        let file = |file: &File| {
            let pax = |(key, value): &(&str, &str)| vec![text(key), text(value)];
            vec![
                text(&file.name),
                text(file.kind),
                number(file.offset),
                number(file.size),
                text(file.link),
                number(0o644),
                Field::Number(7u32.to_le_bytes().to_vec()),
                Field::None,
                text("user"),
                Field::None,
                text(file.mtime),
                Field::None,
                Field::None,
                Field::Tables(file.pax.iter().map(pax).collect()),
            ]
        };
        let algorithm = self.algorithm.map_or(Field::None, |byte| Field::Number(vec![byte]));
        let last = i32::try_from(self.digests.len()).unwrap() - 1;
        let compression = vec![
            algorithm,
            Field::Number(last.to_le_bytes().to_vec()),
            Field::Strings(self.digests.clone()),
            Field::Bytes(self.zinfo.clone()),
        ];
        let entries = match self.repeated {
            Some(times) => Field::Repeated(file(&self.entries[0]), times),
            None => Field::Tables(self.entries.iter().map(file).collect()),
        };
        Writer::buffer(vec![
            text(self.version),
            text("test"),
            number(self.blob_len),
            number(self.content_len),
            Field::Table(vec![entries]),
            Field::Table(compression),
        ])
    }
}

/// A gzip layer, and a ztoc made from what a scan of it found.
struct Fixture {
    dir: TempDir,
    layer: Layer,
    blob: Arc<Memory>,
    said: Said,
    content: Vec<u8>,
    whole: LayerIndex,
}

const FILES: [(&str, usize); 3] = [("big", 5 << 20), ("small", 5), ("dir/\u{e9}", 100_000)];

fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, size) in FILES {
        let mut header = tar::Header::new_ustar();
        header.set_size(size as u64);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_mtime(99);
        let content: Vec<u8> = noise(size).into_iter().map(|byte| byte & 0x3f).collect();
        tar.append_data(&mut header, name, &content[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(data: &[u8], builder: flate2::GzBuilder) -> Vec<u8> {
    let mut encoder = builder.write(Vec::new(), flate2::Compression::new(6));
    io::Write::write_all(&mut encoder, data).unwrap();
    encoder.finish().unwrap()
}

impl Fixture {
    fn new() -> Self {
        Self::with_header(flate2::GzBuilder::new())
    }

    fn with_header(header: flate2::GzBuilder) -> Self {
        let content = tar();
        let bytes = gzip(&content, header);
        let blob = Arc::new(Memory { bytes, reads: Default::default() });
        let layer = Layer {
            descriptor: Descriptor::of(LAYER_GZIP, &blob.bytes),
            diff_id: DiffId::new(Digest::of(&content)),
            blob: blob.clone(),
            ztoc: None,
        };
        let dir = tempfile::tempdir().unwrap();
        let whole = scan(&layer, dir.path(), &|_| ()).unwrap();
        let said = Said {
            version: "0.9",
            algorithm: Some(1),
            blob_len: i64::try_from(blob.bytes.len()).unwrap(),
            content_len: i64::try_from(content.len()).unwrap(),
            digests: digests(&whole, &blob.bytes),
            zinfo: zinfo(&whole, 0),
            entries: entries(&whole),
            repeated: None,
        };
        Self { dir, layer, blob, said, content, whole }
    }

    /// The layer with a ztoc of these bytes.
    fn layer(&self, ztoc: Vec<u8>) -> Layer {
        let descriptor = Descriptor::of("application/octet-stream", &ztoc);
        let blob = Arc::new(Memory { bytes: ztoc, reads: Default::default() });
        Layer { ztoc: Some(Ztoc { descriptor, blob }), ..self.layer.clone() }
    }

    fn open(&self, said: &Said) -> Result<(TempDir, LayerIndex), LayerError> {
        let dir = tempfile::tempdir().unwrap();
        let index = open_or_scan(&self.layer(said.encode()), dir.path(), &|_| ())?;
        Ok((dir, index))
    }

    /// What is wrong with a ztoc; the layer is read whole then.
    fn error(&self, change: impl Fn(&mut Said)) -> TocError {
        let mut said = self.said.clone();
        change(&mut said);
        let (_dir, index) = self.open(&said).unwrap();
        assert_eq!(index.id().toc, None);
        let mut builder = IndexBuilder::new(self.dir.path()).unwrap();
        index_buffer(&said.encode(), self.blob.as_ref(), &mut builder).unwrap_err()
    }
}

fn zinfo(index: &LayerIndex, skipped: usize) -> Vec<u8> {
    let count = index.span_count();
    let mut zinfo = u32::try_from(count).unwrap().to_le_bytes().to_vec();
    zinfo.extend((1u64 << 20).to_le_bytes());
    for number in skipped..count {
        let span = index.span(number).unwrap();
        let mut window = match index.window(number).unwrap() {
            [] => Vec::new(),
            packed => ::zstd::bulk::decompress(packed, WINDOW).unwrap(),
        };
        window.splice(0..0, vec![0; WINDOW - window.len()]);
        zinfo.extend(span.blob_offset.to_le_bytes());
        zinfo.extend(span.content_offset.to_le_bytes());
        zinfo.push(span.bits);
        zinfo.extend(window);
    }
    zinfo
}

fn digests(index: &LayerIndex, blob: &[u8]) -> Vec<String> {
    let count = index.span_count();
    let place = |number| usize::try_from(index.span(number).unwrap().blob_offset).unwrap();
    let digest = |number| {
        let before = usize::from(index.span(number).unwrap().bits > 0);
        let end = if number + 1 < count { place(number + 1) } else { blob.len() };
        Digest::of(&blob[place(number) - before..end]).to_string()
    };
    (0..count).map(digest).collect()
}

fn entries(index: &LayerIndex) -> Vec<File> {
    let file = |(number, (name, _)): (usize, (&str, usize))| {
        let entry = index.entry(number).unwrap();
        let extent = index.extents(&entry).unwrap().next().unwrap();
        File {
            kind: "reg",
            name: name.to_owned(),
            link: "",
            offset: i64::try_from(extent.content_offset).unwrap(),
            size: i64::try_from(entry.size).unwrap(),
            mtime: "1970-01-01T00:01:39Z",
            pax: Vec::new(),
        }
    };
    FILES.into_iter().enumerate().map(file).collect()
}

/// All of the content, each span decoded alone.
fn content(index: &LayerIndex, blob: &dyn BlobSource) -> Vec<u8> {
    let spans = 0..index.span_count();
    spans.flat_map(|number| span::decode(index, blob, number).unwrap()).collect()
}

#[test]
fn a_ztoc_says_what_a_scan_finds_without_a_look_at_the_blob() {
    let fixture = Fixture::new();
    assert!(fixture.whole.span_count() >= 4 && fixture.whole.span(1).unwrap().bits > 0);
    fixture.blob.reads.lock().unwrap().clear();
    let (_dir, index) = fixture.open(&fixture.said).unwrap();
    assert!(fixture.blob.reads.lock().unwrap().is_empty());
    assert!(content(&index, fixture.blob.as_ref()) == fixture.content);
    for number in 0..FILES.len() {
        let (by_scan, by_ztoc) =
            (fixture.whole.entry(number).unwrap(), index.entry(number).unwrap());
        assert_eq!((by_scan.path, by_scan.size), (by_ztoc.path, by_ztoc.size));
        assert_eq!((by_scan.mode, by_scan.uid), (by_ztoc.mode, by_ztoc.uid));
        assert_eq!(by_scan.mtime, by_ztoc.mtime);
        let extents = [(&fixture.whole, by_scan), (&index, by_ztoc)]
            .map(|(index, entry)| index.extents(&entry).unwrap().collect::<Vec<_>>());
        assert_eq!(extents[0], extents[1]);
    }
    // An index of the whole blob is as good.
    let layer = fixture.layer(fixture.said.encode());
    let index = open_or_scan(&layer, fixture.dir.path(), &|_| panic!("it was read")).unwrap();
    assert_eq!(index.id().toc, None);
}

#[test]
fn entries_of_all_kinds() {
    let fixture = Fixture::new();
    let mut said = fixture.said.clone();
    for (kind, link) in [("dir", ""), ("symlink", "../x"), ("hardlink", "big"), ("fifo", "")] {
        let mut file = said.entries[1].clone();
        // What a tar header says of the size of such has no meaning.
        (file.kind, file.link, file.name, file.size) = (kind, link, format!("./{kind}/"), 1 << 40);
        file.pax = vec![("SCHILY.xattr.user.b", "2"), ("path", "x"), ("SCHILY.xattr.user.a", "")];
        said.entries.push(file);
    }
    let (_dir, index) = fixture.open(&said).unwrap();
    for (number, name) in (3..).zip(["dir", "symlink", "hardlink", "fifo"]) {
        let entry = index.entry(number).unwrap();
        assert_eq!((entry.path, entry.size), (name.as_bytes(), 0));
        let xattrs: [Xattr<'_>; 2] = [(b"user.a", b""), (b"user.b", b"2")];
        assert_eq!(index.xattrs(&entry).unwrap(), xattrs);
        assert_eq!(index.extents(&entry).unwrap().count(), 0);
    }
    assert_eq!(index.entry(4).unwrap().link, b"../x");
}

#[test]
fn the_first_version_leaves_out_the_first_checkpoint() {
    let fixture = Fixture::new();
    let mut said = fixture.said.clone();
    said.zinfo = zinfo(&fixture.whole, 1);
    let (_dir, index) = fixture.open(&said).unwrap();
    assert!(index.id().toc.is_some());
    assert!(content(&index, fixture.blob.as_ref()) == fixture.content);
    // With a name in the gzip header, the checkpoint would be in its middle.
    let fixture = Fixture::with_header(flate2::GzBuilder::new().filename("name"));
    let mut said = fixture.said.clone();
    let (_dir, index) = fixture.open(&said).unwrap();
    assert!(index.id().toc.is_some());
    assert!(content(&index, fixture.blob.as_ref()) == fixture.content);
    said.zinfo = zinfo(&fixture.whole, 1);
    let (_dir, index) = fixture.open(&said).unwrap();
    assert_eq!(index.id().toc, None, "it is read whole");
}

#[test]
fn what_is_not_understood_is_read_whole() {
    let fixture = Fixture::new();
    let changes: [fn(&mut Said); 4] = [
        |said| said.version = "1.0",
        |said| said.algorithm = Some(2),
        |said| said.entries[1].pax = vec![("GNU.sparse.major", "1")],
        // One span for all, of more than memory should hold.
        |said| {
            said.content_len = 200 << 20;
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut said = fixture.said.clone();
        change(&mut said);
        let (_dir, index) = fixture.open(&said).unwrap();
        assert_eq!(index.id().toc, None, "{number}");
    }
}

#[test]
fn a_ztoc_that_makes_no_sense() {
    let fixture = Fixture::new();
    let changes: [fn(&mut Said); 12] = [
        |said| said.blob_len += 1,
        |said| said.blob_len = -1,
        |said| said.content_len = 1 << 20,
        |said| _ = said.digests.pop(),
        |said| said.digests[0] = "sha256:12".into(),
        |said| said.zinfo.truncate(1000),
        |said| said.zinfo.clear(),
        |said| said.zinfo[0] += 2,
        // The second checkpoint: before the first, beyond the blob, too many bits.
        |said| said.zinfo[12 + 17 + WINDOW..][..8].fill(0),
        |said| said.zinfo[12 + 17 + WINDOW..][..8].fill(0x7f),
        |said| said.zinfo[12 + 17 + WINDOW + 16] = 8,
        |said| said.entries[0].mtime = "yesterday",
    ];
    for (number, change) in changes.iter().enumerate() {
        let error = fixture.error(change);
        assert!(matches!(error, TocError::Ztoc(_)), "{number}: {error}");
    }
    let changes: [fn(&mut File); 4] = [
        |file| file.kind = "socket",
        |file| file.name = "../x".into(),
        |file| file.offset = i64::MAX - 5,
        |file| file.size = 1 << 40,
    ];
    for (number, change) in changes.iter().enumerate() {
        let error = fixture.error(|said| change(&mut said.entries[1]));
        assert!(matches!(error, TocError::Entry { .. }), "{number}: {error}");
    }
}

#[test]
fn a_ztoc_that_is_not_the_one_of_the_manifest_or_cannot_be_read() {
    let fixture = Fixture::new();
    let mut layer = fixture.layer(fixture.said.encode());
    let ztoc = layer.ztoc.as_mut().unwrap();
    ztoc.descriptor.digest = Digest::of(b"other");
    let error = read(ztoc).unwrap_err();
    assert!(matches!(error, TocError::Mismatch(_)), "{error}");
    assert!(error.to_string().contains(&Digest::of(b"other").to_string()), "{error}");
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open_or_scan(&layer, dir.path(), &|_| ()).unwrap().id().toc, None);
    let mut layer = fixture.layer(fixture.said.encode());
    let missing = dir.path().join("missing");
    let gone = FileBlob::range(std::fs::File::create(&missing).unwrap(), &missing, 0, 100);
    layer.ztoc.as_mut().unwrap().blob = Arc::new(gone);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open_or_scan(&layer, dir.path(), &|_| ()).unwrap().id().toc, None);
}

/// The names in the root of layers.
fn names(layers: &[Layer]) -> Vec<String> {
    let (indexes, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = || {
        let options = Default::default();
        ImageFs::open_over(layers, indexes.path(), work.path(), &mut |_| None, options).unwrap()
    };
    let names = |fs: ImageFs| {
        let entry = |at| fs.entry_at(Ino::ROOT, at).unwrap();
        let names = (0..).map_while(entry).map(|entry| entry.name.escape_ascii().to_string());
        names.collect::<Vec<_>>()
    };
    let found = names(open());
    assert_eq!(names(open()), found, "with the indexes of the first time");
    found
}

#[test]
fn entries_that_do_not_fit_together_leave_the_layer_as_good_as_without() {
    let fixture = Fixture::new();
    let changes: [fn(&mut Said); 3] = [
        |said| said.entries[1].name = "big/small".into(),
        |said| (said.entries[1].kind, said.entries[1].link) = ("hardlink", "nothing"),
        |said| said.entries[1].name = ".wh.".into(),
    ];
    for change in changes {
        let mut said = fixture.said.clone();
        change(&mut said);
        assert!(fixture.open(&said).unwrap().1.id().toc.is_some(), "it passes by itself");
        assert_eq!(names(&[fixture.layer(said.encode())]), ["big", "dir", "small"]);
    }
}

#[test]
fn a_file_that_only_a_ztoc_lacks_is_there_for_the_layers_above() {
    let fixture = Fixture::new();
    let mut said = fixture.said.clone();
    said.entries.remove(1);
    let mut link = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    link.append_link(&mut header, "link", "small").unwrap();
    let bytes = link.into_inner().unwrap();
    let above = Layer {
        descriptor: Descriptor::of(LAYER_TAR, &bytes),
        diff_id: DiffId::new(Digest::of(&bytes)),
        blob: Arc::new(Memory { bytes, reads: Default::default() }),
        ztoc: None,
    };
    let layers = [fixture.layer(said.encode()), above];
    assert_eq!(names(&layers[..1]), ["big", "dir"], "nothing says that one lacks");
    assert_eq!(names(&layers), ["big", "dir", "link", "small"]);
}

#[test]
fn stored_bytes_that_are_not_those_of_the_ztoc() {
    let fixture = Fixture::new();
    let (_dir, index) = fixture.open(&fixture.said).unwrap();
    let mut bytes = fixture.blob.bytes.clone();
    let second = index.span(1).unwrap();
    let at = usize::try_from(second.blob_offset).unwrap();
    bytes[at + 10] ^= 1;
    let blob = Memory { bytes, reads: Default::default() };
    let error = span::decode(&index, &blob, 1).unwrap_err().to_string();
    assert!(error.contains(&format!("at byte {at} of it")), "{error}");
    assert!(error.contains(&fixture.said.digests[1]), "{error}");
    assert!(span::decode(&index, &blob, 0).is_ok() && span::decode(&index, &blob, 2).is_ok());
}

#[test]
fn parts_that_are_used_again_and_again_are_refused() {
    let fixture = Fixture::new();
    let error = fixture.error(|said| {
        said.entries[0].name = ["n".repeat(250), "n".repeat(250)].join("/");
        said.repeated = Some(1 << 20);
    });
    assert!(matches!(error, TocError::Ztoc("its parts overlap")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_ztoc_gives_an_error_or_an_index(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        // Checkpoints are most of a ztoc, and not what damage is wanted in.
        static SMALL: OnceLock<(Vec<u8>, Arc<Memory>, Vec<u8>)> = OnceLock::new();
        let (ztoc, blob, content) = SMALL.get_or_init(|| {
            let Fixture { mut said, blob, content, whole, .. } = Fixture::new();
            let second = usize::try_from(whole.span(1).unwrap().content_offset).unwrap();
            said.zinfo = [&1u32.to_le_bytes()[..], &[0; 8]].concat();
            said.digests = vec![Digest::of(&blob.bytes[10..]).to_string()];
            assert!(second > 0);
            (said.encode(), blob, content)
        });
        let mut ztoc = ztoc.clone();
        for (at, flip) in damage {
            let at = at.index(ztoc.len());
            ztoc[at] ^= flip;
        }
        if let Some(cut) = cut {
            ztoc.truncate(cut.index(ztoc.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        let mut builder = IndexBuilder::new(dir.path()).unwrap();
        if index_buffer(&ztoc, blob.as_ref(), &mut builder).is_ok() {
            let summary = Summary {
                digest: Digest::of(b""),
                diff_id: DiffId::new(Digest::of(b"")),
                toc: None,
                blob_len: 0,
                content_len: 0,
            };
            let index = builder.finish(&summary).unwrap();
            for number in 0..index.span_count() {
                if let Ok(found) = span::decode(&index, blob.as_ref(), number) {
                    prop_assert!(content.starts_with(&found));
                }
            }
        }
    }
}
