//! Mounts as a user makes and ends them. Needs root and /dev/fuse; without them each test says
//! that it is skipped.

mod skip;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use skip::skip;
use tempfile::TempDir;

/// A store with the image `test` (`etc/motd`, `etc/hard` its second name, `bin/` and 500 files in
/// `many/`) and an empty directory `mnt`.
struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    fn new() -> Option<Self> {
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

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("KFS_ROOT", self.path("store"));
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        // Returns only when nobody holds the ends of the pipes any more, the server neither.
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kfs {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Exit code and standard error of a command that has to fail.
    #[track_caller]
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "kfs {args:?} works");
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code().expect("an exit code"), error)
    }

    fn mounts(&self) -> Vec<Value> {
        serde_json::from_str(&self.ok(&["mounts", "--format", "json"])).unwrap()
    }

    /// The server of the only mount.
    #[track_caller]
    fn server(&self) -> u32 {
        let mounts = self.mounts();
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        u32::try_from(mounts[0]["pid"].as_u64().unwrap()).unwrap()
    }

    fn signal_server(&self, signal: Signal) -> u32 {
        let pid = self.server();
        send(pid, signal);
        pid
    }

    /// No mount and no state, now.
    #[track_caller]
    fn assert_nothing_left(&self) {
        let left: Vec<_> = fs::read_dir(self.path("store/mounts")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let table = fs::read_to_string("/proc/mounts").unwrap();
        let dir = self.dir.path().to_str().unwrap();
        assert!(!table.contains(dir), "{table}");
    }

    /// The server ends by itself and leaves nothing.
    #[track_caller]
    fn assert_ends(&self, server: u32) {
        wait_until("the server is gone", || !runs(server));
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

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Whether the process is there and no zombie.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process with its working directory in `dir`.
struct User(Child);

impl User {
    fn of(dir: &Path) -> Self {
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
fn assert_success(command: &mut Command) {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

#[test]
fn mount_look_umount() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["mount", "test", "mnt"]);
    let mnt = sandbox.path("mnt");
    assert_eq!(fs::read(mnt.join("etc/motd")).unwrap(), b"hello\n");
    assert_eq!(mnt.join("etc/motd").metadata().unwrap().nlink(), 2);

    let mounts = sandbox.mounts();
    assert_eq!(mounts.len(), 1);
    let mount = &mounts[0];
    assert_eq!(mount["image"], "test");
    assert_eq!(mount["mountpoint"], mnt.to_str().unwrap());
    assert_eq!((&mount["rw"], &mount["attached"]), (&false.into(), &true.into()));
    let table = sandbox.ok(&["mounts"]);
    assert!(table.starts_with("IMAGE ") && table.contains(mnt.to_str().unwrap()), "{table}");

    let server = sandbox.server();
    sandbox.ok(&["umount", "mnt"]);
    assert!(!runs(server));
    sandbox.assert_nothing_left();
    assert_eq!(fs::read_dir(&mnt).unwrap().count(), 0);
    assert_eq!(sandbox.mounts(), [] as [Value; 0]);
}

#[test]
fn any_umount_ends_the_server() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mnt = sandbox.path("mnt");
    for program in [&["umount"][..], &["fusermount3", "-u"]] {
        for mode in [&["mount", "test", "mnt"][..], &["mount", "--rw", "test", "mnt"]] {
            if program[0] == "fusermount3" && mode.len() == 4 {
                continue; // an overlay is none of its business
            }
            sandbox.ok(mode);
            let server = sandbox.server();
            assert_success(Command::new(program[0]).args(&program[1..]).arg(&mnt));
            sandbox.assert_ends(server);
        }
    }
}

#[test]
fn a_mount_is_refused_with_a_reason() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (code, error) = sandbox.fails(&["mount", "test", "missing"]);
    assert_eq!((code, error.contains("missing does not exist\nhint: create it")), (3, true));
    let (code, error) = sandbox.fails(&["mount", "test", "rootfs.tar"]);
    assert_eq!((code, error.contains("rootfs.tar is not a directory")), (1, true));
    let (code, error) = sandbox.fails(&["mount", "test", "store"]);
    assert_eq!((code, error.contains("store is not empty")), (4, true));
    let (code, error) = sandbox.fails(&["mount", "tset", "mnt"]);
    assert_eq!((code, error.contains("did you mean test")), (3, true), "{error}");
    let (code, error) = sandbox.fails(&["umount", "mnt"]);
    assert_eq!((code, error.contains("mnt is not a mount of kfs")), (3, true));

    sandbox.ok(&["mount", "test", "mnt"]);
    let (code, error) = sandbox.fails(&["mount", "test", "mnt"]);
    assert_eq!((code, error.contains("test is already mounted at ")), (4, true));
    fs::create_dir(sandbox.path("second")).unwrap();
    sandbox.ok(&["mount", "test", "second"]);
    sandbox.ok(&["umount", "--all"]);
    sandbox.assert_nothing_left();
}

#[test]
fn without_the_device_there_is_a_reason_and_nothing_left() {
    let Some(sandbox) = Sandbox::new() else { return };
    let script = "mount -t tmpfs none /dev && exec \"$0\" mount test mnt < /proc/self/status";
    let kfs = env!("CARGO_BIN_EXE_kfs");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, kfs]).current_dir(sandbox.dir.path());
    let output = command.env("KFS_ROOT", sandbox.path("store")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("/dev/fuse is missing"), "{error}");
    assert!(error.contains("hint: load FUSE with `modprobe fuse`"), "{error}");
    sandbox.assert_nothing_left();
}

