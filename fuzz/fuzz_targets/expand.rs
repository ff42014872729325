//! Variable references in any text, with any value.

#![no_main]

use kfs_builder::kubefile::MAX_FILE;
use kfs_builder::kubefile::expand::{MAX_WORD, heredoc, known, word};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, value) = input;
    let lookup = |name: &str| match name {
        "A" => Some(value.to_owned()),
        "E" => Some(String::new()),
        _ => None,
    };
    for escape in ['\\', '`'] {
        if let Ok(result) = word(text, escape, &lookup) {
            assert!(result.len() <= MAX_WORD + text.len());
        }
    }
    if let Ok(result) = heredoc(text, &lookup) {
        assert!(result.len() <= MAX_FILE);
    }
    let nothing = |_: &str| None;
    if text.len() <= MAX_WORD {
        assert_eq!(known(text, &nothing).as_deref(), Ok(text));
    }
    let quoted: String = text.chars().filter(|c| *c != '\'').collect();
    if quoted.len() <= MAX_WORD {
        assert_eq!(word(&format!("'{quoted}'"), '\\', &lookup), Ok(quoted));
    }
    drop(known(text, &lookup));
});
