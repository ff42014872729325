//! Mounts of an image in a registry that goes away, or stops to answer.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::sandbox::{Sandbox, assert_success, send, wait_until};
use crate::skip::skip;

/// Debian's registry, with the image `app:1` of one large file in chunks. It ends with the value.
struct Registry {
    process: Child,
    image: String,
    big: Vec<u8>,
}

impl Registry {
    /// `None`, with a line that says so, without the programs for it.
    fn start(sandbox: &Sandbox) -> Option<Self> {
        for program in ["docker-registry", "skopeo"] {
            if Command::new(program).arg("--version").output().is_err() {
                skip(format!("needs {program}"));
                return None;
            }
        }
        let big: Vec<u8> = (0..2_000_000_u32).flat_map(|n| (n ^ n << 13).to_le_bytes()).collect();
        make_image(sandbox, &big);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (config, data) = (sandbox.path("registry.yml"), sandbox.path("registry"));
        let storage = format!("{{filesystem: {{rootdirectory: {}}}}}", data.display());
        let text =
            format!("version: 0.1\nstorage: {storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\n");
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().unwrap();
        let registry = Self { process, image: format!("127.0.0.1:{port}/app:1"), big };
        wait_until("the registry answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let mut copy = Command::new("skopeo");
        copy.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]);
        copy.arg(format!("oci:{}:chunked:latest", sandbox.path("store").display()));
        assert_success(copy.arg(format!("docker://{}", registry.image)));
        Some(registry)
    }

    fn mount(&self, sandbox: &Sandbox) {
        sandbox.ok(&["mount", "--pull=missing", "--plain-http", &self.image, "mnt"]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn make_image(sandbox: &Sandbox, big: &[u8]) {
    let root = sandbox.path("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("big"), big).unwrap();
    let mut tar = Command::new("tar");
    assert_success(tar.arg("-C").arg(&root).arg("-cf").arg(sandbox.path("big.tar")).arg("."));
    sandbox.ok(&["import", "big.tar", "plain"]);
    sandbox.ok(&["convert", "plain", "chunked", "--to", "zstd-chunked"]);
}

/// From here on the layers are in the registry alone.
fn forget_local(sandbox: &Sandbox) {
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
    send(registry.process.id(), Signal::SIGSTOP);
    let path = sandbox.path("mnt/big");
    let reader = std::thread::spawn(move || fs::read(path));
    wait_until("a read waits", || {
        let stats = sandbox.ok(&["mounts", "--stats", "--format", "json"]);
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
        stats[0]["stats"]["waiting"].as_u64().is_some_and(|waiting| waiting > 0)
    });
    let supervisor = sandbox.signal_supervisor(Signal::SIGTERM);
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    sandbox.assert_ends(supervisor);
}
