//! Kubefile in, image out.
//!
//! # Glossary
//!
//! - **instruction**: one typed command of a build file; a **statement** is it and its lines
//! - **stage**: a FROM and the statements up to the next FROM
//! - **step**: a statement of the stage that is built, with its variables expanded
//! - **context**: the directory whose files COPY may take
//! - **item**: one file, directory or link that a COPY puts into a layer
#![forbid(unsafe_code)]

pub mod config;
pub mod copy;
pub mod kubefile;
pub mod plan;
