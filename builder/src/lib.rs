//! Kubefile in, image out.
//!
//! # Glossary
//!
//! - **step**: one instruction of a stage; a RUN step runs a command on the live rootfs
//! - **rootfs**: the merged tree of a stage: the base image below, what its steps wrote above
//! - **upper**: the directory in which overlayfs keeps what one step wrote
//! - **change**: what a step did to one path, as the layer of the step will say it
#![forbid(unsafe_code)]

pub mod diff;
pub mod exec;
pub mod rootfs;
