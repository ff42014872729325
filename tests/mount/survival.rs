//! A mount outlives its server: what its users see of `kill -9`, of an upgrade, and of a server
//! that is stuck; and what is left when nothing can be saved.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::Signal;

use crate::sandbox::{Sandbox, assert_success, runs, send, wait_until};
use crate::skip::skip;

const READERS: usize = 8;

/// A sandbox with the image `big`: 40 files of 200 KiB in `data/`, and a program that reads them.
struct Library {
    sandbox: Sandbox,
    /// What `sha256sum --check` takes.
    sums: PathBuf,
}

impl Library {
    fn new() -> Option<Self> {
        let sandbox = Sandbox::new()?;
        let root = sandbox.path("root");
        fs::create_dir_all(root.join("data")).unwrap();
        for number in 0..40_u32 {
            let words = (0..50 << 10).flat_map(|word: u32| (word ^ number << 20).to_le_bytes());
            fs::write(root.join(format!("data/{number}")), words.collect::<Vec<u8>>()).unwrap();
        }
        fs::copy("/usr/bin/sha256sum", root.join("sha256sum")).unwrap();
        fs::set_permissions(root.join("sha256sum"), fs::Permissions::from_mode(0o755)).unwrap();
        let sums = sandbox.path("sums");
        let mut sum = Command::new("sh");
        sum.args(["-c", "sha256sum data/* sha256sum"]).current_dir(&root);
        fs::write(&sums, sum.output().unwrap().stdout).unwrap();
        let mut tar = Command::new("tar");
        assert_success(tar.args(["-cf", "big.tar", "-C", "root", "."]).current_dir(root.parent()?));
        sandbox.ok(&["import", "big.tar", "big"]);
        Some(Self { sandbox, sums })
    }

    /// Reads and checks all of a mount, with the program that lies in it.
    fn check(&self, mnt: &Path) -> Output {
        let mut sum = Command::new(mnt.join("sha256sum"));
        sum.args(["--check", "--quiet"]).arg(&self.sums).current_dir(mnt).output().unwrap()
    }

    /// Has the kernel forget what it read, so that the server is asked again.
    fn forget(&self, mnt: &Path) {
        for number in 0..40 {
            let file = File::open(mnt.join(format!("data/{number}"))).unwrap();
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        }
    }

    /// Kills the server of the only mount so many times while it is read.
    fn kill_under_readers(&self, kills: u32, extra: impl Fn(usize) + Sync) {
        let mnt = self.sandbox.path("mnt");
        let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        let longest = thread::scope(|scope| {
            let read = |reader| {
                let mut longest = Duration::ZERO;
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let output = self.check(&mnt);
                    longest = longest.max(start.elapsed());
                    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
                    self.forget(&mnt);
                    extra(reader);
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                longest
            };
            let readers: Vec<_> =
                (0..READERS).map(|reader| scope.spawn(move || read(reader))).collect();
            let before = self.sandbox.number("restarts");
            for restarts in before..before + kills {
                let state = self.wait_for_restart(restarts);
                // Not in step with the readers.
                thread::sleep(Duration::from_millis(20 + u64::from(restarts * 37 % 90)));
                send(state, Signal::SIGKILL);
            }
            self.wait_for_restart(before + kills);
            let alive = readers.iter().all(|reader| !reader.is_finished());
            stop.store(true, Ordering::Relaxed);
            let longest = readers.into_iter().map(|reader| reader.join().unwrap()).max();
            assert!(alive, "a reader ended early");
            longest.unwrap()
        });
        let rounds = rounds.load(Ordering::Relaxed);
        eprintln!("{kills} kills, {rounds} rounds of {READERS} readers, the longest {longest:?}");
        assert!(rounds >= READERS);
    }

    /// The server after so many restarts.
    fn wait_for_restart(&self, restarts: u32) -> u32 {
        let server = || {
            let mounts = fs::read_dir(self.sandbox.path("store/mounts")).unwrap();
            let state = mounts.last().unwrap().unwrap().path().join("state.json");
            let state: serde_json::Value =
                serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
            (state["restarts"] == restarts).then(|| state["server_pid"].as_u64().unwrap())
        };
        wait_until("another server serves", || server().is_some());
        u32::try_from(server().unwrap()).unwrap()
    }
}

