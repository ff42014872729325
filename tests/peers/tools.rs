//! kfs, umoci and buildah, each with all that it keeps in one directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde_json::Value;
use tempfile::TempDir;

use crate::skip::skip;

/// Whether the tests here can run; says so if not.
pub(crate) fn available() -> bool {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        skip("needs root and /dev/fuse");
        return false;
    }
    for tool in ["umoci", "buildah"] {
        if let Err(error) = Command::new(tool).arg("--version").output() {
            skip(format_args!("{tool}: {error}"));
            return false;
        }
    }
    true
}

/// Runs a command that has to work; its standard output.
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {stdout}{}", String::from_utf8_lossy(&stderr));
    stdout
}

/// A directory with a store of kfs and a storage of buildah in it.
pub(crate) struct Workshop {
    dir: TempDir,
    /// For podman, which wants a path of at most 50 characters.
    short: TempDir,
    mounted: Vec<PathBuf>,
}

impl Workshop {
    /// On the disk that the build is on: /tmp may be too small, or not fit for overlayfs.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(
            dir.path().join("policy.json"),
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )
        .unwrap();
        let short = tempfile::tempdir_in("/tmp").unwrap();
        Self { dir, short, mounted: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `kfs` with its store here.
    pub(crate) fn kfs(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command
            .env("KFS_PULL", "never")
            .arg("--root")
            .arg(self.path("store"))
            .current_dir(self.dir.path());
        command
    }

    /// Where kfs mounts an image.
    pub(crate) fn kfs_mount(&mut self, image: &str) -> PathBuf {
        let place = self.path(&format!("kfs-{}", self.mounted.len()));
        fs::create_dir(&place).unwrap();
        run(self.kfs().args(["mount", image]).arg(&place));
        self.mounted.push(place.clone());
        place
    }

    /// Where umoci unpacks the image `image` of a layout, in a new directory.
    pub(crate) fn umoci_unpack(&self, layout: &str) -> PathBuf {
        let (image, bundle) = (format!("{layout}:image"), format!("umoci-{layout}"));
        let args = ["unpack", "--image", &image, &bundle];
        run(Command::new("umoci").args(args).current_dir(self.dir.path()));
        self.path(&bundle).join("rootfs")
    }

    /// Has skopeo copy an image.
    pub(crate) fn skopeo_copy(&self, from: &str, to: &str) {
        let mut copy = Command::new("skopeo");
        copy.current_dir(self.dir.path()).arg("--policy").arg(self.path("policy.json"));
        run(copy.args(["copy", "--quiet", from, to]));
    }

    /// `podman` with its storage here, as it runs without a systemd and with few capabilities.
    pub(crate) fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        command.current_dir(self.dir.path());
        command.arg("--root").arg(self.path("podman/root"));
        command.arg("--runroot").arg(self.short.path());
        command.arg("--tmpdir").arg(self.path("podman/tmp"));
        command.args(["--storage-driver", if self.is_on_overlay() { "vfs" } else { "overlay" }]);
        command.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"]);
        command.args(["--events-backend", "none"]);
        command
    }

    /// overlayfs does not go on top of itself.
    pub(crate) fn is_on_overlay(&self) -> bool {
        statfs(self.dir.path()).unwrap().filesystem_type() == OVERLAYFS_SUPER_MAGIC
    }

    /// `buildah` with its storage here, on the kernel's overlayfs where that can be.
    pub(crate) fn buildah(&self, command_name: &str) -> Command {
        let mut command = Command::new("buildah");
        // Relative: buildah makes a name of an image's path, and a name has no capital letters.
        command.current_dir(self.dir.path());
        command.arg("--root").arg(self.path("buildah/root"));
        command.arg("--runroot").arg(self.path("buildah/run"));
        command.args(["--storage-driver", if self.is_on_overlay() { "vfs" } else { "overlay" }]);
        command.arg(command_name);
        command
    }

    /// Copies an image from elsewhere to buildah's storage.
    pub(crate) fn buildah_pull(&self, from: &str, name: &str) {
        let mut pull = self.buildah("pull");
        pull.arg("--quiet").arg("--signature-policy").arg(self.path("policy.json")).arg(from);
        run(self.buildah("tag").arg(run(&mut pull).trim()).arg(name));
    }

    /// What buildah knows of an image.
    pub(crate) fn buildah_inspect(&self, image: &str) -> Value {
        let text = run(self.buildah("inspect").args(["--type", "image", image]));
        serde_json::from_str(&text).unwrap()
    }

    /// Where buildah mounts an image.
    pub(crate) fn buildah_mount(&self, image: &str) -> PathBuf {
        let policy = self.path("policy.json");
        let container = run(self.buildah("from").arg("--signature-policy").arg(policy).arg(image));
        let place = run(self.buildah("mount").arg(container.trim()));
        PathBuf::from(OsStr::from_bytes(place.trim().as_bytes()))
    }
}

impl Drop for Workshop {
    /// Takes all mounts away, so that the directory can go.
    fn drop(&mut self) {
        let mut commands = Vec::new();
        if !self.mounted.is_empty() {
            let mut umount = self.kfs();
            umount.arg("umount").args(&self.mounted);
            commands.push(umount);
        }
        if self.path("buildah").exists() {
            let mut remove = self.buildah("rm");
            remove.arg("--all");
            commands.push(remove);
        }
        for mut command in commands {
            match std::thread::panicking() {
                // A second panic would hide what the first one says.
                true => drop(command.output()),
                false => drop(run(&mut command)),
            }
        }
    }
}
