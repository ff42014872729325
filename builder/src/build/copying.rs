//! COPY and ADD: where the files come from, whether it was done before, and the layer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kfs_fs::digest::Digest;
use kfs_fs::error::PathError;

use super::explain::{self, Looked, Parts, TIME};
use super::items::{FileMark, ItemsDigest, digest_of, is_settled, signature};
use super::prepare::ReadyStage;
use super::schedule::Site;
use super::steps::{Made, StageBuild, timestamp};
use super::{Event, StepError};
use crate::cache;
use crate::config::history;
use crate::context::Context;
use crate::copy::{self, Owner, Place};
use crate::kubefile::lint::Checks;
use crate::kubefile::{Add, Copy, Rule, Source};
use crate::plan::{Origin, Step};
use crate::remote::{Depot, LaidOut, Remotes, Wish};
use crate::view::{View, at_path};

/// A COPY or ADD.
pub(super) struct Copying<'c> {
    files: &'c Copy,
    add: Option<&'c Add>,
}

impl<'c> Copying<'c> {
    pub(super) fn of(files: &'c Copy) -> Self {
        Self { files, add: None }
    }

    pub(super) fn of_add(add: &'c Add) -> Self {
        Self { files: &add.files, add: Some(add) }
    }

    fn word(&self) -> &'static str {
        if self.add.is_some() { "ADD" } else { "COPY" }
    }
}

/// Where files come from.
pub(super) struct Tree<'a> {
    pub(super) context: Cow<'a, Context>,
    /// The same only for the same files; none if nothing is known before they are read.
    pub(super) identity: Option<Digest>,
}

/// What is known of a COPY before all of its key is.
struct Known<'l> {
    looked: Looked<'l>,
    /// What all of its keys are made from.
    from: Digest,
    /// The time that was given for what has none.
    time: Option<String>,
    /// A key that needs no file to be read.
    alias: Option<Digest>,
    /// Whether its files belong to its key.
    is_read: bool,
}

impl<'l> Known<'l> {
    /// The key with what else there is.
    fn key(&self, of: &[&str]) -> Digest {
        cache::key(self.from, &[of, self.time.as_deref().as_slice()].concat())
    }

