//! What the libraries warn of, as lines on stderr.

use std::io;

use tracing::Level;

use crate::report::talk;

/// Shows warnings from now on.
pub(crate) fn show() {
    let log = tracing_subscriber::fmt().with_max_level(Level::WARN).with_writer(|| Lines);
    let log = log.without_time().with_level(false).with_target(false).with_ansi(false);
    log.log_internal_errors(false).init();
}

/// Is written to a warning at a time.
struct Lines;

impl io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        talk(&format!("kfs: warning: {}", String::from_utf8_lossy(text).trim_end()));
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
