//! The live rootfs of a stage: the base image below, what each step wrote above it.
//!
//! ```text
//! DIR/3/m        merged: where the step runs
//! DIR/3/u        its upper ── finish ──> a lower of the next step
//! DIR/{2,1,0}/u  uppers of earlier steps
//! base           the kfs mount of the stage's image
//! DIR/3/s        mount points that the rootfs lacks for this step alone
//! DIR/s          mount points that the rootfs lacks (lowest of all)
//! ```
//! Files are not copied: an upper that a step leaves behind becomes a lower of the next. Nothing
//! of an upper ever changes after [`Step::finish`].
//!
//! A container needs places to mount `/proc`, `/dev`, `/sys` and the resolver files on. Those
//! that are missing come from a lower of their own under all others, not from the upper: so they
//! never are changes of the step, and need no tidying.

pub(crate) mod guard;
mod root_dir;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use kfs_fs::error::{AtPath, PathError};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::statfs::{FsType, statfs};
use nix::sys::time::TimeSpec;

use crate::diff::{DiffError, OverlayXattrs, RootMetadata};
use crate::exec::Isolation;

pub(crate) use guard::Guard;
pub use root_dir::{Located, RootDir};
pub(crate) use root_dir::{io_error, magic_path};

/// What a container mounts on; the directories first.
const MOUNT_POINTS: [(&str, bool); 5] = [
    ("/dev", true),
    ("/proc", true),
    ("/sys", true),
    ("/etc/hosts", false),
    ("/etc/resolv.conf", false),
];

/// How long a rootfs may stay busy after its step; more than a fork and an exec take.
const UMOUNT_PATIENCE: Duration = Duration::from_secs(5);

/// mount(2) copies one page of options.
const MAX_OPTIONS: usize = 4095;

/// File systems on which overlayfs cannot keep what is written (no whiteouts, no attributes, or
/// no stacking), by their numbers in statfs(2).
const UNFIT: [(i64, &str); 6] = [
    (0x794c_7630, "overlayfs"),
    (0x6573_5546, "FUSE"),
    (0x6969, "NFS"),
    (0x4d44, "FAT"),
    (0xff53_4d42, "CIFS"),
    (0x0102_1997, "9p"),
];

