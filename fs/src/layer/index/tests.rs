use super::*;
use crate::blocks::TreeHasher;
use crate::layer::{Entry, Kind};

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o4755,
        uid: 1,
        gid: u32::MAX,
        mtime: Timestamp { seconds: -5, nanos: 7 },
        size: 9,
        xattrs: vec![(b"user.a".to_vec(), b"\0v".to_vec())],
    }
}

fn summary() -> Summary {
    Summary {
        digest: Digest::of(b"x"),
        diff_id: DiffId::new(Digest::of(b"y")),
        toc: None,
        blob_len: 100,
        content_len: 30,
    }
}

fn span(content_offset: u64, content_len: u64) -> Span {
    Span {
        content_offset,
        content_len,
        blob_offset: 3,
        blob_len: 4,
        coding: Coding::Deflate,
        bits: 5,
        inner_offset: 6,
        digest: SpanDigest::Blake3([7; 32]),
    }
}

#[test]
fn what_goes_in_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = IndexBuilder::new(dir.path()).unwrap();
    let extents = [Extent { file_offset: 0, content_offset: 512, len: 9 }];
    builder.entry(&entry("a/b", Kind::File), &extents).unwrap();
    let device = Device { major: 8, minor: 1 };
    builder.entry(&entry("a/l", Kind::Symlink(b"../x".to_vec())), &[]).unwrap();
    builder.entry(&entry("d", Kind::BlockDevice(device)), &[]).unwrap();
    builder.span(&span(0, 10), &[]).unwrap();
    builder.span(&span(10, 20), &[1; 5000]).unwrap();
    let index = builder.finish(&summary()).unwrap();

    assert_eq!(index.len(), 3);
    let file = index.entry(0).unwrap();
    assert_eq!((file.path, file.kind, file.mode), (&b"a/b"[..], ViewKind::File, 0o4755));
    assert_eq!(file.mtime, Timestamp { seconds: -5, nanos: 7 });
    assert_eq!(index.extents(&file).unwrap().collect::<Vec<_>>(), extents);
    assert_eq!(index.xattrs(&file).unwrap(), [(&b"user.a"[..], &b"\0v"[..])]);
    assert_eq!(index.entry(1).unwrap().link, b"../x");
    assert_eq!(index.entry(2).unwrap().device, device);
    assert!(index.entry(3).is_err());

    assert_eq!(
        [0, 9, 10, 29, 30].map(|at| index.span_at(at)),
        [Some(0), Some(0), Some(1), Some(1), None]
    );
    assert_eq!(index.span(1).unwrap(), span(10, 20));
    assert!(index.window(0).unwrap().is_empty());
    let window = zstd::bulk::decompress(index.window(1).unwrap(), 1 << 15).unwrap();
    assert_eq!(window, [1; 5000]);
    assert_eq!(
        *LayerIndex::open(dir.path(), Digest::of(b"x")).unwrap().unwrap().summary(),
        summary()
    );
    assert!(LayerIndex::open(dir.path(), Digest::of(b"z")).unwrap().is_none());
}

#[test]
fn damage_is_an_error_and_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = IndexBuilder::new(dir.path()).unwrap();
    builder.entry(&entry("a", Kind::File), &[]).unwrap();
    builder.span(&span(0, 10), &[1; 100]).unwrap();
    let path = LayerIndex::path(dir.path(), Digest::of(b"x"));
    drop(builder.finish(&summary()).unwrap());
    let whole = std::fs::read(&path).unwrap();
    let mut errors = 0;
    for at in FORMAT_HEADER..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 0xff;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &broken).unwrap();
        let Some(index) = LayerIndex::open(dir.path(), Digest::of(b"x")).unwrap() else {
            continue;
        };
        let entry = index.entry(0);
        errors += usize::from(entry.is_err());
        if let Ok(entry) = entry {
            errors += usize::from(index.xattrs(&entry).is_err());
            errors += usize::from(index.extents(&entry).is_err());
        }
        errors += usize::from(index.span(0).is_err()) + usize::from(index.window(0).is_err());
        errors += usize::from(index.blocks(0).is_err());
    }
    assert!(errors > 10, "only {errors} damages were seen");
}

const FORMAT_HEADER: usize = 24 + 8 * 16 + 32;

