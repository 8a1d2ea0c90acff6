//! AWS's clock, as far as its answers tell it. Pure: time is an argument.
//!
//! It decides what is too old to be sent, because ours decides nothing where it is wrong. It is carried on by a clock
//! that nobody sets (`CLOCK_BOOTTIME`): a difference from the wall clock that was right before the wall clock was
//! stepped would be wrong by the whole step after it, and no request would ever be made that could tell.

use std::time::Duration;

/// What the answers have told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServerClock {
    /// Server's Unix time less `CLOCK_BOOTTIME`, in seconds.
    offset: Option<f64>,
}

impl ServerClock {
    /// An answer showed the server's clock `skew` seconds ahead of `wall`, when `boot` had passed since the boot.
    pub fn learn(&mut self, skew: f64, wall: Duration, boot: Duration) {
        self.offset = Some(wall.as_secs_f64() + skew - boot.as_secs_f64());
    }

    /// By how many seconds the server's clock is ahead of `wall`, if any answer has told.
    #[must_use]
    pub fn skew(self, wall: Duration, boot: Duration) -> Option<f64> {
        self.offset
            .map(|offset| boot.as_secs_f64() + offset - wall.as_secs_f64())
    }

    /// Unix seconds by the server's clock; by ours where it is not known.
    #[must_use]
    pub fn now(self, wall: Duration, boot: Duration) -> u64 {
        self.known_now(boot).unwrap_or(wall.as_secs())
    }

    /// Unix seconds by the server's clock, if any answer has told.
    #[must_use]
    pub fn known_now(self, boot: Duration) -> Option<u64> {
        let known = self.offset.map(|offset| boot.as_secs_f64() + offset)?;
        Duration::try_from_secs_f64(known).ok().map(|now| now.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn ours_counts_until_an_answer_came() {
        assert_eq!(ServerClock::default().now(seconds(1000), seconds(5)), 1000);
    }

    #[test]
    fn c10_a_clock_that_is_set_right_after_an_answer_makes_nothing_too_old() {
        let mut clock = ServerClock::default();
        // Ours was 20 days behind.
        clock.learn(20.0 * DAY as f64, seconds(100 * DAY), seconds(50));
        assert_eq!(clock.now(seconds(100 * DAY + 10), seconds(60)), 120 * DAY + 10);
        assert_eq!(
            clock.now(seconds(120 * DAY + 10), seconds(60)),
            120 * DAY + 10,
            "whatever ours says now"
        );
        assert_eq!(
            clock.skew(seconds(120 * DAY + 10), seconds(60)),
            Some(0.0),
            "and it is right again"
        );
    }
}
