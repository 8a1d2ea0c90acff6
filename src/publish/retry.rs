//! When to send: the pause after a failure, the offset within the minute, the spacing of the backlog. Pure: the caller
//! sleeps.
//!
//! Everything is spread by a seed that differs from node to node, because all nodes of an account share one quota,
//! and a thousand nodes that came up together fail and recover together.

use std::time::Duration;

use fastrand::Rng;

/// No pause is shorter: a request that fails at once is not sent in a tight loop.
const SHORTEST: Duration = Duration::from_millis(100);

/// No ceiling of a pause is lower.
const SHORTEST_CEILING: Duration = Duration::from_secs(1);

/// The backlog is sent at about one request a second.
const BACKLOG_SPACING: Duration = Duration::from_secs(1);
/// However often CloudWatch throttles, a backlog request goes out about once a minute.
const LONGEST_SPACING: Duration = Duration::from_mins(1);

/// When windows are sent.
#[derive(Clone, Copy, Debug)]
pub struct Pacing {
    /// The newest window first, backlog spaced; else the oldest first, at once.
    pub live_first: bool,
    /// Each node has a place of its own in the first sixth of the interval.
    pub is_spread: bool,
    /// Nothing is sent before the instance is known, not even on shutdown.
    pub needs_identity: bool,
    /// How long the last windows may take on shutdown; `None` leaves the bound to the caller.
    pub stop_limit: Option<Duration>,
}

impl Pacing {
    /// For lines on a pipe: in order, at once.
    pub const STDOUT: Self = Self {
        live_first: false,
        is_spread: false,
        needs_identity: false,
        stop_limit: None,
    };

    /// For a service that a whole account shares.
    pub const CLOUDWATCH: Self = Self {
        live_first: true,
        is_spread: true,
        needs_identity: true,
        stop_limit: Some(Duration::from_secs(6)),
    };
}

/// How long to wait before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// What passes by itself, such as a network that is down: up to a minute.
    Fast,
    /// What somebody has to mend, such as a permission that is missing: up to five minutes.
    Slow,
}

impl Pace {
    /// The ceilings of the first pause and of every pause.
    fn ceilings(self) -> (Duration, Duration) {
        match self {
            Self::Fast => (SHORTEST_CEILING, Duration::from_mins(1)),
            Self::Slow => (Duration::from_secs(30), Duration::from_mins(5)),
        }
    }
}

/// Capped exponential back-off with full jitter: a random pause between nothing and a ceiling that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    longest: Duration,
    failures: u32,
    pace: Pace,
    jitter: Rng,
}

impl Backoff {
    /// No failure so far. What passes by itself is tried again within an `interval`, so that live data resumes within
    /// one.
    #[must_use]
    pub fn new(interval: Duration, jitter: Rng) -> Self {
        Self {
            longest: interval.max(SHORTEST_CEILING),
            failures: 0,
            pace: Pace::Fast,
            jitter,
        }
    }

    /// The pause after one more failure.
    pub fn pause(&mut self, pace: Pace) -> Duration {
        if pace != self.pace {
            // Another kind of failure: ten attempts at a dead network say nothing about a permission.
            self.failures = 0;
            self.pace = pace;
        }
        let (first, mut longest) = pace.ceilings();
        if pace == Pace::Fast {
            longest = longest.min(self.longest);
        }
        let ceiling = first.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(self.jitter.f64()).max(SHORTEST)
    }

    /// Something was accepted: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The time between two requests of the backlog.
#[derive(Clone, Debug)]
pub struct Spacing {
    at_least: Duration,
    jitter: Rng,
}

impl Spacing {
    /// One request a second.
    #[must_use]
    pub fn new(jitter: Rng) -> Self {
        Self {
            at_least: BACKLOG_SPACING,
            jitter,
        }
    }

    /// The pause before the next request: the spacing and up to half of it more.
    pub fn pause(&mut self) -> Duration {
        self.at_least.mul_f64(1.0 + self.jitter.f64() / 2.0)
    }

    /// CloudWatch throttles: half the rate.
    pub fn throttled(&mut self) {
        self.at_least = (self.at_least * 2).min(LONGEST_SPACING);
    }

