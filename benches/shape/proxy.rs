//! A proxy with the rate and round-trip time of a slow net, for `scripts/bench.sh`. SIGTERM ends
//! it; it then says what passed.
//!
//! `shape-proxy --listen IP:PORT --upstream IP:PORT [--rate 100mbit|1gbit] [--rtt 20ms]`

use std::error::Error;
use std::net::SocketAddr;

use nix::sys::signal::{SigSet, Signal};

#[path = "../../tests/proxy/mod.rs"]
#[allow(dead_code, reason = "the faults are for the tests")]
mod proxy;

use proxy::{Proxy, Shape};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut listen, mut upstream, mut shape) = (None, None, Shape::default());
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().ok_or_else(|| format!("{option}: no value"))?;
        match option.as_str() {
            "--listen" => listen = Some(value),
            "--upstream" => upstream = Some(value.parse::<SocketAddr>()?),
            "--rate" => shape.rate = Some(rate(&value)?),
            "--rtt" => shape.round_trip = humantime::parse_duration(&value)?,
            _ => return Err(format!("unknown option {option}").into()),
        }
    }
    let (listen, upstream) = (listen.ok_or("no --listen")?, upstream.ok_or("no --upstream")?);
    // Blocked in this thread and so in those it starts: the signal waits to be taken here.
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    ends.thread_block()?;
    let proxy = Proxy::start(&listen, upstream, shape)?;
    ends.wait()?;
    let seen = proxy.seen("");
    let bytes: u64 = seen.iter().map(|seen| seen.bytes).sum();
    println!("{bytes} bytes, {} requests", seen.len());
    Ok(())
}

/// Bytes a second of `100mbit` or `1gbit`.
fn rate(text: &str) -> Result<u64, Box<dyn Error>> {
    let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000)];
    let found = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
    let (number, bits) = found.ok_or_else(|| format!("{text}: not a rate such as 100mbit"))?;
    Ok(number.parse::<u64>()?.checked_mul(bits / 8).ok_or("too fast")?)
}