    /// The same once its key is known, and what the key is made of.
    fn with_files(self, key: Digest, digest: Digest, marks: &'l [FileMark]) -> Looked<'l> {
        let mut looked = self.looked;
        if self.is_read {
            looked.parts.add(explain::FILES, digest.to_string());
        }
        Looked { key, files: self.is_read.then_some(marks), ..looked }
    }
}

impl StageBuild<'_> {
    pub(super) fn copy(
        &mut self,
        copying: &Copying<'_>,
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<Made, StepError> {
        let files = copying.files;
        let (site, ready) = (self.site, self.ready);
        let mut tree = Self::tree(site, ready, files.from.as_deref(), step, report)?;
        let remotes = self.remotes(copying)?;
        // All else needs what the steps before have made.
        self.settle(report)?;
        let mut parts = self.copy_parts(copying)?;
        // A layer that does not depend on what is below it is the same on any base.
        let parent = if files.link { self.first_key } else { self.key };
        let from = parts.key(parent);
        if remotes.len() == files.sources.len() {
            tree.identity = Some(remotes.identity());
            remotes.versions().for_each(|(name, version)| parts.show(name, version));
        } else if let (Some(from), Some(identity)) = (&files.from, tree.identity) {
            parts.show(from, identity.to_string());
        }
        // What comes from elsewhere is told by its version alone.
        let (is_read, time) = (tree.identity.is_none(), site.given_time());
        let looked = Looked { parent, ..self.looked(step, parts, from) };
        let mut known = Known { looked, from, time, alias: None, is_read };
        known.alias = tree.identity.map(|tree| known.key(&[&tree.to_string()]));
        if let Some(alias) = known.alias
            && let Some(hit) = self.site.cache.find_here(alias)?
        {
            self.explain(Looked { key: hit.key, ..known.looked }, Some(&hit), report)?;
            return Ok(self.push_cached(hit));
        }
        let looked_at = SystemTime::now();
        let laid_out = self.lay_out(&remotes, step, report)?;
        let resolved = self.resolve(copying, &tree.context, &laid_out.sources)?;
        warn(&resolved, step, site.plan.checks(), report);
        known.time = known.time.filter(|_| resolved.makes_times);
        known.time.iter().for_each(|time| known.looked.parts.show(TIME, time));
        // Files of the context that nobody has touched need not be read.
        let signature = signature(&resolved.items).filter(|_| known.alias.is_none());
        let signature = signature.map(|of| known.key(&["stat", &of.to_string()]));
        if let Some(signature) = signature
            && let Some(hit) = self.site.cache.find_here(signature)?
        {
            self.explain_same(Looked { key: hit.key, ..known.looked }, report);
            return Ok(self.push_cached(hit));
        }
        let settled = || signature.filter(|_| is_settled(&resolved.items, looked_at));
        known.alias = known.alias.or_else(settled);
        // Without an earlier COPY like this, reading the files twice would only cost time.
        if self.site.cache.has(from) {
            let (digest, marks) = digest_of(&resolved.items, &self.site.options.interrupts)?;
            let key = known.key(&[&digest.to_string()]);
            if let Some(hit) = self.site.cache.find(key)? {
                if known.alias.is_some() && hit.from.is_none() {
                    self.site.cache.record(&hit, known.alias)?;
                }
                self.explain(known.with_files(key, digest, &marks), Some(&hit), report)?;
                return Ok(self.push_cached(hit));
            }
        }
        self.write(copying, step, &resolved, known, report)
    }

    /// Makes the layer of a COPY that was not done before.
    fn write(
        &mut self,
        copying: &Copying<'_>,
        step: &Step,
        resolved: &copy::Resolved,
        known: Known<'_>,
        report: &mut dyn FnMut(Event),
    ) -> Result<Made, StepError> {
        let mut digest = ItemsDigest::new(&resolved.items);
        let image = if copying.files.link { None } else { Some(self.stage.view()?) };
        let mut read = |piece: &[u8]| digest.content(piece);
        let new = self.stage.copy(&resolved.items, image.as_ref(), &mut read)?;
        new.plain.iter().for_each(|plain| warn_at(step, plain, report));
        let (index, times) = (step.index, new.times);
        report(Event::Written { index, run: Duration::ZERO, diff: Duration::ZERO, times });
        let (digest, marks) = digest.finish();
        let key = known.key(&[&digest.to_string()]);
        let (from, alias) = (known.from, known.alias);
        self.explain(known.with_files(key, digest, &marks), None, report)?;
        let text = history::copy(copying.word(), resolved.kind, &digest, &copying.files.dest);
        let made = self.push_new(new, key, text, alias)?;
        self.site.cache.mark(from)?;
        Ok(made)
    }

    /// What the key of a COPY is made of but for what it copies.
    fn copy_parts(&mut self, copying: &Copying<'_>) -> Result<Parts, StepError> {
        let files = copying.files;
        let words = format!("{files:?} {:?}", copying.add.map(|add| (add.unpack, &add.checksum)));
        let mut parts = Parts::default();
        parts.add("the instruction", "copy");
        parts.add("WORKDIR", self.config.working_dir());
        parts.add("the words of the line", words);
        parts.add("where sources are put", self.site.plan.copy_rule().to_string());
        if files.link
            && let Some(Owner { uid, gid }) = self.owner(files)?
        {
            // Whom a name means is not in the key of the base.
            parts.show("the owner", format!("{uid}:{gid}"));
        }
        Ok(parts)
    }

    /// The sources that are not in the context.
    fn remotes(&self, copying: &Copying<'_>) -> Result<Remotes, StepError> {
        let Copying { files, add } = copying;
        let texts = files.sources.iter().filter_map(|source| match source {
            Source::Path(text) if files.from.is_none() => Some(text.as_str()),
            Source::Path(_) | Source::Inline(_) => None,
        });
        let checksum = add.and_then(|add| add.checksum.as_ref());
        let wish = Wish {
            // The plan has checked that it is one.
            checksum: checksum.and_then(|text| text.parse().ok()),
            commit: checksum.map(String::as_str),
            dest: &files.dest,
            unpack: add.is_some_and(|add| add.unpack == Some(true)),
            keep_git_dir: add.is_some_and(|add| add.keep_git_dir),
        };
        Ok(Remotes::find(texts, wish, self.depot())?)
    }

    fn lay_out(
        &self,
        remotes: &Remotes,
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<LaidOut, StepError> {
        let laid_out = remotes.lay_out(self.depot())?;
        for (source, submodules) in &laid_out.without {
            let (at, names) = (&step.location, submodules.join(", "));
            let what = format!("{at}: submodules of {source} are left out: {names}");
            report(Event::Warning(what));
        }
        Ok(laid_out)
    }

    /// What fetching needs.
    fn depot(&self) -> Depot<'_> {
        let Site { writer, cache, options, .. } = self.site;
        let agent = options.ssh.get("default").map(PathBuf::as_path);
        Depot { writer, cache, interrupts: &options.interrupts, agent }
    }

    /// The tree that a `from` names, or the context.
    pub(super) fn tree<'t>(
        site: &'t Site<'_>,
        ready: &ReadyStage,
        from: Option<&str>,
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<Tree<'t>, StepError> {
        let Some(from) = from else {
            return Ok(Tree { context: Cow::Borrowed(&site.options.context), identity: None });
        };
        let (view, identity) = match step.origin(from).expect("the plan resolves every from") {
            Origin::Stage(number) => {
                let finished = site.finished(*number);
                (finished.view.clone(), finished.identity())
            }
            Origin::Image(_) => {
                let image = &ready.images[from];
                let base = Some(image.open(report)?);
                (View { base, delta: None }, image.image.digest)
            }
            Origin::Context(name) => {
                let context = Cow::Borrowed(&site.options.contexts[name]);
                return Ok(Tree { context, identity: None });
            }
        };
        Ok(Tree { context: Cow::Owned(Context::of_image(view)), identity: Some(identity) })
    }

