//! What `kfs convert` writes, as other tools read it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host_tools::install_tools;
use crate::images::{assert_none, bottom, extremes, is_dropped_by_go, long_name, middle, top};
use crate::layout::{self, gzip};
use crate::skip::skip;
use crate::tools::{Workshop, available, run};
use crate::walk::{differences, walk};

pub(crate) const FORMATS: [&str; 4] = ["zstd-chunked", "estargz", "gzip", "zstd"];

/// Layers of [`odd_image`] that have a table of contents, in formats with one: the last one has a
/// name that none can have.
pub(crate) const LAYERS_WITH_TABLE: usize = 3;

/// What other tools have differently of [`odd_image`] in a format.
pub(crate) fn is_known(format: &str, nameless: &[String], path: &str, property: &str) -> bool {
    is_dropped_by_go(path, property)
        || is_rounded(format, path, property)
        || property == "mtime" && nameless.iter().any(|known| known == path)
        || format == "estargz" && property == "path" && is_of_estargz(path)
}

/// What is so on any overlayfs: the root directory is the storage's own, and names are counted in
/// the layer.
pub(crate) fn is_of_overlayfs(path: &str, property: &str) -> bool {
    match property {
        "mode" => path == ".",
        "nlink" => ["./lib/a", "./lib/c"].contains(&path),
        _ => false,
    }
}

/// The table of eStargz has times in whole seconds, of which the tar knows more.
fn is_rounded(format: &str, path: &str, property: &str) -> bool {
    format == "estargz" && (path, property) == ("./etc/nanoseconds", "mtime")
}

/// What eStargz has in its tar streams; kfs hides it.
fn is_of_estargz(path: &str) -> bool {
    ["./stargz.index.json", "./.prefetch.landmark", "./.no.prefetch.landmark"].contains(&path)
}

/// Writes the image `oci:layout:image` of every kind of file. Its directories without an entry, and
/// those that got such a one, which other tools date at the time of unpacking.
pub(crate) fn odd_image(shop: &Workshop) -> [String; 5] {
    let layers = [bottom(), middle(), top(), extremes()];
    let stored = layers.each_ref().map(|tar| ("tar+gzip", gzip(tar), &tar[..]));
    layout::write(&shop.path("layout"), &stored);
    let (long, root) = (format!("./odd/{}", long_name()), ".".to_owned());
    [root, "./srv".to_owned(), "./odd".to_owned(), format!("{long}/{}", long_name()), long]
}

#[test]
fn what_is_converted_is_the_same_to_all() {
    if !available() || !has(&["skopeo"]) {
        return;
    }
    let mut shop = Workshop::new();
    let nameless = odd_image(&shop);
    let original = walk(&shop.kfs_mount("oci:layout:image"));
    for format in FORMATS {
        let name = format!("mine:{format}");
        run(shop.kfs().args(["convert", "--to", format, "oci:layout:image", &name]));
        let ours = walk(&shop.kfs_mount(&name));
        let is_rounded = |path: &str, property: &str| is_rounded(format, path, property);
        assert_none(differences(&original, &ours, is_rounded), format);
        let known = |path: &str, property: &str| is_known(format, &nameless, path, property);
        let copy = format!("copy-{format}");
        shop.skopeo_copy(&format!("oci:store:{name}"), &format!("oci:{copy}:image"));
        let copied = walk(&shop.kfs_mount(&format!("oci:{copy}:image")));
        assert_none(differences(&ours, &copied, |_, _| false), &format!("skopeo, {format}"));
        if ["gzip", "estargz"].contains(&format) {
            let unpacked = walk(&shop.umoci_unpack(&copy));
            assert_none(differences(&ours, &unpacked, known), &format!("umoci, {format}"));
        }
        let merged = walk(&shop.buildah_mount(&format!("oci:{copy}:image")));
        let known =
            |path: &str, property: &str| is_of_overlayfs(path, property) || known(path, property);
        let differ = differences(&ours, &merged, known);
        assert_none(differ, &format!("buildah, {format}"));
    }
}

#[test]
fn podman_runs_what_is_converted() {
    if !available() || !has(&["podman", "runc"]) {
        return;
    }
    let shop = Workshop::new();
    import_tools(&shop, "plain:1");
    for format in FORMATS {
        let name = format!("mine:{format}");
        run(shop.kfs().args(["convert", "--to", format, "plain:1", &name]));
        let mut pull = shop.podman();
        pull.args(["pull", "--quiet", "--signature-policy"]).arg(shop.path("policy.json"));
        let id = run(pull.arg(format!("oci:store:{name}")));
        let mut command = shop.podman();
        command.args(["run", "--rm", "--net=host", "--log-driver", "none"]);
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]);
        command.args(["--security-opt", "seccomp=unconfined"]);
        assert_eq!(run(command.args([id.trim(), "/bin/cat", "/etc/motd"])), "hello\n", "{format}");
    }
    run(shop.podman().args(["rmi", "--all", "--force"]));
}

/// Imports an image of this machine's tools, whose /etc/motd says hello.
pub(crate) fn import_tools(shop: &Workshop, name: &str) {
    let root = shop.path("root");
    install_tools(&root);
    fs::write(root.join("etc/motd"), "hello\n").unwrap();
    let (tar, directory) = (shop.path("root.tar"), Path::new("."));
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(directory));
    run(shop.kfs().args(["import", "root.tar", name]));
}

/// Whether these programs are there; says so if not.
pub(crate) fn has(programs: &[&str]) -> bool {
    let missing =
        programs.iter().find(|name| Command::new(name).arg("--version").output().is_err());
    missing.inspect(|name| skip(format_args!("needs {name}"))).is_none()
}
