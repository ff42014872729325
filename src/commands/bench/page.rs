//! A cold start as a page: one file, which fetches nothing and runs nothing.

use std::fmt::{self, Display, Write as _};

use kfs_measure::cold::{Kind, Report, Request, Run, Side, Start, Tool};

use super::cold_table::{runs_in, seconds};
use crate::table::size;

const STYLE: &str = include_str!("page.css");
/// Requests and paths beyond these are counted only.
const MOST_REQUESTS: usize = 400;
const MOST_PATHS: usize = 40;
/// Colours of phases, which begin anew after the last.
const COLOURS: usize = 6;

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut html = Html(String::new());
    html.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.line(format_args!("<title>Cold start: {}</title>", text(&report.image)));
    html.line(format_args!("<style>\n{STYLE}</style></head><body>"));
    head(&mut html, report);
    let kfs = report.sides.iter().find(|side| side.tool == Tool::Kfs);
    let median = kfs.and_then(|side| side.median(Kind::Cold));
    if let Some((run, cold)) = median {
        tiles(&mut html, run, cold);
    }
    bars(&mut html, report);
    if let (Some(kfs), Some((run, cold))) = (kfs, median) {
        phases(&mut html, kfs);
        waterfall(&mut html, cold);
        paths(&mut html, run, cold);
    }
    runs(&mut html, report);
    html.raw("</body></html>\n");
    html.0
}

struct Html(String);

impl Html {
    fn raw(&mut self, text: &str) {
        self.0 += text;
    }

    fn line(&mut self, text: fmt::Arguments<'_>) {
        writeln!(self.0, "{text}").expect("writing to a string does not fail");
    }

    /// A name, a track with bars in percent of it (start, width, class), and a figure.
    fn row(&mut self, name: &str, title: &str, bars: &[(f64, f64, String)], figure: &str) {
        let (name, title, figure) = (text(name), text(title), text(figure));
        self.line(format_args!(
            "<div class=\"row\" title=\"{title}\"><div class=\"name\">{name}</div>"
        ));
        self.raw("<div class=\"track\">");
        for (start, width, class) in bars {
            let (start, width) = (start.clamp(0.0, 100.0), width.clamp(0.0, 100.0));
            let style = format!("left:{start:.2}%;width:{width:.2}%");
            self.line(format_args!("<i class=\"{class}\" style=\"{style}\"></i>"));
        }
        self.line(format_args!("</div><div class=\"figure\">{figure}</div></div>"));
    }

    fn legend(&mut self, entries: &[(String, String)]) {
        self.raw("<div class=\"legend\">");
        for (class, name) in entries {
            self.line(format_args!("<span><i class=\"{class}\"></i>{}</span>", text(name)));
        }
        self.raw("</div>\n");
    }
}

/// A text as HTML has it, in content and attributes.
fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn head(html: &mut Html, report: &Report) {
    let bytes = report.layers.iter().map(|layer| layer.size).sum();
    let (image, command) = (text(&report.image), text(&report.command.join(" ")));
    html.line(format_args!("<h1>Cold start of {image}</h1>"));
    html.line(format_args!(
        "<p><code>{command}</code><br>{} layers, {}. Net: {}. Page cache {} before cold and second \
         starts.<br>{}, kernel {}, {} cores ({}), {} of memory.</p>",
        report.layers.len(),
        size(bytes),
        text(&report.net),
        if report.caches_dropped { "dropped" } else { "not dropped" },
        text(&report.machine.system),
        text(&report.machine.kernel),
        report.machine.cores,
        text(&report.machine.processor),
        size(report.machine.memory),
    ));
}

fn tiles(html: &mut Html, run: &Run, cold: &Start) {
    let mut tiles = vec![
        (seconds(cold.seconds), "from an empty store to the exit".to_owned()),
        (size(cold.bytes), format!("fetched in {} requests", cold.requests)),
    ];
    if let Some(touched) = &run.touched {
        tiles.push((size(touched.stored_bytes), "of that is what the command read".to_owned()));
    }
    tiles.push((seconds(cold.cpu_seconds), "of CPU, all processes".to_owned()));
    tiles.push((size(cold.peak_memory), "of memory, largest process".to_owned()));
    html.raw("<div class=\"tiles\">");
    for (figure, meaning) in tiles {
        html.line(format_args!("<div class=\"tile\"><b>{figure}</b><span>{meaning}</span></div>"));
    }
    html.raw("</div>\n");
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole * 100.0 } else { 0.0 }
}

