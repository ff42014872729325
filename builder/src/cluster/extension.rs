//! What a cluster image's manifest says of it, in the annotations that Sealer reads and writes
//! (`pkg/define/image/v1` of Sealer v0.11): its type, its applications, and how they are launched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::app::Application;

/// The annotation with an [`Extension`].
pub const EXTENSION: &str = "sealer.image.extension";
/// The annotation with a list of [`ContainerImage`].
pub const IMAGES: &str = "sealer.image.container.images";
/// The label that says which Kubernetes versions an image is for.
pub const KUBE_VERSION_LABEL: &str = "app.alpha.sealer.io/supported-kube-version";
/// The label of a network plugin, before a hyphen and its name.
pub const CNI_LABEL: &str = "cluster.alpha.sealer.io/kube-cni";
/// The label of a storage plugin, before a hyphen and its name.
pub const CSI_LABEL: &str = "cluster.alpha.sealer.io/kube-csi";
/// The only version of the schema.
const SCHEMA: &str = "v1alpha1";

/// What an image is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageType {
    /// It brings a cluster.
    #[default]
    KubeInstaller,
    /// It brings applications to a cluster that there is.
    AppInstaller,
}

/// How an image is launched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Shell lines (CMDS and CMD).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cmds: Vec<String>,
    /// Applications (LAUNCH).
    #[serde(default, rename = "app_names", skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<String>,
}

/// The extension of an OCI image that makes it a cluster image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    /// Who built the image: names and versions.
    #[serde(default)]
    pub build_client: BTreeMap<String, Value>,
    /// `v1alpha1`.
    #[serde(default)]
    pub schema_version: String,
    /// What the image is for.
    #[serde(rename = "type", default)]
    pub image_type: ImageType,
    /// Applications, its own and its bases', by name.
    #[serde(default)]
    pub applications: Vec<Application>,
    /// Labels of the cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Environment of all applications.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How it is launched.
    #[serde(default)]
    pub launch: Launch,
}

/// A container image that a cluster image carries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerImage {
    /// Its name.
    pub image: String,
    /// The application that it was found in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub app_name: String,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<ImagePlatform>,
}

