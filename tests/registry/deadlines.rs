//! How long a read waits: for a registry that is silent, and for one that is next to silent.

use crate::bad::{BLOBS, Bad};
use kfs_measure::proxy::{Fault, Rule, Shape};

const PATIENCE: &str = "--read-timeout=1s";

/// At 50 bytes a second it would take hours: that this test ends at all shows that there is a
/// deadline for a read as a whole.
#[test]
fn a_registry_that_trickles_is_as_one_that_is_silent() {
    let Some(bad) = Bad::start() else { return };
    let (name, registry) = (bad.name(), &bad.registry);
    let fails = |store: &str, command: &[&str]| {
        let args = [command, &["--plain-http", PATIENCE]].concat();
        let (code, error) = registry.fails(store, &args);
        assert_eq!(code, 1, "{command:?}: {error}");
        // On a busy machine there may be an attempt for which nothing came.
        assert!(error.contains(" sent ") || error.contains("not there after"), "{error}");
    };
    bad.proxy.add(Rule::on("/manifests/", Fault::Trickle(0)));
    fails("manifest", &["pull", &name]);
    bad.proxy.clear();
    registry.ok("known", &["ls", "--plain-http", &name, "/"]);
    registry.ok("known", &["cache", "prune", "--all"]);
    bad.proxy.add(Rule::on(BLOBS, Fault::Trickle(2000)));
    fails("pulled", &["pull", &name]);
    fails("copied", &["copy", &format!("docker://{name}"), "oci:copy"]);
    fails("lazy", &["cat", &name, "/hello"]);
    fails("known", &["cat", &name, "/hello"]);
    bad.proxy.clear();
    for store in ["manifest", "pulled", "copied", "lazy", "known"] {
        assert_eq!(registry.ok(store, &["cat", "--plain-http", &name, "/hello"]), "world");
    }
}

#[test]
fn a_long_transfer_that_goes_well_is_not_cut() {
    let shape = Shape { rate: Some(400 << 10), ..Shape::default() };
    let Some(bad) = Bad::start_shaped(shape) else { return };
    // Takes four times as long.
    let args = ["pull", "--plain-http", PATIENCE, &bad.name()];
    assert_eq!(bad.registry.ok("pulled", &args).trim(), bad.digest);
}