#[test]
fn a_busy_mount_names_its_users() {
    let Some(sandbox) = Sandbox::new() else { return };
    for mode in [&["mount", "test", "mnt"][..], &["mount", "--rw", "test", "mnt"]] {
        sandbox.ok(mode);
        let server = sandbox.server();
        let user = User::of(&sandbox.path("mnt/etc"));
        let (code, error) = sandbox.fails(&["umount", "mnt"]);
        assert_eq!(code, 4);
        let named = format!("mnt is in use by sleep ({})\nhint: ", user.0.id());
        assert!(error.contains(&named) && error.contains("--lazy"), "{error}");
        drop(user);
        let open = File::open(sandbox.path("mnt/etc/motd")).unwrap();
        let (code, error) = sandbox.fails(&["umount", "mnt"]);
        assert_eq!((code, error.contains(&format!("({})", std::process::id()))), (4, true));

        sandbox.ok(&["umount", "--lazy", "mnt"]);
        assert_eq!(sandbox.mounts()[0]["attached"], false);
        assert_eq!(std::io::read_to_string(&open).unwrap(), "hello\n");
        assert!(runs(server));
        // The mount point is free for the next.
        sandbox.ok(&["mount", "test", "mnt"]);
        sandbox.ok(&["umount", "mnt"]);
        drop(open);
        sandbox.assert_ends(server);
    }
}

#[test]
fn a_mount_below_keeps_it_busy() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["mount", "test", "mnt"]);
    let below = sandbox.path("mnt/bin");
    assert_success(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&below));
    let (code, error) = sandbox.fails(&["umount", "mnt"]);
    assert_eq!((code, error.contains(&format!("by mount {}", below.display()))), (4, true));
    sandbox.ok(&["umount", "--lazy", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn umount_works_from_inside() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["mount", "test", "mnt"]);
    let mut command = sandbox.command(&["umount", "."]);
    assert_success(command.current_dir(sandbox.path("mnt")));
    sandbox.assert_nothing_left();
}

