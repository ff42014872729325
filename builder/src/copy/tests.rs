use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use kfs_fs::layer::Kind;
use nix::errno::Errno;

use super::*;
use crate::kubefile::Heredoc;

/// The context of Sealer's and buildah's COPY probes.
struct Probe {
    dir: tempfile::TempDir,
    context: Context,
}

impl Probe {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn context() -> Probe {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        "apollo/Chart.yaml",
        "apollo/templates/a.yaml",
        "imageList",
        "a.yaml",
        "b.yaml",
        "charts/x/Chart.yaml",
        "amd64/bin/kubectl",
        "d1/f",
        "d2/f",
        "scripts/scripts/i.sh",
    ];
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    fs::create_dir(dir.path().join("emptyd")).unwrap();
    symlink("a.yaml", dir.path().join("ln")).unwrap();
    symlink("apollo", dir.path().join("lnd")).unwrap();
    let context = Context::open(dir.path()).unwrap();
    Probe { dir, context }
}

fn paths(sources: &[&str]) -> Vec<Source> {
    sources.iter().map(|s| Source::Path((*s).to_owned())).collect()
}

/// A rootfs: paths and what they are; a directory whose real path differs is a symlink.
type Rootfs = BTreeMap<&'static str, Place>;

fn directory(path: &str) -> Place {
    Place::Directory(path.as_bytes().to_vec())
}

fn other(path: &str) -> Place {
    Place::Other(path.as_bytes().to_vec())
}

static NONE_FETCHED: BTreeMap<String, Fetched> = BTreeMap::new();

fn request<'a>(context: &'a Context, sources: &'a [Source], dest: &'a str) -> Request<'a> {
    Request {
        sources,
        dest,
        working_dir: "/",
        rule: CopyRule::Docker,
        context,
        fetched: &NONE_FETCHED,
        unpack: None,
        parents: false,
        exclude: &[],
        owner: None,
        mode: None,
        made_at: Timestamp { seconds: 1, nanos: 0 },
    }
}

fn resolve_on(request: &Request<'_>, rootfs: &Rootfs) -> Result<Resolved, CopyError> {
    let mut look = |path: &[u8]| {
        let path = std::str::from_utf8(path).unwrap();
        assert!(!path.starts_with('/') && !path.ends_with('/') && !path.is_empty());
        Ok(rootfs.get(path).cloned().unwrap_or_else(|| Place::Absent(path.into())))
    };
    resolve(request, &mut look)
}

/// The items in the notation of the probes: `@` after symlinks, `/` after directories that hold
/// nothing.
fn notation(items: &[CopyItem]) -> Vec<String> {
    let name = |item: &CopyItem| String::from_utf8(item.entry.path.clone()).unwrap();
    let has_children =
        |path: &str| items.iter().any(|other| name(other).starts_with(&format!("{path}/")));
    let show = |item: &CopyItem| {
        let path = name(item);
        match &item.entry.kind {
            Kind::Directory if has_children(&path) => None,
            Kind::Directory => Some(format!("{path}/")),
            Kind::Symlink(_) => Some(format!("{path}@")),
            _ => Some(path),
        }
    };
    items.iter().filter_map(show).collect()
}

fn copied(rule: CopyRule, sources: &[&str], dest: &str) -> Result<Vec<String>, CopyError> {
    let context = context();
    let sources = paths(sources);
    let request = Request { rule, ..request(&context.context, &sources, dest) };
    Ok(notation(&resolve_on(&request, &Rootfs::new())?.items))
}

