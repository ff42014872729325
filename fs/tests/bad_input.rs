//! Images, indexes and disks that are not as they should be: an error that says so, or the right
//! result; never a panic, never half a file left.

mod images;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use images::{Member, Memory, image, index_dir, layer, tar_of};
use kfs_fs::digest::{DiffId, Digest};
use kfs_fs::filesystem::{ImageFs, Ino, OpenError, ReadError};
use kfs_fs::layer::scan::{self, LayerError};
use kfs_fs::layer::{Device, Kind};
use kfs_fs::oci::Layer;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use proptest::prelude::*;
use proptest::sample::Index;

/// Bytes that do not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Some of everything.
fn members() -> Vec<Member> {
    let mut file = Member::file("dir/file", noise(3000, 1));
    file.entry.xattrs = vec![(b"user.a".to_vec(), b"value".to_vec())];
    vec![
        Member::new("dir", Kind::Directory),
        file,
        Member::file("dir/other", noise(700, 2)),
        Member::new("dir/sub/link", Kind::Symlink(b"../file".to_vec())),
        Member::new("hard", Kind::Hardlink(b"dir/file".to_vec())),
        Member::new("dev", Kind::CharDevice(Device { major: 1, minor: 3 })),
        Member::file("gone/.wh.x", ""),
    ]
}

