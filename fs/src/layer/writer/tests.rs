use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::skip::skip;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::blob::FileBlob;
use crate::layer::{Device, Timestamp, scan};
use crate::oci::Layer;
use crate::span;

const PLAIN: [Compression; 3] = [Compression::Zstd(3), Compression::Gzip(6), Compression::None];
const ALL: [Compression; 5] =
    [Compression::ZstdChunked(3), Compression::Estargz(6), PLAIN[0], PLAIN[1], PLAIN[2]];

fn entry(path: &str, kind: Kind, size: usize) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 1000,
        gid: 1001,
        mtime: Timestamp { seconds: 86_400, nanos: 0 },
        size: size as u64,
        xattrs: Vec::new(),
    }
}

/// Bytes of which a part compresses.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & if state & 1 << 30 == 0 { 0xff } else { 1 }
    })
    .take(len)
    .collect()
}

/// Entries of every kind with their contents; some lie across several frames.
fn sample() -> Vec<(Entry, Vec<u8>)> {
    let device = Device { major: 8, minor: 1 };
    let mut entries = vec![
        (entry("", Kind::Directory, 0), Vec::new()),
        (entry("bin", Kind::Directory, 0), Vec::new()),
        (entry("bin/l", Kind::Symlink(b"../x y".to_vec()), 0), Vec::new()),
        (entry("dev", Kind::CharDevice(device), 0), Vec::new()),
        (entry("disk", Kind::BlockDevice(device), 0), Vec::new()),
        (entry("empty", Kind::File, 0), Vec::new()),
        (entry("fifo", Kind::Fifo, 0), Vec::new()),
        (entry("hard", Kind::Hardlink(b"empty".to_vec()), 0), Vec::new()),
    ];
    for (n, len) in [1, 511, 512, 513, 70_000, 1 << 20, (5 << 20) + 17].into_iter().enumerate() {
        let content = noise(len, 7 + u32::try_from(n).unwrap());
        entries.push((entry(&format!("n{len}"), Kind::File, len), content));
    }
    let mut odd = entry(&"long/".repeat(40), Kind::File, 3);
    odd.path = [odd.path.trim_ascii_end(), b"\xff\xfe"].concat();
    odd.mtime = Timestamp { seconds: -2, nanos: 5 };
    odd.uid = u32::MAX - 1;
    odd.xattrs = vec![(b"user.k".to_vec(), b"\0=\n".to_vec())];
    entries.push((odd, b"odd".to_vec()));
    entries
}

fn write(dir: &Path, compression: Compression, workers: usize) -> NewLayer {
    let mut writer = LayerWriter::with_workers(dir, dir, compression, workers).unwrap();
    for (entry, content) in sample() {
        // One byte more than is wanted, in reads of odd lengths.
        let content = [&content[..], b"+"].concat();
        let (head, tail) = content.split_at(content.len() / 3);
        writer.append(&entry, &mut head.chain(tail)).unwrap();
    }
    writer.finish().unwrap()
}

fn stored(new: &NewLayer) -> Layer {
    Layer {
        descriptor: new.descriptor.clone(),
        diff_id: new.diff_id,
        blob: Arc::new(FileBlob::open(new.blob.path()).unwrap()),
        ztoc: None,
    }
}

/// All of the content, each span decoded alone and held against its hash.
fn content(layer: &Layer, index: &LayerIndex) -> Vec<u8> {
    let mut content = Vec::new();
    for number in 0..index.span_count() {
        let span = index.span(number).unwrap();
        assert_eq!(span.content_offset, content.len() as u64);
        content.extend(span::decode(index, layer.blob.as_ref(), number).unwrap());
        assert_eq!(span.content_offset + span.content_len, content.len() as u64);
    }
    content
}

/// All that an index says of its entries.
fn listing(index: &LayerIndex) -> Vec<String> {
    let one = |number| {
        let entry = index.entry(number).unwrap();
        let extents: Vec<_> = index.extents(&entry).unwrap().collect();
        let xattrs = index.xattrs(&entry).unwrap();
        let path = entry.path.escape_ascii();
        let link = entry.link.escape_ascii();
        let of = (entry.mode, entry.uid, entry.gid, entry.mtime, entry.size, entry.device);
        format!("{path} {:?} {link} {of:?} {extents:?} {xattrs:?}", entry.kind)
    };
    (0..index.len()).map(one).collect()
}

