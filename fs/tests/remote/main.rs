//! Layers in a registry, on good days and bad ones: what is fetched, kept, and served.

#[path = "../../../tests/skip/mod.rs"]
mod skip;

mod disk;
mod fetching;
mod filling;
mod fixture;
mod mounted;
mod passthrough;
mod source;
mod traces;
