//! Debian's `docker-registry` on a free port of this machine.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::skip::skip;

/// What a registry asks of who comes to it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demands {
    /// The user `me` with the password `secret`.
    pub(crate) auth: bool,
    /// TLS, with a certificate that the authority `ca.crt` vouches for.
    pub(crate) tls: bool,
    /// A certificate of the client's: that of `client.cert`, for example.
    pub(crate) client: bool,
}

/// A registry, and a directory with stores.
pub(crate) struct Registry {
    dir: TempDir,
    port: u16,
    demands: Demands,
    server: Child,
}

impl Registry {
    /// None, said loudly, where `docker-registry` is not installed. `auth` lets in only the user
    /// `me` with the password `secret`.
    pub(crate) fn start(auth: bool) -> Option<Self> {
        Self::start_with(Demands { auth, ..Demands::default() })
    }

    /// None, said loudly, where a program for it is not installed.
    pub(crate) fn start_with(demands: Demands) -> Option<Self> {
        if demands.tls && Command::new("openssl").arg("version").output().is_err() {
            skip("needs openssl");
            return None;
        }
        if Command::new("docker-registry").arg("--version").output().is_err() {
            skip("needs docker-registry");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if demands.tls {
            make_certificates(dir.path());
        }
        let server = Self::serve(&dir, port, demands);
        Some(Self { dir, port, demands, server })
    }

    fn serve(dir: &TempDir, port: u16, demands: Demands) -> Child {
        let data = dir.path().join("data");
        let mut tls = String::new();
        if demands.tls {
            let path = |name: &str| dir.path().join(name).display().to_string();
            tls = format!("certificate: {}, key: {}", path("server.cert"), path("server.key"));
            if demands.client {
                tls += &format!(", clientcas: [{}]", path("ca.crt"));
            }
            tls = format!(", tls: {{{tls}}}");
        }
        let mut conf = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:{port}\"{tls}}}\n",
            data.display()
        );
        if demands.auth {
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

    pub(crate) fn name(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(crate) fn stop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Starts it again where it was.
    pub(crate) fn start_again(&mut self) {
        self.server = Self::serve(&self.dir, self.port, self.demands);
    }

    /// Runs kfs with one of several stores.
    pub(crate) fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.env_clear().env("KFS_ROOT", self.path(store)).args(args);
        command.env("PATH", format!("{}:/usr/bin:/bin", self.path("bin").display()));
        command.env("REGISTRY_AUTH_FILE", self.path("auth.json")).env("HOME", self.path("home"));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, store: &str, args: &[&str]) -> Output {
        self.command(store, args).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(&self, store: &str, args: &[&str]) -> String {
        let output = self.run(store, args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kfs {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn fails(&self, store: &str, args: &[&str]) -> (i32, String) {
        let output = self.run(store, args);
        assert!(!output.status.success(), "kfs {args:?} works");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Pushes an image with the file `hello`, from a store of its own.
    pub(crate) fn image(&self, name: &str) -> String {
        self.image_with(name, &[("hello", b"world")])
    }

    /// Pushes an image with these files, from a store of its own.
    pub(crate) fn image_with(&self, name: &str, files: &[(&str, &[u8])]) -> String {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, *content).unwrap();
        }
        fs::write(self.path("x.tar"), tar.into_inner().unwrap()).unwrap();
        self.ok("origin", &["import", "x.tar", "x:1"]);
        self.ok("origin", &["push", "x:1", &self.name(name)]).trim().to_owned()
    }

    /// Logs in to a registry that speaks http.
    pub(crate) fn login(&self, host: &str, password: &str) -> Output {
        self.login_with(host, password, &["--plain-http"])
    }

    pub(crate) fn login_with(&self, host: &str, password: &str, options: &[&str]) -> Output {
        let args = ["login", "--username", "me", "--password-stdin", host];
        let mut child = self
            .command("origin", &[&args, options].concat())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }
}

/// An authority, and certificates of it for the server and for a client.
fn make_certificates(dir: &Path) {
    const SCRIPT: &str = "set -e
        key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        openssl req -x509 $key -keyout ca.key -out ca.crt -subj /CN=authority -days 2
        for who in server client; do
            openssl req $key -keyout $who.key -out $who.csr -subj /CN=$who \\
                -addext subjectAltName=IP:127.0.0.1,DNS:registry.example
            openssl x509 -req -in $who.csr -CA ca.crt -CAkey ca.key -CAcreateserial \\
                -copy_extensions copy -days 2 -out $who.cert
        done";
    let made = Command::new("sh").args(["-c", SCRIPT]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have been stopped by the test.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}
