//! How commands reach the current cluster, and which images its pods run.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kfs_fs::error::{AtPath as _, PathError};
use serde::Deserialize;

use crate::exec::{Isolation, Mount, MountSource, is_hidden};

/// Where a kubeconfig is that commands could not see where it lies.
const PLACE: &str = "/dev/kfs";
/// No kubeconfig is longer, in bytes.
const MAX_CONFIG: u64 = 4 << 20;
/// The list of all pods of a large cluster is shorter, in bytes.
const MAX_PODS: u64 = 512 << 20;

/// The files that say how clusters are reached, as kubectl has it, and as commands will see them.
#[derive(Clone, Debug, Default)]
pub struct Kubeconfig {
    files: Vec<PathBuf>,
    seen: Vec<PathBuf>,
    /// What has to be mounted for them.
    pub mounts: Vec<Mount>,
}

/// Why it is not known what runs on the cluster.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// kubectl cannot be run.
    #[error("run kubectl to see which images the cluster's pods run: {0}")]
    Kubectl(io::Error),
    /// kubectl fails.
    #[error("kubectl get pods: {0}")]
    Failed(String),
    /// It does not print what it should.
    #[error("kubectl get pods printed no list of pods: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Kubeconfig {
    /// These files for commands in this isolation. What they could not see they get as a copy, in
    /// which relative paths mean something else.
    pub fn new(files: &[PathBuf], isolation: Isolation) -> Result<Self, PathError> {
        let mut config = Self::default();
        for file in files {
            let path = file.canonicalize().at("open", file)?;
            let is_seen = match isolation {
                Isolation::None => true,
                Isolation::Host => !is_hidden(&path),
                Isolation::Auto | Isolation::Container => false,
            };
            if is_seen {
                config.seen.push(path.clone());
            } else {
                let target =
                    Path::new(PLACE).join(format!("kubeconfig-{}", config.files.len() + 1));
                config.seen.push(target.clone());
                config.mounts.push(Mount { target, source: copy(&path)? });
            }
            config.files.push(path);
        }
        Ok(config)
    }

    /// `KUBECONFIG` of the commands, if there is a file.
    pub fn variable(&self) -> Option<(OsString, OsString)> {
        joined(&self.seen).map(|value| ("KUBECONFIG".into(), value))
    }

    /// The images that the pods of the cluster run, in order, each once.
    pub fn images_of_pods(&self) -> Result<Vec<String>, PodsError> {
        let mut kubectl = Command::new("kubectl");
        kubectl.args(["get", "pods", "--all-namespaces", "--output=json", "--request-timeout=60s"]);
        kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        kubectl.envs(joined(&self.files).map(|value| ("KUBECONFIG", value)));
        let mut child = kubectl.spawn().map_err(PodsError::Kubectl)?;
        let mut errors = child.stderr.take().expect("it is piped");
        // What it says may be more than a pipe holds.
        let said = std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = errors.by_ref().take(MAX_CONFIG).read_to_end(&mut text);
            read.map(|_| String::from_utf8_lossy(&text).trim().to_owned())
        });
        let mut list = Vec::new();
        let stdout = child.stdout.take().expect("it is piped");
        stdout.take(MAX_PODS).read_to_end(&mut list).map_err(PodsError::Kubectl)?;
        let status = child.wait().map_err(PodsError::Kubectl)?;
        if !status.success() {
            let said = said.join().ok().and_then(Result::ok).unwrap_or_default();
            return Err(PodsError::Failed(if said.is_empty() { status.to_string() } else { said }));
        }
        images(&list)
    }
}

/// A file of the host as one in memory that only the commands see.
fn copy(path: &Path) -> Result<MountSource, PathError> {
    let mut content = Vec::new();
    let file = File::open(path).at("open", path)?;
    file.take(MAX_CONFIG).read_to_end(&mut content).at("read", path)?;
    Ok(MountSource::File { content, mode: 0o600, uid: 0, gid: 0 })
}

fn joined(files: &[PathBuf]) -> Option<OsString> {
    let files: Vec<&OsStr> = files.iter().map(|file| file.as_os_str()).collect();
    (!files.is_empty()).then(|| files.join(OsStr::new(":")))
}

/// The images in a list of pods (Kubernetes API v1, PodList).
fn images(list: &[u8]) -> Result<Vec<String>, PodsError> {
    #[derive(Deserialize)]
    struct Pods {
        items: Vec<Pod>,
    }
    #[derive(Deserialize)]
    struct Pod {
        #[serde(default)]
        spec: Spec,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Spec {
        init_containers: Vec<Container>,
        containers: Vec<Container>,
        ephemeral_containers: Vec<Container>,
    }
    #[derive(Deserialize)]
    struct Container {
        #[serde(default)]
        image: String,
    }
    let pods: Pods = serde_json::from_slice(list)?;
    let containers = pods.items.into_iter().flat_map(|pod| {
        let Spec { init_containers, containers, ephemeral_containers } = pod.spec;
        init_containers.into_iter().chain(containers).chain(ephemeral_containers)
    });
    let images: BTreeSet<String> = containers.map(|container| container.image).collect();
    Ok(images.into_iter().filter(|image| !image.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_containers_of_all_pods_have_images() {
        let list = serde_json::json!({"kind": "List", "items": [
            {"spec": {"containers": [{"image": "b:1"}, {"image": "a:1"}], "initContainers": [{"image": "c:1"}]}},
            {"spec": {"containers": [{"image": "a:1"}], "ephemeralContainers": [{"name": "x"}]}},
            {"metadata": {}},
        ]});
        assert_eq!(images(&serde_json::to_vec(&list).unwrap()).unwrap(), ["a:1", "b:1", "c:1"]);
        assert!(images(b"{}").is_err() && images(b"Error").is_err());
    }
}
