//! The files of a layer that come first in its new form: put aside on disk in one pass, written in
//! the wanted order before the next.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::Priorities;
use crate::layer::Kind;
use crate::layer::tar::Member;
use crate::layer::writer::{LayerWriter, WriteError};

/// Hard links to hard links are followed this far.
const MAX_LINKS: usize = 40;

/// What is put aside.
#[derive(Debug)]
pub(super) struct Hot {
    order: Vec<Vec<u8>>,
    /// The paths, the directories above them, and what hard links among them point to.
    wanted: HashSet<Vec<u8>>,
    found: HashMap<Vec<u8>, Aside>,
    /// Targets of hard links that turned out to be wanted.
    missing: HashSet<Vec<u8>>,
    file: File,
    len: u64,
}

#[derive(Debug)]
struct Aside {
    raw: Vec<u8>,
    member: Member,
    at: u64,
}

impl Hot {
    /// Nothing yet; contents will lie in a nameless file in `dir`.
    pub(super) fn new(priorities: &Priorities, dir: &Path) -> io::Result<Self> {
        let mut hot = Self {
            order: priorities.paths().to_vec(),
            wanted: HashSet::new(),
            found: HashMap::new(),
            missing: HashSet::new(),
            file: tempfile::tempfile_in(dir)?,
            len: 0,
        };
        for path in priorities.paths() {
            hot.want(path);
        }
        Ok(hot)
    }

    fn want(&mut self, path: &[u8]) {
        if !self.wanted.is_empty() && self.wanted.contains(path) {
            return;
        }
        self.wanted.insert(Vec::new());
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            self.wanted.insert(path[..end].to_vec());
        }
    }

    pub(super) fn wants(&self, path: &[u8]) -> bool {
        self.wanted.contains(path)
    }

    /// Puts a member aside, with its headers and content. A later one of the same path takes the
    /// place of an earlier one.
    pub(super) fn put(
        &mut self,
        raw: Vec<u8>,
        member: Member,
        content: &mut dyn io::Read,
    ) -> io::Result<()> {
        if let Kind::Hardlink(target) = &member.entry.kind
            && !self.wanted.contains(target)
        {
            self.missing.insert(target.clone());
        }
        let at = self.len;
        self.len += io::copy(content, &mut self.file)?;
        self.found.insert(member.entry.path.clone(), Aside { raw, member, at });
        Ok(())
    }

    /// Whether another pass has to look for what hard links point to; then it starts anew.
    pub(super) fn again(&mut self) -> io::Result<bool> {
        if self.missing.is_empty() {
            return Ok(false);
        }
        for target in std::mem::take(&mut self.missing) {
            self.want(&target);
        }
        self.found.clear();
        self.len = 0;
        self.file.set_len(0)?;
        self.file.rewind()?;
        Ok(true)
    }

    /// The paths of the list that the layer has.
    pub(super) fn found(&self) -> HashSet<Vec<u8>> {
        self.order.iter().filter(|path| self.found.contains_key(*path)).cloned().collect()
    }

    /// Writes what was put aside, in the order of the list: each after the directories above it
    /// and, if it is a hard link, after what it points to.
    pub(super) fn write(&mut self, writer: &mut LayerWriter) -> Result<(), WriteError> {
        let mut written = HashSet::new();
        for path in self.order.clone() {
            self.write_path(&path, &mut written, writer, MAX_LINKS)?;
        }
        // Directories above what is not there.
        let mut rest: Vec<_> =
            self.found.keys().filter(|p| !written.contains(*p)).cloned().collect();
        rest.sort();
        rest.iter().try_for_each(|path| self.write_path(path, &mut written, writer, MAX_LINKS))
    }

    fn write_path(
        &mut self,
        path: &[u8],
        written: &mut HashSet<Vec<u8>>,
        writer: &mut LayerWriter,
        links: usize,
    ) -> Result<(), WriteError> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in [0].into_iter().chain(ends) {
            self.write_one(&path[..end], written, writer)?;
        }
        let target = match self.found.get(path).map(|aside| &aside.member.entry.kind) {
            Some(Kind::Hardlink(target)) if links > 0 => Some(target.clone()),
            _ => None,
        };
        if let Some(target) = target.filter(|target| !written.contains(target)) {
            self.write_path(&target, written, writer, links - 1)?;
        }
        self.write_one(path, written, writer)
    }

    fn write_one(
        &mut self,
        path: &[u8],
        written: &mut HashSet<Vec<u8>>,
        writer: &mut LayerWriter,
    ) -> Result<(), WriteError> {
        let Some(aside) = self.found.get(path) else { return Ok(()) };
        if !written.insert(path.to_vec()) {
            return Ok(());
        }
        let failed = |source| WriteError::Content { path: path.to_vec(), source };
        self.file.seek(SeekFrom::Start(aside.at)).map_err(failed)?;
        let mut content = (&self.file).take(aside.member.stored);
        writer.append_stored(&aside.raw, &aside.member, &mut content)
    }
}
