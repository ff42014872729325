use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kfs_fs::digest::Digest;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::*;

const V2: &str = "registry/docker/registry/v2";

fn write(root: &Path, name: &str, bytes: &[u8]) {
    let path = root.join(V2).join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn put_blob(root: &Path, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let hex = digest.hex();
    write(root, &format!("blobs/sha256/{}/{hex}/data", &hex[..2]), bytes);
    digest
}

/// A registry with one image, `library/a:1`, of one layer; its manifest's and its layer's digest.
fn registry(layer: &[u8]) -> (TempDir, Digest, Digest) {
    let dir = tempfile::tempdir().unwrap();
    let layer = put_blob(dir.path(), layer);
    let manifest = put_blob(dir.path(), br#"{"schemaVersion":2,"layers":[]}"#);
    let link = |path: &str, digest: Digest| {
        write(
            dir.path(),
            &format!("repositories/library/a/{path}/link"),
            digest.to_string().as_bytes(),
        );
    };
    link(&format!("_layers/sha256/{}", layer.hex()), layer);
    link(&format!("_manifests/revisions/sha256/{}", manifest.hex()), manifest);
    link("_manifests/tags/1/current", manifest);
    (dir, manifest, layer)
}

fn serve(dir: &TempDir, options: Options) -> Server {
    let served = Served::Directory(dir.path().to_owned());
    Server::start(served, (Ipv4Addr::LOCALHOST, 0).into(), options).unwrap()
}

/// Status, head and body of an answer; whether the body is complete.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

fn ask(server: &Server, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(all[..end].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: all[end + 4..].to_vec() }
}

#[test]
fn an_image_is_pulled() {
    let content = vec![7; 3 << 20];
    let (dir, manifest, layer) = registry(&content);
    let server = serve(&dir, Options::default());
    let get = |path: &str| ask(&server, "GET", path, "");
    assert_eq!(get("/v2/").status, 200);
    assert_eq!(get("/v2/_catalog").body, br#"{"repositories":["library/a"]}"#);
    assert_eq!(get("/v2/library/a/tags/list").body, br#"{"name":"library/a","tags":["1"]}"#);
    let by_tag = get("/v2/library/a/manifests/1?ns=docker.io");
    assert_eq!(by_tag.status, 200);
    assert!(by_tag.head.contains("content-type: application/vnd.oci.image.manifest.v1+json"));
    assert!(by_tag.head.contains(&format!("docker-content-digest: {manifest}")));
    assert_eq!(get(&format!("/v2/library/a/manifests/{manifest}")).body, by_tag.body);
    let head = ask(&server, "HEAD", &format!("/v2/library/a/blobs/{layer}"), "");
    assert!(head.head.contains(&format!("content-length: {}", content.len())));
    assert!(head.body.is_empty());
    assert_eq!(get(&format!("/v2/library/a/blobs/{layer}")).body, content);
}

#[test]
fn ranges_are_answered() {
    let content: Vec<u8> = (0..100).collect();
    let (dir, _, layer) = registry(&content);
    let server = serve(&dir, Options::default());
    let path = format!("/v2/library/a/blobs/{layer}");
    for (range, status, from, to) in [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=10-19", 206, 10, 20),
        ("bytes=90-1000", 206, 90, 100),
        ("bytes=95-", 206, 95, 100),
        ("bytes=-5", 206, 95, 100),
        ("bytes=-500", 206, 0, 100),
        ("bytes=1-2,5-6", 200, 0, 100),
        ("lines=1-2", 200, 0, 100),
        ("bytes=x-y", 200, 0, 100),
    ] {
        let answer = ask(&server, "GET", &path, &format!("Range: {range}\r\n"));
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.body, content[from..to], "{range}");
    }
    for range in ["bytes=100-", "bytes=5-4", "bytes=-0", "bytes=99999999999999999999-"] {
        let answer = ask(&server, "GET", &path, &format!("Range: {range}\r\n"));
        assert!(answer.status == 416 || answer.status == 200, "{range}: {}", answer.status);
    }
    assert!(ask(&server, "GET", &path, "Range: bytes=100-\r\n").head.contains("bytes */100"));
}

#[test]
fn what_is_not_there_and_what_is_not_allowed_has_a_code() {
    let (dir, manifest, layer) = registry(b"x");
    let server = serve(&dir, Options::default());
    let none = Digest::of(b"none");
    for (method, path, status, code) in [
        ("GET", "/".to_owned(), 404, "UNSUPPORTED"),
        ("GET", "/v2/library/b/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/library/a/manifests/2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("GET", format!("/v2/library/a/manifests/{none}"), 404, "MANIFEST_UNKNOWN"),
        // It is there, but not as a manifest, or not of this repository.
        ("GET", format!("/v2/library/a/manifests/{layer}"), 404, "MANIFEST_UNKNOWN"),
        ("GET", format!("/v2/library/a/blobs/{manifest}"), 404, "BLOB_UNKNOWN"),
        ("GET", format!("/v2/library/b/blobs/{layer}"), 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/library/a/blobs/sha256:0".to_owned(), 400, "DIGEST_INVALID"),
        ("GET", "/v2/library/../a/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("PUT", "/v2/library/a/manifests/1".to_owned(), 405, "UNSUPPORTED"),
        ("DELETE", format!("/v2/library/a/blobs/{layer}"), 405, "UNSUPPORTED"),
    ] {
        let answer = ask(&server, method, &path, "");
        let body = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, status, "{path}: {body}");
        assert!(body.contains(code), "{path}: {body}");
    }
}

#[test]
fn damaged_content_is_never_sent_whole() {
    let content = vec![7; 3 << 20];
    let (dir, manifest, layer) = registry(&content);
    let place = |digest: Digest| {
        let hex = digest.hex();
        dir.path().join(V2).join(format!("blobs/sha256/{}/{hex}/data", &hex[..2]))
    };
    let mut damaged = content.clone();
    damaged[5] ^= 1;
    std::fs::write(place(layer), damaged).unwrap();
    std::fs::write(place(manifest), b"{}").unwrap();
    let server = serve(&dir, Options::default());
    let blob = ask(&server, "GET", &format!("/v2/library/a/blobs/{layer}"), "");
    assert!(blob.body.len() < content.len(), "{}", blob.body.len());
    assert_eq!(ask(&server, "GET", "/v2/library/a/manifests/1", "").status, 500);
}

#[test]
fn only_who_may_pulls() {
    let (dir, _, _) = registry(b"x");
    let file = dir.path().join("htpasswd");
    std::fs::write(&file, format!("ada:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let options = Options { logins: Some(Logins::open(&file).unwrap()), tls: None };
    let server = serve(&dir, options);
    let refused = ask(&server, "GET", "/v2/", "");
    assert_eq!(refused.status, 401);
    assert!(refused.head.contains("www-authenticate: basic"));
    // "ada:secret" and "ada:wrong".
    let login =
        |basic: &str| ask(&server, "GET", "/v2/", &format!("Authorization: Basic {basic}\r\n"));
    assert_eq!(login("YWRhOnNlY3JldA==").status, 200);
    assert_eq!(login("YWRhOndyb25n").status, 401);
}

#[test]
fn wrong_passwords_keep_nobody_waiting_who_was_let_in() {
    let (dir, _, _) = registry(b"x");
    let file = dir.path().join("htpasswd");
    std::fs::write(&file, format!("ada:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let logins = Logins::open(&file).unwrap();
    let right = "Basic YWRhOnNlY3JldA==";
    assert!(logins.admit(right.as_bytes()));
    // As if those that are checked took forever.
    let served = Served::Directory(dir.path().to_owned());
    let host = Host { checking: Semaphore::new(0), ..Host::new(served, Some(logins)) };
    let server = Server::run(host, (Ipv4Addr::LOCALHOST, 0).into(), None).unwrap();
    let guesses: Vec<TcpStream> = (0..2 * THREADS)
        .map(|number| {
            let guess = BASE64_STANDARD.encode(format!("ada:{number}"));
            let mut stream = TcpStream::connect(server.address()).unwrap();
            let head = "GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic";
            stream.write_all(format!("{head} {guess}\r\n\r\n").as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let answer = ask(&server, "GET", "/v2/", &format!("Authorization: {right}\r\n"));
    assert_eq!(answer.status, 200);
    assert!(guesses.iter().all(|stream| stream.peek(&mut [0]).is_err()), "they do not wait");
}

/// Each of them asks for more than the sockets hold, and reads nothing.
#[test]
fn clients_that_do_not_read_keep_nobody_waiting() {
    let (dir, _, layer) = registry(&vec![7; 24 << 20]);
    let server = serve(&dir, Options::default());
    let request = format!("GET /v2/library/a/blobs/{layer} HTTP/1.1\r\nHost: x\r\n\r\n");
    let idle: Vec<TcpStream> = (0..THREADS + READERS)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let (told, answered) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let blob = ask(&server, "GET", &format!("/v2/library/a/blobs/{layer}"), "");
            told.send(blob.body.len()).unwrap();
        });
        let size = answered.recv_timeout(Duration::from_secs(20));
        drop(idle);
        assert_eq!(size, Ok(24 << 20));
    });
}

#[test]
fn who_takes_nothing_for_too_long_is_left() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let written = |pause: Duration| {
        runtime.block_on(async move {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let reader = std::thread::spawn(move || {
                let mut piece = vec![0; 4 << 20];
                loop {
                    std::thread::sleep(pause);
                    // Ends when the stream is dropped.
                    if client.read_exact(&mut piece).is_err() {
                        break;
                    }
                }
            });
            let mut stream = Patient::new(stream, Duration::from_secs(1));
            let written = AsyncWriteExt::write_all(&mut stream, &vec![0; 64 << 20]).await;
            drop(stream);
            reader.join().unwrap();
            written.map_err(|error| error.kind())
        })
    };
    assert_eq!(written(Duration::from_millis(100)), Ok(()));
    assert_eq!(written(Duration::from_secs(3)), Err(io::ErrorKind::TimedOut));
}

#[test]
fn long_lists_come_in_pages() {
    let (dir, manifest, _) = registry(b"x");
    for tag in 2..=5 {
        let link = format!("repositories/library/a/_manifests/tags/{tag}/current/link");
        write(dir.path(), &link, manifest.to_string().as_bytes());
    }
    let server = serve(&dir, Options::default());
    let first = ask(&server, "GET", "/v2/library/a/tags/list?n=2", "");
    assert_eq!(first.body, br#"{"name":"library/a","tags":["1","2"]}"#);
    assert!(first.head.contains("last=2>; rel=\"next\""), "{}", first.head);
    let last = ask(&server, "GET", "/v2/library/a/tags/list?n=9&last=3", "");
    assert_eq!(last.body, br#"{"name":"library/a","tags":["4","5"]}"#);
    assert!(!last.head.contains("next"));
}

#[test]
fn what_cannot_be_served_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let start = |options| {
        let served = Served::Directory(dir.path().to_owned());
        Server::start(served, (Ipv4Addr::LOCALHOST, 0).into(), options).unwrap_err().to_string()
    };
    assert_eq!(start(Options::default()), "there is no registry/ in it");
    std::fs::create_dir_all(dir.path().join(V2)).unwrap();
    std::fs::write(dir.path().join("empty.pem"), "").unwrap();
    let pem = dir.path().join("empty.pem");
    let error = start(Options { logins: None, tls: Some((pem.clone(), pem)) });
    assert!(error.contains("empty.pem: there is no certificate in it"), "{error}");
}