#[test]
fn what_a_killed_server_leaves_is_cleared_away() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mnt = sandbox.path("mnt");
    for mode in [&["mount", "test", "mnt"][..], &["mount", "--rw", "test", "mnt"]] {
        for next in [&["umount", "mnt"][..], &["mounts"], &["umount", "--all"]] {
            sandbox.ok(mode);
            let server = sandbox.signal_server(Signal::SIGKILL);
            wait_until("the server is gone", || !runs(server));
            assert!(fs::read(mnt.join("etc/motd")).is_err());
            sandbox.ok(next);
            sandbox.assert_nothing_left();
        }
        sandbox.ok(mode);
        let server = sandbox.signal_server(Signal::SIGKILL);
        wait_until("the server is gone", || !runs(server));
        sandbox.ok(mode);
        assert_eq!(fs::read(mnt.join("etc/motd")).unwrap(), b"hello\n");
        sandbox.ok(&["umount", "mnt"]);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_signal_unmounts() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["mount", "--rw", "test", "mnt"]);
    let server = sandbox.signal_server(Signal::SIGTERM);
    sandbox.assert_ends(server);

    // In use: it is detached, and the second signal cuts the user off.
    sandbox.ok(&["mount", "test", "mnt"]);
    let user = User::of(&sandbox.path("mnt/etc"));
    let server = sandbox.signal_server(Signal::SIGTERM);
    wait_until("it is detached", || sandbox.mounts()[0]["attached"] == false);
    assert!(runs(server));
    send(server, Signal::SIGTERM);
    sandbox.assert_ends(server);
    drop(user);
}

#[test]
fn foreground_ends_with_ctrl_c_or_umount() {
    let Some(sandbox) = Sandbox::new() else { return };
    for by_signal in [true, false] {
        let mut kfs = sandbox.command(&["mount", "-f", "test", "mnt"]);
        let mut child = kfs.stderr(Stdio::null()).spawn().unwrap();
        wait_until("it is mounted", || sandbox.path("mnt/etc/motd").exists());
        if by_signal {
            send(child.id(), Signal::SIGINT);
        } else {
            wait_until("it is listed", || sandbox.mounts().len() == 1);
            assert_eq!(sandbox.server(), child.id());
            assert_success(Command::new("umount").arg(sandbox.path("mnt")));
        }
        assert!(child.wait().unwrap().success());
        sandbox.assert_nothing_left();
    }
}

#[test]
fn a_writable_mount_drops_its_changes() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mnt = sandbox.path("mnt");
    sandbox.ok(&["mount", "--rw", "test", "mnt"]);
    assert_eq!(sandbox.mounts()[0]["rw"], true);
    let root = mnt.metadata().unwrap();
    assert_eq!(root.mode(), 0o040755);
    let conf = mnt.join("etc/conf");
    let before = conf.metadata().unwrap();
    assert_eq!(before.dev(), root.dev(), "one device for all files");
    fs::write(&conf, "a = 2\n").unwrap();
    assert_eq!(conf.metadata().unwrap().ino(), before.ino(), "also after the first change");
    fs::write(mnt.join("new"), "new").unwrap();
    fs::remove_file(mnt.join("etc/motd")).unwrap();
    fs::remove_dir_all(mnt.join("many")).unwrap();
    fs::create_dir(mnt.join("many")).unwrap();
    assert_eq!(fs::read_dir(mnt.join("many")).unwrap().count(), 0);
    fs::rename(&conf, mnt.join("bin/conf")).unwrap();
    assert_eq!(fs::read(mnt.join("bin/conf")).unwrap(), b"a = 2\n");
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();

    sandbox.ok(&["mount", "--rw", "test", "mnt"]);
    assert!(!mnt.join("new").exists());
    assert_eq!(fs::read(&conf).unwrap(), b"a = 1\n");
    assert_eq!(fs::read_dir(mnt.join("many")).unwrap().count(), 500);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn changes_are_kept_in_upper() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (mnt, upper) = (sandbox.path("mnt"), sandbox.path("upper"));
    sandbox.ok(&["mount", "--upper", "upper", "test", "mnt"]);
    fs::write(mnt.join("new"), "kept").unwrap();
    fs::remove_file(mnt.join("etc/motd")).unwrap();
    fs::create_dir(sandbox.path("second")).unwrap();
    let (code, error) = sandbox.fails(&["mount", "--upper", "upper", "test", "second"]);
    assert_eq!((code, error.contains("give each mount its own")), (4, true), "{error}");
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
    assert_eq!(fs::read(upper.join("new")).unwrap(), b"kept");
    assert!(!sandbox.path(".upper.kfs-work").exists());

    // Another mount goes on from there, and a plain umount keeps them too.
    sandbox.ok(&["mount", "--upper", "upper", "test", "second"]);
    assert_eq!(fs::read(sandbox.path("second/new")).unwrap(), b"kept");
    assert!(!sandbox.path("second/etc/motd").exists());
    let server = sandbox.server();
    assert_success(Command::new("umount").arg(sandbox.path("second")));
    sandbox.assert_ends(server);
    assert!(upper.join("new").exists() && !sandbox.path(".upper.kfs-work").exists());

    // A killed server takes nothing along.
    sandbox.ok(&["mount", "--upper", "upper", "test", "mnt"]);
    sandbox.signal_server(Signal::SIGKILL);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
    assert!(upper.join("new").exists() && !sandbox.path(".upper.kfs-work").exists());
}

