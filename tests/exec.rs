//! RUN steps for real: sandbox, live rootfs, diff. They need root and overlayfs.

mod host_tools;
mod skip;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use host_tools::install_tools;
use kfs_builder::diff::{Change, DiffError, changes};
use kfs_builder::exec::{
    Command, ExecError, Executor, Isolation, Outcome, Sandbox, Status, User, World,
};
use kfs_builder::rootfs::{LiveRootfs, RootDir, RootfsError, enter_private_namespace};
use kfs_fs::layer::Kind;
use skip::skip;

const KFS: &str = env!("CARGO_BIN_EXE_kfs");

/// Whether the tests here can run; says so if not. The calling thread gets its own mounts.
fn privileged() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return false;
    }
    if let Err(error) = enter_private_namespace() {
        skip(error);
        return false;
    }
    true
}

macro_rules! require_privileges {
    () => {
        if !privileged() {
            return;
        }
    };
}

/// A directory for one test, not below /tmp of the host where tests of hiding need another.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A stage on a base with tools.
struct Stage {
    rootfs: LiveRootfs,
    base: PathBuf,
    _dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::with(install_tools)
    }

    fn with(fill: impl Fn(&Path)) -> Self {
        let dir = scratch();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        fill(&base);
        let bases = [base.clone()];
        let rootfs = LiveRootfs::new(&dir.path().join("work"), &bases).unwrap();
        Self { rootfs, base, _dir: dir }
    }

    /// Runs a script and keeps what it wrote.
    fn run(&mut self, script: &str) -> Done {
        self.run_as(script, Isolation::Auto, |_| {})
    }

    fn run_as(
        &mut self,
        script: &str,
        isolation: Isolation,
        adjust: impl Fn(&mut Command),
    ) -> Done {
        let overlay = self.rootfs.overlay_xattrs();
        let step = self.rootfs.begin_step(isolation, &[]).unwrap();
        let mut command = shell(&step.merged(), script);
        command.isolation = step.isolation();
        adjust(&mut command);
        let mut lines = Vec::new();
        let outcome = Sandbox::with_program(KFS).run(&command, &mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
        });
        let isolation = step.isolation();
        let before = step.root_before().clone();
        let upper = step.finish().unwrap();
        let changes = changes(&upper, &before, overlay).collect::<Result<Vec<_>, _>>();
        Done { outcome, isolation, lines, changes }
    }
}

struct Done {
    outcome: Result<Outcome, ExecError>,
    isolation: Isolation,
    lines: Vec<String>,
    changes: Result<Vec<Change>, DiffError>,
}

impl Done {
    fn ok(self) -> Self {
        let outcome = self.outcome.as_ref().unwrap();
        assert_eq!(outcome.status, Status::Exited(0), "{:?}", self.lines);
        self
    }

    /// Paths in order; a hard link as `path -> target`.
    fn paths(&self) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let changes = self.changes.as_ref().unwrap();
        changes
            .iter()
            .map(|change| match &change.entry.kind {
                Kind::Hardlink(target) => {
                    format!("{} -> {}", text(&change.entry.path), text(target))
                }
                Kind::Directory => format!("{}/", text(&change.entry.path)),
                _ => text(&change.entry.path),
            })
            .collect()
    }
}

fn shell(rootfs: &Path, script: &str) -> Command {
    Command {
        rootfs: rootfs.to_owned(),
        argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: PathBuf::from("/"),
        user: User::resolve(&RootDir::open(rootfs).unwrap(), "").unwrap(),
        isolation: Isolation::Auto,
        hostname: "kfs-build".into(),
        world: World::default(),
    }
}

fn status(done: &Done) -> Status {
    done.outcome.as_ref().unwrap().status
}

#[test]
fn status_signal_and_output_come_back() {
    require_privileges!();
    let mut stage = Stage::new();
    let done = stage.run("echo out; echo err >&2; printf 'caf\\351'; exit 7");
    assert_eq!(status(&done), Status::Exited(7));
    assert_eq!(done.lines, ["out", "err", "caf\u{fffd}"]);
    assert_eq!(done.outcome.unwrap().tail, ["out", "err", "caf\u{fffd}"]);
    assert_eq!(done.isolation, Isolation::Container);
    let done = stage.run("kill -9 $$");
    assert_eq!(status(&done), Status::Signaled(9));
    assert_eq!(status(&done).to_string(), "signal 9 (SIGKILL)");
    let done = stage.run("kill -TERM $$");
    assert_eq!(status(&done), Status::Signaled(15));
}

