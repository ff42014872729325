//! The image commands as a user runs them, and other tools on the same store.

mod a_mount;
mod skip;

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use a_mount::Mount;
use serde_json::Value;
use skip::skip;
use tempfile::TempDir;

struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("KFS_PULL", "never").env("KFS_ROOT", self.store()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Standard output of a command that has to work.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kfs {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and standard error of a command that has to fail.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        failure(&self.run(args))
    }

    /// An image of one file, by way of `kfs import`.
    fn image(&self, name: &str, content: &[u8]) {
        fs::write(self.path("rootfs.tar"), tar_of("file", content)).unwrap();
        self.ok(&["import", "rootfs.tar", name]);
    }

    /// The same with a compressed layer, which skopeo copies as it is.
    fn gzip_image(&self, name: &str, content: &[u8]) {
        fs::write(self.path("rootfs.tar.gz"), gzip(&tar_of("file", content))).unwrap();
        self.ok(&["import", "rootfs.tar.gz", name]);
    }

    fn inspect(&self, image: &str) -> Value {
        serde_json::from_str(&self.ok(&["inspect", image])).unwrap()
    }

    fn blob(&self, digest: &Value) -> PathBuf {
        let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
        self.store().join("blobs/sha256").join(hex)
    }

    /// No blob, no name, no temporary file.
    fn assert_empty_store(&self) {
        for dir in ["blobs/sha256", "tmp"] {
            assert_eq!(fs::read_dir(self.store().join(dir)).unwrap().count(), 0, "{dir}");
        }
        assert_eq!(self.ok(&["images", "--format", "json"]), "[]\n");
    }
}

fn failure(output: &Output) -> (i32, String) {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{error}");
    assert!(output.stdout.is_empty(), "data of a failure: {:?}", output.stdout);
    (output.status.code().expect("not killed"), error)
}

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(data).unwrap();
    gzip.finish().unwrap()
}

/// Bytes that gzip cannot shrink.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

/// Runs another tool; none if it is not installed.
fn tool(program: &str, args: &[&str], dir: &Path) -> Option<()> {
    match Command::new(program).args(args).current_dir(dir).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(format_args!("{program} is not installed"));
            None
        }
        output => {
            let output = output.unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {args:?}: {error}");
            Some(())
        }
    }
}

fn skopeo_copy(sandbox: &Sandbox, from: &str, to: &str) -> Option<()> {
    let args = ["--insecure-policy", "copy", "--quiet", from, to];
    tool("skopeo", &args, sandbox.dir.path())
}

#[test]
fn an_image_is_imported_listed_tagged_shown_and_removed() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.ok(&["images"]), "REPOSITORY   TAG   DIGEST   CREATED   SIZE   HERE\n");
    assert!(!sandbox.store().exists(), "listing makes no store");
    fs::write(sandbox.path("x.tar"), tar_of("file", b"x")).unwrap();
    let import = ["import", "x.tar", "docker.io/library/x"];
    let output = sandbox.command(&import).env("SOURCE_DATE_EPOCH", "0").output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "importing x.tar\n");
    sandbox.ok(&["tag", "x", "localhost/y:v1"]);
    let digest = sandbox.inspect("x")["digest"].clone();
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let table = sandbox.ok(&["images"]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[1][..3], ["x", "latest", &hex[..12]]);
    assert_eq!(rows[2][..3], ["localhost/y", "v1", &hex[..12]]);
    let (age, [size, here]) = rows[1][3..].split_last_chunk().unwrap();
    assert!(age.ends_with(&["years", "ago"]) && size.ends_with("kB"), "{table}");
    assert_eq!(*here, "all");
    assert_eq!(sandbox.ok(&["images", "-q"]), format!("{0}\n{0}\n", &hex[..12]));
    let history = sandbox.ok(&["history", "--no-trunc", &hex[..8]]);
    assert!(history.contains("imported from x.tar"), "{history}");
    let (code, error) = sandbox.fails(&["rmi", &hex[..8]]);
    assert_eq!(code, 1);
    assert!(error.contains("has several names: x:latest, localhost/y:v1"), "{error}");
    assert_eq!(sandbox.ok(&["rmi", "x"]), "Untagged: x:latest\n");
    let removed = sandbox.ok(&["rmi", "localhost/y:v1"]);
    assert!(removed.ends_with(&format!("Deleted: {}\n", digest.as_str().unwrap())), "{removed}");
    sandbox.assert_empty_store();
}

