//! An image through the kernel: what system calls see of a mount must be what the layer says.
//!
//! Needs root and /dev/fuse; without them each test says that it is skipped.

#[path = "../../tests/skip/mod.rs"]
mod skip;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kfs_fs::blob::FileBlob;
use kfs_fs::digest::{DiffId, Digest};
use kfs_fs::filesystem::ImageFs;
use kfs_fs::fuse::{self, FuseError, Mounted};
use kfs_fs::oci::manifest::{CONFIG, Descriptor, ImageConfig, LAYER_TAR, Manifest};
use kfs_fs::oci::{Image, Layer};
use nix::errno::Errno;
use nix::unistd::Whence;
use skip::skip;
use tar::EntryType;
use tempfile::TempDir;

/// More names than one answer to the kernel holds.
const MANY: usize = 3000;
const CAPABILITY: &[u8] =
    b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

struct Fixture {
    _dir: TempDir,
    root: PathBuf,
    mounted: Mounted,
    big: Vec<u8>,
}

/// `None`, with a line that says so, where a mount cannot be tested.
fn fixture() -> Option<Fixture> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        skip("needs root and /dev/fuse");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    // No two places are alike.
    let mut big: Vec<u8> = (0..750_000_u32).flat_map(u32::to_le_bytes).collect();
    big.push(b'!');
    let fs = open(dir.path(), &layer(&big));
    let root = dir.path().join("mnt");
    fs::create_dir(&root).unwrap();
    let mounted = fuse::mount(Arc::new(fs), &root, "test".as_ref()).unwrap();
    Some(Fixture { _dir: dir, root, mounted, big })
}

fn open(dir: &Path, tar: &[u8]) -> ImageFs {
    let blob = dir.join("layer");
    fs::write(&blob, tar).unwrap();
    let indexes = dir.join("indexes");
    fs::create_dir(&indexes).unwrap();
    let descriptor = Descriptor::of(LAYER_TAR, tar);
    let layer = Layer {
        diff_id: DiffId::new(Digest::of(tar)),
        blob: Arc::new(FileBlob::open(&blob).unwrap()),
        descriptor: descriptor.clone(),
        ztoc: None,
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: None,
        config: Descriptor::of(CONFIG, b"{}"),
        layers: vec![descriptor],
        annotations: Default::default(),
    };
    let image = Image {
        name: "test".to_owned(),
        digest: Digest::of(b"{}"),
        manifest,
        manifest_json: b"{}".to_vec(),
        config: ImageConfig::default(),
        config_json: b"{}".to_vec(),
        layers: vec![layer],
    };
    ImageFs::open(&image, &indexes, &|_| {}).unwrap()
}

struct TarBuilder(tar::Builder<Vec<u8>>);

impl TarBuilder {
    fn add(&mut self, path: &str, kind: EntryType, mode: u32, data: &[u8]) {
        let mut header = header(kind, mode);
        header.set_size(data.len() as u64);
        self.0.append_data(&mut header, path, data).unwrap();
    }

    fn link(&mut self, path: &str, kind: EntryType, target: &str) {
        self.0.append_link(&mut header(kind, 0o777), path, target).unwrap();
    }

    fn device(&mut self, path: &str, kind: EntryType, major: u32, minor: u32) {
        let mut header = header(kind, 0o620);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, path, io::empty()).unwrap();
    }

    fn pax(&mut self, records: &[(&str, &[u8])]) {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
    }
}

fn header(kind: EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(1000);
    header.set_gid(2_000_000);
    header.set_mtime(1_000_000_000);
    header.set_size(0);
    header
}