    /// CloudWatch accepts: a tenth faster, back to a request a second.
    pub fn accepted(&mut self) {
        self.at_least = self.at_least.mul_f64(0.9).max(BACKLOG_SPACING);
    }
}

/// A number that stands for a node, the same on every start (FNV-1a).
#[must_use]
pub fn seed(node: &str) -> u64 {
    node.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How long after the end of a window a node publishes it: somewhere in the first sixth of the interval, the same
/// place every time.
#[must_use]
pub fn offset(seed: u64, interval: Duration) -> Duration {
    (interval / 6).mul_f64(Rng::with_seed(seed).f64())
}

/// What is left of the offset of a window that ended at `end`, at `wall`, both since the Unix epoch. Never longer
/// than the offset, whatever the wall clock says.
#[must_use]
pub fn offset_left(offset: Duration, end: Duration, wall: Duration) -> Duration {
    (end + offset).saturating_sub(wall).min(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn pauses(seed: u64, pace: Pace, count: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(MINUTE, Rng::with_seed(seed));
        (0..count).map(|_| backoff.pause(pace)).collect()
    }

    #[test]
    fn c04_pauses_stay_below_a_ceiling_that_doubles_to_its_cap() {
        for (pace, ceilings) in [
            (Pace::Fast, [1, 2, 4, 8, 16, 32, 60, 60]),
            (Pace::Slow, [30, 60, 120, 240, 300, 300, 300, 300]),
        ] {
            for seed in 0..200 {
                for (pause, ceiling) in pauses(seed, pace, 8).into_iter().zip(ceilings) {
                    assert!(
                        pause >= SHORTEST && pause <= Duration::from_secs(ceiling),
                        "{pause:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn c04_the_jitter_is_full() {
        let firsts: Vec<Duration> = (0..1000)
            .map(|node| pauses(seed(&format!("i-{node}")), Pace::Slow, 5)[4])
            .collect();
        let below_half = firsts
            .iter()
            .filter(|pause| **pause < Duration::from_secs(150))
            .count();
        assert!((400..600).contains(&below_half), "{below_half} of 1000");
    }

    #[test]
    fn c04_two_nodes_never_synchronise() {
        let (one, other) = (
            pauses(seed("i-1"), Pace::Fast, 100),
            pauses(seed("i-2"), Pace::Fast, 100),
        );
        let mut meetings = 0;
        let (mut a, mut b) = (Duration::ZERO, Duration::ZERO);
        for (x, y) in one.into_iter().zip(other) {
            a += x;
            b += y;
            meetings += u32::from(a.abs_diff(b) < Duration::from_millis(200));
        }
        assert!(meetings <= 5, "{meetings} of 100 attempts at the same time");
    }

    #[test]
    fn a_success_starts_the_backoff_again() {
        let mut backoff = Backoff::new(MINUTE, Rng::with_seed(1));
        for _ in 0..50 {
            backoff.pause(Pace::Fast);
        }
        backoff.reset();
        assert!(backoff.pause(Pace::Fast) <= Duration::from_secs(1));
    }

    #[test]
    fn c05_the_backlog_takes_a_second_a_request_and_half_the_rate_when_throttled() {
        let mut spacing = Spacing::new(Rng::with_seed(7));
        let second = Duration::from_secs(1);
        assert!((second..second * 3 / 2).contains(&spacing.pause()));
        spacing.throttled();
        assert!((second * 2..second * 3).contains(&spacing.pause()));
        for _ in 0..20 {
            spacing.throttled();
        }
        assert!(spacing.pause() < MINUTE * 3 / 2);
        for _ in 0..100 {
            spacing.accepted();
        }
        assert!(spacing.pause() < second * 3 / 2);
    }

    #[test]
    fn the_offset_is_the_nodes_own_and_in_the_first_sixth() {
        let offsets: Vec<Duration> = (0..600)
            .map(|n| offset(seed(&format!("i-{n:017x}")), MINUTE))
            .collect();
        assert!(offsets.iter().all(|offset| *offset < Duration::from_secs(10)));
        for second in 0..10_u64 {
            let within = offsets.iter().filter(|offset| offset.as_secs() == second).count();
            assert!((30..90).contains(&within), "{within} of 600 in second {second}");
        }
        assert_eq!(offset(seed("i-1"), MINUTE), offset(seed("i-1"), MINUTE));
    }

    #[test]
    fn c10_what_is_left_of_the_offset_survives_any_clock() {
        let second = Duration::from_secs;
        let left = |wall| offset_left(second(7), second(1000), second(wall));
        assert_eq!(left(1000), second(7));
        assert_eq!(left(1005), second(2));
        assert_eq!(left(1100), Duration::ZERO, "late");
        assert_eq!(left(900), second(7), "the clock was set back");
    }
}
