//! All unsafe code of the workspace: mapped files, descriptors that come from or go to where Rust
//! does not see them, filters of system calls, and inflate with access to its state.
//!
//! Inflate goes through zlib's C-shaped interface because the safe ones (`zlib_rs::Inflate`,
//! `flate2`) expose neither block boundaries nor the window, which gzip checkpoints need.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use libz_rs_sys as z;
use nix::libc;

/// A file mapped read-only.
#[derive(Debug)]
pub(crate) struct Map(memmap2::Mmap);

impl Map {
    /// Maps the whole of `file`, which must never be changed in place or cut short: the store
    /// only ever renames finished files into place and unlinks them.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        // SAFETY: the mapping is undefined behaviour if the file changes under it. Index files
        // are complete before they get their name and are replaced by rename, never rewritten.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// Makes the descriptor `place`, whoever owns it, refer to what `file` refers to; what it referred
/// to before is closed.
pub(crate) fn take_the_place_of(place: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: dup3 only changes what an open descriptor refers to. Its owner still owns it, and
    // the owner is the FUSE library, which does nothing with it but read, write and close.
    let result = unsafe { libc::dup3(file.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Has the kernel hold the system calls of this thread, and of all that it starts, against a
/// program (seccomp(2)). The caller has CAP_SYS_ADMIN, so that programs which are set-user-ID stay
/// that; all safe wrappers give that up first (`no_new_privs`).
pub fn filter_system_calls(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = program.len().try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies the program, whose length is true, and writes nothing to it.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) };
    nix::errno::Errno::result(result)?;
    Ok(())
}

/// Answers an open: the file is to be read from what the kernel knows by the number `backing`, as
/// it does for the rest of the connection.
pub(crate) fn open_through(reply: fuser::ReplyOpen, flags: fuser::FopenFlags, backing: u32) {
    // SAFETY: the number is one of this connection, and nobody gives it back: each value made of
    // it is turned into the number again.
    let id = unsafe { reply.wrap_backing(backing) };
    reply.opened_passthrough(fuser::FileHandle(0), flags, &id);
    id.into_raw();
}

/// Receives the one descriptor that a message of one byte brings (`SCM_RIGHTS`).
pub(crate) fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0];
    let mut bytes = [io::IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut bytes, Some(&mut space), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part
            && let [descriptor] = descriptors[..]
        {
            // SAFETY: the kernel made the descriptor for this message, nobody else has it.
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no descriptor came"))
}

/// Size of deflate's history window in bytes (RFC 1951, section 2).
pub(crate) const WINDOW: usize = 32 << 10;

/// What one call of [`Inflate::step`] did.
#[derive(Debug)]
pub(crate) struct Step {
    /// Bytes taken from the input.
    pub(crate) consumed: usize,
    /// Bytes written to the output.
    pub(crate) produced: usize,
    /// Where the stream stands.
    pub(crate) state: State,
}

/// Where a deflate stream stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Inside a block or header.
    Within,
    /// Between two blocks; this many bits (0 to 7) of the last input byte belong to the next.
    Boundary(u8),
    /// After the end of the stream, gzip trailer included where there is one.
    End,
}

/// An inflate stream.
pub(crate) struct Inflate(Box<z::z_stream>);

// SAFETY: the stream owns all memory it points to between calls (input and output pointers are
// only used inside `step`), and zlib-rs keeps no thread-local state.
unsafe impl Send for Inflate {}

impl Inflate {
    /// A stream that starts with a gzip header and whose CRC and length are checked.
    pub(crate) fn gzip() -> Self {
        Self::new(16 + 15)
    }

