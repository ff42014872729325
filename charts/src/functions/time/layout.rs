//! Go's layouts: a moment written as the reference moment is, Mon Jan 2 15:04:05 MST 2006.

use super::{MONTHS, Time, WEEKDAYS, days_of};

/// The parts of a layout, longest first where one starts another.
const PARTS: [&str; 36] = [
    "January",
    "Jan",
    "Monday",
    "Mon",
    "MST",
    "2006",
    "-07:00:00",
    "-07:00",
    "-070000",
    "-0700",
    "-07",
    "Z07:00:00",
    "Z07:00",
    "Z070000",
    "Z0700",
    "Z07",
    "002",
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "15",
    "PM",
    "pm",
    "__2",
    "_2006",
    "_2",
    "1",
    "2",
    "3",
    "4",
    "5",
    ".000000000",
    ".999999999",
];

/// The next part of a layout: the text before it, the part, and what follows.
fn next_part(layout: &str) -> Option<(&str, &str, &str)> {
    for (at, c) in layout.char_indices() {
        let rest = &layout[at..];
        if matches!(c, '.' | ',') {
            let digit = rest[1..].chars().next().filter(|digit| matches!(digit, '0' | '9'));
            let Some(digit) = digit else {
                continue;
            };
            let count = rest[1..].chars().take_while(|c| *c == digit).count();
            let after = &rest[1 + count..];
            if !after.starts_with(|c: char| c.is_ascii_digit()) {
                return Some((&layout[..at], &rest[..=count], after));
            }
            continue;
        }
        let part = PARTS[..34].iter().find(|part| {
            rest.strip_prefix(**part).is_some_and(|after| {
                // `Jan` of `January` is found before; of `Janet` it is not.
                !matches!(**part, "Jan" | "Mon")
                    || !after.starts_with(|c: char| c.is_ascii_lowercase())
            })
        });
        match part {
            // The year is behind the underscore.
            Some(&"_2006") => {
                return Some((&layout[..=at], &layout[at + 1..at + 5], &layout[at + 5..]));
            }
            Some(part) => return Some((&layout[..at], part, &rest[part.len()..])),
            None => (),
        }
    }
    None
}

pub(in crate::functions) fn format(time: &Time, layout: &str) -> String {
    let civil = time.civil();
    let mut out = String::with_capacity(layout.len() + 8);
    let mut rest = layout;
    let (hour, minute, second) = (civil.clock / 3600, civil.clock / 60 % 60, civil.clock % 60);
    let hour_of_12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let month_name = MONTHS[civil.month as usize - 1];
    let weekday = WEEKDAYS[civil.weekday];
    while let Some((before, part, after)) = next_part(rest) {
        out.push_str(before);
        rest = after;
        out.push_str(&match part {
            "January" => month_name.into(),
            "Jan" => month_name[..3].to_owned(),
            "Monday" => weekday.into(),
            "Mon" => weekday[..3].to_owned(),
            "MST" => time.zone.to_string(),
            "2006" => format!("{:04}", civil.year),
            "06" => format!("{:02}", civil.year.rem_euclid(100)),
            "01" => format!("{:02}", civil.month),
            "1" => civil.month.to_string(),
            "02" => format!("{:02}", civil.day),
            "_2" => format!("{:2}", civil.day),
            "2" => civil.day.to_string(),
            "002" => format!("{:03}", civil.day_of_year),
            "__2" => format!("{:3}", civil.day_of_year),
            "15" => format!("{hour:02}"),
            "03" => format!("{hour_of_12:02}"),
            "3" => hour_of_12.to_string(),
            "04" => format!("{minute:02}"),
            "4" => minute.to_string(),
            "05" => format!("{second:02}"),
            "5" => second.to_string(),
            "PM" => if hour < 12 { "AM" } else { "PM" }.into(),
            "pm" => if hour < 12 { "am" } else { "pm" }.into(),
            part if part.starts_with(['Z', '-']) => offset(time.offset, part),
            part => fraction(time.nanoseconds, part),
        });
    }
    out.push_str(rest);
    out
}

