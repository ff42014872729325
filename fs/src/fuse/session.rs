//! The threads that answer the kernel, from their first request on or from where other threads
//! were killed.
//!
//! A connection is greeted once: the kernel's first request is INIT, and its answer settles the
//! protocol for all who serve the connection after that. The FUSE library knows no other
//! beginning than this request, so it always gets it through a socket, as the kernel sent it once;
//! then the device takes the socket's place (dup2). Only the first answer goes to the kernel.
//!
//! Requests that a killed process had read but not answered are sent again on request
//! (`FUSE_NOTIFY_RESEND`, Linux 6.9). For that some process must have held on to the device: with
//! the last descriptor of it goes the connection. All threads read one descriptor, since a
//! descriptor of their own (`FUSE_DEV_IOC_CLONE`) would end its requests with them.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, InitFlags, SessionACL};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::FuseError;
use super::requests::Adapter;
use super::through::Through;
use crate::filesystem::ImageFs;
use crate::sys;

/// The smallest buffer the kernel takes for a request (`FUSE_MIN_READ_BUFFER`).
const MIN_BUFFER: usize = 8192;
/// Sizes of `fuse_in_header` and of what `fuse_init_in` starts with up to `flags2`.
const IN_HEADER: usize = 40;
const INIT_FLAGS: usize = IN_HEADER + 12;
const INIT_FLAGS2: usize = IN_HEADER + 16;
/// `enum fuse_opcode`
const OPCODE_INIT: u32 = 26;
/// `enum fuse_notify_code`
const NOTIFY_RESEND: i32 = 7;

/// The kernel's first request of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting(Vec<u8>);

impl Greeting {
    /// Reads it from a device that was mounted just now.
    pub(super) fn read(device: &OwnedFd) -> io::Result<Self> {
        let mut buffer = vec![0; MIN_BUFFER];
        let len = loop {
            match nix::unistd::read(device, &mut buffer) {
                Err(nix::Error::EINTR | nix::Error::ENOENT | nix::Error::EAGAIN) => {}
                result => break result?,
            }
        };
        buffer.truncate(len);
        Self::from_bytes(buffer)
    }

    /// What [`Greeting::as_bytes`] gave.
    pub fn from_bytes(bytes: Vec<u8>) -> io::Result<Self> {
        let opcode = bytes.get(4..8).map(|field| u32::from_ne_bytes(field.try_into().expect("4")));
        if bytes.len() < INIT_FLAGS + 4 || opcode != Some(OPCODE_INIT) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no INIT request"));
        }
        Ok(Self(bytes))
    }

    /// The request as it came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the kernel can send again what a killed server did not answer.
    pub fn can_resend(&self) -> bool {
        let field = |at: usize| {
            let field = self.0.get(at..at + 4).unwrap_or(&[0; 4]);
            u64::from(u32::from_ne_bytes(field.try_into().expect("4 bytes")))
        };
        let mut flags = InitFlags::from_bits_retain(field(INIT_FLAGS));
        if flags.contains(InitFlags::FUSE_INIT_EXT) {
            flags |= InitFlags::from_bits_retain(field(INIT_FLAGS2) << 32);
        }
        flags.contains(InitFlags::FUSE_HAS_RESEND)
    }
}

/// Ready to answer the kernel, for the first time or in the place of a process that did.
#[derive(Debug)]
pub struct Ready {
    session: fuser::Session<Adapter>,
    device: OwnedFd,
}

/// The threads that answer the kernel for one image.
///
/// They end when the file system is unmounted everywhere. Dropping this does not end them.
#[derive(Debug)]
pub struct Session(BackgroundSession);

impl Ready {
    /// Greets the kernel at the other side of `device`, which is mounted already.
    /// With `through`, the kernel reads large files by itself.
    pub fn first(
        fs: Arc<ImageFs>,
        device: OwnedFd,
        through: Option<Arc<Through>>,
    ) -> Result<(Self, Greeting), FuseError> {
        let greeting = Greeting::read(&device).map_err(FuseError::Session)?;
        let adapter = Adapter::new(fs, through);
        let (ready, answer) =
            Self::greeted(adapter, device, &greeting).map_err(FuseError::Session)?;
        let written = nix::unistd::write(&ready.device, &answer);
        written.map_err(|error| FuseError::Session(error.into()))?;
        Ok((ready, greeting))
    }

