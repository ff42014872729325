//! Container images that cannot be had, and registries that die.

use std::fs;

use kfs_fs::digest::Digest;
use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

use crate::carried::push_chart;
use crate::workplace::{Workplace, noise};

const KUBEFILE: &str = "FROM scratch\nCOPY manifests manifests\n";

#[test]
fn a_registry_that_dies_near_the_end_costs_what_was_under_way() {
    let Some(place) = Workplace::start(false) else { return };
    let names: Vec<_> = (0..9).map(|n| format!("quay.io/x/i{n}:1")).collect();
    for (name, seed) in names.iter().zip(1..) {
        place.image(name, &[&noise(50_000, seed)]);
    }
    place.write("manifests/imageList", names.join("\n"));
    place.proxy.add(Rule::on("GET /v2/quay.io/x/i8/blobs/", Fault::Status(503)).after(1));
    // The config still comes, the layer does not.
    let said = place.build_fails(KUBEFILE, &["--read-timeout=2s"]);
    assert!(said.contains("kfs: quay.io/x/i8:1: ") && said.contains("503"), "{said}");
    assert!(!place.ok("store", &["images"]).contains("cluster"), "nothing half-made has a name");
    place.proxy.clear();
    place.build(KUBEFILE, &[]);
    let again: Vec<_> = place.proxy.seen("GET ").iter().map(|seen| seen.request.clone()).collect();
    assert!(again.iter().all(|request| request.contains("/i8/")), "{again:?}");
    assert_eq!(place.listed("cluster:1").len(), 9);
    let left = fs::read_dir(place.registry.path("store/tmp")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_killed_build_leaves_what_was_done() {
    let Some(place) = Workplace::start(false) else { return };
    place.image("quay.io/x/a:1", &[&noise(50_000, 1)]);
    place.image("quay.io/x/b:1", &[&noise(50_000, 2)]);
    place.write("manifests/imageList", "quay.io/x/a:1\nquay.io/x/b:1\n");
    place.proxy.add(Rule::on("GET /v2/quay.io/x/b/blobs/", Fault::Truncate(100)).after(1));
    let said = place.build_fails(KUBEFILE, &["--read-timeout=2s"]);
    assert!(said.contains("hint: images that are done are kept"), "{said}");
    place.proxy.clear();
    let said = place.build(KUBEFILE, &[]);
    assert!(said.contains("cached"), "{said}");
}

/// Puts a mirror before the names of `quay.io`.
fn mirror(place: &Workplace) -> Proxy {
    let mirror = Proxy::start("127.0.0.1:0", place.registry.address(), Shape::default()).unwrap();
    let at =
        |proxy: &Proxy| format!("location = \"{}/quay.io\"\ninsecure = true\n", proxy.address());
    let conf = format!(
        "[[registry]]\nprefix = \"quay.io\"\n{}[[registry.mirror]]\n{}",
        at(&place.proxy),
        at(&mirror)
    );
    fs::write(place.registry.path("registries.conf"), conf).unwrap();
    mirror
}

#[test]
fn what_a_mirror_damages_is_carried_from_the_registry() {
    let Some(place) = Workplace::start(false) else { return };
    place.image("quay.io/x/a:1", &[&noise(50_000, 1), &noise(60_000, 2)]);
    place.image("quay.io/x/b:1", &[&noise(70_000, 3)]);
    place.write("manifests/imageList", "quay.io/x/a:1\nquay.io/x/b:1\n");
    let mirror = mirror(&place);
    // Of the layers; manifests and configs are smaller.
    let damaged = Rule::on("/blobs/", Fault::Flip(20_000));
    mirror.add(damaged);
    let said = place.build(KUBEFILE, &[]);
    let warning = format!("kfs: warning: mirror {} sent damaged content", mirror.address());
    assert_eq!(said.matches(&warning).count(), 3, "{said}");
    let tree = place.tree("cluster:1");
    let blobs: Vec<&String> = tree.iter().filter(|path| path.ends_with("/data")).collect();
    assert_eq!(blobs.len(), 2 * 2 + 3, "{blobs:?}");
    for path in blobs {
        let content = place.kfs("store", &["cat", "cluster:1", path]).output().unwrap().stdout;
        assert!(path.contains(&Digest::of(&content).hex()), "{path}");
    }
    // What all damage is an error, and nothing of it is kept.
    place.proxy.add(damaged);
    let output = place.try_build("other", KUBEFILE, &[]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("kfs: quay.io/x/") && said.contains("its content has digest"), "{said}");
    assert_eq!(fs::read_dir(place.registry.path("other/tmp")).unwrap().count(), 0);
    place.proxy.clear();
    assert!(place.try_build("other", KUBEFILE, &[]).status.success());
}

#[test]
fn a_chart_that_a_mirror_damages_comes_from_the_registry() {
    let Some(place) = Workplace::start(false) else { return };
    push_chart(&place);
    let mirror = mirror(&place);
    mirror.add(Rule::on("/charts/c/blobs/", Fault::Flip(100)));
    let text = "FROM scratch\nAPP c oci://quay.io/charts/c:1.0.0\nLAUNCH c\n";
    // The chart's image is none of this test's concern.
    place.write("ignored", "gone:1\n");
    let said = place.build(text, &["--ignored-image-list=context/ignored"]);
    let warning = format!("kfs: warning: mirror {} sent damaged content", mirror.address());
    assert!(said.contains(&warning), "{said}");
    let chart = place.ok("store", &["cat", "cluster:1", "/application/apps/c/Chart.yaml"]);
    assert!(chart.contains("name: c"), "{chart}");
}

#[test]
fn all_that_is_missing_is_told_with_its_place() {
    let Some(place) = Workplace::start(false) else { return };
    place.image("quay.io/x/here:1", &[&noise(2000, 1)]);
    place.write(
        "manifests/a.yaml",
        "kind: Pod\nimage: quay.io/x/gone:1\n---\nimage: quay.io/x/here:1\n",
    );
    place.write("manifests/imageList", "quay.io/x/gone:1\nquay.io/y/never:2\n");
    let said = place.build_fails(KUBEFILE, &[]);
    for part in [
        "quay.io/x/gone:1, which manifests/a.yaml:2, manifests/imageList:1 names",
        "quay.io/y/never:2, which manifests/imageList:2 names",
        "with --ignored-image-list or .sealignore",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("here:1"), "{said}");
    place.write("manifests/imageList", "quay.io/x/gone:1\nQuay.io/X/bad:1\n{{ x }}\n");
    place.write(".sealignore", "quay.io/x/gone:1");
    let said = place.build(KUBEFILE, &[]);
    assert!(said.contains("manifests/imageList:2: \"Quay.io/X/bad:1\" is left out"), "{said}");
    assert!(said.contains("it is a template that only its installation fills in"), "{said}");
    let said = place.build_fails(KUBEFILE, &["--collect-platform=linux/s390x"]);
    assert!(said.contains("quay.io/x/here:1") && said.contains("linux/s390x"), "{said}");
}

#[test]
fn a_login_is_asked_for_and_can_come_with_a_list() {
    let Some(place) = Workplace::start(true) else { return };
    let address = place.registry.address().to_string();
    let image = place.registry.name("x/a:1");
    assert!(place.registry.login(&address, "secret").status.success());
    place.image("x/a:1", &[&noise(2000, 1)]);
    fs::remove_file(place.registry.path("auth.json")).unwrap();
    place.write("manifests/imageList", &image);
    let said = place.build_fails(KUBEFILE, &[]);
    let login = format!("hint: log in with `kfs login {address}`");
    assert!(said.contains("manifests/imageList:1") && said.contains(&login), "{said}");
    let list = |password: &str, registry: &str| {
        format!("- username: me\n  password: {password}\n{registry}  images:\n  - {image}\n")
    };
    let named = format!("  registry: http://{address}/\n");
    place.write("auth.yaml", list("wrong", &named));
    let said = place.build_fails(KUBEFILE, &["--image-list-with-auth=context/auth.yaml"]);
    assert!(!said.contains("wrong"), "{said}");
    place.write("auth.yaml", list("secret", &named));
    place.build(KUBEFILE, &["--image-list-with-auth=context/auth.yaml"]);
    assert_eq!(place.listed("cluster:1"), [&image[..]]);
    // Sealer's list in the context, which names no registry.
    fs::remove_dir_all(place.registry.path("store")).unwrap();
    place.write("imageListWithAuth.yaml", list("secret", ""));
    place.build(KUBEFILE, &[]);
}

#[test]
fn two_images_in_one_place_stop_the_build() {
    let Some(place) = Workplace::start(false) else { return };
    let one = place.image("quay.io/x/a:1", &[&noise(2000, 1)]);
    place.image("other.io/x/a:1", &[&noise(2000, 2)]);
    place.image("other.io/x/b:1", &[&noise(2000, 3)]);
    place.image("quay.io/x/b:1", &[&noise(2000, 3)]);
    place.write("manifests/imageList", "quay.io/x/a:1\nother.io/x/a:1\n");
    let said = place.build_fails(KUBEFILE, &[]);
    let both = "other.io/x/a:1 and quay.io/x/a:1 are both x/a:1 in the registry";
    assert!(said.contains(both) && said.contains("hint: name one of them by its digest"), "{said}");
    // Mirrors of one image, and other digests, are no harm.
    let list = format!("quay.io/x/a@{one}\nother.io/x/a:1\nother.io/x/b:1\nquay.io/x/b:1\n");
    place.write("manifests/imageList", list);
    place.build(KUBEFILE, &[]);
    // The base has one already.
    place.ok("store", &["tag", "cluster:1", "base:1"]);
    place.write("manifests/imageList", "quay.io/x/a:1\n");
    let said = place.build_fails(&KUBEFILE.replace("scratch", "base:1"), &[]);
    assert!(said.contains(both), "{said}");
}
