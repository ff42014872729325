//! What is fetched before anybody reads it, of an image in a registry; and what the statistics say.

use std::cell::Cell;
use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::offline::read_anew;
use crate::remote::{Registry, forget_local};
use crate::sandbox::{Sandbox, send, wait_until};

/// Patience with a registry that does not answer.
const PATIENCE: &str = "--read-timeout=1s";

fn stats(sandbox: &Sandbox) -> Value {
    let list = sandbox.ok(&["mounts", "--stats", "--format", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    list[0]["stats"].clone()
}

/// Waits until so many bytes have come and no more do.
fn wait_until_fetched(sandbox: &Sandbox, least: usize) {
    let last = Cell::new(None);
    wait_until("it is fetched", || {
        thread::sleep(Duration::from_millis(500));
        let stats = stats(sandbox);
        let fetched = stats["bytes_fetched"].as_u64();
        let is_still = fetched.is_some() && fetched == last.get() && stats["in_flight"] == 0;
        last.set(fetched);
        is_still && fetched >= Some(least as u64)
    });
}

/// Whether a file can be read while the registry does not answer.
fn is_here(sandbox: &Sandbox, file: &str, content: &[u8]) -> bool {
    match fs::read(sandbox.path(file)) {
        Ok(read) => {
            assert!(read == content, "{file}");
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{file}");
            false
        }
    }
}

#[test]
fn the_first_mount_fetches_what_programs_start_with() {
    let Some(sandbox) = Sandbox::new() else { return };
    let library: Vec<u8> = (0..500_000_u32).flat_map(|n| (n ^ n << 7).to_le_bytes()).collect();
    let files = [("lib64/ld-linux-x86-64.so.2", &b"loader"[..]), ("lib64/libc.so.6", &library)];
    let Some(registry) = Registry::start_with(&sandbox, &files) else { return };
    forget_local(&sandbox);
    for (prefetch, is_fetched) in [("off", false), ("trace", true)] {
        let options = [&format!("--prefetch={prefetch}"), PATIENCE];
        registry.mount_image(&sandbox, &registry.image, &options);
        wait_until_fetched(&sandbox, if is_fetched { library.len() / 8 } else { 0 });
        send(registry.process.id(), Signal::SIGSTOP);
        assert_eq!(is_here(&sandbox, "mnt/lib64/libc.so.6", &library), is_fetched);
        assert!(!is_here(&sandbox, "mnt/other", &registry.other));
        send(registry.process.id(), Signal::SIGCONT);
        sandbox.ok(&["umount", "mnt"]);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn the_first_mount_fetches_what_the_image_has_in_front() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    fs::write(sandbox.path("first"), "/other\n").unwrap();
    let images = ["zstd-chunked", "estargz"].map(|format| {
        let image = format!("{}/app:{format}", registry.address());
        sandbox.ok(&["convert", "plain", &image, "--to", format, "--trace", "first"]);
        sandbox.ok(&["push", "--plain-http", &image]);
        sandbox.ok(&["rmi", &image]);
        image
    });
    forget_local(&sandbox);
    for image in images {
        registry.mount_image(&sandbox, &image, &[PATIENCE]);
        wait_until_fetched(&sandbox, registry.other.len() / 8);
        send(registry.process.id(), Signal::SIGSTOP);
        assert!(is_here(&sandbox, "mnt/other", &registry.other), "{image}");
        assert!(!is_here(&sandbox, "mnt/big", &registry.big), "{image}");
        send(registry.process.id(), Signal::SIGCONT);
        sandbox.ok(&["umount", "mnt"]);
    }
    sandbox.assert_nothing_left();
}

#[test]
fn the_next_mount_fetches_what_this_one_read() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(registry) = Registry::start(&sandbox) else { return };
    forget_local(&sandbox);
    let image = &registry.image;
    // The first run is recorded, unless nothing is wanted of that.
    for (options, traces) in [(&["--prefetch=off", PATIENCE][..], 0), (&[PATIENCE], 1)] {
        registry.mount_image(&sandbox, image, options);
        assert!(read_anew(&sandbox, "mnt/big") == registry.big);
        sandbox.ok(&["umount", "mnt"]);
        let found = fs::read_dir(sandbox.path("store/traces")).map_or(0, Iterator::count);
        assert_eq!(found, traces, "{options:?}");
    }
    fs::write(sandbox.path("trace"), sandbox.ok(&["trace", "export", image])).unwrap();
    for (prefetch, has) in [("off", [false; 2]), ("trace", [true, false]), ("all", [true; 2])] {
        sandbox.ok(&["cache", "prune", "--all"]);
        registry.mount_image(&sandbox, image, &[&format!("--prefetch={prefetch}"), PATIENCE]);
        let wanted = [&registry.big, &registry.other].into_iter().zip(has);
        let wanted = wanted.map(|(content, has)| if has { content.len() / 8 } else { 0 });
        wait_until_fetched(&sandbox, wanted.sum());
        let before = stats(&sandbox);
        send(registry.process.id(), Signal::SIGSTOP);
        for ((file, content), has) in
            [("mnt/big", &registry.big), ("mnt/other", &registry.other)].into_iter().zip(has)
        {
            assert_eq!(is_here(&sandbox, file, content), has, "{prefetch}, {file}");
        }
        if has.contains(&false) {
            let errors = |stats: Value| stats["errors"].as_u64();
            let before = errors(before.clone());
            wait_until("the error is counted", || errors(stats(&sandbox)) > before);
        }
        if prefetch == "off" {
            assert_eq!(before["requests"], 0, "{before}");
        }
        send(registry.process.id(), Signal::SIGCONT);
        assert!(read_anew(&sandbox, "mnt/other") == registry.other, "{prefetch}");
        wait_until("the bytes are counted", || {
            let text = sandbox.ok(&["mounts", "--prometheus"]);
            let mut lines = text.lines();
            let line = lines.find(|line| line.starts_with("kfs_bytes_fetched_total{"));
            line.is_some_and(|line| !line.ends_with(" 0"))
        });
        sandbox.ok(&["umount", "mnt"]);
        // The trace stays the one of the first run for the next round.
        sandbox.ok(&["trace", "import", image, "trace"]);
    }
    sandbox.assert_nothing_left();
}
