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

pub(super) fn unmount(mounts: &Mounts, path: &Path, lazy: bool) -> Result<(), MountError> {
    let mountpoint = resolve(path);
    let Some((dir, state)) = find(mounts, &mountpoint)? else {
        return match detach_dead(&mountpoint)? {
            true => Ok(()),
            false => Err(MountError::NotMounted(mountpoint)),
        };
    };
    if let Some(lock) = dir.try_lock()? {
        return dir.clear_stale(lock);
    }
    detach(&state, lazy)?;
    wait_for_end(&dir, &state, lazy)
}

/// Detaches a mount that kfs left without a server and of which this store knows nothing (any
/// more); false if there is none.
pub(super) fn detach_dead(mountpoint: &Path) -> Result<bool, MountError> {
    let table = MountInfo::own()?;
    let ours = table.top(mountpoint).is_some_and(|entry| entry.fs_type == fuse::FS_TYPE);
    let dead = ours && is_dead(mountpoint);
    if dead {
        fuse::unmount(mountpoint, true)?;
    }
    Ok(dead)
}

/// Whether nobody serves the FUSE mount at a mount point: it says so of what no kernel remembers.
fn is_dead(mountpoint: &Path) -> bool {
    nix::sys::statvfs::statvfs(mountpoint) == Err(nix::Error::ENOTCONN)
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

/// A mount in another namespace can be unmounted from there only: the supervisor does it. If it
/// is gone, the server is what can be ended.
fn end_server(state: &State) -> Result<(), MountError> {
    let pid = if supervisor_lives(state) { state.pid } else { state.server_pid };
    send(pid, Signal::SIGTERM).map_err(|source| MountError::OtherNamespace {
        mountpoint: state.mountpoint.clone(),
        pid,
        source,
    })
}

fn supervisor_lives(state: &State) -> bool {
    process::start_ticks(state.pid) == Some(state.start_ticks)
}

/// Sends a signal to a process; one that is gone needs none.
fn send(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).map_err(io::Error::other)?;
    match nix::sys::signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Has the supervisor look at what has changed: the mount may be gone, or a file be there. False
/// if there is no supervisor any more.
pub(super) fn nudge(state: &State) -> io::Result<bool> {
    let lives = supervisor_lives(state);
    if lives {
        send(state.pid, Signal::SIGUSR1)?;
    }
    Ok(lives)
}

fn wait_for_end(dir: &MountDir, state: &State, lazy: bool) -> Result<(), MountError> {
    if let Err(error) = nudge(state) {
        // It will notice by itself, if its server is not stuck.
        tracing::debug!("signal to supervisor {}: {error}", state.pid);
    }
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    while supervisor_lives(state) || dir.try_lock()?.is_none() {
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
    // Processes that end by themselves leave nothing; those that were killed meanwhile do.
    match dir.try_lock()? {
        Some(lock) => dir.clear_stale(lock),
        None => Ok(()),
    }
}
