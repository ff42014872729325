//! `.Capabilities`: what the cluster is taken to be.

use std::rc::Rc;

use crate::value::{Entries, List, Map, Object, Value};

/// What Helm 4.3 knows by itself.
const API_VERSIONS: &str = "v1 admissionregistration.k8s.io/v1 \
    admissionregistration.k8s.io/v1alpha1 admissionregistration.k8s.io/v1beta1 \
    internal.apiserver.k8s.io/v1alpha1 apps/v1 apps/v1beta1 apps/v1beta2 \
    authentication.k8s.io/v1 authentication.k8s.io/v1alpha1 authentication.k8s.io/v1beta1 \
    authorization.k8s.io/v1 authorization.k8s.io/v1beta1 autoscaling/v1 autoscaling/v2 batch/v1 \
    batch/v1beta1 certificates.k8s.io/v1 certificates.k8s.io/v1beta1 \
    certificates.k8s.io/v1alpha1 coordination.k8s.io/v1alpha2 coordination.k8s.io/v1beta1 \
    coordination.k8s.io/v1 discovery.k8s.io/v1 discovery.k8s.io/v1beta1 events.k8s.io/v1 \
    events.k8s.io/v1beta1 extensions/v1beta1 flowcontrol.apiserver.k8s.io/v1 \
    flowcontrol.apiserver.k8s.io/v1beta1 flowcontrol.apiserver.k8s.io/v1beta2 \
    flowcontrol.apiserver.k8s.io/v1beta3 lifecycle.k8s.io/v1alpha1 networking.k8s.io/v1 \
    networking.k8s.io/v1beta1 node.k8s.io/v1 node.k8s.io/v1alpha1 node.k8s.io/v1beta1 policy/v1 \
    policy/v1beta1 rbac.authorization.k8s.io/v1 rbac.authorization.k8s.io/v1beta1 \
    rbac.authorization.k8s.io/v1alpha1 resource.k8s.io/v1 resource.k8s.io/v1beta2 \
    resource.k8s.io/v1beta1 resource.k8s.io/v1alpha3 scheduling.k8s.io/v1alpha3 \
    scheduling.k8s.io/v1beta1 scheduling.k8s.io/v1 storage.k8s.io/v1beta1 storage.k8s.io/v1 \
    storage.k8s.io/v1alpha1 storagemigration.k8s.io/v1 storagemigration.k8s.io/v1beta1 \
    apiextensions.k8s.io/v1beta1 apiextensions.k8s.io/v1";

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let entries = entries.into_iter().map(|(key, value)| (key.into(), value));
    Value::Map(Map::from(entries.collect::<Entries>()))
}

#[derive(Debug)]
pub(super) struct Capabilities {
    kube_version: Rc<KubeVersion>,
    api_versions: Rc<ApiVersions>,
}

impl Capabilities {
    pub(super) fn new(kube_version: KubeVersion, api_versions: &[String]) -> Capabilities {
        let known = API_VERSIONS.split_ascii_whitespace().map(str::to_owned);
        let api_versions = ApiVersions(known.chain(api_versions.iter().cloned()).collect());
        Capabilities { kube_version: Rc::new(kube_version), api_versions: Rc::new(api_versions) }
    }

    fn helm_version() -> Value {
        // Of the Helm that documents are compared with.
        map([
            ("Version", "v4.3.1".into()),
            ("GitCommit", "c0d08d0d6d9424d4a14febb5e8a3e51b0dd00dff".into()),
            ("GitTreeState", "clean".into()),
            ("GoVersion", "go1.27.2".into()),
            ("KubeClientVersion", "v1.37".into()),
        ])
    }
}

impl Object for Capabilities {
    fn type_name(&self) -> &'static str {
        "*common.Capabilities"
    }

    fn kind(&self) -> &'static str {
        "ptr"
    }

    fn field(&self, name: &str) -> Option<Value> {
        Some(match name {
            "KubeVersion" => Value::Object(self.kube_version.clone()),
            "APIVersions" => Value::Object(self.api_versions.clone()),
            "HelmVersion" => Capabilities::helm_version(),
            _ => return None,
        })
    }

    fn call(&self, _: &str, _: &[Value]) -> Option<Result<Value, String>> {
        None
    }

    fn plain(&self) -> Value {
        map([
            ("KubeVersion", self.kube_version.plain()),
            ("APIVersions", self.api_versions.plain()),
            ("HelmVersion", Capabilities::helm_version()),
        ])
    }
}

#[derive(Debug)]
pub(super) struct KubeVersion {
    /// As it was given, with a `v`.
    pub(super) version: String,
    /// Numbers only.
    pub(super) normalized: String,
    major: String,
    minor: String,
}

impl Default for KubeVersion {
    fn default() -> KubeVersion {
        KubeVersion::parse("v1.37.0").expect("a version")
    }
}

impl KubeVersion {
    /// A version of at least two numbers, with anything behind them.
    pub(super) fn parse(text: &str) -> Option<KubeVersion> {
        let bare = text.strip_prefix('v').unwrap_or(text);
        let end = bare.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(bare.len());
        let numbers = bare[..end].trim_end_matches('.');
        let parts = numbers.split('.').map(|part| part.parse::<u32>().ok());
        let parts = parts.collect::<Option<Vec<u32>>>()?;
        let [major, minor, ..] = parts.as_slice() else {
            return None;
        };
        Some(KubeVersion {
            version: format!("v{bare}"),
            normalized: format!("v{numbers}"),
            major: major.to_string(),
            minor: minor.to_string(),
        })
    }
}

impl Object for KubeVersion {
    fn type_name(&self) -> &'static str {
        "common.KubeVersion"
    }

    fn field(&self, name: &str) -> Option<Value> {
        Some(match name {
            "Version" => self.version.as_str().into(),
            "Major" => self.major.as_str().into(),
            "Minor" => self.minor.as_str().into(),
            _ => return None,
        })
    }

    fn call(&self, method: &str, _: &[Value]) -> Option<Result<Value, String>> {
        match method {
            "GitVersion" => Some(Ok(self.version.as_str().into())),
            "String" => Some(Ok(self.normalized.as_str().into())),
            _ => None,
        }
    }

    fn plain(&self) -> Value {
        map([
            ("Version", self.version.as_str().into()),
            ("Major", self.major.as_str().into()),
            ("Minor", self.minor.as_str().into()),
        ])
    }

    fn text(&self) -> Option<String> {
        Some(self.normalized.clone())
    }
}

#[derive(Debug)]
struct ApiVersions(Vec<String>);

impl Object for ApiVersions {
    fn type_name(&self) -> &'static str {
        "common.VersionSet"
    }

    fn kind(&self) -> &'static str {
        "slice"
    }

    fn field(&self, _: &str) -> Option<Value> {
        None
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        if method != "Has" {
            return None;
        }
        Some(match arguments {
            [Value::Text(version)] => Ok(self.0.iter().any(|known| **known == **version).into()),
            [other] => Err(format!("expected string; got {}", other.type_name())),
            _ => Err(format!("wrong number of args: want 1 got {}", arguments.len())),
        })
    }

    fn plain(&self) -> Value {
        Value::List(List::texts(&self.0))
    }
}
