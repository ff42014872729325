//! A proxy before a registry, on this machine: it slows down what passes (`Shape`), breaks what it
//! is told to (`Rule`), and counts.
//!
//! A thread a connection, each with a connection of its own to the registry. It speaks plain http
//! and knows requests and answers, but nothing of registries but where their paths start. Of a slow
//! net it imitates the time of a round trip and the rate of the link, not how TCP finds that out.

mod http;
mod tokens;

use std::io::{self, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use http::{Body, Head, pass};
use tokens::Passes;

/// What the link gives at once after a rest.
const BURST: Duration = Duration::from_millis(5);
/// Where addresses lie to which the proxy redirects.
const SIGNED: &str = "/signed/";

/// How slow the net is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shape {
    /// Bytes a second, of all connections together; none is as fast as it goes.
    pub(crate) rate: Option<u64>,
    /// For each new connection and each request.
    pub(crate) round_trip: Duration,
}

/// What happens to a request, or to the body of its answer after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered with this status and not passed on.
    Status(u16),
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
    /// The byte there is another one.
    Flip(u64),
    /// It is passed on without its `Range`.
    NoRange,
    /// It is redirected to an address of the proxy that works so many times.
    Redirect(u32),
}

/// Which requests a fault is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// A request whose line has this text.
    what: &'static str,
    fault: Fault,
    /// So many of them pass before.
    after: u32,
    /// And then so many do not.
    times: u32,
}

impl Rule {
    pub(crate) fn on(what: &'static str, fault: Fault) -> Self {
        Self { what, fault, after: 0, times: u32::MAX }
    }

    pub(crate) fn after(self, after: u32) -> Self {
        Self { after, ..self }
    }

    pub(crate) fn times(self, times: u32) -> Self {
        Self { times, ..self }
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Method and target.
    pub(crate) request: String,
    /// Whether it had an `Authorization`.
    pub(crate) authorized: bool,
    /// Bytes of the answer's body that were passed on.
    pub(crate) bytes: u64,
}

/// A proxy that runs. Its connections end with it.
pub(crate) struct Proxy(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    upstream: SocketAddr,
    shape: Shape,
    /// When the link is free again.
    free: Mutex<Instant>,
    ends: AtomicBool,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// How often each address that was redirected to may still be used.
    signed: Mutex<Vec<u32>>,
    passes: Mutex<Option<Passes>>,
}

impl Proxy {
    /// A proxy at this address, before the registry at that one.
    pub(crate) fn start(listen: &str, upstream: SocketAddr, shape: Shape) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            upstream,
            shape,
            free: Mutex::new(Instant::now()),
            ends: AtomicBool::new(false),
            rules: Mutex::default(),
            seen: Mutex::default(),
            signed: Mutex::default(),
            passes: Mutex::default(),
        });
        let proxy = Self(shared.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ends.load(SeqCst) {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || {
                    // Connections break all the time here, and both sides notice it.
                    drop(Connection::serve(&shared, &client));
                    drop(client.shutdown(Shutdown::Both));
                });
            }
        });
        Ok(proxy)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// From now on, this happens; the first rule that fits a request counts.
    pub(crate) fn add(&self, rule: Rule) {
        lock(&self.0.rules).push(rule);
    }

    /// From now on, nothing happens, and nothing was seen.
    pub(crate) fn clear(&self) {
        lock(&self.0.rules).clear();
        lock(&self.0.seen).clear();
    }

    /// From now on, the registry wants tokens, each good for so many requests.
    pub(crate) fn want_tokens(&self, uses: u32) {
        *lock(&self.0.passes) = Some(Passes::new(uses));
    }

    /// All requests whose line has this text.
    pub(crate) fn seen(&self, what: &str) -> Vec<Seen> {
        let seen = lock(&self.0.seen);
        seen.iter().filter(|seen| seen.request.contains(what)).cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.ends.store(true, SeqCst);
        // Wakes the thread that listens.
        drop(TcpStream::connect(self.0.address));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics here")
}

impl Shared {
    /// The fault for a request.
    fn fault(&self, request: &str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let fitting = rules.iter_mut().filter(|rule| request.contains(rule.what));
        for rule in fitting {
            if rule.after > 0 {
                rule.after -= 1;
            } else if rule.times > 0 {
                rule.times -= 1;
                return Some(rule.fault);
            }
        }
        None
    }

    /// Waits until the link has taken so many bytes.
    fn link(&self, bytes: usize) {
        let Some(rate) = self.shape.rate else { return };
        let takes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / rate);
        let until = {
            let mut free = lock(&self.free);
            let now = Instant::now();
            *free = (*free).max(now.checked_sub(BURST).unwrap_or(now)) + takes;
            *free
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }

