//! Where a file's content is cut into chunks.
//!
//! For zstd:chunked by content, as `containers/storage` cuts it: bup's rolling sum over 64 bytes,
//! a cut where its low 16 bits are all ones (64 KiB on average), and a run of at least 1 KiB of
//! zeros is a chunk of its own. So an edit moves the cuts around it only, and a chunk that another
//! writer made of the same bytes is the same chunk.
//!
//! Two things differ, as any cut is legal: a chunk has an upper limit, which bounds the memory of
//! writers and readers and is never met by chance (once in e^16 chunks); and a file below the
//! average is one chunk, as two frames, two digests and two entries cost more than a changed small
//! file. There is no lower limit: small chunks are rare by size (2 % of all bytes lie in chunks
//! below 16 KiB), and a limit would lose the agreement with other writers.

/// Bytes that a chunk has at most.
pub(super) const MAX_CHUNK: usize = 1 << 20;
/// Bytes of zeros that make a chunk of their own.
pub(super) const HOLE: usize = 1024;
/// Files below this size in bytes are one chunk.
const SMALL: u64 = 64 << 10;
/// Bits of the sum that are all ones at a cut.
const CUT: u32 = 0xffff;
/// Bytes that the sum is taken over.
const WINDOW: usize = 64;
/// Bytes that are looked at together, for holes first.
const PIECE: usize = 16 << 10;
/// Added to each byte, so that zeros count.
const CHAR_OFFSET: u32 = 31;

/// A chunk that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Its length in bytes, never 0.
    pub(super) len: usize,
    /// Whether it is a hole: nothing but zeros, cut out because of that.
    pub(super) zeros: bool,
}

/// Cuts one file.
#[derive(Debug)]
pub(super) enum Chunker {
    /// At every so many bytes; with the length of the open chunk.
    Even { every: usize, len: usize },
    /// By content.
    Content(ByContent),
}

impl Chunker {
    /// Cuts of a file of this size at even places.
    pub(super) fn even(every: usize) -> Self {
        Self::Even { every, len: 0 }
    }

    /// Cuts of a file of this size that its content decides.
    pub(super) fn by_content(size: u64) -> Self {
        if size < SMALL { Self::even(MAX_CHUNK) } else { Self::Content(ByContent::new()) }
    }

    /// Takes the next bytes of the file and tells which chunks end in them. Not more than
    /// [`MAX_CHUNK`] and [`HOLE`] bytes together are ever left open.
    pub(super) fn push(&mut self, data: &[u8], cuts: &mut Vec<Cut>) {
        match self {
            Self::Even { every, len } => {
                *len += data.len();
                while *len >= *every {
                    *len -= *every;
                    cuts.push(Cut { len: *every, zeros: false });
                }
            }
            Self::Content(chunker) => chunker.push(data, cuts),
        }
    }

    /// Ends the file.
    pub(super) fn finish(mut self, cuts: &mut Vec<Cut>) {
        match &mut self {
            Self::Even { len: 0, .. } => {}
            Self::Even { len, .. } => cuts.push(Cut { len: *len, zeros: false }),
            Self::Content(chunker) => chunker.finish(cuts),
        }
    }
}

/// The state of a file that is cut by its content.
#[derive(Debug)]
pub(super) struct ByContent {
    sum: RollSum,
    /// Length of the open chunk, without `zeros`.
    len: usize,
    /// Zeros at the end that the sum has not seen yet: they may turn out to be a hole.
    zeros: usize,
    /// Whether they are the rest of a hole already.
    hole: bool,
}

impl ByContent {
    fn new() -> Self {
        Self { sum: RollSum::new(), len: 0, zeros: 0, hole: false }
    }

    fn push(&mut self, data: &[u8], cuts: &mut Vec<Cut>) {
        for piece in data.chunks(PIECE) {
            // Zeros at both ends may belong to a hole that goes on in the next piece.
            let zeros =
                |bytes: &mut dyn Iterator<Item = &u8>| bytes.take_while(|b| **b == 0).count();
            let first = match self.zeros > 0 || self.hole {
                true => zeros(&mut piece.iter()),
                false => 0,
            };
            let end = (piece.len() - zeros(&mut piece.iter().rev())).max(first);
            self.push_slowly(&piece[..first], cuts);
            let inner = &piece[first..end];
            if inner.chunks_exact(HOLE / 2).any(|block| block.iter().all(|byte| *byte == 0)) {
                self.push_slowly(inner, cuts);
            } else if !inner.is_empty() {
                self.push_without_hole(inner, cuts);
            }
            self.push_slowly(&piece[end..], cuts);
        }
    }