fn offset(offset: i64, part: &str) -> String {
    if part.starts_with('Z') && offset == 0 {
        return "Z".into();
    }
    let (sign, size) = (if offset < 0 { '-' } else { '+' }, offset.abs());
    let (hours, minutes, seconds) = (size / 3600, size / 60 % 60, size % 60);
    match &part[1..] {
        "07" => format!("{sign}{hours:02}"),
        "0700" => format!("{sign}{hours:02}{minutes:02}"),
        "07:00" => format!("{sign}{hours:02}:{minutes:02}"),
        "070000" => format!("{sign}{hours:02}{minutes:02}{seconds:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// `.000` with all its digits, `.999` without zeros at the end.
fn fraction(nanoseconds: u32, part: &str) -> String {
    let digits = format!("{nanoseconds:09}");
    let kept = &digits[..(part.len() - 1).min(9)];
    if part.ends_with('0') {
        return format!("{}{kept}", &part[..1]);
    }
    match kept.trim_end_matches('0') {
        "" => String::new(),
        kept => format!("{}{kept}", &part[..1]),
    }
}

/// What a text says, part by part.
#[derive(Default)]
struct Read {
    year: Option<i64>,
    month: i64,
    day: i64,
    day_of_year: Option<i64>,
    hour: i64,
    minute: i64,
    second: i64,
    nanoseconds: u32,
    afternoon: Option<bool>,
    offset: i64,
    zone: Option<String>,
}

/// The moment that `text` says in the layout; `None` if it does not fit.
pub(in crate::functions) fn parse(layout: &str, text: &str) -> Option<Time> {
    let mut read = Read { month: 1, day: 1, ..Read::default() };
    let (mut layout, mut text) = (layout, text);
    while let Some((before, part, after)) = next_part(layout) {
        text = text.strip_prefix(before)?;
        text = read.part(part, text)?;
        // Seconds may have a fraction that the layout does not speak of.
        if matches!(part, "05" | "5")
            && text.starts_with(['.', ','])
            && !after.starts_with(['.', ','])
        {
            text = read.fraction(text)?;
        }
        layout = after;
    }
    if layout != text {
        return None;
    }
    read.time()
}

impl Read {
    fn part<'t>(&mut self, part: &str, text: &'t str) -> Option<&'t str> {
        let rest;
        match part {
            "January" | "Jan" => {
                let (index, after) = named(&MONTHS, part.len() == 3, text)?;
                (self.month, rest) = (index + 1, after);
            }
            "Monday" | "Mon" => (_, rest) = named(&WEEKDAYS, part.len() == 3, text)?,
            "2006" => {
                let (year, after) = number(text, 4, 4)?;
                (self.year, rest) = (Some(year), after);
            }
            "06" => {
                let (year, after) = number(text, 2, 2)?;
                (self.year, rest) =
                    (Some(if year >= 69 { 1900 + year } else { 2000 + year }), after);
            }
            "01" => (self.month, rest) = number(text, 2, 2)?,
            "1" => (self.month, rest) = number(text, 1, 2)?,
            "02" => (self.day, rest) = number(text, 2, 2)?,
            "_2" => (self.day, rest) = number(text.strip_prefix(' ').unwrap_or(text), 1, 2)?,
            "2" => (self.day, rest) = number(text, 1, 2)?,
            "002" => {
                let (day, after) = number(text, 3, 3)?;
                (self.day_of_year, rest) = (Some(day), after);
            }
            "__2" => {
                let (day, after) = number(text.trim_start_matches(' '), 1, 3)?;
                (self.day_of_year, rest) = (Some(day), after);
            }
            "15" | "03" => (self.hour, rest) = number(text, 2, 2)?,
            "3" => (self.hour, rest) = number(text, 1, 2)?,
            "04" => (self.minute, rest) = number(text, 2, 2)?,
            "4" => (self.minute, rest) = number(text, 1, 2)?,
            "05" => (self.second, rest) = number(text, 2, 2)?,
            "5" => (self.second, rest) = number(text, 1, 2)?,
            "PM" | "pm" => {
                let half = text.get(..2)?.to_ascii_uppercase();
                self.afternoon = Some(half == "PM");
                rest = &text[2..];
            }
            "MST" => {
                let end = text.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(text.len());
                self.zone = Some(text.get(..end).filter(|zone| zone.len() >= 3)?.into());
                rest = &text[end..];
            }
            part if part.starts_with(['Z', '-']) => rest = self.offset(part, text)?,
            part if part.ends_with('9') && !text.starts_with(['.', ',']) => rest = text,
            _ => rest = self.fraction(text)?,
        }
        Some(rest)
    }

    fn fraction<'t>(&mut self, text: &'t str) -> Option<&'t str> {
        let digits = text.strip_prefix(['.', ','])?;
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        let kept = digits.get(..count.min(9)).filter(|digits| !digits.is_empty())?;
        self.nanoseconds = format!("{kept:0<9}").parse().ok()?;
        Some(&digits[count..])
    }

    fn offset<'t>(&mut self, part: &str, text: &'t str) -> Option<&'t str> {
        if part.starts_with('Z')
            && let Some(rest) = text.strip_prefix('Z')
        {
            return Some(rest);
        }
        let sign = match text.chars().next()? {
            '+' => 1,
            '-' => -1,
            _ => return None,
        };
        let (hours, mut rest) = number(&text[1..], 2, 2)?;
        let (mut minutes, mut seconds) = (0, 0);
        let colon = part.contains(':');
        let more = part.bytes().filter(u8::is_ascii_digit).count() / 2;
        for slot in [&mut minutes, &mut seconds].into_iter().take(more - 1) {
            rest = if colon { rest.strip_prefix(':')? } else { rest };
            (*slot, rest) = number(rest, 2, 2)?;
        }
        self.offset = sign * (hours * 3600 + minutes * 60 + seconds);
        Some(rest)
    }

    fn time(self) -> Option<Time> {
        let hour = match self.afternoon {
            Some(true) if self.hour < 12 => self.hour + 12,
            Some(false) if self.hour == 12 => 0,
            _ => self.hour,
        };
        let year = self.year.unwrap_or(0);
        let month_days = days_of(year, self.month + 1, 1) - days_of(year, self.month, 1);
        let fits = (1..=12).contains(&self.month)
            && (1..=month_days).contains(&self.day)
            && hour < 24
            && self.minute < 60
            && self.second < 60;
        let days = match self.day_of_year {
            Some(day) => days_of(year, 1, day),
            None => days_of(year, self.month, self.day),
        };
        let seconds =
            days * super::DAY + hour * 3600 + self.minute * 60 + self.second - self.offset;
        let zone = match self.zone {
            Some(zone) => zone,
            None if self.offset == 0 => "UTC".into(),
            None => offset(self.offset, "-0700"),
        };
        let zone = zone.into();
        fits.then_some(Time { seconds, nanoseconds: self.nanoseconds, offset: self.offset, zone })
    }
}

