//! A registry that does not answer any more: what is cached is served all the same, by servers that
//! take over as well, and a mount can be ended at any time.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::Signal;

use crate::remote::{Registry, forget_local};
use crate::sandbox::{Sandbox, send, wait_until};

/// What the kernel has not in memory.
pub(crate) fn read_anew(sandbox: &Sandbox, path: &str) -> Vec<u8> {
    let path = sandbox.path(path);
    let file = File::open(&path).unwrap();
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_server_that_is_killed_is_replaced_without_the_registry() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    for options in [&[][..], &["--passthrough"]] {
        registry.mount_image(&sandbox, &registry.image, options);
        for _ in 0..2 {
            // All of it is in the cache then, and with the option in files of its own.
            assert!(read_anew(&sandbox, "mnt/big") == registry.big);
            assert!(read_anew(&sandbox, "mnt/other") == registry.other);
        }
        send(registry.process.id(), Signal::SIGSTOP);
        for restarts in 1..=3 {
            send(sandbox.server(), Signal::SIGKILL);
            assert!(read_anew(&sandbox, "mnt/big") == registry.big, "{options:?}");
            assert!(read_anew(&sandbox, "mnt/other") == registry.other, "{options:?}");
            wait_until("another serves", || sandbox.number("restarts") == restarts);
        }
        send(registry.process.id(), Signal::SIGCONT);
        sandbox.ok(&["umount", "mnt"]);
        sandbox.assert_nothing_left();
    }
}

#[test]
fn an_unmount_does_not_wait_for_a_registry() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    registry.mount(&sandbox);
    let reader = registry.stalled_read(&sandbox);
    let (code, error) = sandbox.fails(&["umount", "mnt"]);
    assert!(code == 4 && !reader.is_finished(), "{code}: {error}");
    let supervisor = sandbox.supervisor();
    sandbox.ok(&["umount", "--lazy", "mnt"]);
    assert_eq!(fs::read_dir(sandbox.path("mnt")).unwrap().count(), 0);
    // Who read before that is served to the end.
    assert!(!reader.is_finished());
    send(registry.process.id(), Signal::SIGCONT);
    assert!(reader.join().unwrap().unwrap() == registry.other);
    sandbox.assert_ends(supervisor);
}

#[test]
fn an_interrupt_ends_a_mount_whose_reader_waits_for_the_registry() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    let args = ["mount", "-f", "--pull=missing", "--plain-http", &registry.image, "mnt"];
    let mut kfs = sandbox.command(&args).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it is mounted", || sandbox.path("mnt/big").exists());
    let reader = registry.stalled_read(&sandbox);
    send(kfs.id(), Signal::SIGINT);
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    kfs.wait().unwrap();
    sandbox.assert_nothing_left();
}

/// What a mirror damages comes from the registry, and the mount's log tells of it.
#[test]
fn a_mirror_that_damages_content_is_left_and_named_in_the_log() {
    use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    let mirror = Proxy::start("127.0.0.1:0", registry.address(), Shape::default()).unwrap();
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        registry.address(),
        mirror.address(),
    );
    fs::write(sandbox.path("registries.conf"), conf).unwrap();
    let args = ["mount", "--pull=missing", "--prefetch=off", &registry.image, "mnt"];
    let mut mount = sandbox.command(&args);
    mount.env("CONTAINERS_REGISTRIES_CONF", sandbox.path("registries.conf"));
    assert!(mount.output().unwrap().status.success());
    mirror.add(Rule::on("/blobs/", Fault::Flip(50_000)));
    assert!(fs::read(sandbox.path("mnt/big")).unwrap() == registry.big);
    assert!(!mirror.seen("/blobs/").is_empty());
    let id = sandbox.mounts()[0]["id"].as_str().unwrap().to_owned();
    let logs = fs::read_dir(sandbox.path("store/mounts").join(id)).unwrap();
    let logs: String = logs
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
        .filter(|text| text.contains("mirror"))
        .collect();
    let line = logs.lines().find(|line| line.contains("damaged content"));
    let line = line.unwrap_or_else(|| panic!("nothing of it: {logs}"));
    for part in [&mirror.address().to_string(), "layer sha256:", "has hash", "expected"] {
        assert!(line.contains(part), "no {part}: {line}");
    }
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

