use std::collections::BTreeMap;

use super::*;
use crate::digest::DiffId;
use crate::layer::index::{IndexBuilder, Summary};
use crate::layer::{Entry, Kind, Timestamp};
use crate::tree::{InodeKind, Tree};

const OPAQUE_XATTR: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");

fn entry(path: &str, kind: Kind) -> Entry {
    let (mode, mtime) = (0o644, Timestamp::default());
    let path = path.as_bytes().to_vec();
    Entry { path, kind, mode, uid: 0, gid: 0, mtime, size: 0, xattrs: Vec::new() }
}

/// `d` directory, `f` file, `l` symlink, `h` hard link: "f a/b", "l a -> b".
fn parse(line: &str) -> Entry {
    let (kind, rest) = line.split_at(2);
    let (path, target) = rest.split_once(" -> ").unwrap_or((rest, ""));
    let kind = match kind {
        "d " => Kind::Directory,
        "f " => Kind::File,
        "l " => Kind::Symlink(target.into()),
        "h " => Kind::Hardlink(target.into()),
        other => panic!("{other}"),
    };
    entry(path, kind)
}

/// Merges layers of such lines and lists the tree: "d a", "f a/b 1.0" (layer and entry), sorted.
fn tree(layers: &[&[&str]]) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let indexes = indexes(dir.path(), layers);
    let refs: Vec<&LayerIndex> = indexes.iter().collect();
    let merged = merge(&refs).map_err(|error| error.to_string())?;
    let digests: Vec<Digest> = indexes.iter().map(|index| index.summary().digest).collect();
    let tree = Tree::create(dir.path(), &digests, merged).unwrap();
    let mut lines = Vec::new();
    let mut links = BTreeMap::new();
    list(&tree, 0, "", &mut lines, &mut links);
    for (place, names) in links {
        assert_eq!(tree.inode(place).unwrap().nlink, names, "link count of {place}");
    }
    lines.sort();
    Ok(lines)
}

fn indexes(dir: &std::path::Path, layers: &[&[&str]]) -> Vec<LayerIndex> {
    let mut indexes = Vec::new();
    for (number, lines) in (0u8..).zip(layers) {
        let mut builder = IndexBuilder::new(dir).unwrap();
        for (at, line) in (0u32..).zip(*lines) {
            let mut entry = parse(line);
            entry.uid = number.into();
            entry.gid = at;
            builder.entry(&entry, &[]).unwrap();
        }
        let digest = Digest::of(&[number]);
        let diff_id = DiffId::new(digest);
        let summary = Summary { digest, diff_id, toc: None, blob_len: 0, content_len: 0 };
        indexes.push(builder.finish(&summary).unwrap());
    }
    indexes
}

fn list(
    tree: &Tree,
    place: usize,
    prefix: &str,
    lines: &mut Vec<String>,
    links: &mut BTreeMap<usize, u32>,
) {
    let dir = tree.inode(place).unwrap();
    let mut subdirs = 0;
    let mut last = Vec::new();
    let names = (0..).map_while(|at| tree.name(&dir, at).unwrap());
    for (at, (name, child)) in names.enumerate() {
        assert!(at == 0 || last < name.to_vec(), "names are sorted");
        last = name.to_vec();
        assert_eq!(tree.lookup(&dir, name).unwrap(), Some(child));
        let path = format!("{prefix}{}", String::from_utf8_lossy(name));
        let inode = tree.inode(child).unwrap();
        let kind = match inode.kind {
            InodeKind::Directory => "d",
            InodeKind::Symlink => "l",
            InodeKind::File => "f",
            InodeKind::Special => "w",
        };
        let opaque = tree.xattrs(&inode).unwrap().any(|xattr| xattr.unwrap() == OPAQUE_XATTR);
        let mark = if opaque { "!" } else { "" };
        lines.push(format!("{kind} {path}{mark} {}.{}", inode.uid, inode.gid));
        if kind == "d" {
            subdirs += 1;
            assert_eq!(tree.parent(&tree.inode(child).unwrap()), place);
            list(tree, child, &format!("{path}/"), lines, links);
        } else {
            *links.entry(child).or_default() += 1;
        }
    }
    assert_eq!(dir.nlink, 2 + subdirs, "link count of {prefix}");
    assert_eq!(tree.lookup(&dir, b"no such name").unwrap(), None);
}

#[track_caller]
fn check(layers: &[&[&str]], expected: &[&str]) {
    assert_eq!(tree(layers).unwrap(), expected);
}

