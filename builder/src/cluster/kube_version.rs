//! Ranges of Kubernetes versions, as KUBEVERSION and charts have them: the constraints of
//! `Masterminds/semver` version 3, which Helm and Sealer read.
//!
//! `>=1.22, <1.25`, `1.22 - 1.24`, `~1.23`, `^1`, `1.22.x`, and alternatives with `||`. A range is
//! kept as the intervals that it covers, so that two can be intersected.

use std::cmp::Ordering;
use std::fmt;

/// A constraint is not longer than this, in bytes.
const MAX_TEXT: usize = 1024;
/// A range has at most so many intervals.
const MAX_INTERVALS: usize = 64;

/// A set of versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeVersions {
    /// Those that are not empty, as they were written.
    intervals: Vec<Interval>,
}

/// A text that is no range of versions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no range of versions: write one like 1.22 - 1.24, \">=1.22 <1.25\", ~1.23 or 1.22.x"
)]
pub struct BadRange(pub String);

/// Two ranges that have no version in common.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no version of Kubernetes is in {range} and in {before}, which is wanted already")]
pub struct NothingInCommon {
    /// As written.
    pub range: String,
    /// What was wanted before.
    pub before: String,
}

/// Versions between two bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Interval {
    low: Option<Bound>,
    high: Option<Bound>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bound {
    version: Version,
    /// Whether the version itself belongs to the interval.
    inclusive: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Version {
    numbers: [u64; 3],
    /// Without its hyphen; empty for a release.
    prerelease: String,
}

/// A version of which the last parts may be left out or wild.
struct Partial {
    version: Version,
    /// How many numbers it has.
    written: usize,
}

impl KubeVersions {
    /// Reads a constraint.
    pub fn parse(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        if text.len() > MAX_TEXT {
            return Err(bad());
        }
        let mut intervals = Vec::new();
        for alternative in text.split("||") {
            intervals.extend(all_of(alternative).ok_or_else(bad)?);
        }
        let range = Self { intervals }.without_empty();
        (!range.intervals.is_empty() && range.intervals.len() <= MAX_INTERVALS)
            .then_some(range)
            .ok_or_else(bad)
    }

    /// The versions that are in both; `None` if there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let intervals = product(&self.intervals, &other.intervals);
        let both = Self { intervals }.without_empty();
        (!both.intervals.is_empty()).then_some(both)
    }

    fn without_empty(mut self) -> Self {
        self.intervals.retain(|interval| !interval.is_empty());
        self
    }
}

impl fmt::Display for KubeVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, interval) in self.intervals.iter().enumerate() {
            if number > 0 {
                f.write_str(" || ")?;
            }
            interval.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = |bound: &Bound| if bound.inclusive { "=" } else { "" };
        match (&self.low, &self.high) {
            (None, None) => f.write_str("*"),
            (Some(low), None) => write!(f, ">{}{}", sign(low), low.version),
            (None, Some(high)) => write!(f, "<{}{}", sign(high), high.version),
            (Some(low), Some(high)) => {
                write!(f, ">{}{} <{}{}", sign(low), low.version, sign(high), high.version)
            }
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.prerelease.is_empty() { Ok(()) } else { write!(f, "-{}", self.prerelease) }
    }
}

impl Interval {
    const ALL: Self = Self { low: None, high: None };

    fn is_empty(&self) -> bool {
        let (Some(low), Some(high)) = (&self.low, &self.high) else { return false };
        match low.version.cmp(&high.version) {
            Ordering::Less => false,
            Ordering::Equal => !(low.inclusive && high.inclusive),
            Ordering::Greater => true,
        }
    }

    fn intersection(&self, other: &Self) -> Self {
        let narrower = |one: &Option<Bound>, two: &Option<Bound>, wanted: Ordering| match (one, two)
        {
            (Some(one), Some(two)) => {
                let order = one.version.cmp(&two.version);
                let takes_one = order == wanted || order == Ordering::Equal && !one.inclusive;
                Some(if takes_one { one } else { two }.clone())
            }
            (one, two) => one.clone().or_else(|| two.clone()),
        };
        Self {
            low: narrower(&self.low, &other.low, Ordering::Greater),
            high: narrower(&self.high, &other.high, Ordering::Less),
        }
    }
}

