//! A stage while it is built: the base image, the layers made so far, and, once a RUN needs it,
//! the live rootfs.
//!
//! ```text
//! base image ─ FUSE ─┐
//! layers, as a delta ┼─ lowers of an overlay ─ RUN ─ upper ─ next layer
//! ```
//! Nothing of the base is unpacked, and a new layer is never copied aside: it is mounted from its
//! blob, over the base, at the cost of its own size.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kfs_fs::content;
use kfs_fs::error::{AtPath, PathError};
use kfs_fs::filesystem::{ImageFs, OpenError};
use kfs_fs::fuse::{self, FuseError, Mounted};
use kfs_fs::layer::Entry;
use kfs_fs::layer::writer::{Compression, LayerWriter, NewLayer, WriteError};
use kfs_fs::oci::store::{Part, Store};
use kfs_fs::oci::{Layer, import};

use crate::build::Options;
use crate::context::Context;
use crate::copy::{self, CopyItem};
use crate::diff::{self, Changes, DiffError};
use crate::exec::{Command, ExecError, Executor, Isolation, Outcome, User, UserError, World};
use crate::interrupt::{Interrupted, Interrupts};
use crate::rootfs::{LiveRootfs, MountPoint, RootDir, RootfsError};
use crate::view::{View, at_path};

/// What a RUN sees as the machine's name: one that does not differ from build to build.
const HOSTNAME: &str = "kfs-build";

/// Why a layer cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// An image or layer cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The base or a layer cannot be mounted.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// The rootfs cannot be mounted.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// What a RUN changed cannot become a layer.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// The layer cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// USER names nobody.
    #[error(transparent)]
    User(#[from] UserError),
    /// The command cannot be run.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A signal asks the build to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// A file or directory cannot be used.
    #[error(transparent)]
    Path(#[from] PathError),
}

/// The state of a stage.
#[derive(Debug)]
pub(crate) struct Stage {
    store: Store,
    /// A directory of this build, which goes away with it.
    work: PathBuf,
    compression: Compression,
    interrupts: Arc<Interrupts>,
    /// How layers that lie in registries are read.
    reading: content::Options,
    // The rootfs uses the mounts, so it is dropped first.
    live: Option<Live>,
    base: Option<Arc<ImageFs>>,
    layers: Vec<Layer>,
    /// The delta of this many layers.
    delta: Option<(usize, Arc<ImageFs>)>,
}

#[derive(Debug)]
struct Live {
    rootfs: LiveRootfs,
    mounts: Vec<Mounted>,
    /// How many of the stage's layers the rootfs shows.
    covered: usize,
}

/// A RUN with all that it depends on.
#[derive(Clone, Debug)]
pub(crate) struct RunRequest {
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Absolute, in the image.
    pub(crate) cwd: PathBuf,
    /// As USER says.
    pub(crate) user: String,
    pub(crate) isolation: Isolation,
    pub(crate) world: World,
    /// Where the mounts of `world` go.
    pub(crate) places: Vec<MountPoint>,
}

/// How a RUN ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    /// What it changed; none if the command failed.
    pub(crate) commit: Option<Commit>,
}

/// What a RUN changed, before it is a layer. The rootfs shows it already.
#[derive(Debug)]
pub(crate) struct Commit {
    changes: Changes,
    /// How long the command ran.
    run: Duration,
    work: PathBuf,
    indexes: PathBuf,
    compression: Compression,
    interrupts: Arc<Interrupts>,
}

/// The layer of a RUN.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) layer: NewLayer,
    /// Sockets, which no layer can hold.
    pub(crate) skipped: Vec<Vec<u8>>,
    /// How long the command ran.
    pub(crate) run: Duration,
    /// How long it took to find what it changed.
    pub(crate) diff: Duration,
}

impl Commit {
    /// Writes the layer.
    pub(crate) fn write(mut self) -> Result<Written, StageError> {
        let mut writer = LayerWriter::create(&self.work, &self.indexes, self.compression)?;
        let mut diff = Duration::ZERO;
        loop {
            let started = Instant::now();
            let next = self.changes.next();
            diff += started.elapsed();
            let Some(change) = next else { break };
            let change = change?;
            match &change.content {
                None => {
                    append(&mut writer, &change.entry, &mut std::io::empty(), &self.interrupts)?;
                }
                Some(path) => {
                    let mut file = fs::File::open(path).at("open", path)?;
                    append(&mut writer, &change.entry, &mut file, &self.interrupts)?;
                }
            }
        }
        let skipped = self.changes.skipped().to_vec();
        Ok(Written { layer: writer.finish()?, skipped, run: self.run, diff })
    }
}

