//! A layer in another format.
//!
//! The tar stream stays what it is, byte for byte, and with it the diffID, as far as the new
//! format allows that. It does not where
//!
//! - a table of contents goes into the stream (eStargz), or an old one has to leave it
//! - files are to come first that do not
//! - a path is there twice, of which a table can tell only the last, which is the one that counts
//! - a file is sparse, which a table cannot tell: it becomes a plain one
//!
//! Headers keep their bytes all the same, but those of sparse files. The source is verified to its
//! last byte: blob, diffID, form, and that its table of contents, if it has one, says the same as
//! its tar stream; nothing of the new layer is kept if anything is wrong.

mod hot;
mod priorities;
mod stream;

use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

pub use priorities::{Priorities, PrioritiesError};

use super::Kind;
use super::agreement::Agreement;
use super::scan::LayerError;
use super::tar::{BLOCK, Member, TarError, TarReader};
use super::toc::is_of_stargz;
use super::writer::{Compression, LayerWriter, NewLayer, Plain, WriteError};
use crate::blob::from_any_place;
use crate::oci::Layer;
use hot::Hot;
use stream::{Content, Stream};

/// Why a layer cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The source is not what it should be.
    #[error(transparent)]
    Source(#[from] LayerError),
    /// The new layer cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Files cannot be put aside.
    #[error("put files aside in {}: {source}", dir.display())]
    Aside {
        /// Where.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RewriteError {
    /// Whether the bytes that came are not those that the layer's digest names.
    fn is_damage(&self) -> bool {
        matches!(self, Self::Source(error) if error.is_damage())
    }
}

/// Where the new layers go, and what they become.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Where temporary files lie.
    pub tmp: &'a Path,
    /// The store's `indexes` directory.
    pub indexes: &'a Path,
    /// The new format.
    pub compression: Compression,
}

/// A layer in its new form.
#[derive(Debug)]
pub struct Rewritten {
    /// The new layer.
    pub layer: NewLayer,
    /// Those of the wanted paths that it has.
    pub found: HashSet<Vec<u8>>,
}

/// How a pass over the source went.
enum Pass {
    /// All is written but the end, which comes when the source is known to be good.
    Done(Box<LayerWriter>),
    /// The same, and the end was in the source.
    Ended(Box<LayerWriter>),
    /// These members have to be left out.
    Duplicates(HashSet<u64>),
}

/// Bytes of a path's hash that are kept: so many that no two paths have the same.
type PathHash = [u8; 16];

/// What the members so far were.
#[derive(Default)]
struct Survey {
    /// The last member of each path.
    last: HashMap<PathHash, u64>,
    /// Members of whose path there is a later one, and their paths.
    earlier: HashSet<u64>,
    twice: HashSet<PathHash>,
    targets: HashSet<PathHash>,
}

/// What a pass has to leave out.
#[derive(Default)]
struct Plan {
    drop: HashSet<u64>,
    hot: Option<Hot>,
    /// Whether a path that is there twice is to be left as it is.
    keep_all: bool,
}

