//! What is done to a tree.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use kfs_fs::error::AtPath as _;
use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::MeasureError;

/// The most that is read in sequence, in bytes: more takes longer and says no more.
const MOST_SEQUENTIAL: u64 = 256 << 20;
/// How much is read at once in sequence, in bytes, as cat(1) does.
const PIECE: usize = 128 << 10;
/// How often is read at random, and how much, in bytes: a page.
const RANDOM_READS: usize = 2000;
const PAGE: u64 = 4096;
/// After how many steps it is looked whether the user wants an end.
const GLANCE: usize = 1024;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// All directories are listed.
    Walk,
    /// The attributes of all entries are asked for.
    Stat,
    /// Files are read from one end to the other, as many as have room in 256 MiB.
    Sequential,
    /// Pages at random places of files are read, the same ones everywhere.
    Random,
}

impl Operation {
    /// In this order they are measured.
    pub const ALL: [Self; 4] = [Self::Walk, Self::Stat, Self::Sequential, Self::Random];
}

/// What there is to do.
#[derive(Debug)]
pub(super) struct Plan {
    /// All entries, relative to the root.
    entries: Vec<PathBuf>,
    /// Directories whose entries this user may not see: they are left out everywhere.
    closed: HashSet<PathBuf>,
    /// Files that this user may not read, and such directories.
    left_out: usize,
    /// Files to read in sequence.
    sequential: Vec<PathBuf>,
    /// File and offset.
    random: Vec<(PathBuf, u64)>,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

type Check<'a> = &'a dyn Fn() -> Result<(), MeasureError>;

impl Plan {
    /// What to do to a tree with this root.
    pub(super) fn new(root: &Path) -> Result<Self, MeasureError> {
        let (mut entries, mut closed) = (Vec::new(), HashSet::new());
        let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
        let mut opens = |path: &Path| {
            let may = access(path, AccessFlags::R_OK | AccessFlags::X_OK).is_ok();
            if !may {
                closed.insert(relative(path));
            }
            may
        };
        walk(root, &|| Ok(()), &mut opens, &mut |path| entries.push(relative(path)))?;
        let mut left_out = closed.len();
        let mut sequential = Vec::new();
        let mut large = Vec::new();
        let mut room = MOST_SEQUENTIAL;
        for path in &entries {
            let full = root.join(path);
            let data = fs::symlink_metadata(&full).at("stat", &full)?;
            if !data.is_file() || data.len() == 0 {
                continue;
            }
            if access(&full, AccessFlags::R_OK).is_err() {
                left_out += 1;
                continue;
            }
            if data.len() <= room {
                room -= data.len();
                sequential.push(path.clone());
            }
            if data.len() >= PAGE {
                large.push((path.clone(), data.len() / PAGE));
            }
        }
        Ok(Self { entries, closed, left_out, sequential, random: random_pages(&large) })
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }

    /// How many directories and files this user may not read.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Does it in the tree with this root, which has the same files.
    pub(super) fn run(
        &self,
        operation: Operation,
        root: &Path,
        check: Check<'_>,
    ) -> Result<Done, MeasureError> {
        let mut done = Done::default();
        match operation {
            Operation::Walk => {
                let is_closed = |path: &Path| {
                    path.strip_prefix(root).is_ok_and(|path| self.closed.contains(path))
                };
                let mut opens = |path: &Path| self.closed.is_empty() || !is_closed(path);
                walk(root, check, &mut opens, &mut |_| done.count += 1)?;
            }
            Operation::Stat => each(&self.entries, check, |path| {
                let path = root.join(path);
                match fs::symlink_metadata(&path) {
                    // A device, which only root can unpack; the question took as long.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    data => {
                        data.at("stat", &path)?;
                    }
                }
                done.count += 1;
                Ok(())
            })?,
            Operation::Sequential => {
                let mut buffer = vec![0; PIECE];
                each(&self.sequential, check, |path| {
                    done.count += 1;
                    done.bytes += read_all(&root.join(path), &mut buffer)?;
                    Ok(())
                })?;
            }
            Operation::Random => {
                let mut page = [0; 4096];
                // Whoever reads here and there in a file opens it once.
                let mut open: Option<(&Path, File)> = None;
                each(&self.random, check, |(path, offset)| {
                    let full = root.join(path);
                    let file = match open.take().filter(|(last, _)| last == path) {
                        Some((_, file)) => file,
                        None => File::open(&full).at("open", &full)?,
                    };
                    file.read_exact_at(&mut page, *offset).at("read", &full)?;
                    open = Some((path, file));
                    done.count += 1;
                    done.bytes += PAGE;
                    Ok(())
                })?;
            }
        }
        Ok(done)
    }
}

