//! The loop that builds an image: it reads like the file it builds.

mod image;
mod platform;
mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use kfs_fs::digest::Digest;
use kfs_fs::error::{AtPath, PathError};
use kfs_fs::filesystem::{ImageFs, OpenError};
use kfs_fs::layer::writer::{Compression, NewLayer};
use kfs_fs::layer::{Entry, Kind, Timestamp};
use kfs_fs::oci::layout::LayoutError;
use kfs_fs::oci::manifest::{Descriptor, History, ImageConfig, Platform};
use kfs_fs::oci::reference::{ReferenceError, Source as ImageSource};
use kfs_fs::oci::store::{Part, Store, StoreError, TempDir, Writer};
use kfs_fs::oci::{self, Image, Layer};

use crate::cache::{self, Cache, Hit};
use crate::config::{StageConfig, history};
use crate::context::Context;
use crate::copy::{self, BadMode, Content, CopyError, CopyItem, Owner, OwnerError, Place};
use crate::exec::{Executor, Isolation};
use crate::interrupt::{Interrupted, Interrupts};
use crate::kubefile::{Command, Copy, Instruction, KubefileError, Location, Run, Workdir};
use crate::plan::{Base, Plan, Step};
use crate::rootfs::{self, RootfsError};
use crate::stage::{RunRequest, Stage, StageError};
use crate::view::at_path;
use platform::Wanted;

pub use report::{BuildError, Event, Failed, StepError};

