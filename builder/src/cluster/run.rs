//! Runs a launch: mounts the image so that it can be written to, puts in what its templates gave,
//! and runs the lines in its root, with this machine's tools.
//!
//! ```text
//! image ─ FUSE ─┐
//!               ├─ overlay ─ files ─ line ─ line ─ ...   what they write goes away at the end
//! upper ────────┘
//! ```
//! All mounts are in a mount namespace of this process: whatever ends it, none of them is left, and
//! the directory in the store is removed by the next kfs that opens the store.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kfs_fs::error::{AtPath as _, PathError};
use kfs_fs::filesystem::ImageFs;
use kfs_fs::fuse::{self, FuseError};
use kfs_fs::oci::store::{Store, StoreError};
use nix::fcntl::OFlag;

use super::kubeconfig::Kubeconfig;
use super::launch::{Launch, Step, Variables};
use crate::exec::{Command, ExecError, Executor, Isolation, Outcome, User, World};
use crate::interrupt::{Interrupted, Interrupts};
use crate::rootfs::{self, LiveRootfs, RootDir, RootfsError};

/// The directory for what the run itself needs, in the root of the file system.
const OWN: &str = ".kfs";
/// Where Helm and kubectl keep things, which shall not be the user's own place.
const TOOLS: [(&str, &str); 4] = [
    ("HELM_CACHE_HOME", "helm/cache"),
    ("HELM_CONFIG_HOME", "helm/config"),
    ("HELM_DATA_HOME", "helm/data"),
    ("KUBECACHEDIR", "kube/cache"),
];

/// A file that is put into the root before the first line is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Relative to the root.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// How the lines are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// [`Isolation::Host`] or [`Isolation::None`].
    pub isolation: Isolation,
    /// Variables of this machine, which hold after those of the launch.
    pub inherited: Variables,
    /// How clusters are reached, as kubectl has it; none for where kubectl looks by itself.
    pub kubeconfig: Vec<PathBuf>,
    /// Name of the machine.
    pub hostname: String,
    /// What ends the run before its time.
    pub interrupts: Arc<Interrupts>,
}

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A line is about to be run: its number, from 1, and the line.
    Step(usize, &'a Step),
    /// A line of output, without its end.
    Output(&'a [u8]),
}

/// A line that failed; no other was run after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its number, from 1.
    pub number: usize,
    /// How it ended.
    pub outcome: Outcome,
}

/// Why lines cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no place for what they write.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image cannot be mounted.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// The root cannot be mounted.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A file cannot be written into the root, or a kubeconfig is not there.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A line cannot be started.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A signal asks the run to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Where the file of this number with values for a chart is, relative to the root.
pub fn values_path(number: usize) -> String {
    format!("{OWN}/values-{number}.yaml")
}

/// Runs a launch to its end, or to the first line that fails. This process gets a mount namespace
/// of its own.
pub fn run(
    fs: Arc<ImageFs>,
    store: &Store,
    launch: &Launch,
    files: &[NewFile],
    options: &Options,
    executor: &dyn Executor,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Failed>, RunError> {
    let _namespace = rootfs::enter_guarded_namespace()?;
    options.interrupts.hold().at("hold back signals of", Path::new("/proc/self"))?;
    let work = store.temp_dir()?;
    let base = work.path().join("image");
    fs::create_dir(&base).at("make directory", &base)?;
    let image = fuse::mount(fs, &base, OsStr::new("image"))?;
    let mut live = LiveRootfs::new(&work.path().join("rootfs"), &[image.mountpoint().to_owned()])?;
    let kubeconfig = Kubeconfig::new(&options.kubeconfig, options.isolation)?;
    let step = live.begin_step(options.isolation, &[])?;
    let root = RootDir::open(&step.merged())?;
    make_own_directory(&root)?;
    for file in files {
        options.interrupts.check()?;
        write(&root, file)?;
    }
    let machine = machine_env(&root, &kubeconfig, options);
    drop(root);
    for (number, line) in (1..).zip(&launch.steps) {
        options.interrupts.check()?;
        report(Event::Step(number, line));
        let command = Command {
            rootfs: step.merged(),
            argv: ["/bin/sh", "-c", &line.command].map(OsString::from).to_vec(),
            env: environment(&machine, launch, line, options),
            cwd: PathBuf::from("/"),
            user: User { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() },
            isolation: options.isolation,
            hostname: options.hostname.clone(),
            world: World { mounts: kubeconfig.mounts.clone(), ..World::default() },
        };
        let outcome = executor.run(&command, &mut |text| report(Event::Output(text)))?;
        if !outcome.status.is_success() {
            return Ok(Some(Failed { number, outcome }));
        }
    }
    Ok(None)
}

/// The directory of that name may come with the image, and may be a link in it.
fn make_own_directory(root: &RootDir) -> Result<(), PathError> {
    let path = root.path().join(OWN);
    match fs::create_dir(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.at("make directory", &path),
    }
}

fn write(root: &RootDir, file: &NewFile) -> Result<(), PathError> {
    let path = Path::new(&file.path);
    let outside = root.outside(path);
    // Where a FIFO is in the way, that is an error and no wait.
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NONBLOCK;
    let opened = root.open_at(path, flags).map_err(rootfs::io_error);
    let mut written = File::from(opened.at("write", &outside)?);
    written.write_all(&file.content).at("write", &outside)?;
    written.set_permissions(Permissions::from_mode(file.mode & 0o777)).at("chmod", &outside)
}

/// Variables that the run itself sets; those of the launch do not change them.
fn machine_env(
    root: &RootDir,
    kubeconfig: &Kubeconfig,
    options: &Options,
) -> Vec<(OsString, OsString)> {
    let mut env = Vec::new();
    if options.isolation == Isolation::Host {
        let own = root.path().join(OWN);
        env.extend(TOOLS.map(|(name, path)| (name.into(), own.join(path).into_os_string())));
    }
    env.extend(kubeconfig.variable());
    env
}

fn environment(
    machine: &[(OsString, OsString)],
    launch: &Launch,
    line: &Step,
    options: &Options,
) -> Vec<(OsString, OsString)> {
    let mut env = options.inherited.clone();
    env.extend(launch.env.clone());
    env.extend(line.env.clone());
    let mut env: Vec<(OsString, OsString)> =
        env.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    env.retain(|(name, _)| !machine.iter().any(|(own, _)| own == name));
    env.extend_from_slice(machine);
    env
}