/// Line | by the kubefile rule | by the docker rule; `!` is an error, `=` the same as before.
///
/// From the outputs of sealer 0.8.7 and buildah 1.28.2 for these lines, except where the comment
/// says why not.
const PROBES: &str = "
apollo charts           | charts/apollo/Chart.yaml charts/apollo/templates/a.yaml | charts/Chart.yaml charts/templates/a.yaml
apollo charts/          | charts/apollo/Chart.yaml charts/apollo/templates/a.yaml | charts/Chart.yaml charts/templates/a.yaml
apollo ./charts/apollo  | charts/apollo/Chart.yaml charts/apollo/templates/a.yaml | =
apollo .                | apollo/Chart.yaml apollo/templates/a.yaml | Chart.yaml templates/a.yaml
apollo /                | apollo/Chart.yaml apollo/templates/a.yaml | Chart.yaml templates/a.yaml
apollo/ charts          | charts/apollo/Chart.yaml charts/apollo/templates/a.yaml | charts/Chart.yaml charts/templates/a.yaml
apollo/. charts         | charts/apollo/Chart.yaml charts/apollo/templates/a.yaml | charts/Chart.yaml charts/templates/a.yaml
./apollo charts         | charts/apollo/Chart.yaml charts/apollo/templates/a.yaml | charts/Chart.yaml charts/templates/a.yaml
imageList manifests     | manifests/imageList | manifests
imageList manifests/    | manifests/imageList | =
imageList manifests/imageList | manifests/imageList | =
imageList .             | imageList | =
imageList ./            | imageList | =
*.yaml manifests/       | manifests/a.yaml manifests/b.yaml | =
a.yaml b.yaml           | b.yaml/a.yaml | b.yaml
a.yaml manifests/x.yaml | manifests/x.yaml/a.yaml | manifests/x.yaml
charts charts           | charts/x/Chart.yaml | =
charts .                | charts/x/Chart.yaml | x/Chart.yaml
charts /opt/charts      | opt/charts/x/Chart.yaml | =
charts ./charts/        | charts/x/Chart.yaml | =
amd64/bin bin           | bin/kubectl | =
amd64/bin ./bin         | bin/kubectl | =
amd64 .                 | amd64/bin/kubectl | bin/kubectl
d?/f out/               | out/f | =
d? out                  | out/d1/f out/d2/f | out/f
d? out/                 | out/d1/f out/d2/f | out/f
nope x                  | ! | !
../x y                  | ! | !
n* x/                   | ! | !
[ x                     | ! | !
. manifests             | manifests/a.yaml manifests/amd64/bin/kubectl manifests/apollo/Chart.yaml manifests/apollo/templates/a.yaml manifests/b.yaml manifests/charts/x/Chart.yaml manifests/d1/f manifests/d2/f manifests/emptyd/ manifests/imageList manifests/ln@ manifests/lnd@ manifests/scripts/scripts/i.sh | =
. .                     | a.yaml amd64/bin/kubectl apollo/Chart.yaml apollo/templates/a.yaml b.yaml charts/x/Chart.yaml d1/f d2/f emptyd/ imageList ln@ lnd@ scripts/scripts/i.sh | =
scripts scripts         | scripts/scripts/i.sh | =
ln out                  | out/ln@ | out
lnd out                 | out/lnd@ | out/Chart.yaml out/templates/a.yaml
lnd/templates out       | out/templates/a.yaml | out/a.yaml
emptyd out              | out/emptyd/ | out/
a.yaml b.yaml c/        | c/a.yaml c/b.yaml | =
../a.yaml x/            | x/a.yaml | =
apollo/../a.yaml x/     | x/a.yaml | =
apollo/* charts/        | charts/Chart.yaml charts/templates/a.yaml | charts/Chart.yaml charts/a.yaml
a.yaml n* x/            | x/a.yaml | =
# Docker refuses these; buildah makes one file of them, or a directory without being told.
*.yaml manifests        | manifests/a.yaml manifests/b.yaml | !
apollo/* charts         | charts/Chart.yaml charts/templates/a.yaml | !
a.yaml b.yaml c         | c/a.yaml c/b.yaml | !
# Directories alone need no destination that is there.
d1 d2 x                 | x/d1/f x/d2/f | x/f
d1 a.yaml x             | x/a.yaml x/d1/f | !
# Sealer takes b.yaml to the parent directory once a.yaml matched: its own bug.
*.yaml a.yaml           | ! | !
";

#[test]
fn both_rules_as_the_originals() {
    let lines = PROBES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let mut sources: Vec<&str> = fields[0].split_whitespace().collect();
        let dest = sources.pop().unwrap();
        let mut before = "";
        for (rule, expected) in [(CopyRule::Kubefile, fields[1]), (CopyRule::Docker, fields[2])] {
            let expected = if expected == "=" { before } else { expected };
            before = expected;
            let result = copied(rule, &sources, dest);
            match (expected, result) {
                ("!", Err(_)) => {}
                ("!", Ok(items)) => panic!("{line}, {rule}: {items:?}"),
                (_, Err(error)) => panic!("{line}, {rule}: {error}"),
                (_, Ok(items)) => assert_eq!(items.join(" "), expected, "{line}, {rule}"),
            }
        }
    }
}

#[test]
fn the_difference_is_told_exactly_where_there_is_one() {
    let context = context();
    let difference = |rule, line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let dest = words.pop().unwrap();
        let sources = paths(&words);
        let request = Request { rule, ..request(&context.context, &sources, dest) };
        resolve_on(&request, &Rootfs::new()).unwrap().difference.map(|d| d.to_string())
    };
    assert_eq!(
        difference(CopyRule::Kubefile, "apollo charts").unwrap(),
        "by the kubefile rule apollo lands at charts/apollo; by the docker rule the contents of \
         apollo land at charts; \"# copy=docker\" at the head of the file chooses that"
    );
    assert_eq!(
        difference(CopyRule::Docker, "d? out/").unwrap(),
        "by the docker rule the contents of d1 land at out; by the kubefile rule d1 lands at \
         out/d1 (and so for 1 more); \"# copy=kubefile\" at the head of the file chooses that"
    );
    let refused = difference(CopyRule::Kubefile, "*.yaml manifests").unwrap();
    assert!(refused.contains("it is refused: several sources need"), "{refused}");
    for line in ["charts charts", "imageList .", "imageList manifests/", ". x", "amd64/bin bin"] {
        for rule in [CopyRule::Docker, CopyRule::Kubefile] {
            assert_eq!(difference(rule, line), None, "{line}");
        }
    }
}

#[test]
fn what_the_image_has_decides() {
    let rootfs = Rootfs::from([
        ("bin", directory("usr/bin")),
        ("usr", directory("usr")),
        ("usr/bin", directory("usr/bin")),
        ("usr/bin/sh", other("usr/bin/sh")),
        ("manifests", directory("manifests")),
        ("etc", directory("etc")),
        ("etc/x", other("etc/x")),
        // Links: to a file, to nothing in a directory that is there, to nothing in none.
        ("file", other("etc/x")),
        ("new", Place::Absent(b"etc/new".to_vec())),
        ("far", Place::Absent(b"a/b".to_vec())),
    ]);
    let context = context();
    let copied = |rule, source: &str, dest: &str| {
        let sources = paths(&[source]);
        let request = Request { rule, ..request(&context.context, &sources, dest) };
        resolve_on(&request, &rootfs).map(|resolved| {
            let item = |item: &CopyItem| String::from_utf8(item.entry.path.clone()).unwrap();
            resolved.items.iter().map(item).collect::<Vec<_>>().join(" ")
        })
    };
    let docker = |source: &str, dest: &str| copied(CopyRule::Docker, source, dest);
    let kubefile = |source: &str, dest: &str| copied(CopyRule::Kubefile, source, dest);
    assert_eq!(docker("a.yaml", "/bin").unwrap(), "usr/bin/a.yaml");
    assert_eq!(docker("a.yaml", "/bin/x/y").unwrap(), "usr/bin/x usr/bin/x/y");
    assert_eq!(docker("a.yaml", "/bin/sh").unwrap(), "usr/bin/sh");
    assert_eq!(docker("imageList", "manifests").unwrap(), "manifests/imageList");
    assert_eq!(docker("d1", "manifests").unwrap(), "manifests/f");
    assert_eq!(docker("d1", "usr/lib").unwrap(), "usr/lib usr/lib/f");
    assert_eq!(docker("a.yaml", "etc/../etc/y").unwrap(), "etc/y");
    assert!(matches!(docker("d1", "etc/x"), Err(CopyError::NotDirectory { .. })));
    assert!(matches!(docker("a.yaml", "etc/x/"), Err(CopyError::NotDirectory { .. })));
    assert!(matches!(docker("a.yaml", "etc/x/y"), Err(CopyError::NotDirectory { .. })));
    assert_eq!(docker("a.yaml", "file").unwrap(), "etc/x");
    assert!(matches!(docker("a.yaml", "file/"), Err(CopyError::NotDirectory { .. })));
    assert_eq!(docker("a.yaml", "new").unwrap(), "etc/new");
    assert_eq!(docker("a.yaml", "new/").unwrap(), "etc/new etc/new/a.yaml");
    assert_eq!(docker("d1", "new").unwrap(), "etc/new etc/new/f");
    assert_eq!(docker("d1", "far/c").unwrap(), "a a/b a/b/c a/b/c/f");
    assert_eq!(kubefile("a.yaml", "new").unwrap(), "etc/new etc/new/a.yaml");
    assert_eq!(kubefile("a.yaml", "/new/a.yaml").unwrap(), "etc/new etc/new/a.yaml");
    assert_eq!(kubefile("amd64/bin", "bin").unwrap(), "usr/bin usr/bin/kubectl");
    assert_eq!(kubefile("a.yaml", "usr").unwrap(), "usr/a.yaml");
    assert!(matches!(kubefile("a.yaml", "etc/x"), Err(CopyError::NotDirectory { .. })));
}

#[test]
fn relative_destinations_start_at_the_working_directory() {
    let context = context();
    let sources = paths(&["a.yaml"]);
    for (dest, expected) in
        [("b", "w/d/b"), (".", "w/d/a.yaml"), ("../x/", "w/x/a.yaml"), ("/b", "b")]
    {
        let request = Request { working_dir: "/w/d", ..request(&context.context, &sources, dest) };
        let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
        assert_eq!(notation(&items), [expected], "{dest}");
    }
}

#[test]
fn owners_modes_and_times() {
    let context = context();
    let path = context.path().join("apollo/templates");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o1770)).unwrap();
    fs::set_permissions(path.join("a.yaml"), fs::Permissions::from_mode(0o4751)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(&path).unwrap().set_modified(time).unwrap();
    let sources = paths(&["apollo"]);
    let owner = Owner { uid: 5, gid: 6 };
    let found = |mode: Option<Mode>| {
        let (owner, mode) = (Some(owner), mode);
        let request = Request { owner, mode, ..request(&context.context, &sources, "p/q") };
        let resolved = resolve_on(&request, &Rootfs::new()).unwrap();
        assert_eq!(resolved.kind, SourceKind::Directory);
        resolved.items.into_iter().map(|item| item.entry).collect::<Vec<_>>()
    };
    let entries = found(None);
    assert!(entries.iter().all(|entry| (entry.uid, entry.gid) == (5, 6)));
    let of = |entries: &[Entry], path: &str| {
        entries.iter().find(|e| e.path == path.as_bytes()).cloned().unwrap()
    };
    let made = Timestamp { seconds: 1, nanos: 0 };
    for path in ["p", "p/q"] {
        assert_eq!((of(&entries, path).mode, of(&entries, path).mtime), (0o755, made));
    }
    let templates = of(&entries, "p/q/templates");
    let copied = Timestamp { seconds: 1_000_000_000, nanos: 123_456_789 };
    assert_eq!((templates.mode, templates.mtime), (0o1770, copied));
    let file = of(&entries, "p/q/templates/a.yaml");
    assert_eq!((file.mode, file.size, file.kind), (0o4751, 23, Kind::File));
    let entries = found(Some(Mode::Bits(0o640)));
    assert_eq!(of(&entries, "p/q").mode, 0o755);
    assert_eq!(of(&entries, "p/q/templates").mode, 0o640);
    assert_eq!(of(&entries, "p/q/templates/a.yaml").mode, 0o640);
}

#[test]
fn the_kubefile_rule_keeps_a_directorys_own_mode() {
    let context = context();
    let path = context.path().join("emptyd");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o711)).unwrap();
    let sources = paths(&["emptyd"]);
    for dest in ["out", "emptyd"] {
        let rule = CopyRule::Kubefile;
        let request = Request { rule, ..request(&context.context, &sources, dest) };
        let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
        assert_eq!(items.last().unwrap().entry.mode, 0o711, "{dest}");
    }
}

#[test]
fn heredocs_become_files() {
    let context = context();
    let heredoc = Heredoc { name: "cfg".into(), content: "a\n".into(), expand: true };
    let sources = [Source::Inline(heredoc)];
    for (rule, dest, expected) in [
        (CopyRule::Docker, "x", "x"),
        (CopyRule::Docker, "x/", "x/cfg"),
        (CopyRule::Kubefile, "x", "x/cfg"),
        (CopyRule::Kubefile, "x/cfg", "x/cfg"),
    ] {
        let request = Request { rule, ..request(&context.context, &sources, dest) };
        let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
        assert_eq!(notation(&items), [expected]);
        let item = items.last().unwrap();
        assert_eq!((item.entry.size, item.entry.mode), (2, 0o644));
        assert_eq!(item.content, Content::Inline(b"a\n".to_vec()));
    }
}

#[test]
fn nothing_outside_the_context_is_reached() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "s").unwrap();
    let context = context();
    let link = |target: &Path, name: &str| symlink(target, context.path().join(name)).unwrap();
    link(outside.path(), "out");
    link(&outside.path().join("secret"), "abs");
    link(Path::new("../../../../../../a.yaml"), "clamped");
    link(Path::new("/apollo/Chart.yaml"), "rooted");
    link(Path::new("loop2"), "loop1");
    link(Path::new("loop1"), "loop2");
    let copy = |rule, source: &str| {
        let sources = paths(&[source]);
        let request = Request { rule, ..request(&context.context, &sources, "x/") };
        resolve_on(&request, &Rootfs::new())
            .map(|resolved| (notation(&resolved.items), resolved.items.last().cloned().unwrap()))
    };
    for source in ["abs", "out", "out/secret", "../../secret"] {
        assert!(copy(CopyRule::Docker, source).is_err(), "{source}");
    }
    for source in ["clamped", "rooted"] {
        let (_, item) = copy(CopyRule::Docker, source).unwrap();
        let Content::File(path) = item.content else { panic!() };
        assert!(path.starts_with(context.path()), "{path:?}");
    }
    assert!(matches!(copy(CopyRule::Docker, "loop1"), Err(CopyError::Loop(_))));
    assert!(copy(CopyRule::Kubefile, "out/secret").is_err());
    let (kept, _) = copy(CopyRule::Kubefile, "abs").unwrap();
    assert_eq!(kept, ["x/abs@"]);
}

#[test]
fn errors_name_what_is_there() {
    let missing = copied(CopyRule::Docker, &["apollo/templates/b/c"], "x").unwrap_err();
    assert_eq!(
        missing.to_string(),
        "source \"apollo/templates/b/c\" is not in the context (apollo/templates is the nearest \
         that exists)"
    );
    let below_file = copied(CopyRule::Docker, &["a.yaml/b"], "x").unwrap_err().to_string();
    assert!(below_file.contains("a.yaml is the nearest"), "{below_file}");
    let none = copied(CopyRule::Docker, &["n*", "m?"], "x/").unwrap_err();
    assert_eq!(none.to_string(), "no file of the context matches \"n*\", \"m?\"");
}

#[test]
fn special_files() {
    let context = context();
    nix::unistd::mkfifo(
        &context.path().join("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    let sources = paths(&["."]);
    let request = request(&context.context, &sources, "/");
    let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
    let fifo = items.iter().find(|item| item.entry.path == b"fifo").unwrap();
    assert_eq!((&fifo.entry.kind, &fifo.content), (&Kind::Fifo, &Content::None));
    // A socket is left out, unless it is what was asked for.
    let _socket = UnixListener::bind(context.path().join("d1/socket")).unwrap();
    let resolved = resolve_on(&request, &Rootfs::new()).unwrap();
    assert_eq!(resolved.items.len(), items.len());
    assert_eq!(resolved.skipped, [Path::new("d1/socket")]);
    let sources = paths(&["d1/socket"]);
    let named = Request { sources: &sources, ..request };
    let error = resolve_on(&named, &Rootfs::new()).unwrap_err();
    assert!(error.to_string().contains("\"d1/socket\" in the context is a socket"), "{error}");
}

#[test]
fn names_need_not_be_text() {
    use std::os::unix::ffi::OsStrExt;
    let context = context();
    let name = std::ffi::OsStr::from_bytes(b"\xff.bin");
    fs::write(context.path().join(name), "x").unwrap();
    let sources = paths(&["*.bin"]);
    let request = request(&context.context, &sources, "x/");
    let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
    assert_eq!(items.last().unwrap().entry.path, b"x/\xff.bin");
}

#[test]
fn a_deep_directory_is_walked() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join(vec!["d"; 1500].join("/"));
    fs::create_dir_all(&deep).unwrap();
    let sources = paths(&["d"]);
    let context = Context::open(dir.path()).unwrap();
    let request = request(&context, &sources, "x");
    assert_eq!(resolve_on(&request, &Rootfs::new()).unwrap().items.len(), 1500);
}

#[test]
fn with_parents_sources_keep_their_path() {
    let context = context();
    let copied = |sources: &[&str], dest: &str| {
        let sources = paths(sources);
        let request = Request { parents: true, ..request(&context.context, &sources, dest) };
        resolve_on(&request, &Rootfs::new()).map(|resolved| notation(&resolved.items).join(" "))
    };
    for (sources, dest, expected) in [
        (&["apollo/Chart.yaml", "./d1/f"][..], "out", "out/apollo/Chart.yaml out/d1/f"),
        (&["apollo/./templates/a.yaml"], "out/", "out/templates/a.yaml"),
        (&["apollo/templates/./a.yaml"], "out", "out/a.yaml"),
        (&["apollo"], "out", "out/apollo/Chart.yaml out/apollo/templates/a.yaml"),
        (&["apollo/./"], "out", "out/Chart.yaml out/templates/a.yaml"),
        (&["d?/f"], "/", "d1/f d2/f"),
        (&["**/a.yaml"], "out", "out/a.yaml out/apollo/templates/a.yaml"),
        (&["apollo/./**/*.yaml"], "out", "out/Chart.yaml out/templates/a.yaml"),
    ] {
        assert_eq!(copied(sources, dest).unwrap(), expected, "{sources:?}");
    }
    // Directories on the way are those of the source.
    let path = context.path().join("apollo/templates");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    let sources = paths(&["apollo/templates/a.yaml"]);
    let request = Request { parents: true, ..request(&context.context, &sources, "/new/out") };
    let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
    let modes: Vec<_> = items.iter().map(|item| item.entry.mode).collect();
    assert_eq!(modes[..2], [0o755, 0o755]);
    assert_eq!(modes[3], 0o700);
}