impl Stage {
    pub(crate) fn new(
        store: &Store,
        work: &Path,
        base: Option<Arc<ImageFs>>,
        options: &Options,
    ) -> Self {
        Self {
            store: store.clone(),
            work: work.to_owned(),
            compression: options.compression,
            interrupts: options.interrupts.clone(),
            reading: options.reading.clone(),
            live: None,
            base,
            layers: Vec::new(),
            delta: None,
        }
    }

    /// A directory of this stage, which goes away with the build.
    pub(crate) fn work(&self) -> &Path {
        &self.work
    }

    /// The layers above the base.
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Lays a layer over what there is.
    pub(crate) fn push(&mut self, layer: Layer) {
        self.layers.push(layer);
    }

    /// What the rootfs holds now.
    pub(crate) fn view(&mut self) -> Result<View, StageError> {
        let count = self.layers.len();
        if count > 0 && self.delta.as_ref().is_none_or(|(of, _)| *of != count) {
            let below = View { base: self.base.clone(), delta: None };
            self.delta = Some((count, Arc::new(self.open_over(0, &below)?)));
        }
        let delta = self.delta.as_ref().map(|(_, delta)| delta.clone());
        Ok(View { base: self.base.clone(), delta })
    }

    /// The layers from `first` on as a delta over `below`.
    fn open_over(&self, first: usize, below: &View) -> Result<ImageFs, StageError> {
        let indexes = self.store.dir(Part::Indexes);
        open_over(&self.layers[first..], &indexes, &self.work, below, &self.reading)
    }

    /// The tree in an archive of this machine; none for another file.
    pub(crate) fn archive(&self, path: &Path) -> Result<Option<Context>, PathError> {
        let failed = |error: String| PathError {
            action: "unpack",
            path: path.to_owned(),
            source: std::io::Error::other(error),
        };
        // What is made of it is of no use to anyone after this build.
        let indexes = self.work.join("archives");
        fs::create_dir_all(&indexes).at("make directory", &indexes)?;
        let layer = import::layer_of_tar(path, &indexes);
        let Some(layer) = layer.map_err(|error| failed(error.to_string()))? else {
            return Ok(None);
        };
        // What the merge asks for are the directories that no member describes.
        let mut implied = HashSet::new();
        let mut below = |path: &[u8]| {
            implied.insert(path.to_owned());
            None
        };
        let fs = ImageFs::open_over(&[layer], &indexes, &indexes, &mut below, Default::default());
        let fs = fs.map_err(|error| failed(error.to_string()))?;
        let view = View { base: Some(Arc::new(fs)), delta: None };
        Ok(Some(Context::of_archive(view, implied)))
    }

    /// Writes a layer of files from the context, in one pass over them. `read` is called with
    /// every piece of content, in the order of the items.
    ///
    /// The directories of `image` above them come with them, as they are there: a layer that is
    /// unpacked into a directory of its own would get others, of root and with mode 755, and those
    /// would hide the image's. None for a layer that knows no image.
    pub(crate) fn copy(
        &self,
        items: &[CopyItem],
        image: Option<&View>,
        read: &mut dyn FnMut(&[u8]),
    ) -> Result<NewLayer, StageError> {
        let mut writer = self.writer()?;
        let mut known: HashSet<&[u8]> = HashSet::new();
        for item in items {
            if let Some(image) = image {
                let path = &item.entry.path[..];
                for above in copy::parents(path).filter(|above| known.insert(above)) {
                    let entry = image.directory_entry(above);
                    if let Some(entry) = entry.map_err(|error| at_path(above, error))? {
                        append(&mut writer, &entry, &mut std::io::empty(), &self.interrupts)?;
                    }
                }
                known.insert(path);
            }
            let mut reader = item.content.open()?;
            let mut tap = Tap { inner: &mut reader, read };
            append(&mut writer, &item.entry, &mut tap, &self.interrupts)?;
        }
        Ok(writer.finish()?)
    }

