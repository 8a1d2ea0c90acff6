//! Which window an instant belongs to, and when the next sample is due.
//!
//! Windows are aligned to the wall clock, because CloudWatch's periods are; the cadence comes from the monotonic
//! clock, because the wall clock may be stepped, and jumps over a suspend. The rules for the difference:
//!
//! * a step **forward** (and the time a suspended machine missed) closes the open window where it stands and
//!   opens the one that the new time belongs to: nothing is stamped with an hour in which it was not sampled;
//! * a step **back** by less than an interval keeps the open window open until the wall clock has passed its end,
//!   so that no window is published twice and none lasts two intervals;
//! * a step back by an interval or more closes the open window and follows the new time. An hour that the clock
//!   visits twice is published twice; CloudWatch merges the two, and gauges make that harmless.
//!
//! Pure: time is an argument.

use std::time::Duration;

use rustix::time::ClockId;

/// How far the wall clock may move against the monotonic clock between two looks before it counts as stepped.
/// NTP slews by at most 0.5 ms per second, so that a slewing clock stays far below.
pub const STEP_THRESHOLD: Duration = Duration::from_millis(500);

/// What the wall clock says about the window that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// The instant belongs to the open window.
    Stay,
    /// The open window is over; the instant belongs to the window that starts at this Unix second.
    Roll(u64),
}

/// The start, in Unix seconds, of the window that holds `wall` (time since the Unix epoch).
#[must_use]
pub fn window_start(wall: Duration, interval: Duration) -> u64 {
    let seconds = interval.as_secs().max(1);
    wall.as_secs() / seconds * seconds
}

/// Where an instant belongs while the window that starts at `open` is open.
#[must_use]
pub fn place(open: u64, wall: Duration, interval: Duration) -> Placement {
    let start = window_start(wall, interval);
    let stepped_back_a_little = start < open && Duration::from_secs(open).saturating_sub(wall) < interval;
    if start == open || stepped_back_a_little {
        Placement::Stay
    } else {
        Placement::Roll(start)
    }
}

/// Time from `wall` until the next instant that lies `phase` after a multiple of `interval`. Never zero.
///
/// Samples are taken off the window's edges (a phase of a tenth or a half of the interval): an NTP slew of a
/// millisecond must not move a sample into the neighbouring window.
#[must_use]
pub fn until_next(wall: Duration, interval: Duration, phase: Duration) -> Duration {
    let interval_ns = interval.as_nanos().max(1);
    let since = (wall.as_nanos() + interval_ns - phase.as_nanos() % interval_ns) % interval_ns;
    let left = u64::try_from(interval_ns - since).unwrap_or(u64::MAX);
    Duration::from_nanos(left)
}

/// Both clocks, read at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instants {
    /// Time since the Unix epoch.
    pub wall: Duration,
    /// `CLOCK_MONOTONIC`: never stepped, stands still while the machine is suspended.
    pub monotonic: Duration,
}

impl Instants {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        Self {
            wall: wall_now(),
            monotonic: monotonic_now(),
        }
    }

    /// By how many seconds the wall clock has been moved since `earlier`; `None` below [`STEP_THRESHOLD`].
    #[must_use]
    pub fn step_since(self, earlier: Self) -> Option<f64> {
        let wall = self.wall.as_secs_f64() - earlier.wall.as_secs_f64();
        let monotonic = self.monotonic.as_secs_f64() - earlier.monotonic.as_secs_f64();
        let step = wall - monotonic;
        (step.abs() >= STEP_THRESHOLD.as_secs_f64()).then_some(step)
    }
}

/// Time since the Unix epoch; zero on a clock set before 1970.
#[must_use]
pub fn wall_now() -> Duration {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// `CLOCK_MONOTONIC`, the same in every process of the machine.
#[must_use]
pub fn monotonic_now() -> Duration {
    read(ClockId::Monotonic)
}

/// `CLOCK_BOOTTIME`: never stepped, goes on while the machine is suspended.
#[must_use]
pub fn boot_now() -> Duration {
    read(ClockId::Boottime)
}

fn read(clock: ClockId) -> Duration {
    let now = rustix::time::clock_gettime(clock);
    Duration::new(
        now.tv_sec.try_into().unwrap_or(0),
        now.tv_nsec.try_into().unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn windows_start_on_multiples_of_the_interval() {
        assert_eq!(window_start(at(119.999), MINUTE), 60);
        assert_eq!(window_start(at(120.0), MINUTE), 120);
        assert_eq!(window_start(at(7.9), Duration::from_secs(5)), 5);
    }

    #[test]
    fn a_window_ends_at_its_end() {
        assert_eq!(place(60, at(60.0), MINUTE), Placement::Stay);
        assert_eq!(place(60, at(119.9), MINUTE), Placement::Stay);
        assert_eq!(place(60, at(120.0), MINUTE), Placement::Roll(120));
    }

    #[test]
    fn g23_a_step_forward_and_a_suspend_close_the_window_where_it_stands() {
        assert_eq!(place(60, at(3_661.0), MINUTE), Placement::Roll(3_660));
    }

    #[test]
    fn g23_a_small_step_back_publishes_no_window_twice() {
        assert_eq!(place(120, at(119.5), MINUTE), Placement::Stay);
        assert_eq!(place(120, at(60.5), MINUTE), Placement::Stay);
        assert_eq!(place(120, at(60.0), MINUTE), Placement::Roll(60));
    }

    #[test]
    fn g23_a_large_step_back_follows_the_new_time_at_once() {
        assert_eq!(place(7_200, at(3_601.0), MINUTE), Placement::Roll(3_600));
    }

    #[test]
    fn the_next_sample_lies_on_its_phase_and_in_the_future() {
        let second = Duration::from_secs(1);
        let tenth = Duration::from_millis(100);
        assert_eq!(until_next(at(10.0), second, tenth), tenth);
        assert_eq!(until_next(at(10.1), second, tenth), second);
        assert_eq!(until_next(at(10.5), second, tenth), Duration::from_millis(600));
        assert_eq!(until_next(at(0.0), second, Duration::ZERO), second);
    }

    #[test]
    fn g23_steps_are_told_from_slewing() {
        let before = Instants {
            wall: at(1000.0),
            monotonic: at(50.0),
        };
        let slewed = Instants {
            wall: at(1001.0005),
            monotonic: at(51.0),
        };
        let stepped = Instants {
            wall: at(997.0),
            monotonic: at(51.0),
        };
        assert_eq!(slewed.step_since(before), None);
        assert_eq!(stepped.step_since(before), Some(-4.0));
    }
}