fn layer(big: &[u8]) -> Vec<u8> {
    let mut tar = TarBuilder(tar::Builder::new(Vec::new()));
    tar.add("bin/", EntryType::Directory, 0o755, b"");
    tar.add("bin/su", EntryType::Regular, 0o4755, b"#!/bin/sh\n");
    tar.add("bin/bash", EntryType::Regular, 0o755, &fs::read("/bin/bash").unwrap());
    tar.pax(&[
        ("SCHILY.xattr.security.capability", CAPABILITY),
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.user.note", b"a value"),
    ]);
    tar.add("bin/ping", EntryType::Regular, 0o755, b"x");
    tar.pax(&[("mtime", b"1700000000.123456789")]);
    tar.add("big", EntryType::Regular, 0o600, big);
    tar.link("bin/hard", EntryType::Link, "big");
    tar.link("link", EntryType::Symlink, "bin/su");
    tar.link("dangling", EntryType::Symlink, "/no/where");
    tar.device("null", EntryType::Char, 1, 3);
    tar.device("disk", EntryType::Block, 259, 300);
    tar.add("pipe", EntryType::Fifo, 0o644, b"");
    tar.add("sticky/", EntryType::Directory, 0o1777, b"");
    tar.add("many/", EntryType::Directory, 0o755, b"");
    for number in 0..MANY {
        tar.add(&format!("many/a-rather-long-name-{number:05}"), EntryType::Regular, 0o644, b"");
    }
    tar.0.into_inner().unwrap()
}

fn errno(result: io::Result<impl Sized>) -> i32 {
    result.err().expect("an error").raw_os_error().expect("of the system")
}

