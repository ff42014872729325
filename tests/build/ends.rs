//! Builds that end before their time: killed, interrupted, or out of space.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::workshop::{Workshop, run};

/// A RUN that goes on until it is ended, with processes that try to outlive it.
const ENDLESS: &str = "\
FROM base
COPY file /copied
RUN setsid sleep 1000 & dd if=/dev/urandom of=/big bs=65536 count=64 2>/dev/null; \\
    (while :; do echo x >/many-$$; rm /many-$$; done) & echo begun; sleep 1000
";

struct Started {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Started {
    fn new(shop: &Workshop, text: &str) -> Self {
        fs::write(shop.path("Dockerfile"), text).unwrap();
        let mut build = shop.kfs(&["build", "-f", "Dockerfile", "-t", "new", "context"]);
        build.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = build.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// Reads what is said up to a line that holds `text`.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "{text} is never said");
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end; the rest of what is said.
    fn end(mut self) -> (std::process::ExitStatus, String) {
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (status, said)
    }
}

#[track_caller]
fn assert_no_processes(shop: &Workshop) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !shop.processes().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", shop.processes());
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_signal_ends_a_run_and_nothing_is_left() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut build = Started::new(&shop, ENDLESS);
        build.wait_for("begun");
        build.signal(signal);
        let (status, said) = build.end();
        assert_eq!(status.code(), Some(128 + signal as i32), "{said}");
        assert_eq!(said, format!("kfs: Dockerfile:3: interrupted ({signal})\n"));
        // At once, not after a while.
        shop.assert_nothing_left();
    }
}

#[test]
fn a_signal_ends_a_copy_and_nothing_is_left() {
    let Some(shop) = Workshop::with_base() else { return };
    let mut big = Command::new("dd");
    let file = format!("of={}", shop.path("context/big").display());
    run(big.args(["if=/dev/urandom", &file, "bs=1M", "count=300", "status=none"]));
    let mut build = Started::new(&shop, "FROM base\nCOPY big /big\nRUN true\n");
    build.wait_for("COPY big");
    thread::sleep(Duration::from_millis(100));
    build.signal(Signal::SIGTERM);
    let (status, said) = build.end();
    assert_eq!(status.code(), Some(143), "{said}");
    shop.assert_nothing_left();
    let blobs = fs::read_dir(shop.path("store/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 3, "the base only");
}

#[test]
fn a_place_that_cannot_be_written_is_told_before_the_first_step() {
    let Some(shop) = Workshop::with_base() else { return };
    fs::create_dir(shop.path("dir")).unwrap();
    fs::create_dir(shop.path("read-only")).unwrap();
    fs::write(shop.path("file"), "").unwrap();
    std::os::unix::fs::symlink("dir", shop.path("link")).unwrap();
    let text = "FROM base\nRUN echo it runs >&2; echo x >/new\n";
    mount_read_only(&shop.path("read-only"));
    for (option, value, place, why) in [
        ("--iidfile", "none/id", "none/id", "No such file"),
        ("--iidfile", "dir", "dir", "is a directory"),
        ("--iidfile", "read-only/id", "read-only/id", "Read-only file system"),
        ("--output", "type=oci,dest=none/x", "none/x", "No such file"),
        ("--output", "type=docker,dest=file/x", "file/x", "Not a directory"),
        ("--output", "type=tar,dest=dir", "dir", "is a directory"),
        ("--output", "type=tar,dest=read-only/x", "read-only/x", "Read-only file system"),
        ("--output", "file", "file", "not a directory"),
        ("--output", "read-only/a/b", "read-only/a/b", "Read-only file system"),
    ] {
        let said = shop.fails(text, &[option, value]);
        let expected = format!("kfs: {option}: write {place}: {why}");
        assert!(said.contains(&expected), "{expected}: {said}");
        assert!(!said.contains("it runs"), "{option} {value}: {said}");
    }
    umount2(&shop.path("read-only"), MntFlags::MNT_DETACH).unwrap();
    for (place, file) in [("a/b/c", "a/b/c/new"), ("link", "dir/new")] {
        shop.build_with(text, &["--iidfile", "id", "--output", place]);
        assert_eq!(fs::read_to_string(shop.path(file)).unwrap(), "x\n");
    }
}

/// Has a directory be read-only from now on.
fn mount_read_only(dir: &Path) {
    let bind = MsFlags::MS_BIND;
    mount(Some(dir), dir, None::<&str>, bind, None::<&str>).unwrap();
    let read_only = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, dir, None::<&str>, read_only, None::<&str>).unwrap();
}

/// A signal ends what nobody asks for signals any more.
#[test]
fn a_signal_ends_the_writing_of_an_output() {
    let Some(shop) = Workshop::with_base() else { return };
    let pipe = shop.path("pipe");
    run(Command::new("mkfifo").arg(&pipe));
    fs::write(shop.path("Dockerfile"), "FROM base\nRUN true\n").unwrap();
    let output = format!("type=oci,dest={}", pipe.display());
    let mut build = shop.kfs(&["build", "-f", "Dockerfile", "-t", "new", "-o", &output, "context"]);
    let mut child = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut lines = stderr.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("Built new")));
    thread::sleep(Duration::from_millis(200));
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().signal(), Some(15));
}