fn each<'a, T>(
    all: &'a [T],
    check: Check<'_>,
    mut work: impl FnMut(&'a T) -> Result<(), MeasureError>,
) -> Result<(), MeasureError> {
    for (number, one) in all.iter().enumerate() {
        if number % GLANCE == 0 {
            check()?;
        }
        work(one)?;
    }
    Ok(())
}

/// Lists all directories that `opens` lets it, and asks for nothing that their lists do not have.
fn walk(
    root: &Path,
    check: Check<'_>,
    opens: &mut dyn FnMut(&Path) -> bool,
    found: &mut dyn FnMut(&Path),
) -> Result<(), MeasureError> {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        check()?;
        if !opens(&directory) {
            continue;
        }
        for entry in fs::read_dir(&directory).at("read", &directory)? {
            let entry = entry.at("read", &directory)?;
            let path = entry.path();
            found(&path);
            if entry.file_type().at("stat", &path)?.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(())
}

fn read_all(path: &Path, buffer: &mut [u8]) -> Result<u64, MeasureError> {
    let mut file = File::open(path).at("open", path)?;
    let mut total = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(total),
            Ok(n) => total += n as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Err::<(), _>(error).at("read", path).unwrap_err().into()),
        }
    }
}

/// Pages of files of so many pages each, all pages as likely; the same ones each time.
fn random_pages(files: &[(PathBuf, u64)]) -> Vec<(PathBuf, u64)> {
    let mut ends = Vec::with_capacity(files.len());
    let mut total = 0;
    for (_, pages) in files {
        total += pages;
        ends.push(total);
    }
    if total == 0 {
        return Vec::new();
    }
    // Any sequence without a pattern will do (Knuth's MMIX generator, its upper bits).
    let mut state: u64 = 42;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 20) % total
    };
    let place = |page: u64| {
        let number = ends.partition_point(|end| *end <= page);
        let before = if number == 0 { 0 } else { ends[number - 1] };
        (files[number].0.clone(), (page - before) * PAGE)
    };
    (0..RANDOM_READS).map(|_| place(next())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_walked_and_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/small"), "abc").unwrap();
        fs::write(dir.path().join("large"), vec![1; 10_000]).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link")).unwrap();
        let plan = Plan::new(dir.path()).unwrap();
        assert_eq!(plan.entries(), 4);
        let run = |operation| {
            let done = plan.run(operation, dir.path(), &|| Ok(())).unwrap();
            (done.count, done.bytes)
        };
        assert_eq!(run(Operation::Walk), (4, 0));
        assert_eq!(run(Operation::Stat), (4, 0));
        assert_eq!(run(Operation::Sequential), (2, 10_003));
        assert_eq!(run(Operation::Random), (2000, 2000 * 4096));
        assert!(plan.random.iter().all(|(_, offset)| *offset == 0 || *offset == 4096));
        let stopped = plan.run(Operation::Walk, dir.path(), &|| Err(MeasureError::Interrupted(2)));
        assert!(matches!(stopped, Err(MeasureError::Interrupted(2))));
    }
}
