//! buildah's conformance cases, each through kfs and through buildah: the same tree, the same
//! config. Where they differ, [`KNOWN`] says why, by the reference.
//!
//! Bases are made from this machine's programs. Cases that this buildah cannot build (its language
//! is older) are held against [`EXPECTED`] alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::host_tools::{install_program, install_tools};
use crate::shared_inputs::shared;
use crate::tools::{Workshop, available, run};
use crate::walk::{Walked, differences, walk};

/// The time of all files in the contexts.
const COPIED: &str = "1500000000.000000000";

/// Into so many tests the cases are dealt, to run beside each other.
const SHARES: usize = 10;

/// What the bases have beside the tools of all tests.
const MORE_TOOLS: [&str; 10] = [
    "/bin/bash",
    "/usr/bin/chown",
    "/usr/bin/cp",
    "/usr/bin/find",
    "/usr/bin/printf",
    "/usr/bin/sed",
    "/usr/bin/sort",
    "/usr/bin/tee",
    "/usr/bin/tr",
    "/usr/bin/wc",
];

/// Differences that are none of ours: name of the case, what differs (a property of files, `path`
/// where only one has it, or a part of the config), and the sentence that decides.
const KNOWN: &[(&str, &str, &str)] = &[
    ("ci-pipeline-modified", "config WorkingDir", CLEANED),
    ("dockerignore-exclude-deep-subdir-dot", "path", LAST_LINE),
    ("dockerignore-exclude-deep-subdir-star", "path", LAST_LINE),
    ("dockerignore-exceptions-skip", "path", LAST_LINE),
    ("dockerignore-exceptions-weirdness-1", "path", LAST_LINE),
    ("dockerignore-minimal-test", "mode", PARENTS),
    ("dockerignore-minimal-test", "mtime", PARENTS),
    ("dockerignore-allowlist-subsubdir-file", "mode", PARENTS),
    ("dockerignore-allowlist-subsubdir-file", "mtime", PARENTS),
    ("dockerignore-allowlist-alternating", "mode", PARENTS),
    ("dockerignore-allowlist-alternating", "mtime", PARENTS),
    ("chown-volume", "owner", VOLUMES),
    ("volumerun", "path", VOLUMES),
    (
        "edgecases",
        "config OnBuild",
        "buildah keeps triggers with --format docker only; BuildKit always",
    ),
    ("tar-g", "path", "nothing in the archive is called tmp: the other made it itself"),
    ("mount-targets-new", "path", MOUNT_POINTS),
    ("mount-targets-old", "path", MOUNT_POINTS),
];

const CLEANED: &str = "an absolute path is kept without a slash at its end, as docker and BuildKit \
     keep it";
const MOUNT_POINTS: &str = "this buildah leaves in the image what it mounts /dev, /proc and its own \
     files of /etc on; BuildKit and later ones do not";
const LAST_LINE: &str = "Dockerfile reference, .dockerignore: the last line that matches a file \
     decides; this buildah does not look into a hidden directory for a pattern with **";
const PARENTS: &str = "BuildKit: a hidden directory with something in it that is shown comes with its \
     own mode and time";
const VOLUMES: &str = "Dockerfile reference, VOLUME: changes after it are dropped by the legacy \
     builder, and kept by BuildKit";

/// Cases that kfs refuses, and why.
const REFUSED: &[(&str, &str)] = &[(
    "add-dir-not-dir",
    "a member without a name is refused in any tar: it can only be a mistake",
)];

