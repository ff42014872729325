//! The words of Kubefiles that no Dockerfile has.

use super::Pair;

/// `APP [--checksum=DIGEST] NAME SOURCE... | CNI ... | CSI ...`
///
/// Names the files of an application; they go to `application/apps/NAME/`, what is in the archive
/// of a chart without the archive's directory. CNI and CSI say besides that it is a network or a
/// storage plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    /// One path component.
    pub name: String,
    /// At least one.
    pub sources: Vec<AppSource>,
    /// What the one source, which is not in the context, has to have for a digest.
    pub checksum: Option<String>,
}

/// Where files of an application come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppSource {
    /// `local://PATH`: a path in the context; not empty.
    Local(String),
    /// `http://` or `https://`: the whole URL.
    Remote(String),
    /// `oci://REGISTRY/NAME:VERSION`, without the `oci://`: a chart that Helm pushed.
    Chart(String),
}

/// `APPCMDS NAME ["LINE"...]`
///
/// Shell lines that start an application in the place of those that its kind implies; they run in
/// its directory, each only if those before it went well. The last APPCMDS of an application holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppCmds {
    /// The application.
    pub app: String,
    /// At least one.
    pub commands: Vec<String>,
}

/// `APPENV NAME KEY=VALUE...`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppEnv {
    /// The application.
    pub app: String,
    /// At least one.
    pub pairs: Vec<Pair>,
}

/// `CMDS ["LINE"...] | CMDS TEXT`
///
/// Shell lines with which a cluster image starts; plain text is one line. The last CMDS holds. Not
/// beside LAUNCH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmds {
    /// May be empty: nothing is started.
    pub commands: Vec<String>,
}

/// `LAUNCH ["NAME"...] | LAUNCH NAME...`
///
/// The applications with which a cluster image starts. Once in a stage, not beside CMD and CMDS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// At least one.
    pub apps: Vec<String>,
}

/// `KUBEVERSION RANGE`
///
/// The Kubernetes versions that the image is for, as a range of semantic versions: the label
/// `app.alpha.sealer.io/supported-kube-version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeVersion {
    /// Not empty.
    pub range: String,
}
