//! RUN: what it sees, whether it was done before, and the layer that it makes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use super::explain::Parts;
use super::hidden::Hidden;
use super::mounts;
use super::steps::{Made, StageBuild};
use super::{Event, StepError};
use crate::cache::{self, Hit};
use crate::config::history;
use crate::exec::{Isolation, Mount, MountSource};
use crate::kubefile::{Command, Dialect, Network, Run};
use crate::plan::Step;
use crate::stage::RunRequest;

/// Of files that the key of a step was made of.
const CHANGED: &str = "files of the context changed while the command ran that a --mount shows; \
     the next build will run it again";

impl StageBuild<'_> {
    pub(super) fn run(
        &mut self,
        run: &Run,
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<Option<Made>, StepError> {
        let mut request = self.request(run, step);
        let text = history::run(&run.command, &self.config.shell(), &step.build_args);
        let typed = mounts::typed(run);
        let (mounts, shown) = self.mount_keys(&typed, step, report)?;
        let parts = self.run_parts(&request, run, step, mounts);
        let mut key = parts.key(self.key);
        // What it does to a cluster is in no layer.
        let is_kept = self.site.options.cluster.is_none();
        let found = if is_kept { self.site.cache.find(key)? } else { None };
        self.explain(self.looked(step, parts, key), found.as_ref(), report)?;
        if let Some(hit) = found {
            self.settle(report)?;
            return Ok(Some(self.push_cached(hit)));
        }
        let made = self.mounts(&typed, step, report)?;
        request.world.mounts.extend(made.mounts.iter().cloned());
        request.places.clone_from(&made.places);
        // None of these are in the key.
        let proxies = self.site.plan.proxies().into_iter().map(|(k, v)| (k.into(), v.into()));
        request.env.extend(proxies.chain(made.env.iter().cloned()));
        if let Some(cluster) = &self.site.options.cluster {
            request.env.extend(cluster.variable());
            request.world.mounts.extend(cluster.mounts.iter().cloned());
        }
        let hidden = Hidden::new(&made.secrets);
        let mut output = |line: &[u8]| report(Event::Output(hidden.in_line(line)));
        let ran = self.stage.run(self.site.executor, &request, &mut output)?;
        drop(made);
        let Some(commit) = ran.commit else {
            let (status, tail) = (ran.outcome.status, ran.outcome.tail);
            let tail = tail.iter().map(|line| hidden.in_text(line)).collect();
            return Err(StepError::Run { command: step.text.clone(), status, tail });
        };
        // One at a time: what waits to be written lies on the disk.
        self.settle(report)?;
        let is_same = self.are_same(&shown)?;
        if !is_same {
            let at = &step.location;
            report(Event::Warning(format!("{at}: {CHANGED}")));
        }
        if !(is_kept && is_same) {
            // What nobody looks for: neither this layer nor what is made on it is taken again.
            key = cache::key(key, &[&format!("{:?}", SystemTime::now())]);
        }
        let created = self.site.created();
        self.key = key;
        self.remember(text.clone(), Some(created.clone()));
        let hit = move |layer| Hit { layer, created, created_by: text, key, from: None };
        self.commit(commit, step, hit);
        if self.may_go_on(step) { Ok(None) } else { self.settled(report).map(Some) }
    }

    fn request(&self, run: &Run, step: &Step) -> RunRequest {
        let argv: Vec<String> = match &run.command {
            Command::Exec(words) => words.clone(),
            // The path of the script alone, see `Run`.
            Command::Shell(line) if run.script.is_some() => vec![line.clone()],
            Command::Shell(line) => self.config.shell().into_iter().chain([line.clone()]).collect(),
        };
        let config = &self.config.image().config;
        let variables = config.env.iter().filter_map(|pair| pair.split_once('='));
        let args = step.build_args.iter().map(|(name, value)| (&name[..], &value[..]));
        let mut world = self.site.world.clone();
        match run.network {
            Network::Default => {}
            Network::None => world.no_network = true,
            Network::Host => world.no_network = false,
        }
        world.mounts.extend(run.script.as_ref().map(|script| Mount {
            target: PathBuf::from("/dev/pipes").join(&script.name),
            source: MountSource::File {
                content: script.content.clone().into_bytes(),
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
        }));
        RunRequest {
            argv: argv.into_iter().map(OsString::from).collect(),
            env: variables.chain(args).map(|(k, v)| (k.into(), v.into())).collect(),
            cwd: PathBuf::from(self.config.working_dir()),
            user: config.user.clone(),
            isolation: self.isolation(),
            world,
            places: Vec::new(),
        }
    }

    /// How a RUN is shut in. The host's tools are for images that have none by intention, as those
    /// of a Kubefile; a Dockerfile's RUN has what is in the image or nothing.
    fn isolation(&self) -> Isolation {
        match (self.site.options.isolation, self.site.plan.dialect()) {
            (Isolation::Auto, Dialect::Dockerfile) => Isolation::Container,
            (isolation, _) => isolation,
        }
    }

    /// What the key of a RUN is made of.
    fn run_parts(&self, request: &RunRequest, run: &Run, step: &Step, mounts: Parts) -> Parts {
        let mut parts = Parts::default();
        parts.add("the instruction", "run");
        parts.add("USER", &request.user);
        parts.add("the isolation", format!("{:?}", request.isolation));
        parts.add("WORKDIR", request.cwd.display().to_string());
        parts.add("the command", format!("{:?}", request.argv));
        let args = request.env.len() - step.build_args.len();
        for (number, pair) in request.env.iter().enumerate() {
            let kind = if number < args { "ENV" } else { "ARG" };
            parts.add(format!("{kind} {}", pair.0.display()), format!("{pair:?}"));
        }
        parts.append(mounts);
        if request.world.no_network {
            parts.add("the network", "no network");
        }
        if let Some(script) = &run.script {
            parts.add("the script", format!("script {}", script.content));
        }
        parts
    }
}
