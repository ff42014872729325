//! The merged tree against a naive model of the union, on random images.

mod images;
mod union;

use std::collections::BTreeSet;

use images::{Listing, Member, S_IFMT, Seen, image, index_dir, layer, lines, listing, tar_of};
use kfs_fs::digest::Digest;
use kfs_fs::filesystem::ImageFs;
use kfs_fs::layer::index::LayerIndex;
use kfs_fs::layer::{Device, Entry, Kind, Timestamp, scan};
use kfs_fs::tree::{self, InodeKind, Metadata, Tree};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use union::Union;

/// Few and short, so that entries of different layers meet. One is not UTF-8.
const NAMES: [&[u8]; 3] = [b"a", b"b\xff\xfe", b"usr"];

/// An entry before the targets of links are known.
#[derive(Clone, Debug)]
struct Draft {
    path: Vec<u8>,
    shape: Shape,
    /// Which of the image's paths a link means.
    target: Index,
    metadata: (u32, u32, u32, Timestamp),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    File,
    Directory,
    Root,
    Symlink(&'static str),
    Hardlink,
    Whiteout,
    Opaque,
    /// Of AUFS, in a directory of its own.
    Aufs(&'static str),
    Device,
    Fifo,
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    let names = vec(prop::sample::select(&NAMES[..]), 1..=3);
    names.prop_map(|names| names.join(&b'/'))
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        10 => Just(Shape::File),
        6 => Just(Shape::Directory),
        1 => Just(Shape::Root),
        5 => prop::sample::select(vec!["", "/", "../", "./", "usr/../", "../../.."]).prop_map(Shape::Symlink),
        6 => Just(Shape::Hardlink),
        5 => Just(Shape::Whiteout),
        3 => Just(Shape::Opaque),
        1 => prop::sample::select(vec!["x", ".wh.a", ".wh..wh..opq"]).prop_map(Shape::Aufs),
        1 => Just(Shape::Device),
        1 => Just(Shape::Fifo),
    ]
}

fn metadata() -> impl Strategy<Value = (u32, u32, u32, Timestamp)> {
    let seconds = prop_oneof![Just(0), -5..5i64, Just(1 << 33)];
    let nanos = prop_oneof![Just(0), Just(1), Just(999_999_999), 0..1_000_000_000u32];
    let id = || prop_oneof![Just(0), Just(1000), Just(2_097_151)];
    let mtime = (seconds, nanos).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos });
    (0..0o10_000u32, id(), id(), mtime)
}

