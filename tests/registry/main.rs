//! The client against a real registry: Debian's `docker-registry` on a free port of this machine.

mod client;
mod faults;
mod options;
#[path = "../proxy/mod.rs"]
#[allow(dead_code, reason = "slow nets are for the benchmarks")]
mod proxy;
mod server;
#[path = "../skip/mod.rs"]
mod skip;
