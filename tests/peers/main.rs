//! kfs beside other tools: what they make of an image, kfs must show, and what they build of a
//! file, kfs must build.
//!
//! Needs root, /dev/fuse, umoci, buildah and skopeo, some also podman, containerd, ctr-remote
//! and runc; without them each test says that it is skipped.

#[path = "../host_tools/mod.rs"]
mod host_tools;
#[path = "../registry/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../shared_inputs/mod.rs"]
mod shared_inputs;
#[path = "../skip/mod.rs"]
mod skip;

mod builds;
mod conformance;
mod containerd;
mod converted;
mod images;
mod layout;
mod partial;
mod registry;
mod tools;
mod walk;
