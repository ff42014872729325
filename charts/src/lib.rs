//! Helm charts rendered in-process: what `helm template` prints, without Helm.
//!
//! [`Chart::load`] reads a chart, [`render()`] makes its documents, [`render_text`] runs a single
//! template. Correct means: the documents that Helm 4.3 prints. What a template may use is
//! bounded, and nothing outside of the chart is read. What is random in Helm is random here too,
//! but no keys or certificates are made: placeholders that say so stand in their places.
//!
//! # Glossary
//!
//! - **template**: a text of Go's template language, most often a file of `templates/`
//! - **value**: what templates compute with, in Go's terms
//! - **values**: a chart's settings: its own under those that are given
//! - **coalescing**: how values of charts and of the charts in them become one map
//! - **document**: one YAML document of a rendered template

#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

mod chart;
mod encoding;
mod error;
mod functions;
mod json;
mod render;
mod template;
mod value;
mod values;
mod yaml;

pub use chart::Chart;
pub use error::Error;
pub use render::{Options, Rendered, Role, render, render_text, to_text};
pub use template::{Limits, Stop};
pub use values::{merge_values, parse_values, set_values};
pub use yaml::documents;
