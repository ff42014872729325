//! `--cache-from` and `--cache-to`: steps that one store built and another one takes from a
//! registry.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::skip::skip;
use crate::workshop::{Workshop, run};

/// `docker-registry` on a port of its own.
struct Registry {
    server: Child,
    port: u16,
}

impl Registry {
    fn start(place: &Path) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let data = place.join("registry");
        let conf = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n",
            data.display()
        );
        fs::write(place.join("registry.yml"), conf).unwrap();
        let mut serve = Command::new("docker-registry");
        serve.arg("serve").arg(place.join("registry.yml"));
        let Ok(server) = serve.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
            skip("needs docker-registry");
            return None;
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the registry does not start");
            thread::sleep(Duration::from_millis(20));
        }
        Some(Self { server, port })
    }

    fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}

const TEXT: &str = "\
FROM base
WORKDIR /app
COPY tree /tree
RUN cat /tree/one >joined; echo $(cat /tree/two) >>joined
RUN touch /last
";

fn workshop() -> Option<(Workshop, Registry)> {
    let shop = Workshop::with_base()?;
    shop.write("tree/one", "one");
    shop.write("tree/two", "two");
    let registry = Registry::start(&shop.path("."))?;
    Some((shop, registry))
}

/// Another store that has the base and nothing else.
fn forget(shop: &Workshop) {
    shop.ok(&["prune", "build-cache", "--all", "--force"]);
    shop.ok(&["rmi", "new"]);
}

fn blobs(shop: &Workshop) -> usize {
    fs::read_dir(shop.path("store/blobs/sha256")).unwrap().count()
}

#[test]
fn steps_of_another_store_come_from_a_registry() {
    let Some((shop, registry)) = workshop() else { return };
    let cache = registry.name("cache");
    let built = shop.build_with(TEXT, &["--cache-to", &cache]);
    assert!(built.said.contains("note: 4 steps sent to the cache, 0 were there"), "{}", built.said);
    let again = shop.build_with(TEXT, &["--cache-to", &cache]);
    assert!(again.said.contains("0 steps sent to the cache, 4 were there"), "{}", again.said);
    forget(&shop);
    let before = blobs(&shop);
    // All there, so nothing but what says so is fetched.
    let found = shop.build_with(TEXT, &["--cache-from", &cache, "--explain"]);
    assert_eq!(found.cached(), 4, "{}", found.said);
    assert_eq!(found.said.matches(&format!("hit: {cache} has it")).count(), 4, "{}", found.said);
    assert_eq!(found.digest, built.digest, "the same image");
    assert_eq!(blobs(&shop) - before, 2, "manifest and config");
    assert_eq!(shop.ok(&["cat", "new", "/app/joined"]), "onetwo\n");
    // What a step needs of them is read.
    let more = TEXT.replace("touch /last", "cat joined");
    let found = shop.build_with(&more, &["--cache-from", &cache]);
    assert_eq!((found.cached(), found.last_run().as_str()), (3, "onetwo"));
    // Other content is another step.
    shop.write("tree/one", "ONE");
    let found = shop.build_with(TEXT, &["--cache-from", &cache]);
    assert_eq!(found.cached(), 1, "{}", found.said);
    assert_eq!(shop.build_with(TEXT, &["--cache-from", &cache, "--no-cache"]).cached(), 0);
    shop.assert_nothing_left_of(&["docker-registry"]);
}

#[test]
fn a_cache_that_cannot_be_asked_or_written_is_told() {
    let Some((shop, registry)) = workshop() else { return };
    let cache = registry.name("cache");
    let text = "FROM scratch\nCOPY tree /\n";
    let nowhere = "127.0.0.1:1/cache";
    let built = shop.build_with(text, &["--cache-from", nowhere, "--cache-from", &cache]);
    let told = built.said.matches("--cache-from 127.0.0.1:1/cache is not used").count();
    assert_eq!((told, built.cached()), (1, 0), "{}", built.said);
    let said = shop.fails(text, &["--cache-to", nowhere]);
    assert!(said.contains("127.0.0.1:1"), "{said}");
    // The image is there all the same.
    assert_eq!(shop.ok(&["cat", "new", "/one"]), "one");
    let docker = format!("type=registry,ref={cache},mode=max");
    shop.build_with(text, &["--cache-to", &docker, "--cache-from", &docker]);
    for (bad, message) in [
        ("127.0.0.1:1/cache:tag", "a repository has no tag"),
        ("type=local,dest=x", "only a registry can have the cache"),
        ("type=registry", "empty"),
    ] {
        let said = shop.fails(text, &["--cache-from", bad]);
        assert!(said.contains(message), "{bad}: {said}");
    }
}

/// Who writes to the cache decides what is built, but not under another digest.
#[test]
fn a_damaged_cache_is_not_used() {
    let Some((shop, registry)) = workshop() else { return };
    let cache = registry.name("cache");
    shop.build_with(TEXT, &["--cache-to", &cache]);
    forget(&shop);
    let mut files = vec![shop.path("registry/docker/registry/v2/blobs")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let mut content = fs::read(&path).unwrap();
        if !content.starts_with(b"{") {
            content.iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(&path, content).unwrap();
        }
    }
    let more = format!("{TEXT}RUN cat /app/joined\n");
    let said = shop.fails(&more, &["--cache-from", &cache]);
    assert!(said.contains("sha256:"), "{said}");
    assert!(!said.contains("onetwo"), "{said}");
}

#[test]
fn a_base_in_a_registry_stays_there() {
    let Some((shop, registry)) = workshop() else { return };
    let base = registry.name("base:1");
    shop.ok(&["push", "base", &base]);
    let other = |args: &[&str]| {
        let mut kfs = shop.kfs(args);
        run(kfs.env("KFS_ROOT", shop.path("other")).env("KFS_PULL", "missing"))
    };
    fs::write(shop.path("Dockerfile"), format!("FROM {base}\nRUN touch /made\n")).unwrap();
    other(&["build", "-t", "new", "-f", "Dockerfile", "context"]);
    let blobs = fs::read_dir(shop.path("other/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 5, "manifest and config of each, and the new layer");
    assert!(other(&["cat", "new", "/etc/passwd"]).contains("root"));
    // All of it can be had elsewhere.
    let derived = registry.name("derived:1");
    other(&["push", "new", &derived]);
    let third = |args: &[&str]| {
        let mut kfs = shop.kfs(args);
        run(kfs.env("KFS_ROOT", shop.path("third")).env("KFS_PULL", "missing"))
    };
    assert!(third(&["ls", &derived]).contains("made"));
}
