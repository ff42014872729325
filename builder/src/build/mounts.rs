//! `RUN --mount`: what is mounted, what of it belongs to the step's key, and what keeps it alive
//! while the command runs.
//!
//! | type | where it comes from | in the key |
//! |---|---|---|
//! | bind | the context, or a FUSE mount of a stage or image | options, content |
//! | cache | `build-cache/mounts/` of the store | options |
//! | tmpfs | memory | options |
//! | secret | the user; only ever in memory | options, not the value |
//! | ssh | a socket that leads to the user's agent | options |

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use kfs_fs::digest::Digest;
use kfs_fs::error::{AtPath, PathError};
use kfs_fs::fuse::{self, Mounted};
use kfs_fs::oci::store::Part;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::copying::Tree;
use super::explain::Parts;
use super::items::{digest_of, materialize, signature};
use super::ssh::AgentSocket;
use super::steps::{StageBuild, timestamp};
use super::{Event, StepError};
use crate::cache::directory::{self, CacheDirectory};
use crate::config::join;
use crate::context::Context;
use crate::copy;
use crate::exec;
use crate::kubefile::{
    BindMount, CacheMount, CopyRule, FileMount, Mount, Run, Sharing, Source, TmpfsMount,
};
use crate::plan::Step;
use crate::rootfs::{LiveRootfs, MountPoint, MountedTree, RootDir};
use crate::stage::StageError;
use crate::view::View;

/// The mounts of a RUN, and the variables that come with them.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) mounts: Vec<exec::Mount>,
    pub(super) places: Vec<MountPoint>,
    pub(super) env: Vec<(OsString, OsString)>,
    /// Contents of secrets, which must not be shown.
    pub(super) secrets: Vec<Vec<u8>>,
    // In this order they go away.
    trees: Vec<MountedTree>,
    fuse: Vec<Mounted>,
    _sockets: Vec<AgentSocket>,
    caches: BTreeMap<PathBuf, CacheDirectory>,
}

impl Mounts {
    fn add(&mut self, target: &str, source: exec::MountSource, is_directory: bool) {
        let target = PathBuf::from(target);
        self.places.push(MountPoint { path: target.clone(), is_directory });
        self.mounts.push(exec::Mount { target, source });
    }

    fn bind(&mut self, target: &str, path: PathBuf, read_only: bool) {
        let is_directory = path.is_dir();
        self.add(target, exec::MountSource::Bind { path, read_only }, is_directory);
    }
}

/// What a bind shows of a context, and what it was when the key was made.
pub(super) struct Shown {
    context: Context,
    source: Option<String>,
    signature: Option<Digest>,
}

/// The typed mounts of a RUN.
pub(super) fn typed(run: &Run) -> Vec<Mount> {
    // The plan has checked that each is one.
    run.mounts.iter().filter_map(|options| options.mount().ok()).collect()
}

