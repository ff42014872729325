//! The same build file through kfs and through buildah: what comes out must be the same image.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::host_tools::install_tools;
use crate::tools::{Workshop, available, run};
use crate::walk::{differences, walk};

/// Everything that a file can say of its config, and RUN and COPY that depend on it.
const SETTINGS: &str = r#"
ARG BASE=localhost/base:1
FROM ${BASE}
ARG VERSION=1
ARG UNSET
ENV GREETING="hello world" V=$VERSION PATH=/opt/bin:$PATH
ENV OLD form  of it
LABEL one=1 "two words"="v${VERSION:-none}" three='$VERSION'
WORKDIR /srv/app
COPY script.sh /opt/bin/
RUN script.sh "$GREETING" ${UNSET:-unset} $VERSION >said
ENV V=changed
WORKDIR sub
RUN echo "$PWD $V" >where && mkdir -p a/b && ln where hard && ln -s where soft
RUN ["/bin/sh", "-c", "echo $0 $V >exec-form", "zero"]
ENTRYPOINT ["script.sh"]
CMD ["--flag", "a b", "$VERSION"]
"#;

/// Shell forms, and defaults that take each other's place.
const SHELL_FORMS: &str = r#"
FROM localhost/base:1
# A comment between
ENTRYPOINT exec top -b
CMD echo first
RUN echo one \
    # within
    && echo two >two
ENV A=1 \
    B=2
CMD echo "$A" | cat
LABEL version="1" version="2"
"#;