#[test]
fn an_upper_that_cannot_be_is_refused() {
    let Some(sandbox) = Sandbox::new() else { return };
    for upper in ["mnt/upper", "mnt", "."] {
        let (code, error) = sandbox.fails(&["mount", "--upper", upper, "test", "mnt"]);
        assert_eq!((code, error.contains(" overlap\n")), (1, true), "{error}");
    }
    let (code, error) = sandbox.fails(&["mount", "--upper", "rootfs.tar", "test", "mnt"]);
    assert_eq!((code, error.contains("rootfs.tar is not a directory")), (1, true), "{error}");

    // An overlay is no place for the changes of another one.
    sandbox.ok(&["mount", "--rw", "test", "mnt"]);
    fs::create_dir(sandbox.path("second")).unwrap();
    let (code, error) = sandbox.fails(&["mount", "--upper", "mnt/upper", "test", "second"]);
    assert_eq!(code, 1);
    assert!(error.contains("mnt/upper (on overlay) cannot hold an overlay's changes"), "{error}");
    assert!(error.contains("hint: keep the changes on ext4"), "{error}");
    assert!(!sandbox.path("mnt/upper").exists() && !sandbox.path("mnt/.upper.kfs-work").exists());
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn the_kernel_does_not_ask_twice() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["mount", "test", "mnt"]);
    // `find` and `df` would also ask for statfs, which no kernel remembers, `ls -l` for xattrs.
    let script = "stat -c '%n %s %a %h' mnt mnt/* mnt/*/* && cat mnt/many/* mnt/etc/motd && \
                  ! test -e mnt/bin/no && ! test -e mnt/no";
    let walk = || {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "20", "sh", "-c", script]).current_dir(sandbox.dir.path());
        command.output().unwrap()
    };
    let first = walk();
    assert!(first.status.success(), "{first:?}");
    let server = sandbox.signal_server(Signal::SIGSTOP);
    let second = walk();
    send(server, Signal::SIGCONT);
    assert!(second.status.success(), "{second:?}");
    assert_eq!(first.stdout, second.stdout);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn mounts_at_the_same_time_do_not_disturb_each_other() {
    let Some(sandbox) = Sandbox::new() else { return };
    let dirs: Vec<String> = (0..6).map(|number| format!("m{number}")).collect();
    let mut children = Vec::new();
    for dir in &dirs {
        fs::create_dir(sandbox.path(dir)).unwrap();
        let mut command = sandbox.command(&["mount", "--rw", "test", dir]);
        children.push(command.stderr(Stdio::null()).spawn().unwrap());
    }
    // Of several for one place one wins.
    for _ in 0..4 {
        let mut command = sandbox.command(&["mount", "test", "mnt"]);
        children.push(command.stderr(Stdio::null()).spawn().unwrap());
    }
    let succeeded =
        children.iter_mut().filter_map(|child| child.wait().unwrap().success().then_some(()));
    assert_eq!(succeeded.count(), 7);
    assert_eq!(sandbox.mounts().len(), 7);
    for dir in &dirs {
        fs::write(sandbox.path(dir).join("mine"), dir).unwrap();
    }
    for dir in &dirs {
        assert_eq!(fs::read_to_string(sandbox.path(dir).join("mine")).unwrap(), *dir);
    }
    sandbox.ok(&["umount", "--all"]);
    sandbox.assert_nothing_left();
}

