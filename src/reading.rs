//! How the content of images is read, as the command line says.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use kfs_fs::cache::Cache;
use kfs_fs::content::Options;
use kfs_fs::oci::store::{Part, Store};

use crate::units::Size;

/// Options of commands that read images.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Registry options")]
pub(crate) struct ReadArgs {
    /// The most to keep on disk of layers in registries; 0: nothing [default: 10G, on a small disk
    /// a quarter of it]
    #[arg(long, value_name = "SIZE", env = "KFS_CACHE_SIZE", hide_env_values = true)]
    cache_size: Option<Size>,
}

impl ReadArgs {
    /// What these options mean for the store in this directory.
    pub(crate) fn options(&self, store: &Path) -> Options {
        let store = Store::open_readonly(store);
        let dir = store.dir(Part::Cache);
        let limit = self.cache_size.map_or_else(|| Cache::default_limit(&dir), |Size(size)| size);
        let cache = || Arc::new(Cache::new(&dir, &store.dir(Part::Indexes), limit));
        Options { cache: (limit > 0).then(cache), ..Options::default() }
    }

    /// The options for a process that reads in the place of this one.
    pub(crate) fn to_args(&self) -> Vec<OsString> {
        let size = self.cache_size.map(|Size(size)| size.to_string());
        size.map_or_else(Vec::new, |size| vec!["--cache-size".into(), size.into()])
    }
}
