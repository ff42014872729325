//! What the servers of mounts have read, for people and for Prometheus.

use kfs_fs::content::Stats;
use kfs_fs::mount::{Mount, Mounts};
use serde::Serialize;

use crate::commands::{ListFormat, print, print_json};
use crate::report::Failure;
use crate::table::{Table, size};

/// Name, type, meaning, and where the value is.
type Metric = (&'static str, &'static str, &'static str, fn(&Stats) -> u64);

const METRICS: [Metric; 11] = [
    ("bytes_fetched_total", "counter", "Bytes that registries sent.", |s| s.bytes_fetched),
    ("requests_total", "counter", "Ranged reads of registries.", |s| s.requests),
    ("memory_hits_total", "counter", "Reads of spans answered from memory.", |s| s.memory_hits),
    ("disk_hits_total", "counter", "Reads of spans answered from the cache.", |s| s.disk_hits),
    ("misses_total", "counter", "Reads that had to wait for a fetch.", |s| s.misses),
    ("copied_bytes_total", "counter", "Bytes found in other layers.", |s| s.bytes_copied),
    ("errors_total", "counter", "Fetches that failed, reads out of time.", |s| s.errors),
    ("damaged_total", "counter", "Damaged places found in the cache.", |s| s.damaged),
    ("uncached_total", "counter", "Spans that could not be kept.", |s| s.uncached),
    ("in_flight", "gauge", "Fetches under way.", |s| s.in_flight),
    ("waiting", "gauge", "Reads that wait for them.", |s| s.waiting),
];

#[derive(Serialize)]
struct WithStats<'a> {
    #[serde(flatten)]
    mount: &'a Mount,
    /// None before the server said anything.
    stats: Option<Stats>,
}

pub(super) fn show(mounts: &Mounts, list: &[Mount], format: ListFormat) -> Result<(), Failure> {
    let with = |mount| WithStats { mount, stats: mounts.stats(&mount.state) };
    let list: Vec<WithStats<'_>> = list.iter().map(with).collect();
    match format {
        ListFormat::Json => print_json(&list),
        ListFormat::Table => print(&table(&list).to_string()),
    }
}

fn table(list: &[WithStats<'_>]) -> Table {
    let mut table = Table::new(&[
        "IMAGE",
        "MOUNTPOINT",
        "FETCHED",
        "REQUESTS",
        "HITS",
        "MISSES",
        "IN FLIGHT",
        "ERRORS",
    ]);
    for WithStats { mount, stats } in list {
        let stats = stats.unwrap_or_default();
        table.row([
            mount.state.image.clone(),
            mount.state.mountpoint.display().to_string(),
            size(stats.bytes_fetched),
            stats.requests.to_string(),
            (stats.memory_hits + stats.disk_hits).to_string(),
            stats.misses.to_string(),
            stats.in_flight.to_string(),
            stats.errors.to_string(),
        ]);
    }
    table
}

/// The text format of Prometheus, version 0.0.4.
pub(super) fn prometheus(mounts: &Mounts, list: &[Mount]) -> Result<(), Failure> {
    let stats = |mount: &Mount| mounts.stats(&mount.state).unwrap_or_default();
    let labels = |mount: &Mount| {
        let mountpoint = mount.state.mountpoint.display().to_string();
        format!("image=\"{}\",mountpoint=\"{}\"", label(&mount.state.image), label(&mountpoint))
    };
    let values: Vec<_> = list.iter().map(|mount| (labels(mount), stats(mount))).collect();
    print(&text(&values))
}

fn text(values: &[(String, Stats)]) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in METRICS {
        text += &format!("# HELP kfs_{name} {help}\n# TYPE kfs_{name} {kind}\n");
        for (labels, stats) in values {
            text += &format!("kfs_{name}{{{labels}}} {}\n", value(stats));
        }
    }
    text
}

/// A label's value as it stands between quotation marks.
fn label(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_has_a_line_for_each_mount() {
        let stats = Stats { bytes_fetched: 7, waiting: 2, ..Stats::default() };
        let labels = format!("image=\"{}\"", label("a\"b\\c\nd"));
        let text = text(&[(labels, stats)]);
        assert!(text.contains("# TYPE kfs_bytes_fetched_total counter\n"));
        assert!(text.contains("kfs_bytes_fetched_total{image=\"a\\\"b\\\\c\\nd\"} 7\n"));
        assert!(text.contains("kfs_waiting{image=\"a\\\"b\\\\c\\nd\"} 2\n"));
        assert_eq!(text.lines().count(), 3 * METRICS.len());
    }
}
