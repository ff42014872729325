//! The end of a mount, as the user asks for it.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::directory::MountDir;
use super::mountinfo::MountInfo;
use super::{MountError, Mounts, State, process};
use crate::fuse::{self, FuseError};

/// How long a server may take to see that it was unmounted.
const TO_NOTICE: Duration = Duration::from_secs(10);
/// How long it may take to delete the changes nobody wants: a million files and more.
const TO_DELETE: Duration = Duration::from_secs(600);
/// How long a lazy unmount waits for a server that may be free to go at once.
const LAZY: Duration = Duration::from_millis(500);

pub(super) fn unmount(mounts: &Mounts, path: &Path, lazy: bool) -> Result<State, MountError> {
    let mountpoint = resolve(path);
    let Some((dir, state)) = find(mounts, &mountpoint)? else {
        return Err(MountError::NotMounted(mountpoint));
    };
    if let Some(lock) = dir.try_lock()? {
        dir.clear_stale(lock)?;
        return Ok(state);
    }
    detach(&state, lazy)?;
    wait_for_end(&dir, &state, lazy)?;
    Ok(state)
}

/// The path as the state has it. A dead mount cannot be resolved, its parent can.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.canonicalize().unwrap_or_else(|_| match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            parent.canonicalize().unwrap_or_else(|_| parent.to_owned()).join(name)
        }
        _ => absolute,
    })
}

/// The mount at `mountpoint`. Of several (one detached lazily, one in another namespace) the one
/// that is seen there, else the last.
fn find(mounts: &Mounts, mountpoint: &Path) -> Result<Option<(MountDir, State)>, MountError> {
    let table = MountInfo::own()?;
    let mut found: Option<(MountDir, State)> = None;
    for dir in mounts.directories()? {
        if let Some(state) = dir.read_state()?
            && state.mountpoint == mountpoint
        {
            let rank = |state: &State| (table.top_is(state), state.id.clone());
            if found.as_ref().is_none_or(|(_, other)| rank(other) < rank(&state)) {
                found = Some((dir, state));
            }
        }
    }
    Ok(found)
}

fn detach(state: &State, lazy: bool) -> Result<(), MountError> {
    let table = MountInfo::own()?;
    if !table.top_is(state) {
        let elsewhere = MountInfo::of_process(state.pid).is_ok_and(|table| table.top_is(state));
        return match table.top(&state.mountpoint) {
            _ if elsewhere => end_server(state),
            Some(_) if table.has(state) => Err(MountError::Covered(state.mountpoint.clone())),
            // Already detached, by us with --lazy or by somebody with umount.
            _ => Ok(()),
        };
    }
    match fuse::unmount(&state.mountpoint, lazy) {
        Err(FuseError::Unmount { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
            Err(MountError::Busy {
                users: process::users_of(&state.mountpoint),
                submounts: table.below(&state.mountpoint),
                mountpoint: state.mountpoint.clone(),
            })
        }
        result => Ok(result?),
    }
}

/// A mount in another namespace can be unmounted from there only: the server does it.
fn end_server(state: &State) -> Result<(), MountError> {
    let pid =
        i32::try_from(state.pid).map_err(|_| MountError::NotMounted(state.mountpoint.clone()))?;
    match nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGTERM) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(MountError::OtherNamespace {
            mountpoint: state.mountpoint.clone(),
            pid: state.pid,
            source: error.into(),
        }),
    }
}

fn wait_for_end(dir: &MountDir, state: &State, lazy: bool) -> Result<(), MountError> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    while process::start_ticks(state.pid) == Some(state.start_ticks) {
        let served = dir.read_state()?.is_some();
        let patience = match (served, lazy) {
            (true, true) => LAZY,
            (true, false) => TO_NOTICE,
            (false, _) => TO_DELETE,
        };
        if start.elapsed() > patience {
            if lazy {
                return Ok(());
            }
            let mountpoint = state.mountpoint.clone();
            return Err(MountError::StillServed { mountpoint, pid: state.pid });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    // A server that ends by itself leaves nothing; one that was killed meanwhile does.
    match dir.try_lock()? {
        Some(lock) => dir.clear_stale(lock),
        None => Ok(()),
    }
}