/// Walks the whole of a tree and reads the start of every file; how many names there are. More
/// than `limit` are a walk in circles.
fn walk(fs: &ImageFs, limit: usize) -> Result<usize, ReadError> {
    let mut todo = vec![Ino::ROOT];
    let mut count = 0;
    while let Some(dir) = todo.pop() {
        fs.parent(dir)?;
        let mut at = 0;
        while let Some(entry) = fs.entry_at(dir, at)? {
            at += 1;
            count += 1;
            assert!(count <= limit, "the walk does not end");
            fs.lookup(dir, entry.name)?;
            let attr = fs.attr(entry.ino)?;
            for name in fs.xattr_names(entry.ino)? {
                fs.xattr(entry.ino, name)?;
            }
            match entry.mode & images::S_IFMT {
                images::S_IFDIR => todo.push(entry.ino),
                images::S_IFLNK => _ = fs.readlink(entry.ino)?,
                images::S_IFREG => {
                    fs.read(entry.ino, 0, 1 << 20)?;
                    fs.read(entry.ino, attr.size / 2, 4096)?;
                    fs.read(entry.ino, attr.size.saturating_sub(10), 4096)?;
                }
                _ => {}
            }
        }
    }
    fs.totals();
    Ok(count)
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// Gives a file other content under the same name; open mappings keep the old one.
fn replace(path: &Path, content: &[u8]) {
    if path.exists() {
        fs::remove_file(path).unwrap();
    }
    fs::write(path, content).unwrap();
}

#[test]
fn a_flipped_byte_of_an_index_is_an_error_or_does_no_harm() {
    let tar = tar_of(&members());
    for blob in [tar.clone(), images::gzip(&tar)] {
        let image = image(vec![layer(blob, &tar)]);
        let dir = index_dir();
        let open = || ImageFs::open(&image, dir.path(), &|_| ());
        let names = walk(&open().unwrap(), 100).unwrap();
        let whole = files(dir.path());
        assert_eq!(whole.len(), 2, "an index of the layer and one of the image");
        let (mut errors, mut right) = (0, 0);
        for (path, content) in &whole {
            // Small changes too: they lead to another record, not outside.
            for (at, mask) in
                (0..content.len()).flat_map(|at| [1, 2, 7, 0x80, 0xff].map(|mask| (at, mask)))
            {
                for (path, content) in &whole {
                    replace(path, content);
                }
                let mut flipped = content.clone();
                flipped[at] ^= mask;
                replace(path, &flipped);
                if path.extension().is_some_and(|end| end == "layer") && at % 2 == 0 {
                    // Then the image is merged from it.
                    fs::remove_file(whole.keys().find(|other| *other != path).unwrap()).unwrap();
                }
                match open()
                    .map_err(|error| error.to_string())
                    .and_then(|fs| walk(&fs, 10 * names).map_err(|error| error.to_string()))
                {
                    Ok(_) => right += 1,
                    Err(message) => {
                        let layer = image.layers[0].descriptor.digest.hex();
                        let named = ["is damaged", &layer, "inode"];
                        let named = named.iter().any(|part| message.contains(part));
                        assert!(named && !message.contains("config says"), "{message}");
                        errors += 1;
                    }
                }
            }
        }
        assert!(errors > 100 && right > 100, "{errors} errors, {right} without");
    }
}

#[test]
fn an_index_that_is_cut_short_is_made_again() {
    let tar = tar_of(&members());
    let image = image(vec![layer(images::gzip(&tar), &tar)]);
    let dir = index_dir();
    let expected = images::lines(&images::listing(&open(&image, dir.path())));
    let whole = files(dir.path());
    for (path, content) in &whole {
        for len in (0..content.len()).step_by(97) {
            replace(path, &content[..len]);
            let found = images::lines(&images::listing(&open(&image, dir.path())));
            assert_eq!(found, expected, "{} cut to {len}", path.display());
        }
    }
    assert_eq!(files(dir.path()), whole, "the indexes are the same as before");
}

fn open(image: &kfs_fs::oci::Image, indexes: &Path) -> ImageFs {
    ImageFs::open(image, indexes, &|_| ()).unwrap()
}

/// A layer in every coding, with content that is unpacked in the last.
fn codings(members: &[Member]) -> Vec<(&'static str, Layer)> {
    let tar = tar_of(members);
    vec![
        ("tar", layer(tar.clone(), &tar)),
        ("gzip", layer(images::gzip(&tar), &tar)),
        ("zstd", layer(images::zstd(&tar), &tar)),
    ]
}

#[test]
fn a_blob_that_changes_after_it_was_indexed_gives_no_wrong_byte() {
    let content = noise(3 << 20, 3);
    for (coding, whole) in codings(&[Member::file("file", content.clone())]) {
        let dir = index_dir();
        drop(open(&image(vec![whole.clone()]), dir.path()));
        let mut blob = vec![0; usize::try_from(whole.blob.size()).unwrap()];
        whole.blob.read_exact_at(0, &mut blob).unwrap();
        let mut broken: Vec<Vec<u8>> = vec![Vec::new(), vec![0; blob.len()]];
        for part in 1..20 {
            let mut flipped = blob.clone();
            flipped[blob.len() * part / 20] ^= 0x10;
            broken.extend([flipped, blob[..blob.len() * part / 20].to_vec()]);
        }
        let mut errors = 0;
        for blob in broken {
            let changed = Layer { blob: Arc::new(Memory(blob)), ..whole.clone() };
            let fs = open(&image(vec![changed]), dir.path());
            let file = fs.lookup(Ino::ROOT, b"file").unwrap().unwrap().ino;
            for start in (0..content.len()).step_by(200_000) {
                let end = (start + 200_000).min(content.len());
                match fs.read(file, start as u64, 200_000) {
                    Ok(found) => assert!(found == content[start..end], "{coding} at {start}"),
                    Err(error) => {
                        errors += 1;
                        let message = error.to_string();
                        assert!(message.contains(&whole.descriptor.digest.hex()), "{message}");
                    }
                }
            }
        }
        assert!(errors > 40, "{coding}: only {errors} errors");
    }
}

#[test]
fn unpacked_content_that_was_damaged_gives_no_wrong_byte() {
    let content = noise(18 << 20, 4);
    let tar = tar_of(&[Member::file("file", content.clone())]);
    let image = image(vec![layer(images::zstd(&tar), &tar)]);
    let dir = index_dir();
    drop(open(&image, dir.path()));
    let path = |end: &str| {
        let paths = files(dir.path()).into_keys();
        paths.into_iter().find(|path| path.extension().is_some_and(|found| found == end)).unwrap()
    };
    let unpacked = path("content");
    let mut damaged = fs::read(&unpacked).unwrap();
    damaged[10 << 20] ^= 1;
    replace(&unpacked, &damaged);
    let fs = open(&image, dir.path());
    let file = fs.lookup(Ino::ROOT, b"file").unwrap().unwrap().ino;
    assert!(fs.read(file, 0, 1 << 20).unwrap() == content[..1 << 20]);
    let error = fs.read(file, 10 << 20, 4096).unwrap_err().to_string();
    assert!(error.contains("content has hash"), "{error}");
    // One that is shorter is made again.
    replace(&unpacked, &damaged[..1000]);
    let fs = open(&image, dir.path());
    let file = fs.lookup(Ino::ROOT, b"file").unwrap().unwrap().ino;
    assert!(fs.read(file, 0, usize::MAX).unwrap() == content);
}

/// A file system of `size` bytes that goes away with its value; `None`, with a line that says so,
/// where it cannot be mounted.
struct Small(tempfile::TempDir);

impl Small {
    fn new(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to mount a small file system");
            return None;
        }
        let small = Self(dir);
        small.mount(MsFlags::empty(), size);
        Some(small)
    }

    fn mount(&self, flags: MsFlags, size: &str) {
        let options = format!("size={size}");
        mount(Some("kfs-test"), self.0.path(), Some("tmpfs"), flags, Some(&options[..])).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The directory is removed next, which fails loudly enough if it is still mounted.
        _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

fn is_full(source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::StorageFull
}

#[test]
fn a_full_disk_leaves_no_index_and_is_named() {
    let Some(small) = Small::new("1m") else { return };
    let dir = small.0.path();
    // Many entries, and content that has to be unpacked.
    let many: Vec<Member> = (0..20_000).map(|n| Member::file(format!("file{n}"), "")).collect();
    let large = [Member::file("file", noise(18 << 20, 5))];
    for layers in [codings(&many), codings(&large)] {
        let unpacks = layers[0].1.blob.size() > (18 << 20);
        for (coding, layer) in layers {
            if unpacks && coding != "zstd" {
                continue;
            }
            let error = scan::open_or_scan(&layer, dir, &|_| ()).unwrap_err();
            let LayerError::Index { source, .. } = &error else { panic!("{coding}: {error}") };
            assert!(is_full(source), "{coding}: {error}");
            let message = error.to_string();
            assert!(message.contains(&dir.display().to_string()), "{message}");
            assert_eq!(files(dir), BTreeMap::new(), "{coding}");
        }
    }
    // With room it goes on.
    small.mount(MsFlags::MS_REMOUNT, "64m");
    let (_, layer) = codings(&many).remove(1);
    assert_eq!(walk(&open(&image(vec![layer]), dir), 30_000).unwrap(), 20_000);
}

#[test]
fn a_disk_that_is_full_when_layers_are_merged_leaves_their_indexes() {
    let Some(small) = Small::new("64m") else { return };
    let dir = small.0.path();
    let many: Vec<Member> = (0..20_000).map(|n| Member::file(format!("file{n}"), "")).collect();
    let (_, layer) = codings(&many).remove(1);
    drop(scan::open_or_scan(&layer, dir, &|_| ()).unwrap());
    let before = files(dir);
    let used: usize = before.values().map(Vec::len).sum();
    small.mount(MsFlags::MS_REMOUNT, &(used.next_multiple_of(4096) + 200_000).to_string());
    let error = ImageFs::open(&image(vec![layer]), dir, &|_| ()).unwrap_err();
    let OpenError::Index { source, .. } = &error else { panic!("{error}") };
    assert!(is_full(source), "{error}");
    assert!(files(dir) == before, "something else is left");
}

#[test]
fn an_index_directory_that_cannot_be_written_is_named() {
    let Some(small) = Small::new("16m") else { return };
    let dir = small.0.path();
    let (_, layer) = codings(&members()).remove(1);
    let image = image(vec![layer]);
    let names = walk(&open(&image, dir), 100).unwrap();
    let tree = files(dir).into_keys().find(|path| path.extension().unwrap() == "tree").unwrap();
    small.mount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "16m");
    assert_eq!(walk(&open(&image, dir), 100).unwrap(), names, "indexes that are there do");

    small.mount(MsFlags::MS_REMOUNT, "16m");
    fs::remove_file(tree).unwrap();
    small.mount(MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "16m");
    let error = ImageFs::open(&image, dir, &|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Index { .. }), "{error}");
    assert!(error.to_string().contains(&dir.display().to_string()), "{error}");

    let missing = dir.join("missing");
    let error = ImageFs::open(&image, &missing, &|_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Layer(LayerError::Index { .. })), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
}