#[test]
fn what_cannot_be_started_is_an_error_that_names_it() {
    require_privileges!();
    let mut stage = Stage::new();
    let done = stage.run_as("", Isolation::Auto, |command| command.argv = vec!["nosuch".into()]);
    let error = done.outcome.unwrap_err().to_string();
    assert_eq!(error, "execute nosuch: No such file or directory (os error 2)");
    let done = stage.run_as("true", Isolation::Auto, |command| command.cwd = "/none".into());
    let error = done.outcome.unwrap_err().to_string();
    assert!(error.starts_with("working directory /none of the step: No such file"), "{error}");
    let done = stage.run_as("", Isolation::Auto, |command| command.argv.clear());
    assert!(matches!(done.outcome, Err(ExecError::Empty)));
    let nul = |command: &mut Command| command.argv.push("a\0b".into());
    let done = stage.run_as("true", Isolation::Auto, nul);
    assert!(matches!(done.outcome, Err(ExecError::Nul(_))));
    assert!(done.changes.unwrap().is_empty());
}

#[test]
fn a_program_that_is_no_kfs_is_named() {
    require_privileges!();
    let dir = scratch();
    let error = Sandbox::with_program("/bin/echo").run(&shell(dir.path(), ""), &mut |_| {});
    let error = error.unwrap_err().to_string();
    assert!(error.contains("/bin/echo") && error.contains("__run"), "{error}");
}

#[test]
fn gigabytes_of_output_stream_through() {
    require_privileges!();
    let mut stage = Stage::new();
    let step = stage.rootfs.begin_step(Isolation::Auto, &[]).unwrap();
    let script = "head -c 1073741824 /dev/zero; echo; echo end";
    let command = shell(&step.merged(), script);
    let mut bytes = 0;
    let mut longest = 0;
    let outcome = Sandbox::with_program(KFS)
        .run(&command, &mut |line| {
            bytes += line.len();
            longest = longest.max(line.len());
        })
        .unwrap();
    assert_eq!(outcome.status, Status::Exited(0));
    assert_eq!(bytes, (1 << 30) + 3);
    assert!(longest <= 8192, "{longest}");
    assert_eq!(outcome.tail.last().unwrap(), "end");
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 200 << 10, "peak memory {peak} kB");
}

#[test]
fn the_world_of_a_container_is_small() {
    require_privileges!();
    let mut stage = Stage::new();
    let done = stage
        .run(
            "hostname; pwd; id -u; echo $HOME; env | grep -c . ; ls /dev; ls /proc/self/fd | wc -l \
             2>/dev/null || ls /proc/self/fd; readlink /proc/1/exe || echo no-exe; \
             head -c 4 /dev/urandom >/dev/null && echo random; cat /proc/kcore | head -c1; \
             echo x 2>/dev/null >/proc/sys/kernel/hostname || echo ro-sys; \
             test -z \"$(cat /proc/keys /proc/timer_list)\" && echo masked; \
             grep -c . /etc/resolv.conf; grep CapBnd /proc/self/status",
        )
        .ok();
    let lines = done.lines.join("\n");
    assert!(lines.starts_with("kfs-build\n/\n0\n/root\n"), "{lines}");
    for expected in
        ["random", "masked", "ro-sys", "no-exe", "CapBnd:\t00000000800405fb", "null", "urandom"]
    {
        assert!(lines.contains(expected), "{expected} in {lines}");
    }
    assert!(!lines.contains("vda"), "{lines}");
    assert!(done.changes.unwrap().is_empty());
}

