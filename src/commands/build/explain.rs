//! `--explain`: why a step is done, in words and as JSON.

use kfs_builder::build::{Change, Explanation};
use serde_json::{Value, json};

/// As one line.
pub(super) fn text(explanation: &Explanation) -> String {
    match explanation {
        Explanation::Hit { from: None } => "hit: all is as it was".to_owned(),
        Explanation::Hit { from: Some(from) } => format!("hit: {from} has it"),
        Explanation::NoCache => "miss: --no-cache".to_owned(),
        Explanation::New => "miss: no build of this file had it here".to_owned(),
        Explanation::Gone => "miss: all is as it was, but the cache has lost it".to_owned(),
        Explanation::Changed(changes) => {
            let changes: Vec<_> = changes.iter().map(change).collect();
            format!("miss: {}", changes.join("; "))
        }
    }
}

fn change(change: &Change) -> String {
    let Change { what, before, now, files, more } = change;
    let mut text = match (before, now) {
        (Some(before), Some(now)) => format!("{what} was {before} and is {now}"),
        (None, Some(now)) => format!("{what} is now {now}"),
        (_, None) => format!("{what} changed"),
    };
    if !files.is_empty() {
        text.push_str(": ");
        text.push_str(&files.join(", "));
    }
    if *more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

/// As the object of an event.
pub(super) fn json(explanation: &Explanation) -> Value {
    let (hit, why, from, changes) = match explanation {
        Explanation::Hit { from } => (true, "same", from.as_ref(), None),
        Explanation::NoCache => (false, "no-cache", None, None),
        Explanation::New => (false, "new", None, None),
        Explanation::Gone => (false, "gone", None, None),
        Explanation::Changed(changes) => (false, "changed", None, Some(changes)),
    };
    let changes: Option<Vec<_>> = changes.map(|changes| {
        let change = |Change { what, before, now, files, more }: &Change| {
            json!({ "what": what, "before": before, "now": now, "files": files, "more": more })
        };
        changes.iter().map(change).collect()
    });
    json!({ "event": "explained", "hit": hit, "why": why, "from": from, "changes": changes })
}
