use super::*;
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
    }
    assert!(errors > 10, "only {errors} damages were seen");
}

const FORMAT_HEADER: usize = 24 + 7 * 16 + 32;

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
