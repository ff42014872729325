//! Through the kernel: nobody who reads what is there waits for a network.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kfs_fs::content::Options;
use kfs_fs::filesystem::ImageFs;
use kfs_fs::fuse::{self, Mounted};

use crate::fixture::{MIB, Remotely, Store, cached, noise};
use crate::skip::skip;
use crate::source::{Network, wait_until};

const CHUNK: usize = 64 << 10;

struct Fixture {
    fs: Arc<ImageFs>,
    mounted: Mounted,
    root: PathBuf,
}

/// `None`, with a line that says so, where a mount cannot be tested.
fn mount(store: &Store, image: &Remotely, options: Options) -> Option<Fixture> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        skip("needs root and /dev/fuse");
        return None;
    }
    let root = store.path().join("mnt");
    fs::create_dir_all(&root).unwrap();
    let fs = Arc::new(image.open(store, options));
    let mounted = fuse::mount(fs.clone(), &root, "test".as_ref()).unwrap();
    Some(Fixture { fs, mounted, root })
}

fn two_files(store: &Store) -> Remotely {
    Remotely::new(store, &[("big", noise(1, 32 * MIB)), ("small", noise(2, 100))], CHUNK)
}

#[test]
fn stalled_reads_hold_up_nobody_else_and_are_answered_in_the_end() {
    let store = Store::new();
    let image = two_files(&store);
    let Some(mount) = mount(&store, &image, cached(&store.cache(1 << 30))) else { return };
    let small = fs::read(mount.root.join("small")).unwrap();
    image.remote.set(Network::Stalled);
    let big = Arc::new(File::open(mount.root.join("big")).unwrap());
    let readers: Vec<_> = (0..200)
        .map(|n| {
            let big = big.clone();
            std::thread::spawn(move || {
                let mut buf = [0; 100];
                let at = n * 150_000;
                big.read_exact_at(&mut buf, at).map(|()| (at, buf))
            })
        })
        .collect();
    image.remote.wait_for_reads(2);
    // More of them than threads answer the kernel.
    wait_until("all wait", || mount.fs.stats().waiting >= 60);
    for _ in 0..100 {
        assert_eq!(fs::read_dir(&mount.root).unwrap().count(), 2);
        assert!(fs::symlink_metadata(mount.root.join("none")).is_err());
        assert_eq!(fs::metadata(mount.root.join("big")).unwrap().len(), 32 * MIB as u64);
        assert!(fs::read(mount.root.join("small")).unwrap() == small);
    }
    image.remote.set(Network::Works);
    for reader in readers {
        let (at, buf) = reader.join().unwrap().unwrap();
        let at = usize::try_from(at).unwrap();
        assert!(buf == image.files["big"][at..at + 100], "{at}");
    }
    drop(big);
    mount.mounted.unmount().unwrap();
}

#[test]
fn what_fails_is_eio_and_works_again_later() {
    let store = Store::new();
    let image = two_files(&store);
    let timeout = Duration::from_millis(300);
    let options = Options { timeout, ..cached(&store.cache(1 << 30)) };
    let Some(mount) = mount(&store, &image, options) else { return };
    let big = File::open(mount.root.join("big")).unwrap();
    let read = |at: usize| {
        let mut buf = [0; 4096];
        let result = big.read_exact_at(&mut buf, at as u64);
        result.map(|()| assert!(buf == image.files["big"][at..at + 4096]))
    };
    read(0).unwrap();
    for (n, network) in [Network::Gone, Network::Stalled, Network::Flips].into_iter().enumerate() {
        let place = (8 + n * 8) * MIB;
        image.remote.set(network);
        let error = read(place).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{network:?}");
        read(0).unwrap();
        image.remote.set(Network::Works);
        read(place).unwrap_or_else(|error| panic!("after {network:?}: {error}"));
    }
    drop(big);
    mount.mounted.unmount().unwrap();
}

#[test]
fn an_unmount_during_a_stalled_fetch_returns_at_once() {
    let store = Store::new();
    let image = two_files(&store);
    let Some(mount) = mount(&store, &image, Options::default()) else { return };
    image.remote.set(Network::Stalled);
    let path = mount.root.join("big");
    let reader = std::thread::spawn(move || fs::read(path));
    image.remote.wait_for_reads(1);
    let start = Instant::now();
    mount.fs.fail_waiting(Duration::from_secs(2));
    let error = reader.join().unwrap().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO));
    mount.mounted.unmount().unwrap();
    // Far from the minute that a read may wait.
    assert!(start.elapsed() < Duration::from_secs(20));
    image.remote.set(Network::Works);
}

#[test]
fn programs_run_and_files_are_mapped_while_they_are_fetched() {
    let store = Store::new();
    let program = fs::read("/bin/true").unwrap();
    let image = Remotely::new(&store, &[("true", program)], 8 << 10);
    image.remote.set(Network::Slow(Duration::from_millis(2)));
    let Some(mount) = mount(&store, &image, cached(&store.cache(1 << 30))) else { return };
    let status = std::process::Command::new(mount.root.join("true")).status().unwrap();
    assert!(status.success());
    mount.mounted.unmount().unwrap();
}
