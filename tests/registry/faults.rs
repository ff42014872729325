//! The client on bad days: what breaks is made up for, what is wrong is never served, what does
//! not come ends in an error in time, and nothing of it is remembered.

use std::fs;
use std::io::{self, Read as _};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kfs_fs::blob::BlobSource as _;
use kfs_fs::digest::Digest;
use kfs_fs::oci::registry::{Reference, Registries, Settings};
use tracing::Level;

use crate::bad::{BLOBS, Bad, SLACK, read};
use crate::server::Registry;
use kfs_measure::proxy::{Fault, Proxy, Rule, Shape};

#[test]
fn a_server_that_fails_for_a_while_is_asked_again() {
    let Some(bad) = Bad::start() else { return };
    bad.proxy.add(Rule::on("/manifests/", Fault::Status(503)).times(2));
    bad.proxy.add(Rule::on(BLOBS, Fault::Status(500)).times(2));
    let args = ["cat", "--plain-http", &bad.name(), "/hello"];
    assert_eq!(bad.registry.ok("lazy", &args), "world");
    bad.proxy.clear();
    bad.proxy.add(Rule::on("", Fault::Status(502)));
    let args = ["pull", "--plain-http", "--read-timeout=500ms", &bad.name()];
    let (code, error) = bad.registry.fails("pulled", &args);
    assert!(code == 1 && error.contains("502"), "{code}: {error}");
}

#[test]
fn a_server_that_wants_to_be_left_alone_is() {
    let Some(bad) = Bad::start() else { return };
    let blob = bad.blob();
    bad.proxy.add(Rule::on(BLOBS, Fault::Busy(3600)));
    for offset in 0..20 {
        let error = read(&blob, offset * 1000, 10).unwrap_err().to_string();
        assert!(error.contains("429") && error.contains("asked again in 3"), "{error}");
    }
    assert_eq!(bad.proxy.seen(BLOBS).len(), 1);
    // One that asks for less than the patience of a read is waited for.
    bad.proxy.clear();
    bad.proxy.add(Rule::on(BLOBS, Fault::Busy(0)).times(3));
    bad.assert_reads(&bad.blob(), 0, 1000);
    assert_eq!(bad.proxy.seen(BLOBS).len(), 4);
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let Some(bad) = Bad::start() else { return };
    let len = bad.layer.len() - 10;
    for fault in [Fault::Reset(300_000), Fault::Truncate(300_000)] {
        bad.proxy.clear();
        bad.proxy.add(Rule::on(BLOBS, fault).times(2));
        bad.assert_reads(&bad.blob(), 10, len);
        assert_eq!(bad.proxy.seen(BLOBS).len(), 3);
        assert!(bad.bytes() < len as u64 + 2 * SLACK, "{} of {len} bytes", bad.bytes());
        bad.proxy.clear();
        bad.proxy.add(Rule::on(BLOBS, fault).times(2));
        let mut all = Vec::new();
        bad.blob().stream(0).unwrap().read_to_end(&mut all).unwrap();
        assert!(all == bad.layer);
        assert!(bad.bytes() < len as u64 + 2 * SLACK, "{} of {len} bytes", bad.bytes());
    }
    // And manifests from the start.
    bad.proxy.add(Rule::on("/manifests/", Fault::Truncate(50)).times(2));
    let pull = ["pull", "--plain-http", &bad.name()];
    assert_eq!(bad.registry.ok("pulled", &pull).trim(), bad.digest);
}

#[test]
fn flipped_bytes_are_an_error_and_never_served() {
    let Some(bad) = Bad::start() else { return };
    let (name, registry) = (bad.name(), &bad.registry);
    let pull = ["pull", "--plain-http", &name];
    bad.proxy.add(Rule::on(BLOBS, Fault::Flip(700_000)));
    let (code, error) = registry.fails("pulled", &pull);
    assert!(code == 5 && error.contains(&Digest::of(&bad.layer).to_string()), "{code}: {error}");
    assert!(!bad.has_layer("pulled"));
    let cat = ["cat", "--plain-http", &name, "/big"];
    for known in [false, true] {
        if known {
            bad.proxy.clear();
            registry.ok("lazy", &["ls", "--plain-http", &name, "/"]);
            registry.ok("lazy", &["cache", "prune", "--all"]);
            bad.proxy.add(Rule::on(BLOBS, Fault::Flip(10_000)));
        }
        let failed = registry.run("lazy", &cat);
        let error = String::from_utf8(failed.stderr).unwrap();
        assert_eq!(failed.status.code(), Some(5), "known: {known}: {error}");
        assert!(error.contains("nothing in the store is damaged"), "known: {known}: {error}");
        assert!(bad.big.starts_with(&failed.stdout));
    }
    bad.proxy.clear();
    assert!(registry.run("lazy", &cat).stdout == bad.big);
    assert_eq!(registry.ok("pulled", &pull).trim(), bad.digest);
    bad.proxy.add(Rule::on("/manifests/", Fault::Flip(20)));
    let (code, error) = registry.fails("other", &pull);
    assert!(code == 5, "{code}: {error}");
}

