//! What is done before the first step: which stages are needed, in which order; their bases are
//! found and checked, and their variables expanded. So a mistake in the last line, or a base that
//! is not there, is told before the first RUN.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kfs_fs::content;
use kfs_fs::filesystem::ImageFs;
use kfs_fs::oci::find::Lookup;
use kfs_fs::oci::manifest::ImageConfig;
use kfs_fs::oci::reference::{ReferenceError, Source as ImageSource};
use kfs_fs::oci::store::{Part, Store};
use kfs_fs::oci::{self, Image};

use super::app::check_names;
use super::platform::Wanted;
use super::{BuildError, Event, Failed, Options, StepError};
use crate::cluster::extension::{Extension, Malformed};
use crate::kubefile::{Instruction, KubefileError, Location, Problem};
use crate::plan::{Base, Expanded, Origin, Plan};

/// An image that is read from; its layers are opened when they are first needed.
#[derive(Debug)]
pub(super) struct BaseImage {
    pub(super) image: Image,
    indexes: PathBuf,
    reading: content::Options,
    fs: Mutex<Option<Arc<ImageFs>>>,
}

impl BaseImage {
    /// What makes it a cluster image, if it is one.
    pub(super) fn extension(&self) -> Result<Option<Extension>, Malformed> {
        Extension::read(&self.image.manifest.annotations)
    }

    /// The image as a file system. Stages that ask at the same time wait for the first one.
    pub(super) fn open(&self, report: &mut dyn FnMut(Event)) -> Result<Arc<ImageFs>, StepError> {
        let mut fs = self.fs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fs) = &*fs {
            return Ok(fs.clone());
        }
        let read = AtomicU64::new(0);
        let count = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        };
        let opened =
            Arc::new(ImageFs::open_with(&self.image, &self.indexes, &count, self.reading.clone())?);
        let bytes = read.into_inner();
        if bytes > 0 {
            report(Event::Indexed { bytes });
        }
        Ok(fs.insert(opened).clone())
    }
}

/// A stage that is to be built.
#[derive(Debug)]
pub(super) struct ReadyStage {
    /// None for scratch, or if it begins with another stage.
    pub(super) base: Option<Arc<BaseImage>>,
    /// The config of the base.
    pub(super) base_config: ImageConfig,
    pub(super) expanded: Expanded,
    /// The images that its steps take files from, by the name as written.
    pub(super) images: BTreeMap<String, Arc<BaseImage>>,
    /// The applications that it has in the end, by their names.
    apps: BTreeSet<String>,
    /// The stages that have to be there before it begins.
    pub(super) needs: Vec<usize>,
}

/// The stages that are needed.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) stages: BTreeMap<usize, ReadyStage>,
    /// Each after those that it needs.
    pub(super) order: Vec<usize>,
}

impl Prepared {
    pub(super) fn new(plan: &Plan, options: &Options, store: &Store) -> Result<Self, BuildError> {
        let mut preparation = Preparation {
            plan,
            options,
            store,
            images: BTreeMap::new(),
            open: Vec::new(),
            prepared: Self { stages: BTreeMap::new(), order: Vec::new() },
        };
        let location = plan.stages()[plan.target()].from().location.clone();
        preparation.stage(plan.target(), &location)?;
        Ok(preparation.prepared)
    }

    /// All instructions that will be executed.
    pub(super) fn instructions(&self) -> impl Iterator<Item = &Instruction> {
        self.stages.values().flat_map(|stage| &stage.expanded.steps).map(|step| &step.instruction)
    }
}

struct Preparation<'a> {
    plan: &'a Plan,
    options: &'a Options,
    store: &'a Store,
    /// By name and platform.
    images: BTreeMap<(String, Option<String>), Arc<BaseImage>>,
    /// The stages that are being prepared, each needed by the one before it.
    open: Vec<usize>,
    prepared: Prepared,
}

