//! What `kfs convert` writes, as containerd unpacks and runs it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::converted::{
    FORMATS, LAYERS_WITH_TABLE, has, import_tools, is_known, is_of_overlayfs, odd_image,
};
use crate::images::assert_none;
use crate::tools::{Workshop, available, run};
use crate::walk::{differences, walk};

/// A daemon with all that it keeps in directories of its own, which ends with the value.
struct Containerd {
    /// On the disk of the build, for the overlayfs of snapshots.
    dir: TempDir,
    /// For sockets, whose paths are at most 107 characters.
    short: TempDir,
    daemon: Child,
    snapshotter: &'static str,
    /// Where images are mounted, with the namespace of each.
    mounted: Vec<(String, PathBuf)>,
}

impl Containerd {
    fn start(shop: &Workshop) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let short = tempfile::tempdir_in("/tmp").unwrap();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n",
            dir.path().join("root"),
            short.path().join("state"),
            short.path().join("socket"),
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let daemon = Command::new("containerd")
            .arg("--config")
            .arg(dir.path().join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let snapshotter = if shop.is_on_overlay() { "native" } else { "overlayfs" };
        let mut this = Self { dir, short, daemon, snapshotter, mounted: Vec::new() };
        this.wait_until_it_answers();
        this
    }

    fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.ctr("default", &["version"]).output().unwrap().status.success() {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "containerd does not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ctr(&self, namespace: &str, args: &[&str]) -> Command {
        self.client("ctr", namespace, args)
    }

    fn client(&self, program: &str, namespace: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--address").arg(self.short.path().join("socket"));
        command.args(["--connect-timeout", "2s", "--namespace", namespace]).args(args);
        command
    }

    /// Unpacks an image of the shop's store, in a namespace of its own: layers of the same diff ID
    /// would be taken for unpacked.
    fn import(&self, shop: &Workshop, image: &str, namespace: &str) {
        let archive = shop.path(&format!("{namespace}.tar"));
        run(shop.kfs().args(["save", "--quiet", image, "--output"]).arg(&archive));
        let mut import = self.ctr(namespace, &["images", "import"]);
        run(import.args(["--snapshotter", self.snapshotter]).arg(&archive));
    }

    /// Where it mounts an image.
    fn mount(&mut self, image: &str, namespace: &str) -> PathBuf {
        let place = self.dir.path().join(format!("mounted-{namespace}"));
        fs::create_dir(&place).unwrap();
        let mut mount = self.ctr(namespace, &["images", "mount"]);
        run(mount.args(["--snapshotter", self.snapshotter, image]).arg(&place));
        self.mounted.push((namespace.to_owned(), place.clone()));
        place
    }

    /// Runs a command in an image; its standard output.
    fn run(&self, image: &str, namespace: &str, args: &[&str]) -> String {
        let mut command = self.ctr(namespace, &["run", "--rm", "--net-host"]);
        run(command.args(["--snapshotter", self.snapshotter, image, "container"]).args(args))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for (namespace, place) in &self.mounted {
            let mut unmount = self.ctr(namespace, &["images", "unmount"]);
            match std::thread::panicking() {
                // A second panic would hide what the first one says.
                true => drop(unmount.arg(place).output()),
                false => drop(run(unmount.arg(place))),
            }
        }
        let pid = Pid::from_raw(i32::try_from(self.daemon.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        let status = self.daemon.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "containerd: {status}");
    }
}

#[test]
fn containerd_unpacks_what_is_converted() {
    if !available() || !has(&["containerd", "ctr"]) {
        return;
    }
    let mut shop = Workshop::new();
    let nameless = odd_image(&shop);
    let mut containerd = Containerd::start(&shop);
    for format in FORMATS {
        let name = format!("localhost/mine:{format}");
        run(shop.kfs().args(["convert", "--to", format, "oci:layout:image", &name]));
        containerd.import(&shop, &name, format);
        let theirs = walk(&containerd.mount(&name, format));
        let ours = walk(&shop.kfs_mount(&name));
        let known = |path: &str, property: &str| {
            is_of_overlayfs(path, property) || is_known(format, &nameless, path, property)
        };
        assert_none(differences(&ours, &theirs, known), format);
    }
}

#[test]
fn stargz_finds_the_tables_of_contents() {
    if !available() || !has(&["containerd", "ctr", "ctr-remote"]) {
        return;
    }
    let shop = Workshop::new();
    odd_image(&shop);
    let containerd = Containerd::start(&shop);
    let name = "localhost/mine:estargz";
    run(shop.kfs().args(["convert", "--to", "estargz", "oci:layout:image", name]));
    containerd.import(&shop, name, "estargz");
    let inspected: Value = serde_json::from_str(&run(shop.kfs().args(["inspect", name]))).unwrap();
    let mut found = 0;
    for layer in inspected["manifest"]["layers"].as_array().unwrap() {
        let table = &layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"];
        let Some(table) = table.as_str() else { continue };
        let mut ask = containerd.client("ctr-remote", "estargz", &["images", "get-toc-digest"]);
        assert_eq!(run(ask.arg(layer["digest"].as_str().unwrap())).trim(), table);
        found += 1;
    }
    assert_eq!(found, LAYERS_WITH_TABLE);
}

#[test]
fn containerd_runs_what_is_converted() {
    if !available() || !has(&["containerd", "ctr", "runc"]) {
        return;
    }
    let shop = Workshop::new();
    import_tools(&shop, "localhost/plain:1");
    let containerd = Containerd::start(&shop);
    for format in FORMATS {
        let name = format!("localhost/mine:{format}");
        run(shop.kfs().args(["convert", "--to", format, "localhost/plain:1", &name]));
        containerd.import(&shop, &name, format);
        let said = containerd.run(&name, format, &["/bin/cat", "/etc/motd"]);
        assert_eq!(said, "hello\n", "{format}");
    }
}
