//! The finished image: what other tools make of it, and images as bases.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::skip::skip;
use crate::workshop::{Workshop, run};

fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        skip(format_args!("{tool} is not installed"));
    }
    found
}

#[test]
fn the_config_says_what_the_file_says() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    let text = "\
FROM base
LABEL one=1 \"two words\"=two
ENV A=1 B=$A
ENV A=2
EXPOSE 80 53/udp
VOLUME /data
USER app
WORKDIR /work
COPY file .
ENTRYPOINT [\"/bin/cat\"]
CMD [\"file\"]
STOPSIGNAL SIGINT
RUN cat file
";
    let digest = shop.build(text).digest;
    let image = shop.inspect("new");
    assert_eq!(image["digest"], digest);
    let config = &image["config"]["config"];
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(config["Env"], json!([path, "A=2", "B="]));
    assert_eq!(config["Labels"], json!({"one": "1", "two words": "two"}));
    assert_eq!(config["ExposedPorts"], json!({"53/udp": {}, "80/tcp": {}}));
    assert_eq!(config["Volumes"], json!({"/data": {}}));
    assert_eq!((&config["User"], &config["WorkingDir"]), (&json!("app"), &json!("/work")));
    assert_eq!(config["Entrypoint"], json!(["/bin/cat"]));
    assert_eq!((&config["Cmd"], &config["StopSignal"]), (&json!(["file"]), &json!("SIGINT")));
    let history = image["config"]["history"].as_array().unwrap();
    let layers = history.iter().filter(|step| step["empty_layer"] != true).count();
    let diff_ids = image["config"]["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!((history.len(), layers, diff_ids.len()), (13, 4, 4));
}

#[test]
fn other_tools_read_every_compression() {
    let Some(shop) = Workshop::with_base() else { return };
    if !has("skopeo") || !has("umoci") {
        return;
    }
    shop.write("tree/file", "file");
    let text =
        "FROM base\nCOPY tree /tree\nRUN echo ran >/ran && ln /ran /hard && rm /etc/passwd\n";
    let toc = "containerd.io/snapshot/stargz/toc.digest";
    let chunked = "io.github.containers.zstd-chunked.manifest-checksum";
    let media = [
        ("zstd", "tar+zstd", None),
        ("zstd-chunked", "tar+zstd", Some(chunked)),
        ("gzip", "tar+gzip", Some(toc)),
        ("uncompressed", "tar", None),
    ];
    for (compression, media_type, annotation) in media {
        let digest = shop.build_with(text, &["--compression", compression]).digest;
        let layers = shop.inspect("new")["manifest"]["layers"].clone();
        assert_eq!(layers.as_array().unwrap().len(), 3);
        for layer in &layers.as_array().unwrap()[1..] {
            let expected = format!("application/vnd.oci.image.layer.v1.{media_type}");
            assert_eq!(layer["mediaType"], expected);
            let annotations = layer["annotations"].as_object();
            let known = annotation.is_none_or(|key| annotations.unwrap().contains_key(key));
            assert!(known && annotations.is_some() == annotation.is_some(), "{layer}");
        }
        shop.ok(&["tag", "new", compression]);
        let from = format!("oci:store:{}", ref_name(&shop, compression));
        skopeo(&shop, &from, &format!("dir:dir-{compression}"));
        let copied = fs::read(shop.path(&format!("dir-{compression}/manifest.json"))).unwrap();
        let copied = kfs_fs::digest::Digest::of(&copied).to_string();
        assert_eq!(copied, digest, "skopeo changed nothing");
        // Debian's skopeo makes no Docker image of zstd layers.
        let file = format!("{compression}.tar");
        match compression {
            "zstd" | "zstd-chunked" => {
                drop(shop.ok(&["save", "-o", &file, "--format", "docker-archive", "new"]))
            }
            _ => skopeo(&shop, &from, &format!("docker-archive:{file}:x:1")),
        }
        let loaded = format!("docker-archive:{file}");
        assert_eq!(shop.ok(&["cat", &loaded, "/tree/file", "/hard"]), "fileran\n");
    }
    let image = format!("store:{}", ref_name(&shop, "gzip"));
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--image", &image, "umoci"]).current_dir(shop.path(""));
    run(&mut umoci);
    let root = shop.path("umoci/rootfs");
    assert_eq!(fs::read_to_string(root.join("tree/file")).unwrap(), "file");
    assert_eq!(fs::read_to_string(root.join("hard")).unwrap(), "ran\n");
    assert!(!root.join("etc/passwd").exists() && root.join("etc").exists());
}

/// The name that an image has in the layout.
fn ref_name(shop: &Workshop, image: &str) -> String {
    let index = fs::read_to_string(shop.path("store/index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    let names = index["manifests"].as_array().unwrap().iter();
    let mut names = names
        .filter_map(|entry| entry["annotations"]["org.opencontainers.image.ref.name"].as_str());
    names.find(|name| name.contains(image)).expect("the image has a name").to_owned()
}

fn skopeo(shop: &Workshop, from: &str, to: &str) {
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "-q", from, to]).current_dir(shop.path(""));
    run(&mut copy);
}

#[test]
fn a_new_image_is_indexed_already() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    shop.build("FROM base\nCOPY file /\nRUN touch /ran\n");
    // Reading the layers again would fail.
    for layer in shop.inspect("new")["manifest"]["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let blob = shop.path("store/blobs/sha256").join(digest);
        let broken = vec![0; fs::read(&blob).unwrap().len()];
        fs::write(blob, broken).unwrap();
    }
    assert_eq!(shop.ok(&["ls", "new", "/ran", "/file"]), "/ran\n/file\n");
}

#[test]
fn bases_come_from_anywhere() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    shop.build("FROM base\nCOPY file /\n");
    let (base, name) = (shop.inspect("base")["digest"].clone(), ref_name(&shop, "new"));
    fs::rename(shop.path("store"), shop.path("other")).unwrap();
    for from in
        [format!("oci:other:{name}"), format!("oci:{}:{name}", shop.path("other").display())]
    {
        let text = format!("FROM {from}\nRUN cat /file && echo x >/x\n");
        assert_eq!(shop.build_with(&text, &["--no-cache"]).last_run(), "file");
    }
    // All of it is in the store now.
    fs::rename(shop.path("other"), shop.path("gone")).unwrap();
    assert_eq!(shop.ok(&["cat", "new", "/file", "/x"]), "filex\n");
    fs::remove_dir_all(shop.path("store")).unwrap();
    fs::rename(shop.path("gone"), shop.path("store")).unwrap();
    let digest = base.as_str().unwrap();
    shop.build(&format!("FROM {digest}\nRUN true\n"));
    shop.ok(&["save", "-o", "saved.tar", "new"]);
    shop.build("FROM oci-archive:saved.tar\nRUN true\n");
    if has("skopeo") {
        let text = "FROM base\nRUN true\n";
        shop.build_with(text, &["--compression", "gzip"]);
        skopeo(&shop, &format!("oci:store:{}", ref_name(&shop, "new")), "docker-archive:d.tar:a:b");
        let text = "FROM docker-archive:d.tar\nRUN echo x >/y\n";
        shop.build(text);
        assert_eq!(shop.ok(&["cat", "new", "/y"]), "x\n");
    }
}

