//! `kfs build` as a user runs it: what comes out, what is said, what is left behind.
//!
//! Needs root and /dev/fuse; without them each test says that it is skipped.

#[path = "../build_files/mod.rs"]
mod build_files;
#[path = "../host_tools/mod.rs"]
mod host_tools;
#[path = "../shared_inputs/mod.rs"]
mod shared_inputs;
#[path = "../skip/mod.rs"]
mod skip;

mod apps;
mod cache;
mod copy;
mod corpus;
mod ends;
mod explain;
mod git;
mod image;
mod local;
mod mounts;
mod options;
mod remote;
mod remote_cache;
mod rootfs;
mod run;
mod stages;
mod workshop;
