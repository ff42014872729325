//! A store, a build context and `kfs`, all in one directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::host_tools::{install_program, install_tools};
use crate::skip::skip;

/// What the base has beside the tools of all tests.
const MORE_TOOLS: [&str; 11] = [
    "/usr/bin/chown",
    "/usr/bin/cp",
    "/usr/bin/find",
    "/usr/bin/getfattr",
    "/usr/bin/rmdir",
    "/usr/bin/setfattr",
    "/usr/bin/sha256sum",
    "/usr/bin/sort",
    "/usr/bin/stat",
    "/usr/bin/tr",
    "/usr/sbin/setcap",
];

/// A directory with a store, and a context in `context/`.
pub(crate) struct Workshop {
    dir: TempDir,
}

/// A build that worked.
pub(crate) struct Built {
    /// Of the manifest, as printed.
    pub(crate) digest: String,
    /// All that was said.
    pub(crate) said: String,
}

impl Built {
    /// How many steps were taken from the cache.
    pub(crate) fn cached(&self) -> usize {
        // The name of the stage comes first where there are several.
        let done = |line: &&str| {
            let line = line.trim_start();
            let line =
                line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(line, |l| l.1);
            line.starts_with("cached")
        };
        self.said.lines().filter(done).count()
    }

    /// What the last RUN printed: the indented lines after the last step's line that is a RUN.
    #[track_caller]
    pub(crate) fn last_run(&self) -> String {
        let lines: Vec<_> = self.said.lines().collect();
        let start = lines.iter().rposition(|line| line.contains("] RUN ")).expect("a RUN");
        let output = lines[start + 1..].iter().take_while(|line| line.starts_with("      "));
        // The layer of the RUN before may be told meanwhile.
        let is_layer = |line: &str| line.starts_with("      [") && line.contains("] layer ");
        let output = output.filter(|line| !is_layer(line));
        let output: Vec<_> = output.map(|line| &line[6..]).collect();
        // The last line tells time and layer.
        output[..output.len().saturating_sub(1)].join("\n")
    }
}

