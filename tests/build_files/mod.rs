//! Finding build files.

use std::fs;
use std::path::{Path, PathBuf};

/// All build files below a directory, by their names.
pub(crate) fn build_files(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().to_lowercase();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if ["kubefile", "dockerfile", "sealfile"].iter().any(|it| name.starts_with(it)) {
                found.push(entry.path());
            }
        }
    }
    found
}
