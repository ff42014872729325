//! All files below a directory, through symlinks that lead to places inside.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use kfs_fs::error::AtPath;
use kfs_fs::filesystem::Resolved;

use super::{At, Files, FilesError, inside, join};

/// Directories are followed this deep.
const MAX_DEPTH: usize = 64;
/// How many directories are entered behind symlinks.
pub(super) const MAX_LINKED: usize = 10_000;

/// A walk that is under way.
#[derive(Debug, Default)]
struct Walk {
    /// The directories that are being walked, each in the one before.
    open: Vec<(u64, u64)>,
    /// Whether a symlink led into the innermost of them, or into one around it.
    behind_link: bool,
    /// How many directories were entered behind symlinks.
    links: usize,
}

impl Walk {
    /// Links that lead to directories with links multiply at each level.
    fn count(&mut self, directory: &str) -> Result<(), FilesError> {
        self.links += usize::from(self.behind_link);
        if self.links > MAX_LINKED {
            return Err(FilesError::Links(directory.to_owned()));
        }
        Ok(())
    }
}

type Visit<'v> = dyn FnMut(&str, &[String]) -> Result<bool, FilesError> + 'v;

impl Files<'_> {
    /// The regular files below a directory, in order; none if it is not there.
    pub fn below(&self, directory: &str) -> Result<BTreeSet<String>, FilesError> {
        let mut files = BTreeSet::new();
        self.each_directory(directory, &mut |directory, names| {
            files.extend(names.iter().map(|name| join(directory, name)));
            Ok(true)
        })?;
        Ok(files)
    }

    /// Calls `visit` with a directory, if it is there, and with those below it, each with the names
    /// of its regular files; it says whether to go on to what is below.
    pub(in crate::cluster) fn each_directory(
        &self,
        directory: &str,
        visit: &mut Visit<'_>,
    ) -> Result<(), FilesError> {
        match self.at(directory)? {
            At::Directory => self.walk(directory, &mut Walk::default(), visit),
            At::File(_) | At::Nothing => Ok(()),
        }
    }

    fn walk(
        &self,
        directory: &str,
        walk: &mut Walk,
        visit: &mut Visit<'_>,
    ) -> Result<(), FilesError> {
        let identity = self.identity(directory)?;
        if walk.open.len() > MAX_DEPTH || walk.open.contains(&identity) {
            return Ok(());
        }
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for name in self.names(directory)? {
            match self.at(&join(directory, &name))? {
                At::File(_) => files.push(name),
                At::Directory => directories.push(name),
                At::Nothing => {}
            }
        }
        if !visit(directory, &files)? {
            return Ok(());
        }
        walk.open.push(identity);
        for name in directories {
            let path = join(directory, &name);
            let outside = walk.behind_link;
            walk.behind_link |= self.is_link(&path)?;
            walk.count(&path)?;
            self.walk(&path, walk, visit)?;
            walk.behind_link = outside;
        }
        walk.open.pop();
        Ok(())
    }

    /// What no other directory has.
    fn identity(&self, directory: &str) -> Result<(u64, u64), FilesError> {
        match self {
            Self::Directory(root) => {
                let Some(path) = inside(root, directory)? else { return Ok((0, 0)) };
                let meta = path.metadata().at("stat", &path)?;
                Ok((meta.dev(), meta.ino()))
            }
            Self::Image(fs) => Ok((0, self.find(fs, directory)?.map_or(0, |ino| ino.0))),
            Self::Built(view) => {
                let found = self.found(view, directory)?;
                Ok(found.map_or((0, 0), |(_, directory)| directory.identity()))
            }
        }
    }

    /// Whether there is a symlink of this name.
    pub(in crate::cluster) fn is_link(&self, file: &str) -> Result<bool, FilesError> {
        match self {
            Self::Directory(root) => {
                let path = root.join(file);
                Ok(path.symlink_metadata().at("stat", &path)?.is_symlink())
            }
            Self::Image(fs) => {
                let broken = |source| self.broken(file, source);
                match fs.resolve(file.as_bytes(), false).map_err(broken)? {
                    Resolved::Found(ino, _) => {
                        let mode = fs.attr(ino).map_err(broken)?.mode;
                        Ok(mode & 0o170_000 == 0o120_000)
                    }
                    Resolved::Missing { .. } | Resolved::NotADirectory(_) | Resolved::Loop => {
                        Ok(false)
                    }
                }
            }
            Self::Built(view) => {
                let is_link = view.is_link(file.as_bytes());
                is_link.map_err(|source| self.broken(file, source))
            }
        }
    }
}
