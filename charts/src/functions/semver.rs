//! Semantic versions and their constraints, as `Masterminds/semver` version 3 reads them.

use std::cmp::Ordering;
use std::rc::Rc;

use super::{Function, fixed};
use crate::value::{Entries, IntKind, Map, Object, Value};

pub(super) fn find(name: &str) -> Option<Function> {
    Some(match name {
        "semver" => fixed(1, |_, args| {
            Ok(Value::Object(Rc::new(
                Version::parse(&args.text(0)?).ok_or("Invalid Semantic Version")?,
            )))
        }),
        "semverCompare" => fixed(2, |_, args| {
            let constraint = Constraint::parse(&args.text(0)?)?;
            let version = Version::parse(&args.text(1)?).ok_or("Invalid Semantic Version")?;
            Ok(constraint.allows(&version).into())
        }),
        _ => return None,
    })
}

/// A version; the parts that were left out are zero.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    numbers: [u64; 3],
    prerelease: String,
    metadata: String,
    original: String,
}

impl Version {
    /// `v1.2.3-alpha.1+build`, of which only the first number must be there.
    pub(crate) fn parse(text: &str) -> Option<Version> {
        if text.len() > 256 {
            return None;
        }
        let (partial, numbers) = Partial::parse(text, false)?;
        (numbers > 0).then(|| Version { numbers: partial.numbers(), ..partial.into_version(text) })
    }

    fn order(&self, other: &Version) -> Ordering {
        let prereleases = || match (self.prerelease.as_str(), other.prerelease.as_str()) {
            ("", "") => Ordering::Equal,
            ("", _) => Ordering::Greater,
            (_, "") => Ordering::Less,
            (left, right) => prerelease_order(left, right),
        };
        self.numbers.cmp(&other.numbers).then_with(prereleases)
    }
}

fn prerelease_order(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.split('.'), right.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(left), Some(right)) => match (left.parse::<u64>(), right.parse::<u64>()) {
                (Ok(left), Ok(right)) => left.cmp(&right),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => left.cmp(right),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// A version of which parts are wild or left out.
#[derive(Debug)]
struct Partial {
    parts: [Option<u64>; 3],
    prerelease: String,
    metadata: String,
}

impl Partial {
    /// The version, and how many of its numbers were written.
    fn parse(text: &str, wild: bool) -> Option<(Partial, usize)> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (text, metadata) = match text.split_once('+') {
            Some((text, metadata)) => (text, Some(metadata)),
            None => (text, None),
        };
        let (core, prerelease) = match text.split_once('-') {
            Some((core, prerelease)) => (core, Some(prerelease)),
            None => (text, None),
        };
        let words = |text: &str| {
            text.split('.').all(|word| {
                !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            })
        };
        let leading_zero = |text: &str| {
            text.split('.').any(|word| {
                word.len() > 1 && word.starts_with('0') && word.bytes().all(|b| b.is_ascii_digit())
            })
        };
        if !prerelease.is_none_or(|text| words(text) && !leading_zero(text))
            || !metadata.is_none_or(words)
        {
            return None;
        }
        let mut parts = [None; 3];
        let (mut written, mut is_wild) = (0, false);
        for (index, part) in core.split('.').enumerate() {
            let slot = parts.get_mut(index)?;
            if wild && matches!(part, "x" | "X" | "*") {
                is_wild = true;
                continue;
            }
            if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number = part.parse().ok()?;
            if !is_wild {
                *slot = Some(number);
                written += 1;
            }
        }
        let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let (prerelease, metadata) = (owned(prerelease), owned(metadata));
        Some((Partial { parts, prerelease, metadata }, written))
    }

    fn numbers(&self) -> [u64; 3] {
        self.parts.map(Option::unwrap_or_default)
    }

    fn into_version(self, original: &str) -> Version {
        Version {
            numbers: self.numbers(),
            prerelease: self.prerelease,
            metadata: self.metadata,
            original: original.into(),
        }
    }
}

