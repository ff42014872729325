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

/// A program of this text, to be called as helm.
fn fake_helm(root: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    write(root, "helm", &format!("#!/bin/sh\n{script}"));
    fs::set_permissions(root.join("helm"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn charts_are_rendered_by_the_helm_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let chart = |name: &str| format!("apiVersion: v2\nname: {name}\nversion: 1.0.0\n");
    write(dir.path(), "app/charts/one/Chart.yaml", &chart("one"));
    write(dir.path(), "app/charts/one/templates/a.yaml", "image: built/in:1\n");
    write(dir.path(), "app/charts/one/.helmignore", "secret\n");
    write(dir.path(), "app/charts/one/secret", "");
    write(dir.path(), "app/charts/one.values.yaml", "a: 1\n");
    write(dir.path(), "app/Kubefile", "FROM scratch\nCOPY . .\n");
    // What it is called with it prints as images.
    let script = r##"
        test -e "$3/secret" && exit 1
        test -e "$3/Chart.yaml" || exit 1
        printf -- '---\n# Source: one/templates/a.yaml\n'
        echo "image: $1/$2:1"
        case "$* " in
            *" --include-crds --namespace one "*" --kube-version 1.30.0 ") echo "x-image: args:1" ;;
        esac
        while [ "$1" != --values ]; do shift; done
        read -r values < "$2"
        [ "$values" = '{"a":1,"b":2}' ] && echo "y-image: values:1"
        exit 0
    "##;
    fake_helm(dir.path(), script);
    let args = ["--helm=./helm", "--kube-version=1.30.0", "--set=b=2", "app"];
    let (data, _) = said(dir.path(), &[&["collect", "--format=json"][..], &args].concat());
    let json: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(json["skipped"], serde_json::json!([]), "{data}");
    let images = json["images"].as_array().unwrap().iter();
    let images: Vec<&str> = images.map(|image| image["image"].as_str().unwrap()).collect();
    let expected = ["library/args:1", "library/values:1", "template/release-name:1"];
    assert_eq!(images, expected.map(|name| format!("docker.io/{name}")));
    let place = &json["images"][0]["places"][0]["file"];
    assert_eq!(place, "charts/one: one/templates/a.yaml");

    fake_helm(dir.path(), "echo; echo 'Error: no such thing' >&2; exit 3\n");
    let (data, talk) = said(dir.path(), &["collect", "--helm=./helm", "app"]);
    // What helm cannot render is searched by its lines.
    assert_eq!(data, "docker.io/built/in:1\n");
    let expected =
        "charts/one: \"one\": the chart cannot be rendered: helm template: Error: no such";
    assert!(talk.contains(expected), "{talk}");
    let output = kfs(dir.path(), &["collect", "--helm=./none", "app"]);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && talk.contains("run ./none: "), "{talk}");

    // A build calls it too: what it names is not there.
    fake_helm(dir.path(), "printf -- '---\\n# Source: x\\nimage: 127.0.0.1:1/by/helm:1\\n'\n");
    let output = kfs(dir.path(), &["build", "--collect=charts", "--helm=./helm", "app"]);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(talk.contains("127.0.0.1:1/by/helm:1, which charts/one: x:1 names"), "{talk}");
}
