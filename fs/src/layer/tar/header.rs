//! One 512-byte header block (POSIX `pax`, ustar interchange format).

use super::Problem;
use crate::layer::Timestamp;

/// Size of a tar block in bytes.
pub(in crate::layer) const BLOCK: usize = 512;

/// A header whose checksum holds.
#[derive(Debug)]
pub(super) struct Header([u8; BLOCK]);

/// What a header introduces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TypeFlag {
    File,
    /// A file, or a directory if its name ends in a slash.
    V7File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    /// A directory with a list of its names as content.
    DumpDirectory,
    Fifo,
    Pax,
    PaxGlobal,
    LongName,
    LongLink,
    GnuSparse,
    VolumeLabel,
    Other(u8),
}

impl Header {
    pub(super) fn parse(block: [u8; BLOCK]) -> Result<Self, Problem> {
        let stated = octal(&block[148..156]).ok_or(Problem::Checksum)?;
        let sum = |value: fn(u8) -> i64| -> i64 {
            let field = 148..156;
            let byte = |(at, b): (usize, &u8)| value(if field.contains(&at) { b' ' } else { *b });
            block.iter().enumerate().map(byte).sum()
        };
        // Some old writers summed signed bytes.
        let (unsigned, signed) = (sum(i64::from), sum(|b| i64::from(b.cast_signed())));
        let stated = i64::try_from(stated).map_err(|_| Problem::Checksum)?;
        if stated == unsigned || stated == signed {
            Ok(Self(block))
        } else {
            Err(Problem::Checksum)
        }
    }

    pub(super) fn type_flag(&self) -> TypeFlag {
        match self.0[156] {
            // 7 is a "contiguous file", which all systems treat as a plain one.
            b'0' | b'7' => TypeFlag::File,
            0 => TypeFlag::V7File,
            b'1' => TypeFlag::Hardlink,
            b'2' => TypeFlag::Symlink,
            b'3' => TypeFlag::CharDevice,
            b'4' => TypeFlag::BlockDevice,
            b'5' => TypeFlag::Directory,
            b'D' => TypeFlag::DumpDirectory,
            b'6' => TypeFlag::Fifo,
            b'x' | b'X' => TypeFlag::Pax,
            b'g' => TypeFlag::PaxGlobal,
            b'L' => TypeFlag::LongName,
            b'K' => TypeFlag::LongLink,
            b'S' => TypeFlag::GnuSparse,
            b'V' => TypeFlag::VolumeLabel,
            other => TypeFlag::Other(other),
        }
    }

    /// The name, with the ustar prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = field(&self.0[..100]);
        let prefix = if self.has_prefix() { field(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn has_prefix(&self) -> bool {
        if !self.is_gnu() {
            return &self.0[257..263] == b"ustar\0";
        }
        // GNU has two times in this place. Go before 1.8, and so Docker of that age, wrote the
        // prefix there all the same (go.dev/issue/21005).
        let is_time = |bytes: &[u8]| bytes[0] == 0 || number(bytes).is_some();
        let times = is_time(&self.0[345..357]) && is_time(&self.0[357..369]);
        !times && field(&self.0[345..500]).is_ascii()
    }

    /// Whether the type flag is one that every reader of layers knows.
    pub(super) fn is_usual(&self) -> bool {
        matches!(self.0[156], 0 | b'0'..=b'6')
    }

    /// Times of the last access and change, where GNU's format has them.
    pub(super) fn gnu_times(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        let time = |bytes: &[u8]| {
            let seconds = number(bytes).and_then(|n| i64::try_from(n).ok());
            seconds.filter(|_| bytes[0] != 0).map(|seconds| Timestamp { seconds, nanos: 0 })
        };
        if !self.is_gnu() {
            return (None, None);
        }
        (time(&self.0[345..357]), time(&self.0[357..369]))
    }

    /// Whether this is GNU's own format.
    pub(super) fn is_gnu(&self) -> bool {
        &self.0[257..265] == b"ustar  \0"
    }

    pub(super) fn link_name(&self) -> Vec<u8> {
        field(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, Problem> {
        // Some writers put the file type bits in, or fill the field with more than 32 bits.
        let mode = number(&self.0[100..108]).ok_or(Problem::Number("mode"))?;
        Ok(u32::try_from(mode & 0o17_7777).expect("sixteen bits"))
    }

    pub(super) fn uid(&self) -> Result<u32, Problem> {
        unsigned(&self.0[108..116], "uid")
    }

    pub(super) fn gid(&self) -> Result<u32, Problem> {
        unsigned(&self.0[116..124], "gid")
    }

    pub(super) fn size(&self) -> Result<u64, Problem> {
        unsigned(&self.0[124..136], "size")
    }

    pub(super) fn mtime(&self) -> Result<Timestamp, Problem> {
        let seconds = number(&self.0[136..148]).and_then(|n| i64::try_from(n).ok());
        Ok(Timestamp { seconds: seconds.ok_or(Problem::Number("mtime"))?, nanos: 0 })
    }

    pub(super) fn major(&self) -> Result<u32, Problem> {
        unsigned(&self.0[329..337], "device major")
    }

    pub(super) fn minor(&self) -> Result<u32, Problem> {
        unsigned(&self.0[337..345], "device minor")
    }

    /// The sparse map, "is extended" flag and real size of an old GNU sparse header.
    pub(super) fn gnu_sparse(&self) -> (&[u8], bool, Result<u64, Problem>) {
        (&self.0[386..482], self.0[482] != 0, unsigned(&self.0[483..495], "sparse size"))
    }
}

/// A field's bytes before its first NUL.
fn field(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A non-negative number that fits its type.
pub(super) fn unsigned<T: TryFrom<i128>>(bytes: &[u8], what: &'static str) -> Result<T, Problem> {
    let value = number(bytes).and_then(|n| T::try_from(n).ok());
    value.ok_or(Problem::Number(what))
}

/// Octal digits, or GNU's base-256 with the first byte's high bit set; no digits are 0.
fn number(bytes: &[u8]) -> Option<i128> {
    if bytes[0] & 0x80 == 0 {
        return octal(bytes).map(i128::from);
    }
    // Two's complement of the whole field but the flag bit.
    let sign = if bytes[0] & 0x40 == 0 { 0 } else { -0x80 };
    let first = i128::from(bytes[0] & 0x7f) + sign;
    Some(bytes[1..].iter().fold(first, |n, byte| n << 8 | i128::from(*byte)))
}

fn octal(bytes: &[u8]) -> Option<u64> {
    let is_end = |byte: &u8| matches!(byte, 0 | b' ');
    let start = bytes.iter().position(|byte| !is_end(byte)).unwrap_or(bytes.len());
    let digits = bytes[start..].split(is_end).next()?;
    digits.iter().try_fold(0u64, |n, digit| match digit {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_all_their_forms() {
        let cases: [(&[u8], Option<i128>); 11] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"\0 00644\0", Some(0o644)),
            (b"\xc0\0\0\0\0\0\0\0", Some(-(1 << 62))),
            (b"77777777", Some(0o7777_7777)),
            (b"0000648\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\x00", Some(-256)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff", Some((1 << 56) - 1)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(number(bytes), expected, "{bytes:?}");
        }
        assert!(unsigned::<u32>(b"\xff\xff\xff\xff\xff\xff\xff\xff", "uid").is_err());
        assert!(unsigned::<u32>(b"\x80\0\0\x01\0\0\0\0", "uid").is_err());
    }
}
