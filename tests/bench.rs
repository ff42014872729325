//! `kfs bench`: that it measures what it says, and leaves nothing. How long things take is not
//! looked at.

mod host_tools;
#[path = "registry/server.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod server;
mod skip;

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use host_tools::install_tools;
use server::{Demands, Registry};
use skip::skip;

/// A registry with the image `tools:1`, which is also the image `x:1` of the store `origin`.
struct Bench(Registry);

impl Bench {
    fn start() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !geteuid().is_root() {
            skip("needs root and /dev/fuse");
            return None;
        }
        let registry = Registry::start(false)?;
        let root = registry.path("root");
        install_tools(&root);
        let tar = registry.path("x.tar");
        let status =
            Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
        assert!(status.unwrap().success());
        registry.ok("origin", &["import", "x.tar", "x:1"]);
        registry.ok("origin", &["convert", "x:1", "x:chunked", "--to", "zstd-chunked"]);
        registry.ok("origin", &["push", "x:chunked", &registry.name("tools:1")]);
        fs::create_dir(registry.path("tmp")).unwrap();
        // Named in the environment, and buildah insists on it.
        fs::write(registry.path("auth.json"), "{}").unwrap();
        Some(Self(registry))
    }

    fn command(&self, store: &str, args: &[&str]) -> Command {
        let mut command = self.0.command(store, &[&["bench"], args].concat());
        command.env("TMPDIR", self.0.path("tmp"));
        command
    }

    fn run(&self, store: &str, args: &[&str]) -> Output {
        self.command(store, args).output().unwrap()
    }

    #[track_caller]
    fn json(&self, store: &str, args: &[&str]) -> Value {
        let output = self.run(store, args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.assert_nothing_left();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let tmp = self.0.path("tmp");
        let left: Vec<PathBuf> =
            fs::read_dir(&tmp).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [] as [PathBuf; 0]);
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(tmp.to_str().unwrap()), "{mounts}");
        let uses = |path: PathBuf| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(tmp.to_str().unwrap()).then_some(path)
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let left: Vec<PathBuf> = processes.filter_map(|entry| uses(entry.path())).collect();
        assert_eq!(left, [] as [PathBuf; 0]);
    }
}

fn sum(values: &Value, name: &str) -> f64 {
    values.as_array().unwrap().iter().map(|value| value[name].as_f64().unwrap()).sum()
}

