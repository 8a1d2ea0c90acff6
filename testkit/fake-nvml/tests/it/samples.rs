//! The driver's ring.

use std::thread;
use std::time::Duration;

use fake_nvml::{RING_CAPACITY, RingSample, Scenario, utilization_between};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::Sampling;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;

use crate::stage::{Stage, gpu};

fn samples(device: &Device<'_>, last_seen_us: u64) -> Result<Vec<RingSample>, NvmlError> {
    let samples = device.samples(Sampling::GpuUtilization, last_seen_us)?;
    let plain = samples.into_iter().map(|sample| match sample.value {
        SampleValue::U32(value) => RingSample {
            unix_us: sample.timestamp,
            value,
        },
        other => unreachable!("utilisation is an unsigned int, not {other:?}"),
    });
    Ok(plain.collect())
}

#[test]
fn ring_read_with_last_seen_loses_nothing_and_repeats_nothing() {
    let scenario = gpu(
        0,
        "utilization = [[0, 0], [3000, 100], [7000, 20]]\nperiod_ms = 7000\nring_hz = 20",
    );
    let name = "samples::ring_read_with_last_seen_loses_nothing_and_repeats_nothing";
    let Some(stage) = Stage::enter_late(name, &scenario, 60_000) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    let mut seen = samples(&device, 0).expect("a full ring");
    assert_eq!(seen.len(), RING_CAPACITY);
    for pause_ms in [130, 20, 270] {
        thread::sleep(Duration::from_millis(pause_ms));
        match samples(&device, seen.last().expect("not empty").unix_us) {
            Ok(new) => seen.extend(new),
            Err(error) => assert!(matches!(error, NvmlError::NotFound), "{error}"),
        }
    }
    assert!(
        seen.len() >= RING_CAPACITY + 8,
        "420 ms at 20 Hz bring at least 8, not {}",
        seen.len()
    );
    let playing = Scenario::parse(&scenario).expect("valid");
    let (first, last) = (seen[0].unix_us, seen[seen.len() - 1].unix_us);
    assert_eq!(
        seen,
        utilization_between(&playing.gpus[0], stage.epoch_us(), first - 1, last)
    );
}

#[test]
fn ring_of_an_idle_gpu_is_not_found() {
    let Some(stage) = Stage::enter_late(
        "samples::ring_of_an_idle_gpu_is_not_found",
        &gpu(0, "ring = false"),
        60_000,
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    assert!(matches!(samples(&device, 0), Err(NvmlError::NotFound)));
    assert_eq!(device.utilization_rates().expect("the other call works").gpu, 0);
}

#[test]
fn kinds_of_samples_follow_their_own_tracks() {
    let Some(stage) = Stage::enter_late(
        "samples::kinds_of_samples_follow_their_own_tracks",
        &gpu(0, "power_watts = 71.5\nmemory_busy = 12"),
        5_000,
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    for (kind, expected) in [(Sampling::Power, 71_500), (Sampling::MemoryUtilization, 12)] {
        let samples = device.samples(kind, None).expect("supported");
        let fits = |value: &SampleValue| matches!(value, SampleValue::U32(value) if *value == expected);
        assert!(samples.iter().all(|sample| fits(&sample.value)), "{kind:?}");
    }
}