/// Why there is no live rootfs.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// This process may not mount.
    #[error("{action}: {source}; this needs root, or a user namespace that maps root")]
    NotPermitted {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The file system of the work directory does not do.
    #[error(
        "overlayfs cannot keep written files on {kind}, where {} is; put the store on ext4, xfs, \
         btrfs or tmpfs (option --root)",
        path.display()
    )]
    Unfit {
        /// The work directory.
        path: PathBuf,
        /// Name of the file system.
        kind: &'static str,
    },
    /// The kernel refuses the overlay.
    #[error("mount overlayfs on {}: {source}; the kernel's log says why", path.display())]
    Overlay {
        /// The merged directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A stage of too many steps.
    #[error("{count} steps that each run on the rootfs are too many for one stage; start another")]
    TooManyLowers {
        /// How many lower directories there would be.
        count: usize,
    },
    /// The attributes of `/` could not be read.
    #[error(transparent)]
    Metadata(#[from] DiffError),
    /// Nothing watches over the mounts.
    #[error("start the process that guards the build's mounts: {0}")]
    Guard(io::Error),
    /// A directory could not be made, read or removed.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Puts this process into a mount namespace of its own, of which the rest of the system sees
/// nothing, and which ends with the process. To be called once, before any thread is started.
pub fn enter_private_namespace() -> Result<(), RootfsError> {
    let failed = |errno| RootfsError::NotPermitted {
        action: "make a private mount namespace",
        source: io_error(errno),
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed)
}

/// As [`enter_private_namespace`], and sees to it that the namespace ends with this process
/// however that ends, as long as the value lives: it has to outlive all that is mounted.
pub(crate) fn enter_guarded_namespace() -> Result<Guard, RootfsError> {
    enter_private_namespace()?;
    Guard::start().map_err(RootfsError::Guard)
}

/// The rootfs of a stage. Its directory is removed when it is dropped.
#[derive(Debug)]
pub struct LiveRootfs {
    work: PathBuf,
    /// Names the work directory in mount options in 20 bytes, however long its path is, and
    /// whatever characters it has that mean something there.
    work_fd: OwnedFd,
    /// Lowest first.
    lowers: Vec<Lower>,
    /// The number of the next step.
    next: usize,
    /// Whether there is anything in the lowest directory.
    has_mount_points: bool,
    xattrs: OverlayXattrs,
}

#[derive(Debug)]
enum Lower {
    /// A directory from elsewhere.
    Foreign(PathBuf, OwnedFd),
    /// The upper of the step with this number.
    Step(usize),
}

impl LiveRootfs {
    /// A rootfs that shows `base`, lowest directory first; none for an empty rootfs. `work` is
    /// made, must not exist, and must lie where written files are to be kept.
    pub fn new(work: &Path, base: &[PathBuf]) -> Result<Self, RootfsError> {
        fs::create_dir_all(work.parent().unwrap_or(work)).at("make directory", work)?;
        fs::create_dir(work).at("make directory", work)?;
        let work = work.canonicalize().at("open", work)?;
        check_fitness(&work)?;
        let skeleton = work.join("s");
        fs::create_dir(&skeleton).at("make directory", &skeleton)?;
        let work_fd = open_directory(&work)?;
        let (lowers, xattrs) = (Vec::new(), overlay_xattrs()?);
        let mut rootfs = Self { work, work_fd, lowers, next: 0, has_mount_points: false, xattrs };
        for path in base {
            rootfs.push_lower(path)?;
        }
        Ok(rootfs)
    }

    /// Lays `directory` over what is there; it must not change while the rootfs lives.
    pub fn push_lower(&mut self, directory: &Path) -> Result<(), RootfsError> {
        let fd = open_directory(directory)?;
        self.lowers.push(Lower::Foreign(directory.to_owned(), fd));
        Ok(())
    }

    /// Mounts what there is so that it can be written to; what is written goes away with the value.
    pub fn into_tree(mut self) -> Result<MountedTree, RootfsError> {
        let mut step = self.begin_step(Isolation::Host, &[])?;
        let merged = step.merged();
        // From here on, the tree umounts it.
        step.directory = PathBuf::new();
        drop(step);
        Ok(MountedTree { merged, _rootfs: self })
    }

    /// Which attributes mark what overlayfs hides, for [`changes`](crate::diff::changes).
    pub fn overlay_xattrs(&self) -> OverlayXattrs {
        self.xattrs
    }

    /// Mounts the rootfs with a fresh upper, ready for a command in this isolation. The mount
    /// points in `more` that lack are there for this step only, and are no changes of it.
    pub fn begin_step(
        &mut self,
        isolation: Isolation,
        more: &[MountPoint],
    ) -> Result<Step<'_>, RootfsError> {
        let number = self.next;
        self.next += 1;
        let directory = self.work.join(number.to_string());
        for name in ["", "w", "m", "s"] {
            let path = directory.join(name);
            fs::create_dir(&path).at("make directory", &path)?;
        }
        let upper = directory.join("u");
        let before = self.copy_root(&upper)?;
        // From here on, dropping the step tidies up.
        let mut step = Step { rootfs: self, number, directory, before, isolation, mounted: false };
        let with_skeleton = step.rootfs.has_mount_points && isolation != Isolation::Host;
        step.mount(with_skeleton, false)?;
        let root = RootDir::open(&step.merged())?;
        step.isolation = isolation.resolve(&root);
        let is_container = step.isolation == Isolation::Container;
        let standard: &[_] = if is_container { &MOUNT_POINTS } else { &[] };
        let standard = standard.iter().map(|(path, is_directory)| MountPoint {
            path: PathBuf::from(path),
            is_directory: *is_directory,
        });
        let missing = missing_mount_points(&root, standard);
        let more = missing_mount_points(&root, more.iter().cloned());
        drop(root);
        let wants_skeleton = with_skeleton && is_container;
        if wants_skeleton != with_skeleton || !missing.is_empty() || !more.is_empty() {
            step.umount()?;
            step.rootfs.has_mount_points |= !missing.is_empty();
            add_mount_points(&step.rootfs.work.join("s"), &missing)?;
            add_mount_points(&step.directory.join("s"), &more)?;
            // A volatile overlay leaves a mark there: what it was given may not be used again.
            let used = step.directory.join("w");
            fs::remove_dir_all(&used).at("remove", &used)?;
            fs::create_dir(&used).at("make directory", &used)?;
            step.mount(is_container, !more.is_empty())?;
        }
        Ok(step)
    }

    /// Makes `upper`, with the metadata that `/` has now: overlayfs takes it from there.
    fn copy_root(&self, upper: &Path) -> Result<RootMetadata, RootfsError> {
        fs::create_dir(upper).at("make directory", upper)?;
        let Some(top) = self.lowers.last() else {
            fs::set_permissions(upper, fs::Permissions::from_mode(0o755)).at("chmod", upper)?;
            return Ok(RootMetadata::of(upper, self.xattrs)?);
        };
        let top = match top {
            Lower::Foreign(path, _) => path.clone(),
            Lower::Step(number) => self.work.join(number.to_string()).join("u"),
        };
        let root = RootMetadata::of(&top, self.xattrs)?;
        chown(upper, Some(root.uid), Some(root.gid)).at("chown", upper)?;
        fs::set_permissions(upper, fs::Permissions::from_mode(root.mode)).at("chmod", upper)?;
        for (name, value) in &root.xattrs {
            use std::os::unix::ffi::OsStrExt;
            let name = std::ffi::OsStr::from_bytes(name);
            xattr::set(upper, name, value).at("set attributes of", upper)?;
        }
        let metadata = fs::metadata(&top).at("stat", &top)?;
        let time = TimeSpec::new(metadata.mtime(), metadata.mtime_nsec());
        let follow = UtimensatFlags::FollowSymlink;
        utimensat(AT_FDCWD, upper, &time, &time, follow).at("set time of", upper)?;
        Ok(root)
    }

    /// The options of the overlay of step `number`.
    fn options(
        &self,
        number: usize,
        with_skeleton: bool,
        with_own: bool,
    ) -> Result<String, RootfsError> {
        let work = magic_path(&self.work_fd).display().to_string();
        let mut lowers: Vec<String> = Vec::new();
        for lower in self.lowers.iter().rev() {
            lowers.push(match lower {
                Lower::Foreign(_, fd) => magic_path(fd).display().to_string(),
                Lower::Step(number) => format!("{work}/{number}/u"),
            });
        }
        if with_own {
            lowers.push(format!("{work}/{number}/s"));
        }
        // An overlay without a lower cannot be; an empty skeleton shows nothing.
        if with_skeleton || lowers.is_empty() {
            lowers.push(format!("{work}/s"));
        }
        // Off: what would make an upper more than plain files and whiteouts. `nofollow` also
        // keeps an image from steering the overlay by attributes of its own.
        let mut options = format!(
            "lowerdir={},upperdir={work}/{number}/u,workdir={work}/{number}/w,\
             index=off,metacopy=off,redirect_dir=nofollow,xino=off,volatile",
            lowers.join(":")
        );
        if self.xattrs == OverlayXattrs::User {
            options.push_str(",userxattr");
        }
        if options.len() > MAX_OPTIONS {
            return Err(RootfsError::TooManyLowers { count: lowers.len() });
        }
        Ok(options)
    }
}

impl Drop for LiveRootfs {
    fn drop(&mut self) {
        remove(&self.work);
    }
}

/// A rootfs that is mounted for something else than a step.
#[derive(Debug)]
pub struct MountedTree {
    merged: PathBuf,
    _rootfs: LiveRootfs,
}

impl MountedTree {
    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.merged
    }
}

