//! Files that the kernel reads without us.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kfs_fs::filesystem::ImageFs;
use kfs_fs::fuse::{self, Mounted, Through};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::mount::MsFlags;

use crate::fixture::{MIB, Remotely, Store, cached, noise};
use crate::skip::skip;
use crate::source::Network;

struct Fixture {
    fs: Arc<ImageFs>,
    root: PathBuf,
    journal: PathBuf,
    _mounted: Mounted,
}

/// `None`, with a line that says so, where this cannot be tested.
fn mount(store: &Store, image: &Remotely) -> Option<Fixture> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        skip("needs root and /dev/fuse");
        return None;
    }
    let (root, journal) = (store.path().join("mnt"), store.path().join("journal"));
    fs::create_dir_all(&root).unwrap();
    if journal.exists() {
        fs::remove_file(&journal).unwrap();
    }
    let fs = Arc::new(image.open(store, cached(&store.cache(1 << 30))));
    let through = Through::first(&fs, &journal).unwrap();
    let mounted = fuse::mount_through(fs.clone(), &root, "test".as_ref(), through).unwrap();
    Some(Fixture { fs, root, journal, _mounted: mounted })
}

fn image(store: &Store) -> Remotely {
    let files = [("big", noise(1, 5 * MIB + 7)), ("other", noise(2, MIB)), ("small", noise(3, 9))];
    Remotely::new(store, &files, 64 << 10)
}

impl Fixture {
    /// How often content was read by way of us.
    fn requests(&self) -> u64 {
        let stats = self.fs.stats();
        stats.memory_hits + stats.disk_hits + stats.misses
    }

    /// Reads a file wholly, not from the page cache of the mount, and says whether we were asked.
    fn asks(&self, file: &File, expected: &[u8]) -> bool {
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
        let before = self.requests();
        let mut content = vec![0; expected.len()];
        file.read_exact_at(&mut content, 0).unwrap();
        assert!(content == expected);
        self.requests() > before
    }

    fn open(&self, name: &str) -> File {
        File::open(self.root.join(name)).unwrap()
    }

    /// Opens a file until the kernel reads it without us.
    fn open_through(&self, name: &str, expected: &[u8]) -> File {
        for _ in 0..1000 {
            let file = self.open(name);
            if !self.asks(&file, expected) {
                return file;
            }
            drop(file);
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} is read by way of the server for ever");
    }

    fn given(&self) -> u64 {
        fs::metadata(&self.journal).unwrap().len() / 16
    }
}

#[test]
fn a_file_that_is_whole_is_read_without_us() {
    let store = Store::new();
    let image = image(&store);
    let Some(mount) = mount(&store, &image) else { return };
    let file = mount.open_through("big", &image.files["big"]);
    assert_eq!(mount.given(), 1);
    let second = mount.open("big");
    assert!(!mount.asks(&second, &image.files["big"]));
    drop((file, second));
    assert!(!mount.asks(&mount.open("big"), &image.files["big"]), "once given, always");
    assert_eq!(mount.given(), 1);
    assert!(fs::read(mount.root.join("small")).unwrap() == image.files["small"]);
}

#[test]
fn who_has_it_open_otherwise_keeps_others_from_it() {
    let store = Store::new();
    let image = image(&store);
    let Some(mount) = mount(&store, &image) else { return };
    let expected = &image.files["other"];
    let held = mount.open("other");
    assert!(mount.asks(&held, expected));
    // Whether the whole file is there by now or not.
    for _ in 0..20 {
        assert!(mount.asks(&mount.open("other"), expected));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(mount.given(), 0);
    assert!(mount.asks(&held, expected));
    drop(held);
    let through = mount.open_through("other", expected);
    assert!(!mount.asks(&mount.open("other"), expected));
    drop(through);
}

#[test]
fn a_flipped_file_is_not_served_by_the_next_mount() {
    let store = Store::new();
    let image = image(&store);
    let Some(first) = mount(&store, &image) else { return };
    drop(first.open_through("big", &image.files["big"]));
    drop(first);
    let mut files = fs::read_dir(store.cache_dir().join("files")).unwrap();
    let path = files.next().unwrap().unwrap().path();
    File::options().write(true).open(&path).unwrap().write_all_at(b"wrong", MIB as u64).unwrap();
    image.remote.set(Network::Gone);
    let next = mount(&store, &image).unwrap();
    let file = next.open("big");
    next.asks(&file, &image.files["big"]);
    drop(file);
    drop(next.open_through("big", &image.files["big"]));
    assert_eq!(next.given(), 1);
}

#[test]
fn an_overlay_goes_on_top() {
    let store = Store::new();
    let image = image(&store);
    let Some(mount) = mount(&store, &image) else { return };
    let expected = &image.files["big"];
    let [upper, work, top] = ["upper", "work", "top"].map(|name| store.path().join(name));
    for dir in [&upper, &work, &top] {
        fs::create_dir(dir).unwrap();
    }
    let lower = mount.root.display();
    let options =
        format!("lowerdir={lower},upperdir={},workdir={}", upper.display(), work.display());
    let (kind, flags) = (Some("overlay"), MsFlags::empty());
    nix::mount::mount(kind, &top, kind, flags, Some(options.as_str())).unwrap();
    let content = fs::read(top.join("big"));
    drop(mount.open_through("big", expected));
    let again = fs::read(top.join("big"));
    let written = File::options().write(true).open(top.join("big"));
    let written = written.and_then(|file| file.write_all_at(b"new", 0));
    let changed = fs::read(top.join("big"));
    nix::mount::umount(&top).unwrap();
    assert!(content.unwrap() == *expected && again.unwrap() == *expected);
    written.unwrap();
    let changed = changed.unwrap();
    assert!(changed[..3] == *b"new" && changed[3..] == expected[3..]);
    assert!(!mount.asks(&mount.open("big"), expected));
}
