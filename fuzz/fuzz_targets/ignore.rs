//! Ignore files of any bytes, asked for any path.

#![no_main]

use std::path::Path;

use kfs_builder::context::Ignore;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &str)| {
    let (lines, path) = input;
    // As long as a path can be.
    if path.len() > 4096 {
        return;
    }
    let Ok(ignore) = Ignore::parse("f".into(), lines) else { return };
    let count = 1 + lines.iter().filter(|byte| **byte == b'\n').count();
    let path = Path::new(path);
    if let Some(line) = ignore.line(path) {
        assert!(1 <= line && line <= count);
    }
    assert_eq!(ignore.line(path), ignore.line(path));
    let shown = Ignore::parse("f".into(), &[lines, b"\n!**"].concat()).expect("one line more");
    assert_eq!(shown.line(path), None);
});
