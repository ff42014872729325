//! What a step's processes may not do: capabilities, ids, system calls.

use std::collections::HashSet;

use caps::{CapSet, Capability};
use kfs_fs::filter_system_calls;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::User;
use super::seccomp;
use super::wire::{Failure, OrFail};

/// What a container of podman has by default (containers.conf(5), `default_capabilities`).
const KEPT: [Capability; 11] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// Gives up all that the command must not have, for this process and all it starts.
///
/// The order is forced: each part needs a capability that a later part drops.
pub(super) fn drop_to(user: &User) -> Result<(), Failure> {
    // A crash must not leave a core file in the layer.
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).or_fail("read limits of", "core")?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard).or_fail("set limits of", "core")?;
    // While there still is CAP_SYS_ADMIN: it lets through what follows, and set-user-ID programs of
    // the rootfs (sudo, ping) do what they do in any container, within the bounding set.
    filter_system_calls(&seccomp::filter())
        .or_fail("install the system call filter of", "the step")?;
    drop_bounding()?;
    become_user(user)?;
    if user.uid == 0 {
        // Another user lost them all when it was set.
        let kept = kept_of(CapSet::Permitted)?;
        caps::set(None, CapSet::Effective, &kept).map_err(cap_errno).or_fail("set", "effective")?;
        caps::set(None, CapSet::Permitted, &kept).map_err(cap_errno).or_fail("set", "permitted")?;
    }
    // Inheritable must be empty, or programs with file capabilities gain them (CVE-2022-24769).
    caps::clear(None, CapSet::Inheritable).map_err(cap_errno).or_fail("clear", "inheritable")
}

fn drop_bounding() -> Result<(), Failure> {
    let bounding = caps::read(None, CapSet::Bounding)
        .map_err(cap_errno)
        .or_fail("read capabilities of", "the bounding set")?;
    for capability in bounding.into_iter().filter(|one| !KEPT.contains(one)) {
        caps::drop(None, CapSet::Bounding, capability)
            .map_err(cap_errno)
            .or_fail("drop capability", capability.to_string())?;
    }
    Ok(())
}

/// The capabilities to keep, as far as this process has them.
fn kept_of(set: CapSet) -> Result<HashSet<Capability>, Failure> {
    let held = caps::read(None, set).map_err(cap_errno).or_fail("read capabilities of", "self")?;
    Ok(held.into_iter().filter(|one| KEPT.contains(one)).collect())
}

fn become_user(user: &User) -> Result<(), Failure> {
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    match setgroups(&groups) {
        // A user namespace that maps one user only has no other groups to give.
        Err(Errno::EPERM) if cannot_set_groups() => {}
        result => result.or_fail("set groups to", format!("{:?}", user.groups))?,
    }
    setresgid(gid, gid, gid).or_fail("become group", gid.to_string())?;
    setresuid(uid, uid, uid).or_fail("become user", uid.to_string())
}

/// Whether this user namespace has given up setgroups(2) (user_namespaces(7)).
fn cannot_set_groups() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.trim_ascii() == b"deny")
}

/// The crate's errors are texts; the number is still in errno.
fn cap_errno(_: caps::errors::CapsError) -> Errno {
    Errno::last()
}
