//! Layers of any size, made in code: the same arguments give the same bytes.

use std::io::{self, Write};

/// Files in a directory.
const WIDTH: u32 = 500;
/// Files have fewer bytes than this.
const SMALL: u64 = 480;

/// Writes a layer's tar with this many small files below `data/`, 500 a directory.
pub(crate) fn write_tree(out: impl Write, files: u32, mtime: u64) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut noise = Noise(u64::from(files) + 1);
    append_directory(&mut tar, "data/", mtime)?;
    for number in 0..files {
        let directory = number / WIDTH;
        if number % WIDTH == 0 {
            append_directory(&mut tar, &format!("data/{directory:05}/"), mtime)?;
        }
        let content = noise.text(noise_size(number));
        append_file(&mut tar, &path(number), &content, mtime)?;
    }
    tar.finish()
}

/// The path of a file of such a layer.
pub(crate) fn path(number: u32) -> String {
    format!("data/{:05}/file-{number:07}", number / WIDTH)
}

/// Writes a layer's tar with files of 1 MiB that add up to this many.
pub(crate) fn write_content(out: impl Write, mebibytes: u32) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut noise = Noise(1);
    for number in 0..mebibytes {
        append_file(&mut tar, &format!("big/{number}"), &noise.text(1 << 20), 0)?;
    }
    tar.finish()
}

fn noise_size(number: u32) -> usize {
    usize::try_from(u64::from(number).wrapping_mul(2_654_435_761) % SMALL).expect("below 480")
}

fn append_directory(tar: &mut tar::Builder<impl Write>, path: &str, mtime: u64) -> io::Result<()> {
    let mut header = header(0o755, mtime);
    header.set_entry_type(tar::EntryType::Directory);
    tar.append_data(&mut header, path, io::empty())
}

fn append_file(
    tar: &mut tar::Builder<impl Write>,
    path: &str,
    content: &[u8],
    mtime: u64,
) -> io::Result<()> {
    let mut header = header(0o644, mtime);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

fn header(mode: u32, mtime: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_mtime(mtime);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// A generator of bytes (an LCG by Knuth) that gzip makes about a third of, as it does with
/// programs.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 >> 33
    }

    fn text(&mut self, size: usize) -> Vec<u8> {
        const WORDS: [&[u8]; 8] = [
            b"\x48\x8b\x05",
            b"\x00\x00\x00\x00",
            b"image",
            b" of a ",
            b"layer",
            b"\xe8",
            b"\n",
            b"\x0f\x1f",
        ];
        let mut text = Vec::with_capacity(size + 16);
        while text.len() < size {
            let random = self.next();
            text.extend_from_slice(WORDS[usize::try_from(random % 8).expect("below 8")]);
            text.extend_from_slice(&random.to_le_bytes()[..2]);
        }
        text.truncate(size);
        text
    }
}
