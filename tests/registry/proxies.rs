//! Proxies that the environment names.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::server::{Demands, Registry};
use crate::skip::skip;

/// A host that only the proxy finds.
const HOST: &str = "registry.example";
/// `me` with the password `a@b`.
const PROOF: &str = "Basic bWU6YUBi";

/// A proxy that leads to one registry, whatever host is asked for. It wants a proof if it is told
/// so.
struct Forward {
    address: SocketAddr,
    /// The request lines that came.
    seen: Arc<Mutex<Vec<String>>>,
}

impl Forward {
    fn start(registry: &Registry, wants_proof: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, upstream) = (listener.local_addr().unwrap(), registry.address());
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let log = seen.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let log = log.clone();
                // What breaks is the other side's business.
                thread::spawn(move || drop(pass(&client.unwrap(), upstream, wants_proof, &log)));
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// One request by the proxy: a tunnel, or one whose target is a whole URL.
fn pass(
    client: &TcpStream,
    registry: SocketAddr,
    wants_proof: bool,
    log: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut requests = BufReader::new(client);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        requests.read_line(&mut line)?;
        if line == "\r\n" || line.is_empty() {
            break;
        }
        head.push(line);
    }
    let Some(first) = head.first().cloned() else { return Ok(()) };
    log.lock().unwrap().push(first.trim_end().to_owned());
    let proof = head.iter().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    let proof =
        proof.or_else(|| head.iter().find_map(|line| line.strip_prefix("proxy-authorization: ")));
    let mut answers = client;
    if wants_proof && proof.map(str::trim) != Some(PROOF) {
        return answers.write_all(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    }
    let mut upstream = TcpStream::connect(registry)?;
    if first.starts_with("CONNECT ") {
        answers.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    } else {
        let target = format!("http://{HOST}");
        head[0] = first.replacen(&target, "", 1);
        head.retain(|line| !line.to_lowercase().starts_with("proxy-"));
        write!(upstream, "{}Connection: close\r\n\r\n", head.concat())?;
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            drop(io::copy(&mut requests, &mut &upstream));
            drop(upstream.shutdown(Shutdown::Write));
        });
        drop(io::copy(&mut &upstream, &mut answers));
        drop(client.shutdown(Shutdown::Both));
    });
    Ok(())
}

/// Exit code, standard output and standard error of kfs with these variables.
fn run(registry: &Registry, env: &[(&str, &str)], args: &[&str]) -> (Option<i32>, String, String) {
    let store = registry.path("lazy");
    fs::remove_dir_all(&store).ok();
    let output = registry.command("lazy", args).envs(env.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_registry_that_speaks_https_is_reached_by_a_tunnel() {
    let demands = Demands { tls: true, ..Demands::default() };
    let Some(registry) = Registry::start_with(demands) else { return };
    for host in [HOST, &registry.address().to_string()] {
        let dir = registry.path("home/.config/containers/certs.d").join(host);
        fs::create_dir_all(&dir).unwrap();
        fs::copy(registry.path("ca.crt"), dir.join("ca.crt")).unwrap();
    }
    registry.image("a:1");
    let proxy = Forward::start(&registry, true);
    let name = format!("{HOST}/a:1");
    let cat = ["cat", "--read-timeout=4s", &name, "/hello"];
    let at = |proof: &str| format!("http://{proof}{}", proxy.address);
    for variable in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"] {
        let (code, content, said) = run(&registry, &[(variable, &at("me:a%40b@"))], &cat);
        assert!(code == Some(0) && content == "world", "{variable}: {said}");
        let seen = proxy.seen();
        let tunnel = format!("CONNECT {HOST}:443 HTTP/1.1");
        assert!(!seen.is_empty() && seen.iter().all(|line| *line == tunnel), "{seen:?}");
    }
    let (code, _, said) = run(&registry, &[("HTTPS_PROXY", &at("me:secret@"))], &cat);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("proxy {}", proxy.address)), "{said}");
    assert!(said.contains("authorization required") && !said.contains("secret"), "{said}");
    proxy.seen();
    // One for http alone is not asked, and none is for this machine.
    run(&registry, &[("HTTP_PROXY", &at(""))], &cat);
    let here = ["cat", &registry.name("a:1"), "/hello"];
    assert_eq!(run(&registry, &[("HTTPS_PROXY", &at(""))], &here).1, "world");
    assert_eq!(proxy.seen(), [] as [String; 0]);
}