#[test]
fn descriptors_and_environment_of_the_build_do_not_leak() {
    require_privileges!();
    let mut stage = Stage::new();
    // Not close-on-exec, as a careless caller of kfs would leave it.
    let file = fs::File::open("/etc/passwd").unwrap();
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let done = stage.run("ls /proc/self/fd; cat /proc/1/environ; env").ok();
    // 3 is what ls reads the directory with.
    let expected = ["0", "1", "2", "3", "PWD=/", "HOME=/root", "PATH=/usr/bin:/bin"];
    let mut lines: Vec<_> = done.lines.iter().map(String::as_str).collect();
    lines.retain(|line| !line.starts_with("cat: ") && !line.starts_with("_="));
    lines[4..].sort_unstable();
    let mut expected_sorted = expected;
    expected_sorted[4..].sort_unstable();
    assert_eq!(lines, expected_sorted);
}

#[test]
fn a_step_cannot_mount_or_make_devices_or_namespaces() {
    require_privileges!();
    let mut stage = Stage::new();
    for forbidden in [
        "mount -t tmpfs none /tmp",
        "mount --bind /usr /tmp",
        "mknod /x b 254 0",
        "mknod /x c 1 3",
        "unshare -U true",
        "unshare -m true",
        "date -s 2000-01-01",
        "hostname other",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/uevent_seqnum",
    ] {
        let done = stage.run(forbidden);
        assert_ne!(status(&done), Status::Exited(0), "{forbidden}");
        assert!(done.changes.unwrap().is_empty(), "{forbidden}");
    }
}

#[test]
fn a_device_of_the_image_does_not_open() {
    require_privileges!();
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let mut stage = Stage::with(|root| {
        install_tools(root);
        let mode = Mode::from_bits_truncate(0o666);
        mknod(&root.join("zero"), SFlag::S_IFCHR, mode, makedev(1, 5)).unwrap();
    });
    let done = stage.run("head -c 1 /zero");
    assert_ne!(status(&done), Status::Exited(0));
    assert!(done.lines.join(" ").contains("Permission denied"), "{:?}", done.lines);
}

#[test]
fn other_users_have_no_privileges() {
    require_privileges!();
    let mut stage = Stage::new();
    let app = |command: &mut Command| {
        command.user = User { uid: 1000, gid: 1000, groups: vec![5, 7], home: "/".into() };
    };
    let script = "id -u; id -G; grep CapEff /proc/self/status; echo hi >/tmp/x 2>/dev/null; \
                  cat /etc/shadow-none; head -c1 /dev/zero >/dev/null && echo zero";
    stage.run("chmod 1777 /tmp").ok();
    let done = stage.run_as(script, Isolation::Auto, app).ok();
    assert_eq!(done.lines[..3], ["1000", "1000 5 7", "CapEff:\t0000000000000000"]);
    assert_eq!(done.lines.last().unwrap(), "zero");
    assert_eq!(done.paths(), ["tmp/", "tmp/x"]);
    let changes = done.changes.unwrap();
    assert_eq!((changes[1].entry.uid, changes[1].entry.gid), (1000, 1000));
    assert_eq!(changes[0].entry.mode, 0o1777);
}

