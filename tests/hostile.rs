//! Images made to do harm, and streams that nobody reads: what a user sees of them.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use kfs_fs::digest::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

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

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("KFS_PULL", "never").env("KFS_ROOT", self.path("store")).stdin(Stdio::null());
        command
    }

    /// Exit code, standard output and standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().expect("not killed"), text(stdout), text(stderr))
    }

    /// Standard output of a command that has to work.
    fn ok(&self, args: &[&str]) -> String {
        let (code, out, error) = self.run(args);
        assert_eq!(code, 0, "kfs {args:?}: {error}");
        out
    }

    fn blob(&self, layout: &str, media_type: &str, data: &[u8]) -> Value {
        let digest = Digest::of(data);
        let dir = self.path(layout).join("blobs/sha256");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(digest.hex()), data).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": data.len() })
    }

    /// An OCI layout of images with these names, of one layer each.
    fn layout(&self, layout: &str, images: &[(&str, &[u8])]) {
        let mut entries = Vec::new();
        for (name, tar) in images {
            let diff_ids = [Digest::of(tar)];
            let config = json!({
                "architecture": "amd64", "os": "linux",
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            });
            let manifest = json!({
                "schemaVersion": 2,
                "config": self.blob(layout, CONFIG, config.to_string().as_bytes()),
                "layers": [self.blob(layout, LAYER, tar)],
            });
            let mut entry = self.blob(layout, MANIFEST, manifest.to_string().as_bytes());
            entry["annotations"] = json!({ REF_NAME: name });
            entries.push(entry);
        }
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        fs::write(self.path(layout).join("index.json"), index.to_string()).unwrap();
        fs::write(self.path(layout).join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .unwrap();
    }

    /// The same as an oci-archive.
    fn archive(&self, layout: &str) -> String {
        let name = format!("{layout}.tar");
        let mut tar = tar::Builder::new(File::create(self.path(&name)).unwrap());
        tar.append_dir_all("", self.path(layout)).unwrap();
        tar.finish().unwrap();
        name
    }
}

/// A tar of empty files.
fn files(names: &[&[u8]]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
    }
    tar.into_inner().unwrap()
}

fn assert_harmless(text: &str) {
    let harmful = text.chars().find(|char| char.is_control() && *char != '\n');
    assert_eq!(harmful, None, "{text:?}");
}

#[test]
fn names_reach_no_terminal_as_they_are() {
    let sandbox = Sandbox::new();
    let tar = files(&[b"a\x1b[31m", b"b\nc", b"d\xff", b"e\xc2\x9bf", b"\xe2\x80\xaeg"]);
    let evil = "evil\x1b[2J\nhint: rm -rf /";
    sandbox.layout("layout", &[(evil, &tar), ("other\x1b[31m", &files(&[b"x"]))]);
    let (code, _, error) = sandbox.run(&["ls", "oci:layout"]);
    assert_eq!(code, 2);
    assert_harmless(&error);
    assert_eq!(error.lines().count(), 2, "{error}");
    let archive = sandbox.archive("layout");
    let loaded = sandbox.ok(&["load", &archive]);
    assert_harmless(&loaded);
    assert_eq!(loaded.lines().count(), 2, "{loaded}");
    for args in [&["ls", evil][..], &["ls", "-lR", evil], &["tree", evil], &["images"]] {
        let out = sandbox.ok(args);
        assert_harmless(&out);
    }
    let listed = sandbox.ok(&["ls", evil]);
    assert_eq!(listed, "a\\u{1b}[31m\nb\\nc\nd\\xff\ne\\u{9b}f\n\\u{202e}g\n");
    let removed = sandbox.ok(&["rmi", evil]);
    assert_harmless(&removed);
    assert!(removed.starts_with("Untagged: evil\\u{1b}[2J\\nhint"), "{removed}");
}