type Damage = fn(&Path);

/// Where the cache keeps what it has of the only layer.
fn cache_dir(sandbox: &Sandbox) -> PathBuf {
    let dirs = fs::read_dir(sandbox.path("store/cache")).unwrap();
    let mut dirs = dirs.map(|entry| entry.unwrap().path());
    dirs.find(|dir| dir.join("data").exists()).expect("the layer's cache")
}

/// Changes a byte in ten.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.iter_mut().step_by(10).for_each(|byte| *byte ^= 1);
    File::options().write(true).open(path).unwrap().write_all_at(&bytes, 0).unwrap();
}

/// Another server, which has nothing in memory.
fn replace_server(sandbox: &Sandbox) {
    let restarts = sandbox.number("restarts");
    send(sandbox.server(), Signal::SIGKILL);
    wait_until("another serves", || sandbox.number("restarts") > restarts);
}

fn logs(sandbox: &Sandbox) -> String {
    let id = sandbox.mounts()[0]["id"].as_str().unwrap().to_owned();
    let files = fs::read_dir(sandbox.path("store/mounts").join(id)).unwrap();
    files.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok()).collect()
}

/// What is damaged is never served: it is fetched again, or there is an error.
#[test]
fn a_cache_that_is_damaged_below_a_mount_is_fetched_again() {
    let damages: [(&str, Damage); 5] = [
        ("flipped", |dir| flip(&dir.join("data"))),
        ("cut", |dir| {
            File::options().write(true).open(dir.join("data")).unwrap().set_len(5000).unwrap();
        }),
        ("without data", |dir| fs::remove_file(dir.join("data")).unwrap()),
        ("with flipped sums", |dir| flip(&dir.join("sums.2"))),
        ("removed", |dir| fs::remove_dir_all(dir).unwrap()),
    ];
    for (what, damage) in damages {
        let Some(sandbox) = Sandbox::new() else { return };
        let Some(registry) = Registry::start(&sandbox) else { return };
        forget_local(&sandbox);
        let options = ["--read-timeout=1s", "--prefetch=off"];
        registry.mount_image(&sandbox, &registry.image, &options);
        let check = |when: &str| {
            assert!(read_anew(&sandbox, "mnt/big") == registry.big, "{what}, {when}");
            assert!(read_anew(&sandbox, "mnt/other") == registry.other, "{what}, {when}");
        };
        check("whole");
        // Under the server that filled it, and for one that finds it so.
        damage(&cache_dir(&sandbox));
        check("still in memory");
        replace_server(&sandbox);
        check("fetched again");
        damage(&cache_dir(&sandbox));
        send(registry.process.id(), Signal::SIGSTOP);
        replace_server(&sandbox);
        for (file, content) in [("mnt/big", &registry.big), ("mnt/other", &registry.other)] {
            let open = File::open(sandbox.path(file)).unwrap();
            posix_fadvise(&open, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
            let read = open.read_at(&mut [0; 4096], content.len() as u64 / 2);
            assert_eq!(read.unwrap_err().raw_os_error(), Some(nix::libc::EIO), "{what}, {file}");
        }
        let logs = logs(&sandbox);
        let told = |line: &str| line.contains("read of inode") && line.contains("sent");
        assert!(logs.lines().any(told), "{what}: {logs}");
        send(registry.process.id(), Signal::SIGCONT);
        check("the registry is back");
        sandbox.ok(&["umount", "mnt"]);
        sandbox.assert_nothing_left();
    }
}
