//! From landings to the members of a layer: walks directories, makes parents.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use kfs_fs::error::AtPath;
use kfs_fs::layer::{Entry, Kind};

use super::landing::{Difference, Image, Landed, Landing, child, parents};
use super::{
    Content, CopyError, CopyItem, MADE_DIRECTORY, MADE_FILE, Owner, Place, Request, Resolved,
    SourceKind,
};
use crate::context::Context;

/// The same for names of the same file that were copied together.
type SameFile = (usize, (u64, u64));

/// The items of a COPY by their path, as if its sources were copied one after the other: a later
/// file replaces an earlier one at the same path.
pub(super) struct Items<'a> {
    request: &'a Request<'a>,
    /// Sorted by bytes, so a directory comes before what is in it.
    items: BTreeMap<Vec<u8>, CopyItem>,
    /// What names of the same file have in common, by path in the image.
    inodes: BTreeMap<Vec<u8>, SameFile>,
    /// What is added now: files that are named one by one are copied one by one.
    group: usize,
    /// How many landings there were.
    landings: usize,
    /// Sockets that were not named, relative to the context.
    skipped: Vec<PathBuf>,
    /// Directories of the image in whose place something else comes.
    replaced: Vec<Vec<u8>>,
    /// Whether there is anything that no source has a time for.
    makes_times: bool,
}

impl<'a> Items<'a> {
    pub(super) fn new(request: &'a Request<'a>) -> Self {
        Self {
            request,
            items: BTreeMap::new(),
            inodes: BTreeMap::new(),
            group: 0,
            landings: 0,
            skipped: Vec::new(),
            replaced: Vec::new(),
            makes_times: false,
        }
    }

    /// The items, with what was found out beside them.
    pub(super) fn finish(self, kind: SourceKind, difference: Option<Difference>) -> Resolved {
        let Self { items, inodes, skipped, replaced, makes_times, .. } = self;
        let mut items: Vec<_> = items.into_values().collect();
        let mut first_names: HashMap<SameFile, Vec<u8>> = HashMap::new();
        for item in &mut items {
            let Some(inode) = inodes.get(&item.entry.path) else { continue };
            // Two names with attributes of two COPY flags cannot be: one COPY has one set.
            if let Some(first) = first_names.get(inode) {
                item.entry.kind = Kind::Hardlink(first.clone());
                item.entry.size = 0;
                item.content = Content::None;
            } else {
                first_names.insert(*inode, item.entry.path.clone());
            }
        }
        Resolved { items, kind, difference, skipped, replaced, makes_times }
    }

    /// Adds a source, all that is below it, and the directories above it that `image` lacks.
    pub(super) fn add(
        &mut self,
        landing: &Landing<'_>,
        image: &mut Image<'_, '_>,
    ) -> Result<(), CopyError> {
        self.landings += 1;
        let is_named = matches!(landing.what, Landed::File { wild: false, .. });
        self.group = if is_named { self.landings } else { 0 };
        let at = &landing.at;
        for parent in parents(at) {
            match landing.above.iter().find(|(_, above)| above == parent) {
                Some((path, _)) => self.insert_parent(landing, path, parent, image)?,
                None => self.make_directory(parent, image)?,
            }
        }
        match &landing.what {
            Landed::Inline(heredoc) => {
                let bytes = heredoc.content.clone().into_bytes();
                let change = self.request.mode.as_ref();
                let mode = change.map_or(MADE_FILE, |mode| mode.apply(MADE_FILE, false));
                let at = self.landed(at, false, Some(image))?.0;
                let mut entry = self.made(&at, Kind::File, mode);
                self.makes_times = true;
                entry.size = bytes.len() as u64;
                self.insert(CopyItem { entry, content: Content::Inline(bytes), stamp: None })
            }
            Landed::File { context, path, wild } => {
                if !wild && context.stat(path)?.is_some_and(|seen| seen.kind.is_none()) {
                    return Err(CopyError::Socket(relative(context, path).to_owned()));
                }
                let parent = path.parent().unwrap_or(path);
                if let Some(excluded) = self.excluded(context, parent)?
                    && excluded.hides(path)?
                {
                    return Ok(());
                }
                self.insert_path(context, path, at, Some(image)).map(|_| ())
            }
            Landed::Directory { context, path, whole } => {
                let own_root =
                    !at.is_empty() && *path == context.root() && context.has_own_root()?;
                let mut at = at.clone();
                if *whole || own_root {
                    let landed = self.insert_path(context, path, &at, Some(image))?;
                    at = landed.map_or(at, |(at, _)| at);
                } else {
                    self.make_directory(&at, image)?;
                }
                self.walk(context, path, &at, image)
            }
        }
    }

