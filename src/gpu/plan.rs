//! When the NVML child is started, given up and replaced. Pure: events and time in, steps out.
//!
//! ```text
//!            Start                    Ready message
//! Waiting ----------->  Starting  ------------------>  Running
//!    ^                     | silent for INIT_LIMIT        | every GPU silent for SILENT_LIMIT,
//!    |                     v                              | or a GPU is missing and it is time to look again
//!    |     gone         Leaving  <------------------------+
//!    +-----------------    | still there after KILL_GRACE
//!    +---------------------+  Abandon (counted; no new one while MAX_ABANDONED exist)
//! ```

use std::time::Duration;

/// NVML init may load the driver's state for eight GPUs, which takes seconds where no persistence daemon runs.
pub const INIT_LIMIT: Duration = Duration::from_secs(30);
/// After this long without an answer, init counts as stuck in the status and in `gpu_driver_stuck`.
pub const INIT_SILENCE: Duration = Duration::from_secs(5);
/// All GPUs silent for this long and two beats more: the child is beyond hope. One that answers keeps the
/// child alive, because a new one would have to pass init with the broken GPU, and may not.
pub const SILENT_LIMIT: Duration = Duration::from_secs(10);
/// SIGKILL works within milliseconds, except on a thread in uninterruptible sleep.
pub const KILL_GRACE: Duration = Duration::from_secs(2);
/// Processes that no signal ends hold driver state and memory; more than this many help nobody.
pub const MAX_ABANDONED: u32 = 3;
/// How often a child that lacks a GPU is replaced, to enumerate afresh: the others lose about a second each time.
pub const RECYCLE_INCOMPLETE: Duration = Duration::from_mins(5);
/// The same where there is no GPU at all to disturb.
pub const RECYCLE_EMPTY: Duration = Duration::from_secs(30);
/// First and longest wait before a new child.
pub const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// A child that worked this long has earned a fresh back-off.
const PROVEN: Duration = Duration::from_secs(30);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time. Whoever looks more often gets the same answer.
    Wait(Duration),
    /// Start a child.
    Start,
    /// Close the stream to it, so that it ends by itself; it is replaced to enumerate the GPUs afresh.
    Recycle,
    /// Send SIGKILL.
    Kill,
    /// It survived SIGKILL: leave it and go on without.
    Abandon,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting {
        until: Duration,
    },
    Starting {
        since: Duration,
    },
    Running {
        since: Duration,
        heard: Duration,
    },
    Leaving {
        since: Duration,
        killed: bool,
        recycled: bool,
    },
}

/// What is known about the GPUs when a step is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// GPUs that the driver lists.
    pub listed: usize,
    /// A GPU of this boot is lost, missing or cannot be opened.
    pub incomplete: bool,
    /// Abandoned children that still exist.
    pub abandoned: u32,
}

/// The life of the NVML child.
#[derive(Debug)]
pub struct Plan {
    phase: Phase,
    backoff: Duration,
    silent_limit: Duration,
}

impl Plan {
    /// A plan for a child that says something about every GPU once per `beat`. The first child is started at once.
    #[must_use]
    pub fn new(beat: Duration) -> Self {
        Self {
            phase: Phase::Waiting {
                until: Duration::ZERO,
            },
            backoff: BACKOFF.0,
            silent_limit: SILENT_LIMIT + 2 * beat,
        }
    }

    /// What to do at `now` (monotonic). The step counts as done when it is returned.
    pub fn step(&mut self, observed: Observed, now: Duration) -> Step {
        match self.phase {
            Phase::Waiting { until } => self.wait_or_start(until, observed, now),
            Phase::Starting { since } => self.kill_at(since + INIT_LIMIT, now),
            Phase::Running { since, heard } => {
                if let Some(at) = recycle_at(observed, since)
                    && now >= at
                {
                    self.phase = Phase::Leaving {
                        since: now,
                        killed: false,
                        recycled: true,
                    };
                    return Step::Recycle;
                }
                if observed.listed == 0 {
                    return Step::Wait(since + RECYCLE_EMPTY);
                }
                self.kill_at(heard + self.silent_limit, now)
            }
            Phase::Leaving { since, killed, .. } => self.leave(since, killed, now),
        }
    }

