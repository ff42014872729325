//! `kfs bench fs`: what a file system takes to be walked and read, beside the same tree elsewhere.
//!
//! Each operation is done twice: cold, in a place that is fresh and with an empty page cache, and
//! again at once. All places are read in the same way, in the order in which the first one lists
//! its files.

mod operation;

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use operation::Operation;

use crate::MeasureError;
use crate::machine::{self, Machine};
use operation::Plan;

/// A tree to measure.
#[derive(Debug)]
pub struct Place<'a> {
    /// What it is called.
    pub name: String,
    /// Its root.
    pub path: PathBuf,
    /// Makes it as if nobody had used it; the page cache is dropped after that.
    pub renew: Option<&'a dyn Renew>,
}

/// How a place is made as if nobody had used it.
pub trait Renew: std::fmt::Debug {
    /// Lets go of it and takes it up again.
    fn renew(&self) -> Result<(), MeasureError>;
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What it was measured on.
    pub machine: Machine,
    /// Whether the page cache was dropped before what is cold.
    pub caches_dropped: bool,
    /// Entries of the tree.
    pub entries: usize,
    /// Directories and files that this user may not read: they are left out.
    pub left_out: usize,
    /// Operations, each with a figure a place.
    pub rows: Vec<Row>,
}

/// An operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What was done.
    pub operation: Operation,
    /// How often: entries, or reads.
    pub count: u64,
    /// How many bytes were read.
    pub bytes: u64,
    /// What it took, in the order of the places.
    pub places: Vec<Times>,
}

/// What an operation took, in seconds, run by run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// Name of the place.
    pub place: String,
    /// The first time.
    pub cold: Vec<f64>,
    /// At once again.
    pub warm: Vec<f64>,
}

/// The median; of an even number the larger one, as for cold starts.
pub fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Measures `runs` times, the places taking turns. `check` fails when the user wants an end.
pub fn measure(
    places: &[Place<'_>],
    runs: usize,
    drop_cache: bool,
    check: &dyn Fn() -> Result<(), MeasureError>,
) -> Result<Report, MeasureError> {
    let plan = Plan::new(&places[0].path)?;
    let mut rows: Vec<Row> = Operation::ALL.into_iter().map(|it| Row::new(it, places)).collect();
    for _ in 0..runs {
        for row in &mut rows {
            for (number, place) in places.iter().enumerate() {
                if let Some(renew) = place.renew {
                    renew.renew()?;
                }
                if drop_cache {
                    machine::drop_caches()?;
                }
                for warm in [false, true] {
                    let took = row.time(&plan, &place.path, check)?;
                    let times = &mut row.places[number];
                    if warm { times.warm.push(took) } else { times.cold.push(took) }
                }
            }
        }
    }
    Ok(Report {
        machine: Machine::this(),
        caches_dropped: drop_cache,
        entries: plan.entries(),
        left_out: plan.left_out(),
        rows,
    })
}

impl Row {
    fn new(operation: Operation, places: &[Place<'_>]) -> Self {
        let times = |place: &Place<'_>| Times { place: place.name.clone(), ..Times::default() };
        Self { operation, count: 0, bytes: 0, places: places.iter().map(times).collect() }
    }

    fn time(
        &mut self,
        plan: &Plan,
        root: &Path,
        check: &dyn Fn() -> Result<(), MeasureError>,
    ) -> Result<f64, MeasureError> {
        let began = Instant::now();
        let done = plan.run(self.operation, root, check)?;
        let took = began.elapsed().as_secs_f64();
        (self.count, self.bytes) = (done.count, done.bytes);
        Ok(took)
    }
}