/// Writes a layer in another format, the files of `priorities` first. `progress` is called with
/// the number of bytes of the blob just read, which may be read more than once.
pub fn rewrite(
    layer: &Layer,
    target: Target<'_>,
    priorities: &Priorities,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Rewritten, RewriteError> {
    from_any_place(layer.blob.as_ref(), RewriteError::is_damage, || {
        rewrite_once(layer, target, priorities, progress)
    })
}

fn rewrite_once(
    layer: &Layer,
    target: Target<'_>,
    priorities: &Priorities,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Rewritten, RewriteError> {
    let mut plan = Plan::default();
    let mut found = HashSet::new();
    // One pass is enough for it.
    let mut agreement = Agreement::of(layer, target.tmp)?;
    // Only a table lets anybody fetch some files first.
    if !priorities.is_empty() && target.compression.has_table() {
        let aside = |source| RewriteError::Aside { dir: target.tmp.to_owned(), source };
        let mut hot = Hot::new(priorities, target.tmp).map_err(aside)?;
        loop {
            let checked = agreement.take();
            let survey =
                over(layer, checked, progress, &mut |tar| put_aside(tar, &mut hot))?.good(layer)?;
            plan.accept(survey);
            if !hot.again().map_err(aside)? {
                break;
            }
        }
        found = hot.found();
        plan.hot = (!plan.keep_all).then_some(hot);
    }
    let pass = |plan: &mut Plan, checked| {
        over(layer, checked, progress, &mut |tar| write(tar, target, plan))?.good(layer)
    };
    let mut passed = pass(&mut plan, agreement)?;
    if let Pass::Duplicates(drop) = passed {
        plan.keep_all = drop.is_empty();
        plan.drop = drop;
        passed = pass(&mut plan, None)?;
    }
    let layer = match passed {
        Pass::Done(writer) => writer.finish()?,
        Pass::Ended(writer) => writer.finish_as_is()?,
        Pass::Duplicates(_) => unreachable!("they are left out, or all are kept"),
    };
    Ok(Rewritten { layer, found })
}

/// Reads all of a layer that has a table of contents, to see whether that says the same as the tar
/// stream; what has none agrees with itself. Temporary files lie in `tmp`.
pub fn compare(
    layer: &Layer,
    tmp: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), RewriteError> {
    let Some(agreement) = Agreement::of(layer, tmp)? else { return Ok(()) };
    over(layer, Some(agreement), progress, &mut |tar| {
        while next_member(tar)?.is_some() {
            tar.input_mut().take_between();
            skip_content(tar)?;
        }
        drain(tar, &mut |_| Ok(()))
    })
    .map(drop)
}

/// What was made of a layer whose blob is the right one, and the stream at its end.
struct Passed<T>(T, Stream);

impl<T> Passed<T> {
    /// What was made, if the content is the right one, too.
    fn good(self, layer: &Layer) -> Result<T, RewriteError> {
        let (found, expected) = (self.1.diff_id(), layer.diff_id);
        // The first writers of zstd:chunked lost the end of the stream, not its digest.
        if found != expected && self.1.diff_id_with_end() != expected {
            let layer = layer.descriptor.digest;
            return Err(LayerError::DiffId { layer, expected, found }.into());
        }
        Ok(self.0)
    }
}

/// Decodes a layer and verifies its blob while `each` reads its members.
fn over<T>(
    layer: &Layer,
    agreement: Option<Agreement>,
    progress: &(dyn Fn(u64) + Sync),
    each: &mut dyn FnMut(&mut TarReader<Stream>) -> Result<T, Failed>,
) -> Result<Passed<T>, RewriteError> {
    let digest = layer.descriptor.digest;
    let (out, pieces) = mpsc::sync_channel(stream::AHEAD);
    let (decoded, result, tar) = std::thread::scope(|scope| {
        let decoding = scope.spawn(|| stream::decode(layer, out, progress));
        let mut tar = TarReader::new(Stream::new(pieces, agreement));
        let result = each(&mut tar);
        let tar = result.is_ok().then_some(tar);
        (decoding.join().expect("the decoder does not panic"), result, tar)
    });
    // What else went wrong may come from this.
    decoded?;
    let done = result.map_err(|failed| match failed {
        Failed::Tar(source) => LayerError::Tar { layer: digest, source }.into(),
        Failed::Other(error) => error,
    })?;
    Ok(Passed(done, tar.expect("the result is good").into_inner()))
}

/// The next member, held against the table of contents.
fn next_member(tar: &mut TarReader<Stream>) -> Result<Option<Member>, Failed> {
    let member = tar.next_member()?;
    let agreement = &mut tar.input_mut().agreement;
    let agrees = match (&member, &mut *agreement) {
        (Some(member), Some(agreement)) => agreement.member(member),
        (None, _) => agreement.take().map_or(Ok(()), Agreement::finish),
        (Some(_), None) => Ok(()),
    };
    agrees.map_err(|error| Failed::Other(error.into()))?;
    Ok(member)
}

/// Why a pass ended early.
enum Failed {
    Tar(TarError),
    Other(RewriteError),
}

impl From<TarError> for Failed {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

impl From<WriteError> for Failed {
    fn from(error: WriteError) -> Self {
        // The content comes from the same stream as the headers.
        match error {
            WriteError::Content { path, source } => match source.downcast::<TarError>() {
                Ok(error) => Self::Tar(error),
                Err(source) => Self::Other(WriteError::Content { path, source }.into()),
            },
            error => Self::Other(error.into()),
        }
    }
}

fn put_aside(tar: &mut TarReader<Stream>, hot: &mut Hot) -> Result<Survey, Failed> {
    let mut survey = Survey::default();
    let mut number = 0;
    loop {
        let end = tar.input_mut().len();
        let Some(member) = next_member(tar)? else { break };
        let raw = tar.input_mut().take_between();
        survey.note(number, &member);
        number += 1;
        if hot.wants(&member.entry.path) {
            let raw = headers(&raw, end).to_vec();
            let path = member.entry.path.clone();
            let put = hot.put(raw, member, &mut Content(tar));
            put.map_err(|source| WriteError::Content { path, source })?;
        }
        skip_content(tar)?;
    }
    drain(tar, &mut |_| Ok(()))?;
    Ok(survey)
}

fn write(tar: &mut TarReader<Stream>, target: Target<'_>, plan: &mut Plan) -> Result<Pass, Failed> {
    let mut out = LayerWriter::create(target.tmp, target.indexes, target.compression)?;
    let has_table = target.compression.has_table();
    let mut changed = target.compression.is_estargz();
    if let Some(hot) = &mut plan.hot {
        hot.write(&mut out)?;
        out.end_of_prioritized()?;
        changed = true;
    }
    let mut writer = Some(out);
    let mut survey = Survey::default();
    for number in 0.. {
        let end = tar.input_mut().len();
        let Some(member) = next_member(tar)? else { break };
        let raw = tar.input_mut().take_between();
        if has_table {
            survey.note(number, &member);
        }
        let leave_out =
            plan.leaves_out(number, &member) || has_table && is_of_stargz(&member.entry.path);
        changed |= leave_out || has_table && !member.is_plain();
        if let Some(out) = writer.as_mut().filter(|_| !leave_out) {
            let raw = if changed { headers(&raw, end) } else { &raw };
            out.append_stored(raw, &member, &mut Content(tar))?;
            let twice = matches!(out.plain(), Some(Plain::Duplicate(_)));
            if twice && !plan.keep_all {
                // The rest is only looked at.
                writer = None;
            }
        }
        skip_content(tar)?;
    }
    let Some(mut out) = writer else {
        drain(tar, &mut |_| Ok(()))?;
        return Ok(Pass::Duplicates(survey.into_dropped()));
    };
    // Some writers leave the end of the archive away, though none of its readers likes that.
    if changed || !has_end(tar.input_mut().between()) {
        drain(tar, &mut |_| Ok(()))?;
        return Ok(Pass::Done(Box::new(out)));
    }
    drain(tar, &mut |bytes| out.append_trailer(bytes))?;
    Ok(Pass::Ended(Box::new(out)))
}

/// Whether what stands behind the last content has the two blocks of zeros that end a tar stream.
fn has_end(bytes: &[u8]) -> bool {
    bytes.ends_with(&[0; 2 * BLOCK])
}

/// What stands before a member without the padding of the content that ends at `end`.
fn headers(raw: &[u8], end: u64) -> &[u8] {
    let padding = usize::try_from(end.wrapping_neg() % BLOCK as u64).expect("less than a block");
    &raw[padding.min(raw.len())..]
}

fn skip_content(tar: &mut TarReader<Stream>) -> Result<(), Failed> {
    let skipped = io::copy(&mut Content(tar), &mut io::sink());
    skipped.map_err(|source| WriteError::Content { path: Vec::new(), source })?;
    Ok(())
}

/// Reads what is left of the stream.
fn drain(
    tar: &mut TarReader<Stream>,
    each: &mut dyn FnMut(&[u8]) -> Result<(), WriteError>,
) -> Result<(), Failed> {
    let stream = tar.input_mut();
    each(&stream.take_between())?;
    let mut piece = vec![0; 64 << 10];
    loop {
        let n = stream.read(&mut piece);
        match n.map_err(|source| WriteError::Content { path: Vec::new(), source })? {
            0 => return Ok(()),
            _ => each(&stream.take_between())?,
        }
    }
}

impl Plan {
    fn accept(&mut self, survey: Survey) {
        let twice = !survey.earlier.is_empty();
        self.drop = survey.into_dropped();
        self.keep_all = twice && self.drop.is_empty();
    }

    fn leaves_out(&self, number: u64, member: &Member) -> bool {
        let hot = self.hot.as_ref().is_some_and(|hot| hot.wants(&member.entry.path));
        hot || self.drop.contains(&number)
    }
}

impl Survey {
    fn note(&mut self, number: u64, member: &Member) {
        let path = hash(&member.entry.path);
        if let Some(earlier) = self.last.insert(path, number) {
            self.earlier.insert(earlier);
            self.twice.insert(path);
        }
        if let Kind::Hardlink(target) = &member.entry.kind {
            self.targets.insert(hash(target));
        }
    }

    /// The members that can be left out because a later one takes their place; none if there is
    /// a hard link to one of them, which would then point to the later one.
    fn into_dropped(self) -> HashSet<u64> {
        if self.twice.is_disjoint(&self.targets) { self.earlier } else { HashSet::new() }
    }
}

fn hash(path: &[u8]) -> PathHash {
    let mut hash = PathHash::default();
    hash.copy_from_slice(&blake3::hash(path).as_bytes()[..size_of::<PathHash>()]);
    hash
}

#[cfg(test)]
mod tests;
