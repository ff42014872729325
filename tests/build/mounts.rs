//! RUN --mount, --network and what the user passes to RUN: what is there, and that it leaves
//! nothing behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;

use crate::workshop::Workshop;

const SECRET: &str = "correct horse battery staple";

/// All that a build leaves: blobs (unpacked by kfs where they are layers), cache, indexes.
fn left_behind(shop: &Workshop) -> Vec<u8> {
    let mut all = Vec::new();
    let mut open = vec![shop.path("store")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.extend(path.to_str().unwrap().bytes());
                all.extend(fs::read(path).unwrap());
            }
        }
    }
    all.extend(shop.kfs(&["inspect", "new"]).output().unwrap().stdout);
    all
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_secret_is_seen_by_its_run_and_nowhere_else() {
    let Some(shop) = Workshop::with_base() else { return };
    fs::write(shop.path("password"), format!("{SECRET}\n")).unwrap();
    let text = "FROM base\n\
        RUN --mount=type=secret,id=pw cat /run/secrets/pw | tr a-z A-Z >/upper && ls -l /run/secrets/pw\n\
        RUN --mount=type=secret,id=pw,target=/etc/pw,mode=0440,uid=3,gid=4 stat -c '%a %u %g' /etc/pw\n\
        RUN --mount=type=secret,id=pw,env=PW test \"$PW\" && echo \"$PW\" && ! ls /run/secrets/pw\n\
        RUN --mount=type=secret,id=other ! ls /run/secrets/other; ls / /etc\n";
    let args = ["--secret", "id=pw,src=password", "--compression", "uncompressed"];
    let built = shop.build_with(text, &args);
    assert!(built.said.contains("\n      440 3 4\n"), "{}", built.said);
    assert!(built.said.contains("\n      ***\n"), "{}", built.said);
    assert!(built.said.contains("-r-------- 1 root 0"), "{}", built.said);
    let run = built.last_run();
    assert!(!run.contains("run\n") && !run.lines().any(|line| line == "pw"), "{run}");
    assert_eq!(shop.ok(&["cat", "new", "/upper"]).trim(), SECRET.to_uppercase());
    assert!(!holds(built.said.as_bytes(), SECRET));
    assert!(!holds(&left_behind(&shop), SECRET));
    // The value is no part of the key.
    fs::write(shop.path("password"), "another one").unwrap();
    assert_eq!(shop.build_with(text, &args).cached(), 4);
    let failing = "FROM base\nRUN --mount=type=secret,id=pw cat /run/secrets/pw; exit 3\n";
    let said = shop.fails(failing, &args);
    assert!(said.contains("***") && !said.contains("another one"), "{said}");
    let needed = "FROM base\nRUN --mount=type=secret,id=pw,required true\n";
    let said = shop.fails(needed, &[]);
    assert!(said.contains("Dockerfile:2:") && said.contains("--secret id=pw,src=FILE"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn binds_show_the_context_stages_and_images() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("sub/file", "context\n");
    shop.write("hidden", "hidden");
    let text = "FROM base AS made\nRUN mkdir /made && echo stage >/made/file\n\
        FROM base\n\
        RUN --mount=target=/ctx cat /ctx/sub/file && ! touch /ctx/sub/new\n\
        RUN --mount=target=/a/b/file,source=sub/file cat /a/b/file\n\
        RUN --mount=from=made,source=made,target=works,rw cat /works/file && echo >/works/new && ls /works\n\
        RUN --mount=from=base,target=/img --mount=type=tmpfs,target=/mem,size=4096 \
            ls /img/usr/bin/sh && ! dd if=/dev/zero of=/mem/x bs=8192 count=1 2>/dev/null\n\
        RUN ls / | tr '\\n' ' '\n";
    let built = shop.build(text);
    assert!(built.said.matches("] context\n").count() == 2, "{}", built.said);
    assert!(built.said.contains("] stage\n") && built.said.contains("] new\n"), "{}", built.said);
    let seen = built.said.lines().rfind(|line| line.contains(" usr ")).unwrap();
    assert_eq!(seen.trim(), "[stage-1] bin dev etc lib lib64 lower proc sys tmp usr");
    assert!(!shop.files("new").iter().any(|f| f.starts_with("works") || f.starts_with("ctx")));
    assert_eq!(shop.build(text).cached(), 6);
    shop.write("sub/file", "changed\n");
    assert_eq!(shop.build(text).cached(), 1);
    // What is ignored is not shown either.
    shop.write(".dockerignore", "hidden\n");
    let built = shop.build("FROM base\nRUN --mount=target=/ctx,rw ls /ctx && touch /ctx/x\n");
    assert_eq!(built.last_run(), "sub");
    assert!(!shop.path("context/x").exists());
    let said = shop.fails("FROM base\nRUN --mount=target=/x,source=../.. ls /x/etc\n", &[]);
    assert!(!said.contains("passwd"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn caches_are_kept_from_build_to_build() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = |n: &str, options: &str| {
        format!("FROM base\nRUN --mount=type=cache,{options} echo {n} >>/c/list && cat /c/list\n")
    };
    let last = |n: &str, options: &str| shop.build(&text(n, options)).last_run();
    assert_eq!(last("1", "target=/c"), "1");
    assert_eq!(last("2", "target=/c"), "1\n2");
    assert_eq!(last("3", "target=c,sharing=locked"), "1\n2\n3");
    assert_eq!(last("4", "id=other,target=/c,mode=0700,uid=5"), "4");
    assert_eq!(last("5", "target=/c,sharing=private"), "1\n2\n3\n5");
    assert_eq!(shop.build(&text("5", "target=/c,sharing=private")).cached(), 1);
    let from = "FROM base AS a\nRUN mkdir /s && echo first >/s/list\nFROM base\n\
                RUN --mount=type=cache,target=/c,from=a,source=/s echo more >>/c/list && cat /c/list\n\
                RUN --mount=type=cache,target=/c,from=a,source=/s,ro cat /c/list && ! touch /c/x\n";
    let built = shop.build(from);
    assert_eq!(built.said.matches("] first\n").count(), 2, "{}", built.said);
    assert_eq!(built.said.matches("] more\n").count(), 2, "{}", built.said);
    assert!(!shop.files("new").contains(&"c/".to_owned()));
    shop.assert_nothing_left();
}

/// Neither does a RUN wait for itself, nor do two for each other.
#[test]
fn locked_caches_are_taken_once_and_in_one_order() {
    let Some(shop) = Workshop::with_base() else { return };
    let locked = |id: &str, target: &str| {
        format!("--mount=type=cache,sharing=locked,id={id},target={target}")
    };
    let twice = format!(
        "FROM base\nRUN {} --mount=type=cache,id=a,target=/b echo x >/a/x && cat /b/x\n",
        locked("a", "/a")
    );
    assert_eq!(shop.build(&twice).last_run(), "x");
    let twice = twice.replace("id=a,target=/b", "id=a,target=/b,sharing=locked,ro");
    assert_eq!(shop.build(&twice).last_run(), "x");
    let stage = |name: &str, first: &str, second: &str| {
        let mounts = format!("{} {}", locked(first, "/a"), locked(second, "/b"));
        let runs: String = (0..4).map(|n| format!("RUN {mounts} sleep 0.1; echo {n}\n")).collect();
        format!("FROM base AS {name}\n{runs}RUN echo {name} >/{name}\n")
    };
    let text = format!(
        "{}{}FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
        stage("one", "x", "y"),
        stage("two", "y", "x")
    );
    shop.build(&text);
    shop.assert_nothing_left();
}

/// The key was made of what was there before.
#[test]
fn a_run_whose_context_changes_under_it_is_not_kept() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("file", "one");
    // Only the first time, which the cache tells, it waits for the change.
    let text = "FROM base\n\
        RUN --mount=target=/ctx --mount=type=cache,target=/c cat /ctx/file >/read; \
            [ -e /c/waited ] || { touch /c/waited; echo 'it is' read; \
            until [ two = \"$(cat /ctx/file)\" ]; do sleep 0.1; done; }\n\
        RUN cat /read\n";
    let mut said = String::new();
    let mut build = shop.start_build(text);
    for line in BufReader::new(build.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("it is read") {
            shop.write("file", "two");
        }
        said = said + &line + "\n";
    }
    assert!(build.wait().unwrap().success(), "{said}");
    let warning = "Dockerfile:2: files of the context changed while the command ran";
    assert!(said.contains(warning), "{said}");
    shop.write("file", "one");
    let built = shop.build(text);
    assert_eq!((built.cached(), built.last_run()), (0, "one".to_owned()));
    assert!(!built.said.contains(warning));
    assert_eq!(shop.build(text).cached(), 2);
}

/// Whatever their order, one below another is to be seen; its place in that is made.
#[test]
fn mounts_lie_in_mounts() {
    let Some(shop) = Workshop::with_base() else { return };
    shop.write("sub/file", "context\n");
    let text = "FROM base\n\
        RUN --mount=type=cache,target=/c/in/er,id=b --mount=type=cache,target=/c,id=a \
            echo b >/c/in/er/x && echo a >/c/x && cat /c/x /c/in/er/x\n\
        RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/t/c,id=b cat /t/c/x\n\
        RUN --mount=type=cache,target=/c,id=a --mount=type=tmpfs,target=/c/t \
            --mount=target=/c/one/file,source=sub/file cat /c/one/file && touch /c/t/x\n\
        RUN --mount=target=/ctx,rw --mount=type=tmpfs,target=/ctx/new touch /ctx/new/x\n\
        RUN --mount=target=/ctx --mount=type=tmpfs,target=/ctx/sub ls /ctx/sub && touch /ctx/sub/x\n";
    let built = shop.build(text);
    assert!(built.said.contains("      a\n      b\n"), "{}", built.said);
    assert!(built.said.contains("      context\n"), "{}", built.said);
    let left: Vec<_> = shop.files("new").into_iter().filter(|f| f.len() < 4).collect();
    assert!(!left.iter().any(|f| f.starts_with(['c', 't']) && f != "tmp/"), "{left:?}");
    let text = "FROM base\nRUN --mount=target=/ctx --mount=type=tmpfs,target=/ctx/none true\n";
    let said = shop.fails(text, &[]);
    assert!(said.contains("Dockerfile:2:") && said.contains("ctx/none"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn an_agent_is_reached_through_a_socket_of_its_own() {
    let Some(shop) = Workshop::with(|root| {
        crate::workshop::install(root);
        crate::host_tools::install_program(root, std::path::Path::new("/usr/bin/perl"));
    }) else {
        return;
    };
    // Addresses of sockets are short.
    let near = tempfile::tempdir_in("/tmp").unwrap();
    let address = near.path().join("agent");
    let agent = UnixListener::bind(&address).unwrap();
    std::thread::spawn(move || {
        for client in agent.incoming() {
            let mut client = client.unwrap();
            let mut asked = [0; 4];
            // The build only looks whether anyone is there.
            if client.read_exact(&mut asked).is_ok() {
                client.write_all(&asked.map(|byte| byte.to_ascii_uppercase())).unwrap();
            }
        }
    });
    let ask = "stat -c '%a %u' $SSH_AUTH_SOCK; perl -e ' \
               socket(my $s, 1, 1, 0) or die; \
               connect($s, pack(\"Sa*\", 1, $ENV{SSH_AUTH_SOCK})) or die $!; \
               syswrite($s, \"ping\"); sysread($s, my $b, 4); print \"$b\\n\"'";
    let text = format!(
        "FROM base\nRUN --mount=type=ssh,uid=5,mode=0666 {ask}\nRUN ls /run /etc 2>&1; true\n"
    );
    let option = format!("default={}", address.display());
    let built = shop.build_with(&text, &["--ssh", &option]);
    assert!(built.said.contains("      666 5\n      PING\n"), "{}", built.said);
    assert!(!built.last_run().contains("buildkit"), "{}", built.last_run());
    let required = "FROM base\nRUN --mount=type=ssh,required true\n";
    assert!(shop.fails(required, &[]).contains("--ssh default"));
    let said = shop.fails(required, &["--ssh", "default=Dockerfile"]);
    assert!(said.contains("is no socket"), "{said}");
    shop.assert_nothing_left();
}

#[test]
fn network_hosts_and_limits() {
    let Some(shop) = Workshop::with_base() else { return };
    let text = "FROM base\nRUN --network=none cat /proc/net/dev | grep -c :\n\
                RUN grep -c 'test.example$' /etc/hosts; grep 10.1.2.3 /etc/hosts\n\
                RUN ulimit -n; ulimit -H -n; stat -f -c '%b %S' /dev/shm\n";
    let args =
        ["--add-host", "test.example:10.1.2.3", "--ulimit", "nofile=100:200", "--shm-size", "1m"];
    let built = shop.build_with(text, &args);
    assert!(built.said.contains("\n      1\n"), "only lo: {}", built.said);
    assert!(built.said.contains("10.1.2.3 test.example"), "{}", built.said);
    assert!(built.last_run().starts_with("100\n200\n256 4096"), "{}", built.last_run());
    let none = shop.build_with("FROM base\nRUN grep -c : /proc/net/dev\n", &["--network", "none"]);
    assert_eq!(none.last_run(), "1");
    let args = ["--pids-limit", "20", "--memory", "64m", "--cpus", "0.5"];
    let bomb = "FROM base\nRUN i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all\n";
    let said = shop.fails(bomb, &args);
    assert!(said.contains("Cannot fork") || said.contains("fork"), "{said}");
    let hog = "FROM base\nRUN head -c 200000000 /dev/zero | sort >/dev/null; echo $?\n";
    let output = shop.try_build("Dockerfile", hog, &["--memory", "32m"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("\n      0\n"), "{said}");
    for (flag, value, expected) in [
        ("--memory", "much", "is no size"),
        ("--ulimit", "x=1", "is no limit"),
        ("--add-host", "x:y", "is no IP address"),
        ("--cpus", "0", "--cpus needs"),
        ("--secret", "src=/none,x=1", "--secret has no field x"),
        ("--mode", "cloud", "kfs starts no cluster for a build"),
        ("--output", "type=x", "--output has no type x"),
    ] {
        let said = shop.fails("FROM scratch\n", &[flag, value]);
        assert!(said.contains(expected), "{flag} {value}: {said}");
    }
    shop.assert_nothing_left();
}

#[test]
fn a_script_runs_by_its_own_interpreter() {
    let Some(shop) = Workshop::with_base() else { return };
    let text =
        "FROM base\nRUN <<EOF\n#!/usr/bin/env -S sh -e\necho $0\nfalse\necho not here\nEOF\n";
    let said = shop.fails(text, &[]);
    assert!(said.contains("/dev/pipes/EOF") && said.contains("exit status 1"), "{said}");
    assert!(!said.contains("\n      not here"), "{said}");
    let built = shop.build(&text.replace("false\n", ""));
    assert_eq!(built.last_run(), "/dev/pipes/EOF\nnot here");
    assert_eq!(shop.build(&text.replace("false\n", "")).cached(), 1);
    assert_eq!(shop.build(&text.replace("false\n", "true\n")).cached(), 0);
    let said = shop.fails("FROM base\nRUN --security=insecure true\n", &[]);
    assert!(said.contains("--security=insecure is not supported"), "{said}");
}