fn bars(html: &mut Html, report: &Report) {
    html.raw("<h2>Beside other tools</h2><p>Medians. Each group has a scale of its own. \
              A container takes more to start than a chroot; unmounting and removing are outside of \
              all times.</p>\n");
    for (kind, title) in [
        (Kind::Cold, "Cold: nothing is there"),
        (Kind::Second, "Second start: what the first one left on disk"),
        (Kind::Warm, "Warm start: at once again"),
    ] {
        html.line(format_args!("<div class=\"group\">{title}</div>"));
        let time = |side: &Side| side.median(kind).map(|(_, start)| start.seconds);
        let longest = report.sides.iter().filter_map(time).fold(0.0, f64::max);
        for side in &report.sides {
            let Some(took) = time(side) else { continue };
            let class = if side.tool == Tool::Kfs { "ours" } else { "theirs" };
            let bar = (0.0, percent(took, longest), class.to_owned());
            let name = format!("{}, {}", side.tool.name(), runs_in(side));
            html.row(&name, &side.versions.join(", "), &[bar], &seconds(took));
        }
    }
    for side in &report.sides {
        if let Some(error) = &side.error {
            let name = side.tool.name();
            html.line(format_args!("<p class=\"error\">{name} failed: {}</p>", text(error)));
        }
    }
}

fn phases(html: &mut Html, kfs: &Side) {
    html.raw("<h2>What the time of kfs consists of</h2>\n");
    let starts: Vec<(&str, &Start)> =
        [(Kind::Cold, "cold"), (Kind::Second, "second"), (Kind::Warm, "warm")]
            .into_iter()
            .filter_map(|(kind, name)| Some((name, kfs.median(kind)?.1)))
            .collect();
    let Some((_, cold)) = starts.first() else { return };
    let class = |number: usize| format!("p{}", number % COLOURS);
    let names = cold.phases.iter().enumerate();
    let names = names.map(|(number, phase)| (class(number), phase.name.clone()));
    html.legend(&names.collect::<Vec<_>>());
    let longest = starts.iter().map(|(_, start)| start.seconds).fold(0.0, f64::max);
    for (name, start) in &starts {
        let bar = |(number, phase): (usize, &kfs_measure::cold::Phase)| {
            (percent(phase.began, longest), percent(phase.seconds, longest), class(number))
        };
        let bars: Vec<_> = start.phases.iter().enumerate().map(bar).collect();
        html.row(name, "", &bars, &seconds(start.seconds));
    }
    html.raw("<div class=\"scroll\"><table><tr><th>phase, cold</th><th>time</th><th>requests</th>");
    html.raw("<th>fetched</th></tr>\n");
    for phase in &cold.phases {
        html.line(format_args!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            text(&phase.name),
            seconds(phase.seconds),
            phase.requests,
            size(phase.bytes),
        ));
    }
    html.raw("</table></div>\n");
}

fn waterfall(html: &mut Html, cold: &Start) {
    html.raw("<h2>Requests of the cold start</h2>\n<p>From left to right the time from the first ");
    html.raw("process to the exit. A bar that begins where another ends waited for it.</p>\n");
    let legend = [("connect", "connection"), ("wait", "until the answer"), ("receive", "answer")];
    html.legend(&legend.map(|(class, name)| (class.to_owned(), name.to_owned())));
    html.raw("<div class=\"requests\">\n");
    let last = cold.log.iter().map(|request| request.ended).fold(cold.seconds, f64::max);
    let mut all: Vec<&Request> = cold.log.iter().collect();
    let begin = |request: &Request| request.connected.unwrap_or(request.asked);
    all.sort_by(|a, b| begin(a).total_cmp(&begin(b)));
    for request in all.iter().take(MOST_REQUESTS) {
        let bar = |from: f64, to: f64, class: &str| {
            (percent(from, last), percent((to - from).max(0.0), last), class.to_owned())
        };
        let mut bars = Vec::new();
        if let Some(connected) = request.connected {
            bars.push(bar(connected, request.asked, "connect"));
        }
        bars.push(bar(request.asked, request.answered, "wait"));
        bars.push(bar(request.answered, request.ended, "receive"));
        let range = request.range.as_ref().map(|range| format!(", {range}")).unwrap_or_default();
        let title = format!(
            "{}{range}, status {}, connection {}, {} to {}",
            request.request,
            request.status,
            request.connection + 1,
            seconds(begin(request)),
            seconds(request.ended),
        );
        html.row(&request.what, &title, &bars, &size(request.bytes));
    }
    if let Some(more) = all.len().checked_sub(MOST_REQUESTS).filter(|more| *more > 0) {
        html.line(format_args!("<p>and {more} more</p>"));
    }
    html.raw("</div>\n");
}

