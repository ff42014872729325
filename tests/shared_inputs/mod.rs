//! Inputs that are not part of this repository: charts, build files and samples of others.

use std::path::{Path, PathBuf};

use crate::skip::skip;

/// A directory of them: in `$KFS_SHARED`, or in `shared` beside the repository. Where it is not at
/// hand, says so.
pub(crate) fn shared(what: &str) -> Option<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_repository = package.join("Cargo.lock").exists();
    let beside = package.join(if is_repository { "../shared" } else { "../../shared" });
    let root = std::env::var_os("KFS_SHARED").map_or(beside, PathBuf::from);
    let path = root.join(what);
    if !path.is_dir() {
        skip(format_args!("no shared inputs: {} is not there; set KFS_SHARED", path.display()));
        return None;
    }
    Some(path)
}