#[test]
fn lstat_shows_what_the_layer_says() {
    let Some(fixture) = fixture() else { return };
    let stat = |path: &str| fixture.root.join(path).symlink_metadata().unwrap();

    let su = stat("bin/su");
    assert_eq!((su.mode(), su.uid(), su.gid()), (0o104755, 1000, 2_000_000));
    assert_eq!((su.mtime(), su.mtime_nsec()), (1_000_000_000, 0));
    assert_eq!(stat("sticky").mode(), 0o041777);

    let (big, hard) = (stat("big"), stat("bin/hard"));
    assert_eq!((big.mtime(), big.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!((big.size(), big.blocks()), (3_000_001, 3_000_001_u64.div_ceil(4096) * 8));
    assert_eq!((big.nlink(), big.ino()), (2, hard.ino()));
    assert_eq!(su.nlink(), 1);

    let root = fixture.root.metadata().unwrap();
    assert_eq!((root.ino(), root.is_dir()), (1, true));
    // bin, sticky, many, `.` and the name in the directory above.
    assert_eq!(root.nlink(), 5);

    let (null, disk) = (stat("null"), stat("disk"));
    assert!(null.file_type().is_char_device() && disk.file_type().is_block_device());
    assert_eq!(null.rdev(), nix::sys::stat::makedev(1, 3));
    assert_eq!(disk.rdev(), nix::sys::stat::makedev(259, 300));
    assert!(stat("pipe").file_type().is_fifo());
}

#[test]
fn symlinks_are_read_and_followed() {
    let Some(fixture) = fixture() else { return };
    let link = fixture.root.join("link");
    // Twice: the second answer comes from the kernel's cache.
    for _ in 0..2 {
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("bin/su"));
        let dangling = fixture.root.join("dangling");
        assert_eq!(fs::read_link(&dangling).unwrap(), Path::new("/no/where"));
    }
    assert_eq!(fs::read(&link).unwrap(), b"#!/bin/sh\n");
    assert_eq!(link.symlink_metadata().unwrap().size(), 6);
}

#[test]
fn content_is_right_at_any_offset() {
    let Some(fixture) = fixture() else { return };
    let path = fixture.root.join("big");
    let file = File::open(&path).unwrap();
    for (offset, len) in
        [(0, 1), (4095, 2), (1_048_575, 70_000), (2_999_000, 1001), (131_072, 4096)]
    {
        let mut buf = vec![0; len];
        file.read_exact_at(&mut buf, offset as u64).unwrap();
        assert_eq!(buf, fixture.big[offset..offset + len], "at {offset}");
    }
    assert_eq!(file.read_at(&mut [0; 10], 3_000_001).unwrap(), 0);
    let mut start = [0; 10];
    assert_eq!(file.read_at(&mut start, 2_999_999).unwrap(), 2);
    assert_eq!(fs::read(&path).unwrap(), fixture.big);
    assert_eq!(fs::read(fixture.root.join("bin/hard")).unwrap(), fixture.big);
}

#[test]
fn a_program_runs_from_the_mount() {
    let Some(fixture) = fixture() else { return };
    let output =
        Command::new(fixture.root.join("bin/bash")).args(["-c", "echo $((6 * 7))"]).output();
    assert_eq!(output.unwrap().stdout, b"42\n");
}

#[test]
fn xattrs_are_listed_and_read() {
    let Some(fixture) = fixture() else { return };
    let ping = fixture.root.join("bin/ping");
    let names: BTreeSet<_> = xattr::list(&ping).unwrap().collect();
    let expected = ["security.capability", "user.empty", "user.note"];
    assert_eq!(names, expected.iter().map(Into::into).collect());
    assert_eq!(xattr::get(&ping, "security.capability").unwrap().unwrap(), CAPABILITY);
    assert_eq!(xattr::get(&ping, "user.note").unwrap().unwrap(), b"a value");
    assert_eq!(xattr::get(&ping, "user.empty").unwrap().unwrap(), b"");
    assert_eq!(xattr::get(&ping, "user.none").unwrap(), None);
    assert_eq!(xattr::list(fixture.root.join("big")).unwrap().count(), 0);
}

#[test]
fn directories_are_sorted_whole_and_seekable() {
    let Some(fixture) = fixture() else { return };
    let list = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let many = fixture.root.join("many");
    let names = list(&many);
    assert_eq!(names.len(), MANY);
    assert!(names.is_sorted());
    assert_eq!(list(&many), names, "the second time, from the kernel's cache");
    let expected = ["big", "bin", "dangling", "disk", "link", "many", "null", "pipe", "sticky"];
    assert_eq!(list(&fixture.root), expected);
    assert!(list(&fixture.root.join("sticky")).is_empty());

    // Places 0 and 1 are `.` and `..`; a place means the same name for ever.
    let mut dir = File::open(&many).unwrap();
    for place in [0, 1, 2, 3, 1000, MANY + 1, 17, MANY, 2] {
        dir.seek(SeekFrom::Start(place as u64)).unwrap();
        let copy = dir.try_clone().unwrap();
        let mut entries = nix::dir::Dir::from_fd(copy.into()).unwrap();
        let first = entries.iter().next().unwrap().unwrap();
        let name = first.file_name().to_str().unwrap();
        match place {
            0 => assert_eq!(name, "."),
            1 => assert_eq!(name, ".."),
            _ => assert_eq!(name, names[place - 2]),
        }
        let stat = many.join(name).symlink_metadata().unwrap();
        assert!(place == 1 || first.ino() == stat.ino());
    }
    dir.seek(SeekFrom::Start(MANY as u64 + 2)).unwrap();
    let mut entries = nix::dir::Dir::from_fd(dir.into()).unwrap();
    assert!(entries.iter().next().is_none());
}

#[test]
fn what_is_not_there_is_not_found_twice() {
    let Some(fixture) = fixture() else { return };
    for _ in 0..2 {
        assert_eq!(errno(fs::metadata(fixture.root.join("bin/nothing"))), nix::libc::ENOENT);
        assert_eq!(errno(fs::metadata(fixture.root.join("big/x"))), nix::libc::ENOTDIR);
    }
    let long = "x".repeat(256);
    assert!(matches!(
        errno(fs::metadata(fixture.root.join(long))),
        nix::libc::ENOENT | nix::libc::ENAMETOOLONG
    ));
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    assert_eq!(errno(fs::metadata(fixture.root.join(odd))), nix::libc::ENOENT);
}

#[test]
fn statfs_counts_what_the_image_holds() {
    let Some(fixture) = fixture() else { return };
    let stat = nix::sys::statvfs::statvfs(&fixture.root).unwrap();
    // root, bin with 3 files, big, 2 symlinks, 2 devices, fifo, sticky, many with its files
    assert_eq!(stat.files(), 13 + MANY as u64);
    assert_eq!(stat.files_free() + stat.blocks_free() + stat.blocks_available(), 0);
    let bytes = stat.blocks() * stat.fragment_size();
    let sum = 3_000_001 + fs::metadata("/bin/bash").unwrap().len();
    assert!((sum..sum + 8192).contains(&bytes), "{bytes} for {sum}");
    assert!(stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
}

#[test]
fn nothing_can_be_written() {
    let Some(fixture) = fixture() else { return };
    let path = |name: &str| fixture.root.join(name);
    let erofs = nix::libc::EROFS;
    assert_eq!(errno(File::create(path("new"))), erofs);
    assert_eq!(errno(File::options().write(true).open(path("big"))), erofs);
    assert_eq!(errno(fs::remove_file(path("big"))), erofs);
    assert_eq!(errno(fs::create_dir(path("new"))), erofs);
    assert_eq!(errno(fs::rename(path("big"), path("new"))), erofs);
    assert_eq!(errno(fs::hard_link(path("big"), path("new"))), erofs);
    assert_eq!(errno(xattr::set(path("big"), "user.x", b"y")), erofs);

    // The library answers the same if somebody makes the kernel ask.
    let none: Option<&str> = None;
    nix::mount::mount(none, &fixture.root, none, nix::mount::MsFlags::MS_REMOUNT, none).unwrap();
    assert_eq!(errno(File::create(path("new"))), erofs);
    assert_eq!(errno(fs::remove_file(path("big"))), erofs);
    assert_eq!(errno(fs::remove_dir(path("sticky"))), erofs);
    assert_eq!(errno(fs::create_dir(path("new"))), erofs);
    assert_eq!(errno(fs::rename(path("big"), path("new"))), erofs);
    assert_eq!(errno(fs::hard_link(path("big"), path("new"))), erofs);
    assert_eq!(errno(std::os::unix::fs::symlink("a", path("new"))), erofs);
    assert_eq!(errno(std::os::unix::fs::chown(path("big"), Some(1), None)), erofs);
    assert_eq!(errno(xattr::set(path("big"), "user.x", b"y")), erofs);
    assert_eq!(errno(xattr::remove(path("bin/ping"), "user.note")), erofs);
    let file = File::options().write(true).open(path("big")).unwrap();
    assert_eq!(errno(file.write_all_at(b"x", 0).and_then(|()| file.sync_all())), erofs);
    assert_eq!(fs::read(path("big")).unwrap(), fixture.big);
}

#[test]
fn damage_is_eio_and_never_wrong_bytes() {
    let Some(fixture) = fixture() else { return };
    // The blob lies beside the mount: flip a byte in the middle of `big`.
    let blob = fixture.root.with_file_name("layer");
    let data = fs::read(&blob).unwrap();
    let needle = &fixture.big[1_500_000..1_500_064];
    let at = data.windows(64).position(|window| window == needle).unwrap();
    let file = File::options().write(true).open(&blob).unwrap();
    file.write_all_at(&[!data[at]], at as u64).unwrap();
    let big = File::open(fixture.root.join("big")).unwrap();
    let mut buf = [0; 64];
    assert_eq!(errno(big.read_exact_at(&mut buf, 1_500_000)), nix::libc::EIO);
    // Once the blob is whole again so is the file: a failure is not cached.
    file.write_all_at(&[data[at]], at as u64).unwrap();
    big.read_exact_at(&mut buf, 1_500_000).unwrap();
    assert_eq!(buf[..], fixture.big[1_500_000..1_500_064]);
}

#[test]
fn a_busy_mount_is_detached_and_ends_with_its_user() {
    let Some(fixture) = fixture() else { return };
    let mut file = File::open(fixture.root.join("big")).unwrap();
    let busy = fixture.mounted.unmount().unwrap_err();
    let FuseError::Unmount { source, .. } = busy else { panic!("{busy}") };
    assert_eq!(source.kind(), io::ErrorKind::ResourceBusy);
    assert_eq!(fs::read_dir(&fixture.root).unwrap().count(), 0, "it is detached");
    let mut content = Vec::new();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, fixture.big);
}

#[test]
fn an_unmount_ends_the_threads() {
    let Some(fixture) = fixture() else { return };
    let threads = || {
        let names = fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("fuser")).count()
    };
    assert!(threads() > 0);
    let status = Command::new("umount").arg(&fixture.root).status().unwrap();
    assert!(status.success());
    fixture.mounted.wait().unwrap();
    assert_eq!(fs::read_dir(&fixture.root).unwrap().count(), 0);
}