    /// A directory above a source of `--parents`, unless it is among the items already.
    fn insert_parent(
        &mut self,
        landing: &Landing<'_>,
        path: &Path,
        at: &[u8],
        image: &mut Image<'_, '_>,
    ) -> Result<(), CopyError> {
        let context = match &landing.what {
            Landed::Directory { context, .. } | Landed::File { context, .. } => context,
            Landed::Inline(_) => return Ok(()),
        };
        if self.items.get(at).is_none_or(|item| item.entry.kind != Kind::Directory) {
            self.insert_path(context, path, at, Some(image))?;
        }
        Ok(())
    }

    /// What `--exclude` hides below a directory.
    fn excluded(&self, context: &Context, root: &Path) -> Result<Option<Context>, CopyError> {
        if self.request.exclude.is_empty() {
            return Ok(None);
        }
        context.excluding(root, self.request.exclude).map(Some).map_err(CopyError::Exclude)
    }

    /// Adds what is below a directory.
    fn walk(
        &mut self,
        context: &Context,
        path: &Path,
        at: &[u8],
        image: &mut Image<'_, '_>,
    ) -> Result<(), CopyError> {
        let excluded = self.excluded(context, path)?;
        let is_old = at.is_empty() || image.place(at)? == Place::Directory(at.to_owned());
        // A list and not recursion: depth is the context's, the stack is not.
        let mut open = vec![(path.to_owned(), (at.to_owned(), is_old))];
        while let Some((directory, (at, is_old))) = open.pop() {
            for name in context.list(&directory)? {
                let path = directory.join(&name);
                if let Some(excluded) = &excluded
                    && excluded.hides(&path)?
                {
                    continue;
                }
                let at = child(&at, name.as_bytes());
                let landed = if context.is_implied(&path)? {
                    Some((self.enter(&at, image)?, true))
                } else {
                    // Where the image has nothing, it need not be asked.
                    self.insert_path(context, &path, &at, is_old.then_some(&mut *image))?
                };
                open.extend(landed.map(|landed| (path, landed)));
            }
        }
        Ok(())
    }