/// What a step writes goes into a layer; without isolation it is the user's.
#[test]
fn the_umask_of_the_caller_is_for_no_layer() {
    require_privileges!();
    let mut stage = Stage::new();
    let dir = scratch();
    let program = dir.path().join("kfs");
    fs::write(&program, format!("#!/bin/sh\numask 077\nexec {KFS} \"$@\"\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for (isolation, expected) in
        [(Isolation::Container, "0022"), (Isolation::Host, "0022"), (Isolation::None, "0077")]
    {
        let step = stage.rootfs.begin_step(isolation, &[]).unwrap();
        let command = Command { isolation, ..shell(&step.merged(), "umask") };
        let mut lines = Vec::new();
        let sandbox = Sandbox::with_program(&program);
        sandbox.run(&command, &mut |line| lines.push(line.to_vec())).unwrap();
        assert_eq!(lines, [expected.as_bytes()], "{isolation:?}");
    }
}

/// In a container they are the image's, as sudo is; the host's are nothing for a step.
#[test]
fn set_user_id_programs_work_in_a_container_only() {
    require_privileges!();
    let mut stage = Stage::new();
    stage.run("cat /usr/bin/id >/usr/bin/ident && chmod 4755 /usr/bin/ident").ok();
    let app = |command: &mut Command| {
        command.user = User { uid: 1000, gid: 1000, groups: vec![], home: "/".into() };
    };
    let script = "usr/bin/ident -u; grep NoNewPrivs /proc/self/status; mount -t tmpfs x /mnt";
    for (isolation, uid, no_new) in [(Isolation::Container, "0", 0), (Isolation::Host, "1000", 1)] {
        let done = stage.run_as(script, isolation, app);
        assert_eq!(done.lines[..2], [uid.to_owned(), format!("NoNewPrivs:\t{no_new}")]);
        assert_ne!(status(&done), Status::Exited(0));
    }
    // Root of the image, but within the bounding set and the filter.
    stage.run("cat /usr/bin/unshare >/usr/bin/leave && chmod 4755 /usr/bin/leave").ok();
    let script = "leave --user true; leave --mount true; leave --net true";
    let done = stage.run_as(script, Isolation::Container, app);
    let denied = done.lines.iter().filter(|line| line.contains("Operation not permitted"));
    assert_eq!(denied.count(), 3, "{:?}", done.lines);
}

#[test]
fn background_processes_die_with_the_step() {
    require_privileges!();
    let mut stage = Stage::new();
    let begin = Instant::now();
    let done = stage.run("setsid sleep 4711 & (sleep 4712 &) ; echo started").ok();
    assert_eq!(done.lines, ["started"]);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(!running("sleep\x004711") && !running("sleep\x004712"));
}

/// Whether a process of the machine has this in its command line (arguments end with NUL).
fn running(text: &str) -> bool {
    processes().any(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
}

/// `pid` and all that it started.
fn family(pid: u32) -> BTreeSet<u32> {
    let parent = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok())
    };
    let parents: Vec<_> = processes().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = BTreeSet::from([pid]);
    while let Some((child, _)) =
        parents.iter().find(|(child, parent)| family.contains(parent) && !family.contains(child))
    {
        family.insert(*child);
    }
    family
}

#[test]
fn a_layer_tells_what_a_step_did() {
    require_privileges!();
    let mut stage = Stage::with(|root| {
        install_tools(root);
        for (file, text) in [("lower/a", "a"), ("lower/b", "b"), ("lower/dir/x", "x")] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    });
    let done = stage.run("touch /x; mkdir /proc2").ok();
    assert_eq!(done.paths(), ["proc2/", "x"], "no root, no mount points");
    let done = stage.run("rm /lower/a; mv /lower/b /lower/c; echo c >/lower/dir/y").ok();
    let expected = ["lower/", "lower/.wh.a", "lower/.wh.b", "lower/c", "lower/dir/", "lower/dir/y"];
    assert_eq!(done.paths(), expected);
    // A later step builds on it: the whiteout of step 2 is no change of step 3.
    let done = stage.run("test ! -e /lower/a && rm -r /lower/dir && mkdir /lower/dir").ok();
    assert_eq!(done.paths(), ["lower/", "lower/dir/", "lower/dir/.wh..wh..opq"]);
    let done = stage
        .run("echo 1 >/z; ln /z /h; ln /z /lower/h; ln -s nowhere /s; mkfifo -m 600 /f; rm /x")
        .ok();
    assert_eq!(done.paths(), ["f", "h", "lower/", "lower/h -> h", "s", ".wh.x", "z -> h"]);
    let changes = done.changes.unwrap();
    let entry =
        |path: &str| changes.iter().find(|change| change.entry.path == path.as_bytes()).unwrap();
    assert_eq!(entry("h").entry.size, 2);
    assert_eq!(fs::read(entry("h").content.as_ref().unwrap()).unwrap(), b"1\n");
    assert_eq!(entry("s").entry.kind, Kind::Symlink(b"nowhere".to_vec()));
    assert_eq!((&entry("f").entry.kind, entry("f").entry.mode), (&Kind::Fifo, 0o600));
    assert_eq!(entry("z").content, None);
    assert!(!stage.base.join("x").exists());
}

#[test]
fn times_names_modes_and_attributes_are_kept() {
    require_privileges!();
    let mut stage = Stage::new();
    let step = stage.rootfs.begin_step(Isolation::Auto, &[]).unwrap();
    use std::os::unix::ffi::OsStrExt;
    let odd = step.merged().join(std::ffi::OsStr::from_bytes(b"caf\xe9 \n"));
    fs::write(&odd, "x").unwrap();
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o4751)).unwrap();
    xattr::set(&odd, "user.note", b"\0\xff").unwrap();
    xattr::set(&odd, "security.capability", &hex("0100000200000000000000000000000000000000"))
        .unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    fs::File::open(&odd).unwrap().set_modified(time).unwrap();
    let socket = step.merged().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let before = step.root_before().clone();
    let upper = step.finish().unwrap();
    let mut found = changes(&upper, &before, stage.rootfs.overlay_xattrs());
    let all: Vec<_> = found.by_ref().map(Result::unwrap).collect();
    assert_eq!(all.len(), 1);
    let entry = &all[0].entry;
    assert_eq!(entry.path, b"caf\xe9 \n");
    assert_eq!(
        (entry.mode, entry.mtime.seconds, entry.mtime.nanos),
        (0o4751, 1_000_000_000, 123_456_789)
    );
    let names: Vec<_> = entry.xattrs.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(names, [b"security.capability".as_slice(), b"user.note"]);
    assert_eq!(entry.xattrs[1].1, b"\0\xff");
    assert_eq!(found.skipped(), [b"socket".to_vec()]);
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn the_root_itself_changes_by_mode_not_by_time() {
    require_privileges!();
    let mut stage = Stage::new();
    fs::set_permissions(&stage.base, fs::Permissions::from_mode(0o555)).unwrap();
    let done = stage.run("touch /file; ls -ld /").ok();
    assert!(done.lines[0].starts_with("dr-xr-xr-x"), "{:?}", done.lines);
    assert_eq!(done.paths(), ["file"]);
    let done = stage.run("chmod 700 /").ok();
    assert_eq!(done.paths(), ["/"]);
    assert_eq!(done.changes.unwrap()[0].entry.mode, 0o700);
    assert_eq!(stage.run("ls -ld /").ok().lines[0].split(' ').next().unwrap(), "drwx------");
}

