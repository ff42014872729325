//! Cluster images: what makes an image of files one that installs a Kubernetes cluster, or
//! applications on one, without the internet.

pub mod app;
pub mod collect;
pub mod describe;
pub mod extension;
pub mod files;
pub mod kube_version;
pub mod kubeconfig;
pub mod launch;
pub mod merge;
pub mod registry_tree;
pub mod run;
pub mod serve;
pub mod template;
