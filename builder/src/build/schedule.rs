//! Which stage runs when: each as soon as those that it needs are there, as many at a time as
//! there are processors. Each has a thread of its own; what they tell comes out one after the
//! other here.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::SystemTime;

use kfs_fs::oci::store::Writer;

use super::carry::Carried;
use super::prepare::{Prepared, stage_name};
use super::steps::{Finished, StageBuild};
use super::{BuildError, Event, Options, Report, StepError, image, squash};
use crate::cache::Cache;
use crate::cache::registry::RegistryCache;
use crate::cluster::extension::{EXTENSION, Extension, IMAGES};
use crate::exec::{Executor, World};
use crate::plan::Plan;

/// So many events wait for who reports them; a RUN that says more waits for that.
const WAITING_EVENTS: usize = 256;
/// RUNs are bound by more than processors, but each has a live rootfs.
const MAX_STAGES_AT_ONCE: usize = 8;

/// All that the stages of one build share.
pub(super) struct Site<'a> {
    pub(super) plan: &'a Plan,
    pub(super) options: &'a Options,
    pub(super) prepared: &'a Prepared,
    pub(super) writer: &'a Writer,
    pub(super) executor: &'a (dyn Executor + Sync),
    /// A directory of this build.
    pub(super) work: PathBuf,
    /// What every RUN sees and may take.
    pub(super) world: World,
    pub(super) cache: Cache,
    /// When the build began.
    pub(super) now: SystemTime,
    /// By the number of the stage.
    finished: Vec<OnceLock<Finished>>,
}

/// Where a build takes place.
#[derive(Clone, Copy)]
pub(super) struct Place<'p> {
    /// A directory that goes away with the build.
    pub(super) work: &'p Path,
    /// Directories of the control groups that its RUNs are in.
    pub(super) cgroups: &'p [PathBuf],
}

/// What a stage's thread tells.
enum Told {
    Event(Event),
    End(Result<(), BuildError>),
}

impl<'a> Site<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        options: &'a Options,
        prepared: &'a Prepared,
        writer: &'a Writer,
        executor: &'a (dyn Executor + Sync),
        place: Place<'_>,
    ) -> Self {
        let mut world = options.world.clone();
        world.cgroups.extend_from_slice(place.cgroups);
        Self {
            plan,
            options,
            prepared,
            writer,
            executor,
            work: place.work.to_owned(),
            world,
            cache: Cache::new(writer, options.no_cache).with_registry(RegistryCache::new(
                writer.lookup().registries.clone(),
                &options.cache_from,
                &options.cache_to,
            )),
            now: options.timestamp.unwrap_or_else(SystemTime::now),
            finished: plan.stages().iter().map(|_| OnceLock::new()).collect(),
        }
    }

    /// A stage that another one needs, and that therefore is finished.
    pub(super) fn finished(&self, stage: usize) -> &Finished {
        self.finished[stage].get().expect("a stage begins after those that it needs")
    }

    /// The time of what is made now.
    pub(super) fn created(&self) -> String {
        humantime::format_rfc3339(self.now).to_string()
    }

    /// The same, if it was given: it then is in the key of what is made with it.
    pub(super) fn given_time(&self) -> Option<String> {
        self.options.timestamp.map(|_| self.created())
    }

    /// What the image is made of, once all has run.
    pub(super) fn image(&self, carried: Carried) -> Result<image::New<'_>, StepError> {
        let finished = self.finished(self.plan.target());
        let mut config = finished.config.clone();
        config.config.labels.extend(self.options.labels.iter().cloned());
        let (mut layers, mut history) = (finished.layers.clone(), finished.history.clone());
        if self.options.squash && layers.len() > 1 {
            let new = squash::squash(self, finished)?;
            layers = vec![self.writer.put_layer(new)?];
            squash::shorten(&mut history);
        }
        layers.extend(carried.layers);
        history.extend(carried.history);
        let mut annotations = BTreeMap::new();
        if !carried.images.is_empty() {
            let json = serde_json::to_string(&carried.images).expect("strings");
            annotations.insert(IMAGES.to_owned(), json);
        }
        if let Some(extension) = &finished.extension {
            let image_type = self.options.image_type;
            let extension = Extension { image_type, ..extension.clone() };
            annotations.insert(EXTENSION.to_owned(), extension.to_json());
        }
        annotations.extend(self.options.annotations.clone());
        let base = finished.base.as_ref().filter(|_| !self.options.without_base);
        if base.is_none() {
            config.history.clear();
        }
        Ok(image::New {
            base: base.map(|base| &base.image),
            layers,
            config,
            history,
            annotations,
            now: self.now,
            fixed_time: self.options.timestamp.is_some(),
        })
    }

    /// Builds all stages. After a failure no stage is begun, those that run are ended, and the
    /// first error counts.
    pub(super) fn run(&self, report: &mut Report<'_>) -> Result<(), BuildError> {
        let several = self.prepared.order.len() > 1;
        let label = |stage| if several { stage_name(self.plan, stage) } else { String::new() };
        let at_once = thread::available_parallelism().map_or(1, NonZero::get);
        let at_once = at_once.min(MAX_STAGES_AT_ONCE);
        let (sender, receiver) = sync_channel(WAITING_EVENTS);
        thread::scope(|scope| {
            let mut waiting = self.prepared.order.clone();
            let (mut running, mut failed) = (0, None);
            loop {
                while failed.is_none()
                    && running < at_once
                    && let Some(place) = waiting.iter().position(|stage| self.is_ready(*stage))
                {
                    let stage = waiting.remove(place);
                    let sender = sender.clone();
                    scope.spawn(move || self.work_on(stage, &sender));
                    running += 1;
                }
                if running == 0 {
                    return failed.map_or(Ok(()), Err);
                }
                match receiver.recv().expect("this thread holds a sender") {
                    (stage, Told::Event(event)) => report(&label(stage), event),
                    (_, Told::End(Ok(()))) => running -= 1,
                    (_, Told::End(Err(error))) => {
                        running -= 1;
                        failed.get_or_insert(error);
                        self.options.interrupts.cancel();
                    }
                }
            }
        })
    }

    fn is_ready(&self, stage: usize) -> bool {
        let mut needs = self.prepared.stages[&stage].needs.iter();
        needs.all(|other| self.finished[*other].get().is_some())
    }

    /// The life of a stage's thread.
    fn work_on(&self, stage: usize, sender: &SyncSender<(usize, Told)>) {
        let tell = |told| sender.send((stage, told)).expect("the receiver outlives the stages");
        let mut report = |event| tell(Told::Event(event));
        let end = StageBuild::build(self, stage, &mut report);
        tell(Told::End(end.map(|finished| {
            // Each stage runs once.
            self.finished[stage].set(finished).ok();
        })));
    }
}