#[test]
fn overlayfs_finds_a_file_by_its_handle() {
    let Some(fixture) = fixture() else { return };
    let dir = fixture.root.parent().unwrap();
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| {
        let path = dir.join(name);
        fs::create_dir(&path).unwrap();
        path
    });
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,xino=on",
        fixture.root.display(),
        upper.display(),
        work.display()
    );
    let mount = |merged: &Path| {
        let none = nix::mount::MsFlags::empty();
        let (name, kind) = (Some("test"), Some("overlay"));
        nix::mount::mount(name, merged, kind, none, Some(options.as_str())).unwrap();
    };
    mount(&merged);
    let su = merged.join("bin/su");
    let before = su.metadata().unwrap();
    assert_eq!(before.dev(), merged.metadata().unwrap().dev());
    fs::set_permissions(&su, before.permissions()).unwrap();
    nix::mount::umount(&merged).unwrap();
    // What was copied up keeps the inode number of its origin, also when no cache knows it.
    fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
    mount(&merged);
    let after = su.metadata().unwrap();
    nix::mount::umount(&merged).unwrap();
    assert_eq!(before.ino(), after.ino());
    assert_eq!(fs::read(upper.join("bin/su")).unwrap(), b"#!/bin/sh\n");
}

#[test]
fn holes_are_found_without_reading_them() {
    if fixture().is_none() {
        return;
    }
    const SIZE: i64 = 1 << 50;
    let mut tar = TarBuilder(tar::Builder::new(Vec::new()));
    tar.pax(&[
        ("GNU.sparse.size", SIZE.to_string().as_bytes()),
        ("GNU.sparse.numblocks", b"3"),
        ("GNU.sparse.map", b"4096,2,4098,3,1000000000,4"),
    ]);
    tar.add("sparse", EntryType::Regular, 0o644, b"aabbbcccc");
    tar.add("dense", EntryType::Regular, 0o644, b"123");
    tar.add("empty", EntryType::Regular, 0o644, b"");
    let dir = tempfile::tempdir().unwrap();
    let fs = open(dir.path(), &tar.0.into_inner().unwrap());
    let root = dir.path().join("mnt");
    fs::create_dir(&root).unwrap();
    let _mounted = fuse::mount(Arc::new(fs), &root, "test".as_ref()).unwrap();
    let seek = |name: &str, offset, whence| {
        let file = File::open(root.join(name)).unwrap();
        nix::unistd::lseek(file, offset, whence)
    };
    let cases = [
        ("sparse", 0, Ok(4096), Ok(0)),
        ("sparse", 4097, Ok(4097), Ok(4101)),
        ("sparse", 4101, Ok(1_000_000_000), Ok(4101)),
        ("sparse", 1_000_000_003, Ok(1_000_000_003), Ok(1_000_000_004)),
        ("sparse", 1_000_000_004, Err(Errno::ENXIO), Ok(1_000_000_004)),
        ("sparse", SIZE, Err(Errno::ENXIO), Err(Errno::ENXIO)),
        ("dense", 1, Ok(1), Ok(3)),
        ("dense", 3, Err(Errno::ENXIO), Err(Errno::ENXIO)),
        ("empty", 0, Err(Errno::ENXIO), Err(Errno::ENXIO)),
    ];
    for (name, offset, data, hole) in cases {
        assert_eq!(seek(name, offset, Whence::SeekData), data, "data in {name} at {offset}");
        assert_eq!(seek(name, offset, Whence::SeekHole), hole, "hole in {name} at {offset}");
    }
    assert_eq!(seek("sparse", -1, Whence::SeekEnd), Ok(SIZE - 1));
}
