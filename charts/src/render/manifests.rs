//! What templates printed, cut into documents and sorted as Helm sorts them.

use super::{Rendered, Role};
use crate::value::{Map, Value};
use crate::{Error, yaml};

/// Kinds in the order in which they are installed; all others follow by name.
const INSTALL_ORDER: [&str; 38] = [
    "PriorityClass",
    "Namespace",
    "NetworkPolicy",
    "ResourceQuota",
    "LimitRange",
    "PodSecurityPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "Secret",
    "SecretList",
    "ConfigMap",
    "StorageClass",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "CustomResourceDefinition",
    "ClusterRole",
    "ClusterRoleList",
    "ClusterRoleBinding",
    "ClusterRoleBindingList",
    "Role",
    "RoleList",
    "RoleBinding",
    "RoleBindingList",
    "Service",
    "DaemonSet",
    "Pod",
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "StatefulSet",
    "Job",
    "CronJob",
    "IngressClass",
    "Ingress",
    "APIService",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
];

const EVENTS: [&str; 10] = [
    "pre-install",
    "post-install",
    "pre-delete",
    "post-delete",
    "pre-upgrade",
    "post-upgrade",
    "pre-rollback",
    "post-rollback",
    "test",
    "test-success",
];

/// The documents of texts that are named by their templates: manifests, then hooks.
pub(super) fn sorted(mut texts: Vec<(String, String)>) -> Result<Vec<Rendered>, Error> {
    texts.retain(|(source, _)| !source.ends_with("NOTES.txt"));
    texts.sort();
    let (mut manifests, mut hooks) = (Vec::new(), Vec::new());
    for (source, text) in &texts {
        for document in split(text) {
            let fault = |message| Error::Document { file: source.clone(), message };
            let head = yaml::read(document).and_then(|value| head(&value)).map_err(fault)?;
            let rendered =
                |role| Rendered { source: source.clone(), text: document.to_owned(), role };
            match head.hooks {
                None => manifests.push((head.kind, rendered(Role::Manifest))),
                Some(events) => {
                    let events = events.split(',').map(|event| event.trim().to_lowercase());
                    let events: Vec<String> = events.collect();
                    // Helm leaves out hooks on what it does not know.
                    if events.iter().all(|event| EVENTS.contains(&event.as_str())) {
                        hooks.push((head.kind, rendered(Role::Hook(events))));
                    }
                }
            }
        }
    }
    for documents in [&mut manifests, &mut hooks] {
        documents.sort_by_cached_key(|(kind, _)| {
            match INSTALL_ORDER.iter().position(|known| known == kind) {
                Some(rank) => (rank, String::new()),
                None => (INSTALL_ORDER.len(), kind.clone()),
            }
        });
    }
    Ok(manifests.into_iter().chain(hooks).map(|(_, rendered)| rendered).collect())
}

/// The parts of a text between three dashes at the start of a line, without empty ones.
fn split(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let text = text.trim_start();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if let Some(rest) = line.strip_prefix("---") {
            documents.push(&text[start..at]);
            let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
            start = at + 3 + blanks;
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    documents.retain(|document| !document.trim().is_empty());
    documents.iter().map(|document| document.trim_start()).collect()
}

/// What Helm reads of a document.
#[derive(Default)]
struct Head {
    kind: String,
    /// The hook annotation.
    hooks: Option<String>,
}

fn head(document: &Value) -> Result<Head, String> {
    let map = match document {
        Value::Nil => return Ok(Head::default()),
        Value::Map(map) => map,
        other => return Err(format!("the document is no map but a {}", other.kind_name())),
    };
    let kind = scalar(map, "kind")?.unwrap_or_default();
    scalar(map, "apiVersion")?;
    let Some(metadata) = below(map, "metadata")? else {
        return Ok(Head { kind, hooks: None });
    };
    scalar(&metadata, "name")?;
    let Some(annotations) = below(&metadata, "annotations")? else {
        return Ok(Head { kind, hooks: None });
    };
    for key in annotations.entries().keys() {
        scalar(&annotations, key)?;
    }
    Ok(Head { kind, hooks: scalar(&annotations, "helm.sh/hook")? })
}

fn below(map: &Map, key: &str) -> Result<Option<Map>, String> {
    match map.get(key) {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::Map(map)) => Ok(Some(map)),
        Some(other) => Err(format!("{key} is no map but a {}", other.kind_name())),
    }
}

/// A field that Helm reads as a string: other scalars will do.
fn scalar(map: &Map, key: &str) -> Result<Option<String>, String> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::Nil) => Ok(Some(String::new())),
        Some(Value::Text(text)) => Ok(Some(text.to_string())),
        Some(other @ (Value::Bool(_) | Value::Float(_))) => {
            let text = crate::value::format::value(&other, 100);
            Ok(Some(String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()))
        }
        Some(other) => Err(format!("{key} is no string but a {}", other.kind_name())),
    }
}