    fn wait_or_start(&mut self, until: Duration, observed: Observed, now: Duration) -> Step {
        if observed.abandoned >= MAX_ABANDONED {
            return Step::Wait(now + BACKOFF.1);
        }
        if now < until {
            return Step::Wait(until);
        }
        self.phase = Phase::Starting { since: now };
        Step::Start
    }

    fn kill_at(&mut self, deadline: Duration, now: Duration) -> Step {
        if now < deadline {
            return Step::Wait(deadline);
        }
        self.forgive(now);
        self.phase = Phase::Leaving {
            since: now,
            killed: true,
            recycled: false,
        };
        Step::Kill
    }

    fn leave(&mut self, since: Duration, killed: bool, now: Duration) -> Step {
        if now < since + KILL_GRACE {
            return Step::Wait(since + KILL_GRACE);
        }
        if killed {
            self.back_off(now);
            Step::Abandon
        } else {
            self.phase = Phase::Leaving {
                since: now,
                killed: true,
                recycled: false,
            };
            Step::Kill
        }
    }

    /// The child has said its last word and should end by itself now; it is killed when it does not.
    pub fn leaving(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Leaving { .. }) {
            self.forgive(now);
            self.phase = Phase::Leaving {
                since: now,
                killed: false,
                recycled: false,
            };
        }
    }

    /// The child said that NVML works.
    pub fn ready(&mut self, now: Duration) {
        self.phase = Phase::Running {
            since: now,
            heard: now,
        };
    }

    /// A GPU was read.
    pub fn heard(&mut self, now: Duration) {
        if let Phase::Running { heard, .. } = &mut self.phase {
            *heard = now;
        }
    }

    /// The child is gone, or could not be started. Returns how long to wait before the next.
    pub fn gone(&mut self, now: Duration) -> Duration {
        if matches!(self.phase, Phase::Leaving { recycled: true, .. }) {
            self.phase = Phase::Waiting { until: now };
            return Duration::ZERO;
        }
        self.forgive(now);
        self.back_off(now)
    }

    fn forgive(&mut self, now: Duration) {
        if let Phase::Running { since, .. } = self.phase
            && now.saturating_sub(since) >= PROVEN
        {
            self.backoff = BACKOFF.0;
        }
    }

    /// Whether init has been silent for so long that the driver counts as stuck.
    #[must_use]
    pub fn init_is_stuck(&self, now: Duration) -> bool {
        matches!(self.phase, Phase::Starting { since } if now.saturating_sub(since) >= INIT_SILENCE)
    }

    fn back_off(&mut self, now: Duration) -> Duration {
        let wait = self.backoff;
        self.phase = Phase::Waiting { until: now + wait };
        self.backoff = (2 * wait).min(BACKOFF.1);
        wait
    }
}

