//! Ctrl-C as a flag that loops look at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Raised once by SIGINT, SIGTERM or SIGHUP, and for good.
#[derive(Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on these signals end nothing by themselves: whoever listens must look.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupt.0)).context("take over Ctrl-C")?;
        }
        Ok(interrupt)
    }

    pub(crate) fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Sleeps until `deadline`, or less when raised; says whether the deadline was reached.
    pub(crate) fn sleep_until(&self, deadline: Instant) -> bool {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        while !self.raised() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(LOOK_EVERY));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_flag_ends_a_sleep() {
        let interrupt = Interrupt::default();
        assert!(interrupt.sleep_until(Instant::now() + Duration::from_millis(1)));
        interrupt.0.store(true, Ordering::Relaxed);
        assert!(!interrupt.sleep_until(Instant::now() + Duration::from_hours(1)));
    }
}
