//! The tools that are compared: how each takes an image from a registry to a program's exit, with
//! all that it keeps in a directory of its own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use kfs_fs::error::AtPath as _;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use serde::{Deserialize, Serialize};

use super::side::{Ended, Kind, Spec};
use crate::clock::{self, Micros};
use crate::enter::{self, Entry};
use crate::{MeasureError, process};

/// A tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tool {
    /// This program.
    #[serde(rename = "kfs")]
    Kfs,
    /// `podman run`.
    #[serde(rename = "podman")]
    Podman,
    /// `buildah from` and `buildah run`.
    #[serde(rename = "buildah")]
    Buildah,
    /// `skopeo copy`, `umoci unpack` and chroot.
    #[serde(rename = "skopeo+umoci")]
    SkopeoUmoci,
}

/// Why a text names no tool to compare with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of podman, buildah, skopeo+umoci")]
pub struct ToolError(String);

impl FromStr for Tool {
    type Err = ToolError;

    fn from_str(text: &str) -> Result<Self, ToolError> {
        match text {
            "podman" => Ok(Self::Podman),
            "buildah" => Ok(Self::Buildah),
            "skopeo+umoci" => Ok(Self::SkopeoUmoci),
            _ => Err(ToolError(text.to_owned())),
        }
    }
}

impl Tool {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kfs => "kfs",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
            Self::SkopeoUmoci => "skopeo+umoci",
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Kfs => &[],
            Self::Podman => &["podman"],
            Self::Buildah => &["buildah"],
            Self::SkopeoUmoci => &["skopeo", "umoci"],
        }
    }

    /// What the programs of another tool say of their versions; an error if one is not there.
    pub fn versions(self) -> Result<Vec<String>, MeasureError> {
        let version = |program: &&'static str| {
            let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
            let output = output.map_err(|_| MeasureError::Missing(program))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(text.lines().next().unwrap_or_default().trim().to_owned())
        };
        self.programs().iter().map(version).collect()
    }

    /// What its command runs in: a container takes more to start than a chroot.
    pub fn runs_in(self) -> &'static str {
        match self {
            Self::Kfs | Self::Buildah | Self::SkopeoUmoci => "chroot",
            Self::Podman => "container",
        }
    }

    /// From what is there to the program's exit.
    pub(super) fn start(self, spec: &Spec, kind: Kind) -> Result<Vec<Ended>, MeasureError> {
        let at = At(spec);
        match self {
            Self::Kfs => at.kfs(),
            Self::Podman => at.podman(),
            Self::Buildah => at.buildah(kind),
            Self::SkopeoUmoci => at.skopeo_umoci(kind),
        }
    }

    /// Lets go of what a start leaves behind beside its store.
    pub(super) fn stop(self, spec: &Spec) -> Result<(), MeasureError> {
        let at = At(spec);
        match self {
            Self::Kfs => at.run(at.kfs_command("umount").arg(at.path("mnt"))).map(drop),
            Self::Buildah => at.run(at.buildah_command("rm").arg(CONTAINER)).map(drop),
            Self::Podman => at.run(at.podman_command("rm").args(["--force", CONTAINER])).map(drop),
            Self::SkopeoUmoci => Ok(()),
        }
    }
}

/// The name of a container.
const CONTAINER: &str = "bench";

/// One side of a measurement.
struct At<'a>(&'a Spec);