#[test]
fn upper_files_and_directories_win() {
    check(
        &[&["d a", "f a/x", "f b"], &["d a", "f a/y", "f b"]],
        &["d a 1.0", "f a/x 0.1", "f a/y 1.1", "f b 1.2"],
    );
    check(&[&["d a", "f a/x"], &["f a"]], &["f a 1.0"]);
    check(&[&["f a"], &["f a/x"]], &["d a 0.0", "f a/x 1.0"]);
    check(&[&["l a -> /b"], &["f a/x"]], &["d a 0.0", "f a/x 1.0"]);
}

#[test]
fn whiteouts_touch_lower_layers_only_wherever_they_stand() {
    let lower: &[&str] = &["d d", "f d/a", "f d/b", "f e"];
    for upper in [["f d/.wh.a", "f d/a"], ["f d/a", "f d/.wh.a"]] {
        let a = if upper[0] == "f d/a" { "f d/a 1.0" } else { "f d/a 1.1" };
        check(&[lower, &upper], &["d d 0.0", a, "f d/b 0.2", "f e 0.3"]);
    }
    for upper in [["f d/.wh..wh..opq", "f d/c"], ["f d/c", "f d/.wh..wh..opq"]] {
        let c = if upper[0] == "f d/c" { "f d/c 1.0" } else { "f d/c 1.1" };
        check(&[lower, &upper], &["d d 0.0", c, "f e 0.3"]);
    }
    check(&[lower, &["f .wh.d", "f d/n"]], &["d d 0.0", "f d/n 1.1", "f e 0.3"]);
    check(&[lower, &["f .wh..wh..opq"]], &[]);
    check(
        &[lower, &["f .wh.nothing", "f no/.wh.thing", "f no/.wh..wh..opq"]],
        &["d d 0.0", "f d/a 0.1", "f d/b 0.2", "f e 0.3"],
    );
    check(&[&["d .wh..wh.plnk", "f .wh..wh.plnk/1.2", "f .wh..wh.aufs"]], &[]);
}