impl Object for Version {
    fn type_name(&self) -> &'static str {
        "*semver.Version"
    }

    fn kind(&self) -> &'static str {
        "ptr"
    }

    fn field(&self, _: &str) -> Option<Value> {
        None
    }

    fn call(&self, method: &str, arguments: &[Value]) -> Option<Result<Value, String>> {
        let number = |at: usize| {
            Value::Int(i64::try_from(self.numbers[at]).unwrap_or(i64::MAX), IntKind::Uint64)
        };
        let other = || match arguments.first() {
            Some(Value::Object(object)) => object.text().and_then(|text| Version::parse(&text)),
            _ => None,
        };
        Some(Ok(match method {
            "Major" => number(0),
            "Minor" => number(1),
            "Patch" => number(2),
            "Prerelease" => self.prerelease.as_str().into(),
            "Metadata" => self.metadata.as_str().into(),
            "Original" => self.original.as_str().into(),
            "String" => self.text().unwrap_or_default().into(),
            "Compare" => match other() {
                Some(other) => Value::int(self.order(&other) as i64),
                None => return Some(Err("expected *semver.Version".into())),
            },
            "Equal" | "LessThan" | "GreaterThan" => {
                let Some(other) = other() else {
                    return Some(Err("expected *semver.Version".into()));
                };
                let wanted = match method {
                    "Equal" => Ordering::Equal,
                    "LessThan" => Ordering::Less,
                    _ => Ordering::Greater,
                };
                (self.order(&other) == wanted).into()
            }
            _ => return None,
        }))
    }

    fn plain(&self) -> Value {
        let mut entries = Entries::new();
        entries.insert("Version".into(), self.text().unwrap_or_default().into());
        Value::Map(Map::from(entries))
    }

    fn text(&self) -> Option<String> {
        let [major, minor, patch] = self.numbers;
        let mut text = format!("{major}.{minor}.{patch}");
        if !self.prerelease.is_empty() {
            text = text + "-" + &self.prerelease;
        }
        if !self.metadata.is_empty() {
            text = text + "+" + &self.metadata;
        }
        Some(text)
    }
}

/// Alternatives of rules that all must hold.
#[derive(Debug)]
pub(crate) struct Constraint(Vec<Vec<Rule>>);

#[derive(Debug)]
struct Rule {
    operator: Operator,
    version: Version,
    /// How many numbers were written: the rest is wild.
    written: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    /// Without an operator, or `=`.
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterEqual,
    LessEqual,
    Tilde,
    Caret,
}

const OPERATORS: [(&str, Operator); 12] = [
    ("=>", Operator::GreaterEqual),
    (">=", Operator::GreaterEqual),
    ("=<", Operator::LessEqual),
    ("<=", Operator::LessEqual),
    ("!=", Operator::NotEqual),
    ("~>", Operator::Tilde),
    ("==", Operator::Equal),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("=", Operator::Equal),
    ("~", Operator::Tilde),
    ("^", Operator::Caret),
];

impl Constraint {
    /// `>= 1.2, < 3 || ^4`, with `1.2 - 1.4` for a range.
    pub(crate) fn parse(text: &str) -> Result<Constraint, String> {
        let alternatives = text.split("||").map(|alternative| {
            rules(alternative).ok_or_else(|| format!("improper constraint: {text}"))
        });
        alternatives.collect::<Result<_, _>>().map(Constraint)
    }

    pub(crate) fn allows(&self, version: &Version) -> bool {
        self.0.iter().any(|rules| {
            // A prerelease counts only where one is spoken of.
            let speaks = rules.iter().any(|rule| !rule.version.prerelease.is_empty());
            rules.iter().all(|rule| rule.allows(version, speaks))
        })
    }
}

fn rules(text: &str) -> Option<Vec<Rule>> {
    let mut rules = Vec::new();
    let mut rest = text.trim_start();
    if rest.is_empty() {
        return Some(rules).filter(|_| false);
    }
    while !rest.is_empty() {
        let (rule, after) = rule(rest)?;
        let after_blanks = after.trim_start();
        // `a - b`
        if let Some(upper) = after_blanks.strip_prefix("- ").filter(|_| after.starts_with(' ')) {
            if rule.operator != Operator::Equal {
                return None;
            }
            let (mut high, after) = self::rule(upper.trim_start())?;
            rules.push(Rule { operator: Operator::GreaterEqual, ..rule });
            high.operator = Operator::LessEqual;
            rules.push(high);
            rest = after.trim_start_matches([' ', ',', '\t']);
            continue;
        }
        rules.push(rule);
        rest = after_blanks.strip_prefix(',').unwrap_or(after_blanks).trim_start();
    }
    Some(rules)
}

