//! How the text after a keyword falls into words. Quotes and escapes are kept in the words: they
//! are removed when variables are expanded (`expand`), which needs to know what was quoted.

/// A flag before the words of an instruction: `--name` or `--name=value`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flag {
    pub(super) name: String,
    pub(super) value: Option<String>,
}

/// Splits at blanks outside quotes and escapes (moby's `parseWords`). An open quote runs to the
/// end of the text; the expander complains about it.
pub(super) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = word_end(rest, escape);
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    words
}

/// Where the first word of `text` ends; `text` begins with no blank.
fn word_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return at,
            None if c == '"' || c == '\'' => quote = Some(c),
            // Nothing is escaped between single quotes.
            None | Some('"') if c == escape => {
                chars.next();
            }
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    text.len()
}

/// The elements of a JSON array of strings, if `text` is one.
pub(super) fn json_list(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Takes the flags from the front of `text`; `--` alone ends them.
pub(super) fn flags(text: &str, escape: char) -> (Vec<Flag>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while let Some(after) = rest.strip_prefix("--") {
        let end = word_end(after, escape);
        let word = &after[..end];
        rest = after[end..].trim_start();
        if word.is_empty() {
            break;
        }
        flags.push(match word.split_once('=') {
            Some((name, value)) => {
                Flag { name: name.to_owned(), value: Some(without_quotes(value)) }
            }
            None => Flag { name: word.to_owned(), value: None },
        });
    }
    (flags, rest)
}

/// A flag's value may stand between quotes as a whole.
fn without_quotes(value: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|v| v.strip_suffix(quote)) {
            return inner.to_owned();
        }
    }
    value.to_owned()
}

/// The `<<NAME` of a heredoc.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeredocStart {
    /// What the last line is.
    pub(super) name: String,
    /// No part of the name was quoted.
    pub(super) expand: bool,
    /// `<<-`: leading tabs are dropped from the lines.
    pub(super) chomp: bool,
}

/// Reads a word as `[DIGITS]<<[-]NAME` (BuildKit's heredoc syntax); none if it is something else.
pub(super) fn heredoc_start(word: &str, escape: char) -> Option<HeredocStart> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.contains('<') {
        return None;
    }
    let mut name = String::new();
    let mut quote = None;
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == escape => name.extend(chars.next()),
            Some(open) if c == open => quote = None,
            _ => name.push(c),
        }
    }
    if name.is_empty() || quote.is_some() {
        return None;
    }
    Some(HeredocStart { expand: name == rest, name, chomp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_quotes() {
        for (text, words) in [
            ("a b", &["a", "b"][..]),
            ("  a\t b  ", &["a", "b"]),
            (r#"a="b c" d"#, &[r#"a="b c""#, "d"]),
            (r"a\ b c", &[r"a\ b", "c"]),
            (r"'a\' b", &[r"'a\'", "b"]),
            (r#""a\" b" c"#, &[r#""a\" b""#, "c"]),
            ("'open b", &["'open b"]),
            ("a\\", &["a\\"]),
            ("", &[]),
        ] {
            assert_eq!(split(text, '\\'), words, "{text}");
        }
        assert_eq!(split("a` b c\\ d", '`'), ["a` b", "c\\", "d"]);
    }

    #[test]
    fn flags_end_at_the_first_other_word() {
        let (found, rest) = flags("--from=a  --x --c='1 2' src --dest", '\\');
        let flag = |name: &str, value: Option<&str>| Flag {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        assert_eq!(found, [flag("from", Some("a")), flag("x", None), flag("c", Some("1 2"))]);
        assert_eq!(rest, "src --dest");
        assert_eq!(flags("-- --x", '\\').1, "--x");
    }

    #[test]
    fn heredoc_words() {
        let start = |word| heredoc_start(word, '\\').map(|s| (s.name, s.expand, s.chomp));
        assert_eq!(start("<<EOF"), Some(("EOF".into(), true, false)));
        assert_eq!(start("3<<-EOF"), Some(("EOF".into(), true, true)));
        assert_eq!(start("<<'E F'"), Some(("E F".into(), false, false)));
        assert_eq!(start("<<E\"O\"F"), Some(("EOF".into(), false, false)));
        assert_eq!(start("<<\\EOF"), Some(("EOF".into(), false, false)));
        for other in ["<<", "<<-", "<<<x", "a<<EOF", "\"<<EOF\"", "<<'EOF", "<EOF", "$((1<<2))"] {
            assert_eq!(start(other), None, "{other}");
        }
    }
}