    /// Goes on with a connection that was greeted so by a process that is, or is about to be,
    /// gone.
    pub fn again(
        fs: Arc<ImageFs>,
        device: OwnedFd,
        greeting: &Greeting,
        through: Option<Arc<Through>>,
    ) -> Result<Self, FuseError> {
        let adapter = Adapter::new(fs, through);
        let (ready, _) = Self::greeted(adapter, device, greeting).map_err(FuseError::Session)?;
        Ok(ready)
    }

    /// A session whose library believes to have been greeted by `device`, and its answer.
    fn greeted(
        adapter: Adapter,
        device: OwnedFd,
        greeting: &Greeting,
    ) -> io::Result<(Self, Vec<u8>)> {
        let (kernel, library) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        nix::unistd::write(&kernel, greeting.as_bytes())?;
        let session = fuser::Session::from_fd(adapter, library, SessionACL::All, config())?;
        let mut answer = vec![0; MIN_BUFFER];
        let len = nix::unistd::read(&kernel, &mut answer)?;
        answer.truncate(len);
        sys::take_the_place_of(session.as_fd(), device.as_fd())?;
        Ok((Self { session, device }, answer))
    }

    /// Asks the kernel for what is unanswered. The process that read it must be gone, and this
    /// one must not read yet.
    pub fn ask_again(&self) -> Result<(), FuseError> {
        // fuse_out_header: length, notification, and 0 for "no request"
        let (len, code, unique) = (16_u32.to_ne_bytes(), NOTIFY_RESEND.to_ne_bytes(), [0; 8]);
        let message = [IoSlice::new(&len), IoSlice::new(&code), IoSlice::new(&unique)];
        let result = nix::sys::uio::writev(&self.device, &message);
        result.map(drop).map_err(|error| FuseError::Session(error.into()))
    }

    /// Starts the threads.
    pub fn start(self) -> Result<Session, FuseError> {
        self.session.spawn().map(Session).map_err(FuseError::Session)
    }
}

impl Session {
    /// Blocks until the file system is unmounted and its last user is gone.
    pub fn join(self) -> io::Result<()> {
        self.0.join()
    }

    /// Whether it has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.0.guard.is_finished()
    }
}

fn config() -> Config {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let mut config = Config::default();
    // More than one, so that a read that waits for the disk does not hold up a lookup; each
    // costs stack and buffer.
    config.n_threads = Some(cores.clamp(2, 4));
    config.clone_fd = false;
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.18 sends it, but for the flags.
    fn init(flags: u32, flags2: u32) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..4].copy_from_slice(&104_u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&OPCODE_INIT.to_ne_bytes());
        bytes[52..56].copy_from_slice(&flags.to_ne_bytes());
        bytes[56..60].copy_from_slice(&flags2.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_greeting_tells_whether_requests_can_be_sent_again() {
        let extended = 1 << 30;
        for (flags, flags2, expected) in
            [(extended, 1 << 7, true), (extended, 1 << 6, false), (0, 1 << 7, false)]
        {
            let greeting = Greeting::from_bytes(init(flags, flags2)).unwrap();
            assert_eq!(greeting.can_resend(), expected, "{flags:x} {flags2:x}");
        }
    }

    #[test]
    fn an_old_kernels_greeting_is_short() {
        let mut bytes = init(1 << 30, 1 << 7);
        bytes.truncate(56);
        assert!(!Greeting::from_bytes(bytes).unwrap().can_resend());
    }

    #[test]
    fn anything_else_is_no_greeting() {
        for bytes in [vec![], vec![0; 55], init(0, 0)[..20].to_vec(), vec![0; 104]] {
            assert!(Greeting::from_bytes(bytes).is_err());
        }
    }
}
