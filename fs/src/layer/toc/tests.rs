//! Layers with tables of contents, right and wrong, from blob to content.

use proptest::prelude::*;
use tempfile::TempDir;

use super::error::{EntryProblem, TocError};
use super::fixture::{Encoded, Encoder, FORMS, Form, noise, pack, xattrs};
use super::*;
use crate::blob::BlobSource;
use crate::digest::{Found, Mismatch};
use crate::layer::index::{EntryView, LayerIndex, ViewKind};
use crate::layer::scan::{LayerError, open_or_scan};
use crate::layer::tar::Problem;
use crate::oci::Layer;
use crate::span::{self, SpanError};
use crate::tree;

fn open(layer: &Layer) -> Result<(TempDir, LayerIndex), LayerError> {
    let dir = tempfile::tempdir().unwrap();
    let index = open_or_scan(layer, dir.path(), &|_| ())?;
    Ok((dir, index))
}

fn toc_error(encoded: &Encoded) -> TocError {
    match open(&encoded.layer().0) {
        Err(LayerError::Toc { source, .. }) => source,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    }
}

/// What is wrong with the entry of this name.
fn entry_problem(encoder: Encoder, wanted: &str) -> EntryProblem {
    match toc_error(&encoder.finish()) {
        TocError::Entry { name, what } if name == wanted => what,
        other => panic!("{other}"),
    }
}

fn content(index: &LayerIndex, blob: &dyn BlobSource, entry: &EntryView<'_>) -> Vec<u8> {
    let mut content = vec![0; usize::try_from(entry.size).unwrap()];
    for extent in index.extents(entry).unwrap() {
        let (mut at, end) = (extent.content_offset, extent.content_offset + extent.len);
        while at < end {
            let number = index.span_at(at).unwrap();
            let span = index.span(number).unwrap();
            let data = span::decode(index, blob, number).unwrap();
            let from = usize::try_from(at - span.content_offset).unwrap();
            let n = data.len().min(usize::try_from(end - at).unwrap() + from) - from;
            let to = usize::try_from(extent.file_offset + at - extent.content_offset).unwrap();
            content[to..to + n].copy_from_slice(&data[from..from + n]);
            at += n as u64;
        }
    }
    content
}

/// All that an index says of its entries, with the digests of files' contents.
fn listing(index: &LayerIndex, blob: &dyn BlobSource) -> Vec<String> {
    let line = |number| {
        let entry = index.entry(number).unwrap();
        let EntryView { path, kind, link, mode, uid, gid, mtime, size, device, .. } = entry;
        let digest = Digest::of(&content(index, blob, &entry)).short();
        let (path, link) = (path.escape_ascii(), link.escape_ascii());
        let xattrs = index.xattrs(&entry).unwrap();
        format!(
            "{path} {kind:?} {link} {mode:o} {uid} {gid} {mtime:?} {size} {device:?} {xattrs:?} \
             {digest}"
        )
    };
    (0..index.len()).map(line).collect()
}

#[test]
fn the_table_says_what_the_tar_stream_says() {
    for form in FORMS {
        let encoded = Encoder::sample(form).finish();
        let (layer, blob) = encoded.layer();
        let (_dir, by_table) = open(&layer).unwrap();
        let read: usize = blob.reads.lock().unwrap().iter().map(|(_, len)| len).sum();
        assert_eq!(blob.reads.lock().unwrap().len(), 1, "{form:?}: of a table one request");
        assert!(form == Form::Estargz || read < 2000, "{form:?}: {read} bytes");
        let mut plain = encoded.layer().0;
        plain.descriptor.annotations.clear();
        let (_dir, whole) = open(&plain).unwrap();
        let mut expected = listing(&whole, blob.as_ref());
        expected.retain(|line| !line.starts_with(ESTARGZ_TOC_NAME));
        assert_eq!(listing(&by_table, blob.as_ref()), expected, "{form:?}");
        assert_eq!(by_table.id().toc.is_some(), whole.id().toc.is_none());
    }
}