#[test]
fn what_a_layer_does_not_name_is_limited() {
    let deep = |depth: usize, i: usize| format!("f {i}{}/f", "/a".repeat(depth));
    let few: Vec<String> = (0..60).map(|i| deep(200, i)).collect();
    let few: Vec<&str> = few.iter().map(String::as_str).collect();
    assert_eq!(tree(&[&few]).unwrap().len(), 60 * 202);
    let many: Vec<String> = (0..60).map(|i| deep(2000, i)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = tree(&[&many]).unwrap_err();
    assert!(error.contains("directories that no entry names"), "{error}");
}

#[test]
fn long_ways_through_symlinks_come_to_an_end() {
    // Each link leads through the one before it and to and fro besides.
    let way = "d/../".repeat(800);
    let mut lines = vec!["d d".to_owned(), format!("l s0 -> {way}d")];
    lines.extend((1..39).map(|i| format!("l s{i} -> {way}s{}", i - 1)));
    lines.extend((0..200).map(|i| format!("f s38/p{i}/f")));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let error = tree(&[&lines]).unwrap_err();
    assert!(error.contains("too many symbolic links"), "{error}");
}

#[test]
fn what_was_hidden_can_come_back() {
    check(
        &[&["d d", "f d/a"], &["f d/.wh..wh..opq"], &["f d/b"], &["f d/a"]],
        &["d d 0.0", "f d/a 3.0", "f d/b 2.0"],
    );
    check(
        &[&["d d", "d d/e", "f d/e/a"], &["f d/.wh..wh..opq", "f d/e/b"]],
        &["d d 0.0", "d d/e 0.0", "f d/e/b 1.1"],
    );
}

#[test]
fn the_last_of_several_entries_counts() {
    check(&[&["f a", "f a"]], &["f a 0.1"]);
    check(&[&["d a", "f a/x", "f a"]], &["f a 0.2"]);
    check(&[&["f a", "d a", "f a/x"]], &["d a 0.1", "f a/x 0.2"]);
    check(&[&["d a", "f a/x", "d a"]], &["d a 0.2", "f a/x 0.1"]);
    check(&[&["d a", "f a/x", "l a -> b", "f a/y"]], &["d b 0.0", "f b/y 0.3", "l a 0.2"]);
}

#[test]
fn symlinks_of_the_same_layer_are_followed_inside_the_root() {
    check(
        &[&["l lib -> usr/lib", "f lib/x", "h y -> lib/x"]],
        &["d usr 0.0", "d usr/lib 0.0", "f usr/lib/x 0.1", "f y 0.1", "l lib 0.0"],
    );
    check(&[&["l a -> ../../../b", "f a/x"]], &["d b 0.0", "f b/x 0.1", "l a 0.0"]);
    check(
        &[&["d d", "l d/a -> /e/../f", "f d/a/x"]],
        &["d d 0.0", "d e 0.0", "d f 0.0", "f f/x 0.2", "l d/a 0.1"],
    );
    let message = tree(&[&["l a -> b", "l b -> a", "f a/x"]]).unwrap_err();
    assert!(message.contains("entry a/x: there are too many symbolic links"), "{message}");
}

#[test]
fn hard_links_find_their_target_before_behind_and_below() {
    check(&[&["f a", "h b -> a"]], &["f a 0.0", "f b 0.0"]);
    check(&[&["h b -> a", "f a"]], &["f a 0.1", "f b 0.1"]);
    check(&[&["h c -> b", "h b -> a", "f a"]], &["f a 0.2", "f b 0.2", "f c 0.2"]);
    check(&[&["f a"], &["h b -> a"]], &["f a 0.0", "f b 0.0"]);
    check(&[&["f a"], &["h b -> a", "f a"]], &["f a 1.1", "f b 1.1"]);
    check(&[&["f a"], &["f .wh.a", "f c", "h b -> c"]], &["f b 1.1", "f c 1.1"]);
    check(&[&["f a", "h b -> a", "f a"]], &["f a 0.2", "f b 0.0"]);
    check(&[&["f a", "h b -> a", "f b"]], &["f a 0.0", "f b 0.2"]);
    check(&[&["f a", "h a -> a"]], &["f a 0.0"]);
    check(&[&["f x"], &["h b -> c", "f b", "f c"]], &["f b 1.1", "f c 1.2", "f x 0.0"]);
}

#[test]
fn impossible_entries_are_named() {
    for (layers, expected) in [
        (&[&["h b -> a"][..]][..], "entry b: it is a hard link to a, which does not exist"),
        (&[&["f a"], &["f .wh.a", "h b -> a"]], "entry b: it is a hard link to a"),
        (&[&["h a -> a"]], "entry a: it is a hard link to a"),
        (&[&["h a -> b", "h b -> a"]], "which does not exist"),
        (&[&["d a", "h b -> a"]], "entry b: it is a hard link to a, which is a directory"),
        (&[&["h b -> a", "d a"]], "entry b: it is a hard link to a, which is a directory"),
        (&[&["f a", "f a/b"]], "entry a/b: a is not a directory"),
        (&[&["f d/.wh."]], "entry d/.wh.: it is a whiteout without a name"),
        (&[&["f .wh..."]], "entry .wh...: it is a whiteout"),
    ] {
        let message = tree(layers).unwrap_err();
        assert!(message.contains(expected), "{message}");
        assert!(message.starts_with("layer sha256:"), "{message}");
    }
}

#[test]
fn a_link_that_waits_takes_its_place_at_once() {
    // Found through a symlink, the target is a link that waits itself.
    for (upper, lib) in [
        (["h usr/b -> a", "h c -> lib/b", "l lib -> usr"], 2),
        (["h c -> lib/b", "l lib -> usr", "h usr/b -> a"], 1),
    ] {
        let lib = format!("l lib 1.{lib}");
        check(
            &[&["f a"], &upper],
            &["d usr 0.0", "f a 0.0", "f c 0.0", "f usr/b 0.0", lib.as_str()],
        );
    }
    // A link to a symlink leads on when its own target is known.
    for upper in [["h b -> a", "h c -> b/f"], ["h c -> b/f", "h b -> a"]] {
        let layer = [&upper[..], &["l a -> d", "f d/f"]].concat();
        check(&[&layer], &["d d 0.0", "f c 0.3", "f d/f 0.3", "l a 0.2", "l b 0.2"]);
    }
    // The last entry of a name counts, also when it merges with what the layers below have.
    check(&[&["d b", "f b/x", "f a"], &["h b -> a", "d b"]], &["d b 1.1", "f a 0.2"]);
    // What a link replaces is gone, wherever the two entries stand.
    for upper in [["h d -> a", "h y -> d/f"], ["h y -> d/f", "h d -> a"]] {
        let message = tree(&[&["f a", "f d/f"], &upper]).unwrap_err();
        assert!(message.contains("entry y: it is a hard link to d/f"), "{message}");
    }
    let message = tree(&[&["f a"], &["h b -> a", "f b/x"]]).unwrap_err();
    assert!(message.contains("entry b/x: b is not a directory"), "{message}");
}

#[test]
fn many_links_to_links_take_no_time() {
    let lines: Vec<String> = (0..20_000).map(|n| format!("h l{n} -> l{}", n + 1)).collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("f l20000");
    assert_eq!(tree(&[&lines]).unwrap().len(), 20_001);
}

/// The delta of layers over a tree in which every directory belongs to user 7: as `tree` lists it,
/// with `w` for what hides a name of the tree below and `!` behind directories that hide all.
fn delta(layers: &[&[&str]]) -> Vec<String> {
    delta_over(&|_| true, layers).unwrap()
}

fn delta_over(is_dir: &dyn Fn(&[u8]) -> bool, layers: &[&[&str]]) -> Result<Vec<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let indexes = indexes(dir.path(), layers);
    let refs: Vec<&LayerIndex> = indexes.iter().collect();
    let mtime = Timestamp::default();
    let metadata = Metadata { mode: 0o700, uid: 7, gid: 0, mtime, xattrs: Vec::new() };
    let merged = merge_over(&refs, &mut |path| is_dir(path).then(|| metadata.clone()));
    let merged = merged.map_err(|error| error.to_string())?;
    let digests: Vec<Digest> = indexes.iter().map(|index| index.summary().digest).collect();
    let tree = Tree::create(dir.path(), &digests, merged).unwrap();
    let mut lines = Vec::new();
    list(&tree, 0, "", &mut lines, &mut BTreeMap::new());
    lines.sort();
    Ok(lines)
}

