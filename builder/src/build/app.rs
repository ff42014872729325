//! APP, CNI and CSI: the files of an application, in a directory of their own; and what the other
//! words of cluster images say, which goes into the image's annotation.
//!
//! | source | lands in `application/apps/NAME/` |
//! |---|---|
//! | `local://FILE`, `http(s)://.../FILE` | `FILE` |
//! | `local://DIR` | what is in it |
//! | a chart's archive from anywhere, `oci://` | what is in the archive's one directory |
//!
//! An application that is defined anew has the files of its last definition alone: its directory
//! is made opaque.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use kfs_charts::Chart;
use kfs_fs::error::AtPath;
use kfs_fs::layer::{Entry, Kind};
use kfs_fs::oci::reference::Name;
use serde_json::Value;

use super::explain::{FILES, Looked, Parts, TIME};
use super::items::digest_of;
use super::steps::{Made, StageBuild, timestamp};
use super::{BuildError, Event, Failed, StepError};
use crate::cluster::app::{APPS, Application};
use crate::cluster::extension::{Extension, LaunchError};
use crate::config::history;
use crate::context::Lookup;
use crate::copy::{self, Content, CopyItem, Fetched, Owner, Place};
use crate::diff::OPAQUE;
use crate::kubefile::{
    App, AppSource, Command, CopyRule, Dialect, Instruction, KubefileError, Location, Problem,
    Source,
};
use crate::plan::Step;
use crate::remote::{Depot, LaidOut, Remotes, Wish, fetch_chart};

/// Permission bits of a file that was fetched.
const MODE: u32 = 0o644;

/// What a stage says of the cluster image that it makes.
#[derive(Debug)]
pub(super) struct ClusterImage {
    pub(super) extension: Extension,
    /// The last CMDS.
    cmds: Vec<String>,
    /// All CMDs.
    cmd: Vec<String>,
    /// Where the applications of this stage are defined.
    defined: BTreeMap<String, Location>,
    launch: Option<Location>,
}

impl ClusterImage {
    /// Of a stage on a base; none if neither the file nor the base is of cluster images.
    pub(super) fn new(dialect: Dialect, base: Option<Extension>) -> Option<Self> {
        if dialect != Dialect::Kubefile && base.is_none() {
            return None;
        }
        let mut extension = Extension::of_base(base);
        let version = Value::from(env!("CARGO_PKG_VERSION"));
        extension.build_client.insert("kfsVersion".to_owned(), version);
        let (cmds, cmd, defined) = (Vec::new(), Vec::new(), BTreeMap::new());
        Some(Self { extension, cmds, cmd, defined, launch: None })
    }

    /// Takes what an instruction says beside its layer.
    fn apply(&mut self, instruction: &Instruction, location: &Location) {
        match instruction {
            Instruction::AppCmds(cmds) => {
                if let Some(app) = self.extension.application(&cmds.app) {
                    app.cmds.clone_from(&cmds.commands);
                }
            }
            Instruction::AppEnv(env) => {
                if let Some(app) = self.extension.application(&env.app) {
                    let pairs = env.pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone()));
                    app.env.extend(pairs);
                }
            }
            Instruction::Launch(launch) => {
                self.extension.launch.apps.clone_from(&launch.apps);
                self.launch = Some(location.clone());
            }
            Instruction::Cmds(cmds) => self.cmds.clone_from(&cmds.commands),
            Instruction::Cmd(cmd) => match &cmd.command {
                Command::Exec(lines) => self.cmd.extend(lines.iter().cloned()),
                Command::Shell(line) => self.cmd.push(line.clone()),
            },
            Instruction::Env(env) => {
                let pairs = env.pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone()));
                self.extension.env.extend(pairs);
            }
            _ => {}
        }
    }

    /// The extension, once all steps are done. Each application of the stage and each that is
    /// launched has to say how it starts. Beside an ENTRYPOINT, CMD is Sealos's and stays in the
    /// config alone.
    pub(super) fn finish(mut self, has_entrypoint: bool) -> Result<Extension, BuildError> {
        self.extension.launch.cmds = self.cmds;
        if !has_entrypoint {
            self.extension.launch.cmds.append(&mut self.cmd);
        }
        for (name, location) in &self.defined {
            let started = self.extension.commands(std::slice::from_ref(name));
            started.map_err(|error| Failed::at(location.clone(), error))?;
        }
        if let Some(location) = self.launch
            && let Err(error) = self.extension.commands(&self.extension.launch.apps)
        {
            return Err(Failed::at(location, error).into());
        }
        Ok(self.extension)
    }
}

