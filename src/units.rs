//! Amounts as people type them.

use std::str::FromStr;

/// A number of bytes, with or without a unit: `1048576`, `512M`, `10GiB`, `1.5TB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    /// Units with `B` alone are decimal, all others binary, as for coreutils.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no size; 512M, 10GiB or a number of bytes is");
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let unit = unit.trim_start().to_ascii_uppercase();
        let power = match unit.chars().next() {
            None | Some('B') => 0,
            Some('K') => 1,
            Some('M') => 2,
            Some('G') => 3,
            Some('T') => 4,
            Some(_) => return Err(wrong()),
        };
        let factor = match unit.get(1..) {
            None | Some("" | "IB") => 1024_u64.pow(power),
            Some("B") if power > 0 => 1000_u64.pow(power),
            Some(_) => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if fraction.len() > 3 {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let parts: u64 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
        let bytes = whole.checked_mul(factor).ok_or_else(wrong)?;
        bytes
            .checked_add(factor / 1000 * parts + factor % 1000 * parts / 1000)
            .map(Self)
            .ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_coreutils_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("7B", 7),
            ("1k", 1024),
            ("1kB", 1000),
            ("512M", 512 << 20),
            ("10GiB", 10 << 30),
            ("1.5 GB", 1_500_000_000),
            ("1.5KiB", 1536),
            ("2T", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "G", "-1", "1X", "1GBs", "1.2345G", "1.G.", "99999999999T", "1iB", "1BB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }
}
