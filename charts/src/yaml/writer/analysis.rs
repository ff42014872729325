//! Which ways of writing a string keep it.

use std::fmt::Write as _;

/// What a string may be written as.
#[derive(Debug)]
pub(super) struct Analysis {
    /// Without quotes.
    pub(super) plain: bool,
    /// In single quotes.
    pub(super) single: bool,
    /// As a block of lines.
    pub(super) block: bool,
}

impl Analysis {
    pub(super) fn of(text: &str) -> Analysis {
        if text.is_empty() {
            return Analysis { plain: true, single: true, block: false };
        }
        let is_break = |c: char| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}');
        let special = text.chars().any(|c| !is_printable(c) && !is_break(c) || c == '\r');
        let breaks = text.contains(is_break);
        let first = text.chars().next().unwrap_or(' ');
        let last = text.chars().next_back().unwrap_or(' ');
        let (mut break_space, mut space_break, mut before) = (false, false, 'x');
        for c in text.chars() {
            break_space |= c == ' ' && is_break(before);
            space_break |= is_break(c) && before == ' ';
            before = c;
        }
        let edges = first == ' ' || is_break(first) || last == ' ' || is_break(last);
        let all = !space_break && !special;
        Analysis {
            plain: all && !edges && !breaks && !break_space && !has_indicators(text),
            single: all && !break_space,
            block: all && last != ' ',
        }
    }
}

/// Whether something in a plain string would be read as YAML's own.
fn has_indicators(text: &str) -> bool {
    if text.starts_with("---") || text.starts_with("...") {
        return true;
    }
    let mut after_blank = true;
    let mut chars = text.chars().peekable();
    let mut is_first = true;
    while let Some(c) = chars.next() {
        let before_blank = chars.peek().is_none_or(|next| is_blank(*next));
        let found = match c {
            '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%'
            | '@' | '`'
                if is_first =>
            {
                true
            }
            '?' | '-' if is_first => before_blank,
            ':' => before_blank,
            '#' => after_blank,
            _ => false,
        };
        if found {
            return true;
        }
        after_blank = is_blank(c);
        is_first = false;
    }
    false
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\0' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// What may stand in text as it is: nothing beyond the basic plane, no tabs.
fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

/// A character in double quotes, if it must be escaped there.
pub(super) fn escape(c: char) -> Option<String> {
    let short = match c {
        '\0' => "\\0",
        '\u{7}' => "\\a",
        '\u{8}' => "\\b",
        '\t' => "\\t",
        '\n' => "\\n",
        '\u{b}' => "\\v",
        '\u{c}' => "\\f",
        '\r' => "\\r",
        '\u{1b}' => "\\e",
        '"' => "\\\"",
        '\\' => "\\\\",
        '\u{85}' => "\\N",
        '\u{2028}' => "\\L",
        '\u{2029}' => "\\P",
        c if is_printable(c) => return None,
        c => {
            let code = u32::from(c);
            let mut text = String::new();
            let written = match code {
                0..0x100 => write!(text, "\\x{code:02X}"),
                0x100..0x1_0000 => write!(text, "\\u{code:04X}"),
                _ => write!(text, "\\U{code:08X}"),
            };
            written.expect("a String takes all");
            return Some(text);
        }
    };
    Some(short.into())
}
