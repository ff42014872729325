//! The client against a real registry: Debian's `docker-registry` on a free port of this machine.

#[path = "../a_mount/mod.rs"]
mod a_mount;
mod bad;
mod cached;
mod client;
mod deadlines;
mod faults;
mod full;
mod lies;
mod mirrors;
mod options;
mod platforms;
mod proxies;
mod server;
mod several;
#[path = "../skip/mod.rs"]
mod skip;
mod soci;
mod trust;
mod uploads;
