//! Rates and differences from the driver's running totals.
//!
//! A total that goes back (driver reloaded, GPU reset, clock stepped) is a new beginning: it yields no value for
//! that reading, never a negative one. Totals survive a restart of the child, so that what happened in between
//! is counted.

use std::sync::Arc;
use std::time::Duration;

use super::GpuSample;
use super::wire::{Reading, Throttle};

/// What must be remembered of a GPU's reading to derive the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    throttle: Option<(Duration, [Option<u64>; 4])>,
    ecc_uncorrected: Option<u64>,
}

impl Totals {
    /// The sample that `reading` makes, given the one before.
    pub fn derive(&mut self, number: Arc<str>, reading: &Reading) -> GpuSample {
        GpuSample {
            number,
            utilization: reading.utilization.clone(),
            memory: reading.memory,
            power_watts: reading
                .power_milliwatts
                .map(|milliwatts| milliwatts as f64 / 1000.0),
            temperature_celsius: reading.temperature_celsius.map(|celsius| celsius as f64),
            sm_clock_mhz: reading.sm_clock_mhz,
            throttled_percent: self.throttled_percent(reading),
            ecc_uncorrected: self.ecc_uncorrected(reading.ecc_uncorrected_total),
            processes: reading.processes.clone(),
        }
    }

    fn throttled_percent(&mut self, reading: &Reading) -> Option<f64> {
        let totals = match reading.throttle? {
            Throttle::Now(throttled) => return Some(if throttled { 100.0 } else { 0.0 }),
            Throttle::Totals(totals) => totals,
        };
        let (before_at, before) = self.throttle.replace((reading.at, totals))?;
        let elapsed_ns = reading.at.checked_sub(before_at)?.as_nanos() as f64;
        let mut longest_ns = None;
        for (now, before) in totals.into_iter().zip(before) {
            // Only what both readings have: a total that was absent for once has not grown from zero.
            if let (Some(now), Some(before)) = (now, before) {
                longest_ns = longest_ns.max(Some(now.checked_sub(before)?));
            }
        }
        let longest_ns = longest_ns?;
        // The driver's clock is not ours: a GPU that was held back all the time may show a little more.
        (elapsed_ns > 0.0).then(|| (100.0 * longest_ns as f64 / elapsed_ns).min(100.0))
    }

    fn ecc_uncorrected(&mut self, total: Option<u64>) -> Option<u64> {
        let total = total?;
        let before = self.ecc_uncorrected.replace(total)?;
        total.checked_sub(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at_ms: u64, totals: [u64; 4], ecc: u64) -> Reading {
        let mut reading = Reading::new("GPU-1".into(), Duration::from_millis(at_ms));
        reading.throttle = Some(Throttle::Totals(totals.map(Some)));
        reading.ecc_uncorrected_total = Some(ecc);
        reading
    }

    fn derive(totals: &mut Totals, reading: &Reading) -> (Option<f64>, Option<u64>) {
        let sample = totals.derive("0".into(), reading);
        (sample.throttled_percent, sample.ecc_uncorrected)
    }

    #[test]
    fn the_first_reading_is_where_counting_starts() {
        assert_eq!(
            derive(&mut Totals::default(), &reading(0, [5, 5, 5, 5], 3)),
            (None, None)
        );
    }

    #[test]
    fn throttled_time_is_the_longest_of_the_reasons() {
        let mut totals = Totals::default();
        derive(&mut totals, &reading(0, [0, 0, 0, 0], 0));
        let quarter = 250_000_000;
        assert_eq!(
            derive(&mut totals, &reading(1000, [quarter, 0, 1, 0], 2)),
            (Some(25.0), Some(2))
        );
        assert_eq!(
            derive(&mut totals, &reading(2000, [quarter, 0, 1, 2_000_000_000], 2)),
            (Some(100.0), Some(0))
        );
    }

    #[test]
    fn g23_totals_that_go_back_yield_nothing_once() {
        let mut totals = Totals::default();
        derive(&mut totals, &reading(0, [900; 4], 7));
        assert_eq!(derive(&mut totals, &reading(1000, [0; 4], 1)), (None, None));
        assert_eq!(
            derive(&mut totals, &reading(2000, [0; 4], 1)),
            (Some(0.0), Some(0))
        );
    }

    #[test]
    fn a_total_that_was_absent_for_once_has_not_grown_from_zero() {
        let mut totals = Totals::default();
        derive(&mut totals, &reading(0, [0, 5_000_000_000, 0, 0], 0));
        let mut without = reading(1000, [0; 4], 0);
        without.throttle = Some(Throttle::Totals([Some(0), None, Some(0), Some(0)]));
        assert_eq!(derive(&mut totals, &without).0, Some(0.0));
        assert_eq!(
            derive(&mut totals, &reading(2000, [0, 5_000_000_000, 0, 0], 0)).0,
            Some(0.0)
        );
    }

    #[test]
    fn a_momentary_reason_is_all_or_nothing() {
        let mut now = Reading::new("GPU-1".into(), Duration::ZERO);
        now.throttle = Some(Throttle::Now(true));
        assert_eq!(derive(&mut Totals::default(), &now), (Some(100.0), None));
    }
}