/// Cases that this buildah refuses or builds by older rules: the paths that have to be in the
/// image (a path that ends in `!` must not be), by the Dockerfile reference.
const EXPECTED: &[(&str, &str)] = &[
    ("add--exclude-includes-star", "subdir/file-c.txt subdir/subdir-e subdir/subdir-c!"),
    ("copy--exclude-includes-subdir-slash", "subdir/file-c.txt subdir/subdir-e subdir/subdir-c!"),
    ("copy--exclude-includes-slash", "subdir/subdir-c/file-c.txt"),
    ("copy--exclude-subdir-under-source", "app/storage/cache/cache_file app/storage/views!"),
    (
        "copy--form-and--exclude-subdir-under-source",
        "app/storage/cache/cache_file app/storage/views!",
    ),
    (
        "copy--exclude-exception-under-source",
        "app/storage/views/exception app/storage/views/test_file!",
    ),
    ("copy--parents", "no_parents/a.txt parents/x/a.txt parents/y/a.txt parents/a.txt!"),
    (
        "copy--parents-dir-with-links",
        "parents/x/z/hardlink-a.txt parents/x/y/b.txt parents_dir_point/z/symlink-b.txt \
         parents_dir_point/x!",
    ),
    ("copy--parents-all-directories", "parents/x/y/a.txt parents/y/b.txt"),
    ("copy--parents-directory-with-parent-directory", "parents/x/y/a.txt parents/x/z!"),
    (
        "copy--parents-path-with-star",
        "parents/x/y/a.txt parents/x/z/a.txt parents/y/b.txt parents/x/y/b.txt!",
    ),
    ("copy--parents-two-parent-directories", "parents/x/y/a.txt parents/x/y/b.txt parents/x/z!"),
    (
        "copy--parents-limit-parents-unknown-count-parent-directories",
        "parents/a.txt parents/y/a.txt parents/z/b.txt parents/x!",
    ),
    ("copy--parents-limit-parent-directories-1", "parents/a.txt parents/b.txt parents/x!"),
    (
        "heredoc-quoting",
        "run-argA=argvA.unquoted1.txt run-varB=valueB.unquoted1.txt run-argA=argvA2.quoted4.txt \
         copy-quoted1.txt add-unquoted4.txt",
    ),
    (
        "mount-cache-by-ownership",
        "results/0/0.txt results/0/10.txt! results/10/10.txt results/10/0.txt! results/0+10/10.txt",
    ),
    // A stage on another one knows its ARGs (Dockerfile reference, "Scope"); this buildah's does
    // not.
    ("quoted and inherited arg", "arg-expansion.txt"),
];

/// One case of the file.
struct Case {
    number: usize,
    name: String,
    value: Value,
}

impl Case {
    fn text(&self, field: &str) -> Option<&str> {
        self.value[field].as_str()
    }

    /// The build file, on the names of the bases here.
    fn dockerfile(&self) -> String {
        let text = self.text("dockerfileContents").unwrap_or_default();
        text.replace("mirror.gcr.io/busybox@sha256:", "localhost/busybox:1 # ")
            .replace("# 9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7", "")
            .replace("mirror.gcr.io/busybox", "localhost/busybox:1")
            .replace("mirror.gcr.io/alpine", "localhost/busybox:1")
            .replace("quay.io/libpod/centos:7", "localhost/busybox:1")
            // busybox's touch takes that for a time.
            .replace("touch -t @", "touch -d @")
    }

    fn build_args(&self) -> Vec<String> {
        let args = self.value["buildArgs"].as_object().into_iter().flatten();
        args.flat_map(|(name, value)| {
            let value = value.as_str().unwrap_or_default();
            let value = if value.contains("busybox") { "localhost/busybox:1" } else { value };
            ["--build-arg".to_owned(), format!("{name}={value}")]
        })
        .collect()
    }

    fn fails(&self) -> bool {
        self.value["shouldFailAt"].as_u64() != Some(0)
    }

    fn known(&self, what: &str) -> bool {
        KNOWN.iter().any(|(name, known, _)| *name == self.name && *known == what)
    }
}

fn base(root: &Path) {
    install_tools(root);
    MORE_TOOLS.map(Path::new).into_iter().for_each(|tool| install_program(root, tool));
    fs::remove_file(root.join("usr/bin/sh")).unwrap();
    symlink("bash", root.join("usr/bin/sh")).unwrap();
    // Some are there for buildah, which else makes them.
    for path in ["dev", "proc", "run", "sys", "var", "root", "usr/lib", "etc"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for path in ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/os-release"] {
        fs::write(root.join(path), "").unwrap();
    }
    let passwd = "root:x:0:0::/root:/bin/sh\ndaemon:x:2:2::/:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\ndaemon:x:2:\n").unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
}