    /// A stream that goes on inside deflate data: `window` is the output before it (at most
    /// 32 KiB), `bits` says how many high bits of `byte` come before the next input byte.
    pub(crate) fn resumed(window: &[u8], bits: u8, byte: u8) -> io::Result<Self> {
        let mut inflate = Self::new(-15);
        if bits > 7 || window.len() > WINDOW {
            return Err(corrupt("bad checkpoint"));
        }
        if bits > 0 {
            let value = i32::from(byte >> (8 - bits));
            // SAFETY: the stream was initialised by `new`.
            let code = unsafe { z::inflatePrime(&mut *inflate.0, i32::from(bits), value) };
            check(code)?;
        }
        if !window.is_empty() {
            let len = u32::try_from(window.len()).expect("at most 32 KiB");
            // SAFETY: the stream was initialised by `new` and `window` is `len` readable bytes,
            // which are copied.
            let code = unsafe { z::inflateSetDictionary(&mut *inflate.0, window.as_ptr(), len) };
            check(code)?;
        }
        Ok(inflate)
    }

    fn new(window_bits: i32) -> Self {
        let mut stream = Box::new(z::z_stream::default());
        let size = i32::try_from(size_of::<z::z_stream>()).expect("a small struct");
        // SAFETY: `stream` is a valid default z_stream, the version string is zlib-rs's own and
        // the size is that of the struct.
        let code = unsafe { z::inflateInit2_(&mut *stream, window_bits, z::zlibVersion(), size) };
        assert_eq!(code, z::Z_OK, "inflate can be set up with constant parameters");
        Self(stream)
    }

    /// Inflates until the input is used up, the output is full, or a block ends.
    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> io::Result<Step> {
        let available = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        self.0.next_in = input.as_ptr();
        self.0.avail_in = available(input.len());
        self.0.next_out = output.as_mut_ptr();
        self.0.avail_out = available(output.len());
        let (had_in, had_out) = (self.0.avail_in, self.0.avail_out);
        // SAFETY: the stream was initialised by `new`; `next_in` and `next_out` point to at least
        // `avail_in` readable and `avail_out` writable bytes that live across the call.
        let code = unsafe { z::inflate(&mut *self.0, z::Z_BLOCK) };
        let consumed = (had_in - self.0.avail_in) as usize;
        let produced = (had_out - self.0.avail_out) as usize;
        self.0.next_in = std::ptr::null();
        self.0.next_out = std::ptr::null_mut();
        let state = match code {
            z::Z_STREAM_END => State::End,
            // No progress is possible with these buffers: the caller brings others.
            z::Z_OK | z::Z_BUF_ERROR => self.boundary(),
            _ => return Err(corrupt("the deflate stream is broken")),
        };
        Ok(Step { consumed, produced, state })
    }

    /// Reads `data_type` as zlib documents it for `Z_BLOCK`: 128 between blocks (also right after
    /// the header), 64 inside the last block, the low three bits count unused bits.
    fn boundary(&self) -> State {
        let data_type = self.0.data_type;
        if data_type & 128 != 0 && data_type & 64 == 0 {
            State::Boundary(u8::try_from(data_type & 7).expect("three bits"))
        } else {
            State::Within
        }
    }

    /// The last (at most 32 KiB) output, which the data that follows may refer to.
    pub(crate) fn window(&mut self) -> io::Result<Vec<u8>> {
        let mut window = vec![0; WINDOW];
        let mut len = 0;
        // SAFETY: the stream was initialised by `new`; zlib writes at most 32 KiB, the size of
        // the buffer.
        let code = unsafe { z::inflateGetDictionary(&*self.0, window.as_mut_ptr(), &mut len) };
        check(code)?;
        window.truncate(len as usize);
        Ok(window)
    }

    /// Makes the stream ready for the next gzip member.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        // SAFETY: the stream was initialised by `new`.
        check(unsafe { z::inflateReset2(&mut *self.0, 16 + 15) })
    }
}

impl Drop for Inflate {
    fn drop(&mut self) {
        // SAFETY: the stream was initialised by `new` and is not used again.
        unsafe { z::inflateEnd(&mut *self.0) };
    }
}

fn check(code: i32) -> io::Result<()> {
    if code == z::Z_OK { Ok(()) } else { Err(corrupt("inflate refused its state")) }
}

fn corrupt(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