#[test]
fn names_that_are_not_there_get_a_hint() {
    let sandbox = Sandbox::new();
    sandbox.image("debian:12", b"x");
    let store = sandbox.store();
    for command in ["inspect", "history", "rmi", "save"] {
        let (code, error) = sandbox.fails(&[command, "debian:13"]);
        let expected = format!(
            "kfs: no image \"debian:13\" in {}\nhint: did you mean debian:12?\n",
            store.display()
        );
        assert_eq!((code, error), (3, expected));
    }
    let (code, error) = sandbox.fails(&["inspect", "alpine"]);
    assert!(code == 3 && error.contains("`kfs images` lists"), "{error}");
    let (code, error) = sandbox.fails(&["tag", "debian:12", "Debian:12"]);
    assert!(code == 2 && error.contains(r#"lower-case: "debian:12""#), "{error}");
    let (code, error) = sandbox.fails(&["inspect", ""]);
    assert!(code == 2 && error.contains("the image name is empty"), "{error}");
    assert_eq!(sandbox.ok(&["rmi", "-f", "alpine"]), "");
    // One that is there goes although another is not.
    let output = sandbox.run(&["rmi", "alpine", "debian:12"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("Untagged: debian:12\n"));
}

#[test]
fn archives_go_out_and_come_in_by_file_and_by_pipe() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", b"a");
    sandbox.image("b:1", b"b");
    for format in ["oci-archive", "docker-archive"] {
        sandbox.ok(&["save", "--format", format, "-o", "x.tar", "a:1", "b:1"]);
        let piped = sandbox.run(&["save", "--format", format, "a:1", "b:1"]);
        let saved = fs::read(sandbox.path("x.tar")).unwrap();
        assert!(piped.status.success() && piped.stdout == saved, "{format}");
        let source = format!("{format}:x.tar:a:1");
        assert_eq!(
            sandbox.inspect(&source)["config"],
            sandbox.inspect("a:1")["config"],
            "{format}"
        );
        for args in [&["load"][..], &["load", "-"], &["load", "-i", "x.tar"], &["load", "x.tar"]] {
            let other = Sandbox::new();
            fs::copy(sandbox.path("x.tar"), other.path("x.tar")).unwrap();
            let mut command = other.command(args);
            command.stdin(fs::File::open(sandbox.path("x.tar")).unwrap());
            let output = command.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(text, "Loaded image: a:1\nLoaded image: b:1\n", "{format} {args:?}");
            assert_eq!(other.inspect("a:1")["config"], sandbox.inspect("a:1")["config"]);
        }
    }
    let archive = fs::read(sandbox.path("x.tar")).unwrap();
    fs::write(sandbox.path("x.tar.gz"), gzip(&archive)).unwrap();
    let (code, error) = sandbox.fails(&["inspect", "docker-archive:x.tar.gz:a:1"]);
    assert!(code == 5 && error.contains("hint: `kfs load x.tar.gz`"), "{error}");
    sandbox.ok(&["--quiet", "load", "x.tar.gz"]);
    let (code, error) = sandbox.fails(&["inspect", "oci-archive:x.tar"]);
    assert!(code == 2 && error.contains("hint: name it docker-archive:x.tar"), "{error}");
    // A device is written to and stays one.
    sandbox.ok(&["save", "-o", "/dev/null", "a:1"]);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn skopeo_and_umoci_share_the_store() {
    let sandbox = Sandbox::new();
    sandbox.gzip_image("debian:12", b"x");
    let digest = sandbox.inspect("debian:12")["digest"].clone();
    if skopeo_copy(&sandbox, "oci:store:debian:12", "oci-archive:out.tar:theirs").is_none() {
        return;
    }
    assert_eq!(sandbox.inspect("oci-archive:out.tar:theirs")["digest"], digest);
    skopeo_copy(&sandbox, "oci-archive:out.tar:theirs", "oci:store:localhost/new:1").unwrap();
    assert_eq!(sandbox.inspect("localhost/new:1")["digest"], digest);
    skopeo_copy(&sandbox, "oci-archive:out.tar:theirs", "oci:fresh:x").unwrap();
    // A layout that skopeo made becomes a store when kfs writes to it.
    sandbox.ok(&["--root", "fresh", "tag", "x", "y"]);
    assert_eq!(sandbox.inspect("oci:fresh:y:latest")["digest"], digest);
    if tool("umoci", &["tag", "--image", "store:debian:12", "umoci"], sandbox.dir.path()).is_some()
    {
        assert_eq!(sandbox.inspect("umoci")["digest"], digest);
    }
}

#[test]
fn archives_of_skopeo_are_loaded() {
    let sandbox = Sandbox::new();
    sandbox.image("debian:12", b"x");
    let config = sandbox.inspect("debian:12")["config"].clone();
    for archive in ["oci-archive:o.tar:debian:13", "docker-archive:d.tar:debian:13"] {
        if skopeo_copy(&sandbox, "oci:store:debian:12", archive).is_none() {
            return;
        }
        let file = archive.split(':').nth(1).unwrap();
        assert_eq!(sandbox.ok(&["load", file]), "Loaded image: debian:13\n");
        assert_eq!(sandbox.inspect("debian:13")["config"], config, "{archive}");
        sandbox.ok(&["rmi", "debian:13"]);
    }
    // And skopeo reads ours.
    sandbox.ok(&["save", "--format", "docker-archive", "-o", "ours.tar", "debian:12"]);
    skopeo_copy(&sandbox, "docker-archive:ours.tar:debian:12", "oci:theirs:x").unwrap();
    assert_eq!(sandbox.inspect("oci:theirs:x")["config"], config);
}

#[test]
fn no_archive_is_written_to_a_terminal() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", b"a");
    fs::write(sandbox.path("Dockerfile"), "FROM scratch\nLABEL a=b\n").unwrap();
    for typed in ["save a:1", "build -o - ."] {
        let line = format!("{} {typed}", env!("CARGO_BIN_EXE_kfs"));
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(sandbox.dir.path());
        script.env("KFS_ROOT", sandbox.store()).stdin(Stdio::null());
        let Ok(output) = script.output() else { return skip("needs script") };
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("an archive is not written to a terminal"), "{said}");
    }
}

#[test]
fn damage_is_told_with_the_digest_and_a_code_of_its_own() {
    let sandbox = Sandbox::new();
    sandbox.gzip_image("a:1", &noise(5000));
    let image = sandbox.inspect("a:1");
    let layer = &image["layers"][0]["digest"];
    let path = sandbox.blob(layer);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    let (code, error) = sandbox.fails(&["inspect", "a:1"]);
    assert!(code == 5 && error.contains("ends after"), "{error}");
    assert!(error.contains(layer.as_str().unwrap()), "{error}");
    let mut flipped = good.clone();
    flipped[2000] ^= 1;
    fs::write(&path, flipped).unwrap();
    for format in ["oci-archive", "docker-archive"] {
        let (code, error) = sandbox.fails(&["save", "--format", format, "-o", "x.tar", "a:1"]);
        assert!(code == 5 && error.contains("its content has digest"), "{error}");
        assert!(!sandbox.path("x.tar").exists());
    }
    fs::write(&path, &good).unwrap();
    let manifest = sandbox.blob(&image["digest"]);
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("\"schemaVersion\":2", "\"schemaVersion\":3")).unwrap();
    let (code, error) = sandbox.fails(&["inspect", "a:1"]);
    assert!(code == 5 && error.contains("is corrupt"), "{error}");
    // Lists go on, and say what is wrong.
    let output = sandbox.run(&["images"]);
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("is corrupt"));
}

