//! Container images in, bytes out: the store, layer formats, the merged tree, FUSE, mounts.
//!
//! # Glossary
//!
//! - **blob**: bytes named by their digest, as an OCI layout or registry stores them
//! - **layer**: a tar stream of changes, stored as a blob, often compressed
//! - **entry**: one tar member of a layer
//! - **extent**: where a run of a file's bytes lies in a layer's uncompressed stream
//! - **span**: the unit of a layer that is fetched, decoded and verified as a whole
//! - **tree**: the layers of an image merged into one immutable directory tree
//! - **inode**: a file, directory, ... of the tree; its number is its place in the tree's file

#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod blob;
mod blocks;
pub mod cache;
pub mod compare;
pub mod content;
pub mod digest;
pub mod error;
pub mod extract;
pub mod filesystem;
pub mod fuse;
mod gunzip;
mod indexes;
pub mod layer;
mod mapped;
pub mod mount;
pub mod oci;
mod parallel;
pub mod printable;
#[cfg(test)]
#[path = "../../tests/skip/mod.rs"]
mod skip;
pub mod span;
mod sys;
pub mod trace;
pub mod tree;
pub mod unnamed;

pub use sys::filter_system_calls;
