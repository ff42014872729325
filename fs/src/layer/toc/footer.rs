//! The last bytes of an eStargz or zstd:chunked blob, which say where its table of contents is.
//!
//! ```text
//! eStargz       51 bytes: an empty gzip member with an extra field `SG`, 22 bytes:
//!               16 hex digits of the offset of the table's gzip member, `STARGZ`
//! stargz        47 bytes: the same, the 22 bytes being the extra field as a whole
//! zstd:chunked  64, 56 or 40 bytes: numbers of 8 bytes, little-endian, and the magic
//! ```

use super::SKIPPABLE_MAGIC;

/// Length of an eStargz footer in bytes.
pub const ESTARGZ_LEN: usize = 51;
/// Length of the footer that eStargz had at first.
pub const OLD_ESTARGZ_LEN: usize = 47;
/// Length of the footer of a zstd:chunked blob of today, without the skippable frame's header.
pub const ZSTD_CHUNKED_LEN: usize = 64;
/// Bytes at the end of a blob that hold any footer.
pub const MAX_LEN: usize = ZSTD_CHUNKED_LEN + 8;

/// A gzip header (RFC 1952) with an extra field, as Go writes it.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
/// An empty final stored block, and the trailer for no bytes.
const GZIP_END: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
const EXTERNAL: &[u8] = b"STARGZEXTERNALTOC";
const MAGIC: &[u8; 8] = b"GNUlInUx";
/// Before 2023.
const OLD_MAGIC: &[u8; 8] = b"GnUlInUx";

/// What a footer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footer {
    /// The table of an eStargz blob.
    Estargz {
        /// Where its gzip member starts.
        toc_offset: u64,
        /// Where the footer starts, and so the member with the table ends.
        footer_offset: u64,
    },
    /// The table of an eStargz blob is in another image.
    External,
    /// The table of a zstd:chunked blob.
    ZstdChunked(Position),
}

/// Where something lies in a zstd:chunked blob. `Default` is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Behind the header of its skippable frame.
    pub offset: u64,
    /// Its length.
    pub len: u64,
    /// Its length, decompressed.
    pub uncompressed_len: u64,
}

impl Position {
    /// Reads `offset:len:uncompressed_len`, with or without the type 1 at its end.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(':').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten();
        let position = Self { offset: next()?, len: next()?, uncompressed_len: next()? };
        let rest: Vec<_> = numbers.collect();
        matches!(rest[..], [] | [Some(1)]).then_some(position)
    }
}

/// Reads the footer at the end of `tail`, the last bytes of a blob of `blob_len` bytes, at least
/// [`MAX_LEN`] of them or all; `None` if there is none.
pub fn parse(tail: &[u8], blob_len: u64) -> Option<Footer> {
    zstd_chunked_in(tail).or_else(|| estargz_in(tail, blob_len))
}

fn zstd_chunked_in(tail: &[u8]) -> Option<Footer> {
    let magic = tail.last_chunk()?;
    if magic != MAGIC && magic != OLD_MAGIC {
        return None;
    }
    // Each generation has numbers of another count before its magic; the frame's header, before
    // them, tells which.
    let framed = |len: usize| {
        let frame = tail.len().checked_sub(len + 8)?;
        let (header, footer) = tail[frame..].split_at(8);
        let size = u32::from_le_bytes(header[4..].try_into().expect("4 bytes"));
        (header[..4] == SKIPPABLE_MAGIC && size as usize == len).then_some(footer)
    };
    let footer = [ZSTD_CHUNKED_LEN, 56, 40].into_iter().find_map(framed)?;
    let number = |i: usize| {
        u64::from_le_bytes(footer[8 * i..8 * i + 8].try_into().expect("a footer has 5 numbers"))
    };
    if number(3) != 1 {
        return None;
    }
    let position = Position { offset: number(0), len: number(1), uncompressed_len: number(2) };
    Some(Footer::ZstdChunked(position))
}

