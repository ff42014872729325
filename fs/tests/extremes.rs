//! Trees as deep, wide and layered as images can make them: walked without recursion and in
//! reasonable time.

mod images;

use std::time::{Duration, Instant};

use images::{Member, image, index_dir, layer, tar_of};
use kfs_fs::compare::{self, Difference};
use kfs_fs::extract::{self, Keep};
use kfs_fs::filesystem::{ImageFs, Ino, ReadError, Resolved};
use kfs_fs::layer::Kind;

/// No test here takes seconds, unless something takes time with the square of its input.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(layers: &[Vec<Member>]) -> ImageFs {
    let dir = index_dir();
    let layers = layers.iter().map(|members| {
        let tar = tar_of(members);
        layer(images::gzip(&tar), &tar)
    });
    ImageFs::open(&image(layers.collect()), dir.path(), &|_| ()).unwrap()
}

/// How deep the first names of directories go, and the inode at the end.
fn descend(fs: &ImageFs) -> (usize, Ino) {
    let (mut depth, mut ino) = (0, Ino::ROOT);
    while let Some(entry) = fs.entry_at(ino, 0).unwrap() {
        (depth, ino) = (depth + 1, entry.ino);
        if entry.mode & images::S_IFMT != images::S_IFDIR {
            break;
        }
    }
    (depth, ino)
}

fn differences(first: &ImageFs, second: &ImageFs) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut note = |difference| {
        found.push(difference);
        Ok::<(), ReadError>(())
    };
    compare::compare(first, second, &mut note).unwrap();
    found
}

#[test]
fn two_thousand_levels() {
    let start = Instant::now();
    let path = [b"d/".repeat(2000), b"file".to_vec()].concat();
    let fs = open(&[vec![Member::file(path.clone(), "deep")]]);
    let (depth, file) = descend(&fs);
    assert_eq!((depth, fs.read(file, 0, 10).unwrap()), (2001, b"deep".to_vec()));
    assert!(matches!(fs.resolve(&path, true).unwrap(), Resolved::Found(ino, _) if ino == file));
    let up = b"../".repeat(3000);
    assert!(matches!(fs.resolve(&up, true).unwrap(), Resolved::Found(Ino::ROOT, _)));

    let other = open(&[vec![Member::file(path, "else")]]);
    assert_eq!(differences(&fs, &other).len(), 1);
    let empty = open(&[vec![]]);
    assert_eq!(differences(&empty, &fs).len(), 2001);

    let target = tempfile::tempdir().unwrap();
    let copied = extract::extract(&fs, Ino::ROOT, &target.path().join("out"), Keep::Content);
    // Linux has no longer paths: the copy ends with an error or is whole.
    if let Err(error) = copied {
        assert!(error.to_string().contains("name too long"), "{error}");
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

/// Symlinks as parents lead deeper than any path is long.
#[test]
fn eighty_thousand_levels() {
    let start = Instant::now();
    let step = b"d/".repeat(2000);
    let mut members = Vec::new();
    let mut path = Vec::new();
    for number in 0..40 {
        let name = format!("l{number}");
        path.extend(name.as_bytes());
        members.push(Member::new(path.clone(), Kind::Symlink(step.clone())));
        path.push(b'/');
    }
    path.extend(b"file");
    members.push(Member::file(path.clone(), "very deep"));
    let fs = open(&[members]);
    let (depth, file) = descend(&fs);
    assert_eq!((depth, fs.read(file, 0, 10).unwrap()), (80_001, b"very deep".to_vec()));
    assert!(matches!(fs.resolve(&path, true).unwrap(), Resolved::Found(ino, _) if ino == file));
    assert_eq!(differences(&fs, &fs).len(), 0);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn a_hundred_thousand_names_in_a_directory() {
    const NAMES: u64 = 100_000;
    let start = Instant::now();
    let name = |number: u64| format!("d/{:0>200}", number * 7919 % NAMES);
    let members: Vec<Member> = (0..NAMES).map(|number| Member::file(name(number), "")).collect();
    let fs = open(&[members, vec![Member::file("d/.wh.nothing", "")]]);
    let dir = fs.lookup(Ino::ROOT, b"d").unwrap().unwrap().ino;
    for at in 0..NAMES {
        let entry = fs.entry_at(dir, at).unwrap().unwrap();
        assert_eq!(entry.name, format!("{at:0>200}").as_bytes());
        assert_eq!(fs.lookup(dir, entry.name).unwrap().unwrap().ino, entry.ino);
    }
    assert_eq!(fs.entry_at(dir, NAMES).unwrap(), None);
    assert_eq!(fs.entry_at(dir, u64::MAX).unwrap(), None);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn a_hundred_and_twenty_eight_layers() {
    let start = Instant::now();
    let layers: Vec<Vec<Member>> = (0..128)
        .map(|number| {
            let mut members = vec![
                Member::new("deep", Kind::Directory),
                Member::file("deep/shared", format!("layer {number}")),
                Member::file(format!("deep/of{number}"), vec![b'x'; number]),
            ];
            if number % 3 == 2 {
                members.push(Member::file(format!("deep/.wh.of{}", number - 1), ""));
            }
            if number == 64 {
                members.push(Member::file("deep/.wh..wh..opq", ""));
            }
            members
        })
        .collect();
    let fs = open(&layers);
    let listing = images::listing(&fs);
    assert_eq!(listing[&b"deep/shared"[..]].content, b"layer 127");
    let kept = (64..128).filter(|number| number % 3 != 1 || *number == 127);
    let kept: Vec<Vec<u8>> = kept.map(|number| format!("deep/of{number}").into_bytes()).collect();
    assert_eq!(listing.len(), kept.len() + 3, "the root, the directory and the shared file too");
    for path in kept {
        assert!(listing.contains_key(&path), "{}", path.escape_ascii());
    }
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}