#[test]
fn a_broken_archive_leaves_no_trace() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", &noise(50_000));
    sandbox.ok(&["save", "-o", "x.tar", "a:1"]);
    let good = fs::read(sandbox.path("x.tar")).unwrap();
    let other = Sandbox::new();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (bytes, expected) in [
        (&good[..good.len() / 2], "is truncated"),
        (&flipped, "is corrupt: its content has digest"),
        (b"", "is not a tar archive"),
        (&tar_of("etc/passwd", b""), "holds no images"),
    ] {
        fs::write(other.path("x.tar"), bytes).unwrap();
        let (code, error) = other.fails(&["load", "x.tar"]);
        assert!(code == 5 && error.contains(expected), "{error}");
        other.assert_empty_store();
    }
    assert_eq!(other.fails(&["load", "none.tar"]).0, 3);
}

#[test]
fn a_store_that_cannot_be_written_is_named() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("rootfs.tar"), tar_of("file", b"x")).unwrap();
    fs::write(sandbox.path("file"), "").unwrap();
    let (code, error) = sandbox.fails(&["--root", "file/store", "import", "rootfs.tar", "x"]);
    let expected = format!("kfs: store {} cannot be written", sandbox.path("file/store").display());
    assert!(code == 1 && error.contains(&expected), "{error}");
    assert!(error.contains("hint: use another store: --root DIR or KFS_ROOT"), "{error}");
}

