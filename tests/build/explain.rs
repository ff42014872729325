//! `--explain`: what of a step's key is not what it was.

use std::fs;

use serde_json::Value;

use crate::remote::Server;
use crate::workshop::{Workshop, install};

const TEXT: &str = "\
FROM base
ARG VERSION=1
ENV GREETING=hello
WORKDIR /work
COPY tree /tree
RUN echo $GREETING >said
";

fn workshop() -> Option<Workshop> {
    let shop = Workshop::with_base()?;
    for name in ["one", "two", "deep/three"] {
        shop.write(&format!("tree/{name}"), name);
    }
    Some(shop)
}

/// What is explained of each step, in their order.
#[track_caller]
fn explained(shop: &Workshop, text: &str, args: &[&str]) -> Vec<String> {
    let built = shop.build_with(text, &[&["--explain"], args].concat());
    let lines = built.said.lines().map(str::trim);
    lines
        .filter(|line| line.starts_with("hit") || line.starts_with("miss"))
        .map(str::to_owned)
        .collect()
}

const HIT: &str = "hit: all is as it was";
const NEW: &str = "miss: no build of this file had it here";
const BEFORE: &str = "miss: the steps before it changed";

#[test]
fn each_step_says_what_is_not_as_it_was() {
    let Some(shop) = workshop() else { return };
    assert_eq!(explained(&shop, TEXT, &[]), [NEW, NEW, NEW]);
    assert_eq!(explained(&shop, TEXT, &[]), [HIT, HIT, HIT]);
    let edited = |from: &str, to: &str| {
        assert!(TEXT.contains(from));
        TEXT.replace(from, to)
    };
    let after = |first: &str| [HIT.to_owned(), HIT.to_owned(), first.to_owned()];
    let said = explained(&shop, &edited("hello", "bye"), &[]);
    assert_eq!(said, after("miss: ENV GREETING changed"));
    shop.build(TEXT);
    let said = explained(&shop, TEXT, &["--build-arg", "VERSION=2"]);
    assert_eq!(said, after("miss: ARG VERSION changed"));
    shop.build(TEXT);
    let said = explained(&shop, &edited(">said", ">told"), &[]);
    assert_eq!(said, after("miss: the command changed"));
    shop.build(TEXT);
    let said = explained(&shop, &edited("/work", "/other"), &[]);
    let copy = "miss: the steps before it changed; WORKDIR changed";
    assert_eq!(said, ["miss: WORKDIR changed", copy, copy]);
    // A line that moves is found again.
    shop.build(TEXT);
    let moved = edited("WORKDIR", "LABEL a=b\nLABEL c=d\nWORKDIR");
    assert_eq!(explained(&shop, &moved, &[]), [HIT, HIT, HIT]);
    assert_eq!(explained(&shop, TEXT, &["--no-cache"]), ["miss: --no-cache"; 3]);
    let said = explained(&shop, TEXT, &["--compression", "gzip"]);
    assert_eq!(said, ["miss: the compression changed"; 3]);
}

#[test]
fn the_files_that_changed_are_named() {
    let Some(shop) = workshop() else { return };
    shop.build(TEXT);
    shop.write("tree/two", "TWO");
    let said = explained(&shop, TEXT, &[]);
    assert_eq!(said, [HIT, "miss: files changed: /tree/two", BEFORE]);
    shop.write("tree/new", "");
    fs::remove_file(shop.path("context/tree/one")).unwrap();
    let said = explained(&shop, TEXT, &[]);
    assert_eq!(said[1], "miss: files changed: /tree/new, /tree/one");
    // What was copied before is found, and is what the next build is held against.
    fs::remove_file(shop.path("context/tree/new")).unwrap();
    shop.write("tree/one", "one");
    assert_eq!(explained(&shop, TEXT, &[]), [HIT, HIT, HIT]);
    for number in 0..9 {
        shop.write(&format!("tree/more-{number}"), "x");
    }
    let said = explained(&shop, TEXT, &[]);
    assert!(said[1].ends_with("/tree/more-3, /tree/more-4 and 4 more"), "{said:?}");
}

#[test]
fn bases_and_sources_are_told_by_their_digests() {
    let Some(shop) = workshop() else { return };
    let server = Server::new(&shop.path("served"));
    server.put("a.txt", b"hello");
    let text = format!("FROM base\nADD {} /\nRUN true\n", server.url("a.txt"));
    shop.build(&text);
    server.put("a.txt", b"other");
    let said = explained(&shop, &text, &[]);
    let expected = format!("miss: {} was sha256:2cf24", server.url("a.txt"));
    assert!(said[0].starts_with(&expected) && said[0].contains("and is sha256:d9298"), "{said:?}");
    let base = |name: &str| shop.inspect(name)["digest"].as_str().unwrap().to_owned();
    let old = base("base");
    shop.import("base", |root| {
        install(root);
        fs::write(root.join("new"), "").unwrap();
    });
    let said = explained(&shop, &text, &[]);
    assert_eq!(said[0], format!("miss: the base was {old} and is {}", base("base")));
    // A layer that is gone.
    shop.build("FROM scratch\nCOPY tree /\n");
    shop.ok(&["rmi", "new"]);
    let said = explained(&shop, "FROM scratch\nCOPY tree /\n", &[]);
    assert_eq!(said, ["miss: all is as it was, but the cache has lost it"]);
}

#[test]
fn a_program_reads_it_too_and_no_value_is_kept() {
    let Some(shop) = workshop() else { return };
    let text = TEXT.replace("hello", "s3cr3t");
    shop.build(&text);
    let json = ["--explain", "--progress", "json", "--build-arg", "VERSION=2"];
    let said = shop.build_with(&text, &json).said;
    let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let explained: Vec<Value> = lines.filter(|line| line["event"] == "explained").collect();
    assert_eq!(explained.len(), 3, "{said}");
    assert_eq!(explained[0]["hit"], true);
    assert_eq!(explained[2]["why"], "changed");
    assert_eq!(explained[2]["changes"][0]["what"], "ARG VERSION");
    for entry in fs::read_dir(shop.path("store/build-cache/explain")).unwrap() {
        let kept = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!kept.contains("s3cr3t"), "{kept}");
    }
    // Without being asked nothing is told.
    assert!(!shop.build(&text).said.contains("hit:"));
    shop.ok(&["prune", "--all", "--force"]);
    assert_eq!(fs::read_dir(shop.path("store/build-cache/explain")).unwrap().count(), 0);
}
