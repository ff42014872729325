//! Blobs that several repositories have.

use crate::bad::{BLOBS, Bad};
use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

#[test]
fn an_image_is_read_from_where_it_is_named_and_from_elsewhere_if_it_is_gone_there() {
    let Some(bad) = Bad::start() else { return };
    let other = Proxy::start("127.0.0.1:0", bad.registry.address(), Shape::default()).unwrap();
    let (here, there) = (bad.name(), format!("{}/a:1", other.address()));
    let ok = |args: &[&str]| bad.registry.ok("lazy", args);
    let reads = |name: &str| {
        bad.registry.run("lazy", &["cat", "--plain-http", name, "/big"]).stdout == bad.big
    };
    let from = |proxy: &Proxy| proxy.seen(BLOBS).len();
    // Whatever was seen last.
    ok(&["ls", "--plain-http", &here]);
    ok(&["ls", "--plain-http", "--pull=always", &there]);
    for proxy in [&bad.proxy, &other] {
        proxy.clear();
    }
    other.add(Rule::on("", Fault::Status(503)));
    for name in [&here, &format!("docker://{here}")] {
        ok(&["cache", "prune", "--all"]);
        assert!(reads(name), "{name}");
        assert_eq!(from(&other), 0, "{name}");
    }
    // Where the image is named by has lost the layer.
    for proxy in [&bad.proxy, &other] {
        proxy.clear();
    }
    bad.proxy.add(Rule::on(BLOBS, Fault::Status(404)));
    ok(&["cache", "prune", "--all"]);
    assert!(reads(&here));
    assert!(from(&bad.proxy) > 0 && from(&other) > 0);
}