fn paths(html: &mut Html, run: &Run, cold: &Start) {
    let Some(touched) = &run.touched else { return };
    let is_layer = |request: &&Request| request.what.starts_with("layer");
    let layers: u64 = cold.log.iter().filter(is_layer).map(|request| request.bytes).sum();
    let described = cold.bytes - layers;
    let rest = layers.saturating_sub(touched.stored_bytes);
    html.raw("<h2>Bytes by path</h2>\n<p>As they are stored in the layers. The rest is tables of ");
    html.raw(
        "contents, neighbours that were fetched with what was read, and layers that had to be ",
    );
    html.raw("read whole.</p>\n<div class=\"paths\">\n");
    let shown = &touched.paths[..touched.paths.len().min(MOST_PATHS)];
    let more: u64 = touched.paths[shown.len()..].iter().map(|path| path.stored_bytes).sum();
    let largest = shown.iter().map(|path| path.stored_bytes).chain([described, rest, more]).max();
    let mut row = |name: &str, title: &str, bytes: u64, class: &str| {
        // Far below where a double is exact.
        #[allow(clippy::cast_precision_loss)]
        let width = percent(bytes as f64, largest.unwrap_or_default() as f64);
        html.row(name, title, &[(0.0, width, class.to_owned())], &size(bytes));
    };
    row("the rest", "", rest, "theirs");
    row("manifest and config", "", described, "theirs");
    for path in shown {
        let title = format!("{}: {} of the file", path.path, size(path.content_bytes));
        row(&path.path, &title, path.stored_bytes, "ours");
    }
    if touched.paths.len() > shown.len() {
        let name = format!("{} more files", touched.paths.len() - shown.len());
        row(&name, "", more, "ours");
    }
    html.raw("</div>\n");
}

fn runs(html: &mut Html, report: &Report) {
    html.raw("<h2>All runs</h2>\n<div class=\"scroll\"><table><tr>");
    for heading in ["side", "run", "start", "time", "CPU", "memory", "requests", "fetched"] {
        html.line(format_args!("<th>{heading}</th>"));
    }
    html.raw("</tr>\n");
    for side in &report.sides {
        for (number, run) in side.runs.iter().enumerate() {
            for start in &run.starts {
                row_of_run(html, side, number + 1, start);
            }
        }
    }
    html.raw("</table></div>\n<p>");
    for version in report.sides.iter().flat_map(|side| &side.versions) {
        html.line(format_args!("{}<br>", text(version)));
    }
    html.line(format_args!("Manifest <code>{}</code></p>", text(&report.digest)));
}

fn row_of_run(html: &mut Html, side: &Side, run: usize, start: &Start) {
    let kind = match start.kind {
        Kind::Cold => "cold",
        Kind::Second => "second",
        Kind::Warm => "warm",
    };
    let cells: [&dyn Display; 8] = [
        &side.tool.name(),
        &run,
        &kind,
        &seconds(start.seconds),
        &seconds(start.cpu_seconds),
        &size(start.peak_memory),
        &start.requests,
        &size(start.bytes),
    ];
    html.raw("<tr>");
    for cell in cells {
        html.line(format_args!("<td>{cell}</td>"));
    }
    html.raw("</tr>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_images_is_text() {
        assert_eq!(text("<a href=\"x\">&\u{1b}"), "&lt;a href=&quot;x&quot;&gt;&amp;\u{fffd}");
        assert_eq!(percent(1.0, 0.0), 0.0);
    }
}
