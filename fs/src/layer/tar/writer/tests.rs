use proptest::prelude::*;

use super::*;
use crate::layer::tar::TarReader;

fn entry(path: &[u8], kind: Kind) -> Entry {
    Entry {
        path: path.to_vec(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp { seconds: 1_700_000_000, nanos: 0 },
        size: 0,
        xattrs: Vec::new(),
    }
}

/// What the reader makes of an entry's header.
fn read_back(entry: &Entry) -> Entry {
    let header = header(entry).unwrap();
    assert!(header.len().is_multiple_of(BLOCK));
    let member = TarReader::new(&header[..]).next_member().unwrap();
    member.expect("there is one").entry
}

fn refused(entry: &Entry) -> String {
    // Not unwrap_err, which would print the header.
    match header(entry) {
        Ok(_) => panic!("a header was made of {entry:?}"),
        Err(problem) => problem.to_string(),
    }
}

#[test]
fn ustar_is_used_as_far_as_it_goes() {
    let mut fits = entry(&[b'n'; 100], Kind::Hardlink(vec![b'l'; 100]));
    (fits.uid, fits.gid) = (0o7_777_777, 0o7_777_777);
    fits.mtime.seconds = 0o77_777_777_777;
    let mut file = entry(b"big", Kind::File);
    file.size = 0o77_777_777_777;
    for entry in [fits, file, entry(b"", Kind::Directory), entry(&[0xff, b'\n'], Kind::Fifo)] {
        assert_eq!(header(&entry).unwrap().len(), BLOCK);
        assert_eq!(read_back(&entry), entry);
    }
    let block = header(&entry(b"a", Kind::File)).unwrap();
    assert_eq!(&block[..2], b"a\0");
    assert_eq!(&block[100..136], b"0000644\x000000000\x000000000\x0000000000000\0");
    assert_eq!(&block[136..148], b"14524770400\0");
    assert_eq!(&block[156..158], b"0\0");
    assert_eq!(&block[257..265], b"ustar\x0000");
}

#[test]
fn what_does_not_fit_goes_into_pax_records() {
    let base = || entry(b"f", Kind::File);
    let device = Kind::CharDevice(Device { major: 0o7_777_777, minor: 0o7_777_777 });
    let times = [(-1, 0), (-1, 750_000_000), (0, 1), (i64::MAX, 999_999_999), (i64::MIN, 0)];
    let times =
        times.map(|(seconds, nanos)| Entry { mtime: Timestamp { seconds, nanos }, ..base() });
    let xattrs = vec![
        (b"security.capability".to_vec(), b"\0=\n\xff".to_vec()),
        (b"user.e".to_vec(), vec![]),
    ];
    let entries = [
        entry(&[&[b'd'; 99][..], b"/", &[b'n'; 255]].concat(), Kind::File),
        entry(&[b'd'; 100], Kind::Directory),
        entry(&[&[b'd'; 98][..], b"/", &[0xff; 90]].concat(), Kind::Symlink(vec![0xfe; 4095])),
        entry(b"h", Kind::Hardlink(vec![b'l'; 101])),
        Entry { size: 1 << 33, ..base() },
        Entry { size: i64::MAX as u64, ..base() },
        Entry { uid: u32::MAX, gid: 0o10_000_000, ..base() },
        Entry { xattrs, ..base() },
        entry(b"dev", device),
    ];
    for entry in entries.into_iter().chain(times) {
        let read = read_back(&entry);
        assert_eq!(read, entry);
    }
    let long = header(&entry(&[b'd'; 101], Kind::Directory)).unwrap();
    assert_eq!(&long[BLOCK..2 * BLOCK][..10], b"112 path=d");
}

#[test]
fn record_lengths_count_their_own_digits() {
    for len in (1..130).chain(980..1010) {
        let mut records = Records::default();
        records.push(b"path", &vec![b'x'; len]);
        let stated: usize =
            String::from_utf8_lossy(&records.0).split(' ').next().unwrap().parse().unwrap();
        assert_eq!(stated, records.0.len());
    }
}

#[test]
fn what_no_reader_would_take_is_refused() {
    assert!(refused(&entry(b"a/../b", Kind::File)).contains("'..'"));
    assert!(refused(&entry(b"a\0b", Kind::File)).contains("NUL"));
    assert!(refused(&entry(&[b'x'; 256], Kind::File)).contains("longer than Linux allows"));
    assert!(refused(&entry(&b"a/".repeat(2049), Kind::File)).contains("longer than Linux"));
    assert!(refused(&entry(b"", Kind::File)).contains("no name"));
    assert!(refused(&entry(b"l", Kind::Symlink(Vec::new()))).contains("without a target"));
    assert!(refused(&entry(b"l", Kind::Hardlink(Vec::new()))).contains("without a target"));
    assert!(refused(&entry(b"l", Kind::Symlink(vec![b'x'; 4096]))).contains("longer than"));
    let device = Device { major: 1 << 21, minor: 0 };
    assert!(refused(&entry(b"d", Kind::BlockDevice(device))).contains("device major"));
    for name in [&b""[..], b"user.a=b", b"user.\0"] {
        let xattrs = vec![(name.to_vec(), Vec::new())];
        let entry = Entry { xattrs, ..entry(b"x", Kind::File) };
        assert!(refused(&entry).contains("cannot be stored"));
    }
    let xattrs = (0..20).map(|n| (format!("user.{n}").into_bytes(), vec![0; 65536])).collect();
    let entry = Entry { xattrs, ..entry(b"x", Kind::File) };
    assert!(refused(&entry).contains("bytes of PAX records"));
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![b'a'..=b'c', any::<u8>()];
    let byte = byte.prop_map(|b| if matches!(b, 0 | b'/' | b'.') { b'z' } else { b });
    let component = prop::collection::vec(byte, 1..120);
    prop::collection::vec(component, 1..5).prop_map(|parts| parts.join(&b'/'))
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let device = (0u32..1 << 21, 0u32..1 << 21).prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Fifo),
        any_path().prop_map(Kind::Hardlink),
        prop::collection::vec(1..=255u8, 1..300).prop_map(Kind::Symlink),
        device.clone().prop_map(Kind::CharDevice),
        device.prop_map(Kind::BlockDevice),
    ]
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    let seconds = prop_oneof![any::<i64>(), -100..100i64, (1i64 << 33) - 2..(1 << 33) + 2];
    let nanos = prop_oneof![Just(0), 0..1_000_000_000u32];
    (seconds, nanos).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos })
}

fn any_xattrs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let xattrs = prop::collection::btree_map("(user|trusted)\\.[a-z%\n ]{1,9}", value, 0..4);
    xattrs.prop_map(|map| map.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect())
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let owner = || prop_oneof![0..2000u32, any::<u32>()];
    let size = prop_oneof![0..5000u64, 0..=i64::MAX as u64];
    let rest = (any_time(), size, any_xattrs());
    (any_path(), any_kind(), 0..=0o7777u32, owner(), owner(), rest).prop_map(
        |(path, kind, mode, uid, gid, (mtime, size, xattrs))| {
            let size = if kind == Kind::File { size } else { 0 };
            Entry { path, kind, mode, uid, gid, mtime, size, xattrs }
        },
    )
}

proptest! {
    #[test]
    fn the_reader_gets_back_what_was_written(entry in any_entry()) {
        prop_assert_eq!(read_back(&entry), entry);
    }
}