fn estargz_in(tail: &[u8], blob_len: u64) -> Option<Footer> {
    if tail.ends_with(&GZIP_END) && tail[..tail.len() - GZIP_END.len()].ends_with(EXTERNAL) {
        return Some(Footer::External);
    }
    for (len, subfield) in [(ESTARGZ_LEN, true), (OLD_ESTARGZ_LEN, false)] {
        let Some(start) = tail.len().checked_sub(len) else { continue };
        let Some(rest) = tail[start..].strip_prefix(&GZIP_HEADER) else { continue };
        let fields: &[u8] = if subfield { &[26, 0, b'S', b'G', 22, 0] } else { &[22, 0] };
        let Some(rest) = rest.strip_prefix(fields) else { continue };
        let (hex, rest) = rest.split_at(16);
        let Some(end) = rest.strip_prefix(b"STARGZ") else { continue };
        let digits = hex.iter().all(u8::is_ascii_hexdigit);
        let hex = std::str::from_utf8(hex).ok().filter(|_| digits && end == GZIP_END)?;
        return Some(Footer::Estargz {
            toc_offset: u64::from_str_radix(hex, 16).ok()?,
            footer_offset: blob_len.checked_sub(len as u64)?,
        });
    }
    None
}

/// The footer of an eStargz blob whose table's gzip member starts at this offset.
pub fn estargz(toc_offset: u64) -> [u8; ESTARGZ_LEN] {
    let mut footer = GZIP_HEADER.to_vec();
    footer.extend([26, 0, b'S', b'G', 22, 0]);
    footer.extend(format!("{toc_offset:016x}STARGZ").bytes());
    footer.extend(GZIP_END);
    footer.try_into().expect("10 + 6 + 22 + 13 bytes")
}

/// The footer of a zstd:chunked blob, to be put into a skippable frame.
pub fn zstd_chunked(toc: Position, tar_split: Position) -> [u8; ZSTD_CHUNKED_LEN] {
    let numbers = [
        toc.offset,
        toc.len,
        toc.uncompressed_len,
        1,
        tar_split.offset,
        tar_split.len,
        tar_split.uncompressed_len,
    ];
    let mut footer: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    footer.extend(MAGIC);
    footer.try_into().expect("7 numbers and the magic")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skippable(data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(data.len()).unwrap();
        [&SKIPPABLE_MAGIC[..], &len.to_le_bytes(), data].concat()
    }

    #[test]
    fn footers_are_read_as_they_are_written() {
        let toc = Position { offset: 7, len: 8, uncompressed_len: 9 };
        let blob = [&[1; 100][..], &skippable(&zstd_chunked(toc, toc))].concat();
        assert_eq!(parse(&blob, 172), Some(Footer::ZstdChunked(toc)));
        let blob = [&[1; 100][..], &estargz(0x6ce50)].concat();
        let expected = Footer::Estargz { toc_offset: 0x6ce50, footer_offset: 100 };
        assert_eq!(parse(&blob, 151), Some(expected));
    }

    #[test]
    fn footers_of_earlier_writers() {
        let numbers = |n: &[u64]| n.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        for n in [&[7, 8, 9, 1][..], &[7, 8, 9, 1, 5, 6]] {
            let blob = skippable(&[&numbers(n)[..], OLD_MAGIC].concat());
            let toc = Position { offset: 7, len: 8, uncompressed_len: 9 };
            assert_eq!(parse(&blob, blob.len() as u64), Some(Footer::ZstdChunked(toc)));
        }
        let old = [&GZIP_HEADER[..], &[22, 0], b"00000000000000ffSTARGZ", &GZIP_END].concat();
        let expected = Footer::Estargz { toc_offset: 255, footer_offset: 0 };
        assert_eq!(parse(&old, 47), Some(expected));
        let external = [&GZIP_HEADER[..], &[21, 0, b'S', b'G', 17, 0], EXTERNAL, &GZIP_END];
        assert_eq!(parse(&external.concat(), 46), Some(Footer::External));
    }

    #[test]
    fn no_flip_makes_a_footer_that_is_not_one() {
        let toc = Position { offset: 7, len: 8, uncompressed_len: 9 };
        for footer in [skippable(&zstd_chunked(toc, toc)), estargz(1).to_vec()] {
            for at in 0..footer.len() {
                let mut flipped = footer.clone();
                flipped[at] ^= 0x80;
                // A number may be another one, nothing else.
                match parse(&flipped, 1000) {
                    None | Some(Footer::ZstdChunked(_)) => {}
                    Some(other) => panic!("{other:?} after a flip at {at}"),
                }
                assert_eq!(parse(&footer[..at], 1000), None);
            }
        }
    }

    #[test]
    fn positions_in_annotations() {
        let position = Position { offset: 1, len: 2, uncompressed_len: 3 };
        assert_eq!(Position::parse("1:2:3:1"), Some(position));
        assert_eq!(Position::parse("1:2:3"), Some(position));
        for bad in ["", "1:2", "1:2:3:2", "1:2:3:1:1", "1:2:x:1", "-1:2:3:1", "1:2:3:1:"] {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