/// A platform as Sealer writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImagePlatform {
    /// `amd64`, ...
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v8`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// An annotation that does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[error("annotation {annotation} is malformed: {source}")]
pub struct Malformed {
    annotation: &'static str,
    source: serde_json::Error,
}

/// Why applications cannot be launched.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LaunchError {
    /// LAUNCH names something that there is not.
    #[error("there is no application {name:?}; there are: {}", known.join(", "))]
    NoApplication {
        /// What was named.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Neither its files nor APPCMDS say how an application starts.
    #[error("nothing says how application {0:?} is started: add APPCMDS {0} [\"COMMAND\"]")]
    NoCommand(String),
}

impl Extension {
    /// Reads an image's annotations; `None` if it is no cluster image.
    pub fn read(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, Malformed> {
        annotations.get(EXTENSION).map(|text| parse(EXTENSION, text)).transpose()
    }

    /// What a new image has from its base: the applications, in the order of their names, and
    /// their environment. LAUNCH and CMDS are not inherited.
    pub fn of_base(base: Option<Self>) -> Self {
        let Self { mut applications, env, .. } = base.unwrap_or_default();
        applications.sort_by(|one, two| one.name.cmp(&two.name));
        applications.dedup_by(|one, two| one.name == two.name);
        Self { schema_version: SCHEMA.to_owned(), applications, env, ..Self::default() }
    }

    /// Adds an application, or puts it in the place of one of its name. They stay in the order of
    /// their names.
    pub fn put(&mut self, application: Application) {
        match self.applications.binary_search_by(|a| a.name.cmp(&application.name)) {
            Ok(at) => self.applications[at] = application,
            Err(at) => self.applications.insert(at, application),
        }
    }

    /// The application of this name.
    pub fn application(&mut self, name: &str) -> Option<&mut Application> {
        self.applications.iter_mut().find(|application| application.name == name)
    }

    /// The applications of a launch: those that are `chosen`, or else those that LAUNCH names.
    pub fn launched(&self, chosen: &[String]) -> Result<Vec<&Application>, LaunchError> {
        let names = if chosen.is_empty() { &self.launch.apps } else { chosen };
        let known = || self.applications.iter().map(|app| app.name.clone()).collect();
        let find = |name: &String| {
            let app = self.applications.iter().find(|app| app.name == *name);
            app.ok_or_else(|| LaunchError::NoApplication { name: name.clone(), known: known() })
        };
        names.iter().map(find).collect()
    }

    /// The shell lines of a launch: of the applications `chosen`, or else of those that LAUNCH
    /// names.
    pub fn commands(&self, chosen: &[String]) -> Result<Vec<String>, LaunchError> {
        self.launched(chosen)?.into_iter().map(Self::command_of).collect()
    }

    /// The shell line that starts an application.
    pub fn command_of(app: &Application) -> Result<String, LaunchError> {
        app.command().ok_or_else(|| LaunchError::NoCommand(app.name.clone()))
    }

    /// The annotation's value.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and maps of them")
    }
}

/// Reads the container images that an image's annotations list.
pub fn images(annotations: &BTreeMap<String, String>) -> Result<Vec<ContainerImage>, Malformed> {
    annotations.get(IMAGES).map_or(Ok(Vec::new()), |text| parse(IMAGES, text))
}

fn parse<T: for<'a> Deserialize<'a>>(annotation: &'static str, text: &str) -> Result<T, Malformed> {
    serde_json::from_str(text).map_err(|source| Malformed { annotation, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Sealer v0.11 writes it.
    const SEALERS: &str = r#"{"buildClient":{"sealerVersion":"v0.11.0","buildahVersion":"1.27.1"},
        "schemaVersion":"v1alpha1","type":"app-installer",
        "applications":[{"name":"b","type":"shell","files":["one.sh"],"version":"v1"},
                        {"name":"a","type":"helm","files":["a"],"version":"v1","env":{"K":"V"}}],
        "labels":{"x":"y"},"env":{"E":"F"},"launch":{"app_names":["b"]}}"#;

    fn sealers() -> Extension {
        let annotations = [(EXTENSION.to_owned(), SEALERS.to_owned())].into();
        Extension::read(&annotations).unwrap().unwrap()
    }

    #[test]
    fn what_sealer_writes_is_read_and_written_again() {
        let extension = sealers();
        assert_eq!(extension.image_type, ImageType::AppInstaller);
        assert_eq!(extension.commands(&[]).unwrap(), ["bash application/apps/b/one.sh"]);
        let expected: Value = serde_json::from_str(SEALERS).unwrap();
        let written: Value = serde_json::from_str(&extension.to_json()).unwrap();
        assert_eq!(written, expected);
    }

    #[test]
    fn an_image_has_the_applications_of_its_base_but_launches_its_own() {
        let mut extension = Extension::of_base(Some(sealers()));
        assert!(extension.launch.apps.is_empty() && extension.labels.is_empty());
        let redefined = Application::of_files("a", &["x.yaml".to_owned()]);
        extension.put(redefined.clone());
        extension.put(Application { name: "c".to_owned(), ..Application::default() });
        assert_eq!(extension.application("a"), Some(&mut redefined.clone()));
        extension.launch.apps = vec!["a".to_owned(), "c".to_owned()];
        assert_eq!(extension.commands(&[]), Err(LaunchError::NoCommand("c".to_owned())));
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let error = extension.commands(&names(&["zz"])).unwrap_err();
        assert!(
            error.to_string().starts_with("there is no application \"zz\"; there are: "),
            "{error}"
        );
    }

    #[test]
    fn a_broken_annotation_is_named() {
        let annotations = [(EXTENSION.to_owned(), "{".to_owned())].into();
        let error = Extension::read(&annotations).unwrap_err().to_string();
        assert!(error.starts_with("annotation sealer.image.extension is malformed"), "{error}");
        assert_eq!(images(&BTreeMap::new()).unwrap(), []);
    }
}