#[test]
fn a_hundred_killed_servers_are_nothing_to_readers() {
    let Some(library) = Library::new() else { return };
    let sandbox = &library.sandbox;
    sandbox.ok(&["mount", "big", "mnt"]);
    library.kill_under_readers(100, |_| ());
    assert_eq!(sandbox.number("restarts"), 100);
    let table = sandbox.ok(&["mounts"]);
    assert!(table.contains("RESTARTS") && table.contains("  100  "), "{table}");
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_writable_mount_outlives_its_servers_too() {
    let Some(library) = Library::new() else { return };
    let sandbox = &library.sandbox;
    let mnt = sandbox.path("mnt");
    sandbox.ok(&["mount", "--rw", "big", "mnt"]);
    library.kill_under_readers(15, |reader| {
        // A copy-up reads the image, and what was written stays.
        let own = mnt.join(format!("data/{}", reader + 100));
        fs::copy(mnt.join("sha256sum"), &own).unwrap();
        assert_eq!(fs::read(&own).unwrap(), fs::read("/usr/bin/sha256sum").unwrap());
        let grown = mnt.join(format!("data/new-{reader}"));
        fs::write(&grown, "x").unwrap();
        fs::rename(&grown, mnt.join(format!("data/old-{reader}"))).unwrap();
    });
    fs::write(mnt.join("data/7"), "changed").unwrap();
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn who_is_killed_at_once_again_and_again_is_replaced_again_and_again() {
    let Some(library) = Library::new() else { return };
    let sandbox = &library.sandbox;
    sandbox.ok(&["mount", "big", "mnt"]);
    for restarts in 0..20 {
        send(library.wait_for_restart(restarts), Signal::SIGKILL);
    }
    assert!(library.check(&sandbox.path("mnt")).status.success());
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_new_server_serves_what_was_mounted_whatever_its_name_means_now() {
    let Some(sandbox) = Sandbox::new() else { return };
    let motd = sandbox.path("mnt/etc/motd");
    sandbox.ok(&["mount", "test", "mnt"]);
    fs::create_dir_all(sandbox.path("root/etc")).unwrap();
    fs::write(sandbox.path("root/etc/motd"), "another").unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-cf", "other.tar", "-C", "root", "."]).current_dir(sandbox.dir.path());
    assert_success(&mut tar);
    sandbox.ok(&["import", "other.tar", "test"]);
    send(sandbox.server(), Signal::SIGKILL);
    assert_eq!(fs::read(&motd).unwrap(), b"hello\n");
    sandbox.ok(&["rmi", "test"]);
    wait_until("another serves", || sandbox.number("restarts") == 1);
    send(sandbox.server(), Signal::SIGKILL);
    assert_eq!(fs::read(sandbox.path("mnt/etc/conf")).unwrap(), b"a = 1\n");
    sandbox.ok(&["umount", "mnt"]);
}

#[test]
fn a_mount_that_cannot_be_saved_fails_and_is_cleared_away() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["save", "-o", "image.tar", "test"]);
    for next in [&["mounts"][..], &["mount", "test", "mnt"]] {
        fs::copy(sandbox.path("image.tar"), sandbox.path("copy.tar")).unwrap();
        sandbox.ok(&["mount", "oci-archive:copy.tar", "mnt"]);
        let supervisor = sandbox.supervisor();
        fs::remove_file(sandbox.path("copy.tar")).unwrap();
        send(sandbox.server(), Signal::SIGKILL);
        // Its users wait as long as there is hope, and no longer.
        let error = fs::read(sandbox.path("mnt/etc/motd")).unwrap_err();
        let expected = [nix::libc::ENOTCONN, nix::libc::ECONNABORTED];
        assert!(expected.contains(&error.raw_os_error().unwrap()), "{error}");
        wait_until("the supervisor gave up", || !runs(supervisor));
        let output = sandbox.run(next);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        if next == ["mounts"] {
            assert!(text.contains(" was dead and is unmounted: "), "{text}");
            assert!(text.contains("copy.tar"), "{text}");
        }
        if next[0] == "mount" {
            sandbox.ok(&["umount", "mnt"]);
        }
        sandbox.assert_nothing_left();
    }
}

#[test]
fn without_a_supervisor_the_server_goes_on_to_its_end() {
    let Some(sandbox) = Sandbox::new() else { return };
    for by_kfs in [true, false] {
        sandbox.ok(&["mount", "--rw", "test", "mnt"]);
        let (supervisor, server) = (sandbox.supervisor(), sandbox.server());
        send(supervisor, Signal::SIGKILL);
        wait_until("the supervisor is gone", || !runs(supervisor));
        assert_eq!(fs::read(sandbox.path("mnt/etc/motd")).unwrap(), b"hello\n");
        assert_eq!(sandbox.mounts()[0]["attached"], true);
        let (_, error) = sandbox.fails(&["mounts", "--upgrade"]);
        assert!(error.contains("the supervisor of the mount at "), "{error}");
        if by_kfs {
            sandbox.ok(&["umount", "mnt"]);
        } else {
            assert_success(Command::new("umount").arg(sandbox.path("mnt")));
            wait_until("the server is gone", || !runs(server));
        }
        sandbox.assert_nothing_left();
    }
}

#[test]
fn dead_mounts_of_a_store_that_is_gone_are_cleared_away() {
    let Some(sandbox) = Sandbox::new() else { return };
    for next in [&["umount", "mnt"][..], &["mount", "test", "mnt"]] {
        let other = sandbox.path("other");
        let mut kfs = sandbox.command(&["import", "rootfs.tar", "test"]);
        assert_success(kfs.env("KFS_ROOT", &other));
        assert_success(sandbox.command(&["mount", "test", "mnt"]).env("KFS_ROOT", &other));
        let mut kfs = sandbox.command(&["mounts", "--format", "json"]);
        let list = kfs.env("KFS_ROOT", &other).output().unwrap().stdout;
        let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
        for process in ["pid", "server_pid"] {
            let pid = u32::try_from(list[0][process].as_u64().unwrap()).unwrap();
            send(pid, Signal::SIGKILL);
            wait_until("it is gone", || !runs(pid));
        }
        fs::remove_dir_all(&other).unwrap();
        assert!(fs::read_dir(sandbox.path("mnt")).is_err());
        sandbox.ok(next);
        if next[0] == "mount" {
            assert_eq!(fs::read(sandbox.path("mnt/etc/motd")).unwrap(), b"hello\n");
            sandbox.ok(&["umount", "mnt"]);
        }
        let table = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!table.contains(sandbox.dir.path().to_str().unwrap()), "{table}");
    }
}

