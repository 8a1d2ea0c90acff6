//! The driver's ring of samples, computed from the curves rather than collected.
//!
//! Sample `k` of a GPU exists from `epoch + k / ring_hz` on and has the value of the curve at that instant, so that
//! every process sees the same ring and a test can say exactly which samples fall into a window. The driver keeps
//! the newest 72 (`GPUMON_SAMPLE_COUNT_PERFMON_UTIL` in NVIDIA's open kernel modules), about ten seconds.

use crate::clock::ms_between;
use crate::scenario::Gpu;
use crate::track::Track;

/// How many samples the ring holds.
pub const RING_CAPACITY: usize = 72;

/// One sample of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSample {
    /// When it was taken, in microseconds since 1970.
    pub unix_us: u64,
    /// Its value: percent, or the unit of the track.
    pub value: u32,
}

/// All utilisation samples (percent) of `gpu` with `after_us < time <= until_us`, oldest first, whether or not the
/// ring still holds them. Times in microseconds since 1970. A GPU without a ring has none.
#[must_use]
pub fn utilization_between(gpu: &Gpu, epoch_us: u64, after_us: u64, until_us: u64) -> Vec<RingSample> {
    if !gpu.ring || until_us < epoch_us {
        return Vec::new();
    }
    // Sample -1 is before the epoch, so "after nothing" starts at sample 0.
    let first = after_us
        .checked_sub(epoch_us)
        .map_or(0, |elapsed| last_number(gpu, elapsed) + 1);
    (first..=last_number(gpu, until_us - epoch_us))
        .map(|number| sample(gpu, &gpu.utilization, epoch_us, number))
        .collect()
}

/// What the ring of `track` holds at `now_us`, oldest first.
pub(crate) fn held(gpu: &Gpu, track: &Track, epoch_us: u64, now_us: u64) -> Vec<RingSample> {
    if !gpu.ring || now_us < epoch_us {
        return Vec::new();
    }
    let last = last_number(gpu, now_us - epoch_us);
    let first = (last + 1).saturating_sub(RING_CAPACITY as u64);
    (first..=last)
        .map(|number| sample(gpu, track, epoch_us, number))
        .collect()
}

/// When the newest sample was taken; `now_us` for a GPU that has no ring.
pub(crate) fn newest_us(gpu: &Gpu, epoch_us: u64, now_us: u64) -> u64 {
    match now_us.checked_sub(epoch_us) {
        Some(elapsed) if gpu.ring => {
            epoch_us + last_number(gpu, elapsed) * 1_000_000 / u64::from(gpu.ring_hz)
        }
        _ => now_us,
    }
}

/// A measured quantity as NVML gives it: a whole number, never below zero.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, as is wanted"
)]
pub(crate) fn whole(value: f64) -> u32 {
    value.round() as u32
}

fn sample(gpu: &Gpu, track: &Track, epoch_us: u64, number: u64) -> RingSample {
    let unix_us = epoch_us + number * 1_000_000 / u64::from(gpu.ring_hz);
    RingSample {
        unix_us,
        value: whole(track.at(ms_between(epoch_us, unix_us), gpu.period_ms)),
    }
}

/// The largest `k` with `floor(k * 1e6 / hz) <= elapsed_us`.
fn last_number(gpu: &Gpu, elapsed_us: u64) -> u64 {
    ((elapsed_us + 1).saturating_mul(u64::from(gpu.ring_hz)) - 1) / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::{RING_CAPACITY, RingSample, held, utilization_between};
    use crate::scenario::{Gpu, Scenario};

    const EPOCH: u64 = 1_700_000_000_000_000;

    fn gpu(keys: &str) -> Gpu {
        let head = "[[gpu]]\nuuid = \"GPU-1\"\nname = \"T4\"\npci = \"0000:00:1e.0\"\nmemory_mib = 100\n";
        Scenario::parse(&format!("{head}{keys}"))
            .expect("valid")
            .gpus
            .remove(0)
    }

    #[test]
    fn windows_that_touch_share_no_sample_and_lose_none() {
        let gpu = gpu("utilization = [[0, 0], [10000, 100]]\nring_hz = 7\n");
        let all = utilization_between(&gpu, EPOCH, 0, EPOCH + 10_000_000);
        assert_eq!(all.len(), 71);
        for cut in [1, 142_857, 142_858, 5_000_000, 9_999_999] {
            let mut parts = utilization_between(&gpu, EPOCH, 0, EPOCH + cut);
            parts.extend(utilization_between(&gpu, EPOCH, EPOCH + cut, EPOCH + 10_000_000));
            assert_eq!(parts, all, "cut at {cut}");
        }
    }

    #[test]
    fn sample_has_the_value_of_the_curve_at_its_instant() {
        let gpu = gpu("utilization = [[0, 0], [1000, 60]]\n");
        let second = utilization_between(&gpu, EPOCH, EPOCH, EPOCH + 200_000);
        assert_eq!(
            second,
            [RingSample {
                unix_us: EPOCH + 166_666,
                value: 10
            }]
        );
    }

    #[test]
    fn ring_keeps_the_newest_only() {
        let gpu = gpu("utilization = 5\n");
        let now = EPOCH + 60_000_000;
        let ring = held(&gpu, &gpu.utilization, EPOCH, now);
        assert_eq!(ring.len(), RING_CAPACITY);
        assert_eq!(ring.last().map(|sample| sample.unix_us), Some(now));
        assert!(held(&gpu, &gpu.utilization, EPOCH, EPOCH - 1).is_empty());
    }

    #[test]
    fn gpu_without_ring_has_no_samples() {
        let gpu = gpu("utilization = 5\nring = false\n");
        assert!(held(&gpu, &gpu.utilization, EPOCH, EPOCH + 1_000_000).is_empty());
        assert!(utilization_between(&gpu, EPOCH, 0, EPOCH + 1_000_000).is_empty());
    }
}
