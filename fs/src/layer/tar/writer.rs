//! Writes tar headers: ustar (POSIX `pax`, ustar interchange format), with a PAX extended header
//! before it where that is too small.
//!
//! The same entry always becomes the same bytes: no user names, no access times, PAX records in
//! one order. Names keep their bytes, also in PAX records, where POSIX wants UTF-8: Go, GNU tar
//! and bsdtar take them as they are.

use super::header::BLOCK;
use super::{MAX_META, Problem, Spelling, check_target, clean_path};
use crate::layer::{Device, Entry, Kind, Timestamp};

/// Place and length of the fields of a header block.
const NAME: (usize, usize) = (0, 100);
const MODE: (usize, usize) = (100, 8);
const UID: (usize, usize) = (108, 8);
const GID: (usize, usize) = (116, 8);
const SIZE: (usize, usize) = (124, 12);
const MTIME: (usize, usize) = (136, 12);
const CHECKSUM: (usize, usize) = (148, 8);
const TYPE_FLAG: usize = 156;
const LINK_NAME: (usize, usize) = (157, 100);
const MAGIC: (usize, usize) = (257, 8);
const MAJOR: (usize, usize) = (329, 8);
const MINOR: (usize, usize) = (337, 8);

/// The name of PAX headers; only a program that knows no PAX would make a file of it.
const PAX_NAME: &[u8] = b"././@PaxHeader";

/// The header blocks of an entry. `entry.size` bytes of content follow them, padded to a block.
pub(in crate::layer) fn header(entry: &Entry) -> Result<Vec<u8>, Problem> {
    let path = stored_path(entry)?;
    let mut pax = Records::default();
    let (flag, link) = flag_and_link(&entry.kind)?;
    let mut block = Block::new(flag);
    if !block.text(NAME, &path) {
        pax.push(b"path", &path);
        block.cut_text(NAME, &path);
    }
    if !block.text(LINK_NAME, link) {
        pax.push(b"linkpath", link);
        block.cut_text(LINK_NAME, link);
    }
    block.octal(MODE, u64::from(entry.mode & 0o7777));
    let size = if entry.kind == Kind::File { entry.size } else { 0 };
    let numbers: [((usize, usize), &[u8], u64); 3] = [
        (SIZE, b"size", size),
        (UID, b"uid", u64::from(entry.uid)),
        (GID, b"gid", u64::from(entry.gid)),
    ];
    for (field, key, value) in numbers {
        if !block.octal(field, value) {
            pax.push(key, value.to_string().as_bytes());
            block.octal(field, 0);
        }
    }
    let whole = u64::try_from(entry.mtime.seconds).is_ok_and(|s| block.octal(MTIME, s));
    if !whole {
        block.octal(MTIME, 0);
    }
    if !whole || entry.mtime.nanos > 0 {
        pax.push(b"mtime", decimal(entry.mtime).as_bytes());
    }
    let device = match entry.kind {
        Kind::CharDevice(device) | Kind::BlockDevice(device) => device,
        _ => Device { major: 0, minor: 0 },
    };
    for (field, value, what) in
        [(MAJOR, device.major, "device major"), (MINOR, device.minor, "device minor")]
    {
        // Linux has 12 and 20 bits, the fields 21.
        if !block.octal(field, u64::from(value)) {
            return Err(Problem::Number(what));
        }
    }
    pax.push_xattrs(&entry.xattrs)?;
    let mut header = pax.into_blocks()?;
    header.extend(block.finish());
    Ok(header)
}

/// What a reader finds of an entry in its header.
pub(in crate::layer) fn spelling(entry: &Entry) -> Result<Spelling, Problem> {
    let (_, link) = flag_and_link(&entry.kind)?;
    Ok(Spelling {
        name: stored_path(entry)?,
        link: link.to_vec(),
        mode: entry.mode & 0o7777,
        ..Spelling::default()
    })
}

/// The path as it is stored: directories end in a slash, the root is `./`.
fn stored_path(entry: &Entry) -> Result<Vec<u8>, Problem> {
    let mut path = clean_path(&entry.path)?;
    match (&entry.kind, path.is_empty()) {
        (Kind::Directory, true) => path.extend(b"./"),
        (Kind::Directory, false) => path.push(b'/'),
        (_, true) => return Err(Problem::NoName),
        (_, false) => {}
    }
    Ok(path)
}

