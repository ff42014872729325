use super::*;
use crate::layer::rewrite::{RewriteError, compare};
use crate::layer::toc::fixture::{Encoder, FORMS, Form, noise, xattrs};
use crate::layer::toc::{NO_PREFETCH_LANDMARK, PREFETCH_LANDMARK, TocEntry};

fn compared(encoder: Encoder) -> Result<(), RewriteError> {
    let dir = tempfile::tempdir().unwrap();
    let result = compare(&encoder.finish().layer().0, dir.path(), &|_| ());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "something is left over");
    result
}

/// The sample with a file of zeros, which some forms do not store, and a short one.
fn sample(form: Form) -> Encoder {
    let mut encoder = Encoder::sample(form);
    let content = [&noise(100)[..], &[0; 9000], b"end"].concat();
    encoder.file("sparse", &content, 1024);
    encoder.file("last", b"last", 4096);
    encoder
}

/// What is found when `change` was done to the table.
fn found(form: Form, change: impl Fn(&mut Encoder)) -> (String, Contradiction) {
    let mut encoder = sample(form);
    change(&mut encoder);
    match compared(encoder) {
        Err(RewriteError::Source(LayerError::Contradiction { path, what, .. })) => {
            (String::from_utf8(path).unwrap(), what)
        }
        other => panic!("{form:?}: {other:?}"),
    }
}

#[test]
fn what_every_writer_writes_agrees() {
    for form in FORMS {
        let mut encoder = sample(form);
        if form != Form::ZstdChunked {
            // They only serve the format, and the table need not have them.
            for landmark in [PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK] {
                encoder.file(landmark, &[0x0f], 4096);
                encoder.toc.entries.pop();
            }
        }
        compared(encoder).unwrap();
    }
    let mut encoder = Encoder::new(Form::Estargz);
    encoder.together(&[("a", b"hello"), ("b", &noise(3000)), ("c", b"c")]);
    compared(encoder).unwrap();
}

#[test]
fn what_has_no_table_or_is_not_read_by_it_agrees_with_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut plain = sample(Form::ZstdChunked).finish().layer().0;
    plain.descriptor.annotations.clear();
    compare(&plain, dir.path(), &|_| ()).unwrap();
    let mut unusable = sample(Form::ZstdChunked);
    unusable.named("last").digest = String::new();
    unusable.named("last").mode = 0;
    compared(unusable).unwrap();
}

#[test]
fn two_names_that_are_swapped() {
    for form in FORMS {
        let (path, what) = found(form, |encoder| {
            encoder.named("d/small").name = "x".into();
            encoder.named("last").name = "d/small".into();
            encoder.named("x").name = "last".into();
        });
        assert_eq!((&path[..], what), ("d/small", Contradiction::Path(b"last".to_vec())));
    }
}

#[test]
fn each_property_counts() {
    type Change = fn(&mut TocEntry);
    let changes: [(&str, &str, Change); 9] = [
        ("d/", "mode", |entry| entry.mode = 0o755),
        ("d/small", "owner", |entry| entry.uid = 0),
        ("d/small", "owner", |entry| entry.gid = 0),
        ("d/link", "kind", |entry| entry.link_name = "d/small".into()),
        ("second", "kind", |entry| entry.link_name = "d/small".into()),
        ("fifo", "kind", |entry| entry.kind = "dir".into()),
        ("empty", "extended attributes", |entry| entry.xattrs = xattrs(&[("user.a", b"1")])),
        ("empty", "modification time", |entry| entry.mtime = None),
        ("empty", "size", |entry| {
            (entry.size, entry.chunk_type, entry.offset) = (5, "zeros".into(), 0);
        }),
    ];
    for form in FORMS {
        for (name, property, change) in changes {
            let (path, what) = found(form, |encoder| change(encoder.named(name)));
            assert_eq!(path, name.trim_end_matches('/'), "{form:?}");
            assert_eq!(what, Contradiction::Property(property), "{form:?}, {name}");
        }
    }
}

#[test]
fn times_count_as_far_as_the_format_has_them() {
    for form in FORMS {
        let result = compared({
            let mut encoder = sample(form);
            encoder.named("empty").mtime.as_mut().unwrap().0.nanos = 5;
            encoder
        });
        assert_eq!(result.is_err(), form == Form::ZstdChunked, "{form:?}");
    }
}

#[test]
fn entries_that_only_one_of_them_has() {
    for form in FORMS {
        let only_in_table = found(form, |encoder| {
            encoder.toc.entries.push(TocEntry {
                kind: "dir".into(),
                name: "more".into(),
                ..TocEntry::default()
            })
        });
        assert_eq!(only_in_table, ("more".to_owned(), Contradiction::OnlyInTable));
        let only_in_tar = found(form, |encoder| drop(encoder.toc.entries.pop()));
        assert_eq!(only_in_tar, ("last".to_owned(), Contradiction::OnlyInTar));
    }
}

#[test]
fn content_that_is_not_what_the_table_says() {
    let wrong = Digest::of(b"something else").to_string();
    for form in FORMS {
        let (path, what) = found(form, |encoder| {
            let chunks = encoder.toc.entries.iter_mut().filter(|entry| entry.kind == "chunk");
            let large = chunks.filter(|entry| entry.name == "./d/large");
            large.max_by_key(|entry| entry.chunk_offset).unwrap().chunk_digest = wrong.clone();
        });
        assert_eq!((&path[..], what), ("d/large", Contradiction::Content(16384)), "{form:?}");
        let (path, what) = found(form, |encoder| {
            let last = encoder.named("last");
            (last.digest, last.chunk_digest) = (wrong.clone(), wrong.clone());
        });
        assert_eq!((&path[..], what), ("last", Contradiction::Content(0)), "{form:?}");
        // Zeros have no digest.
        let (path, what) = found(form, |encoder| {
            let last = encoder.named("last");
            (last.offset, last.chunk_size) = (0, 4);
            last.chunk_type = "zeros".into();
        });
        assert_eq!((&path[..], what), ("last", Contradiction::Content(0)), "{form:?}");
    }
}

#[test]
fn extended_attributes() {
    let owned = |list: &[(&[u8], &[u8])]| {
        list.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>()
    };
    let tar = owned(&[(b"a", b""), (b"b", b"1"), (b"c", b"")]);
    let (a, b, c) = ((&b"a"[..], &b""[..]), (&b"b"[..], &b"1"[..]), (&b"c"[..], &b""[..]));
    for same in [&[a, b, c][..], &[b], &[a, b], &[b, c]] {
        assert!(same_xattrs(&tar, same), "{same:?}");
    }
    for other in [&[a, c][..], &[], &[(&b"b"[..], &b"2"[..])], &[b, (&b"d"[..], &b""[..])]] {
        assert!(!same_xattrs(&tar, other), "{other:?}");
    }
}

#[test]
fn names_that_json_cannot_have() {
    let replacement = "a\u{fffd}\u{fffd}b".as_bytes();
    assert!(same_text(b"a\xe2\x82b", replacement));
    assert!(!same_text(b"a\xe2\x82c", replacement));
    assert!(!same_text(b"ab", replacement));
    assert!(same_text(replacement, replacement));
}
