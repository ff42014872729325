//! Aligned columns, and sizes and ages as people read them.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use kfs_fs::printable;

/// A cell wider than this, in characters, widens no other cell: with one of a megabyte each of
/// ten thousand rows would be that long.
const WIDEST: usize = 160;

/// Rows of text under headings, in columns as wide as they need to be.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row. Cells come from images: control characters would reach the terminal.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.cells(cells.into());
    }

    /// Adds a row of as many cells as there are headings.
    pub(crate) fn cells(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| printable::text(cell)).collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count().min(WIDEST)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                write!(line, "{cell:width$}   ")?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// The first characters of `text`, with a mark where it was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A number of bytes in decimal units and three digits, as Docker shows it: `77.9MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // Fractions of a byte are not shown.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 of one unit would show as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let number = format!("{value:.decimals$}");
    let number = match number.contains('.') {
        true => number.trim_end_matches('0').trim_end_matches('.'),
        false => &number,
    };
    format!("{number}{}", UNITS[unit])
}

/// How long ago `created` (RFC 3339) is, as Docker shows it: `2 hours ago`.
pub(crate) fn age(created: Option<&str>, now: SystemTime) -> String {
    let Some(time) = created.and_then(parse_time) else { return "N/A".to_owned() };
    match now.duration_since(time) {
        Ok(elapsed) => format!("{} ago", duration(elapsed)),
        Err(ahead) => format!("{} ahead", duration(ahead.duration())),
    }
}

/// RFC 3339 with any offset; the parser of `humantime` knows only `Z`.
fn parse_time(text: &str) -> Option<SystemTime> {
    let split = text.len().checked_sub(6).filter(|at| text.is_char_boundary(*at))?;
    let (local, offset) = text.split_at(split);
    let [sign @ (b'+' | b'-'), h1, h0, b':', m1, m0] = offset.as_bytes() else {
        return humantime::parse_rfc3339(text).ok();
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(10).map(u64::from);
    let hours = digit(h1)? * 10 + digit(h0)?;
    let minutes = digit(m1)? * 10 + digit(m0)?;
    let offset = Duration::from_secs(hours * 3600 + minutes * 60);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    if *sign == b'+' { local.checked_sub(offset) } else { local.checked_add(offset) }
}

/// The largest unit alone (docker/go-units, `HumanDuration`).
fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    let days = hours / 24;
    match (seconds, minutes, hours, days) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (..60, ..) => format!("{seconds} seconds"),
        (_, 1, ..) => "About a minute".to_owned(),
        (_, ..60, ..) => format!("{minutes} minutes"),
        (_, _, ..2, _) => "About an hour".to_owned(),
        (_, _, ..48, _) => format!("{hours} hours"),
        (.., ..14) => format!("{days} days"),
        (.., ..60) => format!("{} weeks", days / 7),
        (.., ..730) => format!("{} months", days / 30),
        _ => format!("{} years", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_050, "4.05kB"),
            (77_900_000, "77.9MB"),
            (999_600, "1MB"),
            (120_000_000, "120MB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn ages_are_those_of_docker() {
        let now = parse_time("2024-03-01T12:00:00Z").unwrap();
        for (created, text) in [
            ("2024-03-01T11:59:59.5Z", "Less than a second ago"),
            ("2024-03-01T11:58:50Z", "About a minute ago"),
            ("2024-03-01T10:00:00Z", "2 hours ago"),
            ("2024-03-01T12:00:00+02:00", "2 hours ago"),
            ("2024-03-01T08:30:00-01:30", "2 hours ago"),
            ("2024-02-16T12:00:00Z", "2 weeks ago"),
            ("1970-01-01T00:00:00Z", "54 years ago"),
            ("2024-03-01T15:00:00Z", "3 hours ahead"),
            ("yesterday", "N/A"),
            ("ä+01:00", "N/A"),
            ("", "N/A"),
        ] {
            assert_eq!(age(Some(created), now), text, "{created}");
        }
    }

    #[test]
    fn columns_are_aligned_and_terminals_safe() {
        let mut table = Table::new(&["A", "B"]);
        table.row(["long".to_owned(), "x\x1b[2J\n".to_owned()]);
        assert_eq!(table.to_string(), "A      B\nlong   x\\u{1b}[2J\\n\n");
        table.row(["y".repeat(10_000), "z".to_owned()]);
        assert_eq!(table.to_string().lines().nth(1).unwrap().len(), WIDEST + 3 + 12);
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
