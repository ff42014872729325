//! Go's expressions in the words of the `regex` crate, where the two differ.
//!
//! Go's classes such as `\w` are of ASCII; a bracket or `&&` within a class and a brace that
//! counts nothing mean themselves; `\<` is no word boundary, `\Q` quotes, `\z` is the end.

/// The same expression for the `regex` crate.
pub(crate) fn translated(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\\' => escape(&mut out, rest, false),
            '[' => class(&mut out, rest),
            '{' if !is_count(rest) => {
                out.push_str("\\{");
                &rest[1..]
            }
            _ => {
                out.push(c);
                &rest[c.len_utf8()..]
            }
        };
    }
    out
}

/// `{2}`, `{2,}` or `{2,3}`.
fn is_count(text: &str) -> bool {
    let Some((inside, _)) = text[1..].split_once('}') else {
        return false;
    };
    let (low, high) = inside.split_once(',').unwrap_or((inside, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

/// What stands for one of Go's classes of ASCII.
fn ascii_class(c: char, in_class: bool) -> Option<&'static str> {
    Some(match (c, in_class) {
        ('d', false) => "[0-9]",
        ('d', true) => "0-9",
        ('D', _) => "[^0-9]",
        ('s', false) => "[\\t\\n\\x0c\\r ]",
        ('s', true) => "\\t\\n\\x0c\\r ",
        ('S', _) => "[^\\t\\n\\x0c\\r ]",
        ('w', false) => "[0-9A-Za-z_]",
        ('w', true) => "0-9A-Za-z_",
        ('W', _) => "[^0-9A-Za-z_]",
        ('b', false) => "(?-u:\\b)",
        ('B', false) => "(?-u:\\B)",
        _ => return None,
    })
}

/// Writes what a backslash starts; gives what follows it.
fn escape<'t>(out: &mut String, text: &'t str, in_class: bool) -> &'t str {
    let Some(c) = text[1..].chars().next() else {
        out.push('\\');
        return "";
    };
    let after = &text[1 + c.len_utf8()..];
    if let Some(class) = ascii_class(c, in_class) {
        out.push_str(class);
        return after;
    }
    match c {
        'Q' => {
            let (quoted, rest) = after.split_once("\\E").unwrap_or((after, ""));
            out.push_str(&regex::escape(quoted));
            rest
        }
        'p' | 'P' => {
            let length = match after.strip_prefix('{') {
                Some(name) => name.find('}').map_or(after.len(), |end| end + 2),
                None => after.chars().next().map_or(0, char::len_utf8),
            };
            out.push('\\');
            out.push(c);
            out.push_str(&after[..length]);
            &after[length..]
        }
        '0'..='7' => octal(out, c, after),
        c => {
            // `\<` is a boundary to the other.
            if !matches!(c, '<' | '>') {
                out.push('\\');
            }
            out.push(c);
            after
        }
    }
}

fn octal<'t>(out: &mut String, first: char, after: &'t str) -> &'t str {
    let more = after.bytes().take(2).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    if first != '0' && more == 0 {
        // A back reference, which neither knows.
        out.push('\\');
        out.push(first);
        return after;
    }
    let code = u32::from_str_radix(&format!("{first}{}", &after[..more]), 8).unwrap_or(0);
    out.push_str(&format!("\\x{{{code:x}}}"));
    &after[more..]
}

/// Writes a class in brackets; gives what follows it.
fn class<'t>(out: &mut String, text: &'t str) -> &'t str {
    out.push('[');
    let mut rest = &text[1..];
    if let Some(after) = rest.strip_prefix('^') {
        out.push('^');
        rest = after;
    }
    if let Some(after) = rest.strip_prefix(']') {
        out.push_str("\\]");
        rest = after;
    }
    while let Some(c) = rest.chars().next() {
        if let Some(name) = rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) {
            out.push_str(&format!("[:{}:]", name.0));
            rest = name.1;
            continue;
        }
        let after = &rest[c.len_utf8()..];
        match c {
            ']' => {
                out.push(']');
                return after;
            }
            '\\' => {
                rest = escape(out, rest, true);
                continue;
            }
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            // Two of them would be a difference.
            '-' if after.starts_with('-') || out.ends_with('-') => out.push_str("\\-"),
            c => out.push(c),
        }
        rest = after;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::super::compile;

    #[test]
    fn go_expressions_match_as_in_go() {
        let cases = [
            (r"^\w+$", "é", false),
            (r"^[\w.]+$", "a.b_1", true),
            (r"^\d{2,}$", "123", true),
            (r"^\s$", "\u{a0}", false),
            (r"a{,2}", "a{,2}", true),
            (r"{{", "{{", true),
            (r"[[]", "[", true),
            (r"[]a]", "]", true),
            (r"[a&&b]", "&", true),
            (r"[a--b]", "-", true),
            (r"[[:alpha:]_]", "_", true),
            (r"\<a\>", "<a>", true),
            (r"\Qa.b\E+", "a.bb", true),
            (r"a\z", "a", true),
            (r"^[^\]]+$", "]", false),
            (r"^\pL$", "é", true),
            (r"^\p{Greek}+$", "αβ", true),
            (r"\101", "A", true),
            (r"[\-x]", "-", true),
            (r"\/\-\@", "/-@", true),
            (r"(?i)ABC", "abc", true),
            (r"(?P<x>a)", "a", true),
            (r"[^\s]", "a", true),
            (r"[\S]", "a", true),
        ];
        for (expression, text, expected) in cases {
            let regex = compile(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
            assert_eq!(regex.is_match(text), expected, "{expression} {text}");
        }
        for bad in ["(", r"\8", "[z-a]", "(?!a)"] {
            assert!(compile(bad).is_err(), "{bad}");
        }
    }
}
