//! How soon something that did not help is done again. Pure.

use std::time::Duration;

/// The first and the longest pause.
const BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// What has worked for so long has earned a short pause.
const PROVEN: Duration = Duration::from_mins(1);

/// A pause that doubles with every attempt. The first attempt is due at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pause {
    due: Duration,
    last: Duration,
}

impl Pause {
    /// Whether the next attempt may be made.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// An attempt is made.
    pub(super) fn take(&mut self, now: Duration) {
        self.last = (2 * self.last).clamp(BOUNDS.0, BOUNDS.1);
        self.due = now + self.last;
    }

    /// It has worked since then.
    pub(super) fn forgive(&mut self, since: Duration, now: Duration) {
        if now.saturating_sub(since) >= PROVEN {
            *self = Self::default();
        }
    }
}
