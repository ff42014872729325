//! Variables in the shell lines of Sealos's ENTRYPOINT and CMD, which are Kubernetes's: `$(NAME)`,
//! and `$$` for a dollar.
//!
//! Sealos puts the values into the text, and turns whatever it does not know into `$(NAME)`, which
//! the shell then takes for a command. Here no value ever becomes text that a shell reads:
//! `$(NAME)` becomes `${NAME}`, and the shell looks that up in its environment. All else the shell
//! does by itself. What it would not, and Sealos did, is to look up variables within single quotes:
//! those quotes are interrupted for variables that are known.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// What encloses the place that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// Nothing, or a command substitution.
    Plain,
    Single,
    Double,
}

/// A line for a shell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) line: String,
    /// Variables that stand in it as `$(NAME)` and are not known: they will be empty.
    pub(super) unknown: BTreeSet<String>,
}

/// Rewrites a line for a shell whose environment has the variables that are `known`.
pub(super) fn expand(line: &str, known: &dyn Fn(&str) -> bool) -> Expanded {
    let mut expansion = Expansion {
        rest: line.chars().peekable(),
        known,
        within: vec![Within::Plain],
        done: Expanded { line: String::with_capacity(line.len()), unknown: BTreeSet::new() },
    };
    while let Some(letter) = expansion.rest.next() {
        expansion.take(letter);
    }
    expansion.done
}

struct Expansion<'a> {
    rest: Peekable<Chars<'a>>,
    known: &'a dyn Fn(&str) -> bool,
    /// Innermost last; never empty.
    within: Vec<Within>,
    done: Expanded,
}

impl Expansion<'_> {
    fn innermost(&self) -> Within {
        *self.within.last().expect("the outermost is never left")
    }

    fn push(&mut self, letter: char) {
        self.done.line.push(letter);
    }

    fn take(&mut self, letter: char) {
        match (letter, self.innermost()) {
            ('$', within) => return self.dollar(within),
            ('\\', Within::Plain | Within::Double) => {
                self.push(letter);
                let escaped = self.rest.next();
                self.done.line.extend(escaped);
                return;
            }
            ('\'', Within::Single) | ('"', Within::Double) => {
                self.within.pop();
            }
            ('\'', Within::Plain) => self.within.push(Within::Single),
            ('"', Within::Plain) => self.within.push(Within::Double),
            // The end of a command substitution.
            (')', Within::Plain) if self.within.len() > 1 => {
                self.within.pop();
            }
            _ => {}
        }
        self.push(letter);
    }

    fn dollar(&mut self, within: Within) {
        match self.rest.peek() {
            Some('$') => {
                self.rest.next();
                self.push('$');
                // What follows is the shell's, as it stands.
                self.plain_dollar(within);
            }
            Some('(') => self.parenthesis(within),
            Some('{') if within == Within::Single => match self.enclosed('{', '}') {
                Some(name) if (self.known)(&name) => self.variable(&name, within),
                _ => self.push('$'),
            },
            Some(first) if within == Within::Single && is_first(*first) => {
                let name = self.name();
                if (self.known)(&name) {
                    self.skip(name.len());
                    self.write(&name, within);
                } else {
                    self.push('$');
                }
            }
            _ => self.push('$'),
        }
    }

    /// After a dollar that stands for itself: a parenthesis opens a command substitution.
    fn plain_dollar(&mut self, within: Within) {
        if within != Within::Single && self.rest.next_if_eq(&'(').is_some() {
            self.push('(');
            self.within.push(Within::Plain);
        }
    }

    /// `$(`: a variable if a name is all that is in it.
    fn parenthesis(&mut self, within: Within) {
        let name = self.enclosed('(', ')');
        match name {
            Some(name) if within != Within::Single || (self.known)(&name) => {
                if !(self.known)(&name) {
                    self.done.unknown.insert(name.clone());
                }
                self.variable(&name, within);
            }
            _ => {
                self.push('$');
                self.plain_dollar(within);
            }
        }
    }

    /// The name between these two; nothing is taken of the rest.
    fn enclosed(&self, open: char, close: char) -> Option<String> {
        let mut ahead = self.rest.clone();
        ahead.next_if_eq(&open)?;
        let mut name = String::new();
        for letter in ahead {
            if letter == close {
                return Some(name).filter(|name| is_name(name));
            }
            name.push(letter);
            if !is_name(&name) {
                return None;
            }
        }
        None
    }

    /// The name that comes next; nothing is taken of the rest.
    fn name(&self) -> String {
        let is_inner = |letter: &char| *letter == '_' || letter.is_ascii_alphanumeric();
        self.rest.clone().take_while(is_inner).collect()
    }

    /// Takes a name with its brackets, and writes the variable.
    fn variable(&mut self, name: &str, within: Within) {
        self.skip(name.len() + 2);
        self.write(name, within);
    }

    fn skip(&mut self, count: usize) {
        self.rest.by_ref().take(count).for_each(drop);
    }

    fn write(&mut self, name: &str, within: Within) {
        let text = match within {
            Within::Single => format!("'\"${{{name}}}\"'"),
            Within::Plain | Within::Double => format!("${{{name}}}"),
        };
        self.done.line.push_str(&text);
    }
}