/// What to build, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where COPY takes files from.
    pub context: Context,
    /// The name of the image, if it gets one.
    pub tag: Option<String>,
    /// Do every step anew.
    pub no_cache: bool,
    /// How new layers are compressed.
    pub compression: Compression,
    /// How RUN is shut in.
    pub isolation: Isolation,
    /// The time that config, history and made directories get; none for the time at which each
    /// was made.
    pub timestamp: Option<SystemTime>,
    /// What the image is built for.
    pub target: Platform,
    /// What ends the build before its time.
    pub interrupts: Rc<Interrupts>,
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
    report(Event::Done { took: started.elapsed(), layer: None, cached: false });
    // Up to here there was nothing to tidy up.
    let hold = options.interrupts.hold().at("hold back signals of", Path::new("/proc/self"));
    hold.map_err(StoreError::from)?;
    let work = store.temp_dir()?;
    let mut build = Build::new(plan, options, &writer, &work, executor, base, base_fs);
    for step in &steps {
        report(Event::Step { index: step.index, total: step.total, text: &step.text });
        let done = options.interrupts.check().map_err(StepError::from);
        let done = done.and_then(|()| build.step(step, report));
        done.map_err(|error| Failed::at(step.location.clone(), error))?;
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
    let found = Wanted::of(&config);
    let wanted = match platform {
        Some(text) => Wanted::parse(text),
        None => Wanted::from(&options.target),
    };
    if !wanted.accepts(&found) {
        let (name, found, wanted) = (name.clone(), found.to_string(), wanted.to_string());
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

/// What a step added.
struct Made {
    layer: Descriptor,
    /// By an earlier build.
    cached: bool,
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
    /// When the build began.
    now: SystemTime,
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
        // A layer is the same one only in the same form: who asks for gzip is not to get zstd.
        let compression = format!("{:?}", options.compression);
        let parts = [&target.os[..], &target.architecture[..], &compression[..]];
        let origin = base.image.as_ref().map_or_else(|| Digest::of(b"scratch"), |i| i.digest);
        Self {
            plan,
            options,
            writer,
            executor,
            cache: Cache::new(writer, options.no_cache),
            stage: Stage::new(writer, work.path(), base_fs, options),
            config: StageConfig::new(base.config.clone(), plan.dialect()),
            history: Vec::new(),
            now: options.timestamp.unwrap_or_else(SystemTime::now),
            key: cache::key(origin, &parts),
            base,
        }
    }

    fn step(&mut self, step: &Step, report: &mut dyn FnMut(Event<'_>)) -> Result<(), StepError> {
        let started = Instant::now();
        let made = match &step.instruction {
            Instruction::Copy(copy) => Some(self.copy(copy, step, report)?),
            Instruction::Run(run) => Some(self.run(run, step, report)?),
            Instruction::Workdir(workdir) => self.workdir(workdir, step)?,
            _ => {
                self.remember(history::config_only(&step.text), None);
                None
            }
        };
        self.config.apply(&step.instruction)?;
        let cached = made.as_ref().is_some_and(|made| made.cached);
        let layer = made.map(|Made { layer, .. }| (layer.digest, layer.size));
        report(Event::Done { took: started.elapsed(), layer, cached });
        Ok(())
    }

    /// Adds a step to the history; one that makes no layer has no time of its own.
    fn remember(&mut self, created_by: String, created: Option<String>) {
        let (created_by, empty_layer) = (Some(created_by), created.is_none());
        self.history.push(History { created, created_by, empty_layer, ..History::default() });
    }

    /// The time of what is made now.
    fn created(&self) -> String {
        humantime::format_rfc3339(self.now).to_string()
    }

    /// Stores a layer that a step made, remembers it under its key and adds it to the image.
    fn push_new(
        &mut self,
        new: NewLayer,
        key: Digest,
        created_by: String,
    ) -> Result<Made, StepError> {
        let layer = self.writer.put_layer(new)?;
        let created = self.created();
        self.cache.record(key, &layer, &created)?;
        Ok(self.push(layer, key, created_by, created, false))
    }

    /// Adds a layer that the cache had.
    fn push_cached(&mut self, hit: Hit, key: Digest, created_by: String) -> Made {
        let created = match self.options.timestamp {
            Some(_) => self.created(),
            None => hit.created,
        };
        self.push(hit.layer, key, created_by, created, true)
    }

    fn push(
        &mut self,
        layer: Layer,
        key: Digest,
        created_by: String,
        created: String,
        cached: bool,
    ) -> Made {
        let made = Made { layer: layer.descriptor.clone(), cached };
        self.stage.push(layer);
        self.key = key;
        self.remember(created_by, Some(created));
        made
    }

    fn copy(
        &mut self,
        copy: &Copy,
        step: &Step,
        report: &mut dyn FnMut(Event<'_>),
    ) -> Result<Made, StepError> {
        let resolved = self.resolve(copy)?;
        if let Some(difference) = &resolved.difference {
            report(Event::Warning(format!("{}: {difference}", step.location)));
        }
        for socket in &resolved.skipped {
            let path = socket.display();
            report(Event::Warning(format!("{}: socket {path} is left out", step.location)));
        }
        let words = format!("{copy:?}");
        let rule = self.plan.copy_rule().to_string();
        let started_from =
            cache::key(self.key, &["copy", self.config.working_dir(), &words, &rule]);
        let text = |digest: &Digest| history::copy(resolved.kind, digest, &copy.dest);
        // Without an earlier COPY like this, reading the files twice would only cost time.
        if self.cache.has(started_from) {
            let digest = digest_of(&resolved.items, &self.options.interrupts)?;
            let key = cache::key(started_from, &[&digest.to_string()]);
            if let Some(hit) = self.cache.find(key)? {
                return Ok(self.push_cached(hit, key, text(&digest)));
            }
        }
        let mut digest = ItemsDigest::new(&resolved.items);
        let new = self.stage.copy(&resolved.items, &mut |piece| digest.content(piece))?;
        let digest = digest.finish();
        let key = cache::key(started_from, &[&digest.to_string()]);
        let made = self.push_new(new, key, text(&digest))?;
        self.cache.mark(started_from)?;
        Ok(made)
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
            made_at: timestamp(self.now),
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
    ) -> Result<Made, StepError> {
        let request = self.request(run, step);
        let text = history::run(&run.command, &self.config.shell(), &step.build_args);
        let key = self.run_key(&request);
        if let Some(hit) = self.cache.find(key)? {
            return Ok(self.push_cached(hit, key, text));
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
        self.push_new(new, key, text)
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
    fn workdir(&mut self, workdir: &Workdir, step: &Step) -> Result<Option<Made>, StepError> {
        let path = crate::config::join(self.config.working_dir(), &workdir.path);
        let text = history::config_only(&step.text);
        let items = self.missing_directories(path.as_bytes())?;
        if items.is_empty() {
            self.remember(text, None);
            return Ok(None);
        }
        let key = cache::key(self.key, &["workdir", &path]);
        if let Some(hit) = self.cache.find(key)? {
            return Ok(Some(self.push_cached(hit, key, text)));
        }
        let new = self.stage.copy(&items, &mut |_| ())?;
        self.push_new(new, key, text).map(Some)
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
                        mtime: timestamp(self.now),
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
            now: self.now,
            fixed_time: self.options.timestamp.is_some(),
        };
        image::store(self.writer, new, self.options.tag.as_deref())
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
fn digest_of(items: &[CopyItem], interrupts: &Interrupts) -> Result<Digest, StepError> {
    use std::io::Read as _;

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
                    interrupts.check()?;
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
