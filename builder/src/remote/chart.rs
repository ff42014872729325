//! A chart of a registry, as `helm push` stores it: an OCI artifact whose one layer is the chart's
//! archive (Helm, "Use OCI-based registries").

use std::io::Read;
use std::sync::Arc;

use kfs_fs::blob::{BlobReader, from_any_place};
use kfs_fs::digest::Digest;
use kfs_fs::oci::find::Pull;
use kfs_fs::oci::manifest::{Descriptor, Manifest};
use kfs_fs::oci::reference::Name;
use kfs_fs::oci::registry::Reference;
use kfs_fs::oci::store::{Expected, StoreError};
use serde::{Deserialize, Serialize};

use super::http::Interruptible;
use super::{Depot, RemoteError};

/// The media type of a chart's archive.
const CHART: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
/// What Helm takes for an archive, in bytes.
const MAX_CHART: u64 = 100 << 20;

/// What the build cache knows of a chart's name.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The archive, under the name by which `kfs prune` finds what a record needs.
    layer: Descriptor,
}

/// Brings a chart's archive into the store; returns its digest, which `checksum` demands. What was
/// fetched before is not fetched again; of a tag the registry is asked what it stands for.
pub(crate) fn fetch_chart(
    name: &Name,
    checksum: Option<Digest>,
    depot: Depot<'_>,
) -> Result<Digest, RemoteError> {
    let key = Digest::of(format!("kfs-chart-1\n{name}").as_bytes());
    let known = depot.cache.note::<Record>(key)?.map(|record| record.layer).filter(|layer| {
        let path = depot.writer.blob_path(layer.digest);
        path.metadata().is_ok_and(|metadata| metadata.len() == layer.size)
    });
    let lookup = depot.writer.lookup();
    let asks = name.digest().is_none() && lookup.pull != Pull::Never;
    if let Some(known) = &known
        && (!asks || checksum == Some(known.digest))
    {
        return checked(name, known.digest, checksum);
    }
    let client = lookup.registries.as_ref().filter(|_| lookup.pull != Pull::Never);
    let client = client.ok_or_else(|| RemoteError::NoClient(format!("oci://{name}")))?;
    let failed = |error| RemoteError::Registry { name: name.to_string(), source: Box::new(error) };
    let repository = client.repository(name).map_err(failed)?;
    let manifest = repository.manifest(&Reference::of(name)).map_err(failed)?;
    let layer = layer(name, &manifest.json)?;
    if !depot.writer.blob_path(layer.digest).exists() {
        let blob = Arc::new(repository.blob(layer.digest, layer.size));
        let stored = from_any_place(blob.as_ref(), StoreError::is_corrupt, || {
            let body: Box<dyn Read + Send> = Box::new(BlobReader::new(blob.clone()));
            let body = Interruptible { body, interrupts: depot.interrupts };
            depot.writer.put_blob(body, Expected::from(&layer), &format!("oci://{name}"))
        });
        depot.interrupts.check()?;
        stored?;
    }
    depot.cache.put_note(key, &Record { layer: layer.clone() })?;
    checked(name, layer.digest, checksum)
}

fn checked(name: &Name, found: Digest, checksum: Option<Digest>) -> Result<Digest, RemoteError> {
    match checksum {
        Some(expected) if expected != found => {
            Err(RemoteError::Checksum { url: format!("oci://{name}"), found, expected })
        }
        _ => Ok(found),
    }
}

/// The layer of a chart's manifest that is its archive.
fn layer(name: &Name, json: &[u8]) -> Result<Descriptor, RemoteError> {
    let no_chart = |reason: String| RemoteError::NoChart { name: name.to_string(), reason };
    let manifest: Manifest = serde_json::from_slice(json)
        .map_err(|error| no_chart(format!("its manifest is malformed: {error}")))?;
    let layer = manifest.layers.into_iter().find(|layer| layer.media_type == CHART);
    let kind = manifest.config.media_type;
    let layer = layer.ok_or_else(|| no_chart(format!("its config is of the type {kind}")))?;
    if layer.size > MAX_CHART {
        return Err(no_chart(format!("its archive has {} bytes", layer.size)));
    }
    Ok(Descriptor::new(CHART, layer.digest, layer.size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_charts_are_charts() {
        let name: Name = "r.io/a:1".parse().unwrap();
        let digest = Digest::of(b"x");
        let manifest = |media_type: &str, size: u64| {
            serde_json::json!({
                "schemaVersion": 2,
                "config": {"mediaType": "application/x", "digest": digest, "size": 2},
                "layers": [{"mediaType": media_type, "digest": digest, "size": size}],
            })
            .to_string()
        };
        let of = |json: &str| layer(&name, json.as_bytes());
        assert_eq!(of(&manifest(CHART, 7)).unwrap(), Descriptor::new(CHART, digest, 7));
        for (json, message) in [
            (manifest("application/y", 7), "its config is of the type application/x"),
            (manifest(CHART, 1 << 40), "its archive has 1099511627776 bytes"),
            ("{".to_owned(), "its manifest is malformed"),
        ] {
            let error = of(&json).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
