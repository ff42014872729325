//! A sparse file's content with its holes, from what a tar stream stores of it.

use std::io::{self, Read};

use crate::layer::index::Extent;

/// Reads the whole file.
pub(super) struct Expanded<'a> {
    /// Runs that are still to come, in the order of their file offsets, which is that in which
    /// they are stored.
    runs: &'a [Extent],
    stored: &'a mut dyn Read,
    at: u64,
    size: u64,
}

impl<'a> Expanded<'a> {
    /// The content of a file of this size, of which these runs are stored one after another.
    pub(super) fn new(size: u64, runs: &'a [Extent], stored: &'a mut dyn Read) -> Self {
        Self { runs, stored, at: 0, size }
    }
}

impl Read for Expanded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while let [first, rest @ ..] = self.runs
            && first.file_offset + first.len <= self.at
        {
            self.runs = rest;
        }
        let (next, in_run) = match self.runs.first() {
            Some(run) if run.file_offset <= self.at => (run.file_offset + run.len, true),
            Some(run) => (run.file_offset, false),
            None => (self.size, false),
        };
        let left = usize::try_from(next - self.at).unwrap_or(usize::MAX);
        let limit = left.min(buf.len());
        let n = match in_run {
            true => self.stored.read(&mut buf[..limit])?,
            false => {
                buf[..limit].fill(0);
                limit
            }
        };
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_zeros() {
        let run = |file_offset, len| Extent { file_offset, content_offset: 0, len };
        let runs = [run(2, 3), run(5, 0), run(7, 1)];
        let mut content = Vec::new();
        let mut stored = &b"abcd"[..];
        Expanded::new(10, &runs, &mut stored).read_to_end(&mut content).unwrap();
        assert_eq!(content, b"\0\0abc\0\0d\0\0");
    }
}