#[test]
fn a_read_only_store_can_be_read_root_only() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", b"x");
    let store = sandbox.store();
    let args = ["--bind", "-o", "ro", store.to_str().unwrap()];
    let Some(_mount) = Mount::new(store.clone(), &args) else {
        return;
    };
    assert!(sandbox.ok(&["images"]).contains('a'));
    sandbox.inspect("a:1");
    sandbox.ok(&["save", "-o", "x.tar", "a:1"]);
    for args in [
        &["tag", "a:1", "b:1"][..],
        &["rmi", "a:1"],
        &["load", "x.tar"],
        &["import", "rootfs.tar", "c"],
    ] {
        let (code, error) = sandbox.fails(args);
        let expected = format!("store {} cannot be written", store.display());
        assert!(code == 1 && error.contains(&expected), "{args:?}: {error}");
    }
}

#[test]
fn a_full_disk_leaves_no_trace_root_only() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", &noise(3_000_000));
    sandbox.ok(&["save", "-o", "x.tar", "a:1"]);
    let small = sandbox.path("small");
    fs::create_dir(&small).unwrap();
    let args = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let Some(_mount) = Mount::new(small.clone(), &args) else {
        return;
    };
    let other = |args: &[&str]| sandbox.command(args).env("KFS_ROOT", &small).output().unwrap();
    for args in [&["load", "x.tar"], &["import", "rootfs.tar"]] {
        let mut args = args.to_vec();
        args.extend((args[0] == "import").then_some("c"));
        let (code, error) = failure(&other(&args));
        assert!(code == 1 && error.contains("No space left on device"), "{error}");
        assert!(error.contains("hint: free some space"), "{error}");
        for dir in ["blobs/sha256", "tmp"] {
            assert_eq!(fs::read_dir(small.join(dir)).unwrap().count(), 0, "{dir}");
        }
    }
    let (_, error) = sandbox.fails(&["save", "-o", "small/y.tar", "a:1"]);
    assert!(error.contains("No space left on device"), "{error}");
    assert!(!small.join("y.tar").exists());
    // What fits still works.
    fs::write(sandbox.path("tiny.tar"), tar_of("file", b"x")).unwrap();
    assert!(other(&["import", "tiny.tar", "c"]).status.success());
}