fn rule(text: &str) -> Option<(Rule, &str)> {
    let (operator, rest) = OPERATORS
        .iter()
        .find_map(|(sign, operator)| Some((*operator, text.strip_prefix(sign)?)))
        .unwrap_or((Operator::Equal, text));
    let rest = rest.trim_start();
    let end = rest.find([' ', ',', '\t', '<', '>', '=', '!', '^', '~']).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    let (partial, written) = Partial::parse(word, true)?;
    Some((Rule { operator, version: partial.into_version(word), written }, after))
}

impl Rule {
    fn allows(&self, version: &Version, speaks: bool) -> bool {
        if !version.prerelease.is_empty() && !speaks {
            // `!=` too: the version is not looked at.
            return false;
        }
        let order = version.order(&self.version);
        let written = self.written;
        // `*` is compared as 0.
        let same = |count: usize| {
            let count = count.max(1);
            version.numbers[..count] == self.version.numbers[..count]
        };
        match self.operator {
            Operator::Equal if written < 3 => self.within_tilde(version, order),
            Operator::Equal => order == Ordering::Equal,
            Operator::NotEqual if written < 3 => !same(written),
            Operator::NotEqual => order != Ordering::Equal,
            Operator::Greater if written < 3 => order == Ordering::Greater && !same(written),
            Operator::Greater => order == Ordering::Greater,
            Operator::Less => order == Ordering::Less,
            Operator::GreaterEqual => order != Ordering::Less,
            Operator::LessEqual if written < 3 => order != Ordering::Greater || same(written),
            Operator::LessEqual => order != Ordering::Greater,
            Operator::Tilde => self.within_tilde(version, order),
            Operator::Caret => self.within_caret(version, order),
        }
    }

    fn within_tilde(&self, version: &Version, order: Ordering) -> bool {
        let fixed = self.written.min(2);
        self.written == 0
            || order != Ordering::Less && version.numbers[..fixed] == self.version.numbers[..fixed]
    }

    /// No change of the first number that is not zero.
    fn within_caret(&self, version: &Version, order: Ordering) -> bool {
        let [major, minor, _] = self.version.numbers;
        let fixed = match (major, minor) {
            (0, 0) if self.written >= 3 => 3,
            (0, _) if self.written >= 2 => 2,
            _ => 1,
        };
        order != Ordering::Less && version.numbers[..fixed] == self.version.numbers[..fixed]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_allow_what_masterminds_allows() {
        let cases = [
            (">=1.20-0", "1.33.0", true),
            (">=1.19-0", "v1.19.0-rc.1", true),
            (">=1.19", "v1.19.0-rc.1", false),
            ("1.x", "1.25.0", true),
            ("1.x", "2.0.0", false),
            ("*", "0.0.1", true),
            ("*", "1.0.0-rc1", false),
            ("2.x.x", "2.30.4", true),
            ("^2.31.4", "2.39.0", true),
            ("^0.2.3", "0.2.9", true),
            ("^0.2.3", "0.3.0", false),
            ("^0.0.3", "0.0.4", false),
            ("^0.0", "0.0.7", true),
            ("^0", "0.9.0", true),
            ("~1.2.3", "1.2.9", true),
            ("~1.2.3", "1.3.0", false),
            ("~1", "1.9.0", true),
            ("~>1.2", "1.2.5", true),
            ("1.2", "1.2.7", true),
            ("=1.2.3", "1.2.3", true),
            ("!=1.2.3", "1.2.4", true),
            ("!=1.2", "1.2.4", false),
            (">1.2", "1.2.5", false),
            (">1.2", "1.3.0", true),
            ("<=1.2", "1.2.5", true),
            ("<1.2", "1.1.9", true),
            ("1.22 - 1.24", "1.24.5", true),
            ("1.22 - 1.24", "1.25.0", false),
            (">= 1.2, < 3.0.0 || >= 4.2.3", "4.3.0", true),
            (">= 1.2, < 3.0.0 || >= 4.2.3", "3.1.0", false),
            (">=1.2 <3", "2.0.0", true),
            (">=1.14-0", "v1.37.0", true),
            ("<1.21-0", "v1.37.0", false),
        ];
        for (constraint, version, expected) in cases {
            let version = Version::parse(version).unwrap();
            let allowed = Constraint::parse(constraint).unwrap().allows(&version);
            assert_eq!(allowed, expected, "{constraint} {version:?}");
        }
        for bad in ["", ">=", "a", "1.2.3.4", ">= 1.2 ||", "1.22-1.24 -"] {
            assert!(Constraint::parse(bad).is_err(), "{bad}");
        }
    }
}
