//! How far a copy is: one line that rewrites itself on a terminal, one plain line elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::commands::Context;
use crate::report::talk;

/// Bytes that were copied; the line goes away with the value.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Starts to tell that `what` is being done.
    pub(crate) fn new(context: &Context, what: &str) -> Self {
        if !context.quiet && !std::io::stderr().is_terminal() {
            talk(what);
        }
        let target = match context.quiet {
            true => ProgressDrawTarget::hidden(),
            // Hidden by itself where stderr is no terminal.
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{spinner} {msg}  {decimal_bytes}  {decimal_bytes_per_sec}";
        bar.set_style(
            ProgressStyle::with_template(style).expect("a fixed template is well-formed"),
        );
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        Self(bar)
    }

    /// Counts bytes.
    pub(crate) fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
