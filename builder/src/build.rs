//! Builds an image: prepares the stages that it needs, runs them, several at a time where they do
//! not need each other, and puts the image together.
//!
//! ```text
//! plan ─ prepare (open bases, expand steps) ─ schedule ┬ stage ┬ steps ─┐
//!                                                      └ stage ┘        └ image
//! ```

mod app;
mod carry;
mod commit;
mod copying;
mod explain;
mod hidden;
mod image;
mod items;
mod mounts;
mod platform;
mod prepare;
mod report;
mod running;
mod schedule;
mod squash;
mod ssh;
mod steps;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use kfs_fs::content;
use kfs_fs::digest::Digest;
use kfs_fs::error::{AtPath, PathError};
use kfs_fs::filesystem::OpenError;
use kfs_fs::layer::writer::Compression;
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::manifest::Platform;
use kfs_fs::oci::reference::{Name, ReferenceError};
use kfs_fs::oci::store::{Store, StoreError};

use crate::cache::registry::PushedSteps;
use crate::cluster::extension::ImageType;
use crate::cluster::kubeconfig::Kubeconfig;
use crate::context::Context;
use crate::copy::{BadMode, CopyError, OwnerError};
use crate::exec::{Cgroup, CgroupError, Executor, Isolation, Limits, World};
use crate::interrupt::{Interrupted, Interrupts};
use crate::kubefile::lint::Level;
use crate::kubefile::{Instruction, KubefileError, Location};
use crate::plan::Plan;
use crate::rootfs::{self, RootfsError};
use crate::stage::StageError;
use prepare::Prepared;
use schedule::{Place, Site};

pub use carry::{CarryError, Collecting, Unfound};
pub use explain::{Change, Explanation};
pub use report::{BuildError, Event, Failed, StepError};

/// What to build, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where COPY takes files from.
    pub context: Context,
    /// `--build-context`: directories by their names, in lower case.
    pub contexts: BTreeMap<String, Context>,
    /// The name of the image, if it gets one.
    pub tag: Option<String>,
    /// Do every step anew.
    pub no_cache: bool,
    /// `--cache-from`: repositories of registries that are asked for steps.
    pub cache_from: Vec<Name>,
    /// `--cache-to`: repositories of registries that get the steps.
    pub cache_to: Vec<Name>,
    /// Tell why steps are found in the cache or not.
    pub explain: bool,
    /// What tells this build file and context from those of other builds, for `explain`.
    pub origin: String,
    /// How new layers are compressed.
    pub compression: Compression,
    /// How RUN is shut in.
    pub isolation: Isolation,
    /// The time that config, history and made directories get; none for the time at which each
    /// was made.
    pub timestamp: Option<SystemTime>,
    /// What the image is built for.
    pub target: Platform,
    /// What RUN sees beside the rootfs, and how much it may take. It is in no key but for the
    /// network.
    pub world: World,
    /// The most that all RUNs may take together. It is in no key.
    pub limits: Limits,
    /// `--label`: labels beside those of the file, and instead of them.
    pub labels: Vec<(String, String)>,
    /// `--mode local`: the cluster that RUN may use, and whose pods' images are carried as well.
    pub cluster: Option<Kubeconfig>,
    /// `--annotation`: of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// `--type`: what a cluster image is for.
    pub image_type: ImageType,
    /// Which container images the image carries; none for none but those of its base.
    pub collecting: Option<Collecting>,
    /// `--squash`: the new layers of all steps become one.
    pub squash: bool,
    /// `--base=false`: the image has the new layers alone.
    pub without_base: bool,
    /// `--secret`, by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// `--ssh`: sockets of agents, by their ids.
    pub ssh: BTreeMap<String, PathBuf>,
    /// How the content of images is read.
    pub reading: content::Options,
    /// What ends the build before its time.
    pub interrupts: Arc<Interrupts>,
}

/// Something that only a RUN is to see.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the config: Docker's image ID.
    pub id: Digest,
}

/// Is told what happens: the name of the stage (empty if only one is built), and the event.
pub type Report<'a> = dyn FnMut(&str, Event) + 'a;

/// Builds the image that a plan asks for, into a store. `report` is told what happens as it
/// happens.
///
/// If a RUN is in the plan, this process gets a mount namespace of its own, in which all mounts of
/// the build lie.
pub fn build(
    plan: &Plan,
    options: &Options,
    store: &Store,
    executor: &(dyn Executor + Sync),
    report: &mut Report<'_>,
) -> Result<Built, BuildError> {
    for warning in plan.warnings() {
        let text = warning.to_string();
        report(
            "",
            match warning.rule.level() {
                Level::Note => Event::Note(text),
                Level::Warning => Event::Warning(text),
            },
        );
    }
    let writer = store.writer()?;
    let prepared = Prepared::new(plan, options, store)?;
    let runs = prepared.instructions().any(|one| matches!(one, Instruction::Run(_)));
    let location = || plan.stages()[plan.target()].from().location.clone();
    let namespace = runs.then(rootfs::enter_guarded_namespace).transpose();
    let _namespace = namespace.map_err(|error| Failed::at(location(), StageError::from(error)))?;
    // Up to here there was nothing to tidy up.
    let hold = options.interrupts.hold().at("hold back signals of", Path::new("/proc/self"));
    hold.map_err(StoreError::from)?;
    let work = store.temp_dir()?;
    let cgroup = Cgroup::new(&options.limits)?;
    let place = Place { work: work.path(), cgroups: cgroup.directories() };
    let site = Site::new(plan, options, &prepared, &writer, executor, place);
    site.run(report)?;
    let carried = site.carry(report)?;
    let new = site.image(carried).map_err(|error| {
        let location = plan.stages()[plan.target()].from().location.clone();
        Failed::at(location, error)
    })?;
    let built = image::store(&writer, new, options.tag.as_deref())?;
    if let Some(PushedSteps { sent, there }) = site.cache.push()?
        && !options.cache_to.is_empty()
    {
        report("", Event::Note(format!("{sent} steps sent to the cache, {there} were there")));
    }
    Ok(built)
}