#[test]
fn a_base_that_will_not_do_is_told_before_anything_is_done() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.ok(&["tag", "base", "registry.example/team/debian:12"]);
    let said = shop.fails("FROM registry.example/team/debain:12\n", &[]);
    assert!(said.contains("Dockerfile:1: no image \"registry.example/team/debain:12\""), "{said}");
    assert!(said.contains("hint: did you mean registry.example/team/debian:12?"), "{said}");
    let said = shop.fails("FROM --platform=linux/arm64 base\n", &[]);
    assert!(said.contains("base is an image for linux/amd64, but linux/arm64 is wanted"), "{said}");
    shop.build("FROM --platform=linux/amd64 base\n");
    shop.build("FROM --platform=$BUILDPLATFORM base\n");
    // A mistake in the last line is told before the first RUN.
    for last in ["CPOY a b", "ENV A=${B", "COPY --from=x a b", "EXPOSE none", "LABEL =x"] {
        let said = shop.fails(&format!("FROM base\nRUN echo ran\n{last}\n"), &[]);
        assert!(said.contains("Dockerfile:3:") && !said.contains("] RUN"), "{last}: {said}");
    }
    let said = shop.fails("FROM base\nRUN echo ran\n", &["-t", "Not A Name"]);
    assert!(!said.contains("] RUN"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn a_cluster_image() {
    let Some(shop) = Workshop::new() else { return };
    for path in ["bin/kubelet.sh", "etc/kubeadm.yml", "manifests/a.yaml", "charts/app/Chart.yaml"] {
        shop.write(path, format!("# {path}\nversion: @VERSION@\n"));
    }
    shop.write("imageList", "docker.io/library/nginx:1\n");
    shop.write("tools/hello", "#!/bin/sh\necho \"hello from $PWD\" >etc/hello\n");
    let text = "\
FROM scratch
ARG Version=1.2
ENV VERSION=${Version}
COPY bin .
COPY etc .
COPY manifests .
COPY charts .
COPY imageList manifests
COPY --chmod=755 tools/hello bin
RUN sed -i \"s/@VERSION@/${Version}/\" manifests/*.yaml && hello && rm charts/app/Chart.yaml
RUN cp manifests/a.yaml charts/app/ && ! echo x >/etc/of-the-host && ! touch /usr/x 2>/dev/null
CMD echo one
CMD [\"echo two\", \"echo three, four\"]
";
    let output = shop.try_build("Kubefile", text, &["--build-arg", "Version=3"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let files: Vec<_> = shop.files("new").into_iter().filter(|path| !path.ends_with('/')).collect();
    let expected = [
        "bin/hello",
        "bin/kubelet.sh",
        "charts/app/a.yaml",
        "etc/hello",
        "etc/kubeadm.yml",
        "manifests/a.yaml",
        "manifests/imageList",
    ];
    assert_eq!(files, expected);
    assert!(shop.ok(&["cat", "new", "/charts/app/a.yaml"]).ends_with("version: 3\n"));
    assert!(!Path::new("/etc/of-the-host").exists());
    let config = shop.inspect("new")["config"]["config"].clone();
    assert_eq!(config["Cmd"], json!(["echo one", "echo two", "echo three, four"]));
    shop.assert_nothing_left();
}