#[test]
fn odd_names_are_taken() {
    let Some(sandbox) = Sandbox::new() else { return };
    let odd = "a, b:c\\d \"e\" \u{e4}";
    let dir = sandbox.path(odd);
    fs::create_dir_all(dir.join("mnt")).unwrap();
    let mut kfs = sandbox.command(&["import", "rootfs.tar", "test"]);
    assert_success(kfs.env("KFS_ROOT", dir.join("store")));
    let run = |args: &[&str]| {
        let mut kfs = sandbox.command(args);
        assert_success(kfs.env("KFS_ROOT", dir.join("store")).current_dir(&dir));
    };
    run(&["mount", "test", "mnt"]);
    assert!(dir.join("mnt/etc/motd").exists());
    run(&["umount", "mnt"]);
    run(&["mount", "--rw", "test", "mnt"]);
    fs::write(dir.join("mnt/new"), "").unwrap();
    run(&["umount", "mnt"]);
    run(&["mount", "--upper", "up,per:", "test", "mnt"]);
    fs::write(dir.join("mnt/new"), "").unwrap();
    run(&["umount", "mnt"]);
    assert!(dir.join("up,per:/new").exists());
    assert_eq!(fs::read_dir(dir.join("store/mounts")).unwrap().count(), 0);
}

#[test]
fn the_server_holds_nothing_of_its_caller() {
    let Some(sandbox) = Sandbox::new() else { return };
    // `output` waits for the end of the pipe that is also descriptor 9.
    let kfs = env!("CARGO_BIN_EXE_kfs");
    let mut command = Command::new("sh");
    command.args(["-c", "exec 9>&1; \"$0\" mount test mnt", kfs]);
    command.current_dir(sandbox.dir.path()).env("KFS_ROOT", sandbox.path("store"));
    assert_success(&mut command);
    let cwd = fs::read_link(format!("/proc/{}/cwd", sandbox.server())).unwrap();
    assert_eq!(cwd, Path::new("/"));
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_mount_of_another_namespace_is_ended_by_its_server() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut command = Command::new("unshare");
    command.args(["-m", env!("CARGO_BIN_EXE_kfs"), "mount", "test", "mnt"]);
    command.current_dir(sandbox.dir.path()).env("KFS_ROOT", sandbox.path("store"));
    assert_success(&mut command);
    assert!(!sandbox.path("mnt/etc").exists());
    let server = sandbox.server();
    sandbox.ok(&["umount", "mnt"]);
    assert!(!runs(server));
    sandbox.assert_nothing_left();
}

#[test]
fn images_outside_of_the_store_are_mounted_where_they_lie() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["save", "-o", "image.tar", "test"]);
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    let mut command = sandbox.command(&["mount", "oci-archive:../image.tar", "../mnt"]);
    assert_success(command.current_dir(sandbox.path("elsewhere")));
    assert_eq!(fs::read(sandbox.path("mnt/etc/motd")).unwrap(), b"hello\n");
    let expected = format!("oci-archive:{}", sandbox.path("elsewhere/../image.tar").display());
    assert_eq!(sandbox.mounts()[0]["image"], expected);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}
