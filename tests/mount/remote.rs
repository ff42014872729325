//! Mounts of an image in a registry that goes away, or stops to answer.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;

use crate::sandbox::{Sandbox, assert_success, send, wait_until};
use crate::skip::skip;

/// Debian's registry, with the image `app:1` of two large files in chunks, and `app:plain`, the
/// same without a table of contents. It ends with the value.
pub(crate) struct Registry {
    pub(crate) process: Child,
    pub(crate) image: String,
    plain: String,
    pub(crate) big: Vec<u8>,
    pub(crate) other: Vec<u8>,
}

impl Registry {
    /// `None`, with a line that says so, without the programs for it.
    pub(crate) fn start(sandbox: &Sandbox) -> Option<Self> {
        Self::start_with(sandbox, &[])
    }

    /// As [`Registry::start`], and the images have these files beside the large ones.
    pub(crate) fn start_with(sandbox: &Sandbox, files: &[(&str, &[u8])]) -> Option<Self> {
        for program in ["docker-registry", "skopeo"] {
            if Command::new(program).arg("--version").output().is_err() {
                skip(format!("needs {program}"));
                return None;
            }
        }
        let big: Vec<u8> = (0..2_000_000_u32).flat_map(|n| (n ^ n << 13).to_le_bytes()).collect();
        let other: Vec<u8> = big.iter().rev().copied().collect();
        make_image(sandbox, &[&[("big", &big[..]), ("other", &other)], files].concat());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (config, data) = (sandbox.path("registry.yml"), sandbox.path("registry"));
        let storage = format!("{{filesystem: {{rootdirectory: {}}}}}", data.display());
        let text =
            format!("version: 0.1\nstorage: {storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n");
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let repository = format!("127.0.0.1:{port}/app");
        let (image, plain) = (format!("{repository}:1"), format!("{repository}:plain"));
        let registry = Self { process, image, plain, big, other };
        wait_until("the registry answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        for (from, to) in [("chunked", &registry.image), ("plain", &registry.plain)] {
            let mut copy = Command::new("skopeo");
            copy.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]);
            copy.arg(format!("oci:{}:{from}:latest", sandbox.path("store").display()));
            assert_success(copy.arg(format!("docker://{to}")));
        }
        Some(registry)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.image.split('/').next().expect("the registry").parse().unwrap()
    }

    pub(crate) fn mount(&self, sandbox: &Sandbox) {
        self.mount_image(sandbox, &self.image, &[]);
    }

    /// Mounts one of the images; what kfs says of it.
    pub(crate) fn mount_image(&self, sandbox: &Sandbox, image: &str, options: &[&str]) -> String {
        let args = ["mount", "--pull=missing", "--plain-http", image, "mnt"];
        let output = sandbox.run(&[&args, options].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{said}");
        said
    }

    /// A read of all of `other` that waits: the registry is stopped.
    pub(crate) fn stalled_read(&self, sandbox: &Sandbox) -> JoinHandle<io::Result<Vec<u8>>> {
        send(self.process.id(), Signal::SIGSTOP);
        let path = sandbox.path("mnt/other");
        let reader = std::thread::spawn(move || fs::read(path));
        wait_until("a read waits", || {
            let stats = sandbox.ok(&["mounts", "--stats", "--format", "json"]);
            let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
            stats[0]["stats"]["waiting"].as_u64().is_some_and(|waiting| waiting > 0)
        });
        reader
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn make_image(sandbox: &Sandbox, files: &[(&str, &[u8])]) {
    let root = sandbox.path("root");
    for (name, data) in files {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), data).unwrap();
    }
    let mut tar = Command::new("tar");
    assert_success(tar.arg("-C").arg(&root).arg("-cf").arg(sandbox.path("big.tar")).arg("."));
    sandbox.ok(&["import", "big.tar", "plain"]);
    sandbox.ok(&["convert", "plain", "chunked", "--to", "zstd-chunked"]);
}

/// From here on the layers are in the registry alone.
pub(crate) fn forget_local(sandbox: &Sandbox) {
    sandbox.ok(&["rmi", "plain", "chunked"]);
}

