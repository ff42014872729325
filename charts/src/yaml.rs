//! YAML as Helm reads and writes it: that of `sigs.k8s.io/yaml`, which goes through JSON.
//!
//! So `yes` is true, `017` is fifteen, every number is a float, and keys are strings. The invariant
//! of `reader`: how much it makes of a text is bounded, whatever aliases it holds.

pub(crate) mod reader;
pub(crate) mod scalar;
pub(crate) mod writer;

pub(crate) use reader::read;
pub(crate) use writer::{Style, Unwritable, write};