/// A change of a blob.
#[derive(Clone, Debug)]
enum Change {
    Byte(Index, u8),
    /// A byte of a tar header, whose checksum is made right again.
    Header(Index, usize, u8),
    /// A field of a tar header as a number in base 256.
    Size(Index, u64),
    Cut(Index),
    Remove(Index, Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (any::<Index>(), 0..512usize, any::<u8>())
            .prop_map(|(at, in_block, byte)| { Change::Header(at, in_block, byte) }),
        (any::<Index>(), prop_oneof![any::<u64>(), Just(1 << 62), Just(u64::MAX), 0..10_000u64])
            .prop_map(|(at, size)| Change::Size(at, size)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Remove(from, to)),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..600))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn apply(change: &Change, data: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    let range = |from: &Index, to: &Index, len| {
        let (from, to) = (from.index(len), to.index(len));
        from.min(to)..from.max(to)
    };
    match change {
        Change::Byte(at, byte) => {
            let at = at.index(data.len());
            data[at] = *byte;
        }
        Change::Header(at, in_block, byte) => {
            header(data, at, |block| block[*in_block] = *byte);
        }
        Change::Size(at, size) => header(data, at, |block| {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }),
        Change::Cut(at) => data.truncate(at.index(data.len())),
        Change::Remove(from, to) => _ = data.drain(range(from, to, data.len())),
        Change::Repeat(from, to) => {
            let range = range(from, to, data.len());
            let repeated = data[range.clone()].to_vec();
            data.splice(range.start..range.start, repeated);
        }
        Change::Insert(at, bytes) => {
            let at = at.index(data.len());
            data.splice(at..at, bytes.iter().copied());
        }
    }
}

