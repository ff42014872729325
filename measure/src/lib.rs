//! What commands, file systems and builds cost, as `kfs bench` tells it.
//!
//! A crate of its own, and not a part of kfs-fs or kfs-builder: it watches them from outside, as
//! processes, files and requests, and so measures other tools by the same means. Nothing of kfs
//! needs it to work.
//!
//! # Glossary
//!
//! - **proxy**: stands between client and registry; slow, and bad if it is told to, and keeps a
//!   record of all requests
//! - **shape**: how slow: rate of the link, time of a round trip
//! - **origin**: what serves the image: its registry, or a registry made of a local image
//! - **side**: one of the tools that are compared
//! - **start**: an image's way to a program's exit: cold (nothing is there), second (from what the
//!   first one left on disk), warm (the same, still in memory)
//! - **scratch**: the directory of a measurement, which is gone after it, whatever happens

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod builds;
pub mod clock;
pub mod cold;
pub mod enter;
mod error;
pub mod files;
mod http;
pub mod machine;
pub mod origin;
mod process;
pub mod proxy;
pub mod scratch;

pub use error::MeasureError;
