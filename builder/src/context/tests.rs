use std::os::unix::fs::symlink;

use super::*;

fn context(ignore: &str) -> (tempfile::TempDir, Context) {
    let dir = tempfile::tempdir().unwrap();
    for path in ["a/b/c/file", "a/b/file", "a/file", "x.log", "logs/keep.log", "logs/drop.log"] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    symlink("a/b", dir.path().join("link")).unwrap();
    fs::write(dir.path().join(".dockerignore"), ignore).unwrap();
    let context = Context::open(dir.path()).unwrap();
    let context = context.with_ignore_file(&dir.path().join("Dockerfile")).unwrap();
    (dir, context)
}

/// All that can be seen; directories end in a slash.
fn seen(context: &Context) -> Vec<String> {
    let mut seen = Vec::new();
    let mut open = vec![context.root().to_owned()];
    while let Some(directory) = open.pop() {
        for name in context.list(&directory).unwrap() {
            let path = directory.join(name);
            let shown = path.strip_prefix(context.root()).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !path.is_symlink() {
                seen.push(format!("{shown}/"));
                open.push(path);
            } else {
                seen.push(shown);
            }
        }
    }
    seen.sort();
    seen
}

#[test]
fn a_directory_is_seen_as_long_as_anything_in_it_is() {
    let cases: &[(&str, &[&str])] = &[
        ("*", &[]),
        ("*\n!a/b/c", &["a/", "a/b/", "a/b/c/", "a/b/c/file"]),
        ("*\n!a/*/file", &["a/", "a/b/", "a/b/file"]),
        ("*\n!nothing/there", &[]),
        ("a\n.*\nlink\n!**/keep*\n**/*.log", &["logs/"]),
        (".*\na\n**/*.log\n!**/keep*", &["link", "logs/", "logs/keep.log"]),
    ];
    for (ignore, expected) in cases {
        let (_dir, context) = context(ignore);
        assert_eq!(seen(&context), *expected, "{ignore:?}");
    }
}

#[test]
fn what_is_hidden_is_not_found_either() {
    let (dir, context) = context("a/b\n!a/b/c\n");
    let line = format!("{}/.dockerignore:1", dir.path().canonicalize().unwrap().display());
    let look = |path: &str| context.lookup(Path::new(path), true).unwrap();
    let there = |path: &str| Lookup::Exists(context.root().join(path));
    assert_eq!(look("a/b/file"), Lookup::Ignored(line.clone()));
    assert_eq!(look("a/b"), there("a/b"));
    assert_eq!(look("a/b/c/file"), there("a/b/c/file"));
    // The rules are about what a link leads to.
    assert_eq!(look("link/file"), Lookup::Ignored(line));
    assert_eq!(look("link/c"), there("a/b/c"));
    assert_eq!(look("a/b/none"), Lookup::Missing("a/b".into()));
}

#[test]
fn the_nearest_ignore_file_counts() {
    let (dir, first) = context("*.log");
    assert!(!seen(&first).contains(&"x.log".to_owned()));
    let read = || {
        let context = Context::open(dir.path()).unwrap();
        context.with_ignore_file(&dir.path().join("Dockerfile")).unwrap()
    };
    fs::write(dir.path().join(".containerignore"), "a").unwrap();
    assert!(seen(&read()).contains(&"x.log".to_owned()));
    assert!(!seen(&read()).contains(&"a/".to_owned()));
    fs::write(dir.path().join("Dockerfile.dockerignore"), "link").unwrap();
    assert!(seen(&read()).contains(&"a/".to_owned()));
    assert!(!seen(&read()).contains(&"link".to_owned()));
}
