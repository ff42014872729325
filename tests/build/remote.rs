//! Sources that are fetched: URLs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use crate::workshop::Workshop;

/// A server of the files in a directory, on loopback.
pub(crate) struct Server {
    address: String,
    root: PathBuf,
    /// `PATH STATUS` of each request.
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn new(root: &Path) -> Self {
        fs::create_dir_all(root).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (root, logged, served) = (root.to_owned(), log.clone(), root.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming() {
                // One that breaks off is the other side's business.
                drop(answer(stream.unwrap(), &served, &logged));
            }
        });
        Self { address, root, log }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn put(&self, path: &str, content: &[u8]) {
        fs::write(self.root.join(path), content).unwrap();
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

/// Answers one request. A file's ETag is its content's length and first byte; `to/X` leads to `X`,
/// `short/X` breaks off, and `busy/X` is there when it was asked for the third time.
fn answer(stream: TcpStream, root: &Path, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let mut known = String::new();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("if-none-match")
        {
            value.clone_into(&mut known);
        }
    }
    let file = path.split('?').next().unwrap_or_default();
    let busy = file.starts_with("busy/") && log.lock().unwrap().len() < 2;
    let named = file.trim_start_matches("short/").trim_start_matches("busy/");
    let content = fs::read(root.join(named)).ok();
    let (status, head, body) = if let Some(target) = file.strip_prefix("to/") {
        ("302 Found", format!("Location: /{target}\r\n"), Vec::new())
    } else if busy {
        ("503 Service Unavailable", String::new(), Vec::new())
    } else if let Some(content) = content {
        let tag = format!("\"{}-{}\"", content.len(), content.first().unwrap_or(&0));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let head = format!("ETag: {tag}\r\nLast-Modified: {date}\r\n");
        if known == tag {
            ("304 Not Modified", head, Vec::new())
        } else {
            ("200 OK", head, content)
        }
    } else {
        ("404 Not Found", String::new(), b"not here".to_vec())
    };
    log.lock().unwrap().push(format!("{path} {}", &status[..3]));
    let length = body.len() + if file.starts_with("short/") { 10 } else { 0 };
    let mut stream = stream;
    let length = if status.starts_with("304") {
        String::new()
    } else {
        format!("Content-Length: {length}\r\n")
    };
    write!(stream, "HTTP/1.1 {status}\r\n{head}{length}Connection: close\r\n\r\n")?;
    stream.write_all(&body)
}

fn workshop() -> Option<(Workshop, Server)> {
    let shop = Workshop::new()?;
    let server = Server::new(&shop.path("served"));
    server.put("a.txt", b"hello");
    Some((shop, server))
}

#[test]
fn a_url_is_added_as_docker_does_it() {
    let Some((shop, server)) = workshop() else { return };
    server.put("a[1].tar", b"no archive that is unpacked");
    let (a, moved) = (server.url("a.txt"), server.url("to/a.txt?q=/x"));
    let odd = server.url("a[1].tar");
    shop.build(&format!(
        "FROM scratch\nADD {a} /named\nADD {a} /dir/\nADD {moved} /moved/\n\
         ADD --chmod=644 --chown=1:2 [\"{odd}\", \"/odd/\"]\n"
    ));
    let files = ["dir/", "dir/a.txt", "moved/", "moved/a.txt", "named", "odd/", "odd/a[1].tar"];
    assert_eq!(shop.files("new"), files);
    shop.mounted("new", |root| {
        assert_eq!(fs::read(root.join("named")).unwrap(), b"hello");
        let meta = fs::metadata(root.join("named")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o600, 0, 0));
        assert_eq!(meta.mtime(), 784_111_777);
        let meta = fs::metadata(root.join("odd/a[1].tar")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o644, 1, 2));
    });
    shop.assert_nothing_left();
}

#[test]
fn an_unchanged_url_is_not_sent_again() {
    let Some((shop, server)) = workshop() else { return };
    let text = format!("FROM scratch\nADD {} /\n", server.url("a.txt"));
    assert_eq!(shop.build(&text).cached(), 0);
    assert_eq!(server.asked(), ["a.txt 200"]);
    assert_eq!(shop.build(&text).cached(), 1);
    assert_eq!(server.asked(), ["a.txt 304"]);
    // In another step the file is the one that was kept.
    let after_another = text.replace("ADD", "WORKDIR /w\nADD");
    assert_eq!(shop.build(&after_another).cached(), 0);
    assert_eq!(server.asked(), ["a.txt 304"]);
    server.put("a.txt", b"other");
    assert_eq!(shop.build(&text).cached(), 0);
    assert_eq!(server.asked(), ["a.txt 200"]);
    shop.mounted("new", |root| assert_eq!(fs::read(root.join("a.txt")).unwrap(), b"other"));
    // What is kept goes with the build cache.
    shop.ok(&["prune", "--all", "--force"]);
    assert_eq!(fs::read_dir(shop.path("store/blobs/sha256")).unwrap().count(), 0);
    assert_eq!(shop.build(&text).cached(), 0);
    assert_eq!(server.asked(), ["a.txt 200"]);
}

