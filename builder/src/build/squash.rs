//! `--squash`: the new layers of an image as one.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use kfs_fs::filesystem::{ImageFs, Ino, ReadError};
use kfs_fs::layer::writer::{LayerWriter, NewLayer};
use kfs_fs::layer::{Entry, Kind};
use kfs_fs::oci::manifest::History;
use kfs_fs::oci::store::Part;

use super::StepError;
use super::schedule::Site;
use super::steps::Finished;
use crate::diff::{OPAQUE, WHITEOUT};
use crate::stage::StageError;
use crate::view::{ImageFile, View, at_path};

/// What the layers of a stage do to its base, as one layer.
pub(super) fn squash(site: &Site<'_>, finished: &Finished) -> Result<NewLayer, StepError> {
    let indexes = site.writer.dir(Part::Indexes);
    let compression = site.options.compression;
    let writer = LayerWriter::create(&site.work, &indexes, compression);
    let writer = writer.map_err(StageError::from)?;
    let Some(delta) = finished.view.delta.clone() else {
        return Ok(writer.finish().map_err(StageError::from)?);
    };
    let view = View { base: Some(delta.clone()), delta: None };
    let mut squash = Squash { delta, view, writer, first_names: HashMap::new() };
    let mut open = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, directory)) = open.pop() {
        site.options.interrupts.check()?;
        squash.directory(&path, directory, &mut open)?;
    }
    Ok(squash.writer.finish().map_err(StageError::from)?)
}

/// The history when only its last layer is left.
pub(super) fn shorten(history: &mut [History]) {
    let mut layers = history.iter_mut().rev().filter(|step| !step.empty_layer).skip(1);
    layers.by_ref().for_each(|step| step.empty_layer = true);
}

struct Squash {
    delta: Arc<ImageFs>,
    /// The delta alone.
    view: View,
    writer: LayerWriter,
    first_names: HashMap<Ino, Vec<u8>>,
}

impl Squash {
    /// Writes what is in a directory; its directories are for later.
    fn directory(
        &mut self,
        path: &[u8],
        ino: Ino,
        open: &mut Vec<(Vec<u8>, Ino)>,
    ) -> Result<(), StepError> {
        let failed = |error: ReadError| StepError::from(at_path(path, error));
        let children = self.children(ino).map_err(failed)?;
        if self.delta.is_opaque(ino).map_err(failed)? {
            self.marker(child(path, OPAQUE))?;
        }
        for (name, ino) in children {
            let path = child(path, &name);
            // Overlayfs's own form of "gone".
            let attr = self.delta.attr(ino).map_err(failed)?;
            if attr.rdev == 0 && attr.mode & 0o170_000 == 0o020_000 {
                let at = path.len() - name.len();
                self.marker([&path[..at], WHITEOUT, &path[at..]].concat())?;
                continue;
            }
            if self.entry(&path, ino)? {
                open.push((path, ino));
            }
        }
        Ok(())
    }

    fn children(&self, directory: Ino) -> Result<Vec<(Vec<u8>, Ino)>, ReadError> {
        let mut children = Vec::new();
        while let Some(entry) = self.delta.entry_at(directory, children.len() as u64)? {
            children.push((entry.name.to_vec(), entry.ino));
        }
        Ok(children)
    }

    /// Writes one entry; tells whether it is a directory.
    fn entry(&mut self, path: &[u8], ino: Ino) -> Result<bool, StepError> {
        let failed = |error: ReadError| StepError::from(at_path(path, error));
        let Some(seen) = self.view.stat(path).map_err(failed)? else { return Ok(false) };
        let Some(mut kind) = seen.kind.clone() else { return Ok(false) };
        let is_directory = seen.is_directory();
        let mut content: Box<dyn Read> = Box::new(std::io::empty());
        let mut size = 0;
        if seen.inode.is_some()
            && let Some(first) = self.first_names.get(&ino)
        {
            kind = Kind::Hardlink(first.clone());
        } else if kind == Kind::File {
            size = seen.size;
            content = Box::new(ImageFile::new(self.delta.clone(), ino).reader());
        }
        if seen.inode.is_some() {
            self.first_names.entry(ino).or_insert_with(|| path.to_vec());
        }
        let mut xattrs = self.view.xattrs(path).map_err(failed)?;
        xattrs.retain(|(name, _)| !name.starts_with(b"trusted.overlay."));
        let entry = Entry {
            path: path.to_vec(),
            kind,
            mode: seen.mode,
            uid: seen.owner.uid,
            gid: seen.owner.gid,
            mtime: seen.mtime,
            size,
            xattrs,
        };
        self.writer.append(&entry, &mut content).map_err(StageError::from)?;
        Ok(is_directory)
    }

    fn marker(&mut self, path: Vec<u8>) -> Result<(), StepError> {
        let mtime = Default::default();
        let (kind, xattrs) = (Kind::File, Vec::new());
        let entry = Entry { path, kind, mode: 0o644, uid: 0, gid: 0, mtime, size: 0, xattrs };
        Ok(self.writer.append(&entry, &mut std::io::empty()).map_err(StageError::from)?)
    }
}

fn child(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.is_empty() { b"" } else { b"/" };
    [directory, slash, name].concat()
}