#[test]
fn closed_and_full_streams_end_no_command_with_a_panic() {
    let sandbox = Sandbox::new();
    sandbox.layout("layout", &[("x:1", &files(&[b"a"]))]);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let closed = || std::io::pipe().unwrap().1;
    let cases = [
        (&["ls", "oci:layout"][..], 0),
        (&["ls", "nope"], 3),
        (&["ls", "oci:layout", "/nope"], 3),
        (&["load", "layout.tar"], 3),
        (&["completions", "bash"], 0),
    ];
    for (args, code) in cases {
        for error in [Stdio::from(full()), closed().into()] {
            let output = sandbox.command(args).stderr(error).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{args:?}");
        }
        let output = sandbox.command(args).stdout(closed()).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        let output = sandbox.command(args).stdout(full()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code.max(1)), "{args:?}: {error}");
        assert!(code != 0 || error.contains("write standard output: No space"), "{error}");
    }
}

#[test]
fn a_layout_of_pipes_and_devices_holds_nothing_up() {
    let sandbox = Sandbox::new();
    let tar = files(&[b"a"]);
    sandbox.layout("layout", &[("x:1", &tar)]);
    let blob = format!("blobs/sha256/{}", Digest::of(&tar).hex());
    for name in [&blob, "index.json", "oci-layout"] {
        let path = sandbox.path("layout").join(name);
        let kept = fs::read(&path).unwrap();
        for kind in ["fifo", "device", "directory"] {
            fs::remove_file(&path).unwrap();
            match kind {
                "fifo" => {
                    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o644))
                        .unwrap();
                }
                "device" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            let (code, _, error) = sandbox.run(&["ls", "oci:layout"]);
            assert_eq!(code, 1, "{kind}: {error}");
            assert!(error.contains(&format!("{name}: it is not a regular file")), "{error}");
            if kind == "directory" {
                fs::remove_dir(&path).unwrap();
                fs::write(&path, b"").unwrap();
            }
        }
        fs::write(&path, kept).unwrap();
    }
    sandbox.ok(&["ls", "oci:layout"]);
}

#[test]
fn what_no_layer_may_be_compressed_with_is_named() {
    let sandbox = Sandbox::new();
    for (how, magic) in
        [("xz", &b"\xfd7zXZ\0"[..]), ("bzip2", b"BZh91AY&SY"), ("lz4", b"\x04\"M\x18")]
    {
        let layer = [magic, &[7; 1024]].concat();
        sandbox.layout("layout", &[("x:1", &layer)]);
        let (code, _, error) = sandbox.run(&["ls", "oci:layout"]);
        assert!(code == 5 && error.contains(&format!("it looks like {how}")), "{error}");
    }
}

/// As a tool leaves it that packs a layer anew and keeps its annotations.
#[test]
fn a_table_of_contents_that_is_gone_is_told_once_and_leaves_no_files() {
    const TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
    let sandbox = Sandbox::new();
    let tar = files(&[b"a", b".prefetch.landmark", b".no.prefetch.landmark", b"stargz.index.json"]);
    sandbox.layout("layout", &[("x:1", &tar)]);
    let read = |path: &str| -> Value {
        serde_json::from_slice(&fs::read(sandbox.path(path)).unwrap()).unwrap()
    };
    let mut index = read("layout/index.json");
    let digest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    let mut manifest = read(&format!("layout/blobs/sha256/{}", digest.hex()));
    manifest["layers"][0]["annotations"] = json!({ TOC: Digest::of(b"gone") });
    let mut entry = sandbox.blob("layout", MANIFEST, manifest.to_string().as_bytes());
    entry["annotations"] = json!({ REF_NAME: "of:stargz" });
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(sandbox.path("layout/index.json"), index.to_string()).unwrap();
    for warnings in [1, 0] {
        let (code, shown, error) = sandbox.run(&["ls", "oci:layout:of:stargz"]);
        assert_eq!((code, shown.as_str()), (0, "a\n"), "{error}");
        assert_eq!(error.matches("it is read whole").count(), warnings, "{error}");
    }
    // To whom the manifest does not say what they are, they are files.
    assert_eq!(sandbox.ok(&["ls", "oci:layout:x:1"]).lines().count(), 4);
}
