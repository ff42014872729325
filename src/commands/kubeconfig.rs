//! Which kubeconfig is the current one.

use std::path::{Path, PathBuf};

/// Where installers of clusters leave the administrator's.
const ADMIN_CONFIGS: [&str; 2] = ["/etc/kubernetes/admin.conf", "/etc/rancher/k3s/k3s.yaml"];

/// The one that is given, else what kubectl finds, else what installers leave; none if there is no
/// such file.
pub(crate) fn files(given: Option<&Path>) -> Vec<PathBuf> {
    if let Some(file) = given {
        return vec![file.to_owned()];
    }
    if let Some(files) = std::env::var_os("KUBECONFIG").filter(|files| !files.is_empty()) {
        // As kubectl: those that are not there are passed over.
        return std::env::split_paths(&files).filter(|file| file.is_file()).collect();
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let admin = ADMIN_CONFIGS.iter().map(PathBuf::from);
    home.into_iter().chain(admin).find(|file| file.is_file()).into_iter().collect()
}
