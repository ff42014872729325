//! Commands that are killed at random moments. Whatever had been done by then, the store is clean
//! afterwards, and the same command, run again, comes to the same result.
//!
//! The moments are drawn from a seed, printed when a test fails; `KFS_KILL_SEED` gives another,
//! `KFS_KILL_TRIALS` another number of trials a test.

#[path = "registry/server.rs"]
#[allow(dead_code, reason = "tests of registries want more of it")]
mod server;
mod skip;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use server::Registry;
use skip::skip;
use tempfile::TempDir;

/// Kills a test.
const TRIALS: u64 = 40;
const SEED: u64 = 0x6b66_7321;

/// xorshift64*: enough to draw moments from.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit.max(1)
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// A directory with a store to begin with, and what the commands work on.
struct Bench {
    dir: TempDir,
}

impl Bench {
    /// With the images `one` and `two` in its store, `one` indexed, both in `images.tar`, and a
    /// tar and a build context that are new.
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        for (number, name) in ["one", "two", "new"].iter().enumerate() {
            let number = u32::try_from(number).unwrap();
            fs::write(bench.path(&format!("{name}.tar")), tar(number)).unwrap();
        }
        fs::create_dir(bench.path("context")).unwrap();
        for name in ["a", "b"] {
            fs::write(bench.path(&format!("context/{name}")), name.repeat(100_000)).unwrap();
        }
        let base = Trial { bench: &bench, store: bench.path("base") };
        for name in ["one", "two"] {
            base.ok(&["import", &format!("{name}.tar"), name]);
        }
        base.ok(&["ls", "one", "/"]);
        base.ok(&["save", "-o", "images.tar", "one", "two"]);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A copy of the store to begin with, brought to where the command starts from.
    fn trial(&self, name: &str, prepare: &[&[&str]]) -> Trial<'_> {
        let store = self.path(name);
        let mut copy = Command::new("cp");
        assert!(copy.arg("-a").arg(self.path("base")).arg(&store).status().unwrap().success());
        let trial = Trial { bench: self, store };
        prepare.iter().for_each(|args| drop(trial.ok(args)));
        trial
    }

    /// Kills `command` at moments all over its life, in a fresh store each time. `outcome` is what
    /// store and surroundings must come to.
    fn kill(&self, prepare: &[&[&str]], command: &[&str], outcome: impl Fn(&Trial<'_>) -> String) {
        self.kill_in(&|| (), prepare, command, outcome);
    }

    /// The same, where `surroundings` have to be brought to where the command starts from, too.
    fn kill_in(
        &self,
        surroundings: &dyn Fn(),
        prepare: &[&[&str]],
        command: &[&str],
        outcome: impl Fn(&Trial<'_>) -> String,
    ) {
        let (expected, mut duration) = {
            surroundings();
            let trial = self.trial("reference", prepare);
            let start = Instant::now();
            trial.ok(command);
            (outcome(&trial), start.elapsed())
        };
        let seed = from_environment("KFS_KILL_SEED", SEED);
        let trials = from_environment("KFS_KILL_TRIALS", TRIALS);
        let mut random = Random(seed | 1);
        let mut hits = 0;
        for number in 0..trials {
            let context = format!("seed {seed}, trial {number} of {command:?}");
            surroundings();
            let trial = self.trial("trial", prepare);
            let mut child = trial.spawn(command);
            let limit = u64::try_from(duration.as_micros()).unwrap();
            thread::sleep(Duration::from_micros(random.below(limit)));
            hits += u64::from(child.try_wait().unwrap().is_none());
            kill(&mut child);
            trial.assert_clean(&context);
            let start = Instant::now();
            trial.ok(command);
            // A busy machine takes longer now and then: the shortest life is nearest to the truth.
            duration = duration.min(start.elapsed());
            assert_eq!(outcome(&trial), expected, "{context}");
            trial.assert_clean(&context);
            fs::remove_dir_all(&trial.store).unwrap();
        }
        eprintln!(
            "{command:?}: {hits} of {trials} kills hit it alive, its life being {duration:?}"
        );
        assert!(hits > 0, "no kill hit");
    }
}

/// A store that a command is run on.
struct Trial<'a> {
    bench: &'a Bench,
    store: PathBuf,
}

