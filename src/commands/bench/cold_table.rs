//! A cold start as tables for a terminal.

use std::fmt::Write as _;

use kfs_measure::cold::{Kind, Report, Side, Start, Tool};

use crate::table::{Table, size};

/// What was measured, each figure that of the run whose time is the median.
pub(super) fn text(report: &Report) -> String {
    let mut text = head(report);
    write!(text, "\n{}", sides(report)).expect("writing to a string does not fail");
    if let Some(kfs) = report.sides.iter().find(|side| side.tool == Tool::Kfs) {
        write!(text, "\n{}", phases(kfs)).expect("writing to a string does not fail");
        if let Some(line) = touched(kfs) {
            text += &format!("\n{line}\n");
        }
    }
    text
}

fn head(report: &Report) -> String {
    let bytes = report.layers.iter().map(|layer| layer.size).sum();
    let layers = match report.layers.len() {
        1 => "1 layer".to_owned(),
        number => format!("{number} layers"),
    };
    let runs = match report.sides.iter().map(|side| side.runs.len()).max() {
        Some(1) => "1 run".to_owned(),
        runs => format!("median of {} runs", runs.unwrap_or(0)),
    };
    let caches = if report.caches_dropped { "dropped" } else { "not dropped (needs root)" };
    format!(
        "{}: {layers}, {}; {}\nnet {}; {runs}; page cache {caches}\n",
        report.image,
        size(bytes),
        report.command.join(" "),
        report.net,
    )
}

fn sides(report: &Report) -> Table {
    let mut table = Table::new(&[
        "SIDE",
        "RUNS IN",
        "COLD",
        "SECOND",
        "WARM",
        "CPU",
        "MEMORY",
        "REQUESTS",
        "FETCHED",
        "COLD RATIO",
    ]);
    let ours = report.sides.first().and_then(|kfs| Some(kfs.median(Kind::Cold)?.1.seconds));
    for side in &report.sides {
        let Some((_, cold)) = side.median(Kind::Cold) else {
            let mut cells = [const { String::new() }; 10];
            cells[0] = side.tool.name().to_owned();
            cells[1] = runs_in(side);
            cells[2] = "failed".to_owned();
            table.row(cells);
            continue;
        };
        let time = |kind| side.median(kind).map_or_else(String::new, |(_, it)| seconds(it.seconds));
        let ratio = ours.filter(|_| side.tool != Tool::Kfs);
        table.row([
            side.tool.name().to_owned(),
            runs_in(side),
            seconds(cold.seconds),
            time(Kind::Second),
            time(Kind::Warm),
            seconds(cold.cpu_seconds),
            size(cold.peak_memory),
            cold.requests.to_string(),
            size(cold.bytes),
            ratio.map_or_else(String::new, |ours| format!("{:.1} x", cold.seconds / ours)),
        ]);
    }
    table
}

/// What a side's command runs in, for people.
pub(super) fn runs_in(side: &Side) -> String {
    match &side.runtime {
        Some(runtime) => format!("{} ({runtime})", side.runs_in),
        None => side.runs_in.clone(),
    }
}

/// The phases of kfs's starts.
fn phases(kfs: &Side) -> Table {
    let mut table = Table::new(&["PHASE", "COLD", "REQUESTS", "FETCHED", "SECOND", "WARM"]);
    let start = |kind| kfs.median(kind).map(|(_, start)| start);
    let Some(cold) = start(Kind::Cold) else { return table };
    let of = |other: Option<&Start>, name: &str| {
        let phase = other.and_then(|start| start.phases.iter().find(|phase| phase.name == name));
        phase.map_or_else(String::new, |phase| seconds(phase.seconds))
    };
    for phase in &cold.phases {
        table.row([
            phase.name.clone(),
            seconds(phase.seconds),
            phase.requests.to_string(),
            size(phase.bytes),
            of(start(Kind::Second), &phase.name),
            of(start(Kind::Warm), &phase.name),
        ]);
    }
    table
}

fn touched(kfs: &Side) -> Option<String> {
    let (run, cold) = kfs.median(Kind::Cold)?;
    let touched = run.touched.as_ref()?;
    Some(format!(
        "{} of {} files read, {} as they are stored, of {} fetched",
        size(touched.content_bytes),
        touched.paths.len(),
        size(touched.stored_bytes),
        size(cold.bytes),
    ))
}

/// A time in seconds or milliseconds.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 0.1 => format!("{:.1}ms", seconds * 1000.0),
        seconds if seconds < 10.0 => format!("{seconds:.2}s"),
        seconds => format!("{seconds:.1}s"),
    }
}
