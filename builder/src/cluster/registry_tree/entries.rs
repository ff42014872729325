//! What an image is in the tree: its files, as the reference registry would have written them.

use std::collections::BTreeMap;

use kfs_fs::digest::Digest;

use super::{REGISTRY, V2};

/// An image to be put into a tree.
#[derive(Clone, Debug)]
pub struct TreeImage {
    /// Its repository, without the registry's host.
    pub repository: String,
    /// The tag, if its name has one.
    pub tag: Option<String>,
    /// What the tag stands for: the manifest, or the index of several.
    pub top: Digest,
    /// The manifests; of an index, those of the platforms that are wanted.
    pub manifests: Vec<Digest>,
    /// Configs and layers.
    pub blobs: Vec<Digest>,
}

/// What a file of the tree holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeFile {
    /// The digest, as text.
    Link(Digest),
    /// The blob.
    Blob(Digest),
}

impl TreeImage {
    /// The files, by their paths in a cluster image.
    pub fn files(&self) -> BTreeMap<String, TreeFile> {
        let repository = format!("{REGISTRY}/{V2}/repositories/{}", self.repository);
        let mut files = BTreeMap::new();
        let all = [self.top].into_iter().chain(self.manifests.iter().copied());
        for manifest in all {
            let hex = manifest.hex();
            let path = format!("{repository}/_manifests/revisions/sha256/{hex}/link");
            files.insert(path, TreeFile::Link(manifest));
            files.insert(blob_path(manifest), TreeFile::Blob(manifest));
        }
        for blob in &self.blobs {
            let path = format!("{repository}/_layers/sha256/{}/link", blob.hex());
            files.insert(path, TreeFile::Link(*blob));
            files.insert(blob_path(*blob), TreeFile::Blob(*blob));
        }
        if let Some(tag) = &self.tag {
            let tag = format!("{repository}/_manifests/tags/{tag}");
            let index = format!("{tag}/index/sha256/{}/link", self.top.hex());
            files.insert(format!("{tag}/current/link"), TreeFile::Link(self.top));
            files.insert(index, TreeFile::Link(self.top));
        }
        files
    }
}

/// Where a blob lies in a cluster image.
pub fn blob_path(digest: Digest) -> String {
    let hex = digest.hex();
    format!("{REGISTRY}/{V2}/blobs/sha256/{}/{hex}/data", &hex[..2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_files_that_the_reference_registry_writes() {
        let [top, manifest, layer] = ["top", "manifest", "layer"].map(|t| Digest::of(t.as_bytes()));
        let image = TreeImage {
            repository: "library/nginx".to_owned(),
            tag: Some("1.25".to_owned()),
            top,
            manifests: vec![manifest],
            blobs: vec![layer],
        };
        let files = image.files();
        let v2 = "registry/docker/registry/v2";
        let of = |digest: Digest| digest.hex();
        let nginx = format!("{v2}/repositories/library/nginx");
        let mut expected = vec![
            format!("{nginx}/_layers/sha256/{}/link", of(layer)),
            format!("{nginx}/_manifests/revisions/sha256/{}/link", of(manifest)),
            format!("{nginx}/_manifests/revisions/sha256/{}/link", of(top)),
            format!("{nginx}/_manifests/tags/1.25/current/link"),
            format!("{nginx}/_manifests/tags/1.25/index/sha256/{}/link", of(top)),
        ];
        for digest in [top, manifest, layer] {
            expected.push(format!("{v2}/blobs/sha256/{}/{}/data", &of(digest)[..2], of(digest)));
        }
        expected.sort();
        assert_eq!(files.keys().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
        assert_eq!(files[&blob_path(layer)], TreeFile::Blob(layer));
        let by_digest = TreeImage { tag: None, ..image };
        assert!(by_digest.files().keys().all(|path| !path.contains("/tags/")));
    }
}
