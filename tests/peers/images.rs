//! A mounted image beside the same image unpacked by umoci and mounted by buildah.

use std::fs;
use std::path::Path;
use std::process::Command;

use tar::EntryType;

use crate::layout::{self, LayerTar, gzip};
use crate::tools::{Bench, available, run};
use crate::walk::{differences, walk};

const CAPABILITY: &[u8] =
    b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

/// Every kind of file, and what the upper layers will hide.
fn bottom() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let long = "long-".repeat(40);
    let mut tar = LayerTar::new(1_000_000_000);
    tar.dir("./", 0o755).dir("usr/", 0o755).dir("usr/bin/", 0o755);
    tar.file("usr/bin/tool", 0o755, b"#!/bin/sh\n");
    tar.file("usr/bin/su", 0o4755, &noise).file("usr/bin/wall", 0o2755, b"wall");
    tar.link("bin", EntryType::Symlink, "usr/bin");
    tar.link("dangling", EntryType::Symlink, "/no/where/at/all");
    tar.pax(&[
        ("SCHILY.xattr.security.capability", CAPABILITY),
        ("SCHILY.xattr.user.empty", b""),
        ("SCHILY.xattr.user.note", b"two\nlines"),
    ]);
    tar.file("usr/bin/ping", 0o755, b"ping");
    tar.dir("etc/", 0o755).owned("etc/shadow", 0, 42).owned("etc/big", 2_000_000_000, 3_000_000);
    tar.pax(&[("mtime", b"1700000000.123456789")]);
    tar.file("etc/nanoseconds", 0o644, b"");
    tar.file("etc/motd", 0o644, b"old").file("empty", 0o644, b"").file(
        "zeros",
        0o600,
        &[0; 1 << 20],
    );
    tar.dir("lib/", 0o755).file("lib/a", 0o644, b"three names");
    tar.link("lib/b", EntryType::Link, "lib/a").link("lib/c", EntryType::Link, "lib/a");
    tar.fifo("pipe").link("lib/pipe", EntryType::Link, "pipe");
    tar.dir("dev/", 0o755).device("dev/null", EntryType::Char, (1, 3));
    tar.device("dev/disk", EntryType::Block, (259, 300));
    tar.dir("tmp/", 0o1777).file("srv/www/data/index.html", 0o644, b"no entry for my parents");
    tar.dir("odd/", 0o755)
        .odd(b"odd/\xff\xfe")
        .odd(b"odd/new\nline")
        .odd(b"odd/ *\\")
        .odd(b"odd/-rf");
    tar.file(&format!("odd/{long}/{long}/file"), 0o644, b"a long way");
    tar.dir("gone/", 0o755).file("gone/a", 0o644, b"a").file("gone/b", 0o644, b"b");
    tar.dir("opaque/", 0o755).dir("opaque/sub/", 0o700).file("opaque/sub/deep", 0o644, b"deep");
    tar.file("opaque/old", 0o644, b"old");
    tar.file("becomes-dir", 0o644, b"").dir("becomes-file/", 0o755).file(
        "becomes-file/x",
        0o644,
        b"",
    );
    tar.dir("becomes-link/", 0o755).file("becomes-link/x", 0o644, b"");
    tar.dir("changes/", 0o755).file("changes/kept", 0o644, b"kept");
    tar.finish().unwrap()
}

/// Whiteouts, an opaque marker between what it must not hide, kinds that change.
fn middle() -> Vec<u8> {
    let mut tar = LayerTar::new(1_100_000_000);
    tar.dir("opaque/", 0o750).file("opaque/before", 0o644, b"before");
    tar.mark("opaque/.wh..wh..opq").file("opaque/after", 0o644, b"after");
    tar.dir("gone/", 0o755).mark("gone/.wh.a");
    tar.dir("lib/", 0o755).mark("lib/.wh.b");
    tar.dir("becomes-dir/", 0o711).file("becomes-dir/x", 0o644, b"x");
    tar.file("becomes-file", 0o644, b"file").link("becomes-link", EntryType::Symlink, "changes");
    tar.dir("changes/", 0o700);
    tar.dir("etc/", 0o755).file("etc/motd", 0o600, b"new").link(
        "etc/issue",
        EntryType::Link,
        "etc/motd",
    );
    tar.finish().unwrap()
}

/// Names come back; a whole directory goes.
fn top() -> Vec<u8> {
    let mut tar = LayerTar::new(1_200_000_000);
    tar.dir("gone/", 0o755).dir("gone/a/", 0o700).file("gone/a/again", 0o644, b"again");
    tar.dir("opaque/", 0o755).dir("opaque/sub/", 0o755).file("opaque/sub/new", 0o644, b"new");
    tar.mark(".wh.srv").dir("tmp/", 0o1777);
    tar.finish().unwrap()
}

#[test]
fn tricky_layers() {
    if !available() {
        return;
    }
    let mut bench = Bench::new();
    let layout = bench.path("layout");
    let (bottom, middle, top) = (bottom(), middle(), top());
    let (one, two) = top.split_at(top.len() / 2);
    let members = [gzip(one), gzip(two)].concat();
    let layers = [
        ("tar+gzip", gzip(&bottom), &bottom[..]),
        ("tar", middle.clone(), &middle[..]),
        ("tar+gzip", members, &top[..]),
    ];
    layout::write(&layout, &layers);
    compare(&mut bench, &layout);
}

fn compare(bench: &mut Bench, layout: &Path) {
    let image = format!("oci:{}:image", layout.display());
    let ours = walk(&bench.kfs_mount(&image));
    let unpacked = walk(&bench.umoci_unpack(layout));
    assert_eq!(differences(&ours, &unpacked, |_, _| false), [""; 0], "umoci");
    let merged = walk(&bench.buildah_mount(&image));
    assert_eq!(differences(&ours, &merged, |_, _| false), [""; 0], "buildah");
}

/// Layers by another writer of tar, in its two dialects: files of this machine, with holes, hard
/// links and attributes, as a distribution's image has them.
#[test]
fn layers_of_gnu_tar() {
    if !available() {
        return;
    }
    let mut bench = Bench::new();
    let rootfs = bench.path("rootfs");
    fs::create_dir_all(rootfs.join("etc")).unwrap();
    let _ = (&mut bench, Command::new("tar"), run);
}