impl Workshop {
    /// On the disk that the build is on: host isolation hides /tmp, and it may not be fit for
    /// overlayfs.
    pub(crate) fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            skip("needs root and /dev/fuse");
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("context")).unwrap();
        Some(Self { dir })
    }

    /// One with an image `base` that has a shell and tools.
    pub(crate) fn with_base() -> Option<Self> {
        Self::with(install)
    }

    /// One with an image `base` that has what `fill` puts there.
    pub(crate) fn with(fill: impl Fn(&Path)) -> Option<Self> {
        let shop = Self::new()?;
        shop.import("base", fill);
        Some(shop)
    }

    /// Makes an image of what `fill` puts into a directory.
    pub(crate) fn import(&self, name: &str, fill: impl Fn(&Path)) {
        let (root, tar) = (self.path("rootfs"), self.path("rootfs.tar"));
        fs::create_dir(&root).unwrap();
        fill(&root);
        let mut pack = Command::new("tar");
        pack.args(["--xattrs", "--xattrs-include=*", "-C"]).arg(&root).arg("-cf").arg(&tar);
        run(pack.arg("."));
        self.ok(&["import", "rootfs.tar", name]);
        fs::remove_dir_all(root).unwrap();
        fs::remove_file(tar).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the context.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path("context").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// `kfs` with the store here.
    pub(crate) fn kfs(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kfs"));
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        command
            .env("KFS_PULL", "never")
            .env("KFS_ROOT", self.path("store"))
            .env_remove("SOURCE_DATE_EPOCH");
        command
    }

    /// Standard output of a command that has to work.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        run(&mut self.kfs(args))
    }

    /// Builds a Dockerfile of this text as `new`.
    #[track_caller]
    pub(crate) fn build(&self, text: &str) -> Built {
        self.build_with(text, &[])
    }

    /// Builds a Dockerfile of this text as `new`, with more arguments.
    #[track_caller]
    pub(crate) fn build_with(&self, text: &str, args: &[&str]) -> Built {
        let output = self.try_build("Dockerfile", text, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}\n{said}");
        let digest = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
        Built { digest, said }
    }

    /// What is said by a build that has to fail.
    #[track_caller]
    pub(crate) fn fails(&self, text: &str, args: &[&str]) -> String {
        let output = self.try_build("Dockerfile", text, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{text}\n{said}");
        assert!(output.status.code().is_some(), "{:?}\n{said}", output.status);
        said
    }

    /// Starts a build of a Dockerfile of this text; what it says can be read meanwhile.
    pub(crate) fn start_build(&self, text: &str) -> Child {
        let mut command = self.build_command("Dockerfile", text, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Builds a file of this name, in the directory of the context but not in it.
    pub(crate) fn try_build(&self, file: &str, text: &str, args: &[&str]) -> Output {
        self.build_command(file, text, args).output().unwrap()
    }

    fn build_command(&self, file: &str, text: &str, args: &[&str]) -> Command {
        fs::write(self.path(file), text).unwrap();
        // What its files name is in no registry.
        let mut command = self.kfs(&["build", "-f", file, "-t", "new", "--collect=none"]);
        command.args(args).arg("context");
        command
    }

    /// The paths of an image, sorted; directories end in a slash.
    #[track_caller]
    pub(crate) fn files(&self, image: &str) -> Vec<String> {
        self.mounted(image, |root| {
            let find = ["-mindepth", "1", "(", "-type", "d", "-printf", "%P/\\n"];
            let mut command = Command::new("find");
            command.arg(root).args(find).args(["-o", "-printf", "%P\\n", ")"]);
            let mut files: Vec<_> = run(&mut command).lines().map(str::to_owned).collect();
            files.sort();
            files
        })
    }

    /// Looks into a mounted image.
    #[track_caller]
    pub(crate) fn mounted<T>(&self, image: &str, look: impl FnOnce(&Path) -> T) -> T {
        let place = self.path("mnt");
        fs::create_dir(&place).unwrap();
        self.ok(&["mount", image, "mnt"]);
        let seen = look(&place);
        self.ok(&["umount", "mnt"]);
        fs::remove_dir(place).unwrap();
        seen
    }

    /// `kfs inspect` of an image.
    #[track_caller]
    pub(crate) fn inspect(&self, image: &str) -> Value {
        serde_json::from_str(&self.ok(&["inspect", image])).unwrap()
    }

    /// Nothing of a build that has ended is left: no mount, no process, no temporary file.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        self.assert_nothing_left_of(&[]);
    }

    /// Nothing is left, but for processes of these programs, which the test has started.
    #[track_caller]
    pub(crate) fn assert_nothing_left_of(&self, started: &[&str]) {
        let left: Vec<_> = fs::read_dir(self.path("store/tmp")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let mut processes = self.processes();
        processes.retain(|process| !started.iter().any(|program| process.starts_with(program)));
        assert_eq!(processes, Vec::<String>::new());
        let here = self.dir.path().to_str().unwrap();
        let table = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!table.contains(here), "{table}");
    }

    /// The processes that were started here, or work on something here.
    pub(crate) fn processes(&self) -> Vec<String> {
        let here = self.dir.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap() {
            let path = entry.unwrap().path();
            let shows = |name: &str| {
                let text = fs::read(path.join(name)).unwrap_or_default();
                String::from_utf8_lossy(&text).contains(here)
            };
            if shows("mountinfo") || shows("environ") || shows("cmdline") {
                let name = fs::read(path.join("cmdline")).unwrap_or_default();
                found.push(String::from_utf8_lossy(&name).replace('\0', " "));
            }
        }
        found
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What a failed test left must not stay; a second panic would hide the first.
            drop(self.kfs(&["umount", "--all", "--lazy"]).output());
        }
    }
}

/// Fills a directory with a shell and tools.
pub(crate) fn install(root: &Path) {
    install_tools(root);
    MORE_TOOLS.map(Path::new).into_iter().for_each(|tool| install_program(root, tool));
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
}

/// Runs a command that has to work; its standard output.
#[track_caller]
pub(crate) fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{command:?}: {stdout}{}", String::from_utf8_lossy(&stderr));
    stdout
}
