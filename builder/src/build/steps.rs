//! A stage while it is built: the loop over its steps, which reads like the file.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use kfs_fs::digest::Digest;
use kfs_fs::error::AtPath;
use kfs_fs::layer::writer::NewLayer;
use kfs_fs::layer::{Entry, Kind, Timestamp};
use kfs_fs::oci::Layer;
use kfs_fs::oci::manifest::{Descriptor, History, ImageConfig};

use super::app::ClusterImage;
use super::commit::CommitBehind;
use super::copying::Copying;
use super::explain::{Explanation, Looked, Parts, TIME, Traces};
use super::prepare::{BaseImage, ReadyStage, stage_name};
use super::schedule::Site;
use super::{BuildError, Event, Failed, StepError};
use crate::cache::{self, Hit};
use crate::cluster::extension::Extension;
use crate::cluster::registry_tree::REGISTRY;
use crate::config::{StageConfig, history};
use crate::copy::{self, Content, CopyItem, Owner, Place};
use crate::kubefile::{Copy, Instruction, Location, Source, Workdir};
use crate::plan::{Base, Step};
use crate::stage::Stage;
use crate::view::{View, at_path};

/// A stage that is done.
#[derive(Debug)]
pub(super) struct Finished {
    /// The image at its very bottom; none for scratch.
    pub(super) base: Option<Arc<BaseImage>>,
    /// Those above the base, of the stages that it begins with too.
    pub(super) layers: Vec<Layer>,
    pub(super) config: ImageConfig,
    /// Of the layers and all else above the base.
    pub(super) history: Vec<History>,
    /// Of its last step that made a layer.
    key: Digest,
    /// What is in it.
    pub(super) view: View,
    /// What makes it a cluster image, if it is one.
    pub(super) extension: Option<Extension>,
    /// Whether it asks for the container images that the context names.
    pub(super) takes_collected: bool,
}

/// What a step added.
pub(super) struct Made {
    pub(super) layer: Descriptor,
    /// By an earlier build.
    cached: bool,
}

/// A stage on its way.
pub(super) struct StageBuild<'a> {
    /// The layer of the last RUN, if it is still being written; it is waited for before all else
    /// goes.
    pub(super) behind: Option<CommitBehind>,
    pub(super) site: &'a Site<'a>,
    /// What was prepared for it.
    pub(super) ready: &'a ReadyStage,
    base: Option<Arc<BaseImage>>,
    pub(super) stage: Stage,
    pub(super) config: StageConfig,
    history: Vec<History>,
    /// The key of the last step that made a layer.
    pub(super) key: Digest,
    /// The key that it began with.
    pub(super) first_key: Digest,
    /// What makes it a cluster image, if it is one.
    pub(super) cluster: Option<ClusterImage>,
    pub(super) traces: Traces,
    /// Whether a step asks for the container images that the context names.
    takes_collected: bool,
}

impl Finished {
    /// What names its content: the same only for the same files.
    pub(super) fn identity(&self) -> Digest {
        let base = self.base.as_ref().map(|base| base.image.digest.to_string());
        let layers = self.layers.iter().map(|layer| layer.diff_id.to_string());
        let parts: Vec<_> = base.into_iter().chain(layers).collect();
        Digest::of(parts.join("\n").as_bytes())
    }
}

impl<'a> StageBuild<'a> {
    /// Builds a stage whose needs are finished.
    pub(super) fn build(
        site: &'a Site<'a>,
        number: usize,
        report: &mut dyn FnMut(Event),
    ) -> Result<Finished, BuildError> {
        let plan = &site.plan.stages()[number];
        let ready = &site.prepared.stages[&number];
        let from = plan.from();
        report(Event::Step { index: 1, total: ready.expanded.total, text: from.text.clone() });
        let started = Instant::now();
        let begun = Self::begin(site, number, ready, report);
        let mut build = begun.map_err(|error| Failed::at(from.location.clone(), error))?;
        report(Event::Done { took: started.elapsed(), layer: None, cached: false });
        let done = build.steps(&ready.expanded.steps, report);
        let kept = build.traces.keep();
        done?;
        kept.map_err(|error| Failed::at(from.location.clone(), error))?;
        build.finish(&from.location)
    }

