//! What a RUN has mounted for it: binds, file systems in memory, secrets.

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::fstat;

use crate::rootfs::{RootDir, magic_path};

use super::mounts::{bind, mount_id, mount_new, open_path, set_flags};
use super::wire::{Failure, OrFail};
use super::{Mount, MountSource};

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// The sources of binds, opened: later they may be hidden.
pub(super) struct Sources(Vec<Option<OwnedFd>>);

impl Sources {
    pub(super) fn open(mounts: &[Mount]) -> Result<Self, Failure> {
        let open = |mount: &Mount| match &mount.source {
            MountSource::Bind { path, .. } => open_path(path).map(Some).or_fail("open", path),
            MountSource::Tmpfs(_) | MountSource::File { .. } => Ok(None),
        };
        mounts.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Makes the mounts on places of the root, outer ones before those below them; `machine` is the
    /// one whose `/dev` the step will see. Returns the numbers of those that can be written.
    pub(super) fn mount(
        self,
        machine: &RootDir,
        root: &RootDir,
        mounts: &[Mount],
    ) -> Result<HashSet<u64>, Failure> {
        let (mut made, mut writable) = (HashSet::new(), HashSet::new());
        let mut mounts: Vec<_> = mounts.iter().zip(self.0).collect();
        mounts.sort_by_key(|(mount, _)| &mount.target);
        for (mount, source) in mounts {
            // There the step sees the sandbox's own.
            let root = if mount.target.starts_with("/dev") { machine } else { root };
            let place = match target(root, mount) {
                Ok(place) => place,
                Err(failure) => {
                    // In the sandbox's own /dev, or another mount hides what was made for it.
                    if mount.target.starts_with("/dev") {
                        let dev = root.open_at(Path::new("/dev"), OFlag::O_PATH);
                        made.insert(mount_id(dev.or_fail("open", "/dev")?)?);
                    }
                    if !make_place(root, mount, is_file(mount, source.as_ref()), &made)? {
                        return Err(failure);
                    }
                    target(root, mount)?
                }
            };
            match &mount.source {
                MountSource::Bind { read_only, .. } => {
                    let source = source.expect("it was opened");
                    bind(&magic_path(&source), &place, MsFlags::empty())
                        .or_fail("bind", &mount.target)?;
                    let ro = if *read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
                    set_flags(&magic_path(&target(root, mount)?), SAFE | ro)
                        .or_fail("protect", &mount.target)?;
                }
                MountSource::Tmpfs(size) => {
                    let size = size.map_or_else(String::new, |size| format!(",size={size}"));
                    mount_new("tmpfs", &place, SAFE, &format!("mode=1777{size}"))
                        .or_fail("mount a tmpfs on", &mount.target)?;
                }
                MountSource::File { content, mode, uid, gid } => {
                    let owner = (*mode, *uid, *gid);
                    file(machine, &place, mount, content, owner)?;
                }
            }
            let id = mount_id(target(root, mount)?)?;
            made.insert(id);
            if !matches!(mount.source, MountSource::Bind { read_only: true, .. }) {
                writable.insert(id);
            }
        }
        Ok(writable)
    }
}

/// What is at a mount's place now.
fn target(root: &RootDir, mount: &Mount) -> Result<OwnedFd, Failure> {
    let outside = root.outside(&mount.target);
    root.open_at(&mount.target, OFlag::O_PATH).or_fail("open the mount point", outside)
}

/// Whether the place of a mount is a file.
fn is_file(mount: &Mount, source: Option<&OwnedFd>) -> bool {
    let is_directory = |fd: &OwnedFd| {
        let kind = fstat(fd).map(|stat| stat.st_mode & nix::libc::S_IFMT);
        kind == Ok(nix::libc::S_IFDIR)
    };
    match mount.source {
        MountSource::File { .. } => true,
        MountSource::Bind { .. } => !source.is_some_and(is_directory),
        MountSource::Tmpfs(_) => false,
    }
}

/// Makes a place for a mount in one of the mounts in `made`, if it would be in one of them: in the
/// root it would be a change of the step.
fn make_place(
    root: &RootDir,
    mount: &Mount,
    is_file: bool,
    made: &HashSet<u64>,
) -> Result<bool, Failure> {
    let located = root.locate(&mount.target).or_fail("find", &mount.target)?;
    let directory = |path: &Path| {
        root.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY).ok().zip(Some(path.to_owned()))
    };
    let Some((above, path)) = located.path.ancestors().find_map(directory) else {
        return Ok(false);
    };
    if !made.contains(&mount_id(&above)?) {
        return Ok(false);
    }
    let name = located.path.strip_prefix(&path).unwrap_or(&located.path);
    let place = magic_path(&above).join(name);
    if is_file {
        let parent = place.parent().unwrap_or(&place);
        fs::create_dir_all(parent).or_fail("make directory", &mount.target)?;
        fs::write(&place, "").or_fail("make", &mount.target)?;
    } else {
        fs::create_dir_all(&place).or_fail("make directory", &mount.target)?;
    }
    Ok(true)
}

/// Puts a file in memory over an empty one. It lies on a tmpfs that no path leads to.
fn file(
    machine: &RootDir,
    place: &OwnedFd,
    mount: &Mount,
    content: &[u8],
    (mode, uid, gid): (u32, u32, u32),
) -> Result<(), Failure> {
    // The file system needs a place for a moment: /dev is there in any rootfs that runs.
    let dev = machine.open_at(Path::new("/dev"), OFlag::O_PATH).or_fail("open", "/dev")?;
    mount_new("tmpfs", &dev, SAFE, "mode=700").or_fail("mount a tmpfs on", "/dev")?;
    let lent = machine.open_at(Path::new("/dev"), OFlag::O_PATH).or_fail("open", "/dev")?;
    let path = magic_path(&lent).join("file");
    let made = fs::write(&path, content)
        .and_then(|()| chown(&path, Some(uid), Some(gid)))
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
        .or_fail("write", &mount.target);
    let bound =
        made.and_then(|()| bind(&path, place, MsFlags::empty()).or_fail("bind", &mount.target));
    umount2(&magic_path(&lent), MntFlags::MNT_DETACH).or_fail("umount", "/dev")?;
    bound
}
