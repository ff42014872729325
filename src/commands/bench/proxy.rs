//! `kfs bench proxy`

use std::io::Write as _;
use std::net::SocketAddr;

use kfs_measure::proxy::{Proxy, Shape};
use nix::sys::signal::{SigSet, Signal};

use crate::commands::{Context, Out};
use crate::report::Failure;
use crate::table::size;

/// Stand before a registry and be a slow net
///
/// Of a net it imitates the time of a round trip, for each connection and each request, and the
/// rate of a link that all connections share. It speaks plain http. Ends with SIGINT or SIGTERM,
/// and then says what passed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  kfs bench proxy 127.0.0.1:5000 --net 100mbit,20ms --listen 127.0.0.1:5001"
)]
pub(crate) struct Args {
    /// The registry
    #[arg(value_name = "IP:PORT")]
    upstream: SocketAddr,

    /// Rate of the link and time of a round trip, or one of them
    #[arg(long, value_name = "RATE,TIME")]
    net: Option<Shape>,

    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: String,

    /// At the end, print each request as a line of JSON
    #[arg(long)]
    log: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    // Before there are threads, which would be interrupted else.
    let end = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    let failed = |error| Failure::new(format!("wait for a signal: {error}"));
    end.thread_block().map_err(failed)?;
    let shape = args.net.unwrap_or_default();
    let proxy = Proxy::start(&args.listen, args.upstream, shape)
        .map_err(|error| Failure::new(format!("listen at {}: {error}", args.listen)))?;
    let mut out = Out::new();
    writeln!(out, "{} is {} at {}", args.upstream, shape, proxy.address())?;
    out.flush()?;
    end.wait().map_err(failed)?;
    let seen = proxy.seen("");
    if args.log {
        for request in &seen {
            let line = serde_json::to_string(request).expect("data with names as keys");
            writeln!(out, "{line}")?;
        }
    }
    out.finish()?;
    let bytes: u64 = seen.iter().map(|seen| seen.bytes).sum();
    context.say(&format!("{} requests, {} ({bytes} bytes)", seen.len(), size(bytes)));
    Ok(())
}
