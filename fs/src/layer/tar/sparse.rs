//! Sparse files as GNU tar stores them: the old header form, and PAX versions 0.0, 0.1 and 1.0
//! (GNU tar manual, "Storing Sparse Files").

use super::Problem;
use super::header::{BLOCK, Header, unsigned};
use super::pax::{Pax, decimal};
use crate::layer::index::Extent;

/// A file in more runs than this is refused, which bounds memory.
const MAX_RUNS: usize = 1 << 20;

/// A run of data; what lies between runs is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Reads the old GNU form: four runs in the header, more in blocks that follow it.
pub(super) fn gnu(
    header: &Header,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK], Problem>,
) -> Result<(u64, Vec<Run>), Problem> {
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

/// The map of PAX versions 0.0 (repeated records) and 0.1 (one list), if there is one.
pub(super) fn pax_inline(pax: &Pax) -> Result<Option<(u64, Vec<Run>)>, Problem> {
    let Some(size) = pax.sparse(b"size") else { return Ok(None) };
    let mut runs = Vec::new();
    if let Some(map) = pax.sparse(b"map") {
        let mut numbers = map.split(|byte| *byte == b',').filter(|text| !text.is_empty());
        while let Some(offset) = numbers.next() {
            let len = numbers.next().ok_or(Problem::Sparse)?;
            push(&mut runs, run(offset, len)?)?;
        }
    } else {
        let mut offset = None;
        for (key, value) in pax.sparse_records() {
            match &key[..] {
                b"offset" => offset = Some(value),
                b"numbytes" => {
                    push(&mut runs, run(offset.take().ok_or(Problem::Sparse)?, value)?)?;
                }
                _ => {}
            }
        }
    }
    Ok(Some((decimal(size, "sparse size")?, runs)))
}

/// The real size if this is PAX version 1.0, whose map stands before the data.
pub(super) fn pax_in_data(pax: &Pax) -> Result<Option<u64>, Problem> {
    match (pax.sparse(b"major"), pax.sparse(b"realsize")) {
        (Some(b"1"), Some(size)) => decimal(size, "sparse size").map(Some),
        _ => Ok(None),
    }
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

fn run(offset: &[u8], len: &[u8]) -> Result<Run, Problem> {
    Ok(Run { offset: decimal(offset, "sparse map")?, len: decimal(len, "sparse map")? })
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
