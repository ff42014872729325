//! What system calls see of a tree, and how two trees differ.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use kfs_fs::digest::Digest;

/// A file's properties by name, each as text.
type Properties = BTreeMap<&'static str, String>;

/// All files of a tree by path; the root is `.`.
pub(crate) type Walked = BTreeMap<String, Properties>;

/// Looks at everything below a directory.
pub(crate) fn walk(root: &Path) -> Walked {
    let mut found = Walked::new();
    let mut links = HashMap::new();
    visit(root, Path::new("."), &mut links, &mut found);
    found
}

fn visit(root: &Path, path: &Path, links: &mut HashMap<u64, String>, found: &mut Walked) {
    let here = root.join(path);
    let name = path.as_os_str().as_bytes().escape_ascii().to_string();
    found.insert(name.clone(), properties(&here, &name, links));
    if fs::symlink_metadata(&here).unwrap().is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            visit(root, &path.join(name), links, found);
        }
    }
}

fn properties(path: &Path, name: &str, links: &mut HashMap<u64, String>) -> Properties {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let mut all = Properties::from([
        ("mode", format!("{:o}", metadata.mode())),
        ("owner", format!("{}:{}", metadata.uid(), metadata.gid())),
        ("mtime", format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec())),
        ("xattrs", xattrs(path)),
    ]);
    // Sizes and link counts of directories are each file system's own.
    if !kind.is_dir() {
        all.insert("size", metadata.size().to_string());
        all.insert("nlink", metadata.nlink().to_string());
        let first = links.entry(metadata.ino()).or_insert_with(|| name.to_owned());
        all.insert("same file as", first.clone());
    }
    if kind.is_block_device() || kind.is_char_device() {
        all.insert("device", format!("{:x}", metadata.rdev()));
    }
    if kind.is_symlink() {
        all.insert(
            "target",
            fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii().to_string(),
        );
    }
    if kind.is_file() {
        all.insert("content", Digest::of(&fs::read(path).unwrap()).to_string());
    }
    all
}

fn xattrs(path: &Path) -> String {
    let mut names: Vec<_> = xattr::list(path).unwrap().collect();
    names.sort();
    names.iter().fold(String::new(), |mut text, name| {
        let value = xattr::get(path, name).unwrap().unwrap_or_default();
        write!(text, "{}={} ", name.display(), value.escape_ascii()).unwrap();
        text
    })
}

/// How two trees differ, one difference a line. `known` tells by path and property which
/// differences are none of ours; the property of a path that only one tree has is `path`.
pub(crate) fn differences(
    ours: &Walked,
    theirs: &Walked,
    known: impl Fn(&str, &str) -> bool,
) -> Vec<String> {
    let mut lines = Vec::new();
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for path in paths {
        let (Some(mine), Some(other)) = (ours.get(path), theirs.get(path)) else {
            if !known(path, "path") {
                let whose = if ours.contains_key(path) { "kfs" } else { "the other" };
                lines.push(format!("{path}: only {whose} has it"));
            }
            continue;
        };
        let names: BTreeSet<_> = mine.keys().chain(other.keys()).collect();
        for name in names.into_iter().filter(|name| !known(path, name)) {
            let (mine, other) = (mine.get(name), other.get(name));
            if mine != other {
                lines.push(format!("{path}: {name}: kfs {mine:?}, the other {other:?}"));
            }
        }
    }
    lines
}