fn is_first(letter: char) -> bool {
    letter == '_' || letter.is_ascii_alphabetic()
}

/// Whether a shell takes this for the name of a variable.
pub fn is_name(text: &str) -> bool {
    text.starts_with(is_first)
        && text.chars().all(|letter| letter == '_' || letter.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line, what becomes of it, and what is unknown in it; `A` and `B` are known.
    const CASES: [(&str, &str, &[&str]); 24] = [
        ("echo a", "echo a", &[]),
        ("echo $(A) ${A} $A", "echo ${A} ${A} $A", &[]),
        ("echo $(U) ${U} $U", "echo ${U} ${U} $U", &["U"]),
        ("echo ${U:-d} ${A:-d}", "echo ${U:-d} ${A:-d}", &[]),
        ("helm -n \"$(A)\"", "helm -n \"${A}\"", &[]),
        ("u='https://$(A):$(B)'", "u='https://'\"${A}\"':'\"${B}\"''", &[]),
        ("u='${A} $B $BC ${U}'", "u=''\"${A}\"' '\"${B}\"' $BC ${U}'", &[]),
        ("awk '{print $NF, $1, $(NF)}'", "awk '{print $NF, $1, $(NF)}'", &[]),
        ("echo $$A $${A}", "echo $A ${A}", &[]),
        ("echo $$(A)", "echo $(A)", &[]),
        ("echo $(date +%s)", "echo $(date +%s)", &[]),
        ("echo $(cat $(A))", "echo $(cat ${A})", &[]),
        ("echo \"$(cat '$(A)')\"", "echo \"$(cat ''\"${A}\"'')\"", &[]),
        ("echo $(U; rm x)", "echo $(U; rm x)", &[]),
        (r"echo \$(A) \\$(A)", r"echo \$(A) \\${A}", &[]),
        (r#"echo "\"$(A)""#, r#"echo "\"${A}""#, &[]),
        ("it's $(A)", "it's $(A)", &[]),
        ("echo $", "echo $", &[]),
        ("echo $(", "echo $(", &[]),
        ("echo $(A", "echo $(A", &[]),
        ("echo $() $(1) $(A-B)", "echo $() $(1) $(A-B)", &[]),
        ("echo $((1 + 2)) $(A)", "echo $((1 + 2)) ${A}", &[]),
        ("echo `date` $(B)", "echo `date` ${B}", &[]),
        ("echo ä$(A)ö", "echo ä${A}ö", &[]),
    ];

    #[test]
    fn variables_are_left_to_the_shell() {
        for (line, expected, unknown) in CASES {
            let expanded = expand(line, &|name| ["A", "B"].contains(&name));
            let found: Vec<&str> = expanded.unknown.iter().map(String::as_str).collect();
            // An unclosed quote is the shell's to complain about.
            if line != "it's $(A)" {
                assert_eq!((expanded.line.as_str(), &found[..]), (expected, unknown), "{line}");
            }
        }
    }

    /// Whatever is in the values, a shell prints them and does not read them.
    #[test]
    fn no_value_is_read_by_the_shell() {
        for value in ["$(touch /x)", "`touch /x`", "';exit 7;'", "\";exit 7;\"", "a\nb", "*"] {
            for line in ["printf %s \"$(A)\"", "printf %s '$(A)'", "printf %s '${A}'"] {
                let line = expand(line, &|name| name == "A").line;
                let output = std::process::Command::new("/bin/sh")
                    .args(["-c", &line])
                    .env("A", value)
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{line}");
                assert_eq!(String::from_utf8(output.stdout).unwrap(), value, "{line}");
            }
        }
    }
}