    fn steps(&mut self, steps: &[Step], report: &mut dyn FnMut(Event)) -> Result<(), BuildError> {
        for step in steps {
            let (index, total, text) = (step.index, step.total, step.text.clone());
            report(Event::Step { index, total, text });
            let done = self.site.options.interrupts.check().map_err(StepError::from);
            let mut done = done.and_then(|()| self.step(step, report));
            if done.is_err() {
                // What failed first is told.
                done = self.settle(report).and(done);
            }
            done.map_err(|error| Failed::at(step.location.clone(), error))?;
        }
        Ok(())
    }

    fn begin(
        site: &'a Site<'a>,
        number: usize,
        ready: &'a ReadyStage,
        report: &mut dyn FnMut(Event),
    ) -> Result<Self, StepError> {
        let work = site.work.join(number.to_string());
        std::fs::create_dir(&work).at("make directory", &work)?;
        let parent = match site.plan.stages()[number].base() {
            Base::Stage(parent) => Some(site.finished(*parent)),
            Base::Scratch | Base::Image { .. } | Base::Context(_) => None,
        };
        let base = parent.map_or_else(|| ready.base.clone(), |parent| parent.base.clone());
        let fs = base.as_ref().map(|base| base.open(report)).transpose()?;
        let mut stage = Stage::new(site.writer, &work, fs, site.options);
        let layers = parent.map_or(&[][..], |parent| &parent.layers);
        layers.iter().for_each(|layer| stage.push(layer.clone()));
        let first_key = first_key(site, base.as_deref());
        let extension = match parent {
            Some(parent) => parent.extension.clone(),
            None => base.as_ref().map_or(Ok(None), |base| base.extension())?,
        };
        let key = parent.map_or(first_key, |parent| parent.key);
        let traces = first_trace(site, number, base.as_deref(), key)?;
        Ok(Self {
            behind: None,
            site,
            ready,
            stage,
            config: StageConfig::new(ready.base_config.clone(), site.plan.dialect()),
            history: parent.map_or_else(Vec::new, |parent| parent.history.clone()),
            key,
            first_key,
            traces,
            base,
            takes_collected: parent.is_some_and(|parent| parent.takes_collected),
            cluster: ClusterImage::new(site.plan.dialect(), extension),
        })
    }

    fn finish(mut self, from: &Location) -> Result<Finished, BuildError> {
        let view = self.stage.view();
        let view = view.map_err(|error| Failed::at(from.clone(), error))?;
        let has_entrypoint = self.config.image().config.entrypoint.is_some();
        let extension = self.cluster.map(|cluster| cluster.finish(has_entrypoint)).transpose()?;
        Ok(Finished {
            extension,
            takes_collected: self.takes_collected,
            base: self.base,
            layers: self.stage.layers().to_vec(),
            config: self.config.into_image(),
            history: self.history,
            key: self.key,
            view,
        })
    }

    fn step(&mut self, step: &Step, report: &mut dyn FnMut(Event)) -> Result<(), StepError> {
        let started = Instant::now();
        let made = match &step.instruction {
            Instruction::Copy(copy) if self.is_of_collected(copy)? => {
                self.takes_collected = true;
                self.remember(history::config_only(&step.text), None);
                None
            }
            Instruction::Copy(copy) => Some(self.copy(&Copying::of(copy), step, report)?),
            Instruction::Add(add) => Some(self.copy(&Copying::of_add(add), step, report)?),
            Instruction::Run(run) => self.run(run, step, report)?,
            Instruction::Workdir(workdir) => self.workdir(workdir, step, report)?,
            Instruction::App(app) | Instruction::Cni(app) | Instruction::Csi(app) => {
                Some(self.app(app, step, report)?)
            }
            _ => {
                self.remember(history::config_only(&step.text), None);
                None
            }
        };
        self.config.apply(&step.instruction)?;
        self.note_cluster(step);
        let cached = made.as_ref().is_some_and(|made| made.cached);
        let layer = made.map(|Made { layer, .. }| (layer.digest, layer.size));
        report(Event::Done { took: started.elapsed(), layer, cached });
        Ok(())
    }

