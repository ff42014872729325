//! One clock for all processes of a measurement.

use nix::time::{ClockId, clock_gettime};

/// Microseconds of `CLOCK_MONOTONIC`: the same in all processes of a machine, and never set.
pub type Micros = u64;

/// The time now.
pub fn now() -> Micros {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    let part = |part: i64| u64::try_from(part).unwrap_or_default();
    part(time.tv_sec()) * 1_000_000 + part(time.tv_nsec()) / 1000
}