/// Digits, `least` to `most` of them.
fn number(text: &str, least: usize, most: usize) -> Option<(i64, &str)> {
    let count = text.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if count < least {
        return None;
    }
    Some((text[..count].parse().ok()?, &text[count..]))
}

fn named<'t>(names: &[&str], short: bool, text: &'t str) -> Option<(i64, &'t str)> {
    names.iter().enumerate().find_map(|(index, name)| {
        let name = if short { &name[..3] } else { name };
        let start = text.get(..name.len())?;
        let index = i64::try_from(index).ok()?;
        start.eq_ignore_ascii_case(name).then(|| (index, &text[name.len()..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_any_layout() {
        let time = Time::utc(1_136_239_445, 120_000_000);
        let cases = [
            ("2006-01-02T15:04:05Z07:00", "2006-01-02T22:04:05Z"),
            ("Mon, 02 Jan 2006 15:04:05 MST", "Mon, 02 Jan 2006 22:04:05 UTC"),
            ("Monday, January 2, 2006 3:04PM", "Monday, January 2, 2006 10:04PM"),
            ("06/1/_2 .000 .999999 002", "06/1/ 2 .120 .12 002"),
            ("20060102150405", "20060102220405"),
            ("2006-01-02T15:04:05-0700", "2006-01-02T22:04:05+0000"),
            ("no layout", "no layout"),
        ];
        for (layout, expected) in cases {
            assert_eq!(format(&time, layout), expected, "{layout}");
        }
    }

    #[test]
    fn moments_are_read_back() {
        for seconds in [0, -1, 951_782_400, 1_136_239_445, 4_102_444_800, -62_135_596_800] {
            let time = Time::utc(seconds, 5);
            let layout = "2006-01-02T15:04:05.999999999Z07:00";
            assert_eq!(parse(layout, &format(&time, layout)), Some(time));
        }
        let east = parse("2006-01-02 15:04:05 -0700", "2020-02-29 01:00:00 +0200").unwrap();
        assert_eq!(format(&east, "2006-01-02T15:04:05Z07:00"), "2020-02-29T01:00:00+02:00");
        assert_eq!(east.seconds, 1_582_930_800);
        for bad in ["2020-02-30", "2020-13-01", "2020-1-01", "2020-01-01x"] {
            assert_eq!(parse("2006-01-02", bad), None, "{bad}");
        }
    }
}
