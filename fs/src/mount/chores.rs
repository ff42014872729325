//! What a server does beside answering the kernel: it says what it reads, keeps what was read
//! first, and hears the supervisor.
//!
//! One thread, which wakes twice a second; none of what it fails to do is a reason not to serve.

use std::io::{PipeWriter, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::MountError;
use super::directory::MountDir;
use super::server::RELEASE;
use crate::content::Stats;
use crate::digest::Digest;
use crate::filesystem::ImageFs;
use crate::trace::{Trace, Traces};

/// How old the statistics may be, in milliseconds.
const INTERVAL: u16 = 500;

/// For how long nobody may wait once the end was asked for.
const GRACE: Duration = Duration::from_secs(2);

/// After how long what was read first is kept the first time; then after twice that, and so on:
/// most is read in the beginning.
const FIRST_KEPT: Duration = Duration::from_secs(10);

/// The thread. It ends with the value, and not before it has written what there is to say.
pub(super) struct Chores {
    thread: JoinHandle<()>,
    /// The thread ends when it is closed.
    running: PipeWriter,
}

impl Chores {
    pub(super) fn start(
        fs: Arc<ImageFs>,
        dir: MountDir,
        control: OwnedFd,
        traces: Option<(Traces, Digest)>,
    ) -> Result<Self, MountError> {
        let (ended, running) = pipe().map_err(MountError::SetUp)?;
        let work = Work { fs, dir, traces, stats: None, kept: 0 };
        let body = move || work.run(Some(control), &ended.into());
        let thread = thread::Builder::new().name("kfs-chores".to_owned()).spawn(body);
        Ok(Self { thread: thread.map_err(MountError::SetUp)?, running })
    }

    /// Writes what there is to say, and ends the thread.
    pub(super) fn end(self) {
        drop(self.running);
        if self.thread.join().is_err() {
            tracing::warn!("what was read first is not kept: the thread for it failed");
        }
    }
}

struct Work {
    fs: Arc<ImageFs>,
    dir: MountDir,
    traces: Option<(Traces, Digest)>,
    /// As they were written.
    stats: Option<Stats>,
    /// How many bytes were named by the trace that this mount kept last.
    kept: u64,
}

impl Work {
    fn run(mut self, mut control: Option<OwnedFd>, ended: &OwnedFd) {
        let mut pause = FIRST_KEPT;
        let mut keep_at = Instant::now() + pause;
        self.say();
        while !self.wait(&mut control, ended) {
            self.say();
            if Instant::now() >= keep_at {
                self.keep();
                pause *= 2;
                keep_at = Instant::now() + pause;
            }
        }
        self.keep();
    }

    /// Waits for a while; true at the end.
    fn wait(&self, control: &mut Option<OwnedFd>, ended: &OwnedFd) -> bool {
        let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::empty())];
        fds.extend(control.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        if let Err(error) = poll(&mut fds, INTERVAL)
            && error != nix::Error::EINTR
        {
            tracing::debug!("wait: {error}");
            thread::sleep(Duration::from_millis(INTERVAL.into()));
            return false;
        }
        let happened = |at: usize| {
            fds.get(at).and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
        };
        let (over, told) = (happened(0), happened(1));
        if told && let Some(fd) = control {
            let mut buffer = [0; RELEASE.len()];
            match nix::unistd::read(&*fd, &mut buffer) {
                Ok(n) if &buffer[..n] == RELEASE => self.fs.fail_waiting(GRACE),
                Ok(1..) | Err(nix::Error::EINTR) => {}
                // The supervisor is gone.
                Ok(0) | Err(_) => *control = None,
            }
        }
        over
    }

    fn say(&mut self) {
        let stats = self.fs.stats();
        if self.stats == Some(stats) {
            return;
        }
        match self.dir.write_stats(&stats) {
            Ok(()) => self.stats = Some(stats),
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Keeps what was read first, unless an earlier run read more than twice as much: a look at
    /// one file is not what the image is mounted for.
    fn keep(&mut self) {
        let Some((traces, manifest)) = &self.traces else { return };
        let entries = match self.fs.first_reads() {
            Ok(entries) => entries,
            Err(error) => return tracing::warn!("what was read first is not kept: {error}"),
        };
        let trace = Trace::new(*manifest, entries);
        let bytes = trace.bytes();
        if bytes == 0 || bytes == self.kept {
            return;
        }
        let before = match traces.load(*manifest) {
            // What this mount kept itself does not count as an earlier run.
            Ok(Some(before)) if before.bytes() != self.kept => before.bytes(),
            Ok(_) => 0,
            Err(error) => {
                tracing::warn!("{error}");
                0
            }
        };
        if before / 2 > bytes {
            return;
        }
        match traces.save(&trace) {
            Ok(()) => self.kept = bytes,
            Err(error) => tracing::warn!("what was read first is not kept: {error}"),
        }
    }
}
