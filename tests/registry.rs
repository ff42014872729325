//! The client against a real registry: Debian's `docker-registry` on a free port of this machine.

#[path = "skip/mod.rs"]
mod skip;

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A registry, and a directory with stores.
struct Registry {
    dir: TempDir,
    port: u16,
    server: Child,
}

impl Registry {
    /// None, said loudly, where `docker-registry` is not installed. `auth` lets in only the user
    /// `me` with the password `secret`.
    fn start(auth: bool) -> Option<Self> {
        if Command::new("docker-registry").arg("--version").output().is_err() {
            skip::skip("needs docker-registry");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self::serve(&dir, port, auth);
        Some(Self { dir, port, server })
    }

    fn serve(dir: &TempDir, port: u16, auth: bool) -> Child {
        let data = dir.path().join("data");
        let mut conf = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"}}\n",
            data.display()
        );
        if auth {
            let users = dir.path().join("htpasswd");
            let made = Command::new("htpasswd").args(["-Bbn", "me", "secret"]).output().unwrap();
            fs::write(&users, made.stdout).unwrap();
            conf += &format!("auth: {{htpasswd: {{realm: x, path: {}}}}}\n", users.display());
        }
        let path = dir.path().join("registry.yml");
        fs::write(&path, conf).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        let server = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Runs kfs with one of several stores.
    fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.env_clear().env("KFS_ROOT", self.path(store)).args(args);
        command.env("PATH", "/usr/bin:/bin").env("REGISTRY_AUTH_FILE", self.path("auth.json"));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, store: &str, args: &[&str]) -> Output {
        self.command(store, args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, store: &str, args: &[&str]) -> String {
        let output = self.run(store, args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kfs {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, store: &str, args: &[&str]) -> (i32, String) {
        let output = self.run(store, args);
        assert!(!output.status.success(), "kfs {args:?} works");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Pushes an image with the file `hello`, from a store of its own.
    fn image(&self, name: &str) -> String {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        tar.append_data(&mut header, "hello", &b"world"[..]).unwrap();
        fs::write(self.path("x.tar"), tar.into_inner().unwrap()).unwrap();
        self.ok("origin", &["import", "x.tar", "x:1"]);
        self.ok("origin", &["push", "x:1", &self.name(name)]).trim().to_owned()
    }

    fn login(&self, password: &str) -> Output {
        let host = format!("127.0.0.1:{}", self.port);
        let args = ["login", "--username", "me", "--password-stdin", &host];
        let mut child = self
            .command("origin", &args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have been stopped by the test.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

#[test]
fn an_image_is_looked_into_where_it_lies() {
    let Some(mut registry) = Registry::start(false) else { return };
    let digest = registry.image("a/b:1");
    let name = registry.name("a/b:1");
    assert_eq!(registry.ok("lazy", &["cat", &name, "/hello"]), "world");
    let list = registry.ok("lazy", &["inspect", &name]);
    assert!(list.contains(&digest), "{list}");
    let blobs = fs::read_dir(registry.path("lazy/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 2, "manifest and config, and no layer");
    let (code, error) = registry.fails("lazy", &["ls", &registry.name("a/none:1")]);
    assert_eq!(code, 3, "{error}");
    assert!(error.contains("a/none"), "{error}");
    // What is known needs no registry.
    registry.stop();
    assert_eq!(registry.ok("lazy", &["ls", &name]), "hello\n");
    registry.ok("lazy", &["rmi", &name]);
    assert_eq!(fs::read_dir(registry.path("lazy/remotes")).unwrap().count(), 0);
}

#[test]
fn what_was_pulled_needs_no_registry_and_is_pushed_once() {
    let Some(mut registry) = Registry::start(false) else { return };
    let digest = registry.image("a:1");
    let name = registry.name("a:1");
    assert_eq!(registry.ok("pulled", &["pull", &name]).trim(), digest);
    let again = registry.run("pulled", &["push", &name, &registry.name("b:2")]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(said.contains("0 blobs sent, 2 were there"), "{said}");
    registry.stop();
    assert_eq!(registry.ok("pulled", &["cat", &name, "/hello"]), "world");
}

#[test]
fn a_pull_goes_on_where_it_was_broken_off_and_mends_what_is_damaged() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image("a:1");
    let name = registry.name("a:1");
    registry.ok("pulled", &["ls", &name]);
    let inspected: serde_json::Value =
        serde_json::from_str(&registry.ok("pulled", &["inspect", &name])).unwrap();
    let layer = inspected["layers"][0]["digest"].as_str().unwrap().replace("sha256:", "");
    let partial = registry.path("pulled/remotes").join(format!("{layer}.partial"));
    let whole = fs::read(registry.path("origin/blobs/sha256").join(&layer)).unwrap();
    for start in [&whole[..100], b"damaged"] {
        fs::write(&partial, start).unwrap();
        registry.ok("pulled", &["pull", &name]);
        assert!(!partial.exists());
        let blob = registry.path("pulled/blobs/sha256").join(&layer);
        assert_eq!(fs::read(&blob).unwrap(), whole);
        fs::remove_file(blob).unwrap();
    }
}

#[test]
fn credentials_are_kept_used_and_forgotten_and_never_shown() {
    let Some(registry) = Registry::start(true) else { return };
    let name = registry.name("a:1");
    let (code, error) = registry.fails("lazy", &["ls", &name]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("kfs login 127.0.0.1"), "{error}");
    let wrong = registry.login("wrongsecret");
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && !said.contains("wrongsecret"), "{said}");
    assert!(!registry.path("auth.json").exists());
    assert!(registry.login("secret\n").status.success());
    registry.image("a:1");
    assert_eq!(registry.ok("lazy", &["cat", &name, "/hello"]), "world");
    registry.ok("lazy", &["logout", &format!("127.0.0.1:{}", registry.port)]);
    let (_, error) = registry.fails("pulled", &["pull", &name]);
    assert!(error.contains("kfs login"), "{error}");
}