impl Drop for MountedTree {
    fn drop(&mut self) {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        if let Err(error) = umount2(&self.merged, flags) {
            tracing::warn!("umount {}: {error}", self.merged.display());
        }
    }
}

/// A mounted rootfs. Dropped without [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct Step<'a> {
    rootfs: &'a mut LiveRootfs,
    number: usize,
    directory: PathBuf,
    before: RootMetadata,
    isolation: Isolation,
    mounted: bool,
}

impl Step<'_> {
    /// Where the rootfs is mounted.
    pub fn merged(&self) -> PathBuf {
        self.directory.join("m")
    }

    /// The isolation to run in: never `Auto`.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// What `/` was before the step, for [`changes`](crate::diff::changes).
    pub fn root_before(&self) -> &RootMetadata {
        &self.before
    }

    /// Unmounts the rootfs and keeps what was written: the returned upper is part of the rootfs
    /// from now on, and stays until that is dropped.
    pub fn finish(mut self) -> Result<PathBuf, RootfsError> {
        self.umount()?;
        let upper = self.directory.join("u");
        for path in ["w", "m", "s"].map(|name| self.directory.join(name)) {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
        self.rootfs.lowers.push(Lower::Step(self.number));
        // Nothing is left for `drop` to remove.
        self.directory = PathBuf::new();
        Ok(upper)
    }

    fn mount(&mut self, with_skeleton: bool, with_own: bool) -> Result<(), RootfsError> {
        let options = self.rootfs.options(self.number, with_skeleton, with_own)?;
        let merged = self.merged();
        mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|errno| match errno {
                Errno::EPERM | Errno::EACCES => {
                    RootfsError::NotPermitted { action: "mount overlayfs", source: io_error(errno) }
                }
                other => RootfsError::Overlay { path: merged, source: io_error(other) },
            })?;
        self.mounted = true;
        Ok(())
    }

    fn umount(&mut self) -> Result<(), RootfsError> {
        let merged = self.merged();
        let deadline = Instant::now() + UMOUNT_PATIENCE;
        loop {
            match umount2(&merged, MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) => break,
                // A process that another thread is starting holds our open files until it
                // executes its program. (Detaching would let such a file be written to later.)
                Err(Errno::EBUSY) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error).at("umount", &merged)?,
            }
        }
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if self.directory.as_os_str().is_empty() {
            return;
        }
        if self.mounted {
            let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            if let Err(error) = umount2(&self.merged(), flags) {
                // Removing the tree now would remove what is mounted.
                tracing::warn!("umount {}: {error}", self.merged().display());
                return;
            }
        }
        remove(&self.directory);
    }
}

