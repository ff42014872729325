//! Mounts that a test makes with mount(8), for disks that are small or read-only.

use std::path::PathBuf;
use std::process::Command;

use crate::skip::skip;

/// A mount that ends with its value.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// None, and a loud word, where this may not be done.
    pub(crate) fn new(target: PathBuf, args: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("needs root");
            return None;
        }
        let status = Command::new("mount").args(args).arg(&target).status().unwrap();
        if !status.success() {
            skip("may not mount");
            return None;
        }
        Some(Self(target))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(&self.0).status();
        assert!(status.unwrap().success(), "umount {}", self.0.display());
    }
}
