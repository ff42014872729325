//! RUN: what it sees of the world, and what becomes of what it does.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::host_tools::install_program;
use crate::workshop::Workshop;

/// Instructions and what the environment of a RUN says of them.
#[test]
fn a_run_sees_what_the_file_says() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = "\
# escape=`
ARG TAG=base
FROM ${TAG}
ARG VERSION=1
ARG UNSET
ARG HIDDEN=arg
ENV HIDDEN=env OTHER=\"two words\"
WORKDIR /srv
WORKDIR app
USER app:0
RUN echo `
    $VERSION ${UNSET-unset} $HIDDEN \"$OTHER\" $PWD $HOME $(id -u):$(id -g)
";
    let args = ["--build-arg", "VERSION=2", "--build-arg", "HIDDEN=given"];
    let said = shop.build_with(text, &args).last_run();
    assert_eq!(said, "2 unset env two words /srv/app / 1000:0");
    let text = "FROM base\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN false; echo not reached\n";
    assert!(shop.fails(text, &[]).contains("exit status 1"));
    let text = "FROM base\nRUN [\"/bin/echo\", \"$HOME\", \"a  b\"]\n";
    assert_eq!(shop.build(text).last_run(), "$HOME a  b");
    let text = "FROM base\nRUN <<E\nx=one\necho $x &&\n  echo two\nE\n";
    assert_eq!(shop.build(text).last_run(), "one\ntwo");
    let text = "FROM base\nRUN readlink /proc/self/fd/0; cat; hostname; echo $$\n";
    let said = shop.build(text).last_run();
    assert!(said.starts_with("/dev/null\nkfs-build\n"), "{said}");
}

#[test]
fn the_language_and_the_rootfs_decide_about_the_isolation() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.import("bare", |root| fs::create_dir(root.join("bin")).unwrap());
    let look = "if test -e /usr/bin/dpkg || test -e /work; then echo host; else echo container; fi";
    fs::metadata("/usr/bin/dpkg").expect("a Debian machine");
    for (file, base, args, expected) in [
        ("Kubefile", "base", &[][..], "container"),
        ("Kubefile", "bare", &[], "host"),
        ("Kubefile", "scratch", &[], "host"),
        ("Dockerfile", "base", &[], "container"),
        ("Dockerfile", "base", &["--isolation", "host"], "host"),
    ] {
        let output = shop.try_build(file, &format!("FROM {base}\nRUN {look}\n"), args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(&format!("      {expected}\n")), "{file} {base} {args:?}: {said}");
    }
    // A Dockerfile has nothing but the image.
    for base in ["bare", "scratch"] {
        let said = shop.fails(&format!("FROM {base}\nRUN true\n"), &[]);
        assert!(said.contains("execute /bin/sh"), "{said}");
    }
    let output = shop.try_build("Kubefile", "FROM bare\nRUN true\n", &["--isolation", "container"]);
    assert!(!output.status.success());
    // What a step brings is there for the next.
    shop.write("program", "#!/bin/sh\necho from the rootfs\n");
    let text = "FROM bare\nCOPY --chmod=755 program bin/\nRUN program && pwd | grep -c /\n";
    let output = shop.try_build("Kubefile", text, &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("      from the rootfs\n      1\n"), "{said}");
}

/// A program needs no shell, and none of this machine.
#[test]
fn a_program_runs_in_an_image_without_a_shell() {
    let Some(shop) = Workshop::with(|root| {
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        install_program(root, Path::new("/usr/bin/stat"));
    }) else {
        return;
    };
    let text = "FROM base\nRUN [\"/usr/bin/stat\", \"-c\", \"%n %F\", \"/\"]\n";
    assert_eq!(shop.build(text).last_run(), "/ directory");
    let text = "FROM base\nRUN [\"/usr/bin/stat\", \"/usr/bin/dpkg\"]\n";
    shop.fails(text, &[]);
}

#[test]
fn what_a_run_leaves_behind_is_not_there_any_more() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = "\
FROM base
RUN setsid sleep 1000 & sleep 1000 & echo done
RUN echo x >/dev/shm/x; echo x >/dev/x; touch /tmp/kept; echo changed >>/etc/hosts
RUN ls /dev/shm /dev/x /tmp; grep -c changed /etc/hosts; true
";
    let start = std::time::Instant::now();
    let said = shop.build(text).last_run();
    assert!(start.elapsed().as_secs() < 60);
    assert!(said.contains("/dev/x': No such file"), "{said}");
    assert!(said.contains("/dev/shm:\n\n/tmp:\nkept\n0"), "{said}");
    let files = shop.files("new");
    assert!(files.contains(&"tmp/kept".to_owned()));
    for path in ["dev/", "proc/", "sys/", "etc/hosts", "etc/resolv.conf"] {
        assert!(!files.contains(&path.to_owned()), "{path}");
    }
    shop.assert_nothing_left();
}

#[test]
fn a_run_that_deletes_everything_leaves_nothing() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "file");
    // What the sandbox mounts cannot be removed, nor a directory that it lies in.
    let build = |text: &str| {
        let output = shop.try_build("Kubefile", text, &[]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let text = "# copy=docker\nFROM base\nRUN rm -rf /* 2>/dev/null; true\nCOPY file /a/b\n";
    let said = build(text);
    assert_eq!(shop.files("new"), ["a/", "a/b", "etc/"], "{said}");
    // Another RUN on that, with the layers from the cache.
    let text = format!("{text}RUN echo $(find . -mindepth 1 | sort)\n");
    let said = build(&text);
    assert!(said.contains("      ./a ./a/b ./etc\n"), "{said}");
}

#[test]
fn a_run_changes_a_hundred_thousand_files() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = "\
FROM base
RUN mkdir /many && cd /many && i=0 && \
    while [ $i -lt 100 ]; do mkdir $i && j=0 && \
    while [ $j -lt 1000 ]; do : >$i/$j; j=$((j+1)); done; i=$((i+1)); done
RUN find /many | sort | sha256sum; rm -r /many
";
    let built = shop.build(text);
    // Of the hundred directories, with all that is in them, and /many itself.
    let mut names = vec!["/many".to_owned()];
    for i in 0..100 {
        names.push(format!("/many/{i}"));
        names.extend((0..1000).map(|j| format!("/many/{i}/{j}")));
    }
    names.sort();
    let list = kfs_fs::digest::Digest::of((names.join("\n") + "\n").as_bytes());
    assert_eq!(built.last_run(), format!("{}  -", list.hex()));
    assert!(!shop.files("new").contains(&"many/".to_owned()));
    shop.assert_nothing_left();
}

#[test]
fn layers_are_written_while_the_next_run_goes_on() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = "\
FROM base
RUN dd if=/dev/urandom of=/1 bs=1048576 count=4 2>/dev/null
ENV A=b
RUN cat /1 >/2 && rm /1
RUN cat /2 >/3
LABEL c=d
RUN stat -c %s /3
WORKDIR /w
RUN ls /
";
    let built = shop.build(text);
    for index in [2, 4, 5] {
        assert!(built.said.contains(&format!("      [{index}/9] layer ")), "{}", built.said);
    }
    assert!(built.said.contains("\n      4194304\n"), "{}", built.said);
    let inspected = shop.inspect("new");
    let history = inspected["config"]["history"].as_array().unwrap();
    let lines: Vec<_> =
        history.iter().map(|step| step["created_by"].as_str().unwrap_or_default()).collect();
    let with = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    let order = ["of=/1", "ENV A", ">/2", ">/3", "LABEL", "stat", "WORKDIR", "ls /"].map(with);
    assert!(order.is_sorted(), "{lines:?}");
    assert_eq!(inspected["layers"].as_array().unwrap().len(), 7);
    assert_eq!(shop.build(text).cached(), 6);
    // What a build has done before it fails is not done again.
    let failing =
        "FROM base\nRUN dd if=/dev/urandom of=/x bs=65536 count=99 2>/dev/null\nRUN false\n";
    shop.fails(failing, &[]);
    assert_eq!(shop.build(&failing.replace("false", "true")).cached(), 1);
    // A layer that cannot be made is a fault of its own line, whatever the next one does.
    for next in ["echo next", "false"] {
        let said = shop.fails(&format!("FROM base\nRUN touch /tmp/.wh.x\nRUN {next}\n"), &[]);
        assert!(said.contains("kfs: Dockerfile:2: "), "{said}");
        assert!(said.contains("/tmp/.wh.x cannot be stored in a layer"), "{said}");
        assert!(said.contains("    2 | RUN touch"), "{said}");
    }
    shop.assert_nothing_left();
}

#[test]
fn devices_are_made_by_copy_only() {
    let Some(shop) = Workshop::with_base() else { return };
    let said = shop.fails("FROM base\nRUN mknod /null c 1 3\n", &[]);
    assert!(said.contains("Operation not permitted"), "{said}");
    nix::sys::stat::mknod(
        &shop.path("context/null"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::from_bits_truncate(0o666),
        nix::sys::stat::makedev(1, 3),
    )
    .unwrap();
    // It is there, but opens no device of the host.
    let text = "FROM base\nCOPY null /null\nRUN stat -c %t:%T:%F /null; echo x >/null; echo $?\n";
    let said = shop.build(text).last_run();
    assert!(said.starts_with("1:3:character special file\n"), "{said}");
    assert!(said.contains("Permission denied") && said.ends_with('2'), "{said}");
    shop.mounted("new", |root| {
        let metadata = fs::symlink_metadata(root.join("null")).unwrap();
        assert_eq!(metadata.rdev(), nix::sys::stat::makedev(1, 3));
    });
}

#[test]
fn output_without_end_is_passed_on() {
    let Some(shop) = Workshop::with_base() else { return };
    fs::write(
        shop.path("Dockerfile"),
        "FROM base\nRUN dd if=/dev/zero bs=1048576 count=256 2>/dev/null | tr '\\0' 'x'; \
         echo; printf 'caf\\351 \\033[2J'; echo; printf 'a\\rb\\r\\n'; exit 7\n",
    )
    .unwrap();
    let mut build = shop.kfs(&["build", "-f", "Dockerfile", "context"]);
    build.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut child = build.spawn().unwrap();
    let (mut seen, mut last) = (0, Vec::new());
    let mut stderr = child.stderr.take().unwrap();
    let mut peak = 0;
    let mut piece = vec![0; 1 << 20];
    loop {
        let n = std::io::Read::read(&mut stderr, &mut piece).unwrap();
        if n == 0 {
            break;
        }
        seen += n;
        last.extend_from_slice(&piece[..n]);
        last.drain(..last.len().saturating_sub(1 << 20));
        if seen % (16 << 20) < n {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            peak = peak.max(line.trim().trim_end_matches(" kB").parse::<usize>().unwrap());
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(seen > 256 << 20, "{seen}");
    assert!(peak < 100 << 10, "{peak} KiB");
    let last = String::from_utf8_lossy(&last);
    assert!(last.contains(": exit status 7\n"), "{last}");
    assert!(last.contains("  caf\u{fffd} \\u{1b}[2J\n"), "{last}");
    shop.assert_nothing_left();
}

#[test]
fn a_failing_run_is_told_and_leaves_nothing() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.build("FROM base\nRUN echo kept >/kept\n");
    let images = shop.ok(&["images", "--format", "json"]);
    let text = "\
FROM base
RUN echo kept >/kept
ENV A=b
RUN echo first; \\
    dd if=/dev/zero of=/big bs=1048576 count=50 2>/dev/null; \\
    # a comment
    i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); done; \\
    sleep 1000 & exit 42
RUN echo not reached
";
    let said = shop.fails(text, &[]);
    assert!(said.contains("kfs: Dockerfile:4: RUN echo first;"), "{said}");
    assert!(
        said.contains(": exit status 42\n    4 | RUN echo first; \\\n    5 |     dd if"),
        "{said}"
    );
    assert!(said.ends_with("  line 28\n  line 29\n"), "{said}");
    assert!(!said.contains("not reached") && said.contains("\n  line 10\n"), "{said}");
    assert_eq!(shop.ok(&["images", "--format", "json"]), images);
    shop.assert_nothing_left();
    for (run, expected) in [
        ("kill -9 $$", "signal 9 (SIGKILL)"),
        ("false", "it printed nothing"),
        ("/no/such/program", "exit status 127"),
        ("exec /etc/passwd", "exit status 126"),
    ] {
        let said = shop.fails(&format!("FROM base\nRUN {run}\n"), &[]);
        assert!(said.contains(expected), "{said}");
    }
    let said = shop.fails("FROM base\nRUN [\"/no/such/program\"]\n", &[]);
    assert!(said.contains("Dockerfile:2: execute /no/such/program: No such file"), "{said}");
    let said = shop.fails("FROM base\nUSER nobody\nRUN true\n", &[]);
    assert!(said.contains("Dockerfile:3: user \"nobody\" is not in /etc/passwd"), "{said}");
    let said = shop.fails("FROM base\nWORKDIR /w\nRUN rmdir /w\nRUN true\n", &[]);
    assert!(said.contains("Dockerfile:4: working directory /w of the step"), "{said}");
    let said = shop.fails("FROM base\nRUN touch /tmp/.wh.x\n", &[]);
    assert!(said.contains("/tmp/.wh.x cannot be stored in a layer"), "{said}");
    shop.assert_nothing_left();
}

/// Other users of a RUN get at what the build made for it, and nothing of who started it is in a
/// layer.
#[test]
fn the_umask_of_the_caller_is_not_that_of_a_run() {
    let Some(shop) = Workshop::with(|root| {
        crate::workshop::install(root);
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(root.join("lower"), open).unwrap();
    }) else {
        return;
    };
    shop.write("file", "file\n");
    shop.write("hidden", "");
    shop.write(".dockerignore", "hidden\n.*\n");
    let text = "FROM base\nUSER app\n\
        RUN --mount=target=/ctx --mount=target=/a/b/file,source=file \
            cat /ctx/file /a/b/file && grep -c kfs-build /etc/hosts && cat /etc/resolv.conf >/dev/null && \
            touch /lower/new && stat -c %a /lower/new\n";
    fs::write(shop.path("Dockerfile"), text).unwrap();
    let kfs = shop.kfs(&["build", "-f", "Dockerfile", "-t", "new", "context"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(kfs.get_program()).args(kfs.get_args());
    shell.current_dir(shop.path(".")).env("KFS_PULL", "never").env("KFS_ROOT", shop.path("store"));
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("      file\n      file\n      1\n      644\n"), "{said}");
}