#[test]
fn a_file_with_the_name_of_a_whiteout_is_an_error() {
    require_privileges!();
    let mut stage = Stage::new();
    let done = stage.run("mkdir /d; touch /d/.wh.real").ok();
    let error = done.changes.unwrap_err().to_string();
    assert!(error.starts_with("/d/.wh.real cannot be stored in a layer"), "{error}");
}

#[test]
fn mount_points_that_are_missing_leave_no_trace() {
    require_privileges!();
    let mut stage = Stage::with(|root| {
        install_tools(root);
        // As systemd-resolved has it, dangling in an image.
        symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
    });
    let done =
        stage.run("cat /etc/resolv.conf; echo changed >/etc/resolv.conf; ls /proc/1/ns").ok();
    let host = fs::read_to_string("/etc/resolv.conf").unwrap();
    let lines: Vec<_> = host.lines().collect();
    assert_eq!(done.lines[..lines.len()], lines);
    assert_eq!(done.paths(), Vec::<String>::new());
    assert_eq!(fs::read_to_string("/etc/resolv.conf").unwrap(), host);
    let done = stage.run("touch /etc/new").ok();
    assert_eq!(done.paths(), ["etc/", "etc/new"]);
}

/// A cluster rootfs: no shell, some programs of its own.
fn cluster(root: &Path) {
    fs::create_dir(root.join("bin")).unwrap();
    fs::write(root.join("bin/own-tool"), "#!/bin/sh\necho own\n").unwrap();
    fs::set_permissions(root.join("bin/own-tool"), fs::Permissions::from_mode(0o755)).unwrap();
    // Leads to nothing inside the root, though it does on the host.
    symlink("/usr/bin/dash", root.join("bin/sh")).unwrap();
}

