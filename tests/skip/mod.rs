//! How a test says that it cannot run here: to who reads its output, and to `scripts/test.sh`.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Says why the calling test did not run, and adds that to the file that `KFS_SKIP_LOG` names:
/// a test runner hides the output of tests that pass.
///
/// A reason that starts with "no shared inputs" is about files that are not in this repository;
/// any other is a fault where tests run as root with all tools installed.
pub(crate) fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let line = format!("SKIPPED\t{}\t{reason}\n", thread.name().unwrap_or("a test"));
    eprint!("{line}");
    if let Some(log) = std::env::var_os("KFS_SKIP_LOG") {
        // One write a line: tests are processes of their own.
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&log)
            .and_then(|mut file| file.write_all(line.as_bytes()));
        written.unwrap_or_else(|error| panic!("{}: {error}", log.display()));
    }
}