#[test]
fn a_registry_that_sends_no_parts_sends_the_whole_once() {
    let Some(bad) = Bad::start() else { return };
    bad.proxy.add(Rule::on(BLOBS, Fault::NoRange));
    let blob = bad.blob();
    for n in 1..50 {
        bad.assert_reads(&blob, (n * 911_111) % (bad.layer.len() - 1000), 1000);
    }
    assert_eq!(bad.proxy.seen(BLOBS).len(), 1);
    // Also if its answer breaks off: what is known is not lost.
    bad.proxy.clear();
    bad.proxy.add(Rule::on(BLOBS, Fault::Truncate(500_000)).times(1));
    bad.proxy.add(Rule::on(BLOBS, Fault::NoRange));
    let mut all = Vec::new();
    bad.blob().stream(0).unwrap().read_to_end(&mut all).unwrap();
    assert!(all == bad.layer);
    // A pull that goes on gets the whole again, and uses it.
    bad.registry.ok("pulled", &["ls", "--plain-http", &bad.name(), "/"]);
    let partial = format!("pulled/remotes/{}.partial", Digest::of(&bad.layer).hex());
    fs::write(bad.registry.path(&partial), &bad.layer[..100_000]).unwrap();
    bad.proxy.clear();
    bad.proxy.add(Rule::on(BLOBS, Fault::NoRange));
    bad.registry.ok("pulled", &["pull", "--plain-http", &bad.name()]);
    assert_eq!(bad.proxy.seen(BLOBS).len(), 1);
}

#[test]
fn an_address_that_is_outlived_is_found_anew_once_for_all() {
    let Some(bad) = Bad::start() else { return };
    bad.proxy.add(Rule::on(BLOBS, Fault::Redirect(10)));
    bad.proxy.want_tokens(u32::MAX);
    let blob = bad.blob();
    thread::scope(|scope| {
        for n in 0..8 {
            let (bad, blob) = (&bad, &blob);
            scope.spawn(move || {
                for at in 0..5 {
                    bad.assert_reads(blob, n * 100_000 + at * 7000, 5000);
                }
            });
        }
    });
    // 40 reads, 10 an address, and some that were too late for theirs. Four may ask at first, each
    // once without a token.
    let (redirects, used) = (bad.proxy.seen(BLOBS), bad.proxy.seen("/signed/"));
    assert!((4..=14).contains(&redirects.len()), "{} redirects", redirects.len());
    let tokenless = redirects.iter().filter(|seen| !seen.authorized).count();
    assert!(tokenless <= 4, "{tokenless} without a token");
    assert!(used.len() < 90, "{} reads", used.len());
    // Credentials are for the registry alone.
    assert!(used.iter().all(|seen| !seen.authorized));
}

#[test]
fn a_token_that_is_outlived_early_is_renewed() {
    let Some(bad) = Bad::start() else { return };
    bad.proxy.want_tokens(3);
    let blob = bad.blob();
    for n in 0..10 {
        bad.assert_reads(&blob, n * 1000, 1000);
    }
    let tokens = bad.proxy.seen("/token").len();
    assert!((4..=5).contains(&tokens), "{tokens} tokens for 10 reads, 3 a token");
    let pull = ["pull", "--plain-http", &bad.name()];
    assert_eq!(bad.registry.ok("pulled", &pull).trim(), bad.digest);
}

#[test]
fn a_password_is_sent_again_when_asked_for_and_not_logged() {
    let Some(registry) = Registry::start(true) else { return };
    let proxy = Proxy::start("127.0.0.1:0", registry.address(), Shape::default()).unwrap();
    for host in [registry.address(), proxy.address()] {
        assert!(registry.login(&host.to_string(), "secret").status.success());
    }
    registry.image("a:1");
    proxy.add(Rule::on("/manifests/", Fault::Status(503)).times(1));
    proxy.add(Rule::on("/manifests/", Fault::Status(401)).after(2).times(1));
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(Level::TRACE);
    subscriber.with_writer(move || writer.clone()).init();
    let mut settings = Settings::new(registry.path(""));
    settings.plain_http = true;
    settings.auth.files.push(registry.path("auth.json"));
    let name = format!("{}/a:1", proxy.address()).parse().unwrap();
    let repository = Registries::new(settings).repository(&name).unwrap();
    for _ in 0..3 {
        repository.manifest(&Reference::of(&name)).unwrap();
    }
    assert!(proxy.seen("/manifests/").iter().filter(|seen| seen.authorized).count() >= 4);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("answered 503"), "no log: {log}");
    // The password, and name and password as they are sent.
    for secret in ["secret", "bWU6c2VjcmV0"] {
        assert!(!log.contains(secret), "{log}");
    }
}

