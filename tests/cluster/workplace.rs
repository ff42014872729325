//! A registry behind a proxy, names that lead there, and a build context.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

use kfs_fs::digest::Digest;
use kfs_measure::proxy::{Proxy, Shape};
use serde_json::{Value, json};

use crate::server::Registry;

/// All names of `docker.io`, `quay.io` and `other.io` are in the registry below those names.
pub(crate) struct Workplace {
    pub(crate) registry: Registry,
    pub(crate) proxy: Proxy,
}

impl Workplace {
    pub(crate) fn start(auth: bool) -> Option<Self> {
        let registry = Registry::start(auth)?;
        let proxy = Proxy::start("127.0.0.1:0", registry.address(), Shape::default()).unwrap();
        let mut conf = String::new();
        for host in ["docker.io", "quay.io", "other.io"] {
            let address = proxy.address();
            conf += &format!(
                "[[registry]]\nprefix = \"{host}\"\nlocation = \"{address}/{host}\"\ninsecure = true\n"
            );
        }
        fs::write(registry.path("registries.conf"), conf).unwrap();
        fs::create_dir(registry.path("context")).unwrap();
        Some(Self { registry, proxy })
    }

    /// Writes a file of the context.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.registry.path("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Pushes an image with layers of these contents; returns its digest.
    pub(crate) fn image(&self, name: &str, layers: &[&[u8]]) -> String {
        let tars = layers.iter().map(|content| {
            let mut tar = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            let name = format!("layer-{}", content.len());
            tar.append_data(&mut header, name, *content).unwrap();
            tar.into_inner().unwrap()
        });
        let tars: Vec<Vec<u8>> = tars.collect();
        // A layer each, as steps of a build make them.
        let context = self.registry.path("image");
        fs::create_dir_all(&context).unwrap();
        let mut file = "FROM scratch\n".to_owned();
        for (number, tar) in tars.iter().enumerate() {
            fs::write(context.join(format!("{number}.tar")), tar).unwrap();
            file += &format!("ADD {number}.tar /\n");
        }
        fs::write(context.join("Dockerfile"), file).unwrap();
        let build = ["build", "--timestamp=0", "--compression=gzip", "-t", "x:1", "image"];
        self.registry.ok("origin", &build);
        fs::remove_dir_all(context).unwrap();
        self.registry.ok("origin", &["push", "x:1", &self.registry.name(name)]).trim().to_owned()
    }

    /// Puts a manifest or index, as it is, under a name; its digest.
    pub(crate) fn manifest(&self, name: &str, media_type: &str, manifest: &Value) -> String {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let json = manifest.to_string();
        let kind = format!("Content-Type: {media_type}\r\n");
        self.put(&format!("/v2/{repository}/manifests/{tag}"), &kind, json.as_bytes());
        format!("sha256:{}", Digest::of(json.as_bytes()).hex())
    }

    /// Puts a blob into a repository; its descriptor.
    pub(crate) fn blob(&self, repository: &str, media_type: &str, blob: &[u8]) -> Value {
        let digest = format!("sha256:{}", Digest::of(blob).hex());
        let head = self.http("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        let place = head.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place");
        let path = place.trim().trim_start_matches("http://");
        let path = &path[path.find('/').unwrap()..];
        let kind = "Content-Type: application/octet-stream\r\n";
        self.put(&format!("{path}&digest={digest}"), kind, blob);
        json!({ "mediaType": media_type, "digest": digest, "size": blob.len() })
    }

    fn put(&self, path: &str, headers: &str, body: &[u8]) {
        let head = self.http("PUT", path, headers, body);
        assert!(head.starts_with("HTTP/1.1 201"), "{path}: {head}");
    }

    /// Asks the registry itself; the head of its answer.
    fn http(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.registry.address()).unwrap();
        let (host, length) = (self.registry.address(), body.len());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// kfs with one of several stores, to which names lead here.
    pub(crate) fn kfs(&self, store: &str, args: &[&str]) -> Command {
        let mut command = self.registry.command(store, args);
        command.env("CONTAINERS_REGISTRIES_CONF", self.registry.path("registries.conf"));
        command
    }

    #[track_caller]
    pub(crate) fn ok(&self, store: &str, args: &[&str]) -> String {
        let output = self.kfs(store, args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kfs {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Builds a Kubefile of this text as `cluster:1`; what was said.
    #[track_caller]
    pub(crate) fn build(&self, text: &str, args: &[&str]) -> String {
        let output = self.try_build("store", text, args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    #[track_caller]
    pub(crate) fn build_fails(&self, text: &str, args: &[&str]) -> String {
        let output = self.try_build("store", text, args);
        assert!(!output.status.success(), "{text}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn try_build(&self, store: &str, text: &str, args: &[&str]) -> Output {
        self.write("Kubefile", text);
        let fixed = ["build", "--timestamp=0", "-t", "cluster:1"];
        self.kfs(store, &[&fixed[..], args, &["context"]].concat()).output().unwrap()
    }

    /// The paths of files of the image, below `registry/docker/registry/v2/`.
    #[track_caller]
    pub(crate) fn tree(&self, image: &str) -> Vec<String> {
        let listed = self.ok("store", &["ls", "-R", image, "/registry/docker/registry/v2"]);
        let mut directory = "";
        let mut paths = Vec::new();
        for line in listed.lines().filter(|line| !line.is_empty()) {
            match line.strip_suffix(':') {
                Some(path) => directory = path,
                None => paths.push(format!("{directory}/{line}")),
            }
        }
        paths
    }

    /// What the annotation says of the container images.
    #[track_caller]
    pub(crate) fn listed(&self, image: &str) -> Vec<String> {
        let inspected = self.ok("store", &["inspect", image]);
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        let images = images(&inspected);
        images.iter().map(|one| one["image"].as_str().unwrap().to_owned()).collect()
    }

    /// `registry serve` of an image of a store, and its address.
    pub(crate) fn serve(&self, store: &str, image: &str) -> Served {
        let args = ["registry", "serve", "--addr", "127.0.0.1:0", image];
        let mut child = self.kfs(store, &args).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit_once("http://").expect("an address").1.to_owned();
        Served { child, address }
    }
}

/// The list of container images of an inspected image.
pub(crate) fn images(inspected: &Value) -> Vec<Value> {
    let text = inspected["manifest"]["annotations"]["sealer.image.container.images"].as_str();
    serde_json::from_str(text.unwrap_or("[]")).unwrap()
}

/// A server that ends with its value.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may be gone after a failure.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Content that does not compress, and is the same only for the same seed.
pub(crate) fn noise(len: u32, seed: u32) -> Vec<u8> {
    let word = |n: u32| (n ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(2_654_435_761);
    (0..len / 4)
        .flat_map(|n| word(n).rotate_left(n % 31).wrapping_add(n.wrapping_mul(n)).to_le_bytes())
        .collect()
}