/// Every file of a directory and when it was changed.
fn state(dir: &Path) -> Vec<String> {
    let list = Command::new("find").arg(dir).args(["-printf", "%p %s %T@\n"]).output().unwrap();
    let mut lines: Vec<_> =
        String::from_utf8(list.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[track_caller]
fn assert_adds_up(report: &Value, runs: usize) {
    let kfs = &report["sides"][0];
    assert_eq!((&kfs["tool"], &kfs["error"]), (&"kfs".into(), &Value::Null));
    let all = kfs["runs"].as_array().unwrap();
    assert_eq!(all.len(), runs);
    for run in all {
        let starts = run["starts"].as_array().unwrap();
        let kinds: Vec<_> = starts.iter().map(|start| &start["kind"]).collect();
        assert_eq!(kinds, ["cold", "second", "warm"]);
        for start in starts {
            let phases = start["phases"].as_array().unwrap();
            let names: Vec<_> = phases.iter().map(|phase| &phase["name"]).collect();
            assert_eq!(names, ["resolve", "index", "mount", "first byte", "exec", "exit"]);
            for (whole, part) in
                [("seconds", "seconds"), ("requests", "requests"), ("bytes", "bytes")]
            {
                let (whole, parts) = (start[whole].as_f64().unwrap(), sum(&start["phases"], part));
                assert!((whole - parts).abs() < 1e-6, "{part}: {whole} is not {parts}");
            }
            let log = start["log"].as_array().unwrap();
            assert_eq!(start["requests"], log.len());
            assert!((sum(&start["log"], "bytes") - start["bytes"].as_f64().unwrap()).abs() < 0.5);
            assert!(start["cpuSeconds"].as_f64().unwrap() >= 0.0);
            assert!(start["peakMemory"].as_u64().unwrap() > 1 << 20);
        }
        let (cold, later) = (&starts[0], &starts[1..]);
        let (fetched, touched) = (&cold["bytes"], &run["touched"]);
        assert!(fetched.as_u64() >= touched["storedBytes"].as_u64(), "{fetched} {touched}");
        assert!(touched["contentBytes"].as_u64().unwrap() > 0);
        let paths = touched["paths"].as_array().unwrap();
        assert!(paths.iter().any(|path| path["path"] == "/usr/bin/true"), "{paths:?}");
        assert!(cold["requests"].as_u64().unwrap() >= 3, "manifest, config, layer");
        assert!(later.iter().all(|start| start["requests"] == 0), "{later:?}");
    }
}

#[test]
fn a_cold_start_from_a_registry_adds_up() {
    let Some(bench) = Bench::start() else { return };
    let name = bench.0.name("tools:1");
    let page = bench.0.path("page.html");
    let html = format!("--html={}", page.display());
    let net = "--net=1gbit,1ms";
    let args = ["cold-start", &name, "--runs=2", net, &html, "--format=json", "--", "true"];
    let report = bench.json("unused", &args);
    let page = fs::read_to_string(page).unwrap();
    // A page that fetches nothing and runs nothing.
    for word in ["://", "<script", "src=", "url(", "@import", "<link"] {
        assert!(!page.contains(word), "{word}");
    }
    for word in ["Requests of the cold start", "Bytes by path", "/usr/bin/true", "manifest"] {
        assert!(page.contains(word), "{word}");
    }
    assert_eq!(report["net"], "1gbit,1ms");
    assert_eq!(report["image"], *name);
    assert_adds_up(&report, 2);
    assert!(!bench.0.path("unused").exists(), "the store is not touched");
    let waits = report["sides"][0]["runs"][0]["starts"][0]["log"].as_array().unwrap();
    assert!(waits.iter().all(|it| it["answered"].as_f64() >= it["asked"].as_f64()));
}

#[test]
fn a_cold_start_from_the_store_needs_no_registry_and_leaves_the_store_alone() {
    let Some(mut bench) = Bench::start() else { return };
    bench.0.stop();
    let before = state(&bench.0.path("origin"));
    for image in ["x:1", "x:chunked"] {
        let args = ["cold-start", image, "--runs=1", "--format=json", "--", "/bin/true"];
        assert_adds_up(&bench.json("origin", &args), 1);
    }
    assert_eq!(state(&bench.0.path("origin")), before);
    let output = bench.run("origin", &["cold-start", "x:1", "--runs=1", "--", "/bin/true"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["COLD", "SECOND", "WARM", "resolve", "first byte", "fetched"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn other_tools_are_measured_by_the_same_means() {
    let Some(bench) = Bench::start() else { return };
    let against = "--against=buildah,skopeo+umoci,podman";
    let programs = ["buildah", "skopeo", "umoci", "podman"];
    if programs.iter().any(|program| Command::new(program).arg("--version").output().is_err()) {
        return skip("needs buildah, skopeo, umoci and podman");
    }
    // podman wants a directory with a shorter path for itself.
    let long = bench.0.path("tmp").join("a-directory-with-a-name-that-is-really-long");
    fs::create_dir(&long).unwrap();
    let args = ["cold-start", "x:1", against, "--runs=1", "--format=json", "--", "/bin/true"];
    let output = bench.command("origin", &args).env("TMPDIR", &long).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir(long).unwrap();
    bench.assert_nothing_left();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (number, place, phases) in [
        (0, "chroot", ["resolve", "index", "mount", "first byte", "exec", "exit"].as_slice()),
        (1, "chroot", &["pull", "run"]),
        (2, "chroot", &["copy", "unpack", "exec", "exit"]),
        (3, "container", &["pull and run"]),
    ] {
        assert_eq!(report["sides"][number]["runsIn"], place);
        let side = &report["sides"][number];
        assert_eq!(side["error"], Value::Null, "{side}");
        let cold = &side["runs"][0]["starts"][0];
        let names = cold["phases"].as_array().unwrap().iter().map(|phase| &phase["name"]);
        assert_eq!(names.collect::<Vec<_>>(), phases);
        assert!(cold["bytes"].as_u64().unwrap() > 100_000, "all of the layer");
        assert!(!side["versions"].as_array().unwrap().is_empty());
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let Some(bench) = Bench::start() else { return };
    let fails = |args: &[&str], path: &str, code: i32, word: &str| {
        let output = bench.command("origin", args).env("PATH", path).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(word), "{said}");
        bench.assert_nothing_left();
    };
    let usual = "/usr/bin:/bin";
    let podman = ["cold-start", "x:1", "--against=podman", "--", "/bin/true"];
    fails(&podman, "/nowhere", 1, "podman is not installed");
    fails(&["cold-start", "x:1", "--against=apptainer", "--", "true"], usual, 2, "apptainer");
    fails(&["cold-start", "x:1", "--net=fast", "--", "true"], usual, 2, "fast");
    fails(&["cold-start", "x:1"], usual, 2, "COMMAND");
    fails(&["cold-start", "none:1", "--", "true"], usual, 1, "none");
    fails(&["cold-start", "x:1", "--", "/bin/none"], usual, 1, "/bin/none");
    fails(&["cold-start", "x:1", "--", "sh", "-c", "echo broken; exit 3"], usual, 1, "broken");
}

#[test]
fn an_interrupted_measurement_leaves_nothing() {
    let Some(bench) = Bench::start() else { return };
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut command = bench.command("origin", &["cold-start", "x:1", "--", "sleep", "600"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let sleeps = || {
            let mounts = fs::read_to_string("/proc/mounts").unwrap();
            mounts.contains(bench.0.path("tmp").to_str().unwrap())
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !sleeps() {
            assert!(Instant::now() < deadline, "nothing is mounted");
            thread::sleep(Duration::from_millis(20));
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        bench.assert_nothing_left();
    }
}

/// A registry that takes connections and never answers.
#[test]
fn a_signal_ends_the_search_for_an_image() {
    let Some(bench) = Bench::start() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/a:1", silent.local_addr().unwrap());
    for args in [&["cold-start", &name, "--", "true"][..], &["fs", &name]] {
        let mut child = bench.command("unused", args).stderr(Stdio::null()).spawn().unwrap();
        let (_connection, _) = silent.accept().unwrap();
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{args:?} goes on");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }
    // What is left of them goes with the next one.
    bench.json("origin", &["cold-start", "x:1", "--runs=1", "--format=json", "--", "/bin/true"]);
}

#[test]
fn an_image_of_a_registry_on_this_machine_that_speaks_https_is_copied_first() {
    if !geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return skip("needs root and /dev/fuse");
    }
    let demands = Demands { tls: true, ..Demands::default() };
    let Some(registry) = Registry::start_with(demands) else { return };
    let certs = registry
        .path("home/.config/containers/certs.d")
        .join(registry.name("").trim_end_matches('/'));
    fs::create_dir_all(&certs).unwrap();
    fs::copy(registry.path("ca.crt"), certs.join("ca.crt")).unwrap();
    let root = registry.path("root");
    install_tools(&root);
    let tar = registry.path("x.tar");
    let status = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status();
    assert!(status.unwrap().success());
    registry.ok("origin", &["import", "x.tar", "x:1"]);
    registry.ok("origin", &["push", "x:1", &registry.name("tools:1")]);
    fs::create_dir(registry.path("tmp")).unwrap();
    let name = registry.name("tools:1");
    let args = ["bench", "cold-start", &name, "--runs=1", "--format=json", "--", "/bin/true"];
    let output = registry.command("unused", &args).env("TMPDIR", registry.path("tmp")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_adds_up(&serde_json::from_slice(&output.stdout).unwrap(), 1);
}

#[test]
fn an_image_and_the_same_tree_unpacked_are_walked_and_read() {
    let Some(bench) = Bench::start() else { return };
    let before = state(&bench.0.path("origin"));
    let remote = bench.0.name("tools:1");
    for (store, image) in [("origin", "x:1"), ("unused", &remote)] {
        let report = bench.json(store, &["fs", image, "--runs=2", "--format=json"]);
        let rows = report["rows"].as_array().unwrap();
        let names: Vec<_> = rows.iter().map(|row| &row["operation"]).collect();
        assert_eq!(names, ["walk", "stat", "sequential", "random"]);
        let entries = report["entries"].as_u64().unwrap();
        assert!(entries > 30, "{entries}");
        assert_eq!((&rows[0]["count"], &rows[1]["count"]), (&entries.into(), &entries.into()));
        assert!(rows[2]["bytes"].as_u64().unwrap() > 1 << 20, "{}", rows[2]);
        assert_eq!((&rows[3]["count"], &rows[3]["bytes"]), (&2000.into(), &(2000 * 4096).into()));
        for row in rows {
            let places = row["places"].as_array().unwrap();
            let names: Vec<_> = places.iter().map(|place| &place["place"]).collect();
            assert_eq!(names, ["kfs", "unpacked"]);
            let runs =
                |kind: &str| places.iter().map(|it| it[kind].as_array().unwrap().len()).sum();
            assert_eq!((runs("cold"), runs("warm")), (4_usize, 4_usize));
        }
    }
    assert_eq!(state(&bench.0.path("origin")), before);
    assert!(!bench.0.path("unused").exists(), "the store is not touched");
    let blank = bench.0.path("tmp").join("with blank");
    fs::create_dir(&blank).unwrap();
    let mut command = bench.command("origin", &["fs", "x:1", "--runs=1"]);
    let output = command.env("TMPDIR", &blank).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir(blank).unwrap();
    let output = bench.run("unused", &["fs", "root", "--runs=1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("COLD root"), "{text}");
    let output = bench.run("unused", &["fs", "oci:nowhere"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    bench.assert_nothing_left();
}

/// Who may neither give files to others nor read what is theirs.
#[test]
fn a_user_measures_what_he_may_read() {
    let Some(bench) = Bench::start() else { return };
    if Command::new("fusermount3").arg("-V").output().is_err() {
        return skip("needs fusermount3");
    }
    // The device is for root only on some systems: a node that is not hides it.
    let script = r#"
        set -e
        cd "$1"; mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse
        chmod 755 .; install -d -o 65534 -g 65534 home; cp "$0" kfs
        mkdir -p small/closed; echo x >small/closed/x; echo x >small/secret; echo x >small/file
        chmod 700 small/closed; chmod 600 small/secret; mknod small/null c 1 3
        tar -C small -cf small.tar .
        exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -ec '
            cd home; export KFS_ROOT=$PWD/store TMPDIR=$PWD; ../kfs -q import ../small.tar small
            ../kfs bench fs small --runs=1; ls' "#;
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "60", "unshare", "-m", "sh", "-c", script]);
    let output = command.arg(env!("CARGO_BIN_EXE_kfs")).arg(bench.0.path(".")).output().unwrap();
    let (text, said) = (String::from_utf8_lossy(&output.stdout), output.stderr);
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(text.contains("4 entries, 2 not read for lack of rights"), "{text}{said}");
    assert!(text.ends_with("\nstore\n"), "{text}");
}

#[test]
fn the_steps_of_a_build_say_what_they_took() {
    let Some(bench) = Bench::start() else { return };
    let context = bench.0.path("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("file"), vec![7; 100_000]).unwrap();
    let text = "ARG FROM\nFROM $FROM\nCOPY file /file\nRUN sleep 0.1; echo x >/x\nENV A=1\n";
    fs::write(context.join("Dockerfile"), text).unwrap();
    let before = state(&bench.0.path("origin"));
    let args = ["build", "context/Dockerfile", "--runs=2", "--build-arg=FROM=x:1", "--format=json"];
    let report = bench.json("origin", &args);
    let steps = report["steps"].as_array().unwrap();
    let texts: Vec<_> = steps.iter().map(|step| step["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["FROM $FROM", "COPY file /file", "RUN sleep 0.1; echo x >/x", "ENV A=1"]);
    let (copy, run) = (&steps[1]["layer"], &steps[2]["layer"]);
    assert!(run["run"].as_f64().unwrap() >= 0.1, "{run}");
    assert!(steps[2]["seconds"].as_f64() >= run["run"].as_f64(), "{run}");
    assert!(run["diff"].as_f64().unwrap() > 0.0, "{run}");
    for layer in [copy, run] {
        let parts = ["hash", "compress", "write"].map(|part| layer[part].as_f64().unwrap());
        assert!(parts.iter().all(|part| *part > 0.0), "{layer}");
    }
    assert_eq!((&steps[0]["layer"], &steps[3]["layer"]), (&Value::Null, &Value::Null));
    assert!(steps[1]["size"].as_u64().unwrap() > 0);
    assert_eq!(state(&bench.0.path("origin")), before);
    fs::write(context.join("Dockerfile"), "FROM x:1\nRUN echo broken; exit 3\n").unwrap();
    let output = bench.run("origin", &["build", "context/Dockerfile"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Dockerfile:2") && said.contains("broken"), "{said}");
    assert_eq!(said.matches("kfs: ").count(), 1, "{said}");
    bench.assert_nothing_left();
    fs::write(context.join("Dockerfile"), "FROM oci:nowhere\n").unwrap();
    let output = bench.run("origin", &["build", "context/Dockerfile"]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}