fn flag_and_link(kind: &Kind) -> Result<(u8, &[u8]), Problem> {
    Ok(match kind {
        Kind::File => (b'0', b""),
        Kind::Hardlink(target) => {
            if clean_path(target)?.is_empty() {
                return Err(Problem::NoTarget);
            }
            (b'1', target)
        }
        Kind::Symlink(target) => {
            check_target(target)?;
            (b'2', target)
        }
        Kind::CharDevice(_) => (b'3', b""),
        Kind::BlockDevice(_) => (b'4', b""),
        Kind::Directory => (b'5', b""),
        Kind::Fifo => (b'6', b""),
    })
}

/// A header block while it is filled.
struct Block([u8; BLOCK]);

impl Block {
    fn new(flag: u8) -> Self {
        let mut block = Self([0; BLOCK]);
        block.0[TYPE_FLAG] = flag;
        block.field(MAGIC).copy_from_slice(b"ustar\x0000");
        block
    }

    fn field(&mut self, (at, len): (usize, usize)) -> &mut [u8] {
        &mut self.0[at..at + len]
    }

    /// Sets a text, without an end mark if it fills the field; `false` if it does not fit.
    fn text(&mut self, field: (usize, usize), text: &[u8]) -> bool {
        let fits = text.len() <= field.1;
        if fits {
            self.field(field)[..text.len()].copy_from_slice(text);
        }
        fits
    }

    /// Sets what fits of a text that stands whole in a PAX record. Never with a slash at the
    /// end, which makes a directory of a file.
    fn cut_text(&mut self, field: (usize, usize), text: &[u8]) {
        let cut = &text[..text.len().min(field.1)];
        let slashes = cut.iter().rev().take_while(|byte| **byte == b'/').count();
        self.text(field, &cut[..cut.len() - slashes]);
    }

    /// Sets a number of octal digits and a NUL; `false` if it does not fit.
    fn octal(&mut self, field: (usize, usize), value: u64) -> bool {
        let digits = &mut self.field(field)[..field.1 - 1];
        let fits = value >> (3 * digits.len()) == 0;
        if fits {
            for (at, digit) in digits.iter_mut().rev().enumerate() {
                *digit = b'0' + u8::try_from(value >> (3 * at) & 7).expect("three bits");
            }
        }
        fits
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.field(CHECKSUM).fill(b' ');
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        // Six digits, a NUL and a blank, as ever.
        self.text(CHECKSUM, format!("{sum:06o}\0").as_bytes());
        self.0
    }
}

/// PAX records: `LEN KEY=VALUE\n`.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.0.extend(format!("{len} ").as_bytes());
        for part in [key, b"=", value, b"\n"] {
            self.0.extend(part);
        }
    }

    fn push_xattrs(&mut self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Problem> {
        for (name, value) in xattrs {
            // A record's key ends at the first `=`.
            if name.is_empty() || name.contains(&b'=') || name.contains(&0) {
                return Err(Problem::XattrName(name.escape_ascii().to_string()));
            }
            self.push(&[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        Ok(())
    }

    /// The header and content blocks of the records; nothing if there are none.
    fn into_blocks(self) -> Result<Vec<u8>, Problem> {
        let len = self.0.len();
        if len == 0 {
            return Ok(Vec::new());
        }
        if len as u64 > MAX_META {
            return Err(Problem::TooMuchMeta(len as u64));
        }
        let mut block = Block::new(b'x');
        block.text(NAME, PAX_NAME);
        block.octal(MODE, 0o644);
        for field in [UID, GID, MTIME, MAJOR, MINOR] {
            block.octal(field, 0);
        }
        block.octal(SIZE, len as u64);
        let mut blocks = block.finish().to_vec();
        blocks.extend(self.0);
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
        Ok(blocks)
    }
}

/// `[-]SECONDS[.FRACTION]`, where the fraction counts away from 0.
fn decimal(time: Timestamp) -> String {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let sign = if nanos < 0 { "-" } else { "" };
    let (seconds, fraction) = (nanos.abs() / 1_000_000_000, nanos.abs() % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}");
    }
    let text = format!("{sign}{seconds}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests;