impl Preparation<'_> {
    /// Prepares a stage and those that it needs; `location` is of the line that needs it. The
    /// depth of the recursion is bounded by the number of stages, which the plan bounds.
    fn stage(&mut self, number: usize, location: &Location) -> Result<(), BuildError> {
        if self.prepared.stages.contains_key(&number) {
            return Ok(());
        }
        if let Some(start) = self.open.iter().position(|open| *open == number) {
            return Err(self.cycle(start, location).into());
        }
        self.open.push(number);
        let plan = &self.plan.stages()[number];
        let from = plan.from().location.clone();
        let (base, base_config, mut needs) = match plan.base() {
            Base::Scratch | Base::Context(_) => (None, self.scratch(), Vec::new()),
            Base::Image { name, platform } => {
                let image = self.image(name, platform.as_deref(), &from)?;
                let config = image.image.config.clone();
                (Some(image), config, Vec::new())
            }
            Base::Stage(base) => {
                self.stage(*base, &from)?;
                let config = self.prepared.stages[base].expanded.config.clone();
                (None, config, vec![*base])
            }
        };
        let parent = match plan.base() {
            Base::Stage(base) => Some(&self.prepared.stages[base].expanded),
            Base::Scratch | Base::Image { .. } | Base::Context(_) => None,
        };
        let expanded = self.plan.expand(number, &base_config, parent)?;
        let known = self.apps(&from, plan.base(), base.as_deref())?;
        let apps = check_names(&expanded.steps, known)?;
        let mut images = BTreeMap::new();
        for step in &expanded.steps {
            for (from, origin) in &step.origins {
                match origin {
                    Origin::Stage(other) => {
                        self.stage(*other, &step.location)?;
                        needs.push(*other);
                    }
                    Origin::Image(name) => {
                        images.insert(from.clone(), self.image(name, None, &step.location)?);
                    }
                    Origin::Context(_) => {}
                }
            }
        }
        self.open.pop();
        let ready = ReadyStage { base, base_config, expanded, images, apps, needs };
        self.prepared.stages.insert(number, ready);
        self.prepared.order.push(number);
        Ok(())
    }

    /// The applications that a stage begins with.
    fn apps(
        &self,
        from: &Location,
        base: &Base,
        image: Option<&BaseImage>,
    ) -> Result<BTreeSet<String>, BuildError> {
        if let Base::Stage(base) = base {
            return Ok(self.prepared.stages[base].apps.clone());
        }
        let extension = image.map_or(Ok(None), BaseImage::extension);
        let extension = extension.map_err(|error| Failed::at(from.clone(), error))?;
        let applications = extension.map(|extension| extension.applications);
        Ok(applications.into_iter().flatten().map(|app| app.name).collect())
    }

    fn cycle(&self, start: usize, location: &Location) -> KubefileError {
        let around = self.open[start..].iter().chain([&self.open[start]]);
        let names: Vec<_> = around.map(|number| stage_name(self.plan, *number)).collect();
        let problem = Problem::Syntax(format!("stages need each other: {}", names.join(" needs ")));
        KubefileError::new(location, problem)
            .suggest("take the files from a stage that does not need this one")
    }

    /// The config that `FROM scratch` begins with.
    fn scratch(&self) -> ImageConfig {
        let target = &self.options.target;
        ImageConfig {
            architecture: target.architecture.clone(),
            os: target.os.clone(),
            variant: target.variant.clone(),
            ..ImageConfig::default()
        }
    }

    fn image(
        &mut self,
        name: &str,
        platform: Option<&str>,
        location: &Location,
    ) -> Result<Arc<BaseImage>, BuildError> {
        let key = (name.to_owned(), platform.map(str::to_owned));
        if let Some(image) = self.images.get(&key) {
            return Ok(image.clone());
        }
        let failed = |error: StepError| Failed::at(location.clone(), error);
        let source: ImageSource =
            name.parse().map_err(|error: ReferenceError| failed(error.into()))?;
        let wanted = match platform {
            Some(text) => Wanted::parse(text),
            None => Wanted::from(&self.options.target),
        };
        let mut opened = oci::open(&source, self.store);
        let found = opened.as_ref().map(|image| Wanted::of(&image.config));
        // The image for another platform may be what the name stands for here, and the one that
        // is wanted may be in an index or a registry.
        let is_other = match &found {
            Ok(found) => !wanted.accepts(found),
            Err(error) => error.is_about_platform(),
        };
        if is_other && let Some(wanted) = wanted.in_full(&self.options.target) {
            let lookup = Lookup { platform: Some(wanted), ..self.store.lookup().clone() };
            let other = oci::open(&source, &self.store.clone().with_lookup(lookup));
            if opened.is_err() || other.is_ok() {
                opened = other;
            }
        }
        let image = opened.map_err(|error| failed(error.into()))?;
        let found = Wanted::of(&image.config);
        if !wanted.accepts(&found) {
            let (name, found, wanted) = (name.to_owned(), found.to_string(), wanted.to_string());
            return Err(failed(StepError::Platform { name, found, wanted }).into());
        }
        let indexes = self.store.dir(Part::Indexes);
        let reading = self.options.reading.clone();
        let image = Arc::new(BaseImage { image, indexes, reading, fs: Mutex::new(None) });
        self.images.insert(key, image.clone());
        Ok(image)
    }
}

/// What a stage is called where something is said about it.
pub(super) fn stage_name(plan: &Plan, number: usize) -> String {
    plan.stages()[number].name().map_or_else(|| format!("stage-{number}"), str::to_owned)
}
