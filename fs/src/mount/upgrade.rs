//! A new version of the program takes over a mount, as whoever asks for it sees it: the request
//! is a file, a signal makes the supervisor look at it, and the answer is that it is gone.
//!
//! Only the server is replaced. The supervisor stays what it is, since it is the process that
//! must not end.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::server::PATIENCE;
use super::umount::nudge;
use super::{MountDir, MountError, Mounts, State};
use crate::error::AtPath;

/// Has `program` serve the mount of `state` from now on; the state after that.
pub(super) fn upgrade(mounts: &Mounts, state: &State, program: &Path) -> Result<State, MountError> {
    let program = program.canonicalize().at("resolve", program)?;
    let mountpoint = || state.mountpoint.clone();
    let dir = MountDir::at(mounts.dir.join(&state.id));
    dir.ask_upgrade(&program)?;
    let failed = |reason: String| MountError::Upgrade { mountpoint: mountpoint(), reason };
    match nudge(state) {
        Ok(true) => {}
        Ok(false) => return Err(MountError::Unsupervised(mountpoint())),
        Err(error) => return Err(failed(format!("signal the supervisor: {error}"))),
    }
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match dir.upgrade_answer() {
            Some(Ok(())) => {
                let after = dir.read_state()?;
                return after.ok_or_else(|| MountError::NotMounted(mountpoint()));
            }
            Some(Err(reason)) => return Err(failed(reason)),
            // It answers within its own patience.
            None if start.elapsed() > PATIENCE + Duration::from_secs(5) => {
                return Err(failed("the supervisor does not answer".to_owned()));
            }
            None => {}
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
