//! Control groups with limits for all RUNs of a build together, of version 1 (one tree a
//! controller) and 2 (one tree).
//!
//! A group is made below the one that this process is in; in a tree of version 2 beside it, as a
//! group that has processes of its own cannot limit groups in it (cgroups(7)).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use kfs_fs::error::{AtPath, PathError};

/// How long processes that are being killed may still be in a group.
const PATIENCE: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);
/// The period of which `--cpus` is a share, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// How the names of groups begin.
const NAME: &str = "kfs-build-";
/// The file with the limit of swap, in trees of version 2.
const SWAP: &str = "memory.swap.max";

/// The most that the RUNs of a build may take together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Processors.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Why there are no limits.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The system has no tree with this controller, or it may not be used.
    #[error("the {0} controller of control groups is not there, so --{1} cannot be kept")]
    NoController(&'static str, &'static str),
    /// A file of the tree cannot be used.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// A group; it goes away with the value.
#[derive(Debug, Default)]
pub struct Cgroup {
    directories: Vec<PathBuf>,
    /// Locks on them: a group that nobody holds is left of a build that was killed.
    held: Vec<File>,
}

/// What is written where.
struct Setting {
    controller: &'static str,
    /// The flag that asks for it.
    flag: &'static str,
    v1: Vec<(&'static str, String)>,
    v2: Vec<(&'static str, String)>,
}

impl Cgroup {
    /// Makes groups with these limits; none without limits.
    pub fn new(limits: &Limits) -> Result<Self, CgroupError> {
        let settings = settings(limits);
        let mut cgroup = Self::default();
        if settings.is_empty() {
            return Ok(cgroup);
        }
        let path = Path::new("/proc/self/cgroup");
        let own = fs::read_to_string(path).at("read", path)?;
        let path = Path::new("/proc/self/mountinfo");
        let mounts = fs::read_to_string(path).at("read", path)?;
        for setting in settings {
            let (parent, files) = match (v1(&own, &mounts, &setting), v2(&own, &mounts, &setting)) {
                (Some(parent), _) => (parent, &setting.v1),
                (None, Some(parent)) => (parent, &setting.v2),
                (None, None) => {
                    return Err(CgroupError::NoController(setting.controller, setting.flag));
                }
            };
            let directory = cgroup.group_in(&parent)?;
            for (file, value) in files {
                let file = directory.join(file);
                // Where swap is not counted, there is no such file.
                if file.ends_with(SWAP) && !file.exists() {
                    continue;
                }
                fs::write(&file, value).at("set the limit", &file)?;
            }
        }
        Ok(cgroup)
    }

    /// The group in one of the trees, made if this one has none there yet: controllers share trees.
    fn group_in(&mut self, parent: &Path) -> Result<PathBuf, PathError> {
        if let Some(known) = self.directories.iter().find(|known| known.parent() == Some(parent)) {
            return Ok(known.clone());
        }
        sweep(parent);
        let (directory, held) = new_group(parent)?;
        self.directories.push(directory.clone());
        self.held.push(held);
        Ok(directory)
    }

    /// The directories in which a process of the group is registered.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.directories {
            let mut tries = 0;
            // What was killed leaves its group a moment later.
            while let Err(error) = fs::remove_dir(directory) {
                tries += 1;
                if tries == PATIENCE || error.kind() == io::ErrorKind::NotFound {
                    tracing::warn!("remove {}: {error}", directory.display());
                    break;
                }
                thread::sleep(PAUSE);
            }
        }
    }
}

/// Makes a group that no other build has, and holds it.
fn new_group(parent: &Path) -> Result<(PathBuf, File), PathError> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let directory = parent.join(format!("{NAME}{}-{number}", std::process::id()));
        match fs::create_dir(&directory) {
            // Of a process of the same number, which was killed or lives in another container.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made.at("make the control group", &directory)?,
        }
        // None: another build took it for a stale one in between.
        if let Some(held) = hold(&directory).at("lock the control group", &directory)? {
            return Ok((directory, held));
        }
    }
}

/// Locks a group; none if it is gone, or held by another build.
fn hold(directory: &Path) -> io::Result<Option<File>> {
    let file = match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(directory.is_dir().then_some(file)),
    }
}

/// Removes the groups that builds have left that were killed.
fn sweep(parent: &Path) {
    // Without the right to look there, nothing is done.
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(NAME.as_bytes());
        if is_ours && let Ok(Some(_held)) = hold(&entry.path()) {
            // One that still has processes stays.
            fs::remove_dir(entry.path()).ok();
        }
    }
}

fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory {
        settings.push(Setting {
            controller: "memory",
            flag: "memory",
            v1: vec![("memory.limit_in_bytes", bytes.to_string())],
            v2: vec![("memory.max", bytes.to_string()), (SWAP, "0".to_owned())],
        });
    }
    if let Some(cpus) = limits.cpus {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It saturates.
        let quota = (cpus * PERIOD as f64) as u64;
        settings.push(Setting {
            controller: "cpu",
            flag: "cpus",
            v1: vec![
                ("cpu.cfs_period_us", PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota.to_string()),
            ],
            v2: vec![("cpu.max", format!("{quota} {PERIOD}"))],
        });
    }
    if let Some(pids) = limits.pids {
        let files = vec![("pids.max", pids.to_string())];
        let (v1, v2) = (files.clone(), files);
        settings.push(Setting { controller: "pids", flag: "pids-limit", v1, v2 });
    }
    settings
}

/// Where groups of a controller are made in its tree of version 1, if it has one.
fn v1(own: &str, mounts: &str, setting: &Setting) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (place, kind, options) = mount(line)?;
        let has = options.split(',').any(|option| option == setting.controller);
        (kind == "cgroup" && has).then_some(place)
    })?;
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let has = fields.next()?.split(',').any(|name| name == setting.controller);
        has.then(|| fields.next()).flatten()
    })?;
    existing(mount.join(path.trim_start_matches('/')), mount)
}

/// The same in the tree of version 2, where the controller is switched on for them.
fn v2(own: &str, mounts: &str, setting: &Setting) -> Option<PathBuf> {
    let mount = mounts.lines().find_map(|line| {
        let (place, kind, _) = mount(line)?;
        (kind == "cgroup2").then_some(place)
    })?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = existing(mount.join(path.trim_start_matches('/')), mount)?;
    let parent = if own == mount { mount } else { own.parent()? };
    let switch = parent.join("cgroup.subtree_control");
    // It may be on already without our being allowed to say so.
    fs::write(&switch, format!("+{}", setting.controller)).ok();
    let on = fs::read_to_string(&switch).ok()?;
    on.split_whitespace().any(|name| name == setting.controller).then(|| parent.to_owned())
}

/// In a container the path of the own group may be that of another namespace.
fn existing(path: PathBuf, mount: &Path) -> Option<PathBuf> {
    if path.is_dir() { Some(path) } else { Some(mount.to_owned()) }
}

/// Place, type and options of the file system in a line of mountinfo (proc_pid_mountinfo(5)).
fn mount(line: &str) -> Option<(&Path, &str, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let place = mount.split(' ').nth(4)?;
    let mut fields = file_system.split(' ');
    let kind = fields.next()?;
    Some((Path::new(place), kind, fields.nth(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_killed_builds_are_removed_and_never_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["kfs-build-1-0", "kfs-build-2-0", "other"] {
            fs::create_dir(path(name)).unwrap();
        }
        // A build that goes on, whatever number its process has here.
        let held = hold(&path("kfs-build-2-0")).unwrap().unwrap();
        let mut cgroup = Cgroup::default();
        let made = cgroup.group_in(dir.path()).unwrap();
        assert_eq!(cgroup.group_in(dir.path()).unwrap(), made);
        assert!(hold(&made).unwrap().is_none());
        assert!(!path("kfs-build-1-0").exists());
        assert!(path("kfs-build-2-0").exists() && path("other").exists());
        drop((cgroup, held));
        assert!(!made.exists());
        sweep(dir.path());
        assert!(!path("kfs-build-2-0").exists());
        // Names of our own number that are there are of others.
        let next = |number: u32| path(&format!("kfs-build-{}-{number}", std::process::id()));
        (0..9).for_each(|number| fs::create_dir(next(number)).unwrap());
        let (made, _held) = new_group(dir.path()).unwrap();
        assert!((0..9).all(|number| made != next(number)));
    }

    #[test]
    fn the_trees_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        for path in ["v1/a/b", "v2/x/y"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("v2/x/cgroup.subtree_control"), "cpu pids").unwrap();
        let mounts = format!(
            "1 0 0:1 / / rw - ext4 /dev/vda rw\n\
             2 1 0:2 / {root}/v1 rw,nosuid shared:1 - cgroup cgroup rw,memory\n\
             3 1 0:3 / {root}/v2 rw - cgroup2 cgroup2 rw,nsdelegate\n"
        );
        let own = "5:memory:/a/b\n1:name=systemd:/z\n0::/x/y\n";
        let limits = Limits { memory: Some(1 << 20), cpus: Some(1.5), pids: Some(9) };
        let settings = settings(&limits);
        assert_eq!(v1(own, &mounts, &settings[0]), Some(dir.path().join("v1/a/b")));
        assert_eq!(v1(own, &mounts, &settings[1]), None);
        assert_eq!(settings[1].v2, [("cpu.max", "150000 100000".to_owned())]);
        // What was switched on is what the file says then; here it says what was written.
        assert_eq!(v2(own, &mounts, &settings[1]), None);
        assert!(Cgroup::new(&Limits::default()).unwrap().directories().is_empty());
    }
}