/// Nothing holds the name or the content of what a killed build did; the next one works.
#[test]
fn a_killed_build_is_as_if_it_had_not_been() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    let index = fs::read(shop.path("store/index.json")).unwrap();
    let mut build = Started::new(&shop, ENDLESS);
    build.wait_for("begun");
    build.signal(Signal::SIGKILL);
    let (status, _) = build.end();
    assert_eq!(status.signal(), Some(9));
    assert_no_processes(&shop);
    assert_eq!(fs::read(shop.path("store/index.json")).unwrap(), index);
    // The COPY before it was done.
    let built =
        shop.build("FROM base\nCOPY file /copied\nRUN cat /copied; ls / | grep -c big; true\n");
    assert_eq!((built.cached(), built.last_run().as_str()), (1, "file0"));
    shop.assert_nothing_left();
}

/// Kills at any time: of a COPY, of a commit, between steps.
#[test]
fn a_build_can_be_killed_at_any_time() {
    let Some(shop) = Workshop::with_base() else { return };
    for number in 0..200 {
        shop.write(&format!("tree/{number}"), vec![b'x'; 20_000]);
    }
    let text = "\
FROM base
COPY tree /tree
RUN cp -r /tree /other && rm -r /tree
COPY tree /tree
RUN ln /tree/1 /linked
";
    let full = Instant::now();
    shop.build_with(text, &["--no-cache"]);
    let full = full.elapsed();
    for part in 0..12 {
        // Other content, so that the cache is of no help.
        shop.write("tree/0", part.to_string());
        let build = Started::new(&shop, text);
        thread::sleep(full * part / 12);
        build.signal(Signal::SIGKILL);
        build.end();
        assert_no_processes(&shop);
    }
    shop.build(text);
    assert_eq!(shop.ok(&["cat", "new", "/tree/0", "/other/0"]), "1111");
    shop.assert_nothing_left();
    for tag in ["new", "base"] {
        shop.ok(&["inspect", tag]);
    }
}

/// A store on a file system of this size, in KiB.
struct SmallStore<'a>(&'a Workshop);

impl<'a> SmallStore<'a> {
    fn new(shop: &'a Workshop, kib: u32) -> Self {
        let store = shop.path("store");
        fs::rename(&store, shop.path("moved")).unwrap();
        fs::create_dir(&store).unwrap();
        let options = format!("size={kib}k");
        mount(Some("tmpfs"), &store, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .unwrap();
        let mut copy = Command::new("cp");
        run(copy.arg("-a").arg(shop.path("moved/.")).arg(&store));
        Self(shop)
    }
}

impl Drop for SmallStore<'_> {
    fn drop(&mut self) {
        umount2(&self.0.path("store"), MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_half_written_stays() {
    let Some(shop) = Workshop::with_base() else { return };
    let mut random = Command::new("dd");
    let file = format!("of={}", shop.path("context/big").display());
    run(random.args(["if=/dev/urandom", &file, "bs=1M", "count=6", "status=none"]));
    let store = SmallStore::new(&shop, 18 << 10);
    let before = blobs(&shop);
    let images = shop.ok(&["images", "--format", "json"]);
    for text in [
        // The upper fits, the layer made of it does not.
        "FROM base\nRUN dd if=/dev/urandom of=/x bs=1048576 count=6 2>/dev/null\n",
        "FROM base\nCOPY big /1\nCOPY big /2\nCOPY big /3\n",
    ] {
        let said = shop.fails(text, &[]);
        assert!(said.contains("No space left on device"), "{said}");
        assert!(said.contains("\nhint: free some space"), "{said}");
        assert!(said.contains("kfs: Dockerfile:"), "{said}");
        assert_eq!(shop.ok(&["images", "--format", "json"]), images);
        let left: Vec<_> = fs::read_dir(shop.path("store/tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        // Whole layers of steps before may stay: the cache has them.
        for blob in blobs(&shop).iter().filter(|blob| !before.contains(blob)) {
            let content = fs::read(shop.path("store/blobs/sha256").join(blob)).unwrap();
            let digest = kfs_fs::digest::Digest::of(&content);
            assert_eq!(&digest.hex().to_string(), blob);
        }
    }
    // The disk that a RUN fills is its own failure.
    let text = "FROM base\nRUN dd if=/dev/zero of=/x bs=1048576 count=60\n";
    let said = shop.fails(text, &[]);
    assert!(said.contains("dd: error writing '/x': No space left on device"), "{said}");
    assert!(said.contains("exit status 1"), "{said}");
    shop.build("FROM base\nRUN echo x >/x\n");
    drop(store);
}

fn blobs(shop: &Workshop) -> Vec<String> {
    let blobs = fs::read_dir(shop.path("store/blobs/sha256")).unwrap();
    blobs.map(|blob| blob.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_store_that_may_not_be_written_is_told() {
    let Some(shop) = Workshop::with_base() else { return };
    let store = shop.path("store");
    mount_read_only(&store);
    let said = shop.fails("FROM base\nRUN true\n", &[]);
    umount2(&store, MntFlags::MNT_DETACH).unwrap();
    let expected =
        format!("kfs: store {} cannot be written: Read-only file system", store.display());
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains("hint: use another store"), "{said}");
}