#[test]
fn a_checksum_is_kept_to_and_spares_the_question() {
    let Some((shop, server)) = workshop() else { return };
    // sha256sum of "hello".
    let right = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let url = server.url("a.txt");
    let text = format!("FROM scratch\nADD --checksum={right} {url} /a\n");
    let wrong = text.replace("824 ", "825 ");
    let said = shop.fails(&wrong, &[]);
    assert!(said.contains("has the digest sha256:2cf2"), "{said}");
    server.asked();
    shop.build(&text);
    server.put("a.txt", b"other");
    shop.build(&text.replace("/a\n", "/b\n"));
    assert_eq!(server.asked(), ["a.txt 200"]);
    let said = shop.fails("FROM scratch\nADD --checksum=md5:1 http://x/y /a\n", &[]);
    assert!(said.contains("is no digest such as sha256:HEX"), "{said}");
    let said = shop.fails(&format!("FROM scratch\nADD --checksum={right} a /a\n"), &[]);
    assert!(said.contains("for one source"), "{said}");
}

#[test]
fn what_cannot_be_fetched_is_told() {
    let Some((shop, server)) = workshop() else { return };
    let fails = |url: &str| shop.fails(&format!("FROM scratch\nADD {url} /dir/\n"), &[]);
    for (url, message) in [
        (server.url("nothing"), "answers 404 Not Found"),
        (server.url("short/a.txt"), "cannot be reached"),
        (server.url("to/to/to/to/to/to/to/to/to/to/to/to/a.txt"), "more than 10 redirects"),
        (server.url(""), "has no file name"),
        ("http://127.0.0.1:1/x".to_owned(), "hint: check the address and the network"),
    ] {
        let said = fails(&url);
        assert!(said.contains("Dockerfile:2") && said.contains(message), "{url}: {said}");
    }
    shop.assert_nothing_left();
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    let Some((shop, server)) = workshop() else { return };
    let built = shop.build(&format!("FROM scratch\nADD {} /\n", server.url("busy/a.txt")));
    assert!(built.said.contains("503 Service Unavailable; trying again"), "{}", built.said);
    assert_eq!(server.asked(), ["busy/a.txt 503", "busy/a.txt 503", "busy/a.txt 200"]);
    assert_eq!(shop.ok(&["cat", "new", "/a.txt"]), "hello");
}

#[test]
fn copy_of_a_kubefile_takes_urls() {
    let Some((shop, server)) = workshop() else { return };
    let text = format!("FROM scratch\nCOPY {} etc\n", server.url("a.txt"));
    let output = shop.try_build("Kubefile", &text, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(shop.files("new"), ["etc/", "etc/a.txt"]);
    let said = shop.fails(&text, &[]);
    assert!(said.contains("ADD does"), "{said}");
}

#[test]
fn what_is_fetched_comes_while_the_layer_of_a_run_is_written() {
    let Some(shop) = Workshop::with_base() else { return };
    let server = Server::new(&shop.path("served"));
    server.put("a.txt", b"hello\n");
    let run = "FROM base\nRUN mkdir /dir && ln -s dir /link && echo run >/dir/b\n";
    let add = format!("{run}ADD {} /link/\nRUN cat /dir/* >/both\n", server.url("a.txt"));
    let said = shop.build_with(&add, &["--progress", "json"]).said;
    let events: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let place = |event: &str, index: u32| {
        let is_it = |it: &serde_json::Value| it["event"] == event && it["index"] == index;
        events.iter().position(is_it).unwrap_or_else(|| panic!("no {event} of {index}: {said}"))
    };
    assert!(place("step", 3) < place("committed", 2), "{said}");
    assert!(place("committed", 2) < place("step", 4), "{said}");
    // Where it lands depends on what the RUN made.
    assert_eq!(shop.ok(&["cat", "new", "/both"]), "hello\nrun\n");
    assert_eq!(shop.build(&add).cached(), 3);
    // What was done before a fetch that fails is kept.
    let run = run.replace("echo run", "echo again");
    let said = shop.fails(&format!("{run}ADD {} /\n", server.url("none")), &[]);
    assert!(said.contains("kfs: Dockerfile:3") && said.contains("404"), "{said}");
    assert_eq!(shop.build(&run).cached(), 1);
    shop.assert_nothing_left();
}
