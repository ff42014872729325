//! The layer of a RUN, written while the next RUN goes on.
//!
//! A commit goes on behind the next step where that is a RUN as well, which sees in the live rootfs
//! what this one changed, and behind the fetching of a COPY or ADD. All else reads the layers, and
//! waits: where COPY puts its files, and whose they are, depends on what is there, and what it puts
//! there is nowhere but in its layer, which the rootfs of a RUN has to show. There is one at a
//! time. What it tells, and why it fails, belongs to the step that it is of; the stage does not end
//! before it has ended, so what a failing build has done is in the cache.

use std::thread::{self, JoinHandle};

use super::steps::{Made, StageBuild};
use super::{Event, Failed, StepError};
use crate::cache::{Cache, Hit};
use crate::kubefile::{Copy, Instruction, Source};
use crate::plan::{Origin, Step};
use crate::remote::RemoteKind;
use crate::stage::{Commit, Written};

/// A layer on its way.
pub(super) struct CommitBehind {
    step: Step,
    thread: Option<JoinHandle<Result<Committed, StepError>>>,
}

/// A layer that is stored, and known to the cache.
struct Committed {
    hit: Hit,
    /// What is to be told of it.
    events: Vec<Event>,
}

impl CommitBehind {
    /// What came of it, once it is there.
    fn join(&mut self) -> Option<Result<Committed, StepError>> {
        let thread = self.thread.take()?;
        Some(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for CommitBehind {
    fn drop(&mut self) {
        // The build fails for another reason already.
        self.join();
    }
}

impl StageBuild<'_> {
    /// Whether the next step that makes a layer can begin without that of this one.
    pub(super) fn may_go_on(&self, step: &Step) -> bool {
        let after = self.ready.expanded.steps.iter().filter(|next| next.index > step.index);
        let mut makes_layers = after.filter_map(|next| match &next.instruction {
            Instruction::Run(_) => Some(true),
            Instruction::Copy(files) => Some(fetches(next, files)),
            Instruction::Add(add) => Some(fetches(next, &add.files)),
            Instruction::Workdir(_)
            | Instruction::App(_)
            | Instruction::Cni(_)
            | Instruction::Csi(_) => Some(false),
            _ => None,
        });
        makes_layers.next() == Some(true)
    }

    /// Begins to write the layer of a RUN, which `hit` says all of but the layer.
    pub(super) fn commit(
        &mut self,
        commit: Commit,
        step: &Step,
        hit: impl FnOnce(kfs_fs::oci::Layer) -> Hit + Send + 'static,
    ) {
        let store = (**self.site.writer).clone();
        let (index, location) = (step.index, step.location.clone());
        let thread = thread::spawn(move || {
            let writer = store.writer()?;
            let Written { layer, skipped, run, diff } = commit.write()?;
            let sockets = skipped.iter().map(|socket| {
                let path = String::from_utf8_lossy(socket);
                format!("{location}: socket /{path} is left out")
            });
            let plain = layer.plain.iter().map(|plain| format!("{location}: {plain}"));
            let mut events: Vec<_> = sockets.chain(plain).map(Event::Warning).collect();
            events.push(Event::Written { index, run, diff, times: layer.times });
            let hit = hit(writer.put_layer(layer)?);
            Cache::new(&writer, false).record(&hit, None)?;
            Ok(Committed { hit, events })
        });
        self.behind = Some(CommitBehind { step: step.clone(), thread: Some(thread) });
    }

    /// Waits for the layer that is being written, if one is, and tells of it.
    pub(super) fn settle(&mut self, report: &mut dyn FnMut(Event)) -> Result<(), StepError> {
        let Some(step) = self.behind.as_ref().map(|behind| behind.step.clone()) else {
            return Ok(());
        };
        let made = self.settled(report).map_err(|error| {
            StepError::Earlier(Box::new(Failed::at(step.location.clone(), error)))
        })?;
        let (index, total, layer) = (step.index, step.total, &made.layer);
        report(Event::Committed { index, total, digest: layer.digest, size: layer.size });
        Ok(())
    }

    /// Waits for the layer that is being written.
    pub(super) fn settled(&mut self, report: &mut dyn FnMut(Event)) -> Result<Made, StepError> {
        let mut behind = self.behind.take().expect("a commit was begun");
        let Committed { hit, events } = behind.join().expect("it is waited for once")?;
        events.into_iter().for_each(report);
        Ok(self.take_layer(hit))
    }
}

/// Whether something of a COPY or ADD may have to be fetched.
fn fetches(step: &Step, files: &Copy) -> bool {
    if let Some(from) = &files.from {
        return matches!(step.origin(from), Some(Origin::Image(_)));
    }
    let is_remote = |source: &Source| match source {
        Source::Path(text) => RemoteKind::of(text).is_some(),
        Source::Inline(_) => false,
    };
    files.sources.iter().any(is_remote)
}
