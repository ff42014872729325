//! Mirrors: what one lacks, breaks off or damages is had from the next, and from the registry
//! itself at last.

use std::fs;

use kfs_fs::digest::Digest;
use kfs_fs::oci::layout::Layout;

use crate::bad::Bad;
use crate::server::Registry;
use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

/// A registry with two mirrors, all of them behind proxies.
struct Mirrored {
    bad: Bad,
    /// In the order in which they are asked, the registry itself last.
    places: [Proxy; 3],
}

impl Mirrored {
    fn start() -> Option<Self> {
        let bad = Bad::start()?;
        bad.registry.ok("origin", &["convert", "x:1", "x:chunked", "--to", "zstd-chunked"]);
        bad.registry.ok("origin", &["push", "x:chunked", &bad.registry.name("a:chunked")]);
        let start = || Proxy::start("127.0.0.1:0", bad.registry.address(), Shape::default());
        let places = [start().unwrap(), start().unwrap(), start().unwrap()];
        let mirrored = Self { bad, places };
        mirrored.configure(["", "", ""]);
        Some(mirrored)
    }

    /// Writes the configuration, with a line more for each mirror and the registry.
    fn configure(&self, lines: [&str; 3]) {
        let [first, second, own] = self.places.each_ref().map(Proxy::address);
        let place = |at, line: &str| format!("location = \"{at}\"\ninsecure = true\n{line}\n");
        let conf = format!(
            "[[registry]]\n{}[[registry.mirror]]\n{}[[registry.mirror]]\n{}",
            place(own, lines[2]),
            place(first, lines[0]),
            place(second, lines[1]),
        );
        fs::write(self.bad.registry.path("registries.conf"), conf).unwrap();
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/a:{tag}", self.places[2].address())
    }

    fn run(&self, store: &str, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
        let mut command = self.bad.registry.command(store, args);
        command.env("CONTAINERS_REGISTRIES_CONF", self.bad.registry.path("registries.conf"));
        let output = command.output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    }

    /// From now on both mirrors damage each answer for a blob at this place, or the registry too.
    fn damage(&self, at: u64, places: usize) {
        self.places.iter().for_each(Proxy::clear);
        for place in &self.places[..places] {
            place.add(Rule::on("GET /v2/a/blobs/", Fault::Flip(at)));
        }
    }

    /// That a warning names both mirrors, the blob, and what came in its place.
    #[track_caller]
    fn assert_warned(&self, said: &str, blob: &str) {
        for place in &self.places[..2] {
            let address = place.address().to_string();
            let line = said
                .lines()
                .find(|line| line.starts_with(&format!("kfs: warning: mirror {address}")));
            let line = line.unwrap_or_else(|| panic!("nothing of {address}: {said}"));
            assert!(line.contains(blob), "{line}");
            assert!(line.contains("expected") || line.matches("sha256:").count() >= 3, "{line}");
        }
    }
}