#[test]
fn a_full_disk_can_be_pruned_and_checked_root_only() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("some.tar"), tar_of("file", &noise(200_000))).unwrap();
    let small = sandbox.path("small");
    fs::create_dir(&small).unwrap();
    let args = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let Some(_mount) = Mount::new(small.clone(), &args) else {
        return;
    };
    let other = |args: &[&str]| sandbox.command(args).env("KFS_ROOT", &small).output().unwrap();
    for prune in [&["prune", "--format", "json"][..], &["prune", "--all", "--format", "json"]] {
        fs::write(sandbox.path("tiny.tar"), tar_of("file", b"x")).unwrap();
        assert!(other(&["import", "some.tar", "a"]).status.success());
        assert!(other(&["ls", "a", "/"]).status.success());
        if prune.len() == 3 {
            assert!(other(&["import", "tiny.tar", "a"]).status.success());
        }
        fs::write(small.join("lost+found"), vec![1; 1 << 20]).unwrap_err();
        let (code, error) = failure(&other(&["tag", "a", "b"]));
        assert!(code == 1 && error.contains("No space left on device"), "{error}");
        let fsck = other(&["fsck"]);
        assert!(fsck.status.success(), "{fsck:?}");
        let pruned = other(prune);
        assert!(pruned.status.success(), "{pruned:?}");
        let report: serde_json::Value = serde_json::from_slice(&pruned.stdout).unwrap();
        assert!(report["bytes"].as_u64().unwrap() > 190_000, "{report}");
        assert!(other(&["fsck"]).status.success());
        fs::remove_file(small.join("lost+found")).unwrap();
    }
}

/// Commands that write to the store.
const FILLING: [&[&str]; 12] = [
    &["load", "-i", "a.tar"],
    &["load", "-i", "a.oci.tar"],
    &["import", "other.tar", "c"],
    &["convert", "a", "c", "--to", "zstd-chunked"],
    &["convert", "b", "c", "--to", "gzip"],
    &["build", "-t", "c", "context"],
    &["tag", "b", "c"],
    &["copy", "oci-archive:a.oci.tar", "c"],
    &["merge", "-t", "c", "a", "b"],
    &["ls", "b", "/"],
    &["rmi", "b"],
    &["prune", "--all"],
];

/// Whatever room there was: the command does its work or says what lacks, the store is whole, and
/// the same command works as soon as there is room.
#[test]
fn a_disk_that_is_full_at_any_point_harms_nothing_root_only() {
    let sandbox = Sandbox::new();
    sandbox.image("a", &noise(150_000));
    sandbox.image("b", &noise(20_000));
    sandbox.ok(&["save", "-o", "a.tar", "a"]);
    sandbox.ok(&["save", "--format", "oci-archive", "-o", "a.oci.tar", "a"]);
    fs::write(sandbox.path("other.tar"), tar_of("other", &noise(170_000))).unwrap();
    fs::create_dir(sandbox.path("context")).unwrap();
    fs::write(sandbox.path("context/new"), noise(120_000)).unwrap();
    fs::write(sandbox.path("context/Dockerfile"), "FROM a\nCOPY new /new\nENV a=b\n").unwrap();
    let small = sandbox.path("small");
    fs::create_dir(&small).unwrap();
    let Some(_mount) = Mount::new(small.clone(), &["-t", "tmpfs", "-o", "size=2m", "tmpfs"]) else {
        return;
    };
    let other = |args: &[&str]| sandbox.command(args).env("KFS_ROOT", &small).output().unwrap();
    let good = |when: &str| {
        let fsck = other(&["fsck"]);
        assert!(fsck.status.success(), "{when}: {fsck:?}");
    };
    let filling = small.join("lost+found");
    let mut refused = 0;
    for command in FILLING {
        // In KiB.
        for room in [0, 4, 8, 16, 32, 64, 128, 160, 200, 320] {
            let mut empty = Command::new("find");
            empty.arg(&small).args(["-mindepth", "1", "-delete"]);
            let mut copy = Command::new("cp");
            copy.arg("-a").args([&sandbox.store().join("."), &small]);
            assert!(empty.status().unwrap().success() && copy.status().unwrap().success());
            if command[0] == "load" {
                assert!(other(&["rmi", "a"]).status.success());
            }
            let free = || nix::sys::statvfs::statvfs(&small).unwrap().blocks_free() * 4096;
            let much = usize::try_from(free().saturating_sub(room << 10)).unwrap();
            fs::write(&filling, vec![1; much]).unwrap();
            let when = format!("kfs {command:?} with {room} KiB");
            let output = other(command);
            if !output.status.success() {
                refused += 1;
                let (code, error) = failure(&output);
                assert_eq!(code, 1, "{when}: {error}");
                assert!(error.contains("No space left on device"), "{when}: {error}");
            }
            good(&when);
            fs::remove_file(&filling).unwrap();
            if !output.status.success() {
                let again = other(command);
                assert!(again.status.success(), "{when}, and then with room: {again:?}");
                good(&when);
            }
        }
    }
    assert!(refused > 40, "{refused}");
}

