//! Time: the wall clock in microseconds, and the time line of a scenario.
//!
//! Everything a scenario says is relative to its epoch, a wall-clock instant, so that a process that starts later
//! joins the time line where it is. NVML stamps its samples with the wall clock as well.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, the unit of NVML's time stamps.
pub(crate) fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds from `epoch_us` to `at_us`, negative before the epoch.
pub(crate) fn ms_between(epoch_us: u64, at_us: u64) -> f64 {
    if at_us >= epoch_us {
        (at_us - epoch_us) as f64 / 1e3
    } else {
        -((epoch_us - at_us) as f64) / 1e3
    }
}
