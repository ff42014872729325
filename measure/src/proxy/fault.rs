//! What a bad net and a bad registry do.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use super::{Connection, Shared, lock};
use crate::http::Head;

/// Between the bytes of a trickle.
const TRICKLE: Duration = Duration::from_millis(20);
/// Where addresses lie to which the proxy redirects.
pub(super) const SIGNED: &str = "/signed/";

/// What happens to a request, or to the body of its answer after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status and not passed on.
    Status(u16),
    /// It is answered with 429 and told to ask again after so many seconds.
    Busy(u32),
    /// It is passed on, and the connection ends after so many bytes of its body.
    Cut(u64),
    /// It is passed on, and the connection ends in the place of an answer.
    Lost,
    /// The connection is reset.
    Reset(u64),
    /// The connection ends.
    Truncate(u64),
    /// Nothing more comes, for as long as there is a proxy.
    Stall(u64),
    /// From there on a byte comes now and then.
    Trickle(u64),
    /// The byte there is another one.
    Flip(u64),
    /// It is passed on without its `Range`.
    NoRange,
    /// It is redirected to an address of the proxy that works so many times.
    Redirect(u32),
}

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// A request whose line has this text.
    pub(super) what: &'static str,
    pub(super) fault: Fault,
    /// So many of them pass before.
    pub(super) after: u32,
    /// And then so many do not.
    pub(super) times: u32,
}

impl Rule {
    /// For all requests whose line has this text.
    pub fn on(what: &'static str, fault: Fault) -> Self {
        Self { what, fault, after: 0, times: u32::MAX }
    }

    /// After so many that pass.
    pub fn after(self, after: u32) -> Self {
        Self { after, ..self }
    }

    /// So many times, and then no more.
    pub fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

impl Connection<'_> {
    /// Turns a request for an address that was redirected to into the original one, unless that
    /// address is outlived.
    pub(super) fn unsign(&self, request: &mut Head, signed: &str) -> bool {
        let Some((number, path)) = signed.split_once('/') else { return false };
        let mut all = lock(&self.shared.signed);
        let left = number.parse::<usize>().ok().and_then(|number| all.get_mut(number));
        let Some(left) = left.filter(|left| **left > 0) else { return false };
        *left -= 1;
        request.first = format!("{} /{path} HTTP/1.1", request.word(0));
        true
    }

    /// Sends the client elsewhere.
    pub(super) fn redirect(&mut self, request: &Head, uses: u32) -> io::Result<()> {
        let number = {
            let mut signed = lock(&self.shared.signed);
            signed.push(uses);
            signed.len() - 1
        };
        let (address, path) = (self.shared.address, request.word(1));
        let location = format!("http://{address}{SIGNED}{number}{path}");
        let head = Head::new(
            "HTTP/1.1 307 Temporary Redirect".to_owned(),
            &[("Location", &location), ("Content-Length", "0")],
        );
        self.answer(request, &head, "")
    }
}

/// Passes on a piece that starts at `at` of a body, or does to it what the fault wants.
pub(super) fn pass_piece(
    shared: &Shared,
    mut client: &TcpStream,
    fault: Option<Fault>,
    at: u64,
    piece: &[u8],
) -> io::Result<()> {
    if let Some(Fault::Trickle(n)) = fault {
        let whole = usize::try_from(n.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
        client.write_all(&piece[..whole])?;
        for byte in &piece[whole..] {
            thread::sleep(TRICKLE);
            client.write_all(&[*byte])?;
        }
        return Ok(());
    }
    let place = match fault {
        Some(Fault::Reset(n) | Fault::Truncate(n) | Fault::Stall(n) | Fault::Flip(n)) => n,
        _ => return client.write_all(piece),
    };
    let inside = place.checked_sub(at).and_then(|n| usize::try_from(n).ok());
    let Some(inside) = inside.filter(|n| *n < piece.len()) else {
        return client.write_all(piece);
    };
    if matches!(fault, Some(Fault::Flip(_))) {
        let mut piece = piece.to_vec();
        piece[inside] ^= 1;
        return client.write_all(&piece);
    }
    client.write_all(&piece[..inside])?;
    match fault {
        Some(Fault::Stall(_)) => shared.hang(),
        Some(Fault::Reset(_)) => reset_at_close(client)?,
        _ => {}
    }
    Err(io::ErrorKind::ConnectionAborted.into())
}

/// What was written goes out first: the peer shall see it, and then the reset.
fn reset_at_close(client: &TcpStream) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    thread::sleep(Duration::from_millis(20));
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(client, sockopt::Linger, &linger)?)
}