impl Ord for Version {
    /// Semantic Versioning 2.0, section 11.
    fn cmp(&self, other: &Self) -> Ordering {
        let prereleases = || match (self.prerelease.as_str(), other.prerelease.as_str()) {
            ("", "") => Ordering::Equal,
            ("", _) => Ordering::Greater,
            (_, "") => Ordering::Less,
            (one, two) => prerelease_order(one, two),
        };
        self.numbers.cmp(&other.numbers).then_with(prereleases)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn prerelease_order(one: &str, two: &str) -> Ordering {
    let word = |(one, two): (&str, &str)| match (one.parse::<u64>(), two.parse::<u64>()) {
        (Ok(one), Ok(two)) => one.cmp(&two),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => one.cmp(two),
    };
    let words = one.split('.').zip(two.split('.')).map(word);
    let first = words.into_iter().find(|order| order.is_ne());
    first.unwrap_or_else(|| one.split('.').count().cmp(&two.split('.').count()))
}

/// Intervals of one side cut with those of the other.
fn product(one: &[Interval], two: &[Interval]) -> Vec<Interval> {
    one.iter().flat_map(|one| two.iter().map(|two| one.intersection(two))).collect()
}

/// What all rules of an alternative allow; none if one is malformed.
fn all_of(text: &str) -> Option<Vec<Interval>> {
    let spaced = text.replace(',', " ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut intervals = vec![Interval::ALL];
    let mut rest = &words[..];
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (allowed, after) = match rest {
            [low, "-", high, after @ ..] => {
                (vec![at_least(&partial(low)?).intersection(&at_most(&partial(high)?))], after)
            }
            // An operator may stand apart from its version.
            [operator, version, after @ ..] if is_operator(operator) => {
                (rule(operator, version)?, after)
            }
            [word, after @ ..] => {
                let at = word.find(|c: char| !is_operator_char(c))?;
                (rule(&word[..at], &word[at..])?, after)
            }
            [] => break,
        };
        intervals = product(&intervals, &allowed);
        if intervals.len() > MAX_INTERVALS {
            return None;
        }
        rest = after;
    }
    Some(intervals)
}

fn is_operator_char(c: char) -> bool {
    matches!(c, '=' | '<' | '>' | '!' | '~' | '^')
}

fn is_operator(word: &str) -> bool {
    word.chars().all(is_operator_char)
}

fn rule(operator: &str, version: &str) -> Option<Vec<Interval>> {
    let of = partial(version)?;
    Some(match operator {
        "" | "=" | "==" => vec![at_least(&of).intersection(&at_most(&of))],
        "!=" => {
            let high = Some(Bound { version: of.version.clone(), inclusive: false });
            vec![Interval { low: None, high }, above(&of)]
        }
        ">" => vec![above(&of)],
        ">=" | "=>" => vec![at_least(&of)],
        "<" => {
            let high = (of.written > 0).then_some(Bound { version: of.version, inclusive: false });
            vec![Interval { low: None, high }]
        }
        "<=" | "=<" => vec![at_most(&of)],
        // The last number that is written, at most the minor one, stays.
        "~" | "~>" => vec![up_to(&of, of.written.min(2))],
        // The first number that is not zero stays.
        "^" => {
            let numbers = &of.version.numbers[..of.written];
            let first = numbers.iter().position(|number| *number > 0);
            vec![up_to(&of, first.map_or(of.written, |at| at + 1))]
        }
        _ => return None,
    })
}

/// From the version on, as long as its first numbers are the same.
fn up_to(of: &Partial, same: usize) -> Interval {
    let high = (same > 0).then(|| Bound { version: next(of, same), inclusive: false });
    at_least(of).intersection(&Interval { low: None, high })
}

fn at_least(of: &Partial) -> Interval {
    let low = (of.written > 0).then(|| Bound { version: of.version.clone(), inclusive: true });
    Interval { low, high: None }
}

/// A version of which numbers are left out stands for all that it begins.
fn at_most(of: &Partial) -> Interval {
    let high = match of.written {
        0 => None,
        3 => Some(Bound { version: of.version.clone(), inclusive: true }),
        written => Some(Bound { version: next(of, written), inclusive: false }),
    };
    Interval { low: None, high }
}

fn above(of: &Partial) -> Interval {
    let low = match of.written {
        3 => Bound { version: of.version.clone(), inclusive: false },
        0 => Bound { version: Version::default(), inclusive: false },
        written => Bound { version: next(of, written), inclusive: true },
    };
    Interval { low: Some(low), high: None }
}

/// The first version whose first `same` numbers are others.
fn next(of: &Partial, same: usize) -> Version {
    let mut numbers = [0; 3];
    numbers[..same].copy_from_slice(&of.version.numbers[..same]);
    numbers[same - 1] = numbers[same - 1].saturating_add(1);
    Version { numbers, prerelease: String::new() }
}

fn partial(text: &str) -> Option<Partial> {
    let text = text.strip_prefix('v').unwrap_or(text);
    // Build metadata says nothing of the order.
    let text = text.split_once('+').map_or(text, |(text, _)| text);
    let (core, prerelease) = text.split_once('-').unwrap_or((text, ""));
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.ends_with('-') || !prerelease.is_empty() && !prerelease.split('.').all(is_word) {
        return None;
    }
    let mut numbers = [0; 3];
    let (mut written, mut wild) = (0, false);
    for (at, part) in core.split('.').enumerate() {
        let slot = numbers.get_mut(at)?;
        if matches!(part, "x" | "X" | "*") {
            wild = true;
        } else if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = part.parse().ok()?;
            if !wild {
                (*slot, written) = (number, at + 1);
            }
        } else {
            return None;
        }
    }
    Some(Partial { version: Version { numbers, prerelease: prerelease.to_owned() }, written })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        KubeVersions::parse(text).ok().map(|range| range.to_string())
    }