/// What the suite's own code puts into a context.
fn tweak(case: &Case, context: &Path) {
    let write = |path: &str, mode: u32, owner: u32| {
        let path = context.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, path.to_str().unwrap().len().to_string()).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let pack = |from: &str| {
        let mut tar = Command::new("tar");
        tar.args(["--xattrs", "--xattrs-include=user.*", "-C"]).arg(context.join(from));
        run(tar.arg("-cf").arg(context.join("archive.tar")).arg("."));
    };
    match case.name.as_str() {
        "add-permissions" => {
            write("archive/file", 0o751, 1001);
            fs::set_permissions(context.join("archive"), fs::Permissions::from_mode(0o711))
                .unwrap();
            pack("archive");
        }
        "copy-permissions" => {
            write("subdir/file", 0o751, 1001);
            fs::set_permissions(context.join("subdir"), fs::Permissions::from_mode(0o711)).unwrap();
        }
        "xattrs-file-in-context" => {
            write("xattrs", 0o644, 0);
            xattr::set(context.join("xattrs"), "user.a", b"b").unwrap();
        }
        "setuid-file-in-archive" => {
            write("files/setuid", 0o4755, 333);
            write("files/setgid", 0o2755, 333);
            write("files/sticky", 0o1755, 333);
            pack("files");
            fs::remove_dir_all(context.join("files")).unwrap();
        }
        // A program that needs nothing else in its image; the suite's own is in Go.
        "mount-targets-new" | "mount-targets-old" => {
            let source = context.join("true.c");
            fs::write(&source, "int main(void) { return 0; }\n").unwrap();
            run(Command::new("cc").args(["-static", "-o"]).arg(context.join("true")).arg(&source));
            fs::remove_file(source).unwrap();
        }
        "xattrs-file-in-archive" => {
            write("files/xattrs", 0o644, 0);
            xattr::set(context.join("files/xattrs"), "user.a", b"test").unwrap();
            pack("files");
            fs::remove_dir_all(context.join("files")).unwrap();
        }
        _ => {}
    }
    if let Some(ignore) = case.text("dockerignore") {
        fs::write(context.join(".dockerignore"), ignore).unwrap();
    }
}

