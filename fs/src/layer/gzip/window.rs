//! What of the output before a span the span refers to: the rest of it need not be kept.
//!
//! A deflate stream copies from the 32 KiB before it, but mostly from what came last, and soon
//! from itself. To see what it copies, it is inflated again after a *marked* window: one whose
//! bytes differ from the right ones by marks, each pair of which occurs once. Where output
//! differs from the right one, the difference is the mark of the byte that was copied, maybe by
//! way of other output; and as deflate copies three bytes at least (RFC 1951, section 3.2.5),
//! the first copy of each byte shows two marks side by side, which say where in the window that
//! was. What is kept too much, where two copies meet, does no harm.

use std::io;

use crate::sys::WINDOW;

/// Marks are the numbers below this one, plus one: a prime, so that each step of another size goes
/// through all of them before it comes back.
const MARKS: usize = 251;

/// The marks of a window.
pub(in crate::layer) struct Marks {
    marks: Vec<u8>,
    /// Where a pair of marks is, by its two bytes; [`WINDOW`], which is behind all of them, for
    /// those that do not occur.
    places: Vec<u16>,
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Marks")
    }
}

impl Marks {
    pub(in crate::layer) fn new() -> Self {
        let steps = (1..).flat_map(|step| (0..MARKS).map(move |n| n * step % MARKS));
        let mark = |n| u8::try_from(n + 1).expect("at most 251");
        let marks: Vec<u8> = steps.take(WINDOW).map(mark).collect();
        let none = u16::try_from(WINDOW).expect("32 KiB");
        let mut places = vec![none; 1 << 16];
        for (place, pair) in (0..).zip(marks.windows(2)) {
            places[number(pair)] = place;
        }
        Self { marks, places }
    }

    /// The window, with zeros for what is not needed to inflate `stored`, as [`super::decode`]
    /// has it, to `content`. That need not be more than the first [`WINDOW`] bytes: what comes
    /// later cannot reach back to the window.
    pub(in crate::layer) fn needed(
        &self,
        window: &[u8],
        bits: u8,
        stored: &[u8],
        content: &[u8],
    ) -> io::Result<Vec<u8>> {
        let Some(last) = window.len().checked_sub(1) else { return Ok(Vec::new()) };
        let marked = difference(window, &self.marks);
        let output = super::decode(&marked, bits, stored, content.len())?;
        // No branches: there is no telling which bytes are copied, and most of the time would go
        // into wrong guesses.
        let mut is_needed = vec![0; WINDOW + 2];
        for pair in difference(&output, content).windows(2) {
            let place = usize::from(self.places[number(pair)]);
            is_needed[place..place + 2].fill(0xff);
        }
        // Alone, before a copy that goes on with the output.
        is_needed[last] = 0xff;
        Ok(window.iter().zip(&is_needed).map(|(byte, is_needed)| byte & is_needed).collect())
    }
}

fn number(pair: &[u8]) -> usize {
    usize::from(pair[0]) << 8 | usize::from(pair[1])
}

fn difference(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

#[cfg(test)]
mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u32, len: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            u8::try_from(state >> 24).unwrap()
        };
        std::iter::repeat_with(&mut next).take(len).collect()
    }

    /// The content deflated after the window.
    fn deflate(window: &[u8], content: &[u8], level: u32) -> Vec<u8> {
        let mut deflate = Compress::new(Compression::new(level), false);
        deflate.set_dictionary(window).unwrap();
        let mut stored = Vec::with_capacity(content.len() + 1000);
        deflate.compress_vec(content, &mut stored, FlushCompress::Finish).unwrap();
        stored
    }

    /// What the content needs of the window, after a look at whether that is enough.
    fn needed(window: &[u8], content: &[u8], level: u32) -> Vec<u8> {
        let stored = deflate(window, content, level);
        let start = &content[..content.len().min(WINDOW)];
        let needed = Marks::new().needed(window, 0, &stored, start).unwrap();
        assert_eq!(needed.len(), window.len());
        assert!(super::super::decode(&needed, 0, &stored, content.len()).unwrap() == content);
        needed
    }

    #[test]
    fn no_pair_of_marks_occurs_twice() {
        let marks = Marks::new();
        assert_eq!(marks.marks.len(), WINDOW);
        assert!(!marks.marks.contains(&0));
        let known = marks.places.iter().filter(|place| usize::from(**place) < WINDOW).count();
        assert_eq!(known, WINDOW - 1);
    }

    #[test]
    fn what_is_copied_is_kept_and_the_rest_is_not() {
        let window = noise(1, WINDOW);
        let copied = [1000..1300, 20_000..20_003, 32_000..WINDOW];
        let mut content = noise(2, 100);
        for range in copied.clone() {
            content.extend(&window[range]);
            content.extend(noise(3, 50));
        }
        // From the content, at last.
        content.extend(content.clone());
        let needed = needed(&window, &content, 9);
        for (place, (kept, byte)) in needed.iter().zip(&window).enumerate() {
            match copied.iter().any(|range| range.contains(&place)) {
                true => assert_eq!(kept, byte, "{place}"),
                false => assert_eq!(*kept, 0, "{place}"),
            }
        }
    }

    #[test]
    fn a_copy_that_goes_on_with_the_output_needs_the_last_byte() {
        for len in [1, 2, 100, WINDOW] {
            let window = noise(5, len);
            let last = window[len - 1];
            assert_eq!(needed(&window, &vec![last; 1000], 6).last(), Some(&last), "{len}");
        }
        assert!(needed(&[], &[7; 1000], 6).is_empty());
    }

    #[test]
    fn stored_bytes_that_are_no_stream_are_an_error() {
        let window = noise(1, WINDOW);
        assert!(Marks::new().needed(&window, 0, &[0xff; 10], &[0; 10]).is_err());
        assert!(Marks::new().needed(&window, 0, &[], &[0; 10]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_kept_is_enough(
            // Of few values, so that there are copies of copies, and short ones.
            window in prop::collection::vec(0..4_u8, 1..2000),
            copies in prop::collection::vec((0..4000_usize, 3..300_usize), 0..200),
            level in 1..10_u32,
        ) {
            let mut all = window.clone();
            for (place, len) in copies {
                let place = place % all.len();
                let len = len.min(all.len() - place);
                all.extend_from_within(place..place + len);
                all.push(9);
            }
            needed(&window, &all[window.len()..], level);
        }
    }
}