fn recycle_at(observed: Observed, since: Duration) -> Option<Duration> {
    if observed.listed == 0 {
        Some(since + RECYCLE_EMPTY)
    } else {
        observed.incomplete.then(|| since + RECYCLE_INCOMPLETE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Observed = Observed {
        listed: 4,
        incomplete: false,
        abandoned: 0,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn running(since: u64) -> Plan {
        let mut plan = Plan::new(at(1));
        assert_eq!(plan.step(WELL, at(since)), Step::Start);
        plan.ready(at(since));
        plan
    }

    #[test]
    fn the_first_child_is_started_at_once_and_failures_back_off_to_a_cap() {
        let mut plan = Plan::new(at(1));
        let mut now = at(100);
        let mut waits = Vec::new();
        for _ in 0..7 {
            assert_eq!(plan.step(WELL, now), Step::Start);
            let wait = plan.gone(now);
            assert_eq!(plan.step(WELL, now), Step::Wait(now + wait));
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 15, 15, 15]);
    }

    #[test]
    fn a_child_that_worked_for_long_is_replaced_soon() {
        let mut plan = running(0);
        plan.gone(at(0));
        assert_eq!(plan.step(WELL, at(1)), Step::Start);
        plan.ready(at(1));
        assert_eq!(plan.gone(at(10)), at(2), "nine seconds prove nothing");
        assert_eq!(plan.step(WELL, at(12)), Step::Start);
        plan.ready(at(12));
        assert_eq!(plan.gone(at(60)), at(1));
    }

    #[test]
    fn a_child_that_hung_after_long_work_is_replaced_soon() {
        let mut plan = running(0);
        for _ in 0..4 {
            plan.gone(at(0));
            plan.phase = Phase::Running {
                since: at(0),
                heard: at(0),
            };
        }
        plan.heard(at(100));
        assert_eq!(plan.step(WELL, at(112)), Step::Kill);
        assert_eq!(plan.gone(at(112)), at(1));
    }

    #[test]
    fn g11_a_hung_init_is_shown_then_killed() {
        let mut plan = Plan::new(at(1));
        plan.step(WELL, at(0));
        assert!(!plan.init_is_stuck(at(4)));
        assert!(plan.init_is_stuck(at(5)));
        assert_eq!(plan.step(WELL, at(29)), Step::Wait(at(30)));
        assert_eq!(plan.step(WELL, at(30)), Step::Kill);
        assert_eq!(plan.gone(at(30)), at(1));
    }

    #[test]
    fn g10_a_call_that_hangs_for_eight_seconds_costs_no_child() {
        let mut plan = running(0);
        plan.heard(at(100));
        assert_eq!(plan.step(WELL, at(108)), Step::Wait(at(112)));
        plan.heard(at(108));
        assert_eq!(plan.step(WELL, at(112)), Step::Wait(at(120)));
    }

    #[test]
    fn g10_a_child_in_which_every_gpu_is_silent_is_killed_and_one_that_survives_is_abandoned() {
        let mut plan = running(0);
        assert_eq!(plan.step(WELL, at(12)), Step::Kill);
        assert_eq!(plan.step(WELL, at(13)), Step::Wait(at(14)));
        assert_eq!(plan.step(WELL, at(14)), Step::Abandon);
        assert_eq!(plan.step(WELL, at(14)), Step::Wait(at(15)));
        assert_eq!(plan.step(WELL, at(15)), Step::Start);
    }

    #[test]
    fn g10_the_number_of_abandoned_children_is_bounded() {
        let mut plan = Plan::new(at(1));
        let full = Observed {
            abandoned: MAX_ABANDONED,
            ..WELL
        };
        assert_eq!(plan.step(full, at(50)), Step::Wait(at(65)));
        assert_eq!(plan.step(WELL, at(65)), Step::Start);
    }

    #[test]
    fn a_missing_gpu_is_looked_for_now_and_then_without_killing() {
        let mut plan = running(0);
        let incomplete = Observed {
            incomplete: true,
            ..WELL
        };
        plan.heard(at(299));
        assert!(matches!(plan.step(incomplete, at(299)), Step::Wait(_)));
        assert_eq!(plan.step(incomplete, at(300)), Step::Recycle);
        assert_eq!(plan.gone(at(300)), Duration::ZERO);
        assert_eq!(plan.step(incomplete, at(300)), Step::Start);
    }

    #[test]
    fn a_child_that_gave_up_gets_time_to_end_and_the_next_one_waits() {
        let mut plan = Plan::new(at(1));
        plan.step(WELL, at(0));
        plan.leaving(at(0));
        assert_eq!(plan.step(WELL, at(1)), Step::Wait(at(2)));
        assert_eq!(plan.gone(at(1)), at(1));
        assert_eq!(plan.step(WELL, at(1)), Step::Wait(at(2)));
    }

    #[test]
    fn a_child_that_will_not_leave_is_killed() {
        let mut plan = running(0);
        let none = Observed { listed: 0, ..WELL };
        assert_eq!(plan.step(none, at(1)), Step::Wait(at(30)));
        assert_eq!(plan.step(none, at(30)), Step::Recycle);
        assert_eq!(plan.step(none, at(32)), Step::Kill);
        assert_eq!(plan.step(none, at(34)), Step::Abandon);
    }
}
