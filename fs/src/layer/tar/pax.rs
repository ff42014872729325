//! PAX extended header records (POSIX `pax`, "pax Header Block"): `LEN KEY=VALUE\n`.

use super::Problem;
use crate::layer::Timestamp;

/// The records that matter of one extended header.
#[derive(Debug, Default)]
pub(super) struct Pax {
    path: Option<Vec<u8>>,
    link_path: Option<Vec<u8>>,
    size: Option<Vec<u8>>,
    uid: Option<Vec<u8>>,
    gid: Option<Vec<u8>>,
    mtime: Option<Vec<u8>>,
    atime: Option<Vec<u8>>,
    ctime: Option<Vec<u8>>,
    /// Sorted by name.
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// `GNU.sparse.*` without the prefix, in order: version 0.0 repeats its keys.
    sparse: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    pub(super) fn parse(mut data: &[u8]) -> Result<Self, Problem> {
        let mut pax = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data).ok_or(Problem::Pax)?;
            pax.set(key, value)?;
            data = rest;
        }
        // The last of several values holds: it comes first in what is kept of each name.
        pax.xattrs.reverse();
        pax.xattrs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pax.xattrs.dedup_by(|(later, _), (first, _)| later == first);
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let slot = match key {
            b"path" => &mut self.path,
            b"linkpath" => &mut self.link_path,
            b"size" => &mut self.size,
            b"uid" => &mut self.uid,
            b"gid" => &mut self.gid,
            b"mtime" => &mut self.mtime,
            b"atime" => &mut self.atime,
            b"ctime" => &mut self.ctime,
            _ => return self.set_prefixed(key, value),
        };
        // An empty value takes the record back: the header's own field holds.
        *slot = (!value.is_empty()).then(|| value.to_vec());
        Ok(())
    }

    fn set_prefixed(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.contains(&0) {
                return Err(Problem::Pax);
            }
            self.xattrs.push((name.to_vec(), value.to_vec()));
        } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
            self.sparse.push((name.to_vec(), value.to_vec()));
        }
        Ok(())
    }

    pub(super) fn path(&self) -> Option<&[u8]> {
        self.path.as_deref()
    }

    pub(super) fn link_path(&self) -> Option<&[u8]> {
        self.link_path.as_deref()
    }

    pub(super) fn size(&self) -> Result<Option<u64>, Problem> {
        self.size.as_deref().map(|text| decimal(text, "size")).transpose()
    }

    pub(super) fn uid(&self) -> Result<Option<u32>, Problem> {
        self.uid.as_deref().map(|text| decimal(text, "uid")).transpose()
    }

    pub(super) fn gid(&self) -> Result<Option<u32>, Problem> {
        self.gid.as_deref().map(|text| decimal(text, "gid")).transpose()
    }

    pub(super) fn mtime(&self) -> Result<Option<Timestamp>, Problem> {
        let parse = |text| timestamp(text).ok_or(Problem::Number("mtime"));
        self.mtime.as_deref().map(parse).transpose()
    }

    /// `None` also if it cannot be read: nothing depends on it.
    pub(super) fn atime(&self) -> Option<Timestamp> {
        self.atime.as_deref().and_then(timestamp)
    }

    /// `None` also if it cannot be read: nothing depends on it.
    pub(super) fn ctime(&self) -> Option<Timestamp> {
        self.ctime.as_deref().and_then(timestamp)
    }

    /// The last value of a `GNU.sparse.` key, unless it is empty.
    pub(super) fn sparse(&self, key: &[u8]) -> Option<&[u8]> {
        let found = self.sparse.iter().rev().find(|(known, _)| known == key);
        found.map(|(_, value)| &value[..]).filter(|value| !value.is_empty())
    }

    /// All `GNU.sparse.` records in order.
    pub(super) fn sparse_records(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.sparse
    }

    /// Names and values in the order of the names.
    pub(super) fn into_xattrs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.xattrs
    }
}

/// Splits off one record.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(8).position(|byte| *byte == b' ')?;
    let len: usize = decimal(&data[..space], "").ok()?;
    let body = data.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], &data[len..]))
}

/// A decimal number without sign.
pub(super) fn decimal<T: TryFrom<u64>>(text: &[u8], what: &'static str) -> Result<T, Problem> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let value = digits.then(|| std::str::from_utf8(text).ok()?.parse::<u64>().ok()).flatten();
    value.and_then(|n| T::try_from(n).ok()).ok_or(Problem::Number(what))
}

/// `[-]SECONDS[.FRACTION]`; digits past the nanosecond are cut off.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let seconds = i128::from(decimal::<u64>(parts.next()?, "").ok()?);
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| i128::from(fraction.get(i).map_or(0, |d| d - b'0'));
    let nanos = seconds * 1_000_000_000 + (0..9).fold(0, |n, i| n * 10 + digit(i));
    let nanos = if negative { -nanos } else { nanos };
    Some(Timestamp {
        seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?,
        nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).expect("below a second"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_their_errors() {
        let pax = Pax::parse(b"11 path=ab\n9 size=7\n26 SCHILY.xattr.user.a=\0\n\n").unwrap();
        assert_eq!(pax.path(), Some(&b"ab"[..]));
        assert_eq!(pax.size().unwrap(), Some(7));
        assert_eq!(pax.into_xattrs(), [(b"user.a".to_vec(), b"\0\n".to_vec())]);
        for bad in
            [&b"x"[..], b"99 a=b\n", b"5 a=b\n", b"6 =bc\n", b"6 a=bc", b"0 a=b\n", b" a=b\n"]
        {
            assert!(Pax::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn times_before_the_epoch_count_forward() {
        let at = |text: &str| timestamp(text.as_bytes()).map(|t| (t.seconds, t.nanos));
        assert_eq!(at("1.5"), Some((1, 500_000_000)));
        assert_eq!(at("1.0000000019"), Some((1, 1)));
        assert_eq!(at("-1"), Some((-1, 0)));
        assert_eq!(at("-0.25"), Some((-1, 750_000_000)));
        assert_eq!(at("-9223372036854775808"), Some((i64::MIN, 0)));
        for bad in ["", ".5", "1.x", "--1", "9223372036854775808", "-9223372036854775808.1"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }
}