#[test]
fn a_stuck_server_keeps_nobody_from_ending_its_mount() {
    let Some(sandbox) = Sandbox::new() else { return };
    // Nobody uses it.
    sandbox.ok(&["mount", "test", "mnt"]);
    send(sandbox.server(), Signal::SIGSTOP);
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();

    // A reader waits for it: it cannot be unmounted, but detached, and the reader be cut off.
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        sandbox.ok(&["mount", "test", "mnt"]);
        let supervisor = sandbox.supervisor();
        send(sandbox.server(), Signal::SIGSTOP);
        let mut reader = Command::new("cat");
        let reader = reader.arg(sandbox.path("mnt/etc/motd")).stderr(Stdio::piped());
        let mut reader = reader.spawn().unwrap();
        let waits_in = format!("/proc/{}/wchan", reader.id());
        wait_until("it waits", || {
            fs::read_to_string(&waits_in).unwrap().contains("request_wait_answer")
        });
        let (code, error) = sandbox.fails(&["umount", "mnt"]);
        assert_eq!((code, error.contains("is in use")), (4, true), "{error}");
        send(supervisor, signal);
        wait_until("it is detached", || sandbox.mounts()[0]["attached"] == false);
        send(supervisor, signal);
        assert!(!reader.wait().unwrap().success());
        let mut error = String::new();
        reader.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(error.contains("connection abort") || error.contains("not connected"), "{error}");
        sandbox.assert_ends(supervisor);
    }
}

