//! What a build tells while it goes on, to stderr: as lines, as lines of which those that are done
//! with go away, or as JSON.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kfs_builder::build::{Built, Event};
use serde_json::{Value, json};

use super::{ProgressArg, explain, seconds};
use crate::commands::Context;
use crate::look::escape;
use crate::table::size;

/// Tells what happens, in the way that the user wants.
pub(super) struct Teller<'a> {
    context: &'a Context,
    how: How,
}

enum How {
    Plain,
    Json,
    /// A line for each stage that runs.
    Tty(MultiProgress, Vec<(String, ProgressBar)>),
}

impl<'a> Teller<'a> {
    pub(super) fn new(context: &'a Context, progress: ProgressArg) -> Self {
        let how = match progress {
            ProgressArg::Json => How::Json,
            ProgressArg::Plain => How::Plain,
            ProgressArg::Tty => How::Tty(MultiProgress::new(), Vec::new()),
            ProgressArg::Auto if std::io::stderr().is_terminal() => {
                How::Tty(MultiProgress::new(), Vec::new())
            }
            ProgressArg::Auto => How::Plain,
        };
        Self { context, how }
    }

    pub(super) fn tell(&mut self, stage: &str, event: Event) {
        if self.context.quiet {
            return;
        }
        match &mut self.how {
            How::Plain => plain(self.context, stage, &event),
            How::Json => json_line(stage, &event),
            How::Tty(all, bars) => match &event {
                Event::Output(line) => {
                    let text = escape(overwritten(line)).to_string();
                    bar(all, bars, stage).set_message(text);
                }
                Event::Step { .. } => {
                    all.suspend(|| plain(self.context, stage, &event));
                    bar(all, bars, stage).set_message("");
                }
                Event::Indexed { .. }
                | Event::Note(_)
                | Event::Warning(_)
                | Event::Explained(_)
                | Event::Written { .. }
                | Event::Committed { .. }
                | Event::Done { .. } => {
                    all.suspend(|| plain(self.context, stage, &event));
                }
            },
        }
    }

    /// Tells that the image is there.
    pub(super) fn built(&self, tags: &[String], built: &Built, took: Duration) {
        match (&self.how, tags) {
            (How::Json, _) if !self.context.quiet => print_line(&json!({
                "event": "built", "seconds": took.as_secs_f64(),
                "name": tags.first(), "names": tags,
                "digest": built.digest.to_string(), "id": built.id.to_string(),
            })),
            (How::Json, _) | (How::Plain | How::Tty(..), []) => {}
            (How::Plain | How::Tty(..), tags) => {
                self.context.say(&format!("Built {} in {}", tags.join(", "), seconds(took)));
            }
        }
    }

    /// Takes away what is not meant to stay.
    pub(super) fn end(&mut self) {
        if let How::Tty(_, bars) = &self.how {
            bars.iter().for_each(|(_, bar)| bar.finish_and_clear());
        }
    }
}

/// The line of a stage.
fn bar<'b>(
    all: &MultiProgress,
    bars: &'b mut Vec<(String, ProgressBar)>,
    stage: &str,
) -> &'b ProgressBar {
    if let Some(place) = bars.iter().position(|(name, _)| name == stage) {
        return &bars[place].1;
    }
    let bar = all.add(ProgressBar::new_spinner());
    let style = ProgressStyle::with_template("    {spinner} {prefix}{wide_msg}");
    bar.set_style(style.expect("a fixed template is well-formed"));
    if !stage.is_empty() {
        bar.set_prefix(format!("[{stage}] "));
    }
    bars.push((stage.to_owned(), bar));
    &bars.last().expect("one was pushed").1
}

fn json_line(stage: &str, event: &Event) {
    let mut value = match event {
        Event::Step { index, total, text } => {
            json!({ "event": "step", "index": index, "total": total, "text": text })
        }
        Event::Indexed { bytes } => json!({ "event": "indexed", "bytes": bytes }),
        Event::Output(line) => json!({ "event": "output", "line": String::from_utf8_lossy(line) }),
        Event::Note(text) => json!({ "event": "note", "text": text }),
        Event::Warning(text) => json!({ "event": "warning", "text": text }),
        Event::Explained(explanation) => explain::json(explanation),
        Event::Written { index, run, diff, times } => json!({
            "event": "written", "index": index, "run": run.as_secs_f64(), "diff": diff.as_secs_f64(),
            "hash": times.hash.as_secs_f64(), "compress": times.compress.as_secs_f64(),
            "write": times.write.as_secs_f64(),
        }),
        Event::Committed { index, total, digest, size } => {
            json!({ "event": "committed", "index": index, "total": total,
                    "layer": digest.to_string(), "size": size })
        }
        Event::Done { took, layer, cached } => {
            let (digest, size) = layer.map(|(digest, size)| (digest.to_string(), size)).unzip();
            let seconds = took.as_secs_f64();
            json!({ "event": "done", "seconds": seconds, "layer": digest, "size": size,
                    "cached": cached })
        }
    };
    if !stage.is_empty() {
        value["stage"] = stage.into();
    }
    print_line(&value);
}

fn print_line(value: &Value) {
    // Nobody is left to be told of a closed stderr.
    drop(writeln!(std::io::stderr().lock(), "{value}"));
}

/// One line a step and what comes of it, to stderr. Where several stages are built, each line
/// names its stage.
fn plain(context: &Context, stage: &str, event: &Event) {
    let (name, tag) = match stage {
        "" => (String::new(), String::new()),
        stage => (format!("{stage} "), format!("[{stage}] ")),
    };
    match event {
        Event::Step { index, total, text } => {
            context.say(&format!("[{name}{index}/{total}] {}", escape(text.as_bytes())));
        }
        Event::Indexed { bytes } => context.say(&format!("      {tag}indexed {}", size(*bytes))),
        Event::Output(line) => {
            if !context.quiet {
                let mut stderr = std::io::stderr().lock();
                let line = [b"      ", tag.as_bytes(), overwritten(line), b"\n"].concat();
                // Nobody is left to be told of a closed stderr.
                drop(stderr.write_all(&line));
            }
        }
        Event::Note(text) => context.say(&format!("note: {text}")),
        Event::Warning(text) => context.say(&format!("warning: {text}")),
        Event::Committed { index, total, digest, size: bytes } => {
            let (digest, bytes) = (digest.short(), size(*bytes));
            context.say(&format!("      {tag}[{index}/{total}] layer {digest}  {bytes}"));
        }
        Event::Explained(explanation) => {
            let text = explain::text(explanation);
            context.say(&format!("      {tag}{}", escape(text.as_bytes())));
        }
        // For who measures.
        Event::Written { .. } => {}
        Event::Done { took, layer, cached } => {
            let took = if *cached { "cached".to_owned() } else { seconds(*took) };
            match layer {
                Some((digest, bytes)) => {
                    let (digest, bytes) = (digest.short(), size(*bytes));
                    context.say(&format!("      {tag}{took}  layer {digest}  {bytes}"));
                }
                None if took.starts_with("0.0") => {}
                None => context.say(&format!("      {tag}{took}")),
            }
        }
    }
}

/// What is left of a line in which a progress bar returned to its start again and again.
fn overwritten(line: &[u8]) -> &[u8] {
    let mut versions = line.rsplit(|byte| *byte == b'\r');
    versions.find(|version| !version.is_empty()).unwrap_or_default()
}
