//! Which blobs an image consists of.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;

use super::image::{self, ImageError, MAX_DEPTH};
use super::layout::Layout;
use super::manifest::{Descriptor, is_index, is_manifest};
use super::soci;
use crate::digest::Digest;

/// The blobs below a manifest or index, and itself: what is pointed to comes before what points
/// to it, each once. Manifests that an index lists but the layout lacks are left out: tools copy
/// one platform of several. Of a SOCI index there is what the layout has.
pub(crate) fn closure(layout: &Layout, top: &Descriptor) -> Result<Vec<Descriptor>, ImageError> {
    let mut blobs = claims(layout, top)?;
    let mut seen = HashSet::new();
    blobs.retain(|blob| seen.insert(blob.digest));
    Ok(blobs)
}

/// As [`closure`], and a blob of which several sizes are said is there with each of them: one at
/// most is right.
pub(crate) fn claims(layout: &Layout, top: &Descriptor) -> Result<Vec<Descriptor>, ImageError> {
    walk(layout, top, false)
}

/// As [`claims`], and manifests that an index lists but the layout lacks are fetched; that one
/// can be had nowhere is an error.
pub(crate) fn whole_closure(
    layout: &Layout,
    top: &Descriptor,
) -> Result<Vec<Descriptor>, ImageError> {
    walk(layout, top, true)
}

fn walk(layout: &Layout, top: &Descriptor, whole: bool) -> Result<Vec<Descriptor>, ImageError> {
    let mut walk = Walk { layout, whole, seen: HashMap::new(), blobs: Vec::new() };
    walk.visit(top, MAX_DEPTH)?;
    Ok(walk.blobs)
}

struct Walk<'a> {
    layout: &'a Layout,
    /// Whether all that an index lists is wanted.
    whole: bool,
    /// With the sizes that are said.
    seen: HashMap<Digest, HashSet<u64>>,
    blobs: Vec<Descriptor>,
}

/// What any kind of manifest may point to, artifacts included.
#[derive(Deserialize)]
struct Links {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Walk<'_> {
    fn visit(&mut self, descriptor: &Descriptor, depth: u32) -> Result<(), ImageError> {
        if self.seen.contains_key(&descriptor.digest) {
            return Ok(());
        }
        if is_index(&descriptor.media_type) {
            if depth == 0 {
                return Err(ImageError::TooDeep { digest: descriptor.digest });
            }
            for child in image::read_index(self.layout, descriptor)?.manifests {
                if self.whole {
                    self.layout.follow(descriptor.digest, child.digest)?;
                }
                if self.whole || self.layout.blob(child.digest)?.is_some() {
                    self.visit(&child, depth - 1)?;
                }
            }
        } else if is_manifest(&descriptor.media_type) {
            let json = self.layout.json(descriptor)?;
            let digest = descriptor.digest;
            let links: Links = serde_json::from_slice(&json)
                .map_err(|source| ImageError::Json { what: "manifest", digest, source })?;
            let all = links.config.into_iter().chain(links.layers.into_iter().flatten());
            for blob in all.chain(links.blobs.into_iter().flatten()) {
                self.push(blob);
            }
            for blob in soci::blobs(self.layout, &links.annotations.unwrap_or_default()) {
                self.push(blob);
            }
        }
        self.push(descriptor.clone());
        Ok(())
    }

    fn push(&mut self, descriptor: Descriptor) {
        if self.seen.entry(descriptor.digest).or_default().insert(descriptor.size) {
            self.blobs.push(descriptor);
        }
    }
}
