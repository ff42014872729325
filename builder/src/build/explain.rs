//! `--explain`: why a step was found in the cache or not.
//!
//! What the key of each step was made of is kept beside the cache, a file for each stage of a build
//! file, and held against what it is made of now. Values are kept as hashes but for those that say
//! something by themselves, as digests do.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kfs_fs::digest::Digest;
use kfs_fs::error::AtPath as _;
use kfs_fs::oci::store::{Part as StorePart, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::items::FileMark;
use crate::cache;

/// So many names of files are told.
const NAMES: usize = 5;
/// Of more files than this nothing is kept.
const MAX_FILES: usize = 200_000;

/// Why a step was found in the cache, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// It was done before, with all that goes into it the same.
    Hit {
        /// The registry's repository that had it; none for the store.
        from: Option<String>,
    },
    /// The cache is not asked.
    NoCache,
    /// No earlier build of this file had the step.
    New,
    /// Something that goes into it is not what it was at the last build.
    Changed(Vec<Change>),
    /// All is as it was at the last build, but what it made then is gone.
    Gone,
}

/// Something that goes into a step and is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it is: `command`, `ARG NAME`, `files`, ...
    pub what: String,
    /// What it was, if that can be told.
    pub before: Option<String>,
    /// What it is, if that can be told.
    pub now: Option<String>,
    /// The files that are others, the first of them.
    pub files: Vec<String>,
    /// How many more they are.
    pub more: usize,
}

/// What a key is made of, in an order that the kind of the step fixes.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts(Vec<Part>);

#[derive(Clone, Debug)]
struct Part {
    name: String,
    value: String,
    /// Whether the value says something to a reader.
    is_shown: bool,
}

impl Parts {
    /// Adds something that is told by its name alone.
    pub(super) fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push(Part { name: name.into(), value: value.into(), is_shown: false });
    }

    /// Adds something whose value is told, too.
    pub(super) fn show(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push(Part { name: name.into(), value: value.into(), is_shown: true });
    }

    /// Adds all of others.
    pub(super) fn append(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The key of a step that is made of these.
    pub(super) fn key(&self, parent: Digest) -> Digest {
        cache::key(parent, &self.0.iter().map(|part| &part.value[..]).collect::<Vec<_>>())
    }

    fn kept(&self) -> Vec<Kept> {
        let value = |part: &Part| match part.is_shown {
            true => Value::Shown(part.value.clone()),
            false => Value::Hash(Digest::of(part.value.as_bytes()).short()),
        };
        self.0.iter().map(|part| Kept { name: part.name.clone(), value: value(part) }).collect()
    }
}

/// What is kept of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    name: String,
    value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Value {
    Shown(String),
    Hash(String),
}

/// What is kept of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trace {
    index: usize,
    text: String,
    parent: Digest,
    parts: Vec<Kept>,
    /// The key that it was stored under.
    key: Digest,
}

impl Trace {
    /// Its instruction.
    fn kind(&self) -> Option<&Kept> {
        self.parts.first()
    }
}

/// The steps of a stage: at the last build, and now.
#[derive(Debug)]
pub(super) struct Traces {
    directory: PathBuf,
    name: String,
    store: Store,
    before: Vec<Trace>,
    now: Vec<Trace>,
}

/// A step whose place in the cache was looked up.
pub(super) struct Looked<'l> {
    /// As in the file, from 1.
    pub(super) index: usize,
    /// As in the file.
    pub(super) text: &'l str,
    /// The key of the step before.
    pub(super) parent: Digest,
    pub(super) parts: Parts,
    /// Its own.
    pub(super) key: Digest,
    /// The files that it copies, where they were looked at.
    pub(super) files: Option<&'l [FileMark]>,
}

impl Traces {
    /// Reads what the last build left of a stage; `of` names build file and stage.
    pub(super) fn read(store: &Store, of: &[&str]) -> Self {
        let directory = store.dir(StorePart::BuildCache).join("explain");
        let name = cache::key(Digest::of(b"kfs-explain-1"), of).hex();
        // What cannot be read is as good as not there.
        let json = fs::read(directory.join(&name)).unwrap_or_default();
        let before = serde_json::from_slice(&json).unwrap_or_default();
        Self { directory, name, store: store.clone(), before, now: Vec::new() }
    }

    /// Notes what a step is made of, and tells what of it was different at the last build.
    pub(super) fn note(&mut self, looked: Looked<'_>) -> Result<Option<Vec<Change>>, StoreError> {
        let Looked { index, text, parent, parts, key, files } = looked;
        let trace = Trace { index, text: text.to_owned(), parent, parts: parts.kept(), key };
        let earlier = self.earlier(&trace).cloned();
        let mut changes = earlier.as_ref().map(|earlier| self.changes(earlier, &trace));
        if let Some(files) = files {
            let names = earlier.as_ref().map(|earlier| self.other_files(&earlier.text, files));
            if let (Some(changes), Some(names)) = (&mut changes, names)
                && let Some(change) = changes.iter_mut().find(|change| change.what == FILES)
            {
                change.more = names.len().saturating_sub(NAMES);
                change.files = names.into_iter().take(NAMES).collect();
            }
            self.keep_files(text, files)?;
        }
        self.now.push(trace);
        Ok(changes)
    }

