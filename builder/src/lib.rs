//! Kubefile in, image out.
//!
//! # Glossary
//!
//! - **instruction**: one typed command of a build file; a **statement** is it and its lines
//! - **stage**: a FROM and the statements up to the next FROM
//! - **step**: a statement of the stage that is built, with its variables expanded
//! - **context**: the directory whose files COPY may take
//! - **item**: one file, directory or link that a COPY puts into a layer
//! - **rootfs**: the merged tree of a stage: the base image below, what its steps wrote above
//! - **upper**: the directory in which overlayfs keeps what one step wrote
//! - **change**: what a RUN did to one path, as the layer of the step will say it

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod build;
mod cache;
pub mod cluster;
pub mod config;
pub mod context;
pub mod copy;
pub mod diff;
pub mod exec;
pub mod interrupt;
pub mod kubefile;
pub mod lint;
pub mod plan;
pub mod remote;
pub mod rootfs;
#[cfg(test)]
#[path = "../../tests/skip/mod.rs"]
mod skip;
pub mod stage;
mod view;
