//! A store, an image and a mount point for one test; and processes to be watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::skip::skip;

/// A store with the image `test` (`etc/motd`, `etc/hard` its second name, `bin/` and 500 files in
/// `many/`) and an empty directory `mnt`.
pub(crate) struct Sandbox {
    pub(crate) dir: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            skip("needs root and /dev/fuse");
            return None;
        }
        let sandbox = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(sandbox.path("mnt")).unwrap();
        fs::write(sandbox.path("rootfs.tar"), rootfs()).unwrap();
        sandbox.ok(&["import", "rootfs.tar", "test"]);
        Some(sandbox)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("KFS_PULL", "never").env("KFS_ROOT", self.path("store"));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        // Returns only when nobody holds the ends of the pipes any more, the server neither.
        self.command(args).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kfs {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and standard error of a command that has to fail.
    #[track_caller]
    pub(crate) fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "kfs {args:?} works");
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code().expect("an exit code"), error)
    }

    pub(crate) fn mounts(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["mounts", "--format", "json"])).unwrap()
    }

    /// A number that the list has of the only mount.
    #[track_caller]
    pub(crate) fn number(&self, field: &str) -> u32 {
        let mounts = self.mounts();
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        u32::try_from(mounts[0][field].as_u64().unwrap()).unwrap()
    }

    /// The process that takes the signals of the only mount.
    #[track_caller]
    pub(crate) fn supervisor(&self) -> u32 {
        self.number("pid")
    }

    #[track_caller]
    pub(crate) fn server(&self) -> u32 {
        self.number("server_pid")
    }

    pub(crate) fn signal_supervisor(&self, signal: Signal) -> u32 {
        let pid = self.supervisor();
        send(pid, signal);
        pid
    }

    /// Kills both processes of the only mount.
    pub(crate) fn kill_both(&self) {
        let (supervisor, server) = (self.supervisor(), self.server());
        send(supervisor, Signal::SIGKILL);
        send(server, Signal::SIGKILL);
        wait_until("both are gone", || !runs(supervisor) && !runs(server));
    }

    /// No mount and no state, now.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.path("store/mounts")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let table = fs::read_to_string("/proc/mounts").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!table.contains(dir), "{table}");
    }

    /// The processes end by themselves and leave nothing.
    #[track_caller]
    pub(crate) fn assert_ends(&self, supervisor: u32) {
        wait_until("the supervisor is gone", || !runs(supervisor));
        self.assert_nothing_left();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if thread::panicking() {
            // What a failed test left must not stay.
            let _ = self.run(&["umount", "--all", "--lazy"]);
        }
    }
}

fn rootfs() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |path: &str, kind: tar::EntryType, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        if kind.is_hard_link() {
            tar.append_link(&mut header, path, "etc/motd").unwrap();
        } else {
            tar.append_data(&mut header, path, data).unwrap();
        }
    };
    for dir in ["etc/", "bin/", "many/"] {
        add(dir, tar::EntryType::Directory, b"");
    }
    add("etc/motd", tar::EntryType::Regular, b"hello\n");
    add("etc/hard", tar::EntryType::Link, b"");
    add("etc/conf", tar::EntryType::Regular, b"a = 1\n");
    for number in 0..500 {
        add(&format!("many/{number}"), tar::EntryType::Regular, number.to_string().as_bytes());
    }
    tar.into_inner().unwrap()
}

pub(crate) fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Whether the process is there and no zombie.
pub(crate) fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process with its working directory in `dir`.
pub(crate) struct User(pub(crate) Child);

impl User {
    pub(crate) fn of(dir: &Path) -> Self {
        Self(Command::new("sleep").arg("1000").current_dir(dir).spawn().unwrap())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[track_caller]
pub(crate) fn assert_success(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}