/// Checks that the applications that lines name are defined above them or by the base, whose
/// applications are `known`. Returns those that there are at the end.
pub(super) fn check_names(
    steps: &[Step],
    mut known: BTreeSet<String>,
) -> Result<BTreeSet<String>, KubefileError> {
    for step in steps {
        let named = match &step.instruction {
            Instruction::App(app) | Instruction::Cni(app) | Instruction::Csi(app) => {
                known.insert(app.name.clone());
                continue;
            }
            Instruction::AppCmds(cmds) => std::slice::from_ref(&cmds.app),
            Instruction::AppEnv(env) => std::slice::from_ref(&env.app),
            Instruction::Launch(launch) => &launch.apps[..],
            _ => continue,
        };
        if let Some(name) = named.iter().find(|name| !known.contains(*name)) {
            let known = known.into_iter().collect();
            let error = LaunchError::NoApplication { name: name.clone(), known };
            let problem = Problem::Syntax(error.to_string());
            let error = KubefileError::new(&step.location, problem);
            return Err(error.suggest("define it with APP above this line"));
        }
    }
    Ok(known)
}

/// The sources of an application, as COPY takes them.
struct Sources {
    texts: Vec<Source>,
    fetched: BTreeMap<String, Fetched>,
    _laid_out: LaidOut,
}