    /// Adds a step to the history; one that makes no layer has no time of its own.
    pub(super) fn remember(&mut self, created_by: String, created: Option<String>) {
        let (created_by, empty_layer) = (Some(created_by), created.is_none());
        self.history.push(History { created, created_by, empty_layer, ..History::default() });
    }

    /// A step on what there is so far, as its place in the cache was looked up.
    pub(super) fn looked<'l>(&self, step: &'l Step, parts: Parts, key: Digest) -> Looked<'l> {
        Looked { index: step.index, text: &step.text, parent: self.key, parts, key, files: None }
    }

    /// Notes what a step is made of, and tells why it was found or not if the user asks.
    pub(super) fn explain(
        &mut self,
        looked: Looked<'_>,
        hit: Option<&Hit>,
        report: &mut dyn FnMut(Event),
    ) -> Result<(), StepError> {
        let changes = self.traces.note(looked)?;
        if !self.site.options.explain {
            return Ok(());
        }
        report(Event::Explained(match changes {
            _ if let Some(hit) = hit => Explanation::Hit { from: hit.from.clone() },
            _ if self.site.options.no_cache => Explanation::NoCache,
            None => Explanation::New,
            Some(changes) if changes.is_empty() => Explanation::Gone,
            Some(changes) => Explanation::Changed(changes),
        }));
        Ok(())
    }

    /// The same for a COPY of files that nobody has touched.
    pub(super) fn explain_same(&mut self, looked: Looked<'_>, report: &mut dyn FnMut(Event)) {
        self.traces.note_same(looked);
        if self.site.options.explain {
            report(Event::Explained(Explanation::Hit { from: None }));
        }
    }

    /// Stores a layer that a step made, remembers it under its key and adds it to the image.
    pub(super) fn push_new(
        &mut self,
        new: NewLayer,
        key: Digest,
        created_by: String,
        alias: Option<Digest>,
    ) -> Result<Made, StepError> {
        let layer = self.site.writer.put_layer(new)?;
        let hit = Hit { layer, created: self.site.created(), created_by, key, from: None };
        self.site.cache.record(&hit, alias)?;
        Ok(self.push(hit, false))
    }

    /// Adds a layer that the cache had.
    pub(super) fn push_cached(&mut self, mut hit: Hit) -> Made {
        if self.site.options.timestamp.is_some() {
            hit.created = self.site.created();
        }
        self.push(hit, true)
    }

    fn push(&mut self, hit: Hit, cached: bool) -> Made {
        self.key = hit.key;
        self.remember(hit.created_by.clone(), Some(hit.created.clone()));
        Made { cached, ..self.take_layer(hit) }
    }

    /// Takes a layer whose step is in the history already.
    pub(super) fn take_layer(&mut self, hit: Hit) -> Made {
        self.site.cache.use_step(&hit);
        let layer = hit.layer.descriptor.clone();
        self.stage.push(hit.layer);
        Made { layer, cached: false }
    }

    /// Whether a COPY is Sealos's way to ask for the images that its files name: of a `registry`
    /// that Sealos would have made in the context before (`sealos build`, "registry").
    fn is_of_collected(&self, copy: &Copy) -> Result<bool, StepError> {
        let plain = |text: &str| text.trim_start_matches("./").trim_matches('/') == REGISTRY;
        let [Source::Path(source)] = &copy.sources[..] else { return Ok(false) };
        let options = &self.site.options;
        if options.collecting.is_none()
            || copy.from.is_some()
            || !plain(source)
            || !plain(&copy.dest)
        {
            return Ok(false);
        }
        let here = options.context.stat(&options.context.root().join(REGISTRY))?;
        Ok(here.is_none())
    }

    /// How many steps the stage has had, to name what belongs to one of them.
    pub(super) fn history_len(&self) -> usize {
        self.history.len()
    }

    /// WORKDIR makes its directory if the image has none.
    fn workdir(
        &mut self,
        workdir: &Workdir,
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<Option<Made>, StepError> {
        let path = crate::config::join(self.config.working_dir(), &workdir.path);
        let text = history::config_only(&step.text);
        let items = self.missing_directories(path.as_bytes())?;
        if items.is_empty() {
            self.remember(text, None);
            return Ok(None);
        }
        let mut parts = Parts::default();
        parts.add("the instruction", "workdir");
        parts.add("WORKDIR", &path);
        parts.add("USER", &self.config.image().config.user);
        self.site.given_time().into_iter().for_each(|time| parts.show(TIME, time));
        let key = parts.key(self.key);
        let found = self.site.cache.find(key)?;
        self.explain(self.looked(step, parts, key), found.as_ref(), report)?;
        if let Some(hit) = found {
            return Ok(Some(self.push_cached(hit)));
        }
        let view = self.stage.view()?;
        let new = self.stage.copy(&items, Some(&view), &mut |_| ())?;
        self.push_new(new, key, text, None).map(Some)
    }

    /// Whom what is made for the stage's USER belongs to. A number without a group means group 0,
    /// as for a process.
    fn user(&self, view: &View) -> Result<Owner, StepError> {
        let user = match self.config.image().config.user.as_str() {
            "" => return Ok(Owner::ROOT),
            number if number.parse::<u32>().is_ok() => format!("{number}:0"),
            user => user.to_owned(),
        };
        let mut read = |path: &str| {
            view.file(path.as_bytes()).map_err(|error| at_path(path.as_bytes(), error))
        };
        Ok(Owner::resolve(&user, &mut read)?)
    }

    /// The directories on the way to a path that the image lacks, symlinks followed; they belong
    /// to USER, as in BuildKit and buildah.
    fn missing_directories(&mut self, path: &[u8]) -> Result<Vec<CopyItem>, StepError> {
        let view = self.stage.view()?;
        let absent = match view.place(path)? {
            Place::Directory(_) => return Ok(Vec::new()),
            Place::Other(path) => {
                let path = String::from_utf8_lossy(&path).into_owned();
                return Err(StepError::WorkdirIsAFile(path));
            }
            Place::Absent(absent) => absent,
        };
        let owner = self.user(&view)?;
        let mut items = Vec::new();
        for path in copy::parents(&absent).chain([&absent[..]]) {
            if matches!(view.place(path)?, Place::Directory(_)) {
                continue;
            }
            items.push(CopyItem {
                entry: Entry {
                    path: path.to_owned(),
                    kind: Kind::Directory,
                    mode: 0o755,
                    uid: owner.uid,
                    gid: owner.gid,
                    mtime: timestamp(self.site.now),
                    size: 0,
                    xattrs: Vec::new(),
                },
                content: Content::None,
                stamp: None,
            });
        }
        Ok(items)
    }
}