#[test]
fn a_chunk_is_found_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = IndexBuilder::new(dir.path()).unwrap();
    let chunks = [5, 3, 9, 3, 7].map(|n: u8| Digest::of(&[n]));
    for (at, chunk) in (0u64..).zip(chunks) {
        let digest = SpanDigest::Sha256(chunk);
        builder.span(&Span { digest, ..span(2 * at, 1) }, &[]).unwrap();
        let digest = SpanDigest::StoredSha256(chunk);
        builder.span(&Span { digest, ..span(2 * at + 1, 1) }, &[]).unwrap();
    }
    let index = builder.finish(&summary()).unwrap();
    let found = |n: u8| index.spans_of_chunk(Digest::of(&[n])).collect::<Vec<_>>();
    assert_eq!([5, 3, 9, 7].map(found), [vec![0], vec![2, 6], vec![4], vec![8]]);
    assert_eq!([0, 1, 2, 4, 255].map(found), [const { Vec::<usize>::new() }; 5]);
}

#[test]
fn blocks_are_kept_of_what_is_stored_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = IndexBuilder::new(dir.path()).unwrap();
    let stored = |content: &[u8]| {
        let (hash, blocks) = TreeHasher::of(content);
        let len = content.len() as u64;
        let digest = SpanDigest::Blake3(hash);
        let plain = Span { coding: Coding::Stored, bits: 0, inner_offset: 0, ..span(0, len) };
        (Span { digest, ..plain }, blocks)
    };
    let (one, none) = stored(&[1; BLOCK]);
    let (three, blocks) = stored(&[2; 2 * BLOCK + 1]);
    let not_hashed = Span { digest: SpanDigest::Sha256(Digest::of(b"")), ..three };
    let inside = Span { inner_offset: 1, ..three };
    let packed = Span { coding: Coding::Zstd, ..three };
    builder.span_of_blocks(&one, &[], &none).unwrap();
    for span in [&packed, &three, &inside, &not_hashed, &three] {
        builder.span_of_blocks(span, &[], &blocks).unwrap();
    }
    builder.span(&three, &[]).unwrap();
    builder.unpacked_span(0, &[2; 2 * BLOCK + 1]).unwrap();
    let index = builder.finish(&summary()).unwrap();
    let all = Some(&blocks[..]);
    assert_eq!(blocks.len(), 3);
    let expected = [Some(&[][..]), None, all, None, None, all, None, all];
    for (number, expected) in expected.into_iter().enumerate() {
        assert_eq!(index.blocks(number).unwrap(), expected, "{number}");
    }
    assert!(index.blocks(expected.len()).is_err());
}

#[test]
fn blocks_that_are_not_there_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut builder = IndexBuilder::new(dir.path()).unwrap();
    let plain = Span { coding: Coding::Stored, bits: 0, inner_offset: 0, ..span(0, 0) };
    for len in [20_000, 40_000, u64::MAX] {
        let claims = Span { content_len: len, ..plain };
        builder.span_of_blocks(&claims, &[], &[[1; 32]; 3]).unwrap();
    }
    let index = builder.finish(&summary()).unwrap();
    assert_eq!(index.blocks(0).unwrap().map(<[_]>::len), Some(3));
    // As many as there are behind them all.
    assert_eq!(index.blocks(1).unwrap().map(<[_]>::len), Some(5));
    assert!(index.blocks(2).is_err());
}

#[test]
fn tables_of_contents_do_not_share_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let of = |toc: Option<Digest>| Summary { toc, ..summary() };
    let tocs = [None, Some(Digest::of(b"1")), Some(Digest::of(b"2"))];
    for (n, toc) in tocs.into_iter().enumerate() {
        let mut builder = IndexBuilder::new(dir.path()).unwrap();
        for at in 0..n as u64 {
            builder.span(&span(at, 1), &[]).unwrap();
        }
        builder.finish(&of(toc)).unwrap();
    }
    for (n, toc) in tocs.into_iter().enumerate() {
        let index = LayerIndex::open(dir.path(), of(toc).id()).unwrap().unwrap();
        assert_eq!((index.span_count(), index.id()), (n, of(toc).id()));
    }
    let ids = tocs.map(|toc| of(toc).id().digest());
    assert!(ids[0] == summary().digest && ids[1] != ids[0] && ids[2] != ids[1]);
}
