#![no_main]

use kfs_fs::layer::toc::footer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for len in [data.len() as u64, u64::MAX] {
        if let Some(footer::Footer::Estargz { footer_offset, .. }) = footer::parse(data, len) {
            assert!(footer_offset < len);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        _ = footer::Position::parse(text);
    }
});
