//! A step without network: a network namespace of its own, in which only the loopback is up.

use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use super::wire::{Failure, OrFail};

// rtnetlink(7), netlink(7), netdevice(7).
const RTM_NEWLINK: u16 = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const IFF_UP: u32 = 1;
/// The loopback is the first device of every network namespace.
const LOOPBACK: i32 = 1;

/// Leaves the host's network for good.
pub(super) fn leave() -> Result<(), Failure> {
    unshare(CloneFlags::CLONE_NEWNET).or_fail("make a network namespace for", "the step")?;
    loopback_up().or_fail("bring up", Path::new("lo"))
}

/// Asks the kernel to set IFF_UP. (The ioctl for this has no safe form.)
fn loopback_up() -> nix::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    // struct nlmsghdr: length, type, flags, sequence, port; struct ifinfomsg: family, pad, type,
    // index, flags, change.
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend([0, 0, 0, 0]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = [0; 256];
    let len = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    // The acknowledgement is an error message with number 0 after its header.
    let kind = reply.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    let number = (len >= 20 && kind == Some(NLMSG_ERROR)).then(|| {
        let bytes = [reply[16], reply[17], reply[18], reply[19]];
        i32::from_ne_bytes(bytes)
    });
    match number {
        Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw(-error)),
        None => Err(Errno::EBADMSG),
    }
}
