//! Mounts as a user makes and ends them. Needs root and /dev/fuse; without them each test says
//! that it is skipped.

mod ahead;
mod crowd;
mod offline;
mod reading;
mod remote;
mod sandbox;
#[path = "../skip/mod.rs"]
mod skip;
mod survival;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use sandbox::{Sandbox, User, assert_success, runs, send, wait_until};
use serde_json::Value;

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

    let (supervisor, server) = (sandbox.supervisor(), sandbox.server());
    sandbox.ok(&["umount", "mnt"]);
    assert!(!runs(supervisor) && !runs(server));
    sandbox.assert_nothing_left();
    assert_eq!(fs::read_dir(&mnt).unwrap().count(), 0);
    assert_eq!(sandbox.mounts(), [] as [Value; 0]);
}

#[test]
fn any_umount_ends_the_processes() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mnt = sandbox.path("mnt");
    for program in [&["umount"][..], &["fusermount3", "-u"]] {
        for mode in [&["mount", "test", "mnt"][..], &["mount", "--rw", "test", "mnt"]] {
            if program[0] == "fusermount3" && mode.len() == 4 {
                continue; // an overlay is none of its business
            }
            sandbox.ok(mode);
            let supervisor = sandbox.supervisor();
            assert_success(Command::new(program[0]).args(&program[1..]).arg(&mnt));
            sandbox.assert_ends(supervisor);
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
        let supervisor = sandbox.supervisor();
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
        assert!(runs(supervisor));
        // The mount point is free for the next.
        sandbox.ok(&["mount", "test", "mnt"]);
        sandbox.ok(&["umount", "mnt"]);
        drop(open);
        sandbox.assert_ends(supervisor);
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
fn what_killed_processes_leave_is_cleared_away() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mnt = sandbox.path("mnt");
    for mode in [&["mount", "test", "mnt"][..], &["mount", "--rw", "test", "mnt"]] {
        for next in [&["umount", "mnt"][..], &["mounts"], &["umount", "--all"]] {
            sandbox.ok(mode);
            sandbox.kill_both();
            assert!(fs::read(mnt.join("etc/motd")).is_err());
            sandbox.ok(next);
            sandbox.assert_nothing_left();
        }
        sandbox.ok(mode);
        sandbox.kill_both();
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
    let supervisor = sandbox.signal_supervisor(Signal::SIGTERM);
    sandbox.assert_ends(supervisor);

    // In use: it is detached, and the second signal cuts the user off.
    sandbox.ok(&["mount", "test", "mnt"]);
    let user = User::of(&sandbox.path("mnt/etc"));
    let supervisor = sandbox.signal_supervisor(Signal::SIGTERM);
    wait_until("it is detached", || sandbox.mounts()[0]["attached"] == false);
    assert!(runs(supervisor));
    send(supervisor, Signal::SIGTERM);
    sandbox.assert_ends(supervisor);
    drop(user);
}

#[test]
fn foreground_ends_with_ctrl_c_or_umount() {
    let Some(sandbox) = Sandbox::new() else { return };
    for by_signal in [true, false] {
        let mut kfs = sandbox.command(&["mount", "-f", "test", "mnt"]);
        let mut child = kfs.stderr(Stdio::null()).spawn().unwrap();
        wait_until("it is listed", || sandbox.mounts().len() == 1);
        assert!(sandbox.path("mnt/etc/motd").exists());
        if by_signal {
            send(child.id(), Signal::SIGINT);
        } else {
            assert_eq!(sandbox.supervisor(), child.id());
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
    let supervisor = sandbox.supervisor();
    assert_success(Command::new("umount").arg(sandbox.path("second")));
    sandbox.assert_ends(supervisor);
    assert!(upper.join("new").exists() && !sandbox.path(".upper.kfs-work").exists());

    // Killed processes take nothing along.
    sandbox.ok(&["mount", "--upper", "upper", "test", "mnt"]);
    sandbox.kill_both();
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
    let server = sandbox.server();
    send(server, Signal::SIGSTOP);
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
fn the_processes_hold_nothing_of_its_caller() {
    let Some(sandbox) = Sandbox::new() else { return };
    // `output` waits for the end of the pipe that is also descriptor 9.
    let kfs = env!("CARGO_BIN_EXE_kfs");
    let mut command = Command::new("sh");
    command.args(["-c", "exec 9>&1; \"$0\" mount test mnt", kfs]);
    command.current_dir(sandbox.dir.path()).env("KFS_ROOT", sandbox.path("store"));
    assert_success(&mut command);
    for process in [sandbox.supervisor(), sandbox.server()] {
        let cwd = fs::read_link(format!("/proc/{process}/cwd")).unwrap();
        assert_eq!(cwd, Path::new("/"));
    }
    sandbox.ok(&["umount", "mnt"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_mount_of_another_namespace_is_ended_by_its_supervisor() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut command = Command::new("unshare");
    command.args(["-m", env!("CARGO_BIN_EXE_kfs"), "mount", "test", "mnt"]);
    command.current_dir(sandbox.dir.path()).env("KFS_ROOT", sandbox.path("store"));
    assert_success(&mut command);
    assert!(!sandbox.path("mnt/etc").exists());
    let (supervisor, server) = (sandbox.supervisor(), sandbox.server());
    sandbox.ok(&["umount", "mnt"]);
    assert!(!runs(supervisor) && !runs(server));
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