#[test]
fn a_rootfs_without_a_shell_gets_the_hosts_tools() {
    require_privileges!();
    let mut stage = Stage::with(cluster);
    let done = stage.run("own-tool; ls; mkdir manifests; echo a >manifests/b; echo $HOME").ok();
    assert_eq!(done.isolation, Isolation::Host);
    assert_eq!(done.lines, ["own", "bin", "/tmp"]);
    assert_eq!(done.paths(), ["manifests/", "manifests/b"]);
    let inside = |command: &mut Command| command.cwd = "/manifests".into();
    let done = stage.run_as("cat b; cat /etc/resolv.conf", Isolation::Auto, inside).ok();
    assert_eq!(done.lines[0], "a");
    assert!(done.lines.len() > 1, "name resolution works");
}

#[test]
fn the_hosts_tools_cannot_write_to_the_host() {
    require_privileges!();
    let outside = scratch();
    let victim = outside.path().join("victim");
    fs::write(&victim, "safe").unwrap();
    let mut stage = Stage::with(cluster);
    let done =
        stage.run("echo x >/tmp/kfs-private && echo y >/var/tmp/kfs-private && ls /tmp /run").ok();
    assert!(!done.lines.iter().any(|line| line.contains("tmp.")), "{:?}", done.lines);
    assert!(!Path::new("/tmp/kfs-private").exists() && !Path::new("/var/tmp/kfs-private").exists());
    let victim = victim.display();
    let below_tmp = ["/tmp", "/var/tmp"].iter().any(|tmp| stage.base.starts_with(tmp));
    for forbidden in [
        format!("echo bad >{victim}"),
        format!("rm {victim}"),
        "touch /etc/kfs-was-here".to_owned(),
        "touch /usr/kfs-was-here".to_owned(),
        "touch /root/kfs-was-here".to_owned(),
        "touch /run/kfs-was-here".to_owned(),
        // Of a rootfs below /tmp, that is the step's own /tmp.
        if below_tmp { "false".to_owned() } else { "touch ../kfs-was-here".to_owned() },
        "mknod sda b 254 0".to_owned(),
        "mknod /tmp/sda b 254 0".to_owned(),
        "test -e /dev/vda || test -e /dev/sda || test -e /dev/mem".to_owned(),
        "mount -o remount,rw /".to_owned(),
        "mount -t tmpfs none /mnt".to_owned(),
        "unshare -Urm true".to_owned(),
        "echo h >/proc/sysrq-trigger".to_owned(),
        "echo 0 >/proc/sys/kernel/printk".to_owned(),
        "echo 1 >/sys/kernel/profiling".to_owned(),
        "mkdir /sys/fs/cgroup/kfs-was-here".to_owned(),
        "kill -0 $PPID_OF_TEST".to_owned(),
    ] {
        let pid = std::process::id().to_string();
        let done = stage.run_as(&forbidden, Isolation::Auto, |command| {
            command.env.push(("PPID_OF_TEST".into(), OsString::from(&pid)));
        });
        assert_ne!(status(&done), Status::Exited(0), "{forbidden}: {:?}", done.lines);
    }
    assert_eq!(fs::read_to_string(outside.path().join("victim")).unwrap(), "safe");
}

#[test]
fn a_rootfs_below_a_hidden_directory_stays_reachable() {
    require_privileges!();
    for place in ["/tmp", "/var/tmp"] {
        let dir = tempfile::tempdir_in(place).unwrap();
        let root = dir.path().join("deep/rootfs");
        fs::create_dir_all(&root).unwrap();
        let mut command = shell(&root, "echo made >here; ls /tmp; pwd");
        command.isolation = Isolation::Host;
        let mut lines = Vec::new();
        let outcome = Sandbox::with_program(KFS)
            .run(&command, &mut |line| lines.push(String::from_utf8_lossy(line).into_owned()))
            .unwrap();
        assert_eq!(outcome.status, Status::Exited(0), "{lines:?}");
        assert_eq!(fs::read_to_string(root.join("here")).unwrap(), "made\n");
        assert_eq!(lines.last().unwrap(), root.to_str().unwrap());
    }
}