#[test]
fn what_only_a_table_has() {
    let mut encoder = Encoder::new(Form::Estargz);
    for name in [PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK, "d/.prefetch.landmark"] {
        encoder.file(name, LANDMARK_CONTENT, 10);
    }
    encoder.other("fifo", "dev", "");
    let entry = encoder.named("dev");
    entry.kind = "char".into();
    (entry.dev_major, entry.dev_minor, entry.gid) = (1, 3, u64::from(u32::MAX));
    (entry.mode, entry.mtime) = (0o100_644, None);
    entry.xattrs = xattrs(&[("user.a", b"\0"), ("security.b", b"")]);
    encoder.other("fifo", "old", "");
    let zero = serde_json::from_str(r#""0001-01-01T00:00:00Z""#).unwrap();
    encoder.named("old").mtime = Some(zero);
    let (layer, blob) = encoder.finish().layer();
    let (_dir, index) = open(&layer).unwrap();
    let names: Vec<_> = (0..index.len()).map(|n| index.entry(n).unwrap().path).collect();
    assert_eq!(names, [&b"d/.prefetch.landmark"[..], b"dev", b"old"], "landmarks do not show");
    let device = index.entry(1).unwrap();
    assert_eq!((device.kind, device.mode), (ViewKind::CharDevice, 0o644));
    assert_eq!((device.device.major, device.device.minor, device.gid), (1, 3, u32::MAX));
    let expected = [(&b"security.b"[..], &b""[..]), (b"user.a", b"\0")];
    assert_eq!(index.xattrs(&device).unwrap(), expected);
    assert_eq!(device.mtime, Timestamp::default());
    assert_eq!(index.entry(2).unwrap().mtime, Timestamp::default());
    assert_eq!(content(&index, blob.as_ref(), &index.entry(0).unwrap()), LANDMARK_CONTENT);
}

#[test]
fn no_file_has_more_xattrs_than_linux_takes() {
    let name = |n: usize| format!("user.{n:0250}");
    let cases = [(1, 64 << 10, true), (1, (64 << 10) + 1, false), (256, 1, true), (257, 1, false)];
    for (count, len, fits) in cases {
        let mut encoder = Encoder::sample(Form::ZstdChunked);
        let value = Base64(vec![7; len]);
        encoder.named("empty").xattrs = (0..count).map(|n| (name(n), value.clone())).collect();
        if fits {
            assert!(open(&encoder.finish().layer().0).is_ok(), "{count} of {len}");
        } else {
            let problem = entry_problem(encoder, "empty");
            assert!(matches!(problem, EntryProblem::Name(Problem::LargeXattrs)), "{problem}");
        }
    }
}

#[test]
fn a_small_table_does_not_fill_the_disk() {
    // gzip packs only a thousand to one.
    for form in [Form::StargzZstd, Form::ZstdChunked] {
        let entry = r#"{"name":"a","type":"dir"},"#;
        let json = |n| {
            format!(r#"{{"version":1,"entries":[{}{{"name":"b","type":"dir"}}]}}"#, entry.repeat(n))
        };
        let dir = tempfile::tempdir().unwrap();
        let honest = Encoder::new(form).finish_with(json(9_000).as_bytes());
        assert_eq!(open(&honest.layer().0).unwrap().1.len(), 9_001);
        let flood = Encoder::new(form).finish_with(json(1_000_000).as_bytes()).layer().0;
        let error = open_or_scan(&flood, dir.path(), &|_| ()).unwrap_err();
        let LayerError::Flood { layer, .. } = error else { panic!("{form:?}: {error}") };
        assert_eq!(layer, flood.descriptor.digest);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn files_may_share_a_gzip_member() {
    let mut encoder = Encoder::new(Form::Estargz);
    let large = noise(3000);
    encoder.together(&[("a", b"hello"), ("b", &large), ("c", b"c")]);
    encoder.file("after", b"after", 100);
    let (layer, blob) = encoder.finish().layer();
    let (_dir, index) = open(&layer).unwrap();
    let files: Vec<_> = (0..index.len())
        .map(|number| content(&index, blob.as_ref(), &index.entry(number).unwrap()))
        .collect();
    assert_eq!(files, [&b"hello"[..], &large, b"c", b"after"]);
    let ranges = [0, 1, 2, 3].map(|number| span::stored_range(&index, number).unwrap());
    assert!(ranges[0] == ranges[1] && ranges[1] == ranges[2], "{ranges:?}");
    assert_eq!(ranges[3].start, ranges[2].end);
    // One read of the blob is enough for all of them.
    let range = usize::try_from(ranges[0].start).unwrap()..usize::try_from(ranges[0].end).unwrap();
    assert_eq!(span::decode_stored(&index, 2, &blob.bytes[range]).unwrap(), b"c");
    assert_eq!(index.spans_of_chunk(Digest::of(&large)).collect::<Vec<_>>(), [1]);
    let along = |budget| {
        let mut next = Vec::new();
        let pass = |number, content| next.push((number, content));
        let first = span::decode_with_next(&index, blob.as_ref(), 0, budget, pass).unwrap();
        assert_eq!(first, b"hello");
        next
    };
    assert_eq!(along(1 << 20), [(1, large.clone()), (2, b"c".to_vec())]);
    assert_eq!(along(large.len() + 300), [(1, large.clone())]);
}

#[test]
fn zeros_are_holes() {
    let file = [&noise(4096)[..], &[0; 8192], &noise(4096), &[0; 4096]].concat();
    let mut encoder = Encoder::new(Form::ZstdChunked);
    encoder.file("sparse", &file, 4096);
    encoder.file("after", b"after", 4096);
    // Where zeros lie is of no interest; they end the chunk before them if they say so.
    encoder.toc.entries[2].offset = 0;
    let (layer, blob) = encoder.finish().layer();
    let (_dir, index) = open(&layer).unwrap();
    let sparse = index.entry(0).unwrap();
    let extents: Vec<_> = index.extents(&sparse).unwrap().map(|e| (e.file_offset, e.len)).collect();
    assert_eq!(extents, [(0, 4096), (12_288, 4096)]);
    assert_eq!(index.span_count(), 3);
    assert_eq!(content(&index, blob.as_ref(), &sparse), file);
    assert_eq!(content(&index, blob.as_ref(), &index.entry(1).unwrap()), b"after");
}

#[test]
fn a_table_that_is_not_the_one_of_the_manifest() {
    for form in FORMS {
        let good = Encoder::sample(form).finish();
        let mut other = Encoder::sample(form);
        other.named("d/small").uid = 9;
        let other = other.finish();
        // The blob of one, the manifest of the other; their tables have the same length.
        let mixed = Encoded { blob: other.blob, ..good };
        let wanted: Vec<&String> = mixed.annotations.values().collect();
        let error = toc_error(&mixed);
        let message = error.to_string();
        let TocError::Mismatch(Mismatch { expected, found: Found::Digest(found) }) = error else {
            panic!("{form:?}: {message}");
        };
        assert!(wanted.contains(&&expected.to_string()), "{form:?}: {message}");
        if form == Form::Estargz {
            assert_eq!(other.annotations[ESTARGZ_TOC_DIGEST], found.to_string(), "{message}");
        }
        assert!(message.contains(&expected.to_string()) && message.contains(&found.to_string()));
    }
    // The dialect has a second digest, of the table as it is uncompressed.
    let mut dialect = Encoder::sample(Form::StargzZstd).finish();
    let other = Digest::of(b"other").to_string();
    dialect.annotations.insert(ESTARGZ_TOC_DIGEST.into(), other);
    assert!(matches!(toc_error(&dialect), TocError::Mismatch(_)));
}

#[test]
fn a_chunk_that_is_not_the_one_of_the_table() {
    for form in FORMS {
        let mut encoder = Encoder::sample(form);
        let right = encoder.named("d/small").digest.clone();
        let wrong = Digest::of(b"wrong").to_string();
        encoder.named("d/small").digest.clone_from(&wrong);
        if form != Form::ZstdChunked {
            encoder.named("d/small").chunk_digest.clone_from(&wrong);
        }
        let offset = encoder.named("d/small").offset;
        let (layer, blob) = encoder.finish().layer();
        let (_dir, index) = open(&layer).unwrap();
        let error = span::decode(&index, blob.as_ref(), 0).unwrap_err();
        assert!(matches!(error, SpanError::Mismatch { .. }), "{error}");
        let digest = layer.descriptor.digest.to_string();
        let message = error.to_string();
        for part in [&digest, &format!("at byte {offset} "), &wrong, &right] {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert!(span::decode(&index, blob.as_ref(), 1).is_ok());
    }
}

#[test]
fn what_no_table_can_be_read_from_is_read_whole() {
    let mut no_digests = Encoder::sample(Form::ZstdChunked);
    no_digests.named("d/small").digest.clear();
    let mut large = Encoder::sample(Form::ZstdChunked);
    let entry = large.named("exact");
    entry.size = (128 << 20) + 1;
    // To decode them all takes far longer than the bytes that they have.
    let mut overlapping = Encoder::new(Form::Estargz);
    overlapping.together(&[("d/small", b"hello"), ("other", b"other")]);
    overlapping.named("other").inner_offset = 513;
    let mut other = Encoder::sample(Form::Estargz);
    other.file(PREFETCH_LANDMARK, LANDMARK_CONTENT, 10);
    let mut other = other.finish();
    // As a tool leaves it that compresses a layer anew and keeps its annotations.
    other.blob = pack(Form::Estargz, &other.tar);
    for encoded in [no_digests.finish(), large.finish(), overlapping.finish(), other] {
        let (layer, blob) = encoded.layer();
        let (dir, index) = open(&layer).unwrap();
        assert!(index.summary().diff_id == layer.diff_id && index.id().toc.is_some());
        let shown = listing(&index, blob.as_ref());
        assert!(shown.iter().any(|line| line.contains("d/small")));
        // Neither what only serves the format, nor what those see who know of no table.
        let mut plain = layer.clone();
        plain.descriptor.annotations.clear();
        let plain = open_or_scan(&plain, dir.path(), &|_| {}).unwrap();
        let mut expected = listing(&plain, blob.as_ref());
        let all = expected.len();
        if encoded.form == Form::Estargz {
            let names = [ESTARGZ_TOC_NAME, PREFETCH_LANDMARK];
            expected.retain(|line| !names.iter().any(|name| line.starts_with(name)));
        }
        assert_eq!(shown, expected);
        assert_eq!(all > expected.len(), encoded.form == Form::Estargz);
        // It is found the next time.
        blob.reads.lock().unwrap().clear();
        open_or_scan(&layer, dir.path(), &|_| {}).unwrap();
        assert!(blob.reads.lock().unwrap().is_empty());
    }
}

#[test]
fn tables_in_other_images_or_of_two_formats_are_refused() {
    let mut external = Encoder::sample(Form::Estargz).finish();
    external.blob.truncate(external.blob.len() - 51);
    external.blob.extend(b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x15\0SG\x11\0STARGZEXTERNALTOC");
    external.blob.extend(b"\x01\0\0\xff\xff\0\0\0\0\0\0\0\0");
    let error = toc_error(&external);
    assert!(matches!(error, TocError::External), "{error}");
    assert!(error.to_string().contains("in another image"), "{error}");
    let mut both = Encoder::sample(Form::ZstdChunked).finish();
    both.annotations.insert(ESTARGZ_TOC_DIGEST.into(), Digest::of(b"").to_string());
    assert!(matches!(toc_error(&both), TocError::Both));
}

#[test]
fn positions_outside_of_the_blob() {
    let key = format!("{ZSTD_CHUNKED_PREFIX}{MANIFEST_POSITION}");
    for (position, too_large) in [
        ("7:100:100:1", false),
        ("1000000:100:100:1", false),
        ("18446744073709551615:2:2:1", false),
        ("100:300000000:100:1", true),
        ("100:100:300000000:1", true),
    ] {
        let mut encoded = Encoder::sample(Form::ZstdChunked).finish();
        encoded.annotations.insert(key.clone(), position.into());
        match toc_error(&encoded) {
            TocError::Outside { .. } => assert!(!too_large, "{position}"),
            TocError::TooLarge { .. } => assert!(too_large, "{position}"),
            other => panic!("{position}: {other}"),
        }
    }
    // Without a position in the manifest, the footer has it.
    let mut encoded = Encoder::sample(Form::ZstdChunked).finish();
    encoded.annotations.remove(&key);
    assert!(open(&encoded.layer().0).unwrap().1.id().toc.is_some());

    let mut encoded = Encoder::sample(Form::Estargz).finish();
    let end = encoded.blob.len() - 51;
    encoded.blob.truncate(end);
    encoded.blob.extend(footer::estargz(end as u64));
    assert!(matches!(toc_error(&encoded), TocError::Outside { .. }));
}

#[test]
fn of_a_name_without_end_a_message_has_the_beginning() {
    let mut encoder = Encoder::sample(Form::Estargz);
    encoder.named("d/small").name = "n".repeat(40_000);
    let message = toc_error(&encoder.finish()).to_string();
    assert!(message.contains("nnn...") && message.len() < 500, "{message}");
}

#[test]
fn a_blob_of_another_size_is_corrupt() {
    let (mut layer, _) = Encoder::sample(Form::Estargz).finish().layer();
    layer.descriptor.size += 1;
    assert!(matches!(open(&layer), Err(LayerError::Corrupt { .. })));
}

/// A sample whose entry of this name was changed.
fn changed(form: Form, name: &str, change: impl FnOnce(&mut TocEntry)) -> Encoder {
    let mut encoder = Encoder::sample(form);
    change(encoder.named(name));
    encoder
}

#[test]
fn chunks_that_cannot_be() {
    for form in FORMS {
        // Places: none, beyond the chunks, far away, before the chunk before.
        for place in [0, 1 << 20, u64::MAX] {
            let encoder = changed(form, "exact", |entry| entry.offset = place);
            let problem = entry_problem(encoder, "exact");
            assert!(matches!(problem, EntryProblem::Place { .. }), "{form:?}: {problem}");
        }
        let mut encoder = Encoder::sample(form);
        let second = encoder.toc.entries.iter().position(|e| e.kind == "chunk").unwrap();
        encoder.toc.entries[second].offset = encoder.toc.entries[second - 1].offset - 1;
        let problem = entry_problem(encoder, "d/large");
        assert!(matches!(problem, EntryProblem::Place { .. }), "{form:?}: {problem}");
        // An overlap, a gap, a chunk beyond the end, none at all.
        for change in [
            (|e: &mut TocEntry| e.chunk_offset -= 1) as fn(&mut TocEntry),
            |e| e.chunk_offset += 1,
            |e| e.chunk_size = 1 << 40,
            |e| e.chunk_offset = u64::MAX,
        ] {
            let mut encoder = Encoder::sample(form);
            change(&mut encoder.toc.entries[second]);
            let problem = entry_problem(encoder, "d/large");
            assert!(matches!(problem, EntryProblem::Chunk(_)), "{form:?}: {problem}");
        }
        let mut encoder = Encoder::sample(form);
        encoder.toc.entries.remove(second);
        assert!(matches!(
            entry_problem(encoder, "d/large"),
            EntryProblem::Chunk(4096) | EntryProblem::Chunk(8192)
        ));
        let encoder = changed(form, "exact", |entry| entry.size = u64::MAX);
        assert!(matches!(entry_problem(encoder, "exact"), EntryProblem::Number("size")));
        let encoder = changed(form, "exact", |entry| entry.chunk_digest = "sha512:00".into());
        assert!(matches!(entry_problem(encoder, "exact"), EntryProblem::Digest(_)));
        let encoder = changed(form, "exact", |entry| entry.chunk_type = "ones".into());
        assert!(matches!(entry_problem(encoder, "exact"), EntryProblem::Kind(_)));
    }
    let encoder = changed(Form::ZstdChunked, "./d/large", |entry| entry.size += 10);
    assert!(matches!(entry_problem(encoder, "d/large"), EntryProblem::Short { end: 20_000, .. }));
    for end in [1, 1 << 20] {
        let encoder = changed(Form::ZstdChunked, "exact", |entry| entry.end_offset = end);
        assert!(matches!(entry_problem(encoder, "exact"), EntryProblem::Place { .. }));
    }
    let inner = changed(Form::Estargz, "exact", |entry| entry.inner_offset = 5);
    let (layer, blob) = inner.finish().layer();
    let (_dir, index) = open(&layer).unwrap();
    let number = index.spans_of_chunk(Digest::of(&noise(4096))).last().unwrap();
    assert!(span::decode(&index, blob.as_ref(), number).is_err());
}

#[test]
fn too_many_chunks_in_one_member() {
    let mut encoder = Encoder::new(Form::Estargz);
    encoder.together(&[("a", b"a")]);
    let first = encoder.toc.entries[0].clone();
    let at = |inner_offset| TocEntry { inner_offset, ..first.clone() };
    encoder.toc.entries = (512..=512 + (1 << 16)).map(at).collect();
    assert!(matches!(entry_problem(encoder, "a"), EntryProblem::Shared(65_536)));
}

#[test]
fn chunks_without_their_file() {
    let chunk =
        |name: &str| TocEntry { kind: "chunk".into(), name: name.into(), ..TocEntry::default() };
    for form in FORMS {
        for (after, name) in [("d/", "d/"), ("d/small", "d/large"), ("fifo", "fifo")] {
            let mut encoder = Encoder::sample(form);
            let at = encoder.toc.entries.iter().position(|entry| entry.name == after).unwrap();
            encoder.toc.entries.insert(at + 1, chunk(name));
            let problem = entry_problem(encoder, name);
            assert!(matches!(problem, EntryProblem::Orphan), "{form:?} {after}: {problem}");
        }
        let mut encoder = Encoder::sample(form);
        encoder.toc.entries.insert(0, chunk(""));
        assert!(matches!(entry_problem(encoder, ""), EntryProblem::Orphan));
    }
}

#[test]
fn entries_that_cannot_be() {
    type Change = fn(&mut TocEntry);
    type Check = fn(&EntryProblem) -> bool;
    let cases: [(Change, Check); 13] = [
        (|e| e.kind = "socket".into(), |p| matches!(p, EntryProblem::Kind(_))),
        (|e| e.kind = String::new(), |p| matches!(p, EntryProblem::Kind(_))),
        (|e| e.name = "a/../../b".into(), |p| matches!(p, EntryProblem::Name(Problem::DotDot))),
        (|e| e.name = "a\0".into(), |p| matches!(p, EntryProblem::Name(Problem::Nul))),
        (|e| e.name = "/".into(), |p| matches!(p, EntryProblem::Name(Problem::NoName))),
        (|e| e.name = "n".repeat(256), |p| matches!(p, EntryProblem::Name(Problem::LongName))),
        (|e| e.kind = "symlink".into(), |p| matches!(p, EntryProblem::Name(Problem::NoTarget))),
        (|e| e.kind = "hardlink".into(), |p| matches!(p, EntryProblem::Name(Problem::NoTarget))),
        (
            |e| (e.kind, e.link_name) = ("hardlink".into(), "../x".into()),
            |p| matches!(p, EntryProblem::Name(Problem::DotDot)),
        ),
        (|e| e.uid = 1 << 32, |p| matches!(p, EntryProblem::Number("uid"))),
        (|e| e.gid = 1 << 32, |p| matches!(p, EntryProblem::Number("gid"))),
        (
            |e| (e.kind, e.dev_minor) = ("block".into(), 1 << 32),
            |p| matches!(p, EntryProblem::Number("devMinor")),
        ),
        (|e| e.xattrs = xattrs(&[("", b"")]), |p| matches!(p, EntryProblem::Xattr)),
    ];
    for form in FORMS {
        for (number, (change, check)) in cases.iter().enumerate() {
            let mut encoder = Encoder::sample(form);
            change(encoder.named("fifo"));
            match toc_error(&encoder.finish()) {
                TocError::Entry { what, .. } => assert!(check(&what), "{number}: {what}"),
                other => panic!("{number}: {other}"),
            }
        }
    }
}

#[test]
fn names_as_tar_writers_spell_them() {
    let mut encoder = Encoder::new(Form::Estargz);
    encoder.other("dir", "./", "");
    encoder.other("dir", "/absolute//dir/", "");
    encoder.file("./absolute/./dir/f", &noise(100), 40);
    // A chunk is the file's before it, however it is spelled.
    encoder.toc.entries.last_mut().unwrap().name = "absolute/dir/f".into();
    let (layer, _) = encoder.finish().layer();
    let (_dir, index) = open(&layer).unwrap();
    let names: Vec<_> = (0..index.len()).map(|n| index.entry(n).unwrap().path).collect();
    assert_eq!(names, [&b""[..], b"absolute/dir", b"absolute/dir/f"]);
}

#[test]
fn names_that_fight() {
    // The last of several entries counts.
    let mut encoder = Encoder::new(Form::Estargz);
    encoder.file("a", b"first", 100);
    encoder.file("a", b"second!", 100);
    let (layer, _) = encoder.finish().layer();
    let (dir, index) = open(&layer).unwrap();
    let merged = tree::merge(&[&index]).unwrap();
    let tree = tree::Tree::create(dir.path(), &[index.id().digest()], merged).unwrap();
    let root = tree.inode(0).unwrap();
    assert!(tree.name(&root, 1).unwrap().is_none());
    let place = tree.lookup(&root, b"a").unwrap().unwrap();
    assert_eq!(tree.inode(place).unwrap().size, 7);
    // A file that another entry has for a directory is one too many.
    let mut encoder = Encoder::new(Form::Estargz);
    encoder.file("a", b"first", 100);
    encoder.file("a/b", b"below", 100);
    let (_dir, index) = open(&encoder.finish().layer().0).unwrap();
    let Err(error) = tree::merge(&[&index]) else { panic!("it was taken") };
    assert!(error.to_string().contains("a/b"), "{error}");
}

#[test]
fn tables_that_are_none() {
    for form in FORMS {
        for json in ["", "{", "[]", r#"{"version":1,"entries":[{"name":1}]}"#, "\0"] {
            let encoded = Encoder::sample(form).finish_with(json.as_bytes());
            let error = toc_error(&encoded);
            assert!(matches!(error, TocError::Json(_)), "{form:?} {json}: {error}");
        }
        let encoded = Encoder::sample(form).finish_with(br#"{"version":2,"entries":[]}"#);
        assert!(matches!(toc_error(&encoded), TocError::Version(2)), "{form:?}");
    }
}

#[test]
fn an_entry_has_the_names_of_the_format_and_no_zeros() {
    let entry = TocEntry {
        kind: "reg".into(),
        name: "a".into(),
        mode: 0o4755,
        mtime: Some(TocTime(Timestamp { seconds: 1, nanos: 500_000_000 })),
        xattrs: BTreeMap::from([("user.x".into(), Base64(vec![0, 255]))]),
        offset: 5,
        end_offset: 6,
        chunk_type: ZEROS.into(),
        ..TocEntry::default()
    };
    let toc = Toc { version: VERSION, entries: vec![entry.clone()], tar_split_digest: None };
    let json = serde_json::to_string(&toc).unwrap();
    assert_eq!(
        json,
        r#"{"version":1,"entries":[{"type":"reg","name":"a","mode":2541,"modtime":"1970-01-01T00:00:01.5Z","xattrs":{"user.x":"AP8="},"offset":5,"endOffset":6,"chunkType":"zeros"}]}"#
    );
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(TocEntry::deserialize(&value["entries"][0]).unwrap(), entry);
}

#[test]
fn what_go_writes_is_read() {
    let json = r#"{"type":"reg","name":"a","xattrs":null,"userName":"root","modtime":"0001-01-01T00:00:00Z",
        "NumLink":0,"chunkDigest":"x","innerOffset":3,"devMajor":4,"linkName":"l","unknown":[1]}"#;
    let entry: TocEntry = serde_json::from_str(json).unwrap();
    assert_eq!((entry.inner_offset, entry.dev_major), (3, 4));
    assert_eq!((&entry.chunk_digest[..], &entry.link_name[..]), ("x", "l"));
    for bad in [r#"{"mode":-1}"#, r#"{"xattrs":{"a":"?"}}"#, r#"{"modtime":"yesterday"}"#] {
        assert!(serde_json::from_str::<TocEntry>(bad).is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_damaged_blob_gives_an_error_or_the_right_content(
        at in any::<prop::sample::Index>(),
        flip in 1..=255u8,
        cut in any::<bool>(),
    ) {
        for form in FORMS {
            let good = Encoder::sample(form).finish();
            let (layer, blob) = good.layer();
            let (_dir, index) = open(&layer).unwrap();
            let mut damaged = good.clone();
            let at = at.index(good.blob.len());
            damaged.blob[at] ^= flip;
            if cut {
                damaged.blob.truncate(at);
            }
            // Read by the index of the good one: the damage came later.
            let (_, bad_blob) = damaged.layer();
            for number in 0..index.span_count() {
                if let Ok(content) = span::decode(&index, bad_blob.as_ref(), number) {
                    prop_assert_eq!(content, span::decode(&index, blob.as_ref(), number).unwrap());
                }
            }
            // Read anew, under a digest that nobody looks at. Where the footer is damaged the
            // blob is read whole, and its diffID is wrong at least.
            if let Ok((_dir, index)) = open(&damaged.layer().0) {
                prop_assert!(index.id().toc.is_some() || index.summary().diff_id == layer.diff_id);
                for number in 0..index.span_count() {
                    if let Ok(content) = span::decode(&index, bad_blob.as_ref(), number) {
                        let right = span::decode(&index, blob.as_ref(), number);
                        prop_assert_eq!(content, right.unwrap());
                    }
                }
            }
        }
    }
}