#[test]
fn a_registry_that_speaks_http_is_asked_by_the_proxy() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image("a:1");
    let proxy = Forward::start(&registry, true);
    let name = format!("{HOST}/a:1");
    let cat = ["cat", "--plain-http", "--read-timeout=4s", &name, "/hello"];
    let at = |proof: &str| format!("http://{proof}{}", proxy.address);
    let good = at("me:a%40b@");
    let (code, content, said) = run(&registry, &[("HTTP_PROXY", &good)], &cat);
    assert!(code == Some(0) && content == "world", "{said}");
    let (seen, manifest) = (proxy.seen(), format!("GET http://{HOST}/v2/a/manifests/1 HTTP/1.1"));
    assert!(seen.contains(&manifest), "{seen:?}");
    assert!(seen.iter().all(|line| line.contains(&format!(" http://{HOST}/v2/"))), "{seen:?}");
    let (code, _, said) = run(&registry, &[("HTTP_PROXY", &at("me:secret@"))], &cat);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("proxy {} wants other", proxy.address)), "{said}");
    assert!(!said.contains("secret"), "{said}");
    proxy.seen();
    // Whatever is spared is asked itself, and nobody finds this host.
    for list in [HOST, "other.test, .example", "*"] {
        let env = [("HTTP_PROXY", good.as_str()), ("NO_PROXY", list)];
        let (code, _, said) = run(&registry, &env, &cat);
        assert!(code == Some(1) && !said.contains("proxy"), "{list}: {said}");
    }
    assert_eq!(proxy.seen(), [] as [String; 0]);
}

/// The server of a mount reads by the proxy as well, long after the command has ended.
#[test]
fn a_mount_reads_by_the_proxy() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return skip("needs root and /dev/fuse");
    }
    let Some(registry) = Registry::start(false) else { return };
    registry.image_with("a:1", &[("hello", b"world")]);
    registry.ok("origin", &["convert", "x:1", "x:chunked", "--to=zstd-chunked"]);
    registry.ok("origin", &["push", "x:chunked", &registry.name("a:chunked")]);
    let proxy = Forward::start(&registry, false);
    fs::create_dir(registry.path("mnt")).unwrap();
    let mount = ["mount", "--plain-http", "--prefetch=off", &format!("{HOST}/a:chunked"), "mnt"];
    let address = format!("http://{}", proxy.address);
    let (code, _, said) = run(&registry, &[("HTTP_PROXY", &address)], &mount);
    assert_eq!(code, Some(0), "{said}");
    proxy.seen();
    let read = fs::read(registry.path("mnt/hello"));
    registry.ok("lazy", &["umount", "mnt"]);
    assert_eq!(read.unwrap(), b"world");
    let seen = proxy.seen();
    assert!(seen.iter().any(|line| line.contains("/v2/a/blobs/")), "{seen:?}");
}

#[test]
fn a_proxy_that_cannot_be_used_is_named_without_its_password() {
    let Some(registry) = Registry::start(false) else { return };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let name = format!("{HOST}/a:1");
    for (proxy, part) in [
        (
            format!("http://me:secret@{free}"),
            format!("{HOST} cannot be reached: by proxy {free}: "),
        ),
        (format!("me:secret@{free}"), format!("proxy {free}: ")),
        (format!("socks5://me:secret@{free}"), "for https is of the kind socks5".to_owned()),
        ("http://me:secret@x:y".to_owned(), "the proxy for https is no URL".to_owned()),
    ] {
        let pull = ["pull", "--read-timeout=4s", &name];
        let (code, _, said) = run(&registry, &[("HTTPS_PROXY", &proxy)], &pull);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&part) && !said.contains("secret"), "{proxy}: {said}");
    }
}
