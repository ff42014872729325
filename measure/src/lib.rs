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

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod clock;
mod http;
pub mod proxy;