/// The key of a stage without steps.
fn first_key(site: &Site<'_>, base: Option<&BaseImage>) -> Digest {
    let target = &site.options.target;
    // A layer is the same one only in the same form: who asks for gzip is not to get zstd.
    let compression = format!("{:?}", site.options.compression);
    let parts = [&target.os[..], &target.architecture[..], &compression[..]];
    let origin = base.map_or_else(|| Digest::of(b"scratch"), |base| base.image.digest);
    cache::key(origin, &parts)
}

/// What the steps of a stage were made of at the last build, with its FROM as it is now.
fn first_trace(
    site: &Site<'_>,
    number: usize,
    base: Option<&BaseImage>,
    key: Digest,
) -> Result<Traces, StepError> {
    let Site { writer, options, plan, .. } = site;
    let from = plan.stages()[number].from();
    let mut traces = Traces::read(writer, &[&options.origin, &stage_name(plan, number)]);
    let mut parts = Parts::default();
    let target = &options.target;
    if let Base::Stage(parent) = plan.stages()[number].base() {
        parts.add(format!("the stage {}", stage_name(plan, *parent)), key.to_string());
    }
    if let Some(base) = base {
        parts.show("the base", base.image.digest.to_string());
    }
    parts.show("the platform", format!("{}/{}", target.os, target.architecture));
    parts.add("the compression", format!("{:?}", options.compression));
    let (index, text, parent) = (1, &from.text[..], Digest::of(b""));
    traces.note(Looked { index, text, parent, parts, key, files: None })?;
    Ok(traces)
}

pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: since.subsec_nanos() }
}
