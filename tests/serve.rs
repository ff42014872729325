//! `kfs registry serve` beside Debian's `docker-registry`, and with skopeo and podman as clients.

#[path = "registry/server.rs"]
#[allow(dead_code)]
mod server;
mod skip;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use server::Registry;
use skip::skip;

/// A server that ends with the value.
struct Served {
    child: Child,
    /// `host:port`.
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `kfs registry serve` on a free port.
#[track_caller]
fn serve(registry: &Registry, store: &str, what: &str, args: &[&str]) -> Served {
    let mut command =
        registry.command(store, &["registry", "serve", what, "--addr", "127.0.0.1:0"]);
    let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (_, address) = line.trim_end().rsplit_once("://").expect("an address");
    Served { address: address.to_owned(), child }
}

/// Whether the tools are there; says so if not.
fn has(tools: &[&str]) -> bool {
    for tool in tools {
        if let Err(error) = Command::new(tool).arg("--version").output() {
            skip(format_args!("{tool}: {error}"));
            return false;
        }
    }
    true
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn ok(command: &mut Command) -> String {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A registry with three images, whose tree is also the `registry/` of the image `cluster` and of
/// the directory `cluster/`.
fn registry() -> Option<Registry> {
    let registry = Registry::start(false)?;
    registry.image_with("library/web:1", &[("hello", b"first")]);
    registry.image_with("library/web:2", &[("hello", b"second")]);
    registry.image_with("team/app:1", &[("hello", &noise(16 << 20))]);
    fs::create_dir(registry.path("cluster")).unwrap();
    ok(Command::new("cp")
        .arg("-a")
        .arg(registry.path("data"))
        .arg(registry.path("cluster/registry")));
    let tar = registry.path("cluster.tar");
    ok(Command::new("tar").arg("-C").arg(registry.path("cluster")).arg("-cf").arg(tar).arg("."));
    registry.ok("store", &["import", "cluster.tar", "cluster"]);
    Some(registry)
}

/// Bytes that cannot be compressed, always the same.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..count).map(next).collect()
}

/// What a registry answered.
#[derive(Debug, PartialEq)]
struct Answer {
    status: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

/// Asks with curl: method, path, and a header.
fn ask(address: &str, (method, path, header): (&str, &str, &str)) -> Answer {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--include", "-H", header, "-H", "Accept: */*"]);
    match method {
        "HEAD" => curl.arg("--head"),
        other => curl.args(["-X", other]),
    };
    let output = run(curl.arg(format!("http://{address}{path}"))).stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Answer { status, headers, body: output[end + 4..].to_vec() }
}

/// What clients look at: two registries word their errors, and order their queries, differently.
fn essence(answer: Answer) -> Answer {
    const HEADERS: [&str; 7] = [
        "accept-ranges",
        "content-length",
        "content-range",
        "content-type",
        "docker-content-digest",
        "docker-distribution-api-version",
        "link",
    ];
    let Answer { status, mut headers, mut body } = answer;
    headers.retain(|name, _| HEADERS.contains(&name.as_str()));
    headers.get_mut("content-type").into_iter().for_each(|kind| {
        kind.truncate(kind.find(';').unwrap_or(kind.len()));
    });
    headers.get_mut("link").into_iter().for_each(|link| link.truncate("</v2/".len()));
    match serde_json::from_slice::<Value>(&body) {
        Ok(json) if status.starts_with('4') => {
            body = json["errors"][0]["code"].to_string().into_bytes();
        }
        Ok(mut json) if json.get("tags").is_some() => {
            // The specification wants them sorted; docker-registry has them as they come.
            json["tags"].as_array_mut().unwrap().sort_by_key(Value::to_string);
            body = json.to_string().into_bytes();
        }
        Ok(json) if json.get("schemaVersion").is_none() => body = json.to_string().into_bytes(),
        _ => {}
    }
    if status.starts_with('4')
        || headers.get("content-type").is_some_and(|k| k == "application/json")
    {
        headers.remove("content-length");
    }
    if status == "416" {
        // The codes differ, and so does what is said of the length.
        (headers, body) = (BTreeMap::new(), Vec::new());
    }
    Answer { status, headers, body }
}

const MANIFEST: &str = "Accept: application/vnd.oci.image.manifest.v1+json";

/// Requests of all kinds: method, path, a header. `digest` is a manifest's of team/app, `blob` a
/// layer of it.
fn requests(digest: &str, blob: &str) -> Vec<(&'static str, String, String)> {
    let none = format!("sha256:{}", "0".repeat(64));
    let mut requests = Vec::new();
    let mut add = |method, path: String, header: &str| {
        requests.push((method, path, header.to_owned()));
    };
    for method in ["GET", "HEAD"] {
        for path in [
            "/v2/library/web/manifests/1",
            "/v2/library/web/manifests/1?ns=docker.io",
            "/v2/library/web/manifests/none",
            "/v2/no/such/manifests/1",
        ] {
            add(method, path.to_owned(), MANIFEST);
        }
        for digest in [digest, &none] {
            add(method, format!("/v2/team/app/manifests/{digest}"), MANIFEST);
        }
        for (name, digest) in [("team/app", blob), ("team/app", &none), ("library/web", blob)] {
            add(method, format!("/v2/{name}/blobs/{digest}"), MANIFEST);
        }
    }
    for range in ["0-9", "5-", "-5", "7-7", "99999999-", "0-99999999"] {
        add("GET", format!("/v2/team/app/blobs/{blob}"), &format!("Range: bytes={range}"));
    }
    for path in [
        "/v2/",
        "/v2/_catalog",
        "/v2/_catalog?n=1",
        "/v2/_catalog?n=1&last=library%2Fweb",
        "/v2/_catalog?n=5&last=library/web",
        "/v2/library/web/tags/list",
        "/v2/no/such/tags/list",
    ] {
        add("GET", path.to_owned(), MANIFEST);
    }
    add("DELETE", format!("/v2/team/app/manifests/{digest}"), MANIFEST);
    requests
}

#[test]
fn answers_are_those_of_docker_registry() {
    let Some(registry) = registry() else { return };
    if !has(&["curl"]) {
        return;
    }
    let address = registry.address().to_string();
    let manifest = ask(&address, ("GET", "/v2/team/app/manifests/1", MANIFEST));
    let json: Value = serde_json::from_slice(&manifest.body).unwrap();
    let blob = json["layers"][0]["digest"].as_str().unwrap();
    let requests = requests(&manifest.headers["docker-content-digest"], blob);
    let directory = serve(&registry, "store", "cluster", &[]);
    fs::rename(registry.path("cluster"), registry.path("elsewhere")).unwrap();
    let image = serve(&registry, "store", "cluster", &[]);
    fs::rename(registry.path("elsewhere"), registry.path("cluster")).unwrap();
    for (method, path, header) in &requests {
        let of = |address: &str| essence(ask(address, (method, path, header)));
        let expected = of(&address);
        for served in [&directory, &image] {
            let found = of(&served.address);
            let said = |answer: &Answer| {
                let body = &answer.body[..answer.body.len().min(200)];
                let (status, headers) = (&answer.status, &answer.headers);
                format!("{status} {headers:?}\n{}", String::from_utf8_lossy(body))
            };
            let (ours, theirs) = (said(&found), said(&expected));
            assert!(found == expected, "{method} {path} {header}:\n{ours}\n{theirs}");
        }
    }
}

/// A certificate for 127.0.0.1 by an authority of our own: `ca/ca.crt`, `cert.pem` and `key.pem`.
fn certificates(registry: &Registry) {
    let openssl = |args: &[&str]| {
        let mut command = Command::new("openssl");
        ok(command.args(args).current_dir(registry.path(".")));
    };
    fs::create_dir(registry.path("ca")).unwrap();
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test CA",
        "-keyout",
        "ca.key",
        "-out",
        "ca/ca.crt",
    ]);
    openssl(&[
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=127.0.0.1",
        "-keyout",
        "key.pem",
        "-out",
        "cert.csr",
    ]);
    fs::write(registry.path("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "cert.csr",
        "-CA",
        "ca/ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "names",
        "-out",
        "cert.pem",
    ]);
}

fn skopeo(registry: &Registry) -> Command {
    let policy = registry.path("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let mut command = Command::new("skopeo");
    command.current_dir(registry.path(".")).arg("--policy").arg(policy).args(["copy", "--quiet"]);
    command
}

#[test]
fn skopeo_and_podman_pull_by_tls_and_with_a_password() {
    let Some(registry) = registry() else { return };
    if !has(&["openssl", "skopeo", "htpasswd"]) {
        return;
    }
    certificates(&registry);
    let users = ok(Command::new("htpasswd").args(["-Bbn", "me", "secret"]));
    fs::write(registry.path("users"), users).unwrap();
    let args = ["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--htpasswd", "users"];
    let served = serve(&registry, "store", "cluster", &args);
    let name = format!("docker://{}/library/web:2", served.address);
    let copy = |password: &str| {
        let mut copy = skopeo(&registry);
        copy.args(["--src-cert-dir", "ca", "--src-creds", password, &name, "dir:copied"]);
        run(&mut copy)
    };
    let refused = copy("me:wrong");
    assert!(!refused.status.success());
    let copied = copy("me:secret");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let unknown_ca = run(skopeo(&registry).args(["--src-creds", "me:secret", &name, "dir:other"]));
    assert!(!unknown_ca.status.success());
    if !has(&["podman"]) || !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // Podman wants a path of at most 50 characters.
    let short = tempfile::tempdir_in("/tmp").unwrap();
    let mut pull = Command::new("podman");
    pull.arg("--root").arg(place.path().join("root")).arg("--runroot").arg(short.path());
    pull.arg("--tmpdir").arg(place.path().join("tmp")).args(["--storage-driver", "vfs"]);
    pull.args(["pull", "--quiet", "--signature-policy"]).arg(registry.path("policy.json"));
    pull.args(["--cert-dir", "ca", "--creds", "me:secret"]).arg(name.replace("docker://", ""));
    assert_eq!(ok(pull.current_dir(registry.path("."))).trim().len(), 64);
}

#[test]
fn docker_registry_serves_a_mounted_tree() {
    let Some(registry) = registry() else { return };
    if !has(&["skopeo"]) {
        return;
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return skip("needs root and /dev/fuse");
    }
    fs::create_dir(registry.path("mnt")).unwrap();
    registry.ok("store", &["mount", "cluster", "mnt"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
         maintenance: {{readonly: {{enabled: true}}, uploadpurging: {{enabled: false}}}}\n\
         http: {{addr: \"127.0.0.1:{port}\"}}\n",
        registry.path("mnt/registry").display()
    );
    fs::write(registry.path("mounted.yml"), config).unwrap();
    let mut command = Command::new("docker-registry");
    command
        .arg("serve")
        .arg(registry.path("mounted.yml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let address = format!("127.0.0.1:{port}");
    let served = Served { child: command.spawn().unwrap(), address: address.clone() };
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < deadline, "the registry does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let copied = run(skopeo(&registry).args([
        "--src-tls-verify=false",
        &format!("docker://{address}/team/app:1"),
        "dir:copied",
    ]));
    drop(served);
    registry.ok("store", &["umount", "mnt"]);
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

#[test]
fn of_a_cluster_image_in_a_registry_only_what_is_pulled_is_fetched() {
    let Some(registry) = registry() else { return };
    if !has(&["skopeo"]) {
        return;
    }
    let name = registry.name("clusters/one:1");
    registry.ok("store", &["convert", "cluster", "chunked"]);
    registry.ok("store", &["push", "chunked", &name]);
    fs::rename(registry.path("cluster"), registry.path("elsewhere")).unwrap();
    let served = serve(&registry, "empty", &name, &[]);
    let pull = |image: &str| {
        let from = format!("docker://{}/{image}", served.address);
        ok(skopeo(&registry).args(["--src-tls-verify=false", &from, "dir:copied"]));
        let list = ok(Command::new("du").arg("-sb").arg(registry.path("empty")));
        list.split('\t').next().unwrap().parse::<u64>().unwrap()
    };
    let (small, large) = (pull("library/web:1"), pull("team/app:1"));
    assert!(small < 4 << 20 && large > 16 << 20, "{small} {large}");
}
