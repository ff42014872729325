//! `kfs merge`: several cluster images made one, and launched.

mod host_tools;
#[path = "registry/server.rs"]
#[allow(dead_code)]
mod server;
mod skip;
#[path = "build/workshop.rs"]
#[allow(dead_code)]
mod workshop;

use std::fs;

use serde_json::Value;
use workshop::Workshop;

/// Builds a Kubefile whose context has these files alone, as an image of this name.
fn image(shop: &Workshop, name: &str, text: &str, files: &[(&str, &str)]) {
    fs::remove_dir_all(shop.path("context")).unwrap();
    fs::create_dir(shop.path("context")).unwrap();
    files.iter().for_each(|(name, text)| shop.write(name, text));
    fs::write(shop.path("Kubefile"), text).unwrap();
    shop.ok(&["build", "-t", name, "-f", "Kubefile", "context"]);
}

/// Merges, and what is said.
#[track_caller]
fn merge(shop: &Workshop, args: &[&str]) -> (bool, String) {
    let output = shop.kfs(&["merge", "-t", "new"]).args(args).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

fn extension(shop: &Workshop, name: &str) -> Value {
    let inspected = shop.inspect(name);
    let text = inspected.pointer("/manifest/annotations/sealer.image.extension");
    serde_json::from_str(text.unwrap().as_str().unwrap()).unwrap()
}

#[test]
fn applications_are_merged_and_launched() {
    let Some(shop) = Workshop::new() else { return };
    image(
        &shop,
        "a",
        "FROM scratch\nENV K=a A=1\nLABEL same=1 other=a\nKUBEVERSION >=1.22\nAPP one local://one.sh\nAPPENV one X=x\nLAUNCH [\"one\"]\n",
        &[("one.sh", "echo one $X $K")],
    );
    image(
        &shop,
        "b",
        "FROM scratch\nENV K=b\nLABEL same=1 other=b\nKUBEVERSION <1.25\nAPP two local://two.sh\nLAUNCH [\"two\"]\n",
        &[("two.sh", "echo two $A $K")],
    );
    let (done, said) = merge(&shop, &["a", "b"]);
    assert!(done, "{said}");
    let expected = "label other: \"a\" in a, \"b\" in b, the last holds\n\
                    variable K: \"a\" in a, \"b\" in b, the last holds\n";
    assert_eq!(said, expected);
    assert_eq!(shop.ok(&["run", "new"]), "one x b\ntwo 1 b\n");
    let labels = &shop.inspect("new")["config"]["config"]["Labels"];
    assert_eq!(labels["same"], "1");
    let range = labels["app.alpha.sealer.io/supported-kube-version"].as_str().unwrap();
    assert!(range.contains("1.22") && range.contains("1.25"), "{range}");
    // The same images make the same one, and what is there already does not come twice.
    let digest = shop.ok(&["merge", "-t", "again", "a", "b"]);
    assert_eq!(digest, shop.inspect("new")["digest"].as_str().unwrap().to_owned() + "\n");
    shop.ok(&["merge", "-t", "again", "new", "b"]);
    assert_eq!(shop.inspect("again")["layers"], shop.inspect("new")["layers"]);
    assert_eq!(shop.ok(&["run", "again"]), "one x b\ntwo 1 b\n");
    // With an image of lines, all become lines.
    image(&shop, "c", "FROM scratch\nCMDS [\"echo c\", \"echo d\"]\n", &[]);
    assert!(merge(&shop, &["c", "new"]).0);
    assert_eq!(shop.ok(&["run", "new"]), "c\nd\none x b\ntwo 1 b\n");
    assert_eq!(extension(&shop, "new")["launch"].get("app_names"), None);
    image(&shop, "d", "FROM scratch\nAPP one local://one.sh\n", &[("one.sh", "echo other")]);
    let (done, said) = merge(&shop, &["b", "d", "a"]);
    let expected = "application \"one\" of a is another one than that of d";
    assert!(!done && said.contains(expected), "{said}");
    image(&shop, "e", "FROM scratch\nKUBEVERSION 1.30.x\n", &[]);
    let (done, said) = merge(&shop, &["a", "b", "e"]);
    assert!(!done && said.contains("e: no version of Kubernetes"), "{said}");
    assert!(!merge(&shop, &["a"]).0);
    shop.assert_nothing_left();
}

#[test]
fn sealos_images_are_merged_as_sealos_does() {
    let Some(shop) = Workshop::new() else { return };
    let text = |number: u32, kind: &str| {
        format!(
            "FROM scratch\nCOPY . .\nLABEL sealos.io.type={kind}\nENV N{number}={number}\n\
             ENTRYPOINT [\"echo entry $(N{number})\"]\nCMD [\"cat own{number} entry.sh\"]\n"
        )
    };
    image(
        &shop,
        "a",
        &text(1, "rootfs"),
        &[("entry.sh", "first\n"), ("own1", "1\n"), ("same", "s")],
    );
    image(
        &shop,
        "b",
        &text(2, "application"),
        &[("entry.sh", "second\n"), ("own2", "2\n"), ("same", "s")],
    );
    let (done, said) = merge(&shop, &["a", "b"]);
    assert!(done, "{said}");
    assert!(said.contains("file entry.sh: it is another one in a, b, the last holds\n"), "{said}");
    assert!(!said.contains("same"), "{said}");
    let expected = "entry 1\nentry 2\n1\nsecond\n2\nsecond\n";
    assert_eq!(shop.ok(&["run", "new"]), expected);
    let labels = &shop.inspect("new")["config"]["config"]["Labels"];
    assert_eq!(labels["sealos.io.type"], "rootfs");
}

/// A layer that two images have lies over what is below it in both.
#[test]
fn a_layer_in_common_stays_above_what_it_is_above() {
    let Some(shop) = Workshop::new() else { return };
    for name in ["p", "q", "x", "y"] {
        shop.write(name, name);
    }
    for (name, files) in [("a", "px"), ("b", "qx"), ("c", "pxy"), ("d", "pq")] {
        let lines = files.chars().map(|file| format!("COPY {file} f\nCOPY {file} {file}\n"));
        let text = format!("# copy=docker\nFROM scratch\n{}", lines.collect::<String>());
        fs::write(shop.path("Kubefile"), text).unwrap();
        shop.ok(&["build", "-t", name, "-f", "Kubefile", "context"]);
    }
    let layers = |shop: &Workshop| shop.inspect("new")["layers"].as_array().unwrap().len();
    for (images, content, count) in [
        (&["a", "b"][..], "x", 8),
        // A base in common is there once.
        (&["a", "c"], "y", 6),
        (&["c", "d"], "q", 8),
        (&["a", "b", "c"], "y", 10),
    ] {
        assert!(merge(&shop, images).0);
        assert_eq!(shop.ok(&["cat", "new", "/f"]), content, "{images:?}");
        assert_eq!(layers(&shop), count, "{images:?}");
        let history = shop.inspect("new")["config"]["history"].clone();
        let is_layer = |step: &&Value| step["empty_layer"] != true;
        assert_eq!(history.as_array().unwrap().iter().filter(is_layer).count(), count);
    }
}

#[test]
fn what_one_image_deletes_of_another_is_kept() {
    let Some(shop) = Workshop::new() else { return };
    let files = [("p/keep", "kept"), ("p/deep/er", "deeper"), ("q", "q"), ("other", "o")];
    image(&shop, "base", "# copy=docker\nFROM scratch\nCOPY q of-base\n", &files);
    image(&shop, "a", "# copy=docker\nFROM base\nCOPY p d\nCOPY q gone\nCOPY q kind\n", &files);
    let text = "# copy=docker\nFROM base\nCOPY q d/own\nCOPY q gone\nCOPY q kind/file\n\
                RUN rm -r d gone of-base && mkdir -m 700 d && echo new > d/new\n";
    image(&shop, "b", text, &files);
    let (done, said) = merge(&shop, &["a", "b"]);
    assert!(done, "{said}");
    let expected = "file kind: it is another one in a, b, the last holds\n\
                    files and directories that an image deletes and another one has are kept: 5\n";
    assert_eq!(said, expected);
    let cat = |path: &str| shop.ok(&["cat", "new", path]);
    assert_eq!((cat("/d/keep"), cat("/d/deep/er")), ("kept".into(), "deeper".into()));
    assert_eq!(
        (cat("/gone"), cat("/of-base"), cat("/d/new")),
        ("q".into(), "q".into(), "new\n".into())
    );
    assert_eq!(shop.ok(&["ls", "new", "/d"]), "deep\nkeep\nnew\n");
    let stat = shop.ok(&["stat", "new", "/d"]);
    assert!(stat.contains("0700") || stat.contains("drwx------"), "{stat}");
    // The same images make the same one.
    let digest = shop.inspect("new")["digest"].clone();
    merge(&shop, &["a", "b"]);
    assert_eq!(shop.inspect("new")["digest"], digest);
    let (done, said) = merge(&shop, &["b", "a"]);
    // Of a base in common, too.
    assert!(done && said.contains("kept: 1\n"), "{said}");
    assert_eq!(shop.ok(&["cat", "new", "/of-base"]), "q");
}

#[test]
fn what_is_in_a_registry_is_merged_without_its_layers() {
    let Some(registry) = server::Registry::start(false) else { return };
    registry.image_with("a:1", &[("one", b"1")]);
    registry.image_with("b:1", &[("two", b"2")]);
    let names = [registry.name("a:1"), registry.name("b:1")];
    let merged = registry.run("lazy", &["merge", "-t", "new", &names[0], &names[1]]);
    let said = String::from_utf8(merged.stderr).unwrap();
    assert!(merged.status.success(), "{said}");
    assert!(said.contains("files were not compared: 2 layers are in registries"), "{said}");
    let blobs = fs::read_dir(registry.path("lazy/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 6, "manifests and configs of three images, and no layer");
    assert_eq!(registry.ok("lazy", &["cat", "new", "/one"]), "1");
    assert_eq!(registry.ok("lazy", &["cat", "new", "/two"]), "2");
    // What the new image needs stays known when the others are gone.
    registry.ok("lazy", &["rmi", &names[0], &names[1]]);
    assert_eq!(registry.ok("lazy", &["ls", "new"]), "one\ntwo\n");
    registry.ok("lazy", &["push", "new", &registry.name("c:1")]);
    assert_eq!(registry.ok("other", &["cat", &registry.name("c:1"), "/two"]), "2");
}