/// A place in a rootfs on which something is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// In the rootfs.
    pub path: PathBuf,
    /// Else it is a file.
    pub is_directory: bool,
}

/// Those of the mount points that `root` lacks, their paths without links.
fn missing_mount_points(
    root: &RootDir,
    wanted: impl Iterator<Item = MountPoint>,
) -> Vec<MountPoint> {
    let mut missing = Vec::new();
    for MountPoint { path, is_directory } in wanted {
        // A link in a loop or a file for a parent: there is no such place to be made. The
        // sandbox then says so, or does without.
        let Ok(located) = root.locate(&path) else { continue };
        if !located.exists {
            missing.push(MountPoint { path: located.path, is_directory });
        }
    }
    missing
}

/// Makes mount points in a directory that is not part of a mount, with modes that do not depend
/// on the umask: a step sees them.
fn add_mount_points(skeleton: &Path, missing: &[MountPoint]) -> Result<(), RootfsError> {
    let allow = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("chmod", path)
    };
    for point in missing {
        let place = skeleton.join(&point.path);
        let directory =
            if point.is_directory { &place } else { place.parent().unwrap_or(skeleton) };
        fs::create_dir_all(directory).at("make directory", directory)?;
        for above in directory.ancestors().take_while(|above| *above != skeleton) {
            allow(above, 0o755)?;
        }
        if !point.is_directory {
            fs::File::create(&place).at("create", &place)?;
            allow(&place, 0o644)?;
        }
    }
    Ok(())
}

/// Removes a tree of ours where no error can be returned.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!("remove {}: {error}", path.display());
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, PathError> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, nix::sys::stat::Mode::empty()).at("open", path)
}

fn check_fitness(work: &Path) -> Result<(), RootfsError> {
    let kind = statfs(work).at("stat the file system of", work)?.filesystem_type();
    match UNFIT.into_iter().find(|(number, _)| kind == FsType(*number)) {
        Some((_, kind)) => Err(RootfsError::Unfit { path: work.to_owned(), kind }),
        None => Ok(()),
    }
}

/// Only the initial user namespace may write `trusted.*`.
fn overlay_xattrs() -> Result<OverlayXattrs, PathError> {
    let path = Path::new("/proc/self/uid_map");
    let map = fs::read_to_string(path).at("read", path)?;
    // The initial namespace maps all 2^32 - 1 users to themselves (user_namespaces(7)).
    let initial = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    Ok(if initial { OverlayXattrs::Trusted } else { OverlayXattrs::User })
}