    fn push_slowly(&mut self, data: &[u8], cuts: &mut Vec<Cut>) {
        for byte in data {
            if *byte == 0 {
                self.zero(cuts);
                continue;
            }
            if self.zeros > 0 || self.hole {
                self.end_zeros(cuts);
            }
            self.roll(*byte, cuts);
        }
    }

    /// Bytes among which no hole begins.
    fn push_without_hole(&mut self, data: &[u8], cuts: &mut Vec<Cut>) {
        if self.zeros > 0 || self.hole {
            self.end_zeros(cuts);
        }
        let mut len = self.len;
        self.sum.roll_all(data, |cut| {
            len += 1;
            if cut || len == MAX_CHUNK {
                cuts.push(Cut { len: std::mem::take(&mut len), zeros: false });
            }
        });
        self.len = len;
    }

    fn zero(&mut self, cuts: &mut Vec<Cut>) {
        self.zeros += 1;
        if !self.hole && self.zeros == HOLE {
            self.hole = true;
            self.end_chunk(cuts);
        }
        if self.hole && self.zeros == MAX_CHUNK {
            cuts.push(Cut { len: MAX_CHUNK, zeros: true });
            self.zeros = 0;
        }
    }

    fn end_zeros(&mut self, cuts: &mut Vec<Cut>) {
        let zeros = std::mem::take(&mut self.zeros);
        if std::mem::take(&mut self.hole) {
            if zeros > 0 {
                cuts.push(Cut { len: zeros, zeros: true });
            }
            // What any window of zeros leaves behind.
            self.sum = RollSum::new();
        } else {
            for _ in 0..zeros {
                self.roll(0, cuts);
            }
        }
    }

    fn roll(&mut self, byte: u8, cuts: &mut Vec<Cut>) {
        self.len += 1;
        if self.sum.roll(byte) || self.len == MAX_CHUNK {
            self.end_chunk(cuts);
        }
    }

    fn end_chunk(&mut self, cuts: &mut Vec<Cut>) {
        let len = std::mem::take(&mut self.len);
        if len > 0 {
            cuts.push(Cut { len, zeros: false });
        }
    }

    fn finish(&mut self, cuts: &mut Vec<Cut>) {
        self.end_zeros(cuts);
        self.end_chunk(cuts);
    }
}

/// bup's rolling sum (bup's `lib/bup/bupsplit.c`; `pkg/chunked/compressor/rollsum.go`).
#[derive(Debug)]
struct RollSum {
    s1: u32,
    s2: u32,
    window: [u8; WINDOW],
    at: usize,
}

impl RollSum {
    /// The sum of a window of zeros.
    fn new() -> Self {
        let len = u32::try_from(WINDOW).expect("a small constant");
        let (s1, s2) = (len * CHAR_OFFSET, len * (len - 1) * CHAR_OFFSET);
        Self { s1, s2, window: [0; WINDOW], at: 0 }
    }

    /// Takes a byte; tells whether there is a cut behind it.
    fn roll(&mut self, byte: u8) -> bool {
        let old = std::mem::replace(&mut self.window[self.at], byte);
        self.at = (self.at + 1) % WINDOW;
        self.step(old, byte)
    }

    /// As [`Self::roll`] of each byte, more than twice as fast: what leaves the window is read
    /// where it came from.
    fn roll_all(&mut self, data: &[u8], mut each: impl FnMut(bool)) {
        for byte in data.iter().take(WINDOW) {
            each(self.roll(*byte));
        }
        for (old, new) in data.iter().zip(data.iter().skip(WINDOW)) {
            each(self.step(*old, *new));
        }
        if let Some(last) = data.last_chunk() {
            (self.window, self.at) = (*last, 0);
        }
    }