impl StageBuild<'_> {
    /// Takes what an instruction says of the cluster image.
    pub(super) fn note_cluster(&mut self, step: &Step) {
        if let Some(cluster) = &mut self.cluster {
            cluster.apply(&step.instruction, &step.location);
        }
    }

    pub(super) fn app(
        &mut self,
        app: &App,
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<Made, StepError> {
        let sources = self.app_sources(app)?;
        let dest = format!("/{APPS}/{}/", app.name);
        let resolved = self.resolve_app(&sources, &sources.texts, &dest)?;
        for socket in &resolved.skipped {
            let (at, path) = (&step.location, socket.display());
            report(Event::Warning(format!("{at}: socket {path} is left out")));
        }
        let application = self.application(app, &sources, &dest, &resolved.items)?;
        let mut items = resolved.items;
        self.make_opaque(&app.name, &mut items)?;
        let (digest, marks) = digest_of(&items, &self.site.options.interrupts)?;
        let mut parts = Parts::default();
        parts.add("the instruction", "app");
        let time = self.site.given_time().filter(|_| resolved.makes_times);
        time.into_iter().for_each(|time| parts.show(TIME, time));
        parts.add(FILES, digest.to_string());
        let key = parts.key(self.key);
        let found = self.site.cache.find(key)?;
        let looked = Looked { files: Some(&marks), ..self.looked(step, parts, key) };
        self.explain(looked, found.as_ref(), report)?;
        let made = match found {
            Some(hit) => self.push_cached(hit),
            None => {
                let view = self.stage.view()?;
                let new = self.stage.copy(&items, Some(&view), &mut |_| ())?;
                let word = step.instruction.keyword().as_str();
                let text =
                    history::copy(word, resolved.kind, &digest, dest.trim_start_matches('/'));
                self.push_new(new, key, text, None)?
            }
        };
        if let Some(cluster) = &mut self.cluster {
            cluster.extension.put(application);
            cluster.defined.insert(app.name.clone(), step.location.clone());
        }
        Ok(made)
    }

    fn app_sources(&self, app: &App) -> Result<Sources, StepError> {
        let site = self.site;
        let depot = Depot {
            writer: site.writer,
            cache: &site.cache,
            interrupts: &site.options.interrupts,
            agent: None,
        };
        // The plan has checked that it is one.
        let checksum = app.checksum.as_deref().and_then(|text| text.parse().ok());
        let urls = app.sources.iter().filter_map(|source| match source {
            AppSource::Remote(url) => Some(url.as_str()),
            AppSource::Local(_) | AppSource::Chart(_) => None,
        });
        let wish = Wish { checksum, commit: None, dest: "", unpack: false, keep_git_dir: false };
        let laid_out = Remotes::find(urls, wish, depot)?.lay_out(depot)?;
        let mut fetched = laid_out.sources.clone();
        for fetched in fetched.values_mut() {
            let Some(name) = fetched.file.clone() else { continue };
            let place = fetched.context.root().join(&name);
            match self.chart_tree(&place, &name)? {
                Some(tree) => *fetched = tree,
                // Whoever runs the application has to read it.
                None => {
                    fs::set_permissions(&place, Permissions::from_mode(MODE)).at("chmod", &place)?
                }
            }
        }
        for source in &app.sources {
            match source {
                AppSource::Remote(_) => {}
                AppSource::Local(path) => {
                    if let Some(tree) = self.local_chart(path)? {
                        fetched.insert(path.clone(), tree);
                    }
                }
                AppSource::Chart(text) => {
                    let name: Name = text.parse().map_err(StepError::Reference)?;
                    let digest = fetch_chart(&name, checksum, depot)?;
                    let place = site.writer.blob_path(digest);
                    let tree = self.chart_tree(&place, &format!("oci://{text}.tgz"))?;
                    let tree = tree.ok_or_else(|| StepError::NotAChart(format!("oci://{text}")))?;
                    fetched.insert(text.clone(), tree);
                }
            }
        }
        let text = |source: &AppSource| {
            let (AppSource::Local(text) | AppSource::Remote(text) | AppSource::Chart(text)) =
                source;
            Source::Path(text.clone())
        };
        let texts = app.sources.iter().map(text).collect();
        Ok(Sources { texts, fetched, _laid_out: laid_out })
    }

    /// The chart in an archive of the context; none if it is not one.
    fn local_chart(&self, path: &str) -> Result<Option<Fetched>, StepError> {
        let context = &self.site.options.context;
        // Of a context that is no directory, the paths are not of this machine.
        if context.view().is_some() {
            return Ok(None);
        }
        match context.lookup(Path::new(path), true) {
            Ok(Lookup::Exists(place)) if place.is_file() => self.chart_tree(&place, path),
            // COPY says what is wrong with it, or it is a pattern.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// What is in the one directory of a chart's archive; none if the file, which is called
    /// `name`, is no such archive.
    fn chart_tree(&self, place: &Path, name: &str) -> Result<Option<Fetched>, StepError> {
        if !(name.ends_with(".tgz") || name.ends_with(".tar.gz")) {
            return Ok(None);
        }
        let Some(archive) = self.stage.archive(place)? else { return Ok(None) };
        let root = archive.root().to_owned();
        let [directory] = &archive.list(&root)?[..] else { return Ok(None) };
        let directory = root.join(directory);
        if archive.stat(&directory.join("Chart.yaml"))?.is_none() {
            return Ok(None);
        }
        // What Helm would refuse (links, names that lead out) is refused before it is unpacked.
        let file = File::open(place).at("open", place)?;
        let chart = Chart::from_archive(name, BufReader::new(file));
        chart.map_err(|error| StepError::Chart(Box::new(error)))?;
        let context = archive.excluding(&directory, &[]).map_err(copy::CopyError::Exclude)?;
        Ok(Some(Fetched { context, file: None, unpack: false }))
    }

    fn resolve_app(
        &mut self,
        sources: &Sources,
        texts: &[Source],
        dest: &str,
    ) -> Result<copy::Resolved, StepError> {
        let view = self.stage.view()?;
        let request = copy::Request {
            sources: texts,
            dest,
            working_dir: "/",
            rule: CopyRule::Docker,
            context: &self.site.options.context,
            fetched: &sources.fetched,
            unpack: None,
            parents: false,
            exclude: &[],
            owner: Some(Owner::ROOT),
            mode: None,
            made_at: timestamp(self.site.now),
        };
        // What an earlier application of the name has there is hidden.
        let inside = dest.trim_start_matches('/').as_bytes();
        let mut look = |path: &[u8]| match path.strip_prefix(inside) {
            Some(_) => Ok(Place::Absent(path.to_owned())),
            None => view.place(path),
        };
        Ok(copy::resolve(&request, &mut look)?.storable()?)
    }

    /// What the files say of the application: those of one source after those of the other.
    fn application(
        &mut self,
        app: &App,
        sources: &Sources,
        dest: &str,
        items: &[CopyItem],
    ) -> Result<Application, StepError> {
        let names = |items: &[CopyItem]| {
            let below = dest.trim_start_matches('/').as_bytes();
            let files = items.iter().filter(|item| !matches!(item.entry.kind, Kind::Directory));
            let names = files.filter_map(|item| item.entry.path.strip_prefix(below));
            names.filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect::<Vec<_>>()
        };
        let mut files = Vec::new();
        if let [_] = &sources.texts[..] {
            files = names(items);
        } else {
            for text in &sources.texts {
                let one = self.resolve_app(sources, std::slice::from_ref(text), dest)?;
                let known: BTreeSet<String> = files.iter().cloned().collect();
                files.extend(names(&one.items).into_iter().filter(|name| !known.contains(name)));
            }
        }
        Ok(Application::of_files(&app.name, &files))
    }

    /// Hides the files of an earlier application of the name.
    fn make_opaque(&mut self, name: &str, items: &mut Vec<CopyItem>) -> Result<(), StepError> {
        let directory = format!("{APPS}/{name}").into_bytes();
        if !matches!(self.stage.view()?.place(&directory)?, Place::Directory(_)) {
            return Ok(());
        }
        let inside = [&directory[..], b"/"].concat();
        let at = items.iter().position(|item| item.entry.path.starts_with(&inside));
        let entry = Entry {
            path: [&inside[..], OPAQUE].concat(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Default::default(),
            size: 0,
            xattrs: Vec::new(),
        };
        items.insert(
            at.unwrap_or(items.len()),
            CopyItem { entry, content: Content::None, stamp: None },
        );
        Ok(())
    }
}
