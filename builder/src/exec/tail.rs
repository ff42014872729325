//! The output of a step: passed on line by line, its end kept for the error message.

use std::collections::VecDeque;
use std::io::{self, Read};

/// How many lines the error of a failed step can show.
const KEPT_LINES: usize = 20;
/// A longer line is passed on in pieces of this many bytes.
const MAX_LINE: usize = 8 << 10;
/// As much as a pipe holds.
const BUFFER: usize = 64 << 10;

/// The last lines of an output; at most [`KEPT_LINES`] of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
pub(super) struct Tail(VecDeque<Vec<u8>>);

impl Tail {
    /// Reads `output` to its end. Each line goes to `sink` as it comes, without its newline.
    pub(super) fn of(output: impl Read, sink: &mut dyn FnMut(&[u8])) -> io::Result<Self> {
        let mut tail = Self::default();
        let mut line = Vec::new();
        let mut output = io::BufReader::with_capacity(BUFFER, output);
        loop {
            let chunk = match io::BufRead::fill_buf(&mut output) {
                Ok([]) => break,
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let room = &chunk[..chunk.len().min(MAX_LINE - line.len())];
            let newline = room.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&room[..newline.unwrap_or(room.len())]);
            let used = newline.map_or(room.len(), |at| at + 1);
            if newline.is_some() || line.len() == MAX_LINE {
                tail.push(&mut line, sink);
            }
            io::BufRead::consume(&mut output, used);
        }
        if !line.is_empty() {
            tail.push(&mut line, sink);
        }
        Ok(tail)
    }

    fn push(&mut self, line: &mut Vec<u8>, sink: &mut dyn FnMut(&[u8])) {
        sink(line);
        let mut place = if self.0.len() == KEPT_LINES {
            self.0.pop_front().expect("it is full")
        } else {
            Vec::new()
        };
        place.clear();
        place.append(line);
        self.0.push_back(place);
    }

    /// The lines as text; what is no UTF-8 is shown as U+FFFD, control characters as escapes.
    pub(super) fn into_lines(self) -> Vec<String> {
        self.0.iter().map(|line| printable(line)).collect()
    }
}

/// Output may hold terminal commands; an error message must not pass them on.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\t' {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &[u8]) -> (Vec<Vec<u8>>, Vec<String>) {
        let mut seen = Vec::new();
        let tail = Tail::of(output, &mut |line| seen.push(line.to_vec())).unwrap();
        (seen, tail.into_lines())
    }

    #[test]
    fn every_line_is_seen_and_the_last_are_kept() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let (seen, tail) = read(text.as_bytes());
        assert_eq!(seen.len(), 100);
        assert_eq!(tail.len(), KEPT_LINES);
        assert_eq!((tail[0].as_str(), tail[19].as_str()), ("line 80", "line 99"));
    }

    #[test]
    fn a_last_line_needs_no_newline_and_empty_lines_count() {
        let (seen, tail) = read(b"a\n\nb");
        assert_eq!(seen, [b"a".to_vec(), b"".to_vec(), b"b".to_vec()]);
        assert_eq!(tail, ["a", "", "b"]);
        assert_eq!(read(b"").0.len(), 0);
    }

    #[test]
    fn a_line_without_end_comes_in_pieces() {
        let (seen, tail) = read(&vec![b'x'; MAX_LINE * 30 + 1]);
        assert_eq!((seen.len(), seen[30].len()), (31, 1));
        assert!(seen.iter().all(|piece| piece.len() <= MAX_LINE));
        assert_eq!(tail.len(), KEPT_LINES);
    }

    #[test]
    fn strange_bytes_are_shown_safely() {
        let (seen, tail) = read(b"caf\xe9 \x1b[2J\tok\r\n");
        assert_eq!(seen, [b"caf\xe9 \x1b[2J\tok\r".to_vec()]);
        assert_eq!(tail, ["caf\u{fffd} \\u{1b}[2J\tok"]);
    }
}