#[test]
fn another_program_takes_over() {
    let Some(library) = Library::new() else { return };
    let sandbox = &library.sandbox;
    let mnt = sandbox.path("mnt");
    fs::create_dir(sandbox.path("second")).unwrap();
    sandbox.ok(&["mount", "big", "mnt"]);
    sandbox.ok(&["mount", "--rw", "big", "second"]);
    let newer = sandbox.path("newer-kfs");
    fs::copy(env!("CARGO_BIN_EXE_kfs"), &newer).unwrap();
    let programs = || -> Vec<PathBuf> {
        let servers = sandbox.mounts();
        let servers = servers.iter().map(|mount| mount["server_pid"].as_u64().unwrap());
        servers.map(|pid| fs::read_link(format!("/proc/{pid}/exe")).unwrap()).collect()
    };
    let before = programs();
    let mut kfs = Command::new(&newer);
    kfs.args(["mounts", "--upgrade", "mnt"]).env("KFS_ROOT", sandbox.path("store"));
    kfs.current_dir(sandbox.dir.path());
    assert_success(&mut kfs);
    assert_eq!(programs(), [newer.clone(), before[1].clone()]);
    assert!(library.check(&mnt).status.success());

    let mut kfs = Command::new(&newer);
    kfs.args(["mounts", "--upgrade"]).env("KFS_ROOT", sandbox.path("store"));
    assert_success(&mut kfs);
    assert_eq!(programs(), [newer.clone(), newer.clone()]);
    // Servers after that are of the new program, even when its file is gone.
    fs::remove_file(&newer).unwrap();
    let server = sandbox.mounts()[0]["server_pid"].as_u64().unwrap();
    send(u32::try_from(server).unwrap(), Signal::SIGKILL);
    library.forget(&mnt);
    assert!(library.check(&mnt).status.success());
    assert!(programs()[0].to_str().unwrap().contains("newer-kfs"));
    let (code, error) = sandbox.fails(&["mounts", "--upgrade", "nowhere"]);
    assert_eq!((code, error.contains("nowhere is not a mount of kfs")), (3, true), "{error}");
    sandbox.ok(&["umount", "--all"]);
    sandbox.assert_nothing_left();
}

#[test]
fn on_a_full_disk_a_mount_goes_on_and_a_new_one_is_refused() {
    let Some(sandbox) = Sandbox::new() else { return };
    let store = sandbox.path("small");
    fs::create_dir(&store).unwrap();
    let mut tmpfs = Command::new("mount");
    assert_success(tmpfs.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&store));
    let run = |args: &[&str]| sandbox.command(args).env("KFS_ROOT", &store).output().unwrap();
    assert!(run(&["import", "rootfs.tar", "test"]).status.success());
    assert!(run(&["mount", "test", "mnt"]).status.success());
    fs::write(store.join("filler"), vec![1; 4 << 20]).unwrap_err();
    let list: serde_json::Value =
        serde_json::from_slice(&run(&["mounts", "--format", "json"]).stdout).unwrap();
    let server = u32::try_from(list[0]["server_pid"].as_u64().unwrap()).unwrap();
    send(server, Signal::SIGKILL);
    assert_eq!(fs::read(sandbox.path("mnt/etc/motd")).unwrap(), b"hello\n");
    fs::create_dir(sandbox.path("second")).unwrap();
    let refused = run(&["mount", "test", "second"]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("No space left on device"), "{error}");
    assert!(run(&["umount", "mnt"]).status.success());
    assert_eq!(fs::read_dir(store.join("mounts")).unwrap().count(), 0);
    assert_success(Command::new("umount").arg(&store));
}

#[test]
fn a_program_that_cannot_take_over_changes_nothing() {
    let Some(sandbox) = Sandbox::new() else { return };
    sandbox.ok(&["mount", "test", "mnt"]);
    let server = sandbox.server();
    let id = sandbox.mounts()[0]["id"].as_str().unwrap().to_owned();
    let dir = sandbox.path("store/mounts").join(id);
    for program in ["/bin/false", "/no/such/program"] {
        // What `kfs mounts --upgrade` does, which gives its own program.
        fs::write(dir.join("upgrade"), program).unwrap();
        send(sandbox.supervisor(), Signal::SIGUSR1);
        wait_until("it is answered", || !dir.join("upgrade").exists());
        let answer = fs::read_to_string(dir.join("upgrade.failed")).unwrap();
        assert!(answer.contains("ended before") || answer.contains("/no/such"), "{answer}");
    }
    assert_eq!(sandbox.server(), server);
    assert_eq!(fs::read(sandbox.path("mnt/etc/motd")).unwrap(), b"hello\n");
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_mount_in_the_foreground_outlives_its_servers() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut kfs = sandbox.command(&["mount", "-f", "test", "mnt"]);
    let mut child = kfs.stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is listed", || sandbox.mounts().len() == 1);
    assert_eq!(sandbox.supervisor(), child.id());
    send(sandbox.server(), Signal::SIGKILL);
    assert_eq!(fs::read(sandbox.path("mnt/etc/motd")).unwrap(), b"hello\n");
    wait_until("it is counted", || sandbox.number("restarts") == 1);
    send(child.id(), Signal::SIGINT);
    assert!(child.wait().unwrap().success());
    sandbox.assert_nothing_left();
}

