//! Layers with a table of contents, held against the reader of tables and against the formats as
//! they are described.

use std::collections::HashMap;

use super::*;
use crate::digest::Digest;
use crate::layer::tar::TarReader;
use crate::layer::toc::footer::{self, Footer, Position};
use crate::layer::toc::{ESTARGZ_TOC_DIGEST, ESTARGZ_UNCOMPRESSED_SIZE, FIRST_BYTES, TocEntry};

const TABLES: [Compression; 2] = [Compression::ZstdChunked(3), Compression::Estargz(6)];

/// Entries of every kind, all with names that a table can have; zeros in several places.
fn tellable() -> Vec<(Entry, Vec<u8>)> {
    let mut entries = sample();
    let (mut odd, _) = entries.pop().unwrap();
    odd.path = "long/".repeat(40).trim_end_matches('/').into();
    odd.kind = Kind::Directory;
    odd.size = 0;
    odd.mtime = Timestamp { seconds: -2, nanos: 5 };
    entries.push((odd, Vec::new()));
    let mut holes = noise(3 << 20, 77);
    holes[..5000].fill(0);
    holes[1_000_000..2_500_000].fill(0);
    holes[3_000_000..].fill(0);
    entries.push((entry("holes", Kind::File, holes.len()), holes));
    entries.push((entry("zeros", Kind::File, 200_000), vec![0; 200_000]));
    entries.push((entry("a/.wh.b", Kind::File, 0), Vec::new()));
    entries
}