fn draft() -> impl Strategy<Value = Draft> {
    let xattrs = prop::collection::btree_map(
        prop::sample::select(vec![&b"user.x"[..], b"security.capability"]).prop_map(<[u8]>::to_vec),
        vec(any::<u8>(), 0..4),
        0..2,
    );
    let content = prop_oneof![
        4 => vec(any::<u8>(), 0..4),
        1 => (any::<u8>(), 500..1100usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    let parts = (path(), shape(), any::<Index>(), metadata(), xattrs, content);
    parts.prop_map(|(path, shape, target, metadata, xattrs, content)| {
        let xattrs = xattrs.into_iter().collect();
        Draft { path, shape, target, metadata, xattrs, content }
    })
}

fn drafts() -> impl Strategy<Value = Vec<Vec<Draft>>> {
    vec(vec(draft(), 0..10), 1..=5)
}

/// The entry of a draft; links go to one of `known`.
fn member(draft: &Draft, known: &[Vec<u8>]) -> Member {
    let target = || draft.target.get(known).clone();
    let beside = |name: &[u8]| {
        let parent = images::parent_of(&draft.path);
        if parent.is_empty() { name.to_vec() } else { [parent, name].join(&b'/') }
    };
    let last = draft.path.rsplit(|byte| *byte == b'/').next().unwrap();
    let (path, kind) = match draft.shape {
        Shape::File => (draft.path.clone(), Kind::File),
        Shape::Directory => (draft.path.clone(), Kind::Directory),
        Shape::Root => (Vec::new(), Kind::Directory),
        Shape::Symlink(start) => {
            (draft.path.clone(), Kind::Symlink([start.as_bytes(), &target()].concat()))
        }
        Shape::Hardlink => (draft.path.clone(), Kind::Hardlink(target())),
        Shape::Whiteout => (beside(&[b".wh.", last].concat()), Kind::File),
        Shape::Opaque => ([&draft.path[..], b".wh..wh..opq"].join(&b'/'), Kind::File),
        Shape::Aufs(name) => (beside(&[b".wh..wh.plnk/", name.as_bytes()].concat()), Kind::File),
        Shape::Device => (draft.path.clone(), Kind::CharDevice(Device { major: 8, minor: 1 })),
        Shape::Fifo => (draft.path.clone(), Kind::Fifo),
    };
    let (mode, uid, gid, mtime) = draft.metadata;
    let content = if kind == Kind::File { draft.content.clone() } else { Vec::new() };
    let (size, xattrs) = (content.len() as u64, draft.xattrs.clone());
    Member { entry: Entry { path, kind, mode, uid, gid, mtime, size, xattrs }, content }
}

/// The layers of drafts. Links mean paths of their own layer or of those below.
fn members(drafts: &[Vec<Draft>]) -> Vec<Vec<Member>> {
    let named = |draft: &&Draft| {
        !matches!(draft.shape, Shape::Whiteout | Shape::Opaque | Shape::Aufs(_) | Shape::Root)
    };
    let mut known: Vec<Vec<u8>> = vec![b"a".to_vec()];
    let mut layers = Vec::new();
    for layer in drafts {
        known.extend(layer.iter().filter(named).map(|draft| draft.path.clone()));
        layers.push(layer.iter().map(|draft| member(draft, &known)).collect());
    }
    layers
}

/// Takes away the entries that make no sense to the model.
fn sensible(layers: &mut [Vec<Member>]) {
    let mut number = 0;
    while number < layers.len() {
        match model(&layers[..=number]) {
            Ok(_) => number += 1,
            Err((layer, entry)) => _ = layers[layer].remove(entry),
        }
    }
}

fn model(layers: &[Vec<Member>]) -> Result<Listing, (usize, usize)> {
    let mut union = Union::new();
    for (number, layer) in layers.iter().enumerate() {
        union.add(layer).map_err(|entry| (number, entry))?;
    }
    Ok(union.listing())
}

/// The image as the program sees it, each layer in another coding than the one below.
fn tree(layers: &[Vec<Member>]) -> Result<Listing, String> {
    let dir = index_dir();
    let coded = layers.iter().enumerate().map(|(number, members)| {
        let tar = tar_of(members);
        let blob = match number % 3 {
            0 => tar.clone(),
            1 => images::gzip(&tar),
            _ => images::zstd(&tar),
        };
        layer(blob, &tar)
    });
    let fs = ImageFs::open(&image(coded.collect()), dir.path(), &|_| ());
    fs.map(|fs| listing(&fs)).map_err(|error| error.to_string())
}

/// The lines in which two listings differ.
fn difference(expected: &Listing, found: &Listing) -> String {
    let (expected, found) = (lines(expected), lines(found));
    let mut text = String::new();
    for (mark, list, other) in [("model: ", &expected, &found), ("tree:  ", &found, &expected)] {
        for line in list.iter().filter(|line| !other.contains(line)) {
            text += &format!("{mark}{line}\n");
        }
    }
    text
}

fn compare(layers: &[Vec<Member>]) -> Result<(), TestCaseError> {
    match (model(layers), tree(layers)) {
        (Ok(expected), Ok(found)) => {
            let difference = difference(&expected, &found);
            prop_assert!(difference.is_empty(), "{}\n{difference}", shown(layers));
        }
        (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => {
            prop_assert!(false, "{}\nonly the tree has an error: {error}", shown(layers));
        }
        (Err((layer, entry)), Ok(_)) => {
            prop_assert!(false, "{}\nthe tree takes entry {layer}.{entry}", shown(layers));
        }
    }
    Ok(())
}

fn shown(layers: &[Vec<Member>]) -> String {
    let mut text = String::new();
    for (number, layer) in layers.iter().enumerate() {
        for (at, member) in layer.iter().enumerate() {
            let kind = match &member.entry.kind {
                Kind::Symlink(to) => format!("symlink to {}", to.escape_ascii()),
                Kind::Hardlink(to) => format!("link to {}", to.escape_ascii()),
                other => format!("{other:?}"),
            };
            text += &format!("{number}.{at} /{}: {kind}\n", member.entry.path.escape_ascii());
        }
    }
    text
}

/// Takes away the entries whose meaning depends on their order: all but one of a name, and what
/// lies below a name that is no directory.
fn orderless(layers: &mut [Vec<Member>]) {
    for layer in layers {
        let mut known = BTreeSet::new();
        layer.retain(|member| is_marker(member) || known.insert(member.entry.path.clone()));
        let leaves: Vec<Vec<u8>> = layer
            .iter()
            .filter(|member| !is_marker(member) && member.entry.kind != Kind::Directory)
            .map(|member| [&member.entry.path[..], b"/"].concat())
            .collect();
        layer.retain(|member| !leaves.iter().any(|leaf| member.entry.path.starts_with(leaf)));
    }
}

fn is_marker(member: &Member) -> bool {
    member.entry.path.split(|byte| *byte == b'/').any(|name| name.starts_with(b".wh."))
}

/// What overlayfs knows an opaque directory by.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// The layers as a delta over `base`.
fn delta(layers: &[Vec<Member>], base: &Listing) -> Result<Listing, String> {
    let dir = index_dir();
    let tars: Vec<Vec<u8>> = layers.iter().map(|members| tar_of(members)).collect();
    let indexes: Vec<LayerIndex> = tars
        .iter()
        .map(|tar| scan::scan(&layer(tar.clone(), tar), dir.path(), &|_| ()).unwrap())
        .collect();
    let mut below = |path: &[u8]| {
        let seen = base.get(path).filter(|seen| seen.is_dir())?;
        let (mode, uid, gid, mtime) = (seen.mode & 0o7777, seen.uid, seen.gid, seen.mtime);
        let xattrs = seen.xattrs.clone().into_iter().collect();
        Some(Metadata { mode, uid, gid, mtime, xattrs })
    };
    let merged = tree::merge_over(&indexes.iter().collect::<Vec<_>>(), &mut below);
    let merged = merged.map_err(|error| error.to_string())?;
    let digests: Vec<Digest> = indexes.iter().map(|index| index.summary().digest).collect();
    let tree = Tree::create(dir.path(), &digests, merged).unwrap();
    let mut listing = Listing::new();
    list(&tree, 0, Vec::new(), &tars, &mut listing);
    Ok(listing)
}

fn list(tree: &Tree, place: usize, path: Vec<u8>, tars: &[Vec<u8>], listing: &mut Listing) {
    let inode = tree.inode(place).unwrap();
    let is_dir = inode.kind == InodeKind::Directory;
    let names = (0..).map_while(|at| is_dir.then(|| tree.name(&inode, at).unwrap())?);
    for (name, child) in names {
        let child_path = if path.is_empty() { name.to_vec() } else { [&path, name].join(&b'/') };
        list(tree, child, child_path, tars, listing);
    }
    let mut content = Vec::new();
    for extent in tree.extents_from(&inode, 0).unwrap() {
        let start = usize::try_from(extent.content_offset).unwrap();
        let len = usize::try_from(extent.len).unwrap();
        content.extend(&tars[extent.layer][start..start + len]);
    }
    let xattrs = tree.xattrs(&inode).unwrap().map(|xattr| xattr.unwrap());
    let symlink = inode.kind == InodeKind::Symlink;
    let seen = Seen {
        inode: place as u64,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        device: inode.device,
        mtime: inode.mtime,
        nlink: inode.nlink,
        size: inode.size,
        target: if symlink { tree.target(&inode).unwrap().to_vec() } else { Vec::new() },
        xattrs: xattrs.map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        content,
    };
    listing.insert(path, seen);
}

/// What overlayfs shows of `delta` over `base`. In a directory that only the delta has, it lists
/// whiteouts as they are.
fn overlay(base: &Listing, delta: &Listing) -> Listing {
    let mut shown = base.clone();
    let mut merged = BTreeSet::from([Vec::new()]);
    let mut paths: Vec<&Vec<u8>> = delta.keys().collect();
    paths.sort_by_key(|path| path.iter().filter(|byte| **byte == b'/').count());
    for path in paths {
        let mut seen = delta[path].clone();
        seen.inode += 1 << 40;
        let below = merged.contains(images::parent_of(path)) && !path.is_empty();
        let opaque = seen.xattrs.remove(OPAQUE).is_some();
        let merges = below && seen.is_dir() && shown.get(path).is_some_and(Seen::is_dir);
        if path.is_empty() || (merges && !opaque) {
            merged.insert(path.clone());
        } else {
            let inside = [&path[..], b"/"].concat();
            shown.retain(|other, _| other != path && !other.starts_with(&inside));
        }
        if !(below && seen.mode & S_IFMT == 0o020_000 && seen.device == 0) {
            shown.insert(path.clone(), seen);
        }
    }
    images::count_links(&mut shown);
    shown
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn the_tree_is_what_the_layers_make_of_each_other(drafts in drafts()) {
        let mut layers = members(&drafts);
        sensible(&mut layers);
        compare(&layers)?;
    }

    #[test]
    fn what_makes_no_sense_is_refused(drafts in vec(vec(draft(), 0..6), 1..=2), marker: bool) {
        let mut layers = members(&drafts);
        if marker {
            layers[0].push(Member::file("a/.wh.", ""));
        }
        compare(&layers)?;
    }

    #[test]
    fn the_order_of_entries_does_not_matter(
        drafts in drafts(),
        places in vec(vec(any::<u32>(), 10), 5),
        all_make_sense in prop::bool::weighted(0.8),
    ) {
        let mut layers = members(&drafts);
        if all_make_sense {
            sensible(&mut layers);
        }
        orderless(&mut layers);
        if all_make_sense {
            sensible(&mut layers);
        }
        let mut shuffled = layers.clone();
        for (layer, places) in shuffled.iter_mut().zip(places) {
            let mut placed: Vec<_> = places.into_iter().zip(layer.drain(..)).collect();
            placed.sort_by_key(|(place, _)| *place);
            layer.extend(placed.into_iter().map(|(_, member)| member));
        }
        match (model(&layers), model(&shuffled)) {
            (Ok(expected), Ok(found)) => prop_assert_eq!(lines(&expected), lines(&found)),
            (expected, found) => prop_assert!(expected.is_err() && found.is_err()),
        }
        compare(&layers)?;
        compare(&shuffled)?;
    }
}

proptest! {
    // Cheaper than those above, and what goes wrong is rarer.
    #![proptest_config(config(1500))]

    #[test]
    fn a_delta_shows_the_same_as_the_whole(drafts in drafts(), split: Index) {
        let mut layers = members(&drafts);
        sensible(&mut layers);
        let (base, upper) = layers.split_at(split.index(layers.len()));
        let (base, whole) = (model(base).unwrap(), model(&layers).unwrap());
        match delta(upper, &base) {
            Ok(delta) => {
                let difference = difference(&whole, &overlay(&base, &delta));
                prop_assert!(
                    difference.is_empty(),
                    "{} layers below\n{}\n{difference}",
                    layers.len() - upper.len(),
                    shown(&layers),
                );
            }
            // Files of the base cannot be linked to, and its root cannot be hidden.
            Err(error) => prop_assert!(
                error.contains("it is a hard link to") || error.contains("hides the whole tree"),
                "{error}"
            ),
        }
    }
}