#[test]
fn a_scan_finds_what_the_writer_indexed() {
    for compression in PLAIN {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let new = write(dir.path(), compression, 2);
        let layer = stored(&new);
        let scanned = scan::scan(&layer, other.path(), &|_| ()).unwrap();
        assert_eq!(listing(&new.index), listing(&scanned));
        assert_eq!(new.index.summary(), scanned.summary());
        assert_eq!(new.index.summary().diff_id, new.diff_id);
        let content = content(&layer, &new.index);
        assert!(content == self::content(&layer, &scanned), "{compression:?}");

        let spans = if compression == Compression::None { 24 } else { 7 };
        assert!(new.index.span_count() >= spans, "{}", new.index.span_count());
        for (number, (entry, data)) in sample().into_iter().enumerate() {
            let view = new.index.entry(number).unwrap();
            assert_eq!((view.path, view.mtime), (&entry.path[..], entry.mtime));
            let extents: Vec<_> = new.index.extents(&view).unwrap().collect();
            let at = extents.first().map_or(0, |extent| extent.content_offset);
            let at = usize::try_from(at).unwrap();
            assert!(content[at..at + data.len()] == data, "{}", entry.path.escape_ascii());
        }
        drop(new);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "more than the index");
    }
}

#[test]
fn the_same_input_is_the_same_layer_on_any_machine() {
    for compression in ALL {
        let dir = tempfile::tempdir().unwrap();
        let digests = [1, 5].map(|workers| {
            let new = write(dir.path(), compression, workers);
            let bytes = std::fs::read(new.blob.path()).unwrap();
            assert_eq!(Descriptor::of(compression.media_type(), &bytes), new.descriptor);
            new.descriptor.digest
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    }
}

#[test]
fn a_layer_without_entries() {
    for compression in ALL {
        let dir = tempfile::tempdir().unwrap();
        let writer = LayerWriter::create(dir.path(), dir.path(), compression).unwrap();
        let new = writer.finish().unwrap();
        assert!(new.index.is_empty());
        if PLAIN.contains(&compression) {
            assert!(content(&stored(&new), &new.index) == [0; 1024]);
        } else {
            assert_eq!(new.index.span_count(), 0);
        }
    }
}

/// A command's output for this input; `None`, said aloud, if there is no such command.
fn filter(input: File, command: &[&str]) -> Option<Vec<u8>> {
    let mut child = Command::new(command[0]);
    child.args(&command[1..]).env("LC_ALL", "C").env("TZ", "UTC").stdin(input);
    let output = match child.stderr(Stdio::inherit()).output() {
        Ok(output) => output,
        Err(error) => {
            skip(format_args!("{} cannot be run: {error}", command[0]));
            return None;
        }
    };
    assert!(output.status.success(), "{command:?}: {}", output.status);
    Some(output.stdout)
}

#[test]
fn the_usual_tools_read_it() {
    for (compression, tool) in PLAIN.into_iter().zip(["zstd", "gzip", "cat"]) {
        let dir = tempfile::tempdir().unwrap();
        let new = write(dir.path(), compression, 2);
        let input = new.blob.reopen().unwrap();
        let arguments: &[&str] = if tool == "cat" { &["cat"] } else { &[tool, "-dc"] };
        let Some(tar) = filter(input, arguments) else { continue };
        assert!(tar == content(&stored(&new), &new.index), "{tool} makes something else of it");

        let mut plain = tempfile::tempfile_in(dir.path()).unwrap();
        plain.write_all(&tar).unwrap();
        std::io::Seek::rewind(&mut plain).unwrap();
        let list = ["tar", "-tv", "--full-time", "--numeric-owner", "-f", "-"];
        let Some(list) = filter(plain, &list) else { continue };
        let list = String::from_utf8(list).unwrap();
        let lines: Vec<_> = list.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), sample().len());
        let day = "1000/1001";
        let expected = [
            format!("drwxr-xr-x {day}          0 1970-01-02 00:00:00 ./"),
            format!("drwxr-xr-x {day}          0 1970-01-02 00:00:00 bin/"),
            format!("lrwxr-xr-x {day}          0 1970-01-02 00:00:00 bin/l -> ../x y"),
            format!("crwxr-xr-x {day}        8,1 1970-01-02 00:00:00 dev"),
            format!("brwxr-xr-x {day}        8,1 1970-01-02 00:00:00 disk"),
            format!("-rwxr-xr-x {day}          0 1970-01-02 00:00:00 empty"),
            format!("prwxr-xr-x {day}          0 1970-01-02 00:00:00 fifo"),
            format!("hrwxr-xr-x {day}          0 1970-01-02 00:00:00 hard link to empty"),
        ];
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(squeezed(line), squeezed(&expected));
        }
        let odd = lines.last().unwrap();
        assert!(odd.contains("4294967294/1001"), "{odd}");
        // tar -t shows this time wrongly (it adds a second), though tar -x sets it rightly.
        assert!(odd.contains("1969-12-31 23:59:5"), "{odd}");
        assert!(odd.ends_with("long/\\377\\376"), "{odd}");
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from_raw_os_error(nix::libc::EIO))
    }
}

