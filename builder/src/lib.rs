//! Kubefile in, image out.
#![forbid(unsafe_code)]
