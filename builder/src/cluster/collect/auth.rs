//! Sealer's list of images with credentials, `imageListWithAuth.yaml`: a list of registries, each
//! with a user, a password and the images to be had with them.

use std::fmt;

use serde::Deserialize;

/// The parts of a list.
#[derive(Clone, Debug, Default)]
pub struct ListWithAuth {
    /// One an item.
    pub registries: Vec<RegistryImages>,
}

/// Images of one registry, and who may have them.
#[derive(Clone, Deserialize)]
pub struct RegistryImages {
    /// Host, and port if there is one; where it lacks, the images' own.
    #[serde(default)]
    pub registry: Option<String>,
    /// The user.
    #[serde(default)]
    pub username: String,
    /// The password.
    #[serde(default)]
    password: String,
    /// The images.
    #[serde(default)]
    pub images: Vec<String>,
}

impl RegistryImages {
    /// The password. It is not shown by `Debug`.
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for RegistryImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RegistryImages");
        shown
            .field("registry", &self.registry)
            .field("images", &self.images)
            .finish_non_exhaustive()
    }
}

impl ListWithAuth {
    /// All images of the list.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.registries.iter().flat_map(|registry| registry.images.iter().map(String::as_str))
    }
}

/// A list that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct AuthListError {
    file: String,
    reason: &'static str,
}

/// Reads a list; `file` is for messages.
pub fn parse(file: &str, text: &str) -> Result<ListWithAuth, AuthListError> {
    // The parser's words may hold the line, and with it the password: they are not told.
    let wrong = || AuthListError {
        file: file.to_owned(),
        reason: "expected a list of items with registry, username, password and images",
    };
    let mut documents = kfs_charts::documents(file, text).map_err(|_| wrong())?;
    match documents.pop() {
        None => Ok(ListWithAuth::default()),
        Some(list) if documents.is_empty() => {
            let registries = serde_json::from_value(list).map_err(|_| wrong())?;
            Ok(ListWithAuth { registries })
        }
        Some(_) => Err(wrong()),
    }
}