#[test]
fn a_delta_keeps_what_it_hides() {
    let hidden = |layers: &[&[&str]], expected: &[&str]| assert_eq!(delta(layers), expected);
    hidden(&[&["f a/b/x"]], &["d a 7.0", "d a/b 7.0", "f a/b/x 0.0"]);
    hidden(&[&["f a/.wh.b"]], &["d a 7.0", "w a/b 0.0"]);
    hidden(&[&["f d/.wh..wh..opq", "f d/x"]], &["d d! 7.0", "f d/x 0.1"]);
    // A directory in the place of what was removed or replaced hides the one below.
    hidden(&[&["f .wh.d"], &["d d"]], &["d d! 1.0"]);
    hidden(&[&["f .wh.d", "f d/x"]], &["d d! 0.0", "f d/x 0.1"]);
    hidden(&[&["f d/.wh..wh..opq", "f d/e/x"]], &["d d! 7.0", "d d/e 0.0", "f d/e/x 0.1"]);
    hidden(&[&["f d"], &["d d"]], &["d d! 1.0"]);
    hidden(&[&["d d"], &["d d"]], &["d d 1.0"]);
    hidden(&[&["d d", "f d/x"], &["f .wh.d"]], &["w d 0.0"]);
    hidden(&[&["f d/.wh..wh..opq", "f d/x"], &["f d/.wh.x"]], &["d d! 7.0"]);
    hidden(&[&["f .wh.a", "f b", "h a -> b"]], &["f a 0.1", "f b 0.1"]);
}

#[test]
fn a_delta_hides_only_what_the_tree_below_has() {
    let check = |dirs: &[&str], layers: &[&[&str]], expected: &[&str]| {
        let is_dir = |path: &[u8]| path.is_empty() || dirs.iter().any(|dir| dir.as_bytes() == path);
        assert_eq!(delta_over(&is_dir, layers).unwrap(), expected);
    };
    // overlayfs lists whiteouts of directories that no other layer has.
    check(&[], &[&["d n", "f n/x"], &["f n/.wh.x"]], &["d n 0.0"]);
    check(&["d"], &[&["f .wh.d"], &["f d/x"], &["f d/.wh.x"]], &["d d! 0.0"]);
    // What is no directory, or is gone, is not made one by a marker in it.
    check(&[], &[&["f d/.wh.x"]], &[]);
    check(&[], &[&["f d/.wh..wh..opq"]], &[]);
    check(&["d"], &[&["f .wh.d"], &["f d/.wh.x"]], &["w d 0.0"]);
    check(&["d"], &[&["f d"], &["f d/.wh..wh..opq"]], &["f d 0.0"]);
    check(&[".wh..wh.plnk"], &[&["f .wh..wh.plnk/.wh.x"]], &[]);
    for layer in [["f d/e/.wh.x", "f d/.wh..wh..opq"], ["f d/.wh..wh..opq", "f d/e/.wh.x"]] {
        check(&["d", "d/e"], &[&layer], &["d d! 7.0"]);
    }
    let message = delta_over(&|_| true, &[&["f .wh..wh..opq"]]).unwrap_err();
    assert!(message.contains("hides the whole tree below"), "{message}");
}