impl At<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.0.dir.join(name)
    }

    fn run(&self, command: &mut Command) -> Result<Vec<u8>, MeasureError> {
        process::run(command, &self.0.dir)
    }

    fn kfs_command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.0.program);
        command.arg("--root").arg(self.path("store")).args(["--quiet", what]);
        command.env_remove("KFS_PULL").env_remove("KFS_ROOT");
        command
    }

    fn kfs(&self) -> Result<Vec<Ended>, MeasureError> {
        /// What `kfs mount --timings` prints.
        #[derive(Deserialize)]
        struct Timings {
            found: Micros,
            indexed: Micros,
        }
        let mountpoint = self.path("mnt");
        fs::create_dir_all(&mountpoint).at("create", &mountpoint)?;
        let mut mount = self.kfs_command("mount");
        mount.args(["--timings", "--plain-http", &self.0.image]).arg(&mountpoint);
        let said = self.run(&mut mount)?;
        let mounted = clock::now();
        let Timings { found, indexed } = serde_json::from_slice(&said)
            .map_err(|error| process::failed(&mount, format!("its timings: {error}")))?;
        self.read_first_byte(&mountpoint)?;
        let read = clock::now();
        let mut phases = vec![
            Ended::new("resolve", found),
            Ended::new("index", indexed),
            Ended::new("mount", mounted),
            Ended::new("first byte", read),
        ];
        phases.extend(self.enter(&mountpoint)?);
        Ok(phases)
    }

    /// Reads the beginning of the program, as the kernel is going to.
    fn read_first_byte(&self, root: &Path) -> Result<(), MeasureError> {
        let root_fd = File::open(root).at("open", root)?;
        let how = OpenHow::new().flags(OFlag::O_RDONLY).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let program = &self.0.command[0];
        let directories = self.0.env.iter().find(|(name, _)| name == "PATH");
        let directories = directories.map_or("", |(_, path)| path.as_str());
        let places: Vec<PathBuf> = match program.contains('/') {
            true => vec![Path::new(&self.0.directory).join(program)],
            false => directories.split(':').map(|dir| Path::new(dir).join(program)).collect(),
        };
        let found = places.iter().find_map(|place| openat2(&root_fd, place.as_path(), how).ok());
        let found = found.ok_or_else(|| MeasureError::NoProgram(program.clone()))?;
        let read = File::from(found).read(&mut [0]);
        read.map(drop).map_err(|error| MeasureError::system(format!("read {program}"), error))
    }

    /// Runs the program in a root file system: when it was executed, and when it ended.
    fn enter(&self, root: &Path) -> Result<[Ended; 2], MeasureError> {
        let entry = Entry {
            root: root.to_owned(),
            directory: self.0.directory.clone(),
            env: self.0.env.clone(),
            command: self.0.command.clone(),
        };
        let entry = serde_json::to_string(&entry).expect("data with names as keys");
        let mut command = Command::new(&self.0.program);
        command.args([enter::ARGUMENT, &entry]);
        process::redirect(&mut command, &self.0.dir)?;
        let failed = |error: io::Error| MeasureError::system("start the command", error);
        let (mut told, tell) = io::pipe().map_err(failed)?;
        command.stdin(Stdio::from(tell));
        let mut child = command.spawn().map_err(failed)?;
        // Else this process would hold the pipe open.
        command.stdin(Stdio::null());
        told.read(&mut [0]).map_err(failed)?;
        let executed = clock::now();
        let status = child.wait().map_err(failed)?;
        let ended = clock::now();
        if !status.success() {
            let how = format!("{status}{}", process::tail(&self.0.dir));
            return Err(MeasureError::Command { command: self.0.command.join(" "), how });
        }
        Ok([Ended::new("exec", executed), Ended::new("exit", ended)])
    }

    /// Signatures are not what is measured, and a machine may have no policy on them.
    fn policy(&self) -> Result<PathBuf, MeasureError> {
        let path = self.path("policy.json");
        let text = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
        fs::write(&path, text).at("write", &path)?;
        Ok(path)
    }

    /// `what` with the options for a private store.
    fn podman_command(&self, what: &str) -> Command {
        let mut command = Command::new("podman");
        let short = &self.0.short;
        command.arg("--root").arg(self.path("root")).arg("--runroot").arg(short.join("run"));
        command.arg("--tmpdir").arg(short.join("tmp"));
        command.args(["--storage-driver", self.storage_driver()]);
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        if let Some(runtime) = &self.0.runtime {
            command.args(["--runtime", runtime]);
        }
        command.arg(what);
        command
    }

    fn podman(&self) -> Result<Vec<Ended>, MeasureError> {
        let mut command = self.podman_command("run");
        command.args(["--name", CONTAINER, "--quiet", "--tls-verify=false", "--signature-policy"]);
        command.arg(self.policy()?);
        // What a root without CAP_SYS_RESOURCE may not raise, and what takes time of its own.
        command.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]);
        command.args([
            "--net=host",
            "--security-opt",
            "seccomp=unconfined",
            "--log-driver",
            "none",
        ]);
        command.args(["--entrypoint", "", &self.0.image]).args(&self.0.command);
        self.run(&mut command)?;
        Ok(vec![Ended::now("pull and run")])
    }

    /// An overlayfs lies on none.
    fn storage_driver(&self) -> &'static str {
        match statfs(&self.0.dir).map(|it| it.filesystem_type()) {
            Ok(OVERLAYFS_SUPER_MAGIC) => "vfs",
            Ok(_) | Err(_) => "overlay",
        }
    }

    fn buildah_command(&self, what: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.path("root")).arg("--runroot").arg(self.path("run"));
        command.args(["--storage-driver", self.storage_driver()]).arg(what);
        command
    }

    fn buildah(&self, kind: Kind) -> Result<Vec<Ended>, MeasureError> {
        let mut from = self.buildah_command("from");
        from.args(["--quiet", "--name", CONTAINER, "--tls-verify=false", "--signature-policy"]);
        from.arg(self.policy()?);
        if kind != Kind::Cold {
            from.arg("--pull-never");
        }
        self.run(from.arg(&self.0.image))?;
        let pulled = Ended::now("pull");
        let mut run = self.buildah_command("run");
        self.run(run.args(["--isolation", "chroot", CONTAINER, "--"]).args(&self.0.command))?;
        Ok(vec![pulled, Ended::now("run")])
    }

    fn skopeo_umoci(&self, kind: Kind) -> Result<Vec<Ended>, MeasureError> {
        let (layout, bundle) = (self.path("layout"), self.path("bundle"));
        let named = |prefix: &str| {
            let mut text = OsString::from(prefix);
            text.push(&layout);
            text.push(":x");
            text
        };
        let mut phases = Vec::new();
        if kind == Kind::Cold {
            let mut copy = Command::new("skopeo");
            copy.args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false"]);
            self.run(copy.arg(format!("docker://{}", self.0.image)).arg(named("oci:")))?;
            phases.push(Ended::now("copy"));
            let mut unpack = Command::new("umoci");
            self.run(unpack.arg("unpack").arg("--image").arg(named("")).arg(&bundle))?;
            phases.push(Ended::now("unpack"));
        }
        phases.extend(self.enter(&bundle.join("rootfs"))?);
        Ok(phases)
    }
}

pub(super) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
