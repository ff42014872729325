//! What a reader of zstd:chunked needs to build the tar stream again from its files: all that
//! lies between the contents of files, in vbatts/tar-split's form, a JSON object a line:
//!
//! ```text
//! {"type":2,"payload":BASE64,"position":0}            headers and padding, as they are
//! {"type":1,"name":"bin/sh","size":5,"payload":BASE64(CRC64),"position":1}
//! ```
//!
//! One line of type 2 holds one entry's headers, with the padding before them: `containers/storage`
//! reads it as such. Then comes one of type 1, also for what has no content.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Writes the lines.
#[derive(Debug)]
pub(super) struct TarSplit<W> {
    out: W,
    position: u64,
}

impl<W: Write> TarSplit<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, position: 0 }
    }

    /// Bytes of the stream that belong to no content.
    pub(super) fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(br#"{"type":2,"payload":""#)?;
        self.out.write_all(STANDARD.encode(bytes).as_bytes())?;
        self.end_line()
    }

    /// An entry, by its name as the tar has it; of its content, if it has any, size in bytes and
    /// sum.
    pub(super) fn file(&mut self, name: &str, content: Option<(u64, Crc64)>) -> io::Result<()> {
        self.out.write_all(br#"{"type":1,"name":"#)?;
        serde_json::to_writer(&mut self.out, name)?;
        match content {
            None => {
                self.out.write_all(br#","payload":null"#)?;
                return self.end_line_with("");
            }
            Some((size, crc)) => {
                let crc = STANDARD.encode(crc.sum().to_be_bytes());
                write!(self.out, r#","size":{size},"payload":"{crc}"#)?;
            }
        }
        self.end_line()
    }

    /// The writer behind it.
    pub(super) fn into_inner(self) -> W {
        self.out
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.end_line_with("\"")
    }

    fn end_line_with(&mut self, quote: &str) -> io::Result<()> {
        writeln!(self.out, r#"{quote},"position":{}}}"#, self.position)?;
        self.position += 1;
        Ok(())
    }
}

/// CRC-64 of ISO 3309, the reflected polynomial as Go has it.
const POLYNOMIAL: u64 = 0xd800_0000_0000_0000;

/// For each of eight bytes, what it does to the sum when so many bytes follow it.
static TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = tables[0][(before & 0xff) as usize] ^ before >> 8;
            byte += 1;
        }
        table += 1;
    }
    tables
}

/// A CRC-64 sum while it is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc64(u64);

impl Crc64 {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, data: &[u8]) {
        let (eights, rest) = data.as_chunks::<8>();
        for eight in eights {
            let mixed = (self.0 ^ u64::from_le_bytes(*eight)).to_le_bytes();
            self.0 = (0..8).fold(0, |sum, at| sum ^ TABLES[7 - at][usize::from(mixed[at])]);
        }
        for byte in rest {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = TABLES[0][usize::from(low ^ byte)] ^ self.0 >> 8;
        }
    }

    pub(super) fn sum(self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_go() {
        // The check value of CRC-64/GO-ISO, and the first of Go's own test cases (hash/crc64).
        let cases: [(&[u8], u64); 3] =
            [(b"123456789", 0xb909_56c7_75a4_1001), (b"a", 0x3420_0000_0000_0000), (b"", 0)];
        for (text, expected) in cases {
            let mut crc = Crc64::new();
            crc.update(text);
            assert_eq!(crc.sum(), expected, "{text:?}");
            let mut bytewise = Crc64::new();
            text.iter().for_each(|byte| bytewise.update(&[*byte]));
            assert_eq!(bytewise.sum(), expected, "{text:?}");
        }
    }

    #[test]
    fn lines_are_of_tar_splits_form() {
        let mut split = TarSplit::new(Vec::new());
        split.segment(b"header").unwrap();
        let mut crc = Crc64::new();
        crc.update(b"123456789");
        split.file("a \"b\"", Some((9, crc))).unwrap();
        split.segment(b"").unwrap();
        split.file("dir/", None).unwrap();
        let text = String::from_utf8(split.into_inner()).unwrap();
        let expected = concat!(
            r#"{"type":2,"payload":"aGVhZGVy","position":0}"#,
            "\n",
            r#"{"type":1,"name":"a \"b\"","size":9,"payload":"uQlWx3WkEAE=","position":1}"#,
            "\n",
            r#"{"type":2,"payload":"","position":2}"#,
            "\n",
            r#"{"type":1,"name":"dir/","payload":null,"position":3}"#,
            "\n",
        );
        assert_eq!(text, expected);
    }
}