/// Changes a block and makes its checksum right.
fn header(data: &mut [u8], at: &Index, change: impl FnOnce(&mut [u8])) {
    if data.len() < 512 {
        return;
    }
    let block = at.index(data.len() / 512) * 512;
    let block = &mut data[block..block + 512];
    change(block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn any_blob_is_indexed_or_refused(
        of_tar in prop::collection::vec(change(), 0..4),
        of_blob in prop::collection::vec(change(), 0..2),
        coding in 0..3,
    ) {
        let mut tar = tar_of(&members());
        for change in &of_tar {
            apply(change, &mut tar);
        }
        let mut blob = match coding {
            0 => tar.clone(),
            1 => images::gzip(&tar),
            _ => images::zstd(&tar),
        };
        for change in &of_blob {
            apply(change, &mut blob);
        }
        let mut layer = layer(blob, &tar);
        if coding == 0 {
            let mut blob = vec![0; usize::try_from(layer.blob.size()).unwrap()];
            layer.blob.read_exact_at(0, &mut blob).unwrap();
            layer.diff_id = DiffId::new(Digest::of(&blob));
        }
        let dir = index_dir();
        match ImageFs::open(&image(vec![layer]), dir.path(), &|_| ()) {
            Ok(fs) => _ = walk(&fs, 10_000).unwrap(),
            Err(OpenError::Layer(_)) => prop_assert_eq!(files(dir.path()), BTreeMap::new()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