    /// Adds one path of a context; tells of a directory where what is in it goes, and whether the
    /// image has that directory. Without an image, nothing is there.
    fn insert_path(
        &mut self,
        context: &Context,
        path: &Path,
        at: &[u8],
        image: Option<&mut Image<'_, '_>>,
    ) -> Result<Option<(Vec<u8>, bool)>, CopyError> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let seen = context.stat(path)?.ok_or_else(missing).at("stat", path)?;
        let Some(kind) = seen.kind else {
            self.skipped.push(relative(context, path).to_owned());
            return Ok(None);
        };
        let content = match kind {
            Kind::File => context.content(path)?,
            _ => Content::None,
        };
        let is_directory = kind == Kind::Directory;
        // What an archive describes is as it says, whatever was there.
        let image = image.filter(|_| !context.is_archive());
        let (at, is_old) = self.landed(at, is_directory, image)?;
        let (mode, xattrs) = match kind {
            Kind::Symlink(_) => (0o777, Vec::new()),
            _ => {
                let change = self.request.mode.as_ref().filter(|_| !context.is_archive());
                let mode = change.map_or(seen.mode, |mode| mode.apply(seen.mode, is_directory));
                (mode, context.xattrs(path)?)
            }
        };
        match seen.inode {
            Some(inode) => drop(self.inodes.insert(at.clone(), (self.group, inode))),
            None => drop(self.inodes.remove(&at)),
        }
        let size = if kind == Kind::File { seen.size } else { 0 };
        let mut entry = Entry { mtime: seen.mtime, size, xattrs, ..self.made(&at, kind, mode) };
        if context.keeps_owners() && self.request.owner.is_none() {
            (entry.uid, entry.gid) = (seen.owner.uid, seen.owner.gid);
        }
        self.insert(CopyItem { entry, content, stamp: seen.stamp })?;
        Ok(is_directory.then_some((at, is_old)))
    }

    /// Where something goes that is copied to `at`, and whether the image has a directory there. A
    /// directory goes where a symlink leads; anything else takes the place of what is there.
    fn landed(
        &mut self,
        at: &[u8],
        is_directory: bool,
        image: Option<&mut Image<'_, '_>>,
    ) -> Result<(Vec<u8>, bool), CopyError> {
        let image = match image {
            Some(image) if !self.items.contains_key(at) => image,
            image => {
                let place = image.map(|image| image.place(at)).transpose()?;
                return Ok((at.to_owned(), place == Some(Place::Directory(at.to_owned()))));
            }
        };
        match self.place(at, image)? {
            Place::Directory(real) if is_directory => Ok((real, true)),
            Place::Directory(real) if real == at => {
                self.replaced.push(real.clone());
                Ok((real, false))
            }
            Place::Absent(real) if is_directory && real != at => {
                for parent in parents(&real) {
                    self.make_directory(parent, image)?;
                }
                Ok((real, false))
            }
            _ => Ok((at.to_owned(), false)),
        }
    }

    /// What the image has at a path that this COPY has put nothing at.
    fn place(&self, at: &[u8], image: &mut Image<'_, '_>) -> Result<Place, CopyError> {
        let above = parents(at).last().unwrap_or_default();
        // Below a directory that is new here, or takes the place of a symlink, the image has
        // nothing.
        let is_new = self.items.contains_key(above)
            && image.place(above)? != Place::Directory(above.to_owned());
        if is_new { Ok(Place::Absent(at.to_owned())) } else { image.place(at) }
    }

    /// The directory at a path that an archive has files in but does not describe: that of the
    /// image, symlinks followed, or one that is made.
    fn enter(&mut self, at: &[u8], image: &mut Image<'_, '_>) -> Result<Vec<u8>, CopyError> {
        if self.items.contains_key(at) {
            self.make_directory(at, image)?;
            return Ok(at.to_owned());
        }
        match self.place(at, image)? {
            Place::Directory(real) => Ok(real),
            Place::Absent(real) => {
                for parent in parents(&real) {
                    self.make_directory(parent, image)?;
                }
                self.make_directory(&real, image)?;
                Ok(real)
            }
            Place::Other(real) => {
                Err(CopyError::NotDirectory { dest: shown(at), path: shown(&real) })
            }
        }
    }

    /// Adds a directory that no source describes, unless it is there.
    fn make_directory(&mut self, at: &[u8], image: &Image<'_, '_>) -> Result<(), CopyError> {
        match self.items.get(at) {
            None if image.has_directory(at) => Ok(()),
            None => {
                let entry = self.made(at, Kind::Directory, MADE_DIRECTORY);
                self.makes_times = true;
                self.insert(CopyItem { entry, content: Content::None, stamp: None })
            }
            Some(item) if item.entry.kind == Kind::Directory => Ok(()),
            Some(_) => Err(conflict(at)),
        }
    }

    fn insert(&mut self, item: CopyItem) -> Result<(), CopyError> {
        let at = item.entry.path.clone();
        let is_directory = |item: &CopyItem| item.entry.kind == Kind::Directory;
        match self.items.get(&at) {
            Some(old) if is_directory(old) != is_directory(&item) => Err(conflict(&at)),
            _ => {
                // A heredoc in the place of a file that has more names.
                if matches!(item.content, Content::Inline(_)) {
                    self.inodes.remove(&at);
                }
                self.items.insert(at, item);
                Ok(())
            }
        }
    }

    /// An entry of this COPY's owner and time.
    fn made(&self, at: &[u8], kind: Kind, mode: u32) -> Entry {
        let owner = self.request.owner.unwrap_or(Owner::ROOT);
        Entry {
            path: at.to_owned(),
            kind,
            mode,
            uid: owner.uid,
            gid: owner.gid,
            mtime: self.request.made_at,
            size: 0,
            xattrs: Vec::new(),
        }
    }
}

fn conflict(at: &[u8]) -> CopyError {
    CopyError::Conflict(shown(at))
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn relative<'p>(context: &Context, path: &'p Path) -> &'p Path {
    path.strip_prefix(context.root()).unwrap_or(path)
}
