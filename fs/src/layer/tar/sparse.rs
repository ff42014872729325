//! Sparse files as GNU tar stores them: the old header form, and PAX versions 0.0, 0.1 and 1.0
//! (GNU tar manual, "Storing Sparse Files").

use super::Problem;
use super::header::{BLOCK, Header, unsigned};
use super::pax::{Pax, decimal};
use crate::layer::index::Extent;

/// A file in more runs than this is refused, which bounds memory.
const MAX_RUNS: usize = 1 << 20;

/// Digits of the largest number of 64 bits.
const MAX_DIGITS: usize = 20;

/// A run of data; what lies between runs is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// How PAX records describe a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Versions 0.0 and 0.1: the map is in the records.
    Inline,
    /// Version 1.0: the map stands before the data.
    InData,
}

/// The form that the records say; `None` if they say nothing of a sparse file, or name a version
/// that nobody knows, as in Go.
pub(super) fn form(pax: &Pax) -> Option<Form> {
    match (pax.sparse(b"major"), pax.sparse(b"minor")) {
        (Some(b"0"), Some(b"0" | b"1")) => Some(Form::Inline),
        (Some(b"1"), Some(b"0")) => Some(Form::InData),
        // The first versions had no number.
        (None, None) if pax.sparse(b"map").or(pax.sparse(b"offset")).is_some() => {
            Some(Form::Inline)
        }
        _ => None,
    }
}

/// The size of the file with its holes; `None` if it has no record of its own.
pub(super) fn pax_size(pax: &Pax) -> Result<Option<u64>, Problem> {
    let size = pax.sparse(b"size").or(pax.sparse(b"realsize"));
    size.map(|size| decimal(size, "sparse size")).transpose()
}

/// Reads the old GNU form: four runs in the header, more in blocks that follow it.
pub(super) fn gnu(
    header: &Header,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK], Problem>,
) -> Result<(u64, Vec<Run>), Problem> {
    // star has the same type flag for another layout.
    if !header.is_gnu() {
        return Err(Problem::Sparse);
    }
    let (map, mut extended, size) = header.gnu_sparse();
    let mut runs = Vec::new();
    push_runs(map, &mut runs)?;
    while extended {
        let block = next_block()?;
        push_runs(&block[..504], &mut runs)?;
        extended = block[504] != 0;
    }
    Ok((size?, runs))
}

/// Adds runs of 12 + 12 bytes; an empty field ends the list.
fn push_runs(map: &[u8], runs: &mut Vec<Run>) -> Result<(), Problem> {
    for pair in map.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let offset = unsigned(&pair[..12], "sparse offset")?;
        push(runs, Run { offset, len: unsigned(&pair[12..], "sparse length")? })?;
    }
    Ok(())
}

fn push(runs: &mut Vec<Run>, run: Run) -> Result<(), Problem> {
    if runs.len() >= MAX_RUNS {
        return Err(Problem::Sparse);
    }
    runs.push(run);
    Ok(())
}

/// The map of PAX versions 0.0 (repeated records) and 0.1 (one list).
pub(super) fn inline_map(pax: &Pax) -> Result<Vec<Run>, Problem> {
    let mut numbers = Vec::new();
    for (key, value) in pax.sparse_records() {
        let expected: &[u8] = if numbers.len() % 2 == 0 { b"offset" } else { b"numbytes" };
        match &key[..] {
            b"offset" | b"numbytes" if key != expected => return Err(Problem::Sparse),
            b"offset" | b"numbytes" => numbers.push(&value[..]),
            _ => {}
        }
    }
    if numbers.is_empty() {
        let map = pax.sparse(b"map").unwrap_or_default();
        numbers = map.split(|byte| *byte == b',').filter(|_| !map.is_empty()).collect();
    }
    let count: usize = decimal(pax.sparse(b"numblocks").unwrap_or_default(), "sparse map")?;
    if count.checked_mul(2) != Some(numbers.len()) {
        return Err(Problem::Sparse);
    }
    let run = |pair: &[&[u8]]| {
        let (offset, len) = (decimal(pair[0], "sparse map")?, decimal(pair[1], "sparse map")?);
        Ok(Run { offset, len })
    };
    numbers.chunks_exact(2).map(run).collect()
}

/// Reads the map of version 1.0: decimal numbers, one a line, padded to a block. Returns the
/// runs and how many of the `stored` bytes the map took.
pub(super) fn read_map(
    mut next_block: impl FnMut(&mut [u8]) -> Result<(), Problem>,
    stored: u64,
) -> Result<(Vec<Run>, u64), Problem> {
    let mut used = 0;
    let mut line = Vec::new();
    let mut numbers = Vec::new();
    let mut wanted = 1;
    while numbers.len() < wanted {
        let mut block = [0; BLOCK];
        used += BLOCK as u64;
        if used > stored {
            return Err(Problem::Sparse);
        }
        next_block(&mut block)?;
        for byte in block {
            if numbers.len() == wanted {
                break;
            }
            if byte != b'\n' {
                if line.len() == MAX_DIGITS {
                    return Err(Problem::Sparse);
                }
                line.push(byte);
                continue;
            }
            numbers.push(decimal::<u64>(&std::mem::take(&mut line), "sparse map")?);
            if numbers.len() == 1 {
                let count = usize::try_from(numbers[0]).map_err(|_| Problem::Sparse)?;
                if count > MAX_RUNS {
                    return Err(Problem::Sparse);
                }
                wanted = 1 + 2 * count;
            }
        }
    }
    let runs = numbers[1..].chunks_exact(2).map(|pair| Run { offset: pair[0], len: pair[1] });
    Ok((runs.collect(), used))
}

/// Places runs whose data lies at `at` of the content, one after another; they have to be in
/// order, inside the file, and use up the `stored` bytes exactly.
pub(super) fn extents(
    runs: &[Run],
    size: u64,
    stored: u64,
    at: u64,
) -> Result<Vec<Extent>, Problem> {
    if size > i64::MAX as u64 {
        return Err(Problem::Number("size"));
    }
    let mut end = 0;
    let mut used = 0u64;
    let mut extents = Vec::with_capacity(runs.len());
    for run in runs {
        let run_end = run.offset.checked_add(run.len).ok_or(Problem::Sparse)?;
        if run.offset < end || run_end > size {
            return Err(Problem::Sparse);
        }
        if run.len > 0 {
            let content_offset = at.checked_add(used).ok_or(Problem::Sparse)?;
            extents.push(Extent { file_offset: run.offset, content_offset, len: run.len });
        }
        end = run_end;
        used += run.len;
    }
    if used == stored { Ok(extents) } else { Err(Problem::Sparse) }
}
