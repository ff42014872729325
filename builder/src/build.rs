//! The loop that builds an image: it reads like the file it builds.

mod image;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use kfs_fs::digest::Digest;
use kfs_fs::error::PathError;
use kfs_fs::filesystem::{ImageFs, OpenError};
use kfs_fs::layer::writer::Compression;
use kfs_fs::layer::{Entry, Kind, Timestamp};
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::manifest::{History, ImageConfig, Platform};
use kfs_fs::oci::reference::{ReferenceError, Source as ImageSource};
use kfs_fs::oci::store::{Part, Store, StoreError, TempDir, Writer};
use kfs_fs::oci::{self, Image, Layer};

use crate::cache::{self, Cache};
use crate::config::{StageConfig, history};
use crate::copy::{self, BadMode, Content, CopyError, CopyItem, Owner, OwnerError, Place};
use crate::exec::{Executor, Isolation};
use crate::kubefile::{Command, Copy, Instruction, KubefileError, Location, Run, Workdir};
use crate::plan::{Base, Plan, Step};
use crate::rootfs::{self, RootfsError};
use crate::stage::{RunRequest, Stage, StageError};
use crate::view::at_path;

pub use report::{BuildError, Event, Failed, StepError};

/// What to build, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The build context's directory, absolute.
    pub context: PathBuf,
    /// The name of the image, if it gets one.
    pub tag: Option<String>,
    /// Do every step anew.
    pub no_cache: bool,
    /// How new layers are compressed.
    pub compression: Compression,
    /// How RUN is shut in.
    pub isolation: Isolation,
    /// The time that config, history and made directories get.
    pub now: SystemTime,
    /// What the image is built for.
    pub target: Platform,
}

/// A finished image.
#[derive(Clone, Debug)]
pub struct Built {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Digest of the config: Docker's image ID.
    pub id: Digest,
}

/// Builds the image that a plan asks for, into a store. `report` is told what happens as it
/// happens.
///
/// If a RUN is in the plan, this process gets a mount namespace of its own, in which all mounts of
/// the build lie.
pub fn build(
    plan: &Plan,
    options: &Options,
    store: &Store,
    executor: &dyn Executor,
    report: &mut dyn FnMut(Event<'_>),
) -> Result<Built, BuildError> {
    for warning in plan.warnings() {
        report(Event::Warning(warning.to_string()));
    }
    let writer = store.writer()?;
    let work = store.temp_dir()?;
    let base = open_base(plan, options, store)?;
    let steps = plan.steps(&base.config)?;
    if steps.iter().any(|step| matches!(step.instruction, Instruction::Run(_))) {
        rootfs::enter_private_namespace()
            .map_err(|error| Failed::at(plan.from().location.clone(), StageError::from(error)))?;
    }
    let from = plan.from();
    report(Event::Step { index: 1, total: plan.total(), text: &from.text });
    let started = Instant::now();
    let base_fs = base.open(store, report)?;
    report(Event::Done { took: started.elapsed(), layer: None });
    let mut build = Build::new(plan, options, &writer, &work, executor, base, base_fs);
    for step in &steps {
        report(Event::Step { index: step.index, total: step.total, text: &step.text });
        build.step(step, report).map_err(|error| Failed::at(step.location.clone(), error))?;
    }
    build.finish()
}

/// What a stage begins with.
#[derive(Debug)]
struct BaseImage {
    location: Location,
    /// None for scratch.
    image: Option<Image>,
    config: ImageConfig,
}

fn open_base(plan: &Plan, options: &Options, store: &Store) -> Result<BaseImage, BuildError> {
    let location = plan.from().location.clone();
    let (name, platform) = match plan.base() {
        Base::Scratch => {
            let config = ImageConfig {
                architecture: options.target.architecture.clone(),
                os: options.target.os.clone(),
                variant: options.target.variant.clone(),
                ..ImageConfig::default()
            };
            return Ok(BaseImage { location, image: None, config });
        }
        Base::Image { name, platform } => (name, platform),
    };
    let failed = |error: StepError| Failed::at(location.clone(), error);
    let source: ImageSource = name.parse().map_err(|error: ReferenceError| failed(error.into()))?;
    let image = oci::open(&source, store).map_err(|error| failed(error.into()))?;
    let config = image.config.clone();
    let found = format!("{}/{}", config.os, config.architecture);
    let wanted = platform
        .clone()
        .unwrap_or_else(|| format!("{}/{}", options.target.os, options.target.architecture));
    if !wanted.starts_with(&found) {
        let name = name.clone();
        return Err(failed(StepError::Platform { name, found, wanted }).into());
    }
    Ok(BaseImage { location, image: Some(image), config })
}

impl BaseImage {
    fn open(
        &self,
        store: &Store,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Arc<ImageFs>>, BuildError> {
        let Some(image) = &self.image else { return Ok(None) };
        let read = AtomicU64::new(0);
        let count = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        };
        let opened = ImageFs::open(image, &store.dir(Part::Indexes), &count);
        let fs = opened.map_err(|error| Failed::at(self.location.clone(), error))?;
        let bytes = read.into_inner();
        if bytes > 0 {
            report(Event::Indexed { bytes });
        }
        Ok(Some(Arc::new(fs)))
    }
}

/// A build on its way.
struct Build<'a> {
    plan: &'a Plan,
    options: &'a Options,
    writer: &'a Writer,
    executor: &'a dyn Executor,
    cache: Cache,
    base: BaseImage,
    stage: Stage,
    config: StageConfig,
    history: Vec<History>,
    /// The key of the last step that made a layer.
    key: Digest,
}

