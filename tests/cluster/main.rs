//! Cluster images as a user builds, pushes and serves them, with Debian's `docker-registry` on a
//! free port of this machine in the place of all registries.

#[path = "../registry/server.rs"]
#[allow(dead_code)] // The tests of registries need more of it.
mod server;
#[path = "../skip/mod.rs"]
mod skip;

mod carried;
mod failures;
mod workplace;