impl Trial<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.args(args).current_dir(self.bench.dir.path()).env("KFS_ROOT", &self.store);
        command.env("SOURCE_DATE_EPOCH", "1000000000").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kfs {args:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    #[track_caller]
    fn assert_clean(&self, context: &str) {
        let output = self.run(&["fsck", "--format", "json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{context}: {text}");
    }

    /// Names and digests of all images that have a name.
    fn images(&self) -> String {
        let list: Vec<Value> =
            serde_json::from_str(&self.ok(&["images", "--format", "json"])).unwrap();
        let named = list.iter().filter(|image| !image["name"].is_null());
        let named = named.map(|image| format!("{} {}\n", image["name"], image["digest"]));
        named.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The same, once nothing is left over, and the blobs that then are there.
    fn all(&self) -> String {
        self.ok(&["prune", "--force"]);
        let blobs = fs::read_dir(self.store.join("blobs/sha256")).unwrap();
        let blobs: BTreeSet<_> = blobs.map(|entry| entry.unwrap().file_name()).collect();
        format!("{}{blobs:?}", self.images())
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn tar(number: u32) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in 0..200_u32 {
        let mut header = tar::Header::new_ustar();
        let data: Vec<u8> =
            (0..1000).flat_map(|n: u32| ((n * file) ^ number).to_le_bytes()).collect();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_000_000_000);
        tar.append_data(&mut header, format!("dir{}/{file}", file % 7), &data[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn load() {
    let remove: &[&[&str]] = &[&["rmi", "one", "two"]];
    Bench::new().kill(remove, &["load", "-i", "images.tar"], |trial| trial.all());
}

#[test]
fn import() {
    Bench::new().kill(&[], &["import", "new.tar", "new"], |trial| trial.all());
}

#[test]
fn index() {
    Bench::new().kill(&[], &["ls", "-l", "two", "/dir3"], |trial| {
        trial.ok(&["ls", "-l", "two", "/dir3"]) + &trial.all()
    });
}

#[test]
fn convert() {
    Bench::new().kill(&[], &["convert", "one", "lazy"], |trial| trial.images());
}

#[test]
fn tag() {
    Bench::new().kill(&[], &["tag", "one", "two"], |trial| trial.all());
}

#[test]
fn remove() {
    Bench::new().kill(&[], &["rmi", "--force", "one"], |trial| trial.all());
}

#[test]
fn save() {
    Bench::new().kill(&[], &["save", "-o", "saved.tar", "one", "two"], |trial| {
        format!("{:?}", fs::read(trial.bench.path("saved.tar")).map(|bytes| bytes.len()))
            + &trial.images()
    });
}

#[test]
fn prune() {
    let nameless: &[&[&str]] = &[&["tag", "one", "two"], &["import", "new.tar", "one"]];
    Bench::new().kill(nameless, &["prune", "--force"], |trial| trial.all());
}

#[test]
fn repair() {
    let bench = Bench::new();
    for entry in fs::read_dir(bench.path("base/indexes")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(1000);
        fs::write(path, bytes).unwrap();
    }
    // Not clean before, so `assert_clean` is left to the second time.
    let trial = bench.trial("trial", &[]);
    for moment in 0..10 {
        let mut child = trial.spawn(&["fsck", "--repair"]);
        thread::sleep(Duration::from_millis(moment * 3));
        kill(&mut child);
    }
    trial.ok(&["fsck", "--repair"]);
    trial.assert_clean("after the repair");
    trial.ok(&["ls", "one", "/"]);
}

#[test]
fn build() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return skip("needs root and /dev/fuse");
    }
    let bench = Bench::new();
    // In a Kubefile, for RUN to use the programs of this machine: the image has none.
    let text = "# copy=docker\nFROM one\nCOPY a /new/a\n\
                RUN echo x > made && touch -d @1000000000 made .\nCOPY b /new/b\nCMD x\n";
    fs::write(bench.path("context/Kubefile"), text).unwrap();
    bench.kill(&[], &["build", "-t", "built", "context"], |trial| trial.images());
}

#[test]
fn pull() {
    let Some(registry) = Registry::start(false) else { return };
    let (bench, name) = (Bench::new(), registry.name("a:1"));
    let base = Trial { bench: &bench, store: bench.path("base") };
    base.ok(&["push", "one", &name]);
    // Of what is pulled, nothing is here.
    base.ok(&["rmi", "one"]);
    base.ok(&["prune", "--force"]);
    bench.kill(&[], &["pull", &name], |trial| trial.all());
}

#[test]
fn push() {
    let Some(registry) = Registry::start(false) else { return };
    let (bench, name) = (Bench::new(), registry.name("a:1"));
    let data = registry.path("data/docker");
    let nothing_there = || {
        if data.exists() {
            fs::remove_dir_all(&data).unwrap()
        }
    };
    bench.kill_in(&nothing_there, &[], &["push", "one", &name], |trial| {
        let other = Trial { bench: &bench, store: bench.path("other") };
        let pulled = other.ok(&["pull", &name]);
        fs::remove_dir_all(&other.store).unwrap();
        pulled + &trial.images()
    });
}

/// One of two that do the same is killed; the other does not mind, nor do two others after that.
#[test]
fn two_at_the_same_time() {
    let bench = Bench::new();
    let commands: [(&[&[&str]], &[&str]); 3] = [
        (&[&["rmi", "one", "two"]], &["load", "-i", "images.tar"]),
        (&[], &["import", "new.tar", "new"]),
        (&[], &["ls", "two", "/dir3"]),
    ];
    for (prepare, command) in commands {
        let trial = bench.trial("reference", prepare);
        trial.ok(command);
        let expected = trial.all();
        fs::remove_dir_all(&trial.store).unwrap();
        let mut random = Random(SEED);
        for number in 0..8 {
            let trial = bench.trial("trial", prepare);
            let context = format!("trial {number} of {command:?}");
            let (mut first, mut second) = (trial.spawn(command), trial.spawn(command));
            thread::sleep(Duration::from_micros(random.below(20_000)));
            kill(&mut first);
            assert!(second.wait().unwrap().success(), "{context}");
            trial.assert_clean(&context);
            let (mut third, mut fourth) = (trial.spawn(command), trial.spawn(command));
            assert!(third.wait().unwrap().success() && fourth.wait().unwrap().success());
            trial.assert_clean(&context);
            assert_eq!(trial.all(), expected, "{context}");
            fs::remove_dir_all(&trial.store).unwrap();
        }
    }
}