/// Makes the context of a case; the build file lies beside it.
fn prepare(case: &Case, corpus: &Path, shop: &Workshop) {
    for path in ["context", "Dockerfile"].map(|name| shop.path(name)) {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let context = shop.path("context");
    match case.text("contextDir") {
        Some(directory) => {
            let from = corpus.join("testdata").join(directory);
            run(Command::new("cp").arg("-a").arg(from).arg(&context));
        }
        None => fs::create_dir(&context).unwrap(),
    }
    tweak(case, &context);
    fs::write(shop.path("Dockerfile"), case.dockerfile()).unwrap();
    let mut touch = Command::new("find");
    touch.arg(&context).args([
        "-exec",
        "touch",
        "--no-dereference",
        "--date=@1500000000",
        "{}",
        "+",
    ]);
    run(&mut touch);
}

fn built(command: &mut Command) -> Result<String, String> {
    let Output { status, stderr, .. } = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    if status.success() { Ok(said) } else { Err(said) }
}

/// Builds a case with both; what is not as it should be.
fn check(case: &Case, shop: &mut Workshop) -> String {
    let tag = format!("localhost/case:{}", case.number);
    let mut args = vec!["-f".to_owned(), "Dockerfile".to_owned(), "-t".to_owned(), tag.clone()];
    args.extend(case.build_args());
    args.push("context".to_owned());
    let ours = built(shop.kfs().arg("build").args(&args));
    let theirs = built(
        shop.buildah("bud")
            .args(["--isolation", "chroot", "--layers", "--format", "oci"])
            .args(&args),
    );
    let expected = EXPECTED.iter().find(|(name, _)| *name == case.name);
    let ours = match (case.fails(), ours) {
        (true, Ok(_)) => return "kfs builds what has to fail".to_owned(),
        (true, Err(_)) => return String::new(),
        (false, Err(_)) if REFUSED.iter().any(|(name, _)| *name == case.name) => {
            return String::new();
        }
        (false, Err(said)) => return format!("kfs: {said}"),
        (false, Ok(_)) => walk(&shop.kfs_mount(&tag)),
    };
    if let Some((_, paths)) = expected {
        return missing(&ours, paths);
    }
    if let Err(said) = theirs {
        let paths: Vec<_> = ours.keys().filter(|path| !path.starts_with("./usr")).collect();
        return format!("buildah: {said}\nkfs has {paths:?}");
    }
    let theirs = walk(&shop.buildah_mount(&tag));
    let is_known = |path: &str, property: &str| match property {
        // The root directory is the storage's own.
        "mode" if path == "." => true,
        // What RUN makes is as old as the build.
        "mtime" if ours[path][property] != COPIED && theirs[path][property] != COPIED => true,
        property => case.known(property),
    };
    let mut found = differences(&ours, &theirs, is_known).join("\n");
    let ours: Value = serde_json::from_str(&run(shop.kfs().args(["inspect", &tag]))).unwrap();
    let mut theirs = shop.buildah_inspect(&tag);
    found.push_str(&config_differences(case, &ours["config"], &mut theirs["OCIv1"]));
    found
}

fn missing(ours: &Walked, paths: &str) -> String {
    let mut wrong = String::new();
    for path in paths.split_whitespace() {
        let (path, there) = path.strip_suffix('!').map_or((path, true), |path| (path, false));
        if ours.contains_key(&format!("./{path}")) != there {
            let how = if there { "missing" } else { "there" };
            writeln!(wrong, "{path} is {how}").unwrap();
        }
    }
    wrong
}

fn config_differences(case: &Case, ours: &Value, theirs: &mut Value) -> String {
    theirs["config"]["Labels"].as_object_mut().unwrap().remove("io.buildah.version");
    if theirs["config"]["Labels"] == json!({}) {
        theirs["config"].as_object_mut().unwrap().remove("Labels");
    }
    let empty = serde_json::Map::new();
    let (a, b) = (&ours["config"], &theirs["config"]);
    let keys = [a, b].map(|config| config.as_object().unwrap_or(&empty).keys().cloned());
    let keys: std::collections::BTreeSet<_> = keys.into_iter().flatten().collect();
    let mut found = String::new();
    for key in keys {
        if a[&key] != b[&key] && !case.known(&format!("config {key}")) {
            writeln!(found, "config {key}: kfs {}, buildah {}", a[&key], b[&key]).unwrap();
        }
    }
    if ours["author"] != theirs["author"] {
        writeln!(found, "author: kfs {}, buildah {}", ours["author"], theirs["author"]).unwrap();
    }
    found
}

/// Checks every case whose number leaves `share` over.
fn cases(share: usize) {
    if !available() {
        return;
    }
    let Some(corpus) = shared("corpus/dockerfiles") else { return };
    let text = fs::read_to_string(corpus.join("conformance-cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(cases.len() > 100);
    let cases = cases.into_iter().enumerate().filter(|(number, _)| number % SHARES == share);
    let mut shop = Workshop::new();
    base(&shop.path("base"));
    let tar = shop.path("base.tar");
    run(Command::new("tar").arg("-C").arg(shop.path("base")).arg("-cf").arg(&tar).arg("."));
    run(shop.kfs().args(["import", "base.tar", "localhost/busybox:1"]));
    shop.buildah_pull("oci:store:localhost/busybox:1", "localhost/busybox:1");
    let mut wrong = BTreeMap::new();
    for (number, value) in cases {
        let name = value["name"].as_str().unwrap().to_owned();
        let case = Case { number, name, value };
        prepare(&case, &corpus, &shop);
        let found = check(&case, &mut shop);
        if !found.is_empty() {
            wrong.insert(format!("{number} {}", case.name), found);
        }
    }
    let wrong: Vec<_> = wrong.iter().map(|(name, found)| format!("== {name}\n{found}")).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

macro_rules! shares {
    ($($name:ident $share:expr),*) => {
        $(#[test]
        fn $name() {
            cases($share);
        })*
    };
}

shares!(
    cases_0 0, cases_1 1, cases_2 2, cases_3 3, cases_4 4, cases_5 5, cases_6 6, cases_7 7, cases_8 8,
    cases_9 9
);
