//! Text from images in a form that a terminal can be shown: names may hold anything.

/// What is shown of a name in a message, in bytes: all of what Linux takes for one, and of a path
/// enough to know it by.
const SHOWN: usize = 255;

/// `text` with what a terminal would act on instead of showing escaped: control characters, and
/// those that change the direction of what follows. Backslashes stay single.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        push(&mut out, char);
    }
    out
}

/// A name so that two different ones never look the same: as [`text`], with bytes that are not
/// UTF-8 as `\xff` and backslashes doubled.
pub fn name(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => out.push_str("\\\\"),
                char => push(&mut out, char),
            }
        }
        out.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    out
}

/// As [`name`], but of one that is too long for a message only how it begins.
pub fn start_of(name: &[u8]) -> String {
    match name.get(..SHOWN) {
        Some(start) if start.len() < name.len() => format!("{}...", self::name(start)),
        _ => self::name(name),
    }
}

fn push(out: &mut String, char: char) {
    match char.is_control() || turns_text_around(char) {
        true => out.extend(char.escape_default()),
        false => out.push(char),
    }
}

/// The marks, embeddings, overrides and isolates of Unicode's bidirectional algorithm (UAX #9,
/// section 2), and its line and paragraph separators.
fn turns_text_around(char: char) -> bool {
    matches!(char, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        assert_eq!(super::text("\x1b[2J\n\u{9b}m\x7f\\"), "\\u{1b}[2J\\n\\u{9b}m\\u{7f}\\");
        assert_eq!(super::text("\u{202e}gpj.exe \u{e4}"), "\\u{202e}gpj.exe \u{e4}");
        assert_eq!(super::name(b"a\xff\n\\\xc3\xa4"), "a\\xff\\n\\\\\u{e4}");
    }

    #[test]
    fn of_a_long_name_the_beginning_is_shown() {
        assert_eq!(super::start_of(&[b'a'; 255]), "a".repeat(255));
        assert_eq!(super::start_of(&[b'a'; 256]), "a".repeat(255) + "...");
    }
}
