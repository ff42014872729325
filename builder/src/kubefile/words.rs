//! How the text after a keyword falls into words. Quotes and escapes are kept in the words: they
//! are removed when variables are expanded (`expand`), which needs to know what was quoted. Words
//! are slices of the text, so that an error can say where one stands.

/// A flag before the words of an instruction: `--name` or `--name=value`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flag<'a> {
    pub(super) name: String,
    /// Quotes and backslashes are removed.
    pub(super) value: Option<String>,
    /// As it is written.
    pub(super) source: &'a str,
}

/// Splits at blanks outside quotes and escapes (moby's `parseWords`). An open quote runs to the
/// end of the text; the expander complains about it.
pub(super) fn split(text: &str, escape: char) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = word_end(rest, escape);
        words.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    words
}

/// The first word of a line, and what follows the blanks after it.
pub(super) fn first(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, &text[text.len()..]));
    (word, rest.trim_start())
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

/// What a text that may be a JSON array is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Json {
    /// An array of strings.
    Strings(Vec<String>),
    /// An array with something else in it, which Docker refuses.
    NotStrings,
    /// No JSON array.
    No,
}

/// Reads a text as a JSON array of strings.
pub(super) fn json(text: &str) -> Json {
    let text = text.trim();
    if !text.starts_with('[') {
        return Json::No;
    }
    match serde_json::from_str(text) {
        Ok(strings) => Json::Strings(strings),
        Err(_) if serde_json::from_str::<Vec<serde_json::Value>>(text).is_ok() => Json::NotStrings,
        Err(_) => Json::No,
    }
}

/// Takes the flags from the front of `text`; `--` alone ends them. In a flag quotes and the
/// characters after a backslash are taken as BuildKit takes them: the escape directive is not
/// asked.
pub(super) fn flags(text: &str) -> (Vec<Flag<'_>>, &str) {
    let mut flags = Vec::new();
    let mut rest = text.trim_start();
    while rest.starts_with("--") {
        let (word, end) = unquoted(rest);
        let source = &rest[..end];
        rest = rest[end..].trim_start();
        let Some(word) = word.strip_prefix("--").filter(|word| !word.is_empty()) else { break };
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word, None),
        };
        flags.push(Flag { name: name.to_owned(), value, source });
    }
    (flags, rest)
}

/// The first word of `text` without its quotes and backslashes, and where it ends.
fn unquoted(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => return (word, at),
            None if c == '"' || c == '\'' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == '\\' => word.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => word.push(c),
        }
    }
    (word, text.len())
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
            None if c.is_whitespace() => return None,
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
        let read = |text| {
            let (found, rest) = flags(text);
            let found: Vec<_> = found.into_iter().map(|f| (f.name, f.value, f.source)).collect();
            (found, rest)
        };
        let (found, rest) = read("--from=a  --x --c='1 2' src --dest");
        let flag = |name: &str, value: Option<&str>, source: &'static str| {
            (name.to_owned(), value.map(str::to_owned), source)
        };
        let expected = [
            flag("from", Some("a"), "--from=a"),
            flag("x", None, "--x"),
            flag("c", Some("1 2"), "--c='1 2'"),
        ];
        assert_eq!(found, expected);
        assert_eq!(rest, "src --dest");
        assert_eq!(read("-- --x").1, "--x");
        let (found, rest) = read(r#"--a=b\ "c" x"#);
        assert_eq!(found, [flag("a", Some("b c"), r#"--a=b\ "c""#)]);
        assert_eq!(rest, "x");
        let (found, _) = read(r#"--"d"=e" "'f'\ g x"#);
        assert_eq!(found, [flag("d", Some("e f g"), r#"--"d"=e" "'f'\ g"#)]);
    }

    #[test]
    fn heredoc_words() {
        let start = |word| heredoc_start(word, '\\').map(|s| (s.name, s.expand, s.chomp));
        assert_eq!(start("<<EOF"), Some(("EOF".into(), true, false)));
        assert_eq!(start("3<<-EOF"), Some(("EOF".into(), true, true)));
        assert_eq!(start("<<'E F'"), Some(("E F".into(), false, false)));
        assert_eq!(start("<<E\"O\"F"), Some(("EOF".into(), false, false)));
        assert_eq!(start("<<\\EOF"), Some(("EOF".into(), false, false)));
        for other in
            ["<<", "<<-", "<<<x", "a<<EOF", "\"<<EOF\"", "<<'EOF", "<EOF", "$((1<<2))", "<<EOF > x"]
        {
            assert_eq!(start(other), None, "{other}");
        }
    }
}