/// With nothing in the store that could be made again.
#[test]
fn images_can_be_removed_from_a_full_disk_root_only() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("some.tar"), tar_of("file", &noise(200_000))).unwrap();
    let small = sandbox.path("small");
    fs::create_dir(&small).unwrap();
    let args = ["-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "tmpfs"];
    let Some(_mount) = Mount::new(small.clone(), &args) else {
        return;
    };
    // An import of another second would be another image.
    let variables = [("KFS_ROOT", small.as_os_str()), ("SOURCE_DATE_EPOCH", OsStr::new("1"))];
    let other = |args: &[&str]| sandbox.command(args).envs(variables).output().unwrap();
    for removal in [&["rmi", "a"][..], &["rmi", "a", "b"], &["prune", "--all"]] {
        assert!(other(&["import", "some.tar", "a"]).status.success());
        assert!(other(&["tag", "a", "b"]).status.success());
        fs::write(small.join("lost+found"), vec![1; 1 << 20]).unwrap_err();
        let (code, error) = failure(&other(&["tag", "a", "c"]));
        assert!(code == 1 && error.contains("No space left on device"), "{error}");
        let removed = other(removal);
        assert!(removed.status.success(), "{removal:?}: {removed:?}");
        let left = String::from_utf8(other(&["images", "-q"]).stdout).unwrap();
        assert_eq!(left.lines().count(), usize::from(removal == ["rmi", "a"]), "{removed:?}");
        fs::remove_file(small.join("lost+found")).unwrap();
        assert!(other(&["fsck"]).status.success());
    }
    // Once there is room again, it is held for the next time.
    assert!(other(&["import", "some.tar", "a"]).status.success());
    assert!(fs::metadata(small.join("reserve")).unwrap().len() > 0);
    // Not a file more can be made.
    fs::create_dir(small.join("lost+found")).unwrap();
    let full = (0..).find(|n| fs::write(small.join(format!("lost+found/{n}")), "").is_err());
    assert!(full.is_some());
    failure(&other(&["tag", "a", "c"]));
    let removed = other(&["rmi", "a"]);
    assert!(removed.status.success(), "{removed:?}");
}

#[test]
fn prune_tells_what_it_does() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", b"old");
    sandbox.image("a:1", b"new");
    let dry = sandbox.ok(&["prune", "--dry-run"]);
    assert!(dry.starts_with("KIND ") && dry.contains("image  ") && dry.contains("blob  "), "{dry}");
    assert_eq!(sandbox.ok(&["prune"]), dry);
    assert_eq!(sandbox.ok(&["prune", "images", "cache"]), "");
    let (code, error) = sandbox.fails(&["prune", "--filter", "label=x"]);
    assert!(code == 2 && error.contains("until=24h"), "{error}");
    let (code, error) = sandbox.fails(&["prune", "--keep-storage", "much"]);
    assert!(code == 2 && error.contains("is no size"), "{error}");
    sandbox.inspect("a:1");
}

