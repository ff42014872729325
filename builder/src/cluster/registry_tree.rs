//! The `registry/` of a cluster image: container images in the directory tree of the reference
//! registry (`docker-distribution`, "filesystem" storage driver, `registry/storage/paths.go`).
//!
//! ```text
//! registry/docker/registry/v2/
//!   blobs/sha256/<2 digits>/<digest>/data
//!   repositories/<name>/_layers/sha256/<digest>/link
//!   repositories/<name>/_manifests/revisions/sha256/<digest>/link
//!   repositories/<name>/_manifests/tags/<tag>/{current,index/sha256/<digest>}/link
//! ```
//!
//! A link holds the digest as text. Names have no registry's host: a cluster asks its own registry
//! for `library/nginx`, whatever registry the image came from.

mod entries;

use std::collections::BTreeSet;

use kfs_fs::digest::Digest;
use kfs_fs::oci::find::Wanted;
use kfs_fs::oci::manifest::{ImageConfig, Index, MAX_JSON, Manifest};

use super::files::{Files, FilesError, OpenFile};
pub use entries::{TreeFile, TreeImage, blob_path};

/// Where the tree starts in a cluster image.
pub const REGISTRY: &str = "registry";
const V2: &str = "docker/registry/v2";
/// Where the blobs are in a cluster image, by their digests.
pub(super) const BLOBS: &str = "registry/docker/registry/v2/blobs/";
/// A link is not longer than this, in bytes.
const MAX_LINK: u64 = 256;

/// How much of an image a repository has, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Not all that is needed.
    Part,
    /// An image, but one that says of itself that it is for another platform.
    OtherPlatform,
    /// All that is needed.
    Whole,
}

/// A tree to be read. What it holds is believed as far as it is checked by whoever reads it.
#[derive(Clone, Debug)]
pub struct RegistryTree<'a> {
    files: Files<'a>,
    /// The directory that has `docker/registry/v2`, with a slash; empty for the files' own root.
    base: String,
}

impl<'a> RegistryTree<'a> {
    /// The tree among these files: in `registry/`, or right there. `None` if there is none.
    pub fn find(files: Files<'a>) -> Result<Option<Self>, FilesError> {
        for base in [format!("{REGISTRY}/"), String::new()] {
            if files.is_directory(&format!("{base}{V2}"))? {
                return Ok(Some(Self { files, base }));
            }
        }
        Ok(None)
    }

    /// The names of all repositories that have a manifest, in order. Symlinks are not followed: no
    /// registry makes any, and they could go round in circles.
    pub fn repositories(&self) -> Result<BTreeSet<String>, FilesError> {
        let root = format!("{}{V2}/repositories", self.base);
        let mut found = BTreeSet::new();
        let mut open = vec![String::new()];
        while let Some(name) = open.pop() {
            for child in self.files.directories(&format!("{root}{name}"))? {
                if child == "_manifests" {
                    found.insert(name.trim_start_matches('/').to_owned());
                } else if !child.starts_with('_')
                    && !self.files.is_link(&format!("{root}{name}/{child}"))?
                {
                    open.push(format!("{name}/{child}"));
                }
            }
        }
        Ok(found)
    }

    /// The tags of a repository, in order; `None` if it is not there.
    pub fn tags(&self, name: &str) -> Result<Option<BTreeSet<String>>, FilesError> {
        let manifests = self.repository(name, "_manifests");
        if !self.files.is_directory(&manifests)? {
            return Ok(None);
        }
        Ok(Some(self.files.directories(&format!("{manifests}/tags"))?.into_iter().collect()))
    }

    /// The digest that a tag stands for.
    pub fn tagged(&self, name: &str, tag: &str) -> Result<Option<Digest>, FilesError> {
        self.link(&self.repository(name, &format!("_manifests/tags/{tag}/current/link")))
    }

    /// A manifest of a repository, at most `limit` bytes of it; `None` if the repository has it
    /// not. It is not verified.
    pub fn manifest(
        &self,
        name: &str,
        digest: Digest,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, FilesError> {
        let link = format!("_manifests/revisions/sha256/{}/link", digest.hex());
        if self.link(&self.repository(name, &link))? != Some(digest) {
            return Ok(None);
        }
        self.files.bytes_up_to(&self.blob_path(digest), limit)
    }

    /// A blob of a repository; `None` if the repository has it not.
    pub fn blob(&self, name: &str, digest: Digest) -> Result<Option<OpenFile<'a>>, FilesError> {
        let layer = self.repository(name, &format!("_layers/sha256/{}/link", digest.hex()));
        match self.link(&layer)? {
            Some(linked) if linked == digest => self.files.open(&self.blob_path(digest)),
            _ => Ok(None),
        }
    }

    /// Whether the tree has a blob of this size in bytes, of whichever repository.
    pub fn has_blob(&self, digest: Digest, size: u64) -> Result<bool, FilesError> {
        let blob = self.files.open(&self.blob_path(digest))?;
        Ok(blob.is_some_and(|blob| blob.size() == size))
    }