    /// Runs a command on the rootfs. What it changed has yet to become a layer and to be pushed,
    /// but is shown by the rootfs already.
    pub(crate) fn run(
        &mut self,
        executor: &dyn Executor,
        request: &RunRequest,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<Ran, StageError> {
        let mut live = self.go_live()?;
        let ran = self.run_live(&mut live, executor, request, output);
        self.live = Some(live);
        ran
    }

    fn run_live(
        &self,
        live: &mut Live,
        executor: &dyn Executor,
        request: &RunRequest,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<Ran, StageError> {
        let xattrs = live.rootfs.overlay_xattrs();
        let step = live.rootfs.begin_step(request.isolation, &request.places)?;
        let merged = RootDir::open(&step.merged())?;
        let command = Command {
            rootfs: step.merged(),
            argv: request.argv.clone(),
            env: request.env.clone(),
            cwd: request.cwd.clone(),
            user: User::resolve(&merged, &request.user)?,
            isolation: step.isolation(),
            hostname: HOSTNAME.to_owned(),
            world: request.world.clone(),
        };
        drop(merged);
        let started = Instant::now();
        let outcome = executor.run(&command, output)?;
        let run = started.elapsed();
        if !outcome.status.is_success() {
            return Ok(Ran { outcome, commit: None });
        }
        let before = step.root_before().clone();
        let upper = step.finish()?;
        live.covered += 1;
        let commit = Commit {
            changes: diff::changes(&upper, &before, xattrs),
            run,
            work: self.work.clone(),
            indexes: self.store.dir(Part::Indexes),
            compression: self.compression,
            interrupts: self.interrupts.clone(),
        };
        Ok(Ran { outcome, commit: Some(commit) })
    }

    fn writer(&self) -> Result<LayerWriter, WriteError> {
        LayerWriter::create(&self.work, &self.store.dir(Part::Indexes), self.compression)
    }

    /// The mounted rootfs, with all layers so far.
    fn go_live(&mut self) -> Result<Live, StageError> {
        let mut live = match self.live.take() {
            Some(live) => live,
            None => self.mount_base()?,
        };
        let (covered, count) = (live.covered, self.layers.len());
        if covered < count {
            let below = self.shown(covered)?;
            let delta = Arc::new(self.open_over(covered, &below)?);
            let mounted = self.mount(delta, &format!("layers-{covered}-{count}"))?;
            live.rootfs.push_lower(mounted.mountpoint())?;
            live.mounts.push(mounted);
            live.covered = count;
        }
        Ok(live)
    }

    fn mount_base(&self) -> Result<Live, StageError> {
        let mut mounts = Vec::new();
        if let Some(base) = &self.base {
            mounts.push(self.mount(base.clone(), "base")?);
        }
        let lowers: Vec<_> = mounts.iter().map(|mount| mount.mountpoint().to_owned()).collect();
        let rootfs = LiveRootfs::new(&self.work.join("rootfs"), &lowers)?;
        Ok(Live { rootfs, mounts, covered: 0 })
    }

    /// What the base and the first layers hold.
    fn shown(&self, layers: usize) -> Result<View, StageError> {
        let mut view = View { base: self.base.clone(), delta: None };
        if layers > 0 {
            let indexes = self.store.dir(Part::Indexes);
            let work = self.work.join("shown");
            fs::create_dir_all(&work).at("make directory", &work)?;
            let of = &self.layers[..layers];
            view.delta = Some(Arc::new(open_over(of, &indexes, &work, &view, &self.reading)?));
        }
        Ok(view)
    }

    fn mount(&self, fs: Arc<ImageFs>, name: &str) -> Result<Mounted, StageError> {
        let mountpoint = self.work.join(name);
        fs::create_dir(&mountpoint).at("make directory", &mountpoint)?;
        Ok(fuse::mount(fs, &mountpoint, OsStr::new(name))?)
    }
}

/// Appends an entry to a layer, unless a signal comes meanwhile.
fn append(
    writer: &mut LayerWriter,
    entry: &Entry,
    content: &mut dyn std::io::Read,
    interrupts: &Interrupts,
) -> Result<(), StageError> {
    let mut content = Interruptible { inner: content, interrupts };
    let appended = writer.append(entry, &mut content);
    interrupts.check()?;
    Ok(appended?)
}

fn open_over(
    layers: &[Layer],
    indexes: &Path,
    work: &Path,
    below: &View,
    reading: &content::Options,
) -> Result<ImageFs, StageError> {
    let mut failed = None;
    let mut ask = |path: &[u8]| {
        below.directory(path).unwrap_or_else(|error| {
            failed = Some(at_path(path, error));
            None
        })
    };
    let delta = ImageFs::open_over(layers, indexes, work, &mut ask, reading.clone())?;
    match failed {
        None => Ok(delta),
        Some(error) => Err(error.into()),
    }
}

/// Shows what is read to a callback.
struct Tap<'a> {
    inner: &'a mut dyn std::io::Read,
    read: &'a mut dyn FnMut(&[u8]),
}

impl std::io::Read for Tap<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        (self.read)(&buf[..n]);
        Ok(n)
    }
}

/// Fails when a signal has come.
struct Interruptible<'a> {
    inner: &'a mut dyn std::io::Read,
    interrupts: &'a Interrupts,
}

impl std::io::Read for Interruptible<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.interrupts.check().map_err(std::io::Error::other)?;
        self.inner.read(buf)
    }
}
