//! Spans in blocks: a part of a span is read and verified without the rest of it.
//!
//! blake3 is a tree of hashes: what is kept of it beside the root, one node a block, is enough to
//! hold a block against. With [`TreeHasher`] both come out of one pass.

use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

/// What is verified at a time, in bytes. A page of 4 KiB lies in one or two blocks, and reading
/// these takes a disk hardly longer than the page; smaller ones are slower to hash, as they are too
/// few chunks of blake3 (1 KiB) at a time. A power of two, so that each block is a node of the
/// tree.
pub(crate) const BLOCK: usize = 8 << 10;

/// Fewer whole blocks, in bytes, are read together with those beside them that are not wanted
/// whole: waiting for the disk a second time costs more than a copy.
const AT_ONCE: usize = 4 * BLOCK;

/// A hash, or a node of its tree.
pub(crate) type Node = [u8; blake3::OUT_LEN];

/// Fills `buf` with what a span of `len` bytes has at `skip`, which must not reach beyond its end.
/// All blocks that it touches are read, whole, and passed to `verify` with their numbers. After an
/// error `buf` holds anything.
pub(crate) fn read<E>(
    len: u64,
    skip: usize,
    buf: &mut [u8],
    read: impl Fn(u64, &mut [u8]) -> Result<(), E>,
    verify: impl Fn(usize, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let end = skip + buf.len();
    let verified = |start: usize, blocks: &mut [u8]| {
        read(start as u64, blocks)?;
        (start / BLOCK..).zip(blocks.chunks(BLOCK)).try_for_each(|(n, data)| verify(n, data))
    };
    let part = |wanted: Range<usize>, buf: &mut [u8]| {
        if wanted.is_empty() {
            return Ok(());
        }
        let start = wanted.start / BLOCK * BLOCK;
        let mut blocks = vec![0; len.min(wanted.end.next_multiple_of(BLOCK)) - start];
        verified(start, &mut blocks)?;
        buf.copy_from_slice(&blocks[wanted.start - start..wanted.end - start]);
        Ok(())
    };
    // What is wanted as a whole needs no copy.
    let whole = skip.next_multiple_of(BLOCK)..if end == len { end } else { end / BLOCK * BLOCK };
    if whole != (skip..end) && whole.end.saturating_sub(whole.start) < AT_ONCE {
        return part(skip..end, buf);
    }
    let (first, rest) = buf.split_at_mut(whole.start - skip);
    let (blocks, last) = rest.split_at_mut(whole.len());
    part(skip..whole.start, first)?;
    verified(whole.start, blocks)?;
    part(whole.end..end, last)
}

/// Hashes a span and its blocks.
#[derive(Debug, Default)]
pub(crate) struct TreeHasher {
    /// Of the block that is not complete, or may be the only one.
    open: blake3::Hasher,
    /// Bytes of it.
    filled: usize,
    /// Of the blocks before it.
    nodes: Vec<Node>,
}

impl TreeHasher {
    /// The hash of `content`, and of its blocks if they are more than one.
    pub(crate) fn of(content: &[u8]) -> (Node, Vec<Node>) {
        let mut hasher = Self::default();
        hasher.update(content);
        hasher.finish()
    }

    /// Adds content.
    pub(crate) fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.filled == BLOCK {
                self.next_block();
            }
            let (now, later) = data.split_at(data.len().min(BLOCK - self.filled));
            self.open.update(now);
            self.filled += now.len();
            data = later;
        }
    }

    fn next_block(&mut self) {
        self.nodes.push(self.open.finalize_non_root());
        self.filled = 0;
        self.open = blake3::Hasher::new();
        self.open.set_input_offset((self.nodes.len() * BLOCK) as u64);
    }

    /// The hash, and those of the blocks if they are more than one.
    pub(crate) fn finish(mut self) -> (Node, Vec<Node>) {
        if self.nodes.is_empty() {
            return (*self.open.finalize().as_bytes(), Vec::new());
        }
        self.nodes.push(self.open.finalize_non_root());
        let (left, right) = self.nodes.split_at(left_len(self.nodes.len()));
        let root = merge_subtrees_root(&node(left), &node(right), Mode::Hash);
        (*root.as_bytes(), self.nodes)
    }
}

/// The node of one block, of several.
pub(crate) fn node_of(number: usize, data: &[u8]) -> Node {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset((number * BLOCK) as u64);
    hasher.update(data).finalize_non_root()
}

/// The node over blocks that are at least one.
fn node(blocks: &[Node]) -> Node {
    match blocks {
        [one] => *one,
        blocks => {
            let (left, right) = blocks.split_at(left_len(blocks.len()));
            merge_subtrees_non_root(&node(left), &node(right), Mode::Hash)
        }
    }
}

/// How many of at least two blocks lie left in the tree: the largest power of two that leaves
/// something.
fn left_len(count: usize) -> usize {
    count.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use proptest::prelude::*;

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut noise = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    #[test]
    fn the_root_is_the_hash_and_the_nodes_are_those_of_the_blocks() {
        let content = noise(20 * BLOCK + 1);
        let around = |len: usize| [len.saturating_sub(1), len, len + 1];
        for len in [0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 20].map(|n| around(n * BLOCK)).as_flattened() {
            let content = &content[..*len];
            let (root, nodes) = TreeHasher::of(content);
            assert_eq!(root, *blake3::hash(content).as_bytes(), "{len}");
            let blocks = content.chunks(BLOCK);
            if blocks.len() < 2 {
                assert!(nodes.is_empty(), "{len}");
                continue;
            }
            let each: Vec<Node> = (0..).zip(blocks).map(|(n, data)| node_of(n, data)).collect();
            assert_eq!(nodes, each, "{len}");
        }
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(cuts in prop::collection::vec(0..60_000_usize, 0..8)) {
            let content = noise(cuts.iter().sum());
            let mut hasher = TreeHasher::default();
            let mut rest = &content[..];
            for cut in cuts {
                let (piece, later) = rest.split_at(cut);
                hasher.update(piece);
                rest = later;
            }
            prop_assert_eq!(hasher.finish(), TreeHasher::of(&content));
        }

        #[test]
        fn a_part_is_read_and_its_blocks_are_verified(
            len in 1..100_000_usize,
            from in 0.0..1.0,
            part in 0.0..=1.0,
        ) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            #[expect(clippy::cast_precision_loss)]
            let of = |whole: usize, part: f64| (whole as f64 * part) as usize;
            let content = noise(len);
            let skip = of(len, from);
            let mut buf = vec![0; of(len - skip, part)];
            let verified = RefCell::new(Vec::new());
            let outcome = read(
                len as u64,
                skip,
                &mut buf,
                |at, block| -> Result<(), ()> {
                    let at = usize::try_from(at).unwrap();
                    block.copy_from_slice(&content[at..at + block.len()]);
                    Ok(())
                },
                |number, data| {
                    assert_eq!(data, content.chunks(BLOCK).nth(number).unwrap());
                    verified.borrow_mut().push(number);
                    Ok(())
                },
            );
            prop_assert_eq!(outcome, Ok(()));
            prop_assert_eq!(&buf[..], &content[skip..skip + buf.len()]);
            let touched = match buf.len() {
                0 => 0..0,
                n => skip / BLOCK..(skip + n).div_ceil(BLOCK),
            };
            prop_assert_eq!(verified.into_inner(), touched.collect::<Vec<_>>());
        }
    }
}
