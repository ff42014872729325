//! From a text in a manifest to the name of an image.

use std::fmt;
use std::str::FromStr;

use kfs_fs::oci::reference::{Name, ReferenceError};
use serde::{Serialize, Serializer};

/// An image as a cluster will ask for it: by Docker's rules, in full, tag and digest kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Registry, path, tag, digest: `docker.io/library/nginx:1.25@sha256:...`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Name> for ImageName {
    fn from(name: &Name) -> Self {
        let digest = name.digest().map(|digest| format!("@{digest}"));
        Self(name.canonical() + &digest.unwrap_or_default())
    }
}

impl FromStr for ImageName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        text.parse::<Name>().map(|name| Self::from(&name))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for ImageName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Reads a text that stands where an image's name belongs; `None` if there is none. The error says
/// why it is no name.
pub(super) fn read(text: &str) -> Result<Option<ImageName>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.contains("{{") {
        return Err("it is a template that only its installation fills in".to_owned());
    }
    if text.contains("$(") || text.contains("${") {
        return Err("it has variables that only its installation fills in".to_owned());
    }
    match text.parse::<ImageName>() {
        Ok(image) => Ok(Some(image)),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a text that can be read as a name, and is the value of a field for images, is hardly
/// anything else: it has a tag or digest, or a path that is not that of a picture.
pub(super) fn is_likely(text: &str) -> bool {
    let text = text.trim();
    let last = text.rsplit('/').next().unwrap_or_default();
    let pictures = [".gif", ".ico", ".jpeg", ".jpg", ".png", ".svg", ".webp"];
    let is_picture = pictures.iter().any(|end| last.ends_with(end));
    last.contains(':') || last.contains('@') || (text.contains('/') && !is_picture)
}

/// What stands behind the colon of a taint, where an image has its tag (Kubernetes).
const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "NoExecute", "PreferNoSchedule"];

/// Whether a text can be read as a name and has a tag or digest. A host with a port is none, nor
/// is a taint.
pub(super) fn is_full(text: &str) -> bool {
    let (path, last) = text.rsplit_once('/').unwrap_or(("", text));
    let is_host = path.is_empty() && last.split(':').next().is_some_and(is_host);
    let is_taint = last.rsplit(':').next().is_some_and(|end| TAINT_EFFECTS.contains(&end));
    last.contains([':', '@']) && !is_host && !is_taint && matches!(read(text), Ok(Some(_)))
}

/// Whether a name has a digest or a tag that looks like a version, and not like a port: `v1`,
/// `1.2-x`.
pub(super) fn is_versioned(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map_or("", |(_, tag)| tag);
    let starts = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let is_version =
        tag.strip_prefix('v').is_some_and(starts) || (starts(tag) && tag.contains('.'));
    last.contains('@') || is_version
}

/// Whether a text can be read as a name and starts with a registry's host.
pub(super) fn has_registry(text: &str) -> bool {
    text.split_once('/').is_some_and(|(first, _)| first.contains(':') || is_host(first))
        && matches!(read(text), Ok(Some(_)))
}

/// Whether this can only be a host, as Docker tells it.
fn is_host(text: &str) -> bool {
    text.contains('.') || text == "localhost"
}