fn write_all(dir: &Path, compression: Compression, entries: &[(Entry, Vec<u8>)]) -> NewLayer {
    let mut writer = LayerWriter::with_workers(dir, dir, compression, 2).unwrap();
    for (entry, content) in entries {
        writer.append(entry, &mut &content[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn blob_of(new: &NewLayer) -> Vec<u8> {
    std::fs::read(new.blob.path()).unwrap()
}

/// The tar stream as tools see it that know of no table.
fn stream_of(compression: Compression, blob: &[u8]) -> Vec<u8> {
    match compression.coder() {
        Coder::Zstd(_) => zstd::decode_all(blob).unwrap(),
        Coder::Gzip(_) => gunzip(blob),
        Coder::None => blob.to_vec(),
    }
}

fn gunzip(blob: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut stream).unwrap();
    stream
}

fn at(blob: &[u8], position: Position) -> &[u8] {
    let start = usize::try_from(position.offset).unwrap();
    &blob[start..start + usize::try_from(position.len).unwrap()]
}

/// The table, by way of the footer, as JSON.
fn table(compression: Compression, new: &NewLayer) -> serde_json::Value {
    let blob = blob_of(new);
    let annotations = &new.descriptor.annotations;
    match footer::parse(&blob, blob.len() as u64).unwrap() {
        Footer::ZstdChunked(position) => {
            let key =
                |name: &str| &annotations[&format!("io.github.containers.zstd-chunked.{name}")];
            let packed = at(&blob, position);
            assert_eq!(*key("manifest-checksum"), Digest::of(packed).to_string());
            let Position { offset, len, uncompressed_len } = position;
            let expected = format!("{offset}:{len}:{uncompressed_len}:1");
            assert_eq!(*key("manifest-position"), expected);
            let json = zstd::decode_all(packed).unwrap();
            assert_eq!(json.len() as u64, uncompressed_len);
            serde_json::from_slice(&json).unwrap()
        }
        Footer::Estargz { toc_offset, footer_offset } => {
            let member =
                usize::try_from(toc_offset).unwrap()..usize::try_from(footer_offset).unwrap();
            let tail = gunzip(&blob[member]);
            let stream = stream_of(compression, &blob);
            assert!(stream.ends_with(&tail));
            assert_eq!(annotations[ESTARGZ_UNCOMPRESSED_SIZE], stream.len().to_string());
            let mut tar = TarReader::new(&tail[..]);
            let entry = tar.next_member().unwrap().unwrap().entry;
            assert_eq!(entry.path, b"stargz.index.json");
            let json = &tail[512..512 + usize::try_from(entry.size).unwrap()];
            assert_eq!(annotations[ESTARGZ_TOC_DIGEST], Digest::of(json).to_string());
            assert!(tail.ends_with(&[0; 1024]));
            serde_json::from_slice(json).unwrap()
        }
        Footer::External => panic!("external"),
    }
}

fn entries_of(table: &serde_json::Value) -> Vec<TocEntry> {
    serde_json::from_value(table["entries"].clone()).unwrap()
}

/// Puts the contents of all files together from their chunks, each of which is decoded alone.
fn contents(
    compression: Compression,
    blob: &[u8],
    entries: &[TocEntry],
) -> HashMap<String, Vec<u8>> {
    let mut found = HashMap::<_, Vec<u8>>::new();
    let mut digests = HashMap::new();
    for (number, entry) in entries.iter().enumerate() {
        if entry.kind == "reg" {
            digests.insert(entry.name.clone(), (entry.digest.clone(), entry.size));
            found.insert(entry.name.clone(), Vec::new());
        }
        if entry.offset == 0 {
            continue;
        }
        let file = found.get_mut(&entry.name).unwrap();
        let size = digests[&entry.name].1;
        assert_eq!(entry.chunk_offset, file.len() as u64);
        let len = if entry.chunk_size == 0 { size - entry.chunk_offset } else { entry.chunk_size };
        let next = entries[number + 1..].iter().map(|entry| entry.offset).find(|at| *at > 0);
        let end = usize::try_from(next.unwrap_or(blob.len() as u64)).unwrap();
        let stored = &blob[usize::try_from(entry.offset).unwrap()..end];
        let chunk = match compression.coder() {
            Coder::Zstd(_) => crate::layer::zstd::decode(stored, usize::try_from(len).unwrap()),
            _ => {
                let mut chunk = vec![0; usize::try_from(len).unwrap()];
                flate2::read::GzDecoder::new(stored).read_exact(&mut chunk).map(|()| chunk)
            }
        };
        let chunk = chunk.unwrap();
        if !entry.chunk_digest.is_empty() {
            assert_eq!(entry.chunk_digest, Digest::of(&chunk).to_string());
        }
        if entry.chunk_type == "zeros" {
            assert!(chunk.iter().all(|byte| *byte == 0));
        }
        file.extend(chunk);
    }
    for (name, content) in &found {
        let (digest, size) = &digests[name];
        assert_eq!(*size, content.len() as u64);
        if !digest.is_empty() {
            assert_eq!(*digest, Digest::of(content).to_string(), "{name}");
        }
    }
    found
}

#[test]
fn every_file_is_found_by_the_table() {
    for compression in TABLES {
        let dir = tempfile::tempdir().unwrap();
        let new = write_all(dir.path(), compression, &tellable());
        assert_eq!(new.plain, None);
        let blob = blob_of(&new);
        let entries = entries_of(&table(compression, &new));
        let found = contents(compression, &blob, &entries);
        let files = tellable().into_iter().filter(|(entry, _)| entry.kind == Kind::File);
        for (entry, content) in files {
            let name = String::from_utf8(entry.path).unwrap();
            assert!(found[&name] == content, "{name}");
        }
        let zeros = entries.iter().filter(|entry| entry.chunk_type == "zeros").count();
        assert_eq!(zeros, if compression == TABLES[0] { 4 } else { 0 });
        let stream = stream_of(compression, &blob);
        assert_eq!(new.diff_id, DiffId::new(Digest::of(&stream)));
        let mut tar = TarReader::new(&stream[..]);
        let count = std::iter::from_fn(|| tar.next_member().unwrap()).count();
        // eStargz has its table and a landmark in the stream.
        assert_eq!(count, tellable().len() + if compression == TABLES[0] { 0 } else { 2 });
    }
}

#[test]
fn the_index_is_the_one_that_the_table_makes() {
    for compression in TABLES {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let new = write_all(dir.path(), compression, &tellable());
        let layer = stored(&new);
        let read = scan::open_or_scan(&layer, other.path(), &|_| ()).unwrap();
        assert!(read.summary().toc.is_some());
        assert_eq!(new.index.summary(), read.summary());
        assert_eq!(listing(&new.index), listing(&read));
        assert_eq!(new.index.span_count(), read.span_count());
        for number in 0..read.span_count() {
            assert_eq!(new.index.span(number).unwrap(), read.span(number).unwrap());
        }
        // Each span decodes to what its digest says.
        let content = content(&layer, &new.index);
        assert_eq!(content.len() as u64, new.index.summary().content_len);
        // And it is found again without another look.
        let again = scan::open_or_scan(&layer, dir.path(), &|_| panic!("read again")).unwrap();
        assert_eq!(again.span_count(), read.span_count());
    }
}

#[test]
fn the_tar_stream_can_be_made_again() {
    use base64::Engine as _;
    let dir = tempfile::tempdir().unwrap();
    let new = write_all(dir.path(), TABLES[0], &tellable());
    let blob = blob_of(&new);
    let table = table(TABLES[0], &new);
    let contents = contents(TABLES[0], &blob, &entries_of(&table));
    let position =
        &new.descriptor.annotations["io.github.containers.zstd-chunked.tarsplit-position"];
    let position = Position::parse(position).unwrap();
    let packed = at(&blob, position);
    assert_eq!(table["tarSplitDigest"], Digest::of(packed).to_string());
    let lines = zstd::decode_all(packed).unwrap();
    assert_eq!(lines.len() as u64, position.uncompressed_len);
    let mut stream = Vec::new();
    let mut names = Vec::new();
    for (number, line) in lines.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let line: serde_json::Value = serde_json::from_slice(line).unwrap();
        assert_eq!(line["position"], number);
        if line["type"] == 2 {
            let payload = line["payload"].as_str().unwrap();
            let bytes = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
            // Each has the headers of one entry, which is what readers expect.
            let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
            let mut tar = TarReader::new(&bytes[start..]);
            assert_eq!(tar.next_member().unwrap().is_some(), start < bytes.len());
            stream.extend(bytes);
            continue;
        }
        let name = line["name"].as_str().unwrap();
        names.push(name.to_owned());
        if let Some(size) = line["size"].as_u64() {
            assert_eq!(size, contents[name].len() as u64);
            let mut crc = super::super::tar_split::Crc64::new();
            crc.update(&contents[name]);
            let sum = base64::engine::general_purpose::STANDARD.encode(crc.sum().to_be_bytes());
            assert_eq!(line["payload"], sum);
            stream.extend(&contents[name]);
        }
    }
    assert_eq!(new.diff_id, DiffId::new(Digest::of(&stream)));
    let expected: Vec<_> =
        entries_of(&table).into_iter().filter(|entry| entry.kind != "chunk").collect();
    assert_eq!(names, expected.into_iter().map(|entry| entry.name).collect::<Vec<_>>());
}

#[test]
fn what_a_table_cannot_tell_makes_a_plain_layer() {
    let late = Timestamp { seconds: 1 << 40, nanos: 0 };
    let named = |path: &[u8]| Entry { path: path.to_vec(), ..entry("", Kind::File, 70_000) };
    let target = Kind::Symlink(b"\xff".to_vec());
    let xattrs = vec![(b"user.\xff".to_vec(), Vec::new())];
    let cases = [
        (named(b"\xff"), "/\\xff has a name that is not UTF-8"),
        (entry("l", target, 0), "/l has a name that is not UTF-8"),
        (Entry { xattrs, ..entry("x", Kind::Fifo, 0) }, "/x has a name that is not UTF-8"),
        (named(b"n513"), "/n513 is there twice"),
        (Entry { mtime: late, ..entry("t", Kind::Fifo, 0) }, "/t has a time beyond the year 9999"),
    ];
    for (case, expected) in cases {
        for compression in TABLES {
            let dir = tempfile::tempdir().unwrap();
            let mut entries = tellable();
            entries.retain(|(entry, _)| entry.size <= 70_000);
            entries.insert(13, (case.clone(), noise(70_000, 5)));
            let new = write_all(dir.path(), compression, &entries);
            let plain = new.plain.as_ref().unwrap().to_string();
            assert_eq!(plain, format!("no table of contents can be made: {expected}"));
            assert!(new.descriptor.annotations.is_empty());
            assert_eq!(new.index.summary().toc, None);
            let blob = blob_of(&new);
            assert_eq!(footer::parse(&blob, blob.len() as u64), None);
            let stream = stream_of(compression, &blob);
            assert_eq!(new.diff_id, DiffId::new(Digest::of(&stream)));
            assert!(stream.ends_with(&[0; 1024]));
            let mut tar = TarReader::new(&stream[..]);
            let names = std::iter::from_fn(|| tar.next_member().unwrap()).count();
            assert_eq!(names, entries.len());
            // Its index is good all the same.
            assert_eq!(new.index.len(), entries.len());
            content(&stored(&new), &new.index);
        }
    }
}

#[test]
fn prioritized_files_end_with_a_landmark() {
    let dir = tempfile::tempdir().unwrap();
    let names = |compression| {
        let mut writer = LayerWriter::create(dir.path(), dir.path(), compression).unwrap();
        writer.append(&entry("hot", Kind::File, 3), &mut &b"hot"[..]).unwrap();
        writer.end_of_prioritized().unwrap();
        writer.append(&entry("cold", Kind::File, 4), &mut &b"cold"[..]).unwrap();
        let new = writer.finish().unwrap();
        assert_eq!(new.index.len(), 2);
        let first = new.index.first_len();
        let start = |span| new.index.span(span).unwrap().blob_offset;
        assert!(start(0) < first && first <= start(1), "{first}");
        // A reader of the table finds the same.
        let descriptor = &new.descriptor;
        let noted = descriptor.annotations.get(FIRST_BYTES).map(|text| text.parse().unwrap());
        assert_eq!(noted, (compression == TABLES[0]).then_some(first));
        let indexes = tempfile::tempdir().unwrap();
        let index = scan::open_or_scan(&stored(&new), indexes.path(), &|_| ()).unwrap();
        assert_eq!((index.id(), index.first_len()), (new.index.id(), first));
        let entries = entries_of(&table(compression, &new));
        entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>()
    };
    assert_eq!(names(TABLES[0]), ["hot", "cold"]);
    assert_eq!(names(TABLES[1]), ["hot", ".prefetch.landmark", "cold"]);
}

#[test]
fn members_of_another_stream_stay_as_they_are() {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (name, content) in [("./a", &b"abc"[..]), ("b", &[7; 70_000]), ("./a/", b"")] {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_username("someone").unwrap();
        header.set_mode(0o100_644);
        builder.append_data(&mut header, name, content).unwrap();
    }
    let tar = builder.into_inner().unwrap();
    for compression in [TABLES[0], PLAIN[0], PLAIN[1], PLAIN[2]] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LayerWriter::create(dir.path(), dir.path(), compression).unwrap();
        let mut reader = TarReader::new(&tar[..]);
        let mut at = 0;
        while let Some(member) = reader.next_member().unwrap() {
            let start = tar.len() - reader.input_mut().len();
            let end = start + usize::try_from(member.stored).unwrap();
            writer.append_stored(&tar[at..start], &member, &mut &tar[start..end]).unwrap();
            at = end;
        }
        writer.append_trailer(&tar[at..]).unwrap();
        let new = writer.finish_as_is().unwrap();
        assert_eq!(new.diff_id, DiffId::new(Digest::of(&tar)), "{compression:?}");
        assert!(stream_of(compression, &blob_of(&new)) == tar);
    }
}