    #[test]
    fn ranges_are_read() {
        for (text, expected) in [
            ("1.22 - 1.24", ">=1.22.0 <1.25.0"),
            ("1.22.1 - 1.24.3", ">=1.22.1 <=1.24.3"),
            (">=1.22, <1.25", ">=1.22.0 <1.25.0"),
            (">= 1.22.0-0 < 1.25.0", ">=1.22.0-0 <1.25.0"),
            (">=v1.22.15", ">=1.22.15"),
            ("1.22", ">=1.22.0 <1.23.0"),
            ("=1.22.15", ">=1.22.15 <=1.22.15"),
            ("1.22.x", ">=1.22.0 <1.23.0"),
            (">1.22", ">=1.23.0"),
            (">1.22.3", ">1.22.3"),
            ("<=1.24", "<1.25.0"),
            ("~1.22.3", ">=1.22.3 <1.23.0"),
            ("~1", ">=1.0.0 <2.0.0"),
            ("^1.22", ">=1.22.0 <2.0.0"),
            ("^0.3.1", ">=0.3.1 <0.4.0"),
            ("*", "*"),
            ("<1.20 || 1.22 - 1.24", "<1.20.0 || >=1.22.0 <1.25.0"),
            (">=1.20 !=1.22.1", ">=1.20.0 <1.22.1 || >1.22.1"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        let long = "1.2 ".repeat(300);
        for text in [
            "",
            "  ",
            "latest",
            "1.22 -",
            "- 1.24",
            ">=",
            "1.2.3.4",
            "1..2",
            ">>1.2",
            "1.22-",
            "||",
            "1.25 - 1.22",
            ">=1.25 <1.22",
            &long,
            "99999999999999999999999",
        ] {
            assert_eq!(shown(text), None, "{text}");
        }
    }

    #[test]
    fn intersections() {
        let both = |one: &str, two: &str| {
            let [one, two] = [one, two].map(|text| KubeVersions::parse(text).unwrap());
            one.intersection(&two).map(|range| range.to_string())
        };
        for (one, two, expected) in [
            ("1.22 - 1.24", ">=1.23", Some(">=1.23.0 <1.25.0")),
            ("1.22 - 1.24", ">1.23.4 <=1.24.1", Some(">1.23.4 <=1.24.1")),
            ("1.22 || 1.24", "1.23 - 1.25", Some(">=1.24.0 <1.25.0")),
            ("*", "~1.23", Some(">=1.23.0 <1.24.0")),
            ("<1.22", ">=1.22", None),
            ("<=1.22.0", ">=1.22.0", Some(">=1.22.0 <=1.22.0")),
            (">1.22.0-rc.2", ">=1.22.0-rc.10", Some(">=1.22.0-rc.10")),
        ] {
            assert_eq!(both(one, two).as_deref(), expected, "{one} and {two}");
            assert_eq!(both(two, one).as_deref(), expected, "{two} and {one}");
        }
    }
}
