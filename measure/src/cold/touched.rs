//! What a command read of an image, as the trace that its mount kept has it.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use kfs_fs::content;
use kfs_fs::filesystem::ImageFs;
use kfs_fs::oci::Image;
use kfs_fs::oci::store::{Part, Store};
use kfs_fs::trace::Traces;
use serde::{Deserialize, Serialize};

use crate::MeasureError;

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Touched {
    /// Bytes of files, as the command saw them. A part that was read twice counts once.
    pub content_bytes: u64,
    /// What of the layers that needs, as it is stored there.
    pub stored_bytes: u64,
    /// The same by files, largest first. What several share counts for the first.
    pub paths: Vec<PathBytes>,
}

/// What was read of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathBytes {
    /// From the root, starting with a slash.
    pub path: String,
    /// Bytes of the file.
    pub content_bytes: u64,
    /// What of the layers that needs.
    pub stored_bytes: u64,
    /// Where that lies: the layer's place, and its bytes there.
    #[serde(skip)]
    pub ranges: Vec<(usize, Range<u64>)>,
}

/// What was read of an image through the mounts of a store; none if they kept no trace.
pub(super) fn of(store: &Path, image: &Image) -> Result<Option<Touched>, MeasureError> {
    let store = Store::open_readonly(store);
    let Some(trace) = Traces::new(&store.dir(Part::Traces)).load(image.digest)? else {
        return Ok(None);
    };
    // The indexes are there, so that no layer is read for this.
    let indexes = store.dir(Part::Indexes);
    let fs = ImageFs::open_with(image, &indexes, &|_| (), content::Options::default())?;
    let mut paths: BTreeMap<String, PathBytes> = BTreeMap::new();
    let mut counted: HashSet<(usize, Range<u64>)> = HashSet::new();
    for entry in &trace.entries {
        let of_path = paths.entry(entry.path.clone()).or_insert_with(|| PathBytes {
            path: entry.path.clone(),
            content_bytes: 0,
            stored_bytes: 0,
            ranges: Vec::new(),
        });
        of_path.content_bytes += entry.size;
        for range in fs.stored_ranges(entry)? {
            if counted.insert(range.clone()) {
                of_path.stored_bytes += range.1.end - range.1.start;
            }
            of_path.ranges.push(range);
        }
    }
    let mut paths: Vec<PathBytes> = paths.into_values().collect();
    paths.sort_by(|a, b| b.stored_bytes.cmp(&a.stored_bytes).then_with(|| a.path.cmp(&b.path)));
    Ok(Some(Touched {
        content_bytes: paths.iter().map(|path| path.content_bytes).sum(),
        stored_bytes: paths.iter().map(|path| path.stored_bytes).sum(),
        paths,
    }))
}