#[test]
fn a_users_mount_outlives_its_servers() {
    let Some(sandbox) = Sandbox::new() else { return };
    if Command::new("fusermount3").arg("-V").output().is_err() {
        return skip("needs fusermount3");
    }
    // The device is for root only on some systems: a node that is not hides it.
    let script = r#"
        set -e
        mknod "$1/fuse" c 10 229; chmod 666 "$1/fuse"; mount --bind "$1/fuse" /dev/fuse
        chmod 755 "$1"; install -d -o 65534 -g 65534 "$1/home"; cp "$0" "$1/kfs"
        exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -ec '
            cd "$1/home"; export KFS_ROOT=$PWD/store; mkdir mnt
            "$1/kfs" import ../rootfs.tar test; "$1/kfs" mount test mnt
            for n in 1 2 3; do
                kill -9 $(sed -n "s/ *\"server_pid\": \([0-9]*\),/\1/p" store/mounts/*/state.json)
                cat mnt/many/$n
                while ! grep -q "\"restarts\": $n" store/mounts/*/state.json; do sleep 0.01; done
            done
            "$1/kfs" umount mnt; ls -A store/mounts mnt' sh "$1"
    "#;
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", "unshare", "-m", "sh", "-c", script]);
    let output = command.arg(env!("CARGO_BIN_EXE_kfs")).arg(sandbox.dir.path()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.ends_with("123mnt:\n\nstore/mounts:\n"), "{text} {error}");
}

/// Files that the kernel reads by itself, and others, while the server is killed: nobody sees an
/// error, in whichever way a file was open, and is opened again.
#[test]
fn files_read_without_the_server_outlive_it() {
    let Some(sandbox) = Sandbox::new() else { return };
    let content = |seed: u32| -> Vec<u8> {
        (0..600_000_u32).flat_map(|word| (word ^ seed << 24).to_le_bytes()).collect()
    };
    let root = sandbox.path("root");
    fs::create_dir(&root).unwrap();
    for (seed, name) in (1..).zip(["through", "held", "later"]) {
        fs::write(root.join(name), content(seed)).unwrap();
    }
    let mut tar = Command::new("tar");
    assert_success(tar.args(["-cf", "large.tar", "-C", "root", "."]).current_dir(sandbox.path("")));
    sandbox.ok(&["import", "large.tar", "large"]);
    let mnt = sandbox.path("mnt");
    sandbox.ok(&["mount", "--passthrough", "large", mnt.to_str().unwrap()]);
    let id = sandbox.mounts()[0]["id"].as_str().unwrap().to_owned();
    let journal = sandbox.path("store/mounts").join(id).join("passthrough");
    let given = || fs::metadata(&journal).unwrap().len() / 16;
    let reads = |file: &File, seed: u32| {
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        let mut read = vec![0; 2_400_000];
        std::os::unix::fs::FileExt::read_exact_at(file, &mut read, 0).unwrap();
        assert!(read == content(seed), "{seed}");
    };
    let open = |name: &str| File::open(mnt.join(name)).unwrap();
    wait_until("the kernel reads by itself", || {
        reads(&open("through"), 1);
        given() == 1
    });
    let (through, held) = (open("through"), open("held"));
    reads(&held, 2);
    for _ in 0..2 {
        let server = sandbox.server();
        send(server, Signal::SIGKILL);
        reads(&through, 1);
        wait_until("another server", || ![0, server].contains(&sandbox.server()));
        for _ in 0..3 {
            for (seed, name) in (1..).zip(["through", "held", "later"]) {
                reads(&open(name), seed);
            }
            reads(&through, 1);
            reads(&held, 2);
        }
    }
    drop((through, held));
    reads(&open("through"), 1);
    reads(&open("held"), 2);
    assert_eq!(given(), 1, "a server that took over gives no other files");
    sandbox.ok(&["umount", mnt.to_str().unwrap()]);
    sandbox.assert_nothing_left();
}
