//! `--chmod`: permission bits in octal, or changes to a file's own as chmod(1) writes them.
//!
//! `[ugoa...][-+=][rwxXst...|u|g|o]...`, several with commas between them. Without `ugoa` all
//! three are meant; no umask takes part (Dockerfile reference, "COPY --chmod").

/// Why `--chmod` is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("--chmod={0}: write permission bits in octal, like 644 or 0755, or like u=rwX,go=rX")]
pub struct BadMode(String);

/// What `--chmod` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// These bits.
    Bits(u32),
    /// These changes, one after the other.
    Changes(Vec<Change>),
}

/// One change of permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which of the three sets of bits: `0o700`, `0o070`, `0o007` and sums of them.
    who: u32,
    operator: Operator,
    what: What,
    /// Set-user-id or set-group-id, for those that `who` names; sticky.
    special: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// These bits of 0o7, and execution where there is some already, or for a directory.
    Bits { bits: u32, execute_if_any: bool },
    /// The bits of the user (6), group (3) or others (0): how far they are shifted.
    CopyOf(u32),
}

impl Mode {
    /// Reads the text of the flag.
    pub fn parse(text: &str) -> Result<Self, BadMode> {
        let bad = || BadMode(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let digits = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if digits && mode <= 0o7777 => Ok(Self::Bits(mode)),
                _ => Err(bad()),
            };
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut changes).ok_or_else(bad)?;
        }
        Ok(Self::Changes(changes))
    }

    /// The new permission bits of a file that has `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Bits(bits) => *bits,
            Self::Changes(changes) => {
                changes.iter().fold(mode, |mode, change| change.apply(mode, is_directory))
            }
        }
    }
}

impl Change {
    fn apply(self, mode: u32, is_directory: bool) -> u32 {
        let bits = match self.what {
            What::Bits { bits, execute_if_any } => {
                let execute = execute_if_any && (is_directory || mode & 0o111 != 0);
                bits | u32::from(execute)
            }
            What::CopyOf(shift) => (mode >> shift) & 0o7,
        };
        let bits = (bits * 0o111) & self.who | self.special;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => {
                // As chmod(1): a directory keeps set-id bits that are not named.
                let special = special_of(self.who) & !if is_directory { 0o6000 } else { 0 };
                mode & !(self.who | special) | bits
            }
        }
    }
}

/// The special bits that belong to the named sets.
fn special_of(who: u32) -> u32 {
    [(0o700, 0o4000), (0o070, 0o2000), (0o007, 0o1000)]
        .into_iter()
        .filter(|(set, _)| who & set != 0)
        .map(|(_, special)| special)
        .sum()
}

/// Adds the changes of one clause; none if it is malformed.
fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let operator_at = clause.find(['+', '-', '='])?;
    let (who_text, mut rest) = clause.split_at(operator_at);
    let mut who = 0;
    for letter in who_text.chars() {
        who |= match letter {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o777;
    }
    while let Some(operator) = rest.chars().next() {
        let operator = match operator {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Set,
            _ => return None,
        };
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (letters, after) = rest.split_at(end);
        changes.push(parse_change(who, operator, letters)?);
        rest = after;
    }
    Some(())
}

fn parse_change(who: u32, operator: Operator, letters: &str) -> Option<Change> {
    let copied = match letters {
        "u" => Some(6),
        "g" => Some(3),
        "o" => Some(0),
        _ => None,
    };
    if let Some(shift) = copied {
        return Some(Change { who, operator, what: What::CopyOf(shift), special: 0 });
    }
    let (mut bits, mut execute_if_any, mut special) = (0, false, 0);
    for letter in letters.chars() {
        match letter {
            'r' => bits |= 4,
            'w' => bits |= 2,
            'x' => bits |= 1,
            'X' => execute_if_any = true,
            's' => special |= special_of(who) & 0o6000,
            't' => special |= special_of(who) & 0o1000,
            _ => return None,
        }
    }
    Some(Change { who, operator, what: What::Bits { bits, execute_if_any }, special })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flag, mode before, whether it is a directory, mode after.
    const CASES: &[(&str, u32, bool, u32)] = &[
        ("0755", 0o600, false, 0o755),
        ("4755", 0o600, false, 0o4755),
        ("u=rwX,go=rX", 0o600, false, 0o644),
        ("u=rwX,go=rX", 0o711, false, 0o755),
        ("u=rwX,go=rX", 0o700, true, 0o755),
        ("go-w", 0o666, false, 0o644),
        ("+x", 0o644, false, 0o755),
        ("a=r", 0o4777, false, 0o444),
        ("g=u", 0o640, false, 0o660),
        ("u+s,+t", 0o755, false, 0o5755),
        ("g+s", 0o755, true, 0o2755),
        ("u=rwx,g=", 0o2775, true, 0o2705),
        ("u+x-w", 0o644, false, 0o544),
        ("o=", 0o777, false, 0o770),
    ];

    #[test]
    fn as_chmod() {
        for (text, before, is_directory, after) in CASES {
            let mode = Mode::parse(text).unwrap();
            let found = mode.apply(*before, *is_directory);
            assert_eq!(found, *after, "{text} on {before:o}: {found:o}");
        }
        for bad in ["", "8", "+7", "17777", "-1", "rw", "u", "z+x", "u+q", "u=r,", "755x"] {
            assert!(Mode::parse(bad).is_err(), "{bad}");
        }
    }
}