/// Each way in which content comes in, by what is flipped of an answer.
#[test]
fn what_mirrors_damage_is_read_from_the_registry() {
    let Some(mirrored) = Mirrored::start() else { return };
    let layer = Digest::of(&mirrored.bad.layer).to_string();
    let (plain, chunked) = (mirrored.name("1"), mirrored.name("chunked"));
    let big = || mirrored.bad.big.clone();
    mirrored.damage(700_000, 2);
    let (code, digest, said) = mirrored.run("pulled", &["pull", &plain]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(String::from_utf8(digest).unwrap().trim(), mirrored.bad.digest);
    mirrored.assert_warned(&said, &layer);
    // A layer that is read whole to be indexed, and one that is indexed.
    for start in ["indexed", "known"] {
        if start == "known" {
            mirrored.run("lazy", &["cache", "prune", "--all"]);
            mirrored.damage(10_000, 2);
        }
        let (code, content, said) = mirrored.run("lazy", &["cat", &plain, "/big"]);
        assert!(code == Some(0) && content == big(), "{start}: {said}");
        mirrored.assert_warned(&said, &layer);
    }
    // A table of contents, and chunks.
    for at in [100, 5_000] {
        mirrored.damage(at, 2);
        let store = format!("chunked{at}");
        let (code, content, said) = mirrored.run(&store, &["cat", &chunked, "/big"]);
        assert!(code == Some(0) && content == big(), "{at}: {said}");
        mirrored.assert_warned(&said, "sha256:");
    }
    mirrored.damage(700_000, 2);
    let (code, _, said) =
        mirrored.run("copies", &["copy", &format!("docker://{plain}"), "oci:copy:x"]);
    assert_eq!(code, Some(0), "{said}");
    mirrored.assert_warned(&said, &layer);
    let Some(other) = Registry::start(false) else { return };
    let (code, digest, said) = mirrored.run("pushes", &["push", &plain, &other.name("p:1")]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(String::from_utf8(digest).unwrap().trim(), mirrored.bad.digest);
    mirrored.assert_warned(&said, &layer);
    let copy = Layout::open(&mirrored.bad.registry.path("copy")).unwrap();
    assert_eq!(copy.descriptors()[0].digest.to_string(), mirrored.bad.digest);
}

#[test]
fn what_mirrors_damage_or_lack_is_saved_and_converted_from_the_registry() {
    let Some(mirrored) = Mirrored::start() else { return };
    let layer = Digest::of(&mirrored.bad.layer).to_string();
    let plain = mirrored.name("1");
    let commands: [(&[&str], &str); 4] = [
        (&["save", "-o", "x.oci", &plain], "oci-archive:x.oci"),
        (&["save", "-o", "x.docker", "--format=docker-archive", &plain], "docker-archive:x.docker"),
        (&["convert", &plain, "new:1", "--to=zstd-chunked"], "new:1"),
        (&["convert", &plain, "new:2", "--to=gzip"], "new:2"),
    ];
    for (number, (args, made)) in commands.into_iter().enumerate() {
        for lacks in [false, true] {
            mirrored.damage(700_000, 2);
            if lacks {
                mirrored.places.iter().for_each(Proxy::clear);
                for place in &mirrored.places[..2] {
                    place.add(Rule::on("/blobs/", Fault::Status(404)));
                }
            }
            let store = format!("{number}{lacks}");
            let (code, _, said) = mirrored.run(&store, args);
            assert_eq!(code, Some(0), "{args:?}: {said}");
            if !lacks {
                mirrored.assert_warned(&said, &layer);
            }
            let (_, content, said) = mirrored.run(&store, &["cat", made, "/big"]);
            assert!(content == mirrored.bad.big, "{args:?}: {said}");
        }
    }
    // What all damage is kept nowhere.
    mirrored.damage(700_000, 3);
    for (args, made) in commands {
        fs::remove_file(mirrored.bad.registry.path(args[2])).ok();
        let (code, _, said) = mirrored.run("bad", args);
        assert_eq!(code, Some(5), "{args:?}: {said}");
        let (code, ..) = mirrored.run("bad", &["cat", made, "/big"]);
        assert_ne!(code, Some(0), "{made}");
    }
}

#[test]
fn a_mirror_is_asked_for_what_it_is_for() {
    let Some(mirrored) = Mirrored::start() else { return };
    let [first, second, own] = &mirrored.places;
    let (tagged, at) = (mirrored.name("1"), format!("{}/a@{}", own.address(), mirrored.bad.digest));
    let kinds = ["pull-from-mirror = \"digest-only\"", "pull-from-mirror = \"tag-only\"", ""];
    let by_digest = ["", "", "mirror-by-digest-only = true"];
    // Who is asked for the manifest; blobs come from the first place for digests.
    for (number, (lines, name, manifest)) in
        [(kinds, &tagged, second), (kinds, &at, first), (by_digest, &tagged, own)]
            .into_iter()
            .enumerate()
    {
        mirrored.configure(lines);
        mirrored.places.iter().for_each(Proxy::clear);
        let (code, digest, said) = mirrored.run(&number.to_string(), &["pull", name]);
        assert_eq!(code, Some(0), "{number}: {said}");
        assert_eq!(String::from_utf8(digest).unwrap().trim(), mirrored.bad.digest);
        for place in &mirrored.places {
            let has = |what: &str| !place.seen(what).is_empty();
            assert_eq!(has("/manifests/"), place.address() == manifest.address(), "{number}");
            assert_eq!(has("/blobs/"), place.address() == first.address(), "{number}");
        }
    }
}

#[test]
fn a_registry_that_is_blocked_is_asked_for_nothing() {
    let Some(bad) = Bad::start() else { return };
    let registry = &bad.registry;
    let (conf, address) = (registry.path("registries.conf"), bad.proxy.address());
    fs::write(&conf, format!("[[registry]]\nlocation = \"{address}\"\nblocked = true\n")).unwrap();
    fs::create_dir(registry.path("mnt")).unwrap();
    fs::create_dir(registry.path("context")).unwrap();
    fs::write(registry.path("context/Dockerfile"), format!("FROM {}\n", bad.name())).unwrap();
    let run = |args: &[&str]| {
        let mut command = registry.command("new", args);
        let output = command.env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    let (name, there) = (bad.name(), format!("docker://{}", bad.name()));
    let push = format!("{address}/b:1");
    registry.ok("new", &["import", "x.tar", "x:1"]);
    let commands: [&[&str]; 7] = [
        &["pull", &name],
        &["cat", &name, "/big"],
        &["mount", &name, "mnt"],
        &["build", "-t", "made:1", "context"],
        &["copy", &there, "oci:layout"],
        &["save", "-o", "x.oci", &name],
        &["push", "x:1", &push],
    ];
    for args in commands {
        let (code, _, said) = run(args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        let blocked = format!("{}/", address);
        for part in [&blocked, " is blocked in ", conf.to_str().unwrap()] {
            assert!(said.contains(part), "{args:?}, no {part}: {said}");
        }
    }
    assert!(bad.proxy.seen("").is_empty());
    // It may have mirrors, which give what it would; but nothing is pushed to them.
    let mirror =
        format!("[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n", registry.address());
    let blocked = fs::read_to_string(&conf).unwrap();
    for kind in ["", "pull-from-mirror = \"tag-only\"\n"] {
        fs::write(&conf, format!("{blocked}{mirror}{kind}")).unwrap();
        run(&["cache", "prune", "--all"]);
        let (code, content, said) = run(&["cat", &name, "/big"]);
        assert!(code == Some(0) && content == bad.big, "{kind}: {said}");
    }
    let (code, _, said) = run(&["push", "x:1", &push]);
    assert!(code == Some(1) && said.contains(" is blocked in "), "{said}");
    assert!(bad.proxy.seen("").is_empty());
}

#[test]
fn what_all_places_damage_is_an_error() {
    let Some(mirrored) = Mirrored::start() else { return };
    mirrored.damage(10_000, 3);
    let plain = mirrored.name("1");
    let Some(other) = Registry::start(false) else { return };
    let target = other.name("p:1");
    for args in [&["pull", &plain][..], &["cat", &plain, "/big"], &["push", &plain, &target]] {
        let (code, content, said) = mirrored.run("bad", args);
        assert_eq!(code, Some(5), "{said}");
        assert!(content.is_empty());
        mirrored.assert_warned(&said, &Digest::of(&mirrored.bad.layer).to_string());
    }
    let quiet = mirrored.run("bad", &["--quiet", "pull", &plain]);
    assert!(!quiet.2.contains("warning"), "{}", quiet.2);
}

#[test]
fn what_a_mirror_lacks_the_next_place_has() {
    let Some(mirrored) = Mirrored::start() else { return };
    let [first, second, own] = &mirrored.places;
    let name = mirrored.name("1");
    for (fault, also) in [(Fault::Status(404), 1), (Fault::Status(404), 2), (Fault::Status(503), 2)]
    {
        mirrored.places.iter().for_each(Proxy::clear);
        for place in &mirrored.places[..also] {
            place.add(Rule::on("/blobs/", fault));
        }
        let store = format!("{fault:?}{also}");
        let (code, digest, said) = mirrored.run(&store, &["pull", &name]);
        assert_eq!(code, Some(0), "{said}");
        assert_eq!(String::from_utf8(digest).unwrap().trim(), mirrored.bad.digest);
        assert!(!first.seen("/blobs/").is_empty() && !second.seen("/blobs/").is_empty());
        assert_eq!(own.seen("/blobs/").is_empty(), also == 1);
    }
}

#[test]
fn a_mirror_that_fails_is_passed_over() {
    let Some(bad) = Bad::start() else { return };
    let (here, mirror) = (bad.registry.address(), bad.proxy.address());
    let conf = bad.registry.path("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"{here}\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
    );
    fs::write(&conf, text).unwrap();
    let name = bad.registry.name("a:1");
    let faults = [
        ("GET", Fault::Status(500)),
        ("/blobs/", Fault::Status(404)),
        ("/blobs/", Fault::Truncate(100_000)),
        ("/manifests/", Fault::Lost),
        ("/manifests/", Fault::Flip(10)),
    ];
    for (number, (what, fault)) in faults.into_iter().enumerate() {
        bad.proxy.clear();
        bad.proxy.add(Rule::on(what, fault));
        let mut pull = bad.registry.command(&number.to_string(), &["pull", &name]);
        let pulled = pull.env("CONTAINERS_REGISTRIES_CONF", &conf).output().unwrap();
        let error = String::from_utf8(pulled.stderr).unwrap();
        let digest = String::from_utf8(pulled.stdout).unwrap();
        assert_eq!(digest.trim(), bad.digest, "{what} {fault:?}: {error}");
        assert!(!bad.proxy.seen(what).is_empty(), "the mirror was not asked");
    }
}
