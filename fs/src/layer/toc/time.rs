//! Times of RFC 3339, as Go writes them: any offset from UTC, up to nine digits of a second.

use crate::layer::Timestamp;

/// Days from 0000-03-01 to 1970-01-01, in the calendar that RFC 3339 uses for all times.
const EPOCH: i64 = 719_468;
/// Days in 400 years.
const ERA: i64 = 146_097;

/// Reads a time; `None` if it is none.
pub(in crate::layer) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |at: usize, len: usize| digits(bytes.get(at..at + len)?);
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, byte)| bytes.get(*at) != Some(byte)) {
        return None;
    }
    if !matches!(bytes.get(10)?, b'T' | b't') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // 60 is a leap second.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (nanos, zone) = fraction(&bytes[19..])?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Timestamp { seconds: seconds - offset(zone)?, nanos })
}

/// The nanoseconds of a fraction, if there is one, and what comes after it.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else { return Some((0, text)) };
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let digit = |i: usize| text[..len].get(i).map_or(0, |digit| u32::from(digit - b'0'));
    let nanos = (0..9).fold(0, |nanos, i| nanos * 10 + digit(i));
    (len > 0).then_some((nanos, &text[len..]))
}

/// The seconds that a zone is ahead of UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    let (sign, rest) = match zone {
        b"Z" | b"z" => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let &[h1, h2, b':', m1, m2] = rest else { return None };
    let (hours, minutes) = (digits(&[h1, h2])?, digits(&[m1, m2])?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn digits(text: &[u8]) -> Option<i64> {
    let all = text.iter().all(u8::is_ascii_digit);
    all.then(|| text.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
}

/// Days since 1970-01-01. Years start in March here, so that a leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + day_of_year - EPOCH
}

/// Writes a time in UTC; `None` for years that have no four digits.
pub(in crate::layer) fn format(time: Timestamp) -> Option<String> {
    let (days, second) = (time.seconds.div_euclid(86_400), time.seconds.rem_euclid(86_400));
    let days = days.checked_add(EPOCH)?;
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + i64::from(month >= 10);
    let month = (month + 2) % 12 + 1;
    if !(0..=9999).contains(&year) {
        return None;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let fraction = match time.nanos {
        0 => String::new(),
        nanos => format!(".{nanos:09}").trim_end_matches('0').to_owned(),
    };
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2024-02-29T12:34:56.000000789Z", 1_709_210_096, 789),
            ("1969-12-31T23:59:59.5Z", -1, 500_000_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("9999-12-31T23:59:59Z", 253_402_300_799, 0),
            ("2000-03-01T00:00:00Z", 951_868_800, 0),
        ] {
            let time = Timestamp { seconds, nanos };
            assert_eq!(parse(text), Some(time), "{text}");
            assert_eq!(format(time).unwrap(), text);
        }
        let noon = parse("2024-06-01T12:00:00Z");
        assert_eq!(parse("2024-06-01T14:00:00+02:00"), noon);
        assert_eq!(parse("2024-06-01T06:30:00.0-05:30"), noon);
    }

    #[test]
    fn every_week_there_and_back() {
        for day in (-719_528i64..2_932_897).step_by(7) {
            let time = Timestamp { seconds: day * 86_400 + day.rem_euclid(86_400), nanos: 0 };
            assert_eq!(parse(&format(time).unwrap()), Some(time));
        }
        for seconds in [i64::MIN, i64::MAX, 253_402_300_800, -62_167_219_201] {
            assert_eq!(format(Timestamp { seconds, nanos: 0 }), None);
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "2024",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01 00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-32T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00ZZ",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:00+24:00",
            "２024-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
