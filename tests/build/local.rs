//! `kfs build --mode local`: RUN on a cluster, with a program in the place of kubectl.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use crate::workshop::Workshop;

/// Tells what it was asked; of pods, what two of them run.
const KUBECTL: &str = r#"#!/bin/sh
if [ "$1 $2" = "get pods" ]; then
    grep -q 'a cluster' "$KUBECONFIG" || { echo "no cluster" >&2; exit 1; }
    echo '{"items": [{"spec": {"containers": [{"image": "of/pod:1"}]}},'
    echo ' {"spec": {"containers": [{"image": "of/pod:1"}], "initContainers": [{"image": "x/init:2"}]}}]}'
else
    echo "$*"; cat "$KUBECONFIG"
fi
"#;

/// Builds a Kubefile with that kubectl, and a kubeconfig with this text.
fn build(shop: &Workshop, kubefile: &str, config: &str, args: &[&str]) -> Output {
    // Where a RUN sees it: it has a /tmp and /var/tmp of its own.
    let tools = tempfile::tempdir_in("/var/cache").unwrap();
    let kubectl = tools.path().join("kubectl");
    fs::write(&kubectl, KUBECTL).unwrap();
    fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
    // Where no RUN could see it.
    let hidden = tempfile::NamedTempFile::new().unwrap();
    fs::write(hidden.path(), config).unwrap();
    fs::write(shop.path("Kubefile"), kubefile).unwrap();
    let mut command: Command =
        shop.kfs(&["build", "--mode", "local", "-t", "new", "-f", "Kubefile"]);
    command.env("KUBECONFIG", hidden.path());
    command.env("PATH", format!("{}:/usr/bin:/bin", tools.path().display()));
    command.args(args).arg("context").output().unwrap()
}

#[test]
fn run_uses_the_cluster_each_time() {
    let Some(shop) = Workshop::new() else { return };
    shop.write("x.yaml", "a: 1\n");
    let text = "FROM scratch\nCOPY x.yaml manifests\n\
                RUN kubectl apply -f manifests/x.yaml | tee said\n";
    for _ in 0..2 {
        let output = build(&shop, text, "a cluster\n", &["--collect", "none"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("      apply -f manifests/x.yaml\n      a cluster\n"), "{said}");
    }
    assert_eq!(shop.ok(&["cat", "new", "/said"]), "apply -f manifests/x.yaml\na cluster\n");
    let files = shop.files("new");
    assert_eq!(files, ["manifests/", "manifests/x.yaml", "said"], "and nothing of the kubeconfig");
    // Without the cluster it is another RUN: what was made with it is not taken.
    let output = shop.try_build("Kubefile", text, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("cached").count(), 1, "{said}");
    shop.assert_nothing_left();
}

#[test]
fn images_of_pods_are_carried_or_told() {
    let Some(shop) = Workshop::new() else { return };
    let text = "FROM scratch\nCMD echo\n";
    let output = build(&shop, text, "a cluster\n", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    // No registry may be asked here: what is looked for is told.
    for image in ["docker.io/of/pod:1", "docker.io/x/init:2"] {
        assert!(said.contains(&format!("{image}, which a pod of the cluster")), "{said}");
    }
    let output = build(&shop, text, "nothing\n", &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("kubectl get pods: no cluster"), "{said}");
}