    /// Notes a step that was found by what its files are called and when they were changed: they
    /// are what they were when it was made.
    pub(super) fn note_same(&mut self, looked: Looked<'_>) {
        let Looked { index, text, parent, parts, key, .. } = looked;
        let mut parts = parts.kept();
        let same = self.before.iter().find(|trace| trace.key == key);
        let files = same.and_then(|same| same.parts.iter().find(|part| part.name == FILES));
        parts.extend(files.cloned());
        self.now.push(Trace { index, text: text.to_owned(), parent, parts, key });
    }

    /// The step at the last build: the nearest of the same text, else the one in its place.
    fn earlier(&self, trace: &Trace) -> Option<&Trace> {
        let same = self.before.iter().filter(|other| other.text == trace.text);
        let nearest = same.min_by_key(|other| other.index.abs_diff(trace.index));
        let in_place = |other: &&Trace| other.index == trace.index && other.kind() == trace.kind();
        nearest.or_else(|| self.before.iter().find(in_place))
    }

    fn changes(&self, earlier: &Trace, trace: &Trace) -> Vec<Change> {
        let mut changes = Vec::new();
        if earlier.parent != trace.parent {
            changes.extend(self.base_changes());
            if changes.is_empty() {
                changes.push(Change::of("the steps before it", None, None));
            }
        }
        changes.extend(differences(&earlier.parts, &trace.parts));
        changes
    }

    /// What is different at the FROM.
    fn base_changes(&self) -> Vec<Change> {
        match (self.before.first(), self.now.first()) {
            (Some(before), Some(now)) if before.index == 1 && now.index == 1 => {
                differences(&before.parts, &now.parts)
            }
            _ => Vec::new(),
        }
    }

    /// The files that are not what they were.
    fn other_files(&self, text: &str, files: &[FileMark]) -> Vec<String> {
        let path = self.files_path(text);
        let json = fs::read(path).unwrap_or_default();
        let before: Vec<FileMark> = serde_json::from_slice(&json).unwrap_or_default();
        let mut before: BTreeMap<_, _> =
            before.into_iter().map(|mark| (mark.path, mark.digest)).collect();
        let mut names = Vec::new();
        for FileMark { path, digest } in files {
            if before.remove(path).as_ref() != Some(digest) {
                names.push(path.clone());
            }
        }
        names.extend(before.into_keys());
        names
    }

    fn keep_files(&self, text: &str, files: &[FileMark]) -> Result<(), StoreError> {
        if files.len() > MAX_FILES {
            return Ok(());
        }
        self.write(&self.files_path(text), &serde_json::to_vec(files).expect("strings"))
    }

    /// Where the files of a step are kept; lines may move from build to build.
    fn files_path(&self, text: &str) -> PathBuf {
        self.directory.join(format!("{}-{}", self.name, Digest::of(text.as_bytes()).short()))
    }

    /// Keeps what the steps so far were made of, for the next build; of those that were not
    /// reached, what was known before.
    pub(super) fn keep(&self) -> Result<(), StoreError> {
        let last = self.now.last().map_or(0, |trace| trace.index);
        let rest = self.before.iter().filter(|trace| trace.index > last);
        let all: Vec<_> = self.now.iter().chain(rest).collect();
        if all.iter().copied().eq(&self.before) {
            return Ok(());
        }
        self.write(&self.directory.join(&self.name), &serde_json::to_vec(&all).expect("strings"))
    }

    fn write(&self, path: &Path, json: &[u8]) -> Result<(), StoreError> {
        fs::create_dir_all(&self.directory).at("make directory", &self.directory)?;
        let mut file = self.store.temp_file()?;
        file.write_all(json)?;
        Ok(file.persist(path)?)
    }
}

/// What the time of things made is called.
pub(super) const TIME: &str = "the time of what is made";

/// What the content of files is called.
pub(super) const FILES: &str = "files";

impl Change {
    fn of(what: &str, before: Option<&Value>, now: Option<&Value>) -> Self {
        let shown = |value: Option<&Value>| match value {
            Some(Value::Shown(text)) => Some(text.clone()),
            Some(Value::Hash(_)) | None => None,
        };
        let (before, now) = (shown(before), shown(now));
        Self { what: what.to_owned(), before, now, files: Vec::new(), more: 0 }
    }
}

/// Where two lists of parts differ: in the order of the second, then what is no more.
fn differences(before: &[Kept], now: &[Kept]) -> Vec<Change> {
    let value = |list: &[Kept], name: &str| {
        list.iter().find(|known| known.name == name).map(|known| known.value.clone())
    };
    let mut names: Vec<&str> = Vec::new();
    for Kept { name, .. } in now.iter().chain(before) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let pairs = names.into_iter().map(|name| (name, value(before, name), value(now, name)));
    let different = pairs.filter(|(_, before, now)| before != now);
    different.map(|(name, before, now)| Change::of(name, before.as_ref(), now.as_ref())).collect()
}
