//! YAML as Helm reads and writes it: that of `sigs.k8s.io/yaml`, which goes through JSON.
//!
//! So `yes` is true, `017` is fifteen, every number is a float, and keys are strings. The invariant
//! of `reader`: how much it makes of a text is bounded, whatever aliases it holds.

pub(crate) mod reader;
pub(crate) mod scalar;
pub(crate) mod writer;

use crate::{Error, json};

pub(crate) use reader::read;
pub(crate) use writer::{Style, Unwritable, write};

/// Bytes of JSON that the documents of a text come to: an alias of a long text is short.
const MAX_JSON: usize = 64 << 20;

/// The documents of a YAML text as Kubernetes reads them; empty ones are left out.
///
/// `name` is what errors call the text. Numbers are floats where they are not whole.
///
/// # Errors
///
/// If one is no YAML, or so big when aliases are followed that it is taken for an attack.
pub fn documents(name: &str, text: &str) -> Result<Vec<serde_json::Value>, Error> {
    let fault = |message| Error::Document { file: name.into(), message };
    let values = reader::read_all(text).map_err(fault)?;
    let mut documents = Vec::new();
    let mut left = MAX_JSON;
    for value in values.iter().filter(|value| !value.is_nil()) {
        let json = json::write(value, json::Style::Raw, left);
        let json = json.ok_or_else(|| fault("yaml: aliases make it too big".into()))?;
        left -= json.len();
        documents.push(serde_json::from_str(&json).map_err(|error| fault(error.to_string()))?);
    }
    Ok(documents)
}