#[test]
fn fsck_names_the_images_that_lose_a_blob() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", b"x");
    assert_eq!(sandbox.ok(&["fsck"]), "");
    let layer = sandbox.inspect("a:1")["manifest"]["layers"][0]["digest"].clone();
    let hex = layer.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let blob = sandbox.store().join("blobs/sha256").join(&hex);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[700] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let output = sandbox.command(&["fsck", "--repair"]).output().unwrap();
    let (code, error) = (output.status.code(), String::from_utf8(output.stderr).unwrap());
    assert!(code == Some(5) && error.contains("the store is damaged\nhint: get"), "{error}");
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(found.starts_with(&format!("lost blobs/sha256/{hex}: ")), "{found}");
    assert!(found.ends_with(&format!(" (images a:1): moved to quarantine/{hex}\n")), "{found}");
    sandbox.ok(&["rmi", "a:1"]);
    sandbox.ok(&["fsck"]);
}

#[test]
fn a_killed_load_leaves_nothing_to_clean_by_hand() {
    let sandbox = Sandbox::new();
    sandbox.image("a:1", b"x");
    // It waits for the rest of the archive when it is killed.
    let mut command = sandbox.command(&["load"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&noise(1_000_000)).unwrap();
    let left = || fs::read_dir(sandbox.store().join("tmp")).unwrap().count();
    assert_eq!(left(), 1);
    // In use: another writer leaves it alone.
    sandbox.ok(&["tag", "a:1", "b:1"]);
    assert_eq!(left(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.ok(&["tag", "a:1", "c:1"]);
    assert_eq!(left(), 0);
}

#[test]
fn what_a_conversion_was_to_put_first_but_no_layer_has_is_told() {
    let sandbox = Sandbox::new();
    sandbox.image("x:1", b"content");
    fs::write(sandbox.path("list"), "/file\n/no\n/nor/this\n/\x1b\n/and\n").unwrap();
    let converted = sandbox.run(&["convert", "--trace", "list", "x:1", "y:1"]);
    let said = String::from_utf8(converted.stderr).unwrap();
    let warning = "warning: no layer has 4 of the 5 paths of list: /no, /nor/this, /\\u{1b}, ...";
    assert!(converted.status.success() && said.contains(warning), "{said}");
    fs::write(sandbox.path("list"), "/file\n").unwrap();
    let converted = sandbox.run(&["convert", "--trace", "list", "x:1", "y:1"]);
    let said = String::from_utf8(converted.stderr).unwrap();
    assert!(converted.status.success() && !said.contains("no layer has"), "{said}");
}

#[test]
fn a_trace_is_read_from_standard_input() {
    let sandbox = Sandbox::new();
    sandbox.image("x:1", b"content");
    let import = |trace: &[u8]| {
        let mut command = sandbox.command(&["trace", "import", "x:1", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(trace).unwrap();
        child.wait_with_output().unwrap()
    };
    let manifest = format!("sha256:{}", "0".repeat(64));
    let entry = serde_json::json!({ "path": "/file", "offset": 0, "size": 7 });
    let trace = serde_json::json!({ "version": 1, "manifest": manifest, "entries": [entry] });
    let imported = import(trace.to_string().as_bytes());
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let exported: Value = serde_json::from_str(&sandbox.ok(&["trace", "export", "x:1"])).unwrap();
    assert_eq!(exported["entries"], trace["entries"]);
    let (_, error) = failure(&import(b"{}"));
    assert!(error.contains("standard input"), "{error}");
}

#[test]
fn a_docker_archive_has_the_digest_that_it_is_read_with() {
    let sandbox = Sandbox::new();
    sandbox.image("x:1", b"content");
    let digest = sandbox.ok(&["copy", "x:1", "docker-archive:x.docker"]);
    let read = sandbox.ok(&["inspect", "docker-archive:x.docker"]);
    assert!(digest.starts_with("sha256:") && read.contains(digest.trim()), "{digest}: {read}");
    // Nobody can read again what was passed on.
    assert_eq!(sandbox.ok(&["copy", "x:1", "docker-archive:/dev/null"]), "");
}
