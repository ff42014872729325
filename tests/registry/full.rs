//! Full disks: here, and at the registry's.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};
use nix::sys::statvfs::statvfs;

use crate::a_mount::Mount;
use crate::server::Registry;

fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..size).map(|_| next()).collect()
}

/// What is left in a directory; nothing, if it is not there.
fn left(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A store on a disk of 2 MiB, which has the small image `b`.
struct Small {
    registry: Registry,
    _mount: Mount,
}

impl Small {
    fn new() -> Option<Self> {
        let registry = Registry::start(false)?;
        registry.image_with("b:1", &[("b", &noise(20_000))]);
        registry.ok("seed", &["copy", &format!("docker://{}", registry.name("b:1")), "b"]);
        registry.image_with("a:1", &[("a", &noise(150_000))]);
        let small = registry.path("small");
        fs::create_dir(&small).unwrap();
        let mount = Mount::new(small, &["-t", "tmpfs", "-o", "size=2m", "tmpfs"])?;
        Some(Self { registry, _mount: mount })
    }

    /// Makes the disk as it was at the start, but for that only so many KiB are free.
    fn fill(&self, room: u64) {
        let small = self.registry.path("small");
        let mut empty = Command::new("find");
        empty.arg(&small).args(["-mindepth", "1", "-delete"]);
        let mut copy = Command::new("cp");
        copy.arg("-a").args([&self.registry.path("seed"), &small.join("store")]);
        assert!(empty.status().unwrap().success() && copy.status().unwrap().success());
        let free = statvfs(&small).unwrap().blocks_free() * 4096;
        let much = usize::try_from(free.saturating_sub(room << 10)).unwrap();
        fs::write(small.join("filling"), vec![1; much]).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        self.registry.run("small/store", args)
    }

    #[track_caller]
    fn assert_good(&self, when: &str) {
        let fsck = self.run(&["fsck"]);
        assert!(fsck.status.success(), "{when}: {fsck:?}");
        assert_eq!(left(&self.registry.path("small/store/tmp")), [""; 0], "{when}");
    }
}

/// Whatever room there was: the command does its work or says what lacks and where, nothing is
/// left half-written, and the same command works as soon as there is room.
#[test]
fn a_disk_that_is_full_at_any_point_harms_no_transfer_root_only() {
    let Some(small) = Small::new() else { return };
    let whole = Proxy::start("127.0.0.1:0", small.registry.address(), Shape::default()).unwrap();
    whole.add(Rule::on("/blobs/", Fault::NoRange));
    let no_parts = format!("{}/a:1", whole.address());
    let (a, from) =
        (small.registry.name("a:1"), format!("docker://{}", small.registry.name("a:1")));
    let mut refused = 0;
    // In KiB.
    for room in [0, 4, 8, 16, 32, 64, 128, 160, 200, 320] {
        let new = |kind: &str| small.registry.name(&format!("{kind}{room}:1"));
        let commands: [&[&str]; 10] = [
            &["pull", &a],
            &["cat", &a, "/a"],
            &["cat", "--plain-http", &no_parts, "/a"],
            &["push", "b", &new("pushed")],
            &["push", &a, &new("passed")],
            &["copy", "b", &format!("docker://{}", new("copied"))],
            &["copy", &from, "c"],
            &["copy", &from, "oci:small/layout:x"],
            &["copy", &from, "oci-archive:small/x.tar"],
            &["copy", &from, "docker-archive:small/y.tar"],
        ];
        for command in commands {
            small.fill(room);
            let when = format!("kfs {command:?} with {room} KiB");
            let output = small.run(command);
            small.assert_good(&when);
            if !output.status.success() {
                refused += 1;
                let error = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{when}: {error}");
                assert!(error.contains("No space left on device"), "{when}: {error}");
                let place = small.registry.path("small").display().to_string();
                assert!(error.contains(&place) || error.contains("small/"), "{when}: {error}");
                assert!(error.contains("hint: free some space"), "{when}: {error}");
                for dir in ["small", "small/store/remotes"] {
                    let files = left(&small.registry.path(dir));
                    assert!(!files.iter().any(|name| name.contains('.')), "{when}: {files:?}");
                }
            }
            fs::remove_file(small.registry.path("small/filling")).unwrap();
            let again = small.run(command);
            assert!(again.status.success(), "{when}, and then with room: {again:?}");
            small.assert_good(&when);
            let remotes = left(&small.registry.path("small/store/remotes"));
            assert!(!remotes.iter().any(|name| name.contains('.')), "{when}: {remotes:?}");
        }
    }
    assert!(refused > 20, "{refused}");
}

/// The registry says no more than that it failed; who asked says of what and which registry.
#[test]
fn a_registry_whose_disk_is_full_takes_the_image_when_it_has_room_root_only() {
    let Some(registry) = Registry::start(false) else { return };
    registry.image_with("a:1", &[("a", &noise(3_000_000))]);
    registry.ok("origin", &["tag", "x:1", "big:1"]);
    let data = registry.path("data");
    let Some(_mount) = Mount::new(data.clone(), &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) else {
        return;
    };
    let name = registry.name("b:1");
    let push = ["push", "--read-timeout=2s", "big:1", &name];
    let (code, error) = registry.fails("origin", &push);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains(&registry.address().to_string()), "{error}");
    assert!(!error.contains("hint: free some space"), "it is not this disk: {error}");
    let (code, error) = registry.fails("other", &["pull", &name]);
    assert_eq!(code, 3, "nothing half-sent has a name: {error}");
    let grown = ["-o", "remount,size=16m"];
    assert!(Command::new("mount").args(grown).arg(&data).status().unwrap().success());
    let pushed = registry.ok("origin", &push);
    assert_eq!(registry.ok("other", &["pull", &name]), pushed);
}