    /// Whom `--chown` means.
    fn owner(&mut self, files: &Copy) -> Result<Option<Owner>, StepError> {
        let Some(text) = &files.chown else { return Ok(None) };
        let view = self.stage.view()?;
        let mut read = |path: &str| -> Result<Option<Vec<u8>>, PathError> {
            view.file(path.as_bytes()).map_err(|error| at_path(path.as_bytes(), error))
        };
        Ok(Some(Owner::resolve(text, &mut read)?))
    }

    fn resolve(
        &mut self,
        copying: &Copying<'_>,
        context: &Context,
        fetched: &BTreeMap<String, copy::Fetched>,
    ) -> Result<copy::Resolved, StepError> {
        let files = copying.files;
        let view = self.stage.view()?;
        let owner = self.owner(files)?;
        let mode = files.chmod.as_deref().map(copy::Mode::parse).transpose()?;
        let unpack = |path: &Path| self.stage.archive(path);
        let unpacks = copying.add.is_some_and(|add| add.unpack != Some(false));
        let request = copy::Request {
            sources: &files.sources,
            dest: &files.dest,
            working_dir: self.config.working_dir(),
            rule: self.site.plan.copy_rule(),
            context,
            fetched,
            unpack: unpacks.then_some(&unpack),
            parents: files.parents,
            exclude: &files.exclude,
            owner,
            mode,
            made_at: timestamp(self.site.now),
        };
        let mut look = |path: &[u8]| -> Result<Place, PathError> {
            // It then lands on directories alone, whatever is there (Dockerfile reference,
            // "COPY --link").
            if files.link {
                return Ok(Place::Absent(path.to_owned()));
            }
            view.place(path)
        };
        Ok(copy::resolve(&request, &mut look)?.storable()?)
    }
}

fn warn_at(step: &Step, what: &dyn Display, report: &mut dyn FnMut(Event)) {
    report(Event::Warning(format!("{}: {what}", step.location)));
}

/// Tells what is probably not meant.
fn warn(resolved: &copy::Resolved, step: &Step, checks: &Checks, report: &mut dyn FnMut(Event)) {
    let at = &step.location;
    let rule = Rule::CopyRulesDiffer;
    if let Some(difference) = resolved.difference.as_ref().filter(|_| !checks.skips(rule)) {
        report(Event::Warning(format!("{at}: {difference} [{rule}]")));
    }
    for socket in &resolved.skipped {
        let path = socket.display();
        report(Event::Warning(format!("{at}: socket {path} is left out")));
    }
    for path in &resolved.replaced {
        let path = String::from_utf8_lossy(path);
        let what =
            format!("{at}: the image's directory /{path} is replaced, with all that is in it");
        report(Event::Warning(what));
    }
}
