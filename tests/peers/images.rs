//! A mounted image beside the same image unpacked by umoci and mounted by buildah.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use tar::EntryType;

use crate::layout::{self, LayerTar, gzip};
use crate::tools::{Workshop, available, run};
use crate::walk::{differences, walk};

const CAPABILITY: &[u8] =
    b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";

pub(crate) fn long_name() -> String {
    "long-".repeat(40)
}

/// Every kind of file, and what the upper layers will hide.
pub(crate) fn bottom() -> Vec<u8> {
    let noise: Vec<u8> =
        (0..400_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let long = long_name();
    let mut tar = LayerTar::new(1_000_000_000);
    tar.dir("./", 0o755).dir("usr/", 0o755).dir("usr/bin/", 0o755);
    tar.file("usr/bin/tool", 0o755, b"#!/bin/sh\n");
    tar.file("usr/bin/su", 0o4755, &noise).file("usr/bin/wall", 0o2755, b"wall");
    tar.symlink("bin", "usr/bin");
    tar.symlink("dangling", "/no/where/at/all");
    tar.pax(&[
        ("SCHILY.xattr.security.capability", CAPABILITY),
        ("SCHILY.xattr.user.note", b"two\nlines"),
    ]);
    tar.file("usr/bin/ping", 0o755, b"ping").dir("etc/", 0o755);
    tar.pax(&[("SCHILY.xattr.user.empty", b"")]).file("etc/empty-attribute", 0o644, b"");
    tar.owned("etc/shadow", 0, 42).owned("etc/big", 2_000_000_000, 3_000_000);
    tar.pax(&[("mtime", b"1700000000.123456789")]);
    tar.file("etc/nanoseconds", 0o644, b"");
    tar.file("etc/motd", 0o644, b"old").file("empty", 0o644, b"").file(
        "zeros",
        0o600,
        &[0; 1 << 20],
    );
    tar.dir("lib/", 0o755).file("lib/a", 0o644, b"three names");
    tar.hard_link("lib/b", "lib/a").hard_link("lib/c", "lib/a");
    tar.dir("dev/", 0o755).device("dev/null", EntryType::Char, (1, 3));
    tar.device("dev/disk", EntryType::Block, (259, 300));
    tar.dir("tmp/", 0o1777).file("srv/www/data/index.html", 0o644, b"no entry for my parents");
    tar.dir("odd/", 0o755).odd(b"odd/new\nline").odd(b"odd/ *\\").odd(b"odd/-rf");
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
pub(crate) fn middle() -> Vec<u8> {
    let mut tar = LayerTar::new(1_100_000_000);
    tar.dir("opaque/", 0o750).file("opaque/before", 0o644, b"before");
    tar.mark("opaque/.wh..wh..opq").file("opaque/after", 0o644, b"after");
    tar.dir("gone/", 0o755).mark("gone/.wh.a");
    tar.dir("lib/", 0o755).mark("lib/.wh.b");
    tar.dir("becomes-dir/", 0o711).file("becomes-dir/x", 0o644, b"x");
    tar.file("becomes-file", 0o644, b"file").symlink("becomes-link", "changes");
    tar.dir("changes/", 0o700);
    tar.dir("etc/", 0o755).file("etc/motd", 0o600, b"new").hard_link("etc/issue", "etc/motd");
    tar.finish().unwrap()
}

/// Names come back; a whole directory goes.
pub(crate) fn top() -> Vec<u8> {
    let mut tar = LayerTar::new(1_200_000_000);
    tar.dir("gone/", 0o755).dir("gone/a/", 0o700).file("gone/a/again", 0o644, b"again");
    tar.dir("opaque/", 0o755).dir("opaque/sub/", 0o755).file("opaque/sub/new", 0o644, b"new");
    tar.mark(".wh.srv").dir("tmp/", 0o1777);
    tar.finish().unwrap()
}

/// A name that is not UTF-8, which no table of contents can have, and a FIFO of two names, which
/// partial pulls of containers/storage end at.
pub(crate) fn extremes() -> Vec<u8> {
    let mut tar = LayerTar::new(1_300_000_000);
    tar.dir("odd/", 0o755).odd(b"odd/\xff\xfe");
    tar.fifo("pipe").hard_link("odd/pipe", "pipe");
    tar.finish().unwrap()
}

#[test]
fn tricky_layers() {
    if !available() {
        return;
    }
    let mut shop = Workshop::new();
    let (bottom, middle, top, extremes) = (bottom(), middle(), top(), extremes());
    let (one, two) = top.split_at(top.len() / 2);
    let members = [gzip(one), gzip(two)].concat();
    let layers = [
        ("tar+gzip", gzip(&bottom), &bottom[..]),
        ("tar", middle.clone(), &middle[..]),
        ("tar+gzip", members, &top[..]),
        ("tar+gzip", gzip(&extremes), &extremes[..]),
    ];
    layout::write(&shop.path("layout"), &layers);
    let long = format!("./odd/{}", long_name());
    let longer = format!("{long}/{}", long_name());
    compare(&mut shop, &[".", "./srv", "./odd", &long, &longer]);
}

/// Holds what kfs mounts against what the others make of the layout `layout`. `nameless` are
/// directories without an entry in their layer, and directories that got such a one.
fn compare(shop: &mut Workshop, nameless: &[&str]) {
    let ours = walk(&shop.kfs_mount("oci:layout:image"));
    let unpacked = walk(&shop.umoci_unpack("layout"));
    assert_none(
        differences(&ours, &unpacked, |path, property| {
            // umoci dates these at the time of unpacking.
            is_dropped_by_go(path, property) || property == "mtime" && nameless.contains(&path)
        }),
        "umoci",
    );
    let merged = walk(&shop.buildah_mount("oci:layout:image"));
    assert_none(
        differences(&ours, &merged, |path, property| {
            match property {
                // The root directory is the storage's own.
                "mode" => path == ".",
                "mtime" => path == "." || nameless.contains(&path),
                // overlayfs counts the names in the layer, also those that an upper layer hides.
                "nlink" => ["./lib/a", "./lib/c"].contains(&path),
                _ => is_dropped_by_go(path, property),
            }
        }),
        "buildah",
    );
}

/// Go reads an empty PAX record as one that takes an earlier one back, so it has no empty
/// attributes.
pub(crate) fn is_dropped_by_go(path: &str, property: &str) -> bool {
    path == "./etc/empty-attribute" && property == "xattrs"
}

pub(crate) fn assert_none(differences: Vec<String>, peer: &str) {
    assert!(differences.is_empty(), "{peer}:\n{}", differences.join("\n"));
}

/// Layers by another writer of tar, in its two dialects: files of this machine, with holes, hard
/// links and attributes, as a distribution's image has them.
#[test]
fn layers_of_gnu_tar() {
    if !available() {
        return;
    }
    let mut shop = Workshop::new();
    let (lower, upper) = (shop.path("lower"), shop.path("upper"));
    files_of_this_machine(&lower);
    fs::create_dir_all(upper.join("etc/apt")).unwrap();
    run(Command::new("cp").arg("-a").arg(lower.join("holes")).arg(upper.join("etc/holes too")));
    fs::write(upper.join("etc/apt/.wh..wh..opq"), "").unwrap();
    fs::write(upper.join(".wh.sbin"), "").unwrap();
    fs::write(upper.join("name-".repeat(50)), "name").unwrap();

    let lower = tar(&lower, &["--format=pax", "--xattrs", "--sparse"]);
    let upper = tar(&upper, &["--format=gnu"]);
    let layers = [("tar+gzip", gzip(&lower), &lower[..]), ("tar+gzip", gzip(&upper), &upper[..])];
    layout::write(&shop.path("layout"), &layers);
    compare(&mut shop, &[]);
}

/// The dialect that Go's tar does not read where there are holes.
#[test]
fn a_layer_of_gnu_tar_as_gnu_tar_unpacks_it() {
    if !available() {
        return;
    }
    let mut shop = Workshop::new();
    let (files, unpacked) = (shop.path("files"), shop.path("unpacked"));
    files_of_this_machine(&files);
    fs::write(files.join("apt").join("name-".repeat(50)), "name").unwrap();
    fs::write(shop.path("files.tar"), tar(&files, &["--format=gnu", "--sparse"])).unwrap();
    fs::create_dir(&unpacked).unwrap();
    let file = shop.path("files.tar");
    run(Command::new("tar").arg("-C").arg(&unpacked).arg("-xpf").arg(&file));
    run(shop.kfs().args(["import", "files.tar", "files"]));
    let ours = walk(&shop.kfs_mount("files"));
    assert_none(differences(&ours, &walk(&unpacked), |_, _| false), "tar");
}

/// Settings and programs of a distribution, a file with holes, hard links, attributes, a device.
fn files_of_this_machine(directory: &Path) {
    fs::create_dir(directory).unwrap();
    run(Command::new("cp").args(["-a", "/etc", "/usr/sbin", "/usr/lib/apt"]).arg(directory));
    let file = File::create(directory.join("holes")).unwrap();
    file.write_all_at(b"in the middle", 1 << 20).unwrap();
    file.set_len((3 << 20) + 1).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_300_000_000, 987_654_321)).unwrap();
    fs::hard_link(directory.join("holes"), directory.join("apt/holes")).unwrap();
    xattr::set(directory.join("etc"), "user.note", b"of a directory").unwrap();
    run(Command::new("mknod").arg(directory.join("device")).args(["c", "10", "200"]));
}

fn tar(directory: &Path, options: &[&str]) -> Vec<u8> {
    let mut command = Command::new("tar");
    command.arg("-C").arg(directory).args(options).args(["-c", "."]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
