//! A proxy before a registry, on this machine: it slows down what passes (`Shape`), breaks what it
//! is told to (`Rule`), and counts.
//!
//! A thread a connection, each with a connection of its own to the registry. It speaks plain http
//! and knows requests and answers, but nothing of registries but where their paths start. Of a slow
//! net it imitates the time of a round trip and the rate of the link, not how TCP finds that out.

mod fault;
mod shape;
mod tokens;

use std::io::{self, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use fault::{Fault, Rule};
pub use shape::{Shape, ShapeError};

use crate::clock::{self, Micros};
use crate::http::{Body, Head, pass};
use fault::{SIGNED, pass_piece};
use tokens::Passes;

/// What the link gives at once after a rest.
const BURST: Duration = Duration::from_millis(5);

/// A request that came.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Method and target.
    pub request: String,
    /// What it wanted of its target, as `Range` has it.
    pub range: Option<String>,
    /// Whether it had an `Authorization`.
    pub authorized: bool,
    /// The answer's status; 0 as long as there is none.
    pub status: u16,
    /// Bytes of the answer's body that were passed on.
    pub bytes: u64,
    /// Which connection it came by, counted from 0.
    pub connection: u64,
    /// When that connection was made, if this is its first request.
    pub connected: Option<Micros>,
    /// When it came.
    pub asked: Micros,
    /// When its answer began.
    pub answered: Option<Micros>,
    /// When the last byte of its answer was passed on, so far.
    pub ended: Option<Micros>,
}

/// A proxy that runs. Its connections end with it.
#[derive(Debug)]
pub struct Proxy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    upstream: SocketAddr,
    shape: Shape,
    /// When the link is free again.
    free: Mutex<Instant>,
    ends: AtomicBool,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    connections: AtomicU64,
    /// How often each address that was redirected to may still be used.
    signed: Mutex<Vec<u32>>,
    passes: Mutex<Option<Passes>>,
}

impl Proxy {
    /// A proxy at this address, before the registry at that one.
    pub fn start(listen: &str, upstream: SocketAddr, shape: Shape) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let shared = Arc::new(Shared {
            address: listener.local_addr()?,
            upstream,
            shape,
            free: Mutex::new(Instant::now()),
            ends: AtomicBool::new(false),
            rules: Mutex::default(),
            seen: Mutex::default(),
            connections: AtomicU64::new(0),
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// From now on, this happens; the first rule that fits a request counts.
    pub fn add(&self, rule: Rule) {
        lock(&self.0.rules).push(rule);
    }

    /// From now on, nothing happens, and nothing was seen.
    pub fn clear(&self) {
        lock(&self.0.rules).clear();
        lock(&self.0.seen).clear();
    }

    /// From now on, the registry wants tokens, each good for so many requests.
    pub fn want_tokens(&self, uses: u32) {
        *lock(&self.0.passes) = Some(Passes::new(uses));
    }

    /// All requests whose line has this text.
    pub fn seen(&self, what: &str) -> Vec<Seen> {
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

    /// Changes the record of a request, unless the list was cleared since.
    fn note(&self, number: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = lock(&self.seen).get_mut(number) {
            change(seen);
        }
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
    number: u64,
    /// When it was made; taken by its first request.
    connected: Option<Micros>,
}

impl<'a> Connection<'a> {
    fn serve(shared: &'a Shared, client: &'a TcpStream) -> io::Result<()> {
        let connected = Some(clock::now());
        let number = shared.connections.fetch_add(1, SeqCst);
        thread::sleep(shared.shape.round_trip);
        client.set_nodelay(true)?;
        let upstream = TcpStream::connect(shared.upstream)?;
        upstream.set_nodelay(true)?;
        let (requests, answers) = (BufReader::new(client), BufReader::new(&upstream));
        let upstream = &upstream;
        let mut connection =
            Connection { shared, client, requests, upstream, answers, number, connected };
        while let Some(request) = Head::read(&mut connection.requests)? {
            let number = connection.record(&request);
            thread::sleep(shared.shape.round_trip);
            let done = connection.exchange(request, number);
            shared.note(number, |seen| seen.ended = Some(clock::now()));
            done?;
        }
        Ok(())
    }

    /// Adds a request to the record; its place there.
    fn record(&mut self, request: &Head) -> usize {
        let seen = Seen {
            request: line_of(request),
            range: request.get("Range").map(str::to_owned),
            authorized: request.get("Authorization").is_some(),
            status: 0,
            bytes: 0,
            connection: self.number,
            connected: self.connected.take(),
            asked: clock::now(),
            answered: None,
            ended: None,
        };
        let mut all = lock(&self.shared.seen);
        all.push(seen);
        all.len() - 1
    }

    /// One request and its answer.
    fn exchange(&mut self, mut request: Head, number: usize) -> io::Result<()> {
        let line = line_of(&request);
        if let Some(answer) = self.token_answer(&mut request) {
            return self.answer(&request, &answer.0, &answer.1);
        }
        if let Some(signed) = request.word(1).strip_prefix(SIGNED).map(str::to_owned)
            && !self.unsign(&mut request, &signed)
        {
            return self.answer_status(&request, 403, number);
        }
        let fault = self.shared.fault(&line);
        match fault {
            Some(Fault::Status(status)) => {
                return self.answer_status(&request, status, number);
            }
            Some(Fault::Busy(seconds)) => return self.answer_busy(&request, seconds, number),
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
        self.shared.note(number, |seen| {
            seen.status = head.word(1).parse().unwrap_or_default();
            seen.answered = Some(clock::now());
        });
        let body = head.answer_body(method);
        let (shared, client) = (self.shared, self.client);
        let mut at = 0;
        pass(&mut self.answers, body, &mut |piece| {
            shared.link(piece.len());
            let passed = pass_piece(shared, client, fault, at, piece);
            at += piece.len() as u64;
            shared.note(number, |seen| seen.bytes += piece.len() as u64);
            passed
        })?;
        let closes = head.get("Connection").is_some_and(|it| it.eq_ignore_ascii_case("close"));
        if closes || body == Body::Rest { Err(end()) } else { Ok(()) }
    }

    fn answer_status(&mut self, request: &Head, status: u16, number: usize) -> io::Result<()> {
        self.shared.note(number, |seen| seen.status = status);
        let mut fields = vec![("Content-Length", "0")];
        if status == 401 {
            fields.push(("WWW-Authenticate", "Basic realm=\"x\""));
        }
        let head = Head::new(format!("HTTP/1.1 {status} As Told"), &fields);
        self.answer(request, &head, "")
    }

    fn answer_busy(&mut self, request: &Head, seconds: u32, number: usize) -> io::Result<()> {
        self.shared.note(number, |seen| seen.status = 429);
        let seconds = seconds.to_string();
        let fields = [("Content-Length", "0"), ("Retry-After", &seconds)];
        self.answer(request, &Head::new("HTTP/1.1 429 Busy".to_owned(), &fields), "")
    }

    /// Answers a request that is not passed on.
    fn answer(&mut self, request: &Head, head: &Head, body: &str) -> io::Result<()> {
        pass(&mut self.requests, request.request_body(), &mut |_| Ok(()))?;
        head.write(&mut &*self.client)?;
        self.client.write_all(body.as_bytes())
    }
}

/// Method and target.
fn line_of(request: &Head) -> String {
    format!("{} {}", request.word(0), request.word(1))
}
