//! What `sealer inspect` tells of a cluster image (seed document 4, in the form that Sealer v0.11
//! has): manifest and config without what belongs to the cluster, and that by itself.

use std::collections::BTreeMap;

use kfs_fs::oci::Image;
use serde::Serialize;
use serde_json::{Value, json};

use super::extension::{
    CNI_LABEL, CSI_LABEL, ContainerImage, EXTENSION, Extension, IMAGES, Malformed, images,
};

/// A cluster image, by the names that Sealer's documents have.
#[derive(Debug, Serialize)]
pub struct ClusterDescription {
    /// The image's ID, hexadecimal.
    pub id: String,
    /// The manifest, without the annotations of cluster images.
    pub manifestv1: Value,
    /// The config, without labels.
    pub ociv1: Value,
    /// The extension, with the labels.
    #[serde(rename = "imageExtension")]
    pub extension: Extension,
    /// The container images that it carries.
    #[serde(rename = "containerImageList")]
    pub images: Vec<ContainerImage>,
}

/// Describes an image; `None` if it is no cluster image. `manifest` and `config` are its JSON, as
/// stored.
pub fn describe(
    image: &Image,
    manifest: &Value,
    config: &Value,
) -> Result<Option<ClusterDescription>, Malformed> {
    let annotations = &image.manifest.annotations;
    let Some(mut extension) = Extension::read(annotations)? else { return Ok(None) };
    let images = images(annotations)?;
    let labels = image.config.config.labels.iter();
    extension.labels.extend(collapsed(labels.map(|(key, value)| (&key[..], &value[..]))));
    let (mut manifestv1, mut ociv1) = (manifest.clone(), config.clone());
    if let Some(Value::Object(annotations)) = manifestv1.get_mut("annotations") {
        for name in [EXTENSION, IMAGES] {
            annotations.shift_remove(name);
        }
    }
    if let Some(Value::Object(config)) = ociv1.get_mut("config") {
        config.shift_remove("Labels");
    }
    let id = image.manifest.config.digest.hex();
    Ok(Some(ClusterDescription { id, manifestv1, ociv1, extension, images }))
}

/// Labels, those of plugins as one list for each kind.
fn collapsed<'l>(labels: impl Iterator<Item = (&'l str, &'l str)>) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    let mut lists = BTreeMap::<&str, Vec<&str>>::new();
    for (key, value) in labels {
        let plugin = [CNI_LABEL, CSI_LABEL]
            .into_iter()
            .find_map(|label| Some((label, key.strip_prefix(label)?.strip_prefix('-')?)));
        match plugin {
            Some((label, name)) => lists.entry(label).or_default().push(name),
            None => drop(kept.insert(key.to_owned(), value.to_owned())),
        }
    }
    for (label, mut names) in lists {
        names.sort_unstable();
        kept.insert(label.to_owned(), json!(names).to_string());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_plugins_become_lists() {
        let labels = [
            ("cluster.alpha.sealer.io/kube-cni-flannel", "true"),
            ("cluster.alpha.sealer.io/kube-cni-calico", "true"),
            ("cluster.alpha.sealer.io/kube-csi-x", "true"),
            ("a", "b"),
        ];
        let expected = [
            ("a", "b"),
            ("cluster.alpha.sealer.io/kube-cni", r#"["calico","flannel"]"#),
            ("cluster.alpha.sealer.io/kube-csi", r#"["x"]"#),
        ];
        let pair = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        assert_eq!(collapsed(labels.into_iter()), expected.map(pair).into());
    }
}