#[test]
fn a_second_start_works_without_the_registry() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    registry.mount(&sandbox);
    assert!(fs::read(sandbox.path("mnt/big")).unwrap() == registry.big);
    sandbox.ok(&["umount", "mnt"]);
    assert!(sandbox.ok(&["cache", "du"]).contains(&registry.image));
    assert_eq!(fs::read_dir(sandbox.path("store/traces")).unwrap().count(), 1);
    send(registry.process.id(), Signal::SIGSTOP);
    registry.mount(&sandbox);
    assert!(fs::read(sandbox.path("mnt/big")).unwrap() == registry.big);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.ok(&["rmi", &registry.image]);
    assert_eq!(sandbox.ok(&["cache", "du", "--format", "json"]).trim(), "[]");
    sandbox.assert_nothing_left();
}

#[test]
fn a_signal_ends_a_mount_whose_reader_waits_for_the_registry() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    registry.mount(&sandbox);
    let reader = registry.stalled_read(&sandbox);
    let supervisor = sandbox.signal_supervisor(Signal::SIGTERM);
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    sandbox.assert_ends(supervisor);
}

#[test]
fn a_server_that_is_killed_while_it_fetches_is_nothing_to_the_reader() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    registry.mount(&sandbox);
    let reader = registry.stalled_read(&sandbox);
    for restarts in 1..=3 {
        send(sandbox.server(), Signal::SIGKILL);
        wait_until("another serves", || sandbox.number("restarts") == restarts);
    }
    assert!(!reader.is_finished());
    send(registry.process.id(), Signal::SIGCONT);
    assert!(reader.join().unwrap().unwrap() == registry.other);
    assert!(fs::read(sandbox.path("mnt/big")).unwrap() == registry.big);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn what_was_read_before_all_was_killed_is_there_for_the_next_mount() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    registry.mount(&sandbox);
    assert!(fs::read(sandbox.path("mnt/big")).unwrap() == registry.big);
    let reader = registry.stalled_read(&sandbox);
    sandbox.kill_both();
    let error = reader.join().unwrap().unwrap_err();
    let expected = [nix::libc::ENOTCONN, nix::libc::ECONNABORTED];
    assert!(expected.contains(&error.raw_os_error().unwrap()), "{error}");
    // The registry still does not answer.
    registry.mount(&sandbox);
    assert!(fs::read(sandbox.path("mnt/big")).unwrap() == registry.big);
    send(registry.process.id(), Signal::SIGCONT);
    assert!(fs::read(sandbox.path("mnt/other")).unwrap() == registry.other);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_mount_says_what_was_fetched_for_it() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    let said = registry.mount_image(&sandbox, &registry.plain, &[]);
    // Manifest, config, and the layer to index it.
    let image = sandbox.ok(&["inspect", &registry.plain]);
    let image: serde_json::Value = serde_json::from_str(&image).unwrap();
    let manifest = image["digest"].as_str().unwrap().replace("sha256:", "store/blobs/sha256/");
    let manifest = fs::metadata(sandbox.path(&manifest)).unwrap().len();
    let size = |what: &str| image["manifest"].pointer(what).unwrap().as_u64().unwrap();
    let bytes = manifest + size("/config/size") + size("/layers/0/size");
    assert!(said.contains(&format!("({bytes} bytes, 3 requests) to mount ")), "{bytes}: {said}");
    assert!(fs::read(sandbox.path("mnt/big")).unwrap() == registry.big);
    let stats = sandbox.ok(&["mounts", "--stats", "--format", "json"]);
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats[0]["stats"]["requests"], 0, "{stats}");
    sandbox.ok(&["umount", "mnt"]);
    let said = registry.mount_image(&sandbox, &registry.plain, &[]);
    assert!(!said.contains("Fetched"), "nothing was: {said}");
    sandbox.ok(&["umount", "mnt"]);
    assert_eq!(registry.mount_image(&sandbox, &registry.image, &["--quiet"]), "");
    sandbox.ok(&["umount", "mnt"]);
}