/// What is logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_stall_ends_in_an_error_and_the_next_read_works() {
    let Some(bad) = Bad::start() else { return };
    let blob = bad.blob();
    bad.proxy.add(Rule::on(BLOBS, Fault::Stall(0)));
    let error = read(&blob, 10, 100_000).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    let args = ["cat", "--plain-http", "--read-timeout=1s", &bad.name(), "/hello"];
    let (code, error) = bad.registry.fails("lazy", &args);
    assert!(code == 1 && error.contains("sent nothing"), "{code}: {error}");
    bad.proxy.clear();
    bad.assert_reads(&blob, 10, 100_000);
    assert_eq!(bad.registry.ok("lazy", &args), "world");
    // One that stalls in the middle, and once, is asked again for the rest.
    bad.proxy.add(Rule::on(BLOBS, Fault::Stall(60_000)).times(1));
    bad.assert_reads(&blob, 10, 100_000);
    let last = bad.proxy.seen(BLOBS).pop().unwrap();
    assert!(last.bytes < 50_000, "{} bytes", last.bytes);
    bad.proxy.add(Rule::on("", Fault::Stall(0)));
    let args = ["ls", "--plain-http", "--read-timeout=1s", &bad.name(), "/"];
    let (code, error) = bad.registry.fails("new", &args);
    assert!(code == 1 && error.contains("sent nothing"), "{code}: {error}");
}

#[test]
fn a_registry_may_go_away_and_come_back() {
    let Some(mut bad) = Bad::start() else { return };
    let blob = bad.blob();
    bad.assert_reads(&blob, 10, 1000);
    bad.registry.stop();
    let error = read(&blob, 5000, 1000).unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    bad.registry.start_again();
    bad.assert_reads(&blob, 5000, 1000);
    // In the middle of a stream: it waits.
    let mut stream = bad.blob().stream(0).unwrap();
    let mut all = vec![0; 1000];
    stream.read_exact(&mut all).unwrap();
    bad.registry.stop();
    bad.registry.start_again();
    stream.read_to_end(&mut all).unwrap();
    assert!(all == bad.layer);
}

#[test]
fn a_push_goes_on_after_what_passes() {
    let Some(bad) = Bad::start() else { return };
    let registry = &bad.registry;
    let faults = [
        ("HEAD", Fault::Status(503)),
        ("POST", Fault::Status(503)),
        ("PATCH", Fault::Status(503)),
        ("PATCH", Fault::Cut(500_000)),
        ("PATCH", Fault::Lost),
        ("PUT", Fault::Status(503)),
        ("PUT", Fault::Lost),
    ];
    let name = |number: usize| format!("{}/b{number}:1", bad.proxy.address());
    for (number, (method, fault)) in faults.into_iter().enumerate() {
        bad.proxy.clear();
        bad.proxy.add(Rule::on(method, fault).times(2));
        bad.proxy.want_tokens(2);
        let args = ["push", "--plain-http", "x:1", &name(number)];
        assert_eq!(registry.ok("origin", &args).trim(), bad.digest, "{method} {fault:?}");
    }
    let name = name(faults.len());
    let push = ["push", "--plain-http", "x:1", &name];
    bad.proxy.clear();
    bad.proxy.add(Rule::on("", Fault::Status(500)));
    let args = [&push[..], &["--read-timeout=500ms"]].concat();
    let (code, error) = registry.fails("origin", &args);
    assert!(code == 1 && error.contains("500"), "{code}: {error}");
    bad.proxy.clear();
    assert_eq!(registry.ok("origin", &push).trim(), bad.digest);
}

#[test]
fn a_pull_that_is_killed_is_taken_up_where_it_was() {
    let Some(bad) = Bad::start() else { return };
    let pull = ["pull", "--plain-http", &bad.name()];
    bad.proxy.add(Rule::on(BLOBS, Fault::Stall(1_000_000)));
    let mut command = bad.registry.command("pulled", &pull);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let partial = format!("pulled/remotes/{}.partial", Digest::of(&bad.layer).hex());
    let partial = bad.registry.path(&partial);
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(&partial).map_or(0, |metadata| metadata.len()) < 900_000 {
        assert!(Instant::now() < deadline, "the pull does not come so far");
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    bad.proxy.clear();
    assert_eq!(bad.registry.ok("pulled", &pull).trim(), bad.digest);
    let left = bad.layer.len() as u64 - 900_000;
    assert!(bad.bytes() <= left + SLACK, "{} bytes, {left} were missing", bad.bytes());
    assert!(bad.has_layer("pulled") && !partial.exists());
}