    /// Takes `new` and lets `old` go.
    #[inline(always)]
    fn step(&mut self, old: u8, new: u8) -> bool {
        let (old, new) = (u32::from(old), u32::from(new));
        self.s1 = self.s1.wrapping_add(new).wrapping_sub(old);
        let left = (old + CHAR_OFFSET) << WINDOW.trailing_zeros();
        self.s2 = self.s2.wrapping_add(self.s1).wrapping_sub(left);
        self.s2 & CUT == CUT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(mut chunker: Chunker, data: &[u8], piece: usize) -> Vec<Cut> {
        let mut cuts = Vec::new();
        for piece in data.chunks(piece) {
            chunker.push(piece, &mut cuts);
        }
        chunker.finish(&mut cuts);
        assert_eq!(cuts.iter().map(|cut| cut.len).sum::<usize>(), data.len());
        assert!(cuts.iter().all(|cut| (1..=MAX_CHUNK).contains(&cut.len)));
        cuts
    }

    fn by_content(data: &[u8]) -> Vec<Cut> {
        let whole = cuts(Chunker::by_content(data.len() as u64), data, data.len().max(1));
        for piece in [1, 1000, 4097] {
            assert_eq!(cuts(Chunker::by_content(data.len() as u64), data, piece), whole);
        }
        whole
    }

    /// The rule as formats.md has it, told plainly: runs of zeros are looked for first.
    fn plain_rule(data: &[u8]) -> Vec<Cut> {
        let (mut found, mut open, mut at) = (Vec::new(), 0, 0);
        let mut sum = RollSum::new();
        while at < data.len() {
            let zeros = data[at..].iter().take_while(|byte| **byte == 0).count();
            if zeros >= HOLE {
                found.extend((open > 0).then_some(Cut { len: open, zeros: false }));
                found.push(Cut { len: zeros, zeros: true });
                for _ in 0..zeros {
                    sum.roll(0);
                }
                (open, at) = (0, at + zeros);
                continue;
            }
            for byte in &data[at..at + zeros.max(1)] {
                open += 1;
                if sum.roll(*byte) {
                    found.push(Cut { len: std::mem::take(&mut open), zeros: false });
                }
            }
            at += zeros.max(1);
        }
        found.extend((open > 0).then_some(Cut { len: open, zeros: false }));
        found
    }

    #[test]
    fn cuts_are_where_other_writers_make_them() {
        let mut data = noise(1 << 20, 1);
        let holes = [
            (0, 1024),
            (5000, 1023),
            (PIECE - 600, 1100),
            (2 * PIECE, 1024),
            (3 * PIECE - 1, 1023),
            (4 * PIECE - 1024, 1024),
            (70_000, 900_000),
            (1_000_000, 5000),
        ];
        assert_eq!(by_content(&data), plain_rule(&data));
        for (at, len) in holes {
            let end = data.len().min(at + len);
            data[at..end].fill(0);
            assert_eq!(by_content(&data), plain_rule(&data), "{at}");
        }
        data.extend([0; 2000]);
        assert_eq!(by_content(&data), plain_rule(&data));
    }

    #[test]
    fn an_edit_changes_few_chunks() {
        let data = noise(3 << 20, 9);
        let before = by_content(&data);
        assert!((24..96).contains(&before.len()), "{}", before.len());
        let mut edited = data.clone();
        edited.splice(1 << 20..1 << 20, *b"an insertion");
        let contents = |data: &[u8], cuts: &[Cut]| {
            let mut at = 0;
            let chunk = |cut: &Cut| {
                at += cut.len;
                data[at - cut.len..at].to_vec()
            };
            cuts.iter().map(chunk).collect::<std::collections::HashSet<_>>()
        };
        let old = contents(&data, &before);
        let new = contents(&edited, &by_content(&edited));
        assert!(new.difference(&old).count() <= 2);
    }

    #[test]
    fn chunks_have_a_limit_and_small_files_are_one() {
        let zeros = by_content(&vec![0; (5 << 20) / 2]);
        let lens: Vec<_> = zeros.iter().map(|cut| (cut.len, cut.zeros)).collect();
        assert_eq!(lens, [(1 << 20, true), (1 << 20, true), (1 << 19, true)]);
        let ones = by_content(&vec![1; 3 << 20]);
        assert_eq!(ones.len(), 3);
        assert_eq!(by_content(&[0; 60_000]), [Cut { len: 60_000, zeros: false }]);
        assert_eq!(by_content(&[]), []);
        let even = cuts(Chunker::even(10), &[7; 25], 4);
        assert_eq!(even.iter().map(|cut| cut.len).collect::<Vec<_>>(), [10, 10, 5]);
    }
}