#[test]
fn what_is_excluded_is_not_copied() {
    let context = context();
    let copied = |source: &str, exclude: &[&str]| {
        let sources = paths(&[source]);
        let exclude: Vec<_> = exclude.iter().map(|text| (*text).to_owned()).collect();
        let request = request(&context.context, &sources, "out/");
        let request = Request { exclude: &exclude, ..request };
        resolve_on(&request, &Rootfs::new()).map(|resolved| notation(&resolved.items).join(" "))
    };
    for (source, exclude, expected) in [
        ("apollo", &["templates"][..], "out/Chart.yaml"),
        ("apollo", &["*.yaml"], "out/templates/a.yaml"),
        ("apollo", &["**/*.yaml"], "out/templates/"),
        ("*.yaml", &["b*"], "out/a.yaml"),
        ("apollo", &["*", "!templates/a.yaml"], "out/templates/a.yaml"),
    ] {
        assert_eq!(copied(source, exclude).unwrap(), expected, "{source} {exclude:?}");
    }
    assert!(matches!(copied("apollo", &["[a"]), Err(CopyError::Exclude(_))));
}

#[test]
fn names_of_one_file_stay_names_of_one_file() {
    let context = context();
    fs::hard_link(context.path().join("d1/f"), context.path().join("d1/g")).unwrap();
    fs::hard_link(context.path().join("d1/f"), context.path().join("h")).unwrap();
    let sources = paths(&["d1"]);
    let request = request(&context.context, &sources, "out");
    let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
    let last = items.last().unwrap();
    assert_eq!(last.entry.kind, Kind::Hardlink(b"out/f".to_vec()));
    assert_eq!((last.entry.size, &last.content), (0, &Content::None));
    // Unless they are copied one by one.
    let sources = paths(&["d1/f", "h"]);
    let request = Request { sources: &sources, dest: "out/", ..request };
    let items = resolve_on(&request, &Rootfs::new()).unwrap().items;
    assert!(items[1..].iter().all(|item| item.entry.kind == Kind::File), "{items:?}");
}

