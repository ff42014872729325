//! Signals that end a build in good order: what a step had begun is given up, its processes are
//! gone, nothing of it is left.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask a program to end.
pub(crate) const ENDING: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// The user, or the system, wants the build to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interrupted ({0})")]
pub struct Interrupted(pub Signal);

/// Asks whether a signal wants the build to end. As long as it is not told to
/// [`hold`](Self::hold) them, signals do what they always do. All threads of a build ask the same
/// value.
#[derive(Debug, Default)]
pub struct Interrupts {
    held: OnceLock<Held>,
    /// The number of the signal that has come, 0 for none.
    arrived: AtomicI32,
}

#[derive(Debug)]
struct Held {
    signals: SignalFd,
    /// The mask of the thread before.
    before: SigSet,
    /// Readable (at its end) once a signal has come: one thread takes the signal, all wake up.
    told: io::PipeReader,
    tell: Mutex<Option<io::PipeWriter>>,
}

impl Interrupts {
    /// From now on, and until the value is dropped, signals that ask to end are held back from
    /// this thread and those that it starts. Once one has come, the next ends the process at
    /// once. One that is ignored (nohup(1)) stays so.
    pub fn hold(&self) -> io::Result<()> {
        let ignored = ignored()?;
        let mut set = SigSet::empty();
        ENDING.into_iter().filter(|signal| !ignored.contains(signal)).for_each(|s| set.add(s));
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let (told, tell) = io::pipe()?;
        let before = SigSet::thread_get_mask()?;
        set.thread_block()?;
        self.held.get_or_init(|| Held { signals, before, told, tell: Mutex::new(Some(tell)) });
        Ok(())
    }

    /// Has every [`check`](Self::check) and wait of the build fail from now on, as if it had been
    /// asked to terminate: another part of it has failed.
    pub(crate) fn cancel(&self) {
        self.arrive(Signal::SIGTERM as i32);
    }

    fn arrive(&self, signal: i32) {
        // The first one counts.
        self.arrived.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).ok();
        if let Some(held) = self.held.get() {
            held.tell.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }

    /// Fails if a signal has come.
    pub fn check(&self) -> Result<(), Interrupted> {
        let held = self.held.get();
        if self.arrived.load(Ordering::SeqCst) == 0
            && let Some(held) = held
            && let Ok(Some(info)) = held.signals.read_signal()
        {
            self.arrive(i32::try_from(info.ssi_signo).unwrap_or_default());
        }
        let Ok(signal) = Signal::try_from(self.arrived.load(Ordering::SeqCst)) else {
            return Ok(());
        };
        if let Some(held) = held {
            held.let_through();
        }
        Err(Interrupted(signal))
    }

    /// Waits until `fd` can be read or a signal has come; fails for the latter with
    /// [`Interrupted`].
    pub(crate) fn wait(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        loop {
            self.check().map_err(io::Error::other)?;
            let held = self.held.get();
            let mut fds: Vec<_> = [
                Some(fd),
                held.map(|held| held.signals.as_fd()),
                held.map(|held| held.told.as_fd()),
            ]
            .into_iter()
            .flatten()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if fds[0].any() == Some(true) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Held {
    fn let_through(&self) {
        // It fails for a malformed mask only, and this one came from the system.
        self.before.thread_set_mask().ok();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_through();
    }
}

/// The signals that this process was started to ignore (proc_pid_status(5)): held back, they
/// would be noticed all the same.
fn ignored() -> io::Result<Vec<Signal>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let is_ignored = |signal: &Signal| mask & (1 << (*signal as i32 - 1)) != 0;
    Ok(ENDING.into_iter().filter(is_ignored).collect())
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn a_held_signal_is_told_once_it_has_come() {
        let interrupts = Interrupts::default();
        assert_eq!(interrupts.check(), Ok(()));
        interrupts.hold().unwrap();
        assert_eq!(interrupts.check(), Ok(()));
        let (reader, writer) = io::pipe().unwrap();
        raise(Signal::SIGTERM).unwrap();
        let error = interrupts.wait(reader.as_fd()).unwrap_err();
        assert_eq!(error.downcast::<Interrupted>().unwrap(), Interrupted(Signal::SIGTERM));
        assert_eq!(interrupts.check(), Err(Interrupted(Signal::SIGTERM)));
        drop(writer);
        drop(interrupts);
        assert!(!SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
    }

    #[test]
    fn without_a_signal_a_wait_ends_with_its_descriptor() {
        let interrupts = Interrupts::default();
        let (reader, writer) = io::pipe().unwrap();
        drop(writer);
        interrupts.wait(reader.as_fd()).unwrap();
        interrupts.hold().unwrap();
        interrupts.wait(reader.as_fd()).unwrap();
    }

    #[test]
    fn what_one_thread_is_told_all_are() {
        let interrupts = Interrupts::default();
        interrupts.hold().unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            let wait = || interrupts.wait(reader.as_fd()).unwrap_err();
            let waiting: Vec<_> = (0..3).map(|_| scope.spawn(wait)).collect();
            interrupts.cancel();
            for thread in waiting {
                let error = thread.join().unwrap().downcast::<Interrupted>().unwrap();
                assert_eq!(error, Interrupted(Signal::SIGTERM));
            }
        });
    }
}