/// Where COPY puts what, over what is there.
const COPIES: &str = r#"
FROM localhost/base:1
COPY file /
COPY file /renamed
COPY file tree/inner/deep /new/directory/
COPY tree /whole
COPY tree/ /etc/
COPY tree/*.txt globbed/
COPY ["with space", "/with space/"]
COPY --chown=app file /owned
COPY --chown=12:34 tree /owned-tree
COPY --chmod=0600 file /private
COPY . /context/
WORKDIR /link/below
COPY file .
COPY link-to-file /
COPY tree/links /links
"#;

/// What RUN changes in layers below.
const CHANGES: &str = r#"
FROM localhost/base:1
RUN rm /etc/remove-me && rm -r /directory && mkdir /directory && touch /directory/new
RUN chmod 4711 /usr/bin/id && chmod 1777 /new && ln /etc/passwd /etc/passwd-too || chmod 1777 /etc
RUN mv /other /moved
RUN rm -r /directory && ln -s etc /directory
RUN mkfifo /pipe && echo x >/x && ln /x /y && rm /x
COPY file /directory/copied
RUN true
"#;

/// The time of all files in the context.
const COPIED: &str = "1500000000.000000000";

fn base(root: &Path) {
    install_tools(root);
    // The last ones are there for buildah, which else makes them.
    for path in ["directory/sub", "other", "real/below", "dev", "proc", "run", "sys"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for path in ["etc/remove-me", "directory/old", "directory/sub/deep", "other/file"] {
        fs::write(root.join(path), path).unwrap();
    }
    for path in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        fs::write(root.join(path), "").unwrap();
    }
    symlink("real", root.join("link")).unwrap();
}

fn context(root: &Path) {
    fs::create_dir_all(root.join("tree/inner")).unwrap();
    fs::create_dir_all(root.join("tree/links")).unwrap();
    fs::create_dir_all(root.join("tree/empty")).unwrap();
    for path in ["file", "with space", "tree/a.txt", "tree/b.txt", "tree/c", "tree/inner/deep"] {
        fs::write(root.join(path), path).unwrap();
    }
    fs::write(root.join("script.sh"), "#!/bin/sh\necho \"$0\" \"$@\" \"$PWD\"\n").unwrap();
    for (path, mode) in [("script.sh", 0o755), ("tree/c", 0o600), ("tree/empty", 0o700)] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("file", root.join("link-to-file")).unwrap();
    symlink("../inner/deep", root.join("tree/links/relative")).unwrap();
    symlink("/no/where", root.join("tree/links/dangling")).unwrap();
    let mut touch = Command::new("find");
    touch.arg(root).args(["-exec", "touch", "--no-dereference", "--date=@1500000000", "{}", "+"]);
    run(&mut touch);
}

/// Builds a file with both, and holds tree and config of the images against each other.
fn compare(text: &str, arguments: &[&str]) {
    if !available() {
        return;
    }
    let mut shop = Workshop::new();
    base(&shop.path("base"));
    context(&shop.path("context"));
    fs::write(shop.path("Dockerfile"), text).unwrap();
    run(Command::new("tar")
        .arg("-C")
        .arg(shop.path("base"))
        .arg("-cf")
        .arg(shop.path("base.tar"))
        .arg("."));
    run(shop.kfs().args(["import", "base.tar", "localhost/base:1"]));
    shop.buildah_pull("oci:store:localhost/base:1", "localhost/base:1");

    let args = [&["-f", "Dockerfile", "-t", "localhost/new:1"], arguments, &["context"]].concat();
    run(shop.kfs().arg("build").args(&args));
    run(shop
        .buildah("bud")
        .args(["--isolation", "chroot", "--layers", "--format", "oci"])
        .args(&args));

    let theirs = walk(&shop.buildah_mount("localhost/new:1"));
    let ours = walk(&shop.kfs_mount("localhost/new:1"));
    let is_known = |path: &str, property: &str| match property {
        // The root directory is the storage's own.
        "mode" => path == ".",
        // What RUN makes is as old as the build.
        "mtime" => ours[path][property] != COPIED && theirs[path][property] != COPIED,
        _ => false,
    };
    let found = differences(&ours, &theirs, is_known);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let ours: Value =
        serde_json::from_str(&run(shop.kfs().args(["inspect", "localhost/new:1"]))).unwrap();
    let mut theirs = shop.buildah_inspect("localhost/new:1");
    compare_configs(&ours["config"], &mut theirs["OCIv1"]);
}

fn compare_configs(ours: &Value, theirs: &mut Value) {
    theirs["config"]["Labels"].as_object_mut().unwrap().remove("io.buildah.version");
    if theirs["config"]["Labels"] == json!({}) {
        theirs["config"].as_object_mut().unwrap().remove("Labels");
    }
    for key in ["architecture", "os", "config"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    assert_eq!(history(ours), history(theirs));
}

/// The texts of the steps, and whether each made a layer, as far as the two agree in principle.
fn history(config: &Value) -> Vec<(String, bool)> {
    let mut steps = Vec::new();
    for step in config["history"].as_array().unwrap() {
        let text = step["created_by"].as_str().unwrap_or_default();
        // buildah names all ARGs of a file by the last one, and writes a RUN of the JSON form as it
        // was typed, behind the shell that does not run it.
        if text.contains("#(nop) ARG ") || text.contains("exec-form") {
            continue;
        }
        // The directory of a WORKDIR is in its own layer, or in the one of the next step.
        let is_empty = step["empty_layer"] == true || text.contains("#(nop) WORKDIR ");
        steps.push((without_digest(text), is_empty));
    }
    steps
}

/// The digest of what was copied is of each tool's own form of it.
fn without_digest(text: &str) -> String {
    let is_digest = |word: &str| {
        ["file:", "dir:", "multi:"].iter().any(|kind| word.starts_with(kind)) && word.len() > 64
    };
    let words = text.split(' ').map(|word| if is_digest(word) { "DIGEST" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn settings() {
    compare(SETTINGS, &["--build-arg", "VERSION=2"]);
}

#[test]
fn shell_forms() {
    compare(SHELL_FORMS, &[]);
}

#[test]
fn copies() {
    compare(COPIES, &[]);
}

#[test]
fn changes() {
    compare(CHANGES, &[]);
}

/// Layers that are unpacked each into a directory of its own show the base's directories as they
/// were.
#[test]
fn directories_of_the_base_are_the_same_elsewhere() {
    if !available() {
        return;
    }
    let mut shop = Workshop::new();
    let root = shop.path("base");
    base(&root);
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(root.join("real/below"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(root.join("real"), Some(5), Some(6)).unwrap();
    context(&shop.path("context"));
    let text =
        "FROM localhost/base:1\nCOPY file /tmp/x\nCOPY file /link/below/x\nWORKDIR /real/new\n";
    fs::write(shop.path("Dockerfile"), text).unwrap();
    let tar = shop.path("base.tar");
    run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
    run(shop.kfs().args(["import", "base.tar", "localhost/base:1"]));
    run(shop.kfs().args(["build", "-f", "Dockerfile", "-t", "localhost/new:1", "context"]));
    shop.buildah_pull("oci:store:localhost/new:1", "localhost/new:1");
    let theirs = walk(&shop.buildah_mount("localhost/new:1"));
    let ours = walk(&shop.kfs_mount("localhost/new:1"));
    // The root directory is the storage's own.
    let found = differences(&ours, &theirs, |path, _| path == ".");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