impl StageBuild<'_> {
    /// What belongs to the key of a step with these mounts.
    pub(super) fn mount_keys(
        &mut self,
        mounts: &[Mount],
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<(Parts, Vec<Shown>), StepError> {
        let (mut keys, mut shown) = (Parts::default(), Vec::new());
        for (number, mount) in (1..).zip(mounts) {
            keys.add(format!("--mount {number}"), format!("{mount:?}"));
            if let Mount::Bind(bind) = mount {
                let tree = Self::tree(self.site, self.ready, bind.from.as_deref(), step, report)?;
                let digest = match tree.identity {
                    Some(identity) => identity,
                    None => {
                        let items = self.items_below(&tree.context, bind.source.as_deref())?;
                        let (context, source) = (tree.context.into_owned(), bind.source.clone());
                        shown.push(Shown { context, source, signature: signature(&items) });
                        digest_of(&items, &self.site.options.interrupts)?.0
                    }
                };
                keys.show(format!("what --mount {number} shows"), digest.to_string());
            }
        }
        Ok((keys, shown))
    }

    /// Whether all that is shown is as it was when the key was made.
    pub(super) fn are_same(&self, shown: &[Shown]) -> Result<bool, StepError> {
        for Shown { context, source, signature: before } in shown {
            // What cannot be listed any more has changed.
            let items = self.items_below(context, source.as_deref());
            if items.map_or(true, |items| signature(&items) != *before) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes all that the mounts need.
    pub(super) fn mounts(
        &mut self,
        mounts: &[Mount],
        step: &Step,
        report: &mut dyn FnMut(Event),
    ) -> Result<Mounts, StepError> {
        let mut made = Mounts { caches: self.take_caches(mounts)?, ..Mounts::default() };
        for (number, mount) in mounts.iter().enumerate() {
            match mount {
                Mount::Bind(bind) => self.bind(bind, number, step, &mut made, report)?,
                Mount::Cache(cache) => self.cache(cache, step, &mut made, report)?,
                Mount::Tmpfs(TmpfsMount { target, size }) => {
                    made.add(&self.place(target), exec::MountSource::Tmpfs(*size), true);
                }
                Mount::Secret(secret) => self.secret(secret, &mut made)?,
                Mount::Ssh(agent) => self.ssh(agent, number, &mut made)?,
            }
        }
        Ok(made)
    }

    /// A target as an absolute path.
    fn place(&self, target: &str) -> String {
        join(self.config.working_dir(), target)
    }

    fn bind(
        &mut self,
        bind: &BindMount,
        number: usize,
        step: &Step,
        made: &mut Mounts,
        report: &mut dyn FnMut(Event),
    ) -> Result<(), StepError> {
        let tree = Self::tree(self.site, self.ready, bind.from.as_deref(), step, report)?;
        let root = self.tree_on_disk(&tree, number, bind.writable, made)?;
        let path = located(&root, bind.source.as_deref().unwrap_or("/"))?;
        made.bind(&self.place(&bind.target), path, !bind.writable);
        Ok(())
    }

    /// A directory that shows a tree; one that is to be written to is not the original.
    fn tree_on_disk(
        &self,
        tree: &Tree<'_>,
        number: usize,
        writable: bool,
        made: &mut Mounts,
    ) -> Result<PathBuf, StepError> {
        let work = self.stage.work();
        let named = |what: &str| work.join(format!("{what}-{}-{number}", self.history_len()));
        let lowers = match tree.context.view() {
            None if tree.context.hides_nothing() => vec![tree.context.root().to_owned()],
            None => {
                let copy = named("context");
                let items = self.items_below(&tree.context, None)?;
                materialize(&items, &copy, &self.site.options.interrupts)?;
                vec![copy]
            }
            Some(View { base, delta }) => {
                let mut lowers = Vec::new();
                for (fs, what) in [(base, "bind-base"), (delta, "bind-layers")] {
                    let Some(fs) = fs else { continue };
                    let place = named(what);
                    fs::create_dir(&place).at("make directory", &place)?;
                    let mounted = fuse::mount(fs.clone(), &place, OsStr::new(what));
                    made.fuse.push(mounted.map_err(StageError::from)?);
                    lowers.push(place);
                }
                lowers
            }
        };
        match &lowers[..] {
            [only] if !writable => Ok(only.clone()),
            lowers => {
                let live = LiveRootfs::new(&named("bind"), lowers)?;
                let merged = live.into_tree()?;
                let path = merged.path().to_owned();
                made.trees.push(merged);
                Ok(path)
            }
        }
    }

    /// Where a cache is kept.
    fn cache_directory(&self, cache: &CacheMount) -> PathBuf {
        let target = self.place(&cache.target);
        let id = cache.id.as_deref().unwrap_or(&target);
        let caches = self.site.writer.dir(Part::BuildCache).join("mounts");
        let owner = (cache.mode, cache.uid, cache.gid);
        let first = format!("{:?} {:?} {owner:?}", cache.from, cache.source);
        caches.join(Digest::of(format!("{id}\n{first}").as_bytes()).hex())
    }

    /// Takes all caches of a RUN: one that has several mounts once, in the strictest of their ways,
    /// and each RUN in the same order, so that no two wait for each other.
    fn take_caches(
        &self,
        mounts: &[Mount],
    ) -> Result<BTreeMap<PathBuf, CacheDirectory>, StepError> {
        let mut wanted: BTreeMap<PathBuf, Sharing> = BTreeMap::new();
        for mount in mounts {
            let Mount::Cache(cache) = mount else { continue };
            let sharing = wanted.entry(self.cache_directory(cache)).or_default();
            *sharing = cache.sharing.max(*sharing);
        }
        let interrupts = &self.site.options.interrupts;
        let take = |(directory, sharing): (PathBuf, Sharing)| {
            let taken = directory::take::<StepError>(&directory, sharing, interrupts)?;
            Ok((directory, taken))
        };
        wanted.into_iter().map(take).collect()
    }

    fn cache(
        &mut self,
        cache: &CacheMount,
        step: &Step,
        made: &mut Mounts,
        report: &mut dyn FnMut(Event),
    ) -> Result<(), StepError> {
        let directory = self.cache_directory(cache);
        let data = made.caches[&directory].data().to_owned();
        if !data.exists() {
            let fresh = self.site.writer.temp_dir()?;
            let new = fresh.path().join("new");
            match &cache.from {
                None => fs::create_dir(&new).at("make directory", &new)?,
                Some(from) => {
                    let tree = Self::tree(self.site, self.ready, Some(from), step, report)?;
                    let items = self.items_below(&tree.context, cache.source.as_deref())?;
                    materialize(&items, &new, &self.site.options.interrupts)?;
                }
            }
            let CacheMount { mode, uid, gid, .. } = *cache;
            chown(&new, Some(uid), Some(gid)).at("chown", &new)?;
            fs::set_permissions(&new, Permissions::from_mode(mode)).at("chmod", &new)?;
            // An empty one that another RUN has mounted must not be replaced either.
            match renameat2(AT_FDCWD, &new, AT_FDCWD, &data, RenameFlags::RENAME_NOREPLACE) {
                // Another build was faster.
                Err(Errno::EEXIST) => {}
                renamed => renamed.at("rename to", &data)?,
            }
        }
        made.bind(&self.place(&cache.target), data, cache.read_only);
        Ok(())
    }

    fn secret(&mut self, secret: &FileMount, made: &mut Mounts) -> Result<(), StepError> {
        let last = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
        let id = secret.id.clone().or_else(|| secret.target.as_ref().map(last)).unwrap_or_default();
        let Some(content) = self.site.options.secrets.get(&id) else {
            return if secret.required { Err(StepError::NoSecret(id)) } else { Ok(()) };
        };
        made.secrets.push(content.0.clone());
        if let Some(name) = &secret.env {
            use std::os::unix::ffi::OsStringExt;
            made.env.push((name.into(), OsString::from_vec(content.0.clone())));
        }
        let target = match (&secret.target, &secret.env) {
            (Some(target), _) => self.place(target),
            (None, None) => format!("/run/secrets/{id}"),
            (None, Some(_)) => return Ok(()),
        };
        let (mode, uid, gid) = (secret.mode, secret.uid, secret.gid);
        let content = content.0.clone();
        made.add(&target, exec::MountSource::File { content, mode, uid, gid }, false);
        Ok(())
    }

    fn ssh(
        &mut self,
        agent: &FileMount,
        number: usize,
        made: &mut Mounts,
    ) -> Result<(), StepError> {
        let id = agent.id.as_deref().unwrap_or("default");
        let Some(socket) = self.site.options.ssh.get(id) else {
            let missing = Err(StepError::NoAgent(id.to_owned()));
            return if agent.required { missing } else { Ok(()) };
        };
        let place = self.stage.work().join(format!("agent-{}-{number}", self.history_len()));
        let socket = AgentSocket::new(socket, &place, (agent.mode, agent.uid, agent.gid))?;
        made._sockets.push(socket);
        let target = agent.target.as_ref().map(|target| self.place(target));
        let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{number}"));
        made.env.push(("SSH_AUTH_SOCK".into(), OsString::from(&target)));
        made.bind(&target, place, false);
        Ok(())
    }

    /// The files of a context, or below a path in it.
    fn items_below(
        &self,
        context: &Context,
        source: Option<&str>,
    ) -> Result<Vec<copy::CopyItem>, StepError> {
        let source = source.unwrap_or(".").trim_start_matches('/');
        let source = if source.is_empty() { "." } else { source };
        let sources = [Source::Path(source.to_owned())];
        let request = copy::Request {
            sources: &sources,
            dest: "/",
            working_dir: "/",
            rule: CopyRule::Docker,
            context,
            fetched: &Default::default(),
            unpack: None,
            parents: false,
            exclude: &[],
            owner: None,
            mode: None,
            made_at: timestamp(self.site.now),
        };
        let resolved =
            copy::resolve(&request, &mut |path| Ok(copy::Place::Absent(path.to_owned())))?;
        Ok(resolved.items)
    }
}

/// A path in a tree, links resolved in the tree.
fn located(root: &Path, source: &str) -> Result<PathBuf, PathError> {
    let directory = RootDir::open(root)?;
    let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
    let outside = directory.outside(Path::new(source));
    let located = directory.locate(Path::new(source)).at("find", &outside)?;
    if !located.exists {
        return Err(missing()).at("mount", &outside);
    }
    Ok(root.join(located.path))
}