/// A directory goes where a symlink of the image leads; all else takes the place of what is there.
#[test]
fn a_tree_lands_on_what_the_image_has() {
    let rootfs = Rootfs::from([
        ("bin", directory("usr/bin")),
        ("usr", directory("usr")),
        ("usr/bin", directory("usr/bin")),
        ("var", directory("var")),
        ("var/run", Place::Absent(b"run".to_vec())),
        ("lib", other("etc/file")),
        ("etc", directory("etc")),
        ("link", directory("etc")),
        ("d", directory("d")),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    };
    for path in ["t/bin/x/y", "t/var/run/f", "t/lib/f", "f/link", "bad/d", "s/b/c"] {
        write(path);
    }
    let context = Context::open(dir.path()).unwrap();
    let copied = |source: &str, parents: bool| {
        let sources = paths(&[source]);
        let request = Request { parents, ..request(&context, &sources, "/") };
        resolve_on(&request, &rootfs).map(|resolved| notation(&resolved.items).join(" "))
    };
    assert_eq!(copied("t", false).unwrap(), "lib/f run/f usr/bin/x/y var/");
    assert_eq!(copied("t/./bin/x/y", true).unwrap(), "usr/bin/x/y");
    assert_eq!(copied("f", false).unwrap(), "link", "a file takes a symlink's place");
    for source in ["bad", "bad/d"] {
        assert_eq!(copied(source, false).unwrap(), "d", "and a directory's");
    }
}

/// Symlinks of the image to themselves, or below a file.
#[test]
fn what_leads_nowhere_is_replaced_but_not_followed() {
    let mut look = |path: &[u8]| match path {
        b"etc" | b"etc/d" => Ok(Place::Directory(path.to_owned())),
        b"etc/loop" => Err(Errno::ELOOP).at("read", Path::new("/etc/loop")),
        b"etc/below" => Err(Errno::ENOTDIR).at("read", Path::new("/etc/below")),
        _ => Ok(Place::Absent(path.to_owned())),
    };
    let dir = tempfile::tempdir().unwrap();
    for path in ["files/loop", "files/below", "trees/loop/f", "trees/below/f"] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let context = Context::open(dir.path()).unwrap();
    for (source, dest, expected) in [
        ("files", "/etc", Some("etc/below etc/loop")),
        ("files/loop", "/etc/", Some("etc/loop")),
        ("trees", "/etc", Some("etc/below/f etc/loop/f")),
        ("files/loop", "/etc/loop", None),
        ("trees", "/etc/below", None),
    ] {
        let sources = paths(&[source]);
        let copied = resolve(&request(&context, &sources, dest), &mut look);
        let copied = copied.map(|resolved| notation(&resolved.items).join(" "));
        assert_eq!(copied.ok().as_deref(), expected, "{source} {dest}");
    }
}
