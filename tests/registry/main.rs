//! The client against a real registry: Debian's `docker-registry` on a free port of this machine.

mod client;
mod faults;
mod options;
mod server;
#[path = "../skip/mod.rs"]
mod skip;
