//! The finished image: manifest and config put together and stored under its name.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kfs_fs::oci::manifest::{CONFIG, Descriptor, History, ImageConfig, MANIFEST, Manifest};
use kfs_fs::oci::store::{StoreError, Writer};
use kfs_fs::oci::{Image, Layer};

use super::{BuildError, Built};

/// What an image is made of.
pub(super) struct New<'a> {
    pub(super) base: Option<&'a Image>,
    pub(super) layers: Vec<Layer>,
    pub(super) config: ImageConfig,
    pub(super) history: Vec<History>,
    /// Of the manifest.
    pub(super) annotations: BTreeMap<String, String>,
    /// When the build began.
    pub(super) now: SystemTime,
    /// Whether nothing may have another time than `now`.
    pub(super) fixed_time: bool,
}

/// Stores an image whose new layers are known to the store already; of the base, the layers that it
/// can neither read nor fetch later are copied.
pub(super) fn store(writer: &Writer, new: New<'_>, tag: Option<&str>) -> Result<Built, BuildError> {
    let base_layers = new.base.map_or(&[][..], |base| &base.layers);
    for layer in base_layers {
        // What a registry has stays there until it is read.
        let remotes = writer.remotes(layer.descriptor.digest).map_err(StoreError::from)?;
        if remotes.is_empty() {
            writer.take_in(layer)?;
        }
    }
    let all = || base_layers.iter().chain(&new.layers);
    let now = humantime::format_rfc3339(new.now).to_string();
    let mut config = new.config;
    config.rootfs.diff_ids = all().map(|layer| layer.diff_id).collect();
    let old = config.history.len();
    config.history.extend(new.history);
    if new.fixed_time {
        config.history[old..].iter_mut().for_each(|step| step.created = Some(now.clone()));
    } else {
        fill_times(&mut config.history, &now);
    }
    config.created = config.history.last().and_then(|step| step.created.clone()).or(Some(now));
    let config = serde_json::to_vec(&config).expect("strings, numbers and lists");
    let id = writer.put_bytes(&config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: Descriptor::of(CONFIG, &config),
        layers: all().map(|layer| layer.descriptor.in_oci_terms()).collect(),
        annotations: new.annotations,
    };
    let manifest = serde_json::to_vec(&manifest).expect("strings, numbers and lists");
    let digest = writer.add_image(tag, &manifest, MANIFEST)?;
    Ok(Built { digest, id })
}

/// Gives steps without a layer a time: that of the layer before, and those before the first new
/// layer the time of that one. So an image whose steps were all done before is the same image
/// again (BuildKit does it so too).
fn fill_times(history: &mut [History], now: &str) {
    let first = history.iter().position(|step| step.created.is_none()).unwrap_or(history.len());
    let (old, new) = history.split_at_mut(first);
    let time_of = |step: &History| step.created.clone();
    let first_new = new.iter().find_map(time_of);
    let mut time = first_new.or_else(|| old.iter().rev().find_map(time_of));
    for step in new {
        match &step.created {
            Some(created) => time = Some(created.clone()),
            None => step.created = Some(time.clone().unwrap_or_else(|| now.to_owned())),
        }
    }
}