#[test]
fn a_dropped_step_leaves_nothing() {
    require_privileges!();
    let mut stage = Stage::new();
    let work = stage.base.parent().unwrap().join("work");
    let step = stage.rootfs.begin_step(Isolation::Auto, &[]).unwrap();
    fs::write(step.merged().join("file"), "x").unwrap();
    drop(step);
    let left: Vec<_> =
        fs::read_dir(&work).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["s"]);
    assert!(!mounts().contains(work.to_str().unwrap()));
    drop(stage.rootfs);
    assert!(!work.exists());
}

fn mounts() -> String {
    fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
}

#[test]
fn a_stage_may_have_a_hundred_steps() {
    require_privileges!();
    let mut stage = Stage::with(|root| fs::write(root.join("base"), "").unwrap());
    for number in 0..120 {
        let step = stage.rootfs.begin_step(Isolation::Host, &[]).unwrap();
        fs::write(step.merged().join(format!("f{number}")), "").unwrap();
        step.finish().unwrap();
    }
    let step = stage.rootfs.begin_step(Isolation::Host, &[]).unwrap();
    assert_eq!(fs::read_dir(step.merged()).unwrap().count(), 121);
}

#[test]
fn an_empty_rootfs_is_empty() {
    require_privileges!();
    let dir = scratch();
    let mut rootfs = LiveRootfs::new(&dir.path().join("a:b,c\\d"), &[]).unwrap();
    let step = rootfs.begin_step(Isolation::Auto, &[]).unwrap();
    assert_eq!(step.isolation(), Isolation::Host);
    assert_eq!(fs::read_dir(step.merged()).unwrap().count(), 0);
    assert_eq!(fs::metadata(step.merged()).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn overlay_on_overlay_is_refused_with_advice() {
    require_privileges!();
    let mut stage = Stage::new();
    let step = stage.rootfs.begin_step(Isolation::Auto, &[]).unwrap();
    let error = LiveRootfs::new(&step.merged().join("work"), &[]).unwrap_err();
    assert!(matches!(error, RootfsError::Unfit { kind: "overlayfs", .. }), "{error}");
    assert!(error.to_string().contains("--root"), "{error}");
}

/// Runs in a process of its own, which the test below kills.
#[test]
fn victim_of_the_test_below() {
    if std::env::var_os("KFS_TEST_VICTIM").is_none() {
        return;
    }
    require_privileges!();
    let mut stage = Stage::new();
    let step = stage.rootfs.begin_step(Isolation::Auto, &[]).unwrap();
    let command = shell(&step.merged(), "setsid sleep 314159 & sleep 271828 & echo ready; wait");
    Sandbox::with_program(KFS)
        .run(&command, &mut |line| println!("victim {}", String::from_utf8_lossy(line)))
        .unwrap();
}

#[test]
fn killing_the_build_leaves_no_process_and_no_mount() {
    require_privileges!();
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim_of_the_test_below", "--nocapture"])
        .env("KFS_TEST_VICTIM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let ready = output.lines().map(Result::unwrap).any(|line| line.contains("victim ready"));
    assert!(ready, "the victim never came up");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !(running("sleep\x00314159") && running("sleep\x00271828")) {
        assert!(Instant::now() < deadline, "the command never came up");
        std::thread::sleep(Duration::from_millis(10));
    }
    let family = family(victim.id());
    assert!(family.len() >= 6, "build, sandbox, init, shell and two sleeps: {family:?}");
    victim.kill().unwrap();
    victim.wait().unwrap();
    while family.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
        assert!(Instant::now() < deadline, "left of {family:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    let all = fs::read_to_string("/proc/1/mountinfo").unwrap();
    assert!(!all.contains(env!("CARGO_TARGET_TMPDIR")), "{all}");
}

#[test]
fn steps_run_in_a_user_namespace_too() {
    require_privileges!();
    let tests = [
        "a_layer_tells_what_a_step_did",
        "a_rootfs_without_a_shell_gets_the_hosts_tools",
        "the_hosts_tools_cannot_write_to_the_host",
        "status_signal_and_output_come_back",
    ];
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user"])
        .arg(std::env::current_exe().unwrap())
        .arg("--exact")
        .args(tests)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains("running 4 tests") {
        let error = String::from_utf8_lossy(&output.stderr);
        return skip(format_args!("no user namespaces: {error}"));
    }
    assert!(output.status.success(), "{text}");
}