    fn hang(&self) {
        while !self.ends.load(SeqCst) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A client's connection, and the one to the registry.
struct Connection<'a> {
    shared: &'a Shared,
    client: &'a TcpStream,
    requests: BufReader<&'a TcpStream>,
    upstream: &'a TcpStream,
    answers: BufReader<&'a TcpStream>,
}

impl<'a> Connection<'a> {
    fn serve(shared: &'a Shared, client: &'a TcpStream) -> io::Result<()> {
        thread::sleep(shared.shape.round_trip);
        client.set_nodelay(true)?;
        let upstream = TcpStream::connect(shared.upstream)?;
        upstream.set_nodelay(true)?;
        let (requests, answers) = (BufReader::new(client), BufReader::new(&upstream));
        let mut connection = Connection { shared, client, requests, upstream: &upstream, answers };
        while let Some(request) = Head::read(&mut connection.requests)? {
            thread::sleep(shared.shape.round_trip);
            connection.exchange(request)?;
        }
        Ok(())
    }

    /// One request and its answer.
    fn exchange(&mut self, mut request: Head) -> io::Result<()> {
        let line = format!("{} {}", request.word(0), request.word(1));
        let authorized = request.get("Authorization").is_some();
        let number = {
            let mut seen = lock(&self.shared.seen);
            seen.push(Seen { request: line.clone(), authorized, bytes: 0 });
            seen.len() - 1
        };
        if let Some(answer) = self.token_answer(&mut request) {
            return self.answer(&request, &answer.0, &answer.1);
        }
        if let Some(signed) = request.word(1).strip_prefix(SIGNED).map(str::to_owned)
            && !self.unsign(&mut request, &signed)
        {
            return self.answer_status(&request, 403);
        }
        let fault = self.shared.fault(&line);
        match fault {
            Some(Fault::Status(status)) => return self.answer_status(&request, status),
            Some(Fault::Redirect(uses)) => return self.redirect(&request, uses),
            Some(Fault::NoRange) => request.remove("Range"),
            _ => {}
        }
        request.write(&mut &*self.upstream)?;
        let (shared, mut upstream) = (self.shared, self.upstream);
        let mut left = if let Some(Fault::Cut(bytes)) = fault { bytes } else { u64::MAX };
        pass(&mut self.requests, request.request_body(), &mut |piece| {
            shared.link(piece.len());
            let n = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            left -= n as u64;
            upstream.write_all(&piece[..n])?;
            if left > 0 { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
        })?;
        self.pass_answer(request.word(0), fault, number)
    }

    fn pass_answer(&mut self, method: &str, fault: Option<Fault>, number: usize) -> io::Result<()> {
        let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut head = Head::read(&mut self.answers)?.ok_or_else(end)?;
        while head.word(1).starts_with('1') {
            head.write(&mut &*self.client)?;
            head = Head::read(&mut self.answers)?.ok_or_else(end)?;
        }
        if fault == Some(Fault::Lost) {
            return Err(end());
        }
        head.write(&mut &*self.client)?;
        let body = head.answer_body(method);
        let (shared, client) = (self.shared, self.client);
        let mut at = 0;
        pass(&mut self.answers, body, &mut |piece| {
            shared.link(piece.len());
            let passed = pass_piece(shared, client, fault, at, piece);
            at += piece.len() as u64;
            // The list may have been cleared since.
            if let Some(seen) = lock(&shared.seen).get_mut(number) {
                seen.bytes += piece.len() as u64;
            }
            passed
        })?;
        let closes = head.get("Connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        if closes || body == Body::Rest { Err(end()) } else { Ok(()) }
    }

    /// Turns a request for an address that was redirected to into the original one, unless that
    /// address is outlived.
    fn unsign(&self, request: &mut Head, signed: &str) -> bool {
        let Some((number, path)) = signed.split_once('/') else { return false };
        let mut all = lock(&self.shared.signed);
        let left = number.parse::<usize>().ok().and_then(|number| all.get_mut(number));
        let Some(left) = left.filter(|left| **left > 0) else { return false };
        *left -= 1;
        request.first = format!("{} /{path} HTTP/1.1", request.word(0));
        true
    }

    fn redirect(&mut self, request: &Head, uses: u32) -> io::Result<()> {
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

    fn answer_status(&mut self, request: &Head, status: u16) -> io::Result<()> {
        let mut fields = vec![("Content-Length", "0")];
        if status == 401 {
            fields.push(("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let head = Head::new(format!("HTTP/1.1 {status} As Told"), &fields);
        self.answer(request, &head, "")
    }

    /// Answers a request that is not passed on.
    fn answer(&mut self, request: &Head, head: &Head, body: &str) -> io::Result<()> {
        pass(&mut self.requests, request.request_body(), &mut |_| Ok(()))?;
        head.write(&mut &*self.client)?;
        self.client.write_all(body.as_bytes())
    }
}

/// Passes on a piece that starts at `at` of a body, or does to it what the fault wants.
fn pass_piece(
    shared: &Shared,
    mut client: &TcpStream,
    fault: Option<Fault>,
    at: u64,
    piece: &[u8],
) -> io::Result<()> {
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
