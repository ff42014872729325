//! `kfs collect`: from directories, files and images, for people and for programs.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn write(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn kfs(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
    command.env_clear().env("KFS_ROOT", root.join("store")).env("KFS_PULL", "never");
    command.current_dir(root).args(args);
    command.output().unwrap()
}

/// Output of a command that works, and what it says.
fn said(root: &Path, args: &[&str]) -> (String, String) {
    let output = kfs(root, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

#[test]
fn a_context_its_image_and_its_files_give_the_same() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "app/manifests/a.yaml", "image: nginx:1\n---\nimage: '{{ .x }}'\n");
    write(dir.path(), "app/images/shim/list", "registry.k8s.io/pause:3.9\n");
    write(dir.path(), "app/Kubefile", "FROM scratch\nCOPY . .\n");
    let expected = "docker.io/library/nginx:1\nregistry.k8s.io/pause:3.9\n";
    let (data, talk) = said(dir.path(), &["collect", "app"]);
    assert_eq!(data, expected);
    assert_eq!(
        talk,
        "left out:\n  manifests/a.yaml:3: \"{{ .x }}\": it is a template that only its installation fills in\n"
    );
    said(dir.path(), &["build", "--collect=none", "-t", "app:1", "app"]);
    assert_eq!(said(dir.path(), &["collect", "app:1"]).0, expected);
    assert_eq!(said(dir.path(), &["collect", "app/manifests"]).0, "docker.io/library/nginx:1\n");
    let one = |file: &str| said(dir.path(), &["collect", file]).0;
    assert_eq!(one("app/manifests/a.yaml"), "docker.io/library/nginx:1\n");
    assert_eq!(one("app/images/shim/list"), "registry.k8s.io/pause:3.9\n");
    write(dir.path(), "ignored", "nginx:1\n");
    let args = ["collect", "--ignored-image-list", "ignored", "app"];
    assert_eq!(said(dir.path(), &args).0, "registry.k8s.io/pause:3.9\n");
}

#[test]
fn programs_are_told_the_places() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "manifests/a.yaml", "a: 1\nimage: nginx:1\n");
    let (data, _) = said(dir.path(), &["collect", "--format", "json", "."]);
    let json: Value = serde_json::from_str(&data).unwrap();
    let expected = serde_json::json!({
        "images": [{
            "image": "docker.io/library/nginx:1",
            "places": [{"file": "manifests/a.yaml", "line": 2, "kind": "manifest"}],
        }],
        "skipped": [],
    });
    assert_eq!(json, expected);
}

#[test]
fn what_is_neither_a_file_nor_an_image_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let output = kfs(dir.path(), &["collect", "nothing"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty());
}
