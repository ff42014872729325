//! Compresses one piece of a layer to a zstd frame or gzip member of its own.
//!
//! Contexts are kept from piece to piece, as most pieces are a few hundred bytes. What looks as
//! if it does not compress is stored, at the speed of a copy, in the form that the format has for
//! that: raw blocks of zstd, stored blocks of deflate.

use std::io;

use flate2::{Compress, Crc, FlushCompress, Status};
use zstd::bulk::Compressor;
use zstd::zstd_safe;

use super::Coder;

/// Header of a gzip member without name and time, on an unknown system (RFC 1952, section 2.3).
pub(super) const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
/// What a zstd frame starts with (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes that a zstd block holds at most (RFC 8878, section 3.1.1.2.4).
const ZSTD_BLOCK: usize = 128 << 10;
/// Bytes of content that are looked at before it is called incompressible; shorter ones are not
/// worth the look.
const SAMPLE: usize = 4096;
/// The sample is taken in this many parts, evenly spread.
const SAMPLE_PARTS: usize = 16;
/// The sum of the squared counts of each byte value in a sample. Noise has about 69,600; text,
/// code and base64 have more than 200,000; what lies below this saves less than 3 % even under a
/// perfect entropy coder.
const NOISE: u64 = 82_000;

/// A compressor with its contexts.
pub(super) enum Packer {
    Zstd { context: Compressor<'static>, frame: Vec<u8> },
    Gzip { context: Box<Compress>, stored: Box<Compress> },
    None,
}

impl Packer {
    pub(super) fn new(coder: Coder) -> io::Result<Self> {
        Ok(match coder {
            Coder::Zstd(level) => {
                Self::Zstd { context: Compressor::new(level)?, frame: Vec::new() }
            }
            Coder::Gzip(level) => Self::Gzip {
                context: Box::new(Compress::new(flate2::Compression::new(level), false)),
                stored: Box::new(Compress::new(flate2::Compression::none(), false)),
            },
            Coder::None => Self::None,
        })
    }

    /// Appends the content to `out`, as a frame or member; nothing if it is stored as it is.
    pub(super) fn pack(&mut self, content: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Zstd { .. } if is_noise(content) => plain_frame(content, None, out),
            Self::Zstd { context, frame } => {
                frame.clear();
                frame.reserve(zstd_safe::compress_bound(content.len()));
                context.compress_to_buffer(content, frame)?;
                out.extend_from_slice(frame);
            }
            Self::Gzip { context, stored } => {
                let context = if is_noise(content) { stored } else { context };
                member(context, content, out)?;
            }
            Self::None => {}
        }
        Ok(())
    }

    /// Appends content that is nothing but zeros.
    pub(super) fn pack_zeros(&mut self, zeros: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Zstd { .. } => {
                plain_frame(zeros, Some(0), out);
                Ok(())
            }
            Self::Gzip { .. } | Self::None => self.pack(zeros, out),
        }
    }
}

/// Whether the bytes look as if no entropy coder could do anything with them.
fn is_noise(content: &[u8]) -> bool {
    if content.len() < SAMPLE {
        return false;
    }
    let part = SAMPLE / SAMPLE_PARTS;
    let step = (content.len() - part) / (SAMPLE_PARTS - 1);
    let mut counts = [0u64; 256];
    for number in 0..SAMPLE_PARTS {
        for byte in &content[number * step..][..part] {
            counts[usize::from(*byte)] += 1;
        }
    }
    counts.iter().map(|count| count * count).sum::<u64>() < NOISE
}

/// A zstd frame of raw blocks, or, where all of the content is one byte, of blocks that say so
/// (RFC 8878, sections 3.1.1.1 and 3.1.1.2).
fn plain_frame(content: &[u8], all: Option<u8>, out: &mut Vec<u8>) {
    out.extend(ZSTD_MAGIC);
    let len = u32::try_from(content.len()).expect("pieces are of a few MiB");
    // A single segment, with its size in one, two or four bytes.
    match len {
        0..=0xff => out.extend([0x20, len.to_le_bytes()[0]]),
        0x100..=0x1_00ff => {
            out.push(0x60);
            out.extend(&(len - 0x100).to_le_bytes()[..2]);
        }
        _ => {
            out.push(0xa0);
            out.extend(len.to_le_bytes());
        }
    }
    let mut blocks = content.chunks(ZSTD_BLOCK).peekable();
    while let Some(block) = blocks.next() {
        let last = u32::from(blocks.peek().is_none());
        let kind = u32::from(all.is_some());
        let len = u32::try_from(block.len()).expect("at most 128 KiB");
        out.extend(&(last | kind << 1 | len << 3).to_le_bytes()[..3]);
        match all {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(block),
        }
    }
}

fn member(context: &mut Compress, content: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend(GZIP_HEADER);
    context.reset();
    let mut rest = content;
    loop {
        // What deflate adds at most, and room to tell that it has ended.
        out.reserve(rest.len() + rest.len() / 1000 + 64);
        let before = context.total_in();
        let status = context.compress_vec(rest, out, FlushCompress::Finish);
        let taken = usize::try_from(context.total_in() - before).expect("no more than there is");
        rest = &rest[taken..];
        if status.map_err(io::Error::other)? == Status::StreamEnd {
            break;
        }
    }
    let mut crc = Crc::new();
    crc.update(content);
    out.extend(crc.sum().to_le_bytes());
    out.extend(crc.amount().to_le_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut reader = blake3::Hasher::new().update(b"noise").finalize_xof();
        let mut bytes = vec![0; len];
        reader.fill(&mut bytes);
        bytes
    }

    fn unpacked(coder: Coder, packed: &[u8]) -> Vec<u8> {
        match coder {
            Coder::Zstd(_) => zstd::decode_all(packed).unwrap(),
            Coder::Gzip(_) => {
                let mut content = Vec::new();
                flate2::read::MultiGzDecoder::new(packed).read_to_end(&mut content).unwrap();
                content
            }
            Coder::None => unreachable!("nothing is packed"),
        }
    }

    #[test]
    fn every_length_comes_back() {
        let noise = noise(300_000);
        let text = b"All work and no play makes Jack a dull boy. ".repeat(7000);
        for coder in [Coder::Zstd(3), Coder::Gzip(6), Coder::Gzip(0)] {
            let mut packer = Packer::new(coder).unwrap();
            let mut all = Vec::new();
            let mut expected = Vec::new();
            for len in [1, 255, 256, 4095, 4096, 65_791, 65_792, 131_072, 131_073, 300_000] {
                for content in [&noise[..len], &text[..len]] {
                    packer.pack(content, &mut all).unwrap();
                    expected.extend_from_slice(content);
                }
                packer.pack_zeros(&vec![0; len], &mut all).unwrap();
                expected.resize(expected.len() + len, 0);
            }
            assert!(unpacked(coder, &all) == expected, "{coder:?}");
        }
    }

    #[test]
    fn noise_is_stored_and_all_else_is_not() {
        let mut packer = Packer::new(Coder::Zstd(19)).unwrap();
        let mut out = Vec::new();
        packer.pack(&noise(1 << 20), &mut out).unwrap();
        assert_eq!(out.len(), (1 << 20) + 4 + 5 + 8 * 3);
        assert!(out[12..].starts_with(&noise(1 << 20)[..ZSTD_BLOCK]));
        out.clear();
        packer.pack_zeros(&[0; 1 << 20], &mut out).unwrap();
        assert_eq!(out.len(), 4 + 5 + 8 * 4);
        let hex: String = noise(1 << 16).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!is_noise(hex.as_bytes()));
        assert!(!is_noise(&[5; 5000]));
    }
}