    /// How much a repository has of an image, of an index what these platforms need: manifests,
    /// which are verified, configs and layers, by their sizes.
    pub fn held(&self, name: &str, top: Digest, platforms: &[Wanted]) -> Result<Held, FilesError> {
        let Some(json) = self.verified(name, top)? else { return Ok(Held::Part) };
        let index = serde_json::from_slice::<Index>(&json).ok();
        let index = index.filter(|index| !index.manifests.is_empty());
        let mut held = Held::Whole;
        for platform in platforms {
            let of_platform = match &index {
                None => self.held_of_manifest(name, top, Some(platform))?,
                Some(index) => match platform.entry(index) {
                    Some(entry) => self.held_of_manifest(name, entry.digest, None)?,
                    None => Held::Part,
                },
            };
            held = held.min(of_platform);
        }
        Ok(held)
    }

    /// How much a repository has of a manifest and what it names, and whether it is for this
    /// platform.
    fn held_of_manifest(
        &self,
        name: &str,
        digest: Digest,
        platform: Option<&Wanted>,
    ) -> Result<Held, FilesError> {
        let Some(json) = self.verified(name, digest)? else { return Ok(Held::Part) };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&json) else {
            return Ok(Held::Part);
        };
        for blob in [&manifest.config].into_iter().chain(&manifest.layers) {
            let found = self.blob(name, blob.digest)?;
            if found.is_none_or(|found| found.size() != blob.size) {
                return Ok(Held::Part);
            }
        }
        let Some(platform) = platform else { return Ok(Held::Whole) };
        let config = self.files.bytes_up_to(&self.blob_path(manifest.config.digest), MAX_JSON)?;
        let config = config.and_then(|json| serde_json::from_slice::<ImageConfig>(&json).ok());
        Ok(match config {
            Some(config) if platform.fits_config(&config) => Held::Whole,
            Some(_) => Held::OtherPlatform,
            None => Held::Part,
        })
    }

    /// A manifest that is what its digest says.
    fn verified(&self, name: &str, digest: Digest) -> Result<Option<Vec<u8>>, FilesError> {
        let json = self.manifest(name, digest, MAX_JSON)?;
        Ok(json.filter(|json| Digest::of(json) == digest))
    }

    fn link(&self, path: &str) -> Result<Option<Digest>, FilesError> {
        let text = self.files.bytes_up_to(path, MAX_LINK)?.unwrap_or_default();
        Ok(std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()))
    }

    fn repository(&self, name: &str, rest: &str) -> String {
        format!("{}{V2}/repositories/{name}/{rest}", self.base)
    }

    fn blob_path(&self, digest: Digest) -> String {
        let hex = digest.hex();
        format!("{}{V2}/blobs/sha256/{}/{hex}/data", self.base, &hex[..2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_listed_without_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("registry/docker/registry/v2/repositories");
        for name in ["web", "library/nginx"] {
            std::fs::create_dir_all(root.join(name).join("_manifests")).unwrap();
        }
        for name in ["a", "b", "library/c"] {
            std::os::unix::fs::symlink(&root, root.join(name)).unwrap();
        }
        let tree = RegistryTree::find(Files::Directory(dir.path())).unwrap().unwrap();
        let names: Vec<String> = tree.repositories().unwrap().into_iter().collect();
        assert_eq!(names, ["library/nginx", "web"]);
    }

    #[test]
    fn an_image_that_does_not_say_its_platform_is_whole() {
        for (config, expected) in [
            (r#""x":0"#, Held::Whole),
            (r#""architecture":"","os":"linux""#, Held::Whole),
            (r#""architecture":"amd64","os":"linux""#, Held::Whole),
            (r#""architecture":"arm64","os":"linux""#, Held::OtherPlatform),
            (r#""architecture":0"#, Held::Part),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let config = format!(r#"{{{config},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#);
            let digest = Digest::of(config.as_bytes());
            let descriptor =
                format!(r#"{{"mediaType":"x","digest":"{digest}","size":{}}}"#, config.len());
            let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[]}}"#);
            let top = Digest::of(manifest.as_bytes());
            let (repository, tag) = ("a".to_owned(), Some("1".to_owned()));
            let image =
                TreeImage { repository, tag, top, manifests: vec![top], blobs: vec![digest] };
            for (path, file) in image.files() {
                let path = dir.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let content = match file {
                    TreeFile::Link(digest) => digest.to_string(),
                    TreeFile::Blob(blob) if blob == top => manifest.clone(),
                    TreeFile::Blob(_) => config.clone(),
                };
                std::fs::write(path, content).unwrap();
            }
            let tree = RegistryTree::find(Files::Directory(dir.path())).unwrap().unwrap();
            let platforms = ["linux/amd64".parse().unwrap()];
            assert_eq!(tree.held("a", top, &platforms).unwrap(), expected, "{config}");
        }
    }
}
