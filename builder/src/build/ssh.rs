//! `RUN --mount=type=ssh`: a socket of the build that hands on to the user's SSH agent. The agent's
//! own socket belongs to the user, and the user of the step may be another.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};

use kfs_fs::error::{AtPath, PathError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::rootfs::magic_path;

/// A socket that is answered as long as the value lives.
#[derive(Debug)]
pub(super) struct AgentSocket {
    /// Closed to end the thread.
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl AgentSocket {
    /// Makes a socket at `place`, with mode, user and group, whose connections are handed on.
    pub(super) fn new(
        agent: &Path,
        place: &Path,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<Self, PathError> {
        // Told now and not to a program in the RUN.
        UnixStream::connect(agent).at("reach the SSH agent at", agent)?;
        let listener = bind(place).at("make the socket", place)?;
        listener.set_nonblocking(true).at("set up", place)?;
        chown(place, Some(uid), Some(gid)).at("chown", place)?;
        fs::set_permissions(place, Permissions::from_mode(mode)).at("chmod", place)?;
        let (stopped, stop) = io::pipe().at("make a pipe for", place)?;
        let agent = agent.to_owned();
        let thread = thread::spawn(move || serve(&listener, &stopped, &agent));
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

/// A socket at a path of any length: an address has room for 107 bytes (unix(7)), and stores may
/// lie deep.
fn bind(place: &Path) -> io::Result<UnixListener> {
    let (Some(directory), Some(name)) = (place.parent(), place.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    UnixListener::bind(magic_path(&File::open(directory)?).join(name))
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            thread.join().ok();
        }
    }
}

fn serve(listener: &UnixListener, stopped: &io::PipeReader, agent: &Path) {
    loop {
        let mut fds = [
            PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) if fds[0].any() != Some(false) => return,
            Ok(_) => {}
        }
        let Ok((client, _)) = listener.accept() else { continue };
        let agent = agent.to_owned();
        // Each ends with its client, and those with the step.
        thread::spawn(move || {
            if let Err(error) = hand_on(&client, &agent) {
                tracing::debug!("SSH agent {}: {error}", agent.display());
            }
        });
    }
}

fn hand_on(client: &UnixStream, agent: &Path) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let agent = UnixStream::connect(agent)?;
    thread::scope(|scope| {
        let back = scope.spawn(|| {
            let copied = io::copy(&mut &agent, &mut &*client);
            // The client may be gone already.
            client.shutdown(Shutdown::Both).ok();
            copied
        });
        let there = io::copy(&mut &*client, &mut &agent);
        agent.shutdown(Shutdown::Write)?;
        back.join().map_err(|_| io::Error::other("a thread panicked"))??;
        there.map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_may_have_a_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(200));
        fs::create_dir(&deep).unwrap();
        let agent = UnixListener::bind(dir.path().join("agent")).unwrap();
        let place = deep.join("socket");
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let agent_path = dir.path().join("agent");
        let _socket = AgentSocket::new(&agent_path, &place, (0o640, uid, gid)).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o640);
        let deep = File::open(&deep).unwrap();
        drop(UnixStream::connect(magic_path(&deep).join("socket")).unwrap());
        // The look at the agent, and the connection that was handed on.
        assert!(agent.accept().is_ok() && agent.accept().is_ok());
    }
}
