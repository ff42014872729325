//! Patterns for names of files: those of `.helmignore`, and those of `.Files.Glob`.

use regex::{Regex, RegexBuilder};

/// Go's `filepath.Match`; `None` for what is no pattern.
pub(crate) fn path(pattern: &str) -> Option<Regex> {
    translated(pattern, false)
}

/// As `path`, with `**` for any number of parts, `{a,b}` for either, and `[!a]` for none of.
pub(crate) fn glob(pattern: &str) -> Option<Regex> {
    translated(pattern, true)
}

fn translated(pattern: &str, is_glob: bool) -> Option<Regex> {
    let mut out = String::from("(?s)^(?:");
    let mut rest = pattern;
    let mut groups = 0_u32;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' if is_glob && rest.starts_with('*') => {
                rest = rest.trim_start_matches('*');
                out.push_str(".*");
            }
            '*' => out.push_str("[^/]*"),
            '?' => out.push_str("[^/]"),
            '[' => rest = class(&mut out, rest, is_glob)?,
            '{' if is_glob => {
                groups += 1;
                out.push_str("(?:");
            }
            '}' if groups > 0 => {
                groups -= 1;
                out.push(')');
            }
            ',' if groups > 0 => out.push('|'),
            '\\' => {
                let escaped = rest.chars().next()?;
                rest = &rest[escaped.len_utf8()..];
                out.push_str(&regex::escape(escaped.encode_utf8(&mut [0; 4])));
            }
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out.push_str(")$");
    if groups > 0 {
        return None;
    }
    RegexBuilder::new(&out).size_limit(1 << 20).build().ok()
}

/// Characters in brackets; gives what follows them.
fn class<'p>(out: &mut String, pattern: &'p str, is_glob: bool) -> Option<&'p str> {
    out.push('[');
    let negation = if is_glob { '!' } else { '^' };
    let mut rest = pattern;
    if let Some(after) = rest.strip_prefix(negation) {
        out.push('^');
        rest = after;
    }
    let mut empty = true;
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            ']' if !empty => {
                out.push(']');
                return Some(rest);
            }
            ']' => return None,
            '-' if !empty => out.push('-'),
            '\\' => {
                let escaped = rest.chars().next()?;
                rest = &rest[escaped.len_utf8()..];
                out.push_str(&format!("\\x{{{:x}}}", u32::from(escaped)));
            }
            c => out.push_str(&format!("\\x{{{:x}}}", u32::from(c))),
        }
        empty = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        let cases = [
            ("*.md", "a.md", true),
            ("*.md", "d/a.md", false),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a.b", "axb", false),
            ("{a,b}", "{a,b}", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(path(pattern).unwrap().is_match(name), expected, "{pattern} {name}");
        }
        let cases = [
            ("files/**", "files/a/b", true),
            ("files/*", "files/a/b", false),
            ("**.yaml", "d/e/x.yaml", true),
            ("{a,b}/*.txt", "b/x.txt", true),
            ("[!a]x", "bx", true),
            ("[!a]x", "ax", false),
            ("dir/**/x", "dir/a/b/x", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(glob(pattern).unwrap().is_match(name), expected, "{pattern} {name}");
        }
        for bad in ["[", "[]", "a\\"] {
            assert!(path(bad).is_none(), "{bad}");
        }
        assert!(glob("{a").is_none());
    }
}