impl<'a> Build<'a> {
    fn new(
        plan: &'a Plan,
        options: &'a Options,
        writer: &'a Writer,
        work: &TempDir,
        executor: &'a dyn Executor,
        base: BaseImage,
        base_fs: Option<Arc<ImageFs>>,
    ) -> Self {
        let target = &options.target;
        let platform = [&target.os[..], &target.architecture[..]];
        let origin = base.image.as_ref().map_or_else(|| Digest::of(b"scratch"), |i| i.digest);
        Self {
            plan,
            options,
            writer,
            executor,
            cache: Cache::new(writer, options.no_cache),
            stage: Stage::new(writer, work.path(), base_fs, options.compression),
            config: StageConfig::new(base.config.clone(), plan.dialect()),
            history: Vec::new(),
            key: cache::key(origin, &platform),
            base,
        }
    }

    fn step(&mut self, step: &Step, report: &mut dyn FnMut(Event<'_>)) -> Result<(), StepError> {
        let started = Instant::now();
        let layer = match &step.instruction {
            Instruction::Copy(copy) => Some(self.copy(copy, step, report)?),
            Instruction::Run(run) => Some(self.run(run, step, report)?),
            Instruction::Workdir(workdir) => self.workdir(workdir, step)?,
            _ => {
                self.remember(history::config_only(&step.text), true);
                None
            }
        };
        self.config.apply(&step.instruction)?;
        let layer = layer.map(|layer| (layer.descriptor.digest, layer.descriptor.size));
        report(Event::Done { took: started.elapsed(), layer });
        Ok(())
    }

    fn remember(&mut self, created_by: String, empty_layer: bool) {
        let created_by = Some(created_by);
        self.history.push(History { created_by, empty_layer, ..History::default() });
    }

    /// Adds a layer that a step made or the cache had.
    fn push(&mut self, layer: Layer, key: Digest, created_by: String) -> Layer {
        self.stage.push(layer.clone());
        self.key = key;
        self.remember(created_by, false);
        layer
    }

    fn copy(
        &mut self,
        copy: &Copy,
        step: &Step,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Layer, StepError> {
        let resolved = self.resolve(copy)?;
        if let Some(difference) = &resolved.difference {
            report(Event::Warning(format!("{}: {difference}", step.location)));
        }
        let words = format!("{copy:?}");
        let rule = self.plan.copy_rule().to_string();
        let started_from =
            cache::key(self.key, &["copy", self.config.working_dir(), &words, &rule]);
        let text = |digest: &Digest| history::copy(resolved.kind, digest, &copy.dest);
        // Without an earlier COPY like this, reading the files twice would only cost time.
        if self.cache.has(started_from) {
            let digest = digest_of(&resolved.items)?;
            let key = cache::key(started_from, &[&digest.to_string()]);
            if let Some(layer) = self.cache.find(key)? {
                report(Event::Cached);
                return Ok(self.push(layer, key, text(&digest)));
            }
        }
        let mut digest = ItemsDigest::new(&resolved.items);
        let new = self.stage.copy(&resolved.items, &mut |piece| digest.content(piece))?;
        let digest = digest.finish();
        let layer = self.writer.put_layer(new)?;
        let key = cache::key(started_from, &[&digest.to_string()]);
        self.cache.record(key, &layer)?;
        self.cache.mark(started_from)?;
        Ok(self.push(layer, key, text(&digest)))
    }

    fn resolve(&mut self, copy: &Copy) -> Result<copy::Resolved, StepError> {
        let view = self.stage.view()?;
        let mut read = |path: &str| -> Result<Option<Vec<u8>>, PathError> {
            view.file(path.as_bytes()).map_err(|error| at_path(path.as_bytes(), error))
        };
        let owner = match &copy.chown {
            Some(owner) => Owner::resolve(owner, &mut read)?,
            None => Owner::ROOT,
        };
        let mode = copy.chmod.as_deref().map(copy::parse_mode).transpose()?;
        let request = copy::Request {
            sources: &copy.sources,
            dest: &copy.dest,
            working_dir: self.config.working_dir(),
            rule: self.plan.copy_rule(),
            context: &self.options.context,
            owner,
            mode,
            made_at: timestamp(self.options.now),
        };
        let mut look = |path: &[u8]| -> Result<Place, PathError> {
            view.place(path).map_err(|error| at_path(path, error))
        };
        Ok(copy::resolve(&request, &mut look)?)
    }

    fn run(
        &mut self,
        run: &Run,
        step: &Step,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Layer, StepError> {
        let request = self.request(run, step);
        let text = history::run(&run.command, &self.config.shell(), &step.build_args);
        let key = self.run_key(&request);
        if let Some(layer) = self.cache.find(key)? {
            report(Event::Cached);
            return Ok(self.push(layer, key, text));
        }
        let mut request = request;
        request.env.extend(self.plan.proxies().into_iter().map(|(k, v)| (k.into(), v.into())));
        let mut output = |line: &[u8]| report(Event::Output(line));
        let ran = self.stage.run(self.executor, &request, &mut output)?;
        for socket in &ran.skipped {
            let path = String::from_utf8_lossy(socket);
            report(Event::Warning(format!("{}: socket /{path} is left out", step.location)));
        }
        let Some(new) = ran.layer else {
            let (status, tail) = (ran.outcome.status, ran.outcome.tail);
            return Err(StepError::Run { command: step.text.clone(), status, tail });
        };
        let layer = self.writer.put_layer(new)?;
        self.cache.record(key, &layer)?;
        Ok(self.push(layer, key, text))
    }

    fn request(&self, run: &Run, step: &Step) -> RunRequest {
        let argv: Vec<String> = match &run.command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => self.config.shell().into_iter().chain([line.clone()]).collect(),
        };
        let config = &self.config.image().config;
        let variables = config.env.iter().filter_map(|pair| pair.split_once('='));
        let args = step.build_args.iter().map(|(name, value)| (&name[..], &value[..]));
        RunRequest {
            argv: argv.into_iter().map(OsString::from).collect(),
            env: variables.chain(args).map(|(k, v)| (k.into(), v.into())).collect(),
            cwd: PathBuf::from(self.config.working_dir()),
            user: config.user.clone(),
            isolation: self.options.isolation,
        }
    }

    fn run_key(&self, request: &RunRequest) -> Digest {
        let mut parts = vec!["run".to_owned(), request.user.clone()];
        parts.push(format!("{:?}", request.isolation));
        parts.push(request.cwd.display().to_string());
        parts.push(format!("{:?}", request.argv));
        parts.extend(request.env.iter().map(|pair| format!("{pair:?}")));
        cache::key(self.key, &parts.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// WORKDIR makes its directory if the image has none.
    fn workdir(&mut self, workdir: &Workdir, step: &Step) -> Result<Option<Layer>, StepError> {
        let path = crate::config::join(self.config.working_dir(), &workdir.path);
        let text = history::config_only(&step.text);
        let items = self.missing_directories(path.as_bytes())?;
        if items.is_empty() {
            self.remember(text, true);
            return Ok(None);
        }
        let key = cache::key(self.key, &["workdir", &path]);
        let layer = match self.cache.find(key)? {
            Some(layer) => layer,
            None => {
                let layer = self.writer.put_layer(self.stage.copy(&items, &mut |_| ())?)?;
                self.cache.record(key, &layer)?;
                layer
            }
        };
        Ok(Some(self.push(layer, key, text)))
    }

    /// The directories on the way to a path that the image lacks.
    fn missing_directories(&mut self, path: &[u8]) -> Result<Vec<CopyItem>, StepError> {
        let view = self.stage.view()?;
        let mut items = Vec::new();
        let mut real = Vec::new();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            if !real.is_empty() {
                real.push(b'/');
            }
            real.extend_from_slice(name);
            let place = view.place(&real).map_err(|error| at_path(&real, error))?;
            match place {
                Place::Directory(found) => real = found,
                Place::Other => {
                    let path = String::from_utf8_lossy(&real).into_owned();
                    return Err(StepError::WorkdirIsAFile(path));
                }
                Place::Absent => items.push(CopyItem {
                    entry: Entry {
                        path: real.clone(),
                        kind: Kind::Directory,
                        mode: 0o755,
                        uid: 0,
                        gid: 0,
                        mtime: timestamp(self.options.now),
                        size: 0,
                        xattrs: Vec::new(),
                    },
                    content: Content::None,
                }),
            }
        }
        Ok(items)
    }

    fn finish(self) -> Result<Built, BuildError> {
        let base = self.base.image.as_ref();
        let new = image::New {
            base,
            layers: self.stage.layers(),
            config: self.config.into_image(),
            history: self.history,
            now: humantime::format_rfc3339(self.options.now).to_string(),
        };
        image::store(self.writer, &self.cache, new, self.options.tag.as_deref())
    }
}

/// The digest of what a COPY copies: paths, kinds, modes, owners, contents; not times, as Docker
/// has it, so that a fresh checkout finds the cache.
struct ItemsDigest<'a> {
    hasher: kfs_fs::digest::Hasher,
    items: std::slice::Iter<'a, CopyItem>,
    /// Content of the current file that is still to come.
    left: u64,
}

impl<'a> ItemsDigest<'a> {
    fn new(items: &'a [CopyItem]) -> Self {
        let mut digest = Self { hasher: Default::default(), items: items.iter(), left: 0 };
        digest.next_file();
        digest
    }

    /// Hashes the metadata of items up to the next one with content.
    fn next_file(&mut self) {
        while self.left == 0 {
            let Some(CopyItem { entry, .. }) = self.items.next() else { return };
            let Entry { path, kind, mode, uid, gid, size, xattrs, mtime: _ } = entry;
            let text = format!("{path:?} {kind:?} {mode:o} {uid} {gid} {size} {xattrs:?}\n");
            self.hasher.update(text.as_bytes());
            self.left = *size;
        }
    }

    fn content(&mut self, piece: &[u8]) {
        self.hasher.update(piece);
        self.left = self.left.saturating_sub(piece.len() as u64);
        self.next_file();
    }

    fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

/// Reads all files of a COPY for their digest.
fn digest_of(items: &[CopyItem]) -> Result<Digest, StepError> {
    use std::io::Read as _;

    use kfs_fs::error::AtPath as _;
    let mut digest = ItemsDigest::new(items);
    let mut piece = vec![0; 1 << 18];
    for item in items {
        match &item.content {
            Content::None => {}
            Content::Inline(bytes) => digest.content(bytes),
            Content::File(path) => {
                let file = std::fs::File::open(path).at("open", path)?;
                let mut file = file.take(item.entry.size);
                loop {
                    let n = file.read(&mut piece).at("read", path)?;
                    if n == 0 {
                        break;
                    }
                    digest.content(&piece[..n]);
                }
            }
        }
    }
    Ok(digest.finish())
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos: since.subsec_nanos() }
}

/// A context that cannot be used.
pub fn check_context(path: &Path) -> Result<PathBuf, PathError> {
    use kfs_fs::error::AtPath as _;
    let context = path.canonicalize().at("open the build context", path)?;
    std::fs::read_dir(&context).at("read the build context", path)?;
    Ok(context)
}
