//! References in text that is not YAML, or not yet: templates. By line, with the union of what
//! Sealer's and Sealos's rules find.
//!
//! Sealos takes what stands behind `image:`, wherever it stands in the line; Sealer what stands
//! behind the line's first colon, if what is before ends in `image`, quotes not counted. Both leave
//! out commented lines. Neither knows that a comment may follow; here it is cut off.

use super::Found;

/// What stands before a reference.
const KEY: &str = "image:";

/// Looks for a reference in one line.
pub(super) fn line(number: usize, line: &str, found: &mut Found<'_>) {
    let line = line.trim();
    if line.starts_with('#') {
        return;
    }
    if let Some(value) = behind_key(line).or_else(|| behind_colon(line)) {
        let value = scalar(value);
        if !value.is_empty() {
            found.certain(value, Some(number));
        }
    }
}

/// All lines of a text; `first` is the number of its first.
pub(super) fn text(text: &str, first: usize, found: &mut Found<'_>) {
    for (at, line) in text.lines().enumerate() {
        self::line(first + at, line, found);
    }
}

/// Sealos's rule.
fn behind_key(line: &str) -> Option<&str> {
    let at = line.find(KEY)?;
    // `image:` of a URL or of an image's own name is none.
    let before = line[..at].chars().next_back();
    let value = &line[at + KEY.len()..];
    let is_key =
        before.is_none_or(|c| c.is_whitespace() || c.is_alphanumeric() || "-_{,\"'".contains(c));
    (is_key && value.starts_with([' ', '\t', '"', '\''])).then_some(value)
}

/// Sealer's rule.
fn behind_colon(line: &str) -> Option<&str> {
    let (key, value) = line.split_once(':')?;
    let key = key.trim().trim_matches(['"', '\'']);
    (key.ends_with("image") && !key.contains('#')).then_some(value)
}

/// A plain or quoted scalar as it stands in a line: without quotes, comment, and what follows it in
/// a mapping on one line.
fn scalar(value: &str) -> &str {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.split(quote).next().unwrap_or(rest);
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    let value = value[..end].trim_end();
    if value.contains("{{") {
        return value;
    }
    value.trim_end_matches(['}', ',', ']', ' '])
}
