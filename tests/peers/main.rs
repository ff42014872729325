//! kfs beside other tools: what they make of an image, kfs must show, and what they build of a
//! file, kfs must build.
//!
//! Needs root, /dev/fuse, umoci, buildah and skopeo, one also podman and runc; without them each test says that it is skipped.

#[path = "../host_tools/mod.rs"]
mod host_tools;
#[path = "../shared_inputs/mod.rs"]
mod shared_inputs;
#[path = "../skip/mod.rs"]
mod skip;

mod builds;
mod conformance;
mod converted;
mod images;
mod layout;
mod registry;
mod tools;
mod walk;