#[test]
fn a_failed_entry_ends_the_layer_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = entry("etc/passwd", Kind::File, 3 << 20);
    let inputs: [(&mut dyn Read, &str); 2] = [
        (&mut &[1; 2 << 20][..], "/etc/passwd changed while it was read: it ends after 2097152 of"),
        (&mut Broken, "read /etc/passwd: Input/output error"),
    ];
    for (input, expected) in inputs {
        let mut writer = LayerWriter::create(dir.path(), dir.path(), ALL[0]).unwrap();
        let error = writer.append(&file, input).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        let error = writer.append(&file, &mut io::empty()).unwrap_err().to_string();
        assert!(error.contains("given up"), "{error}");
        assert!(writer.finish().is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[test]
fn an_entry_that_has_no_form_is_refused_and_the_layer_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LayerWriter::create(dir.path(), dir.path(), ALL[0]).unwrap();
    let error = writer.append(&entry("a/../b", Kind::Fifo, 0), &mut io::empty()).unwrap_err();
    assert!(error.to_string().starts_with("/a/../b cannot be put into a layer: "), "{error}");
    writer.append(&entry("b", Kind::Fifo, 0), &mut io::empty()).unwrap();
    assert_eq!(writer.finish().unwrap().index.len(), 1);
}

#[test]
fn a_layer_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = LayerWriter::create(dir.path(), dir.path(), ALL[0]).unwrap();
    writer.append(&entry("f", Kind::File, 9 << 20), &mut io::repeat(3)).unwrap();
    drop(writer);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn levels_and_directories_that_do_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let error = |compression, path: &str| {
        let blobs = dir.path().join(path);
        LayerWriter::create(&blobs, dir.path(), compression).unwrap_err().to_string()
    };
    assert_eq!(error(Compression::Gzip(10), ""), "gzip has no compression level 10, only 0 to 9");
    assert!(error(Compression::Zstd(23), "").starts_with("zstd has no compression level 23"));
    assert!(error(Compression::None, "none").contains("none: No such file"));
}

/// Makes this thread's own file system of 3 MiB at `dir`.
fn small_disk(dir: &Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=3m"))
}

/// Writes more to a disk than it holds.
fn fill(dir: &Path, blobs_fit: bool, compression: Compression) {
    if let Err(error) = small_disk(dir) {
        skip(format_args!("no file system of our own: {error}"));
        return;
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let blobs = if blobs_fit { elsewhere.path() } else { dir };
    let indexes = if blobs_fit { dir } else { elsewhere.path() };
    let mut writer = LayerWriter::create(blobs, indexes, compression).unwrap();
    let content = noise(1 << 20, 3);
    let mut result = Ok(());
    for n in 0..40_000 {
        let len = if blobs_fit { 0 } else { content.len() };
        let name = format!("{n}{}", "x".repeat(200));
        result = writer.append(&entry(&name, Kind::File, len), &mut &content[..]);
        if result.is_err() {
            break;
        }
    }
    let error = result.and_then(|()| writer.finish().map(|_| ())).unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");
    assert!(error.contains(&dir.display().to_string()), "{error}");
    for dir in [blobs, indexes] {
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    for (blobs_fit, compression) in
        ALL.map(|compression| (false, compression)).into_iter().chain([(true, ALL[0])])
    {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        // The mount lives in a name space that ends with its thread.
        std::thread::spawn(move || fill(&path, blobs_fit, compression)).join().unwrap();
    }
}

mod tables;
