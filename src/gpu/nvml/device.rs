//! Reads one GPU: what it supports is read, what it does not is asked once and then absent.
//!
//! Costs, from the NVIDIA driver's open sources: all calls here are plain queries, the fields go in one batch.
//! Process lists walk every client of the driver under its lock and are read rarely. `PCIe` throughput blocks for
//! 20 ms per call and is never read.

mod modes;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, Sampling, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::{
    NVML_FI_DEV_ECC_DBE_VOL_TOTAL, NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT,
    NVML_FI_DEV_PERF_POLICY_POWER, NVML_FI_DEV_PERF_POLICY_RELIABILITY, NVML_FI_DEV_PERF_POLICY_THERMAL,
    NVML_FI_DEV_POWER_INSTANT,
};
use nvml_wrapper::{Device, Nvml};

use super::{ASK_AGAIN, describe, driver_fault, processes};
use crate::gpu::wire::{Fault, GpuFault, Reading, RingSample, Setup, Throttle};
use crate::gpu::{GpuProcess, GpuUuid, Memory};
use crate::metrics::clock;

/// How long the driver's ring must have been empty before the instantaneous rate stands in for it; also the
/// most often that it does. The ring gains about six samples a second, so an empty second is an idle ring.
const RING_IDLE: Duration = Duration::from_secs(1);

/// A list that grew between the size query and the fetch is fetched again, this often.
const GROWTH_RETRIES: usize = 3;

const THROTTLE_FIELDS: [u32; 4] = [
    NVML_FI_DEV_PERF_POLICY_POWER,
    NVML_FI_DEV_PERF_POLICY_THERMAL,
    NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT,
    NVML_FI_DEV_PERF_POLICY_RELIABILITY,
];

const FIELDS: [u32; 7] = [
    NVML_FI_DEV_ECC_DBE_VOL_TOTAL,
    THROTTLE_FIELDS[0],
    THROTTLE_FIELDS[1],
    THROTTLE_FIELDS[2],
    THROTTLE_FIELDS[3],
    NVML_FI_DEV_POWER_INSTANT,
    NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
];

/// What can be asked for, and may not be supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    UtilizationRing,
    UtilizationRates,
    MemoryInfo,
    Temperature,
    PowerUsage,
    SmClock,
    ThrottleReasons,
    FieldValues,
    Field(u32),
    ComputeProcesses,
    MpsProcesses,
    GraphicsProcesses,
    ComputeMode,
    MigMode,
}

/// One GPU's calls, and what is remembered between them.
pub(super) struct DeviceReader {
    nvml: &'static Nvml,
    device: Device<'static>,
    uuid: GpuUuid,
    interval: Duration,
    process_interval: Duration,
    unsupported: HashMap<Item, Instant>,
    /// Newest sample of the utilisation ring that was handed on: the driver's clock, microseconds.
    last_sample: u64,
    ring_heard: Option<Instant>,
    rates_asked: Option<Instant>,
    processes_read: Option<Instant>,
    modes_read: Option<Instant>,
    /// Set by the first call of a reading that says so.
    fault: Option<GpuFault>,
    driver_fault: Option<Fault>,
    /// Calls of this reading that brought a value, and that failed for no known reason.
    answers: u32,
    failures: u32,
}

impl DeviceReader {
    pub(super) fn new(
        nvml: &'static Nvml,
        device: Device<'static>,
        uuid: GpuUuid,
        seen: Option<u64>,
        setup: &Setup,
    ) -> Self {
        // Without a predecessor, what the ring holds from before belongs to windows that are gone.
        let start = micros(clock::wall_now().saturating_sub(setup.interval));
        Self {
            nvml,
            device,
            uuid,
            interval: setup.interval,
            process_interval: setup.process_interval,
            unsupported: HashMap::new(),
            last_sample: seen.unwrap_or(start),
            // A ring that has nothing new in the first instant is not idle yet.
            ring_heard: Some(Instant::now()),
            rates_asked: None,
            processes_read: None,
            modes_read: None,
            fault: None,
            driver_fault: None,
            answers: 0,
            failures: 0,
        }
    }

    /// Reads the utilisation ring, and all else if the reading is to be whole. `Err` when the driver as a whole is
    /// gone.
    pub(super) fn read(&mut self, whole: bool) -> Result<Reading, Fault> {
        let mut reading = Reading::new(self.uuid.clone(), clock::monotonic_now());
        reading.whole = whole;
        self.fault = None;
        (self.answers, self.failures) = (0, 0);
        self.read_utilization(&mut reading);
        if whole {
            self.read_values(&mut reading);
            if self.answers == 0 && self.failures > 0 {
                self.fault = self.fault.or(Some(GpuFault::Failing));
            }
        }
        reading.took = clock::monotonic_now().saturating_sub(reading.at);
        reading.fault = self.fault;
        self.driver_fault.take().map_or(Ok(reading), Err)
    }

    fn read_values(&mut self, reading: &mut Reading) {
        reading.memory = self
            .ask(Item::MemoryInfo, Device::memory_info)
            .map(|memory| Memory {
                total_bytes: memory.total,
                reserved_bytes: memory.reserved,
                used_bytes: memory.used,
                free_bytes: memory.free,
            });
        reading.temperature_celsius = self
            .ask(Item::Temperature, |device| {
                device.temperature(TemperatureSensor::Gpu)
            })
            .map(i64::from);
        reading.sm_clock_mhz = self.ask(Item::SmClock, |device| device.clock_info(Clock::SM));
        self.read_fields(reading);
        self.read_processes(reading);
        self.read_modes(reading);
    }

    fn read_utilization(&mut self, reading: &mut Reading) {
        let wall = clock::wall_now();
        self.last_sample = believable(self.last_sample, wall, self.interval);
        let since = self.last_sample;
        // After a step back of the clock the ring still holds samples from the future, which were counted then.
        let until = micros(wall + RING_IDLE);
        let ring = self.ask(Item::UtilizationRing, |device| {
            retry_growth(|| device.samples(Sampling::GpuUtilization, since))
        });
        // Drivers have been seen to repeat the last sample, and to list samples out of order.
        for sample in ring
            .into_iter()
            .flatten()
            .filter(|sample| sample.timestamp > since && sample.timestamp <= until)
        {
            self.last_sample = self.last_sample.max(sample.timestamp);
            let percent = whole_number(&sample.value).and_then(|percent| u32::try_from(percent).ok());
            let unix_us = sample.timestamp;
            reading
                .utilization
                .extend(percent.map(|percent| RingSample { unix_us, percent }));
        }
        let now = Instant::now();
        if reading.utilization.is_empty() {
            self.read_rates_when_idle(reading, now);
        } else {
            self.ring_heard = Some(now);
            reading.newest_sample = Some(self.last_sample);
        }
    }

    fn read_rates_when_idle(&mut self, reading: &mut Reading, now: Instant) {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < RING_IDLE);
        // Asked at a jittering interval of one second, the second ask must not fall to "recent" by a millisecond.
        let asked = self
            .rates_asked
            .map(|at| at.checked_sub(RING_IDLE / 10).unwrap_or(at));
        if recent(self.ring_heard) || recent(asked) {
            return;
        }
        self.rates_asked = Some(now);
        let rates = self.ask(Item::UtilizationRates, Device::utilization_rates);
        let unix_us = micros(clock::wall_now());
        reading.utilization.extend(rates.map(|rates| RingSample {
            unix_us,
            percent: rates.gpu,
        }));
    }

    fn read_fields(&mut self, reading: &mut Reading) {
        let values = self.field_values();
        let value = |id: u32| values.get(&id).copied();
        reading.ecc_uncorrected_total = value(NVML_FI_DEV_ECC_DBE_VOL_TOTAL);
        reading.recovery_action =
            value(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION).and_then(|action| u32::try_from(action).ok());
        reading.power_milliwatts = value(NVML_FI_DEV_POWER_INSTANT)
            .or_else(|| self.ask(Item::PowerUsage, Device::power_usage).map(u64::from));
        let totals = THROTTLE_FIELDS.map(value);
        reading.throttle = if totals.iter().any(Option::is_some) {
            Some(Throttle::Totals(totals))
        } else {
            self.ask(Item::ThrottleReasons, Device::current_throttle_reasons)
                .map(|reasons| Throttle::Now(reasons.intersects(protective_reasons())))
        };
    }

    /// Every supported field in one call.
    fn field_values(&mut self) -> HashMap<u32, u64> {
        let wanted: Vec<FieldId> = FIELDS
            .into_iter()
            .filter(|id| self.is_supported(Item::Field(*id)))
            .map(FieldId)
            .collect();
        if wanted.is_empty() {
            return HashMap::new();
        }
        let answers = self
            .ask(Item::FieldValues, |device| device.field_values_for(&wanted))
            .unwrap_or_default();
        let mut values = HashMap::new();
        for (id, answer) in wanted.into_iter().zip(answers) {
            let value = answer.and_then(|sample| sample.value);
            if let Some(value) = self
                .judge(Item::Field(id.0), value)
                .and_then(|value| whole_number(&value))
            {
                values.insert(id.0, value);
            }
        }
        values
    }

    fn read_processes(&mut self, reading: &mut Reading) {
        if self.is_due(self.processes_read, self.process_interval) && self.fault.is_none() {
            self.processes_read = Some(Instant::now());
            reading.processes = self.processes();
        }
    }

    /// Whether what was read at `last` is to be read again. A little early is in time, on the beat of the readings.
    fn is_due(&self, last: Option<Instant>, every: Duration) -> bool {
        last.is_none_or(|at| at.elapsed() + self.interval / 2 >= every)
    }

    /// All processes on the GPU, or `None`: a list that failed may have held any of them.
    fn processes(&mut self) -> Option<Vec<GpuProcess>> {
        let mut lists = Vec::new();
        for (item, list) in processes::LISTS {
            if !self.is_supported(item) {
                continue;
            }
            let answer = list(self.nvml.lib(), &self.device);
            match self.judge(item, answer) {
                Some(list) => lists.push(list),
                None if self.is_supported(item) => return None,
                None => {}
            }
        }
        processes::merge(lists)
    }

    /// Makes a call unless it is known to be unsupported.
    fn ask<T>(
        &mut self,
        item: Item,
        call: impl FnOnce(&Device<'static>) -> Result<T, NvmlError>,
    ) -> Option<T> {
        // A lost GPU answers every call alike; one call a reading is enough to see it come back.
        if self.fault == Some(GpuFault::Lost) || self.driver_fault.is_some() || !self.is_supported(item) {
            return None;
        }
        let answer = call(&self.device);
        self.judge(item, answer)
    }

    fn is_supported(&self, item: Item) -> bool {
        self.unsupported
            .get(&item)
            .is_none_or(|since| since.elapsed() >= ASK_AGAIN)
    }

    /// Turns an answer into a value or an absence, and remembers what the error says about the GPU.
    fn judge<T>(&mut self, item: Item, answer: Result<T, NvmlError>) -> Option<T> {
        let error = match answer {
            Ok(value) => {
                self.unsupported.remove(&item);
                self.answers += u32::from(item != Item::FieldValues);
                return Some(value);
            }
            Err(error) => error,
        };
        match &error {
            NvmlError::GpuLost => self.fault = Some(GpuFault::Lost),
            NvmlError::ResetRequired => self.fault = self.fault.or(Some(GpuFault::ResetRequired)),
            // An empty ring, or nothing to report.
            NvmlError::NotFound | NvmlError::NoData => {}
            error if is_unsupported(error) => {
                if self.unsupported.insert(item, Instant::now()).is_none() {
                    tracing::debug!(gpu = %self.uuid, ?item, error = describe(error), "not supported: absent");
                }
            }
            error => match driver_fault(error) {
                // No permission for one call is not a driver without permission: init would have failed.
                Some(_) if matches!(error, NvmlError::NoPermission) => {
                    self.unsupported.insert(item, Instant::now());
                }
                Some(fault) => self.driver_fault = Some(fault),
                None => {
                    self.failures += 1;
                    tracing::debug!(gpu = %self.uuid, ?item, error = describe(error), "no answer");
                }
            },
        }
        None
    }
}

/// Whether asking again soon is pointless. 25 is a structure version that the driver does not know; the wrapper
/// has no name for it.
fn is_unsupported(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported
            | NvmlError::FailedToLoadSymbol(_)
            | NvmlError::FunctionNotFound
            | NvmlError::InvalidArg
            | NvmlError::UnexpectedVariant(25)
    )
}

/// The reasons that protect the hardware; idling and clocks that somebody set are not among them.
fn protective_reasons() -> ThrottleReasons {
    ThrottleReasons::SW_POWER_CAP
        | ThrottleReasons::HW_SLOWDOWN
        | ThrottleReasons::SW_THERMAL_SLOWDOWN
        | ThrottleReasons::HW_THERMAL_SLOWDOWN
        | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN
}

fn whole_number(value: &SampleValue) -> Option<u64> {
    match value {
        SampleValue::U32(value) => Some(u64::from(*value)),
        SampleValue::U64(value) => Some(*value),
        SampleValue::I64(value) => u64::try_from(*value).ok(),
        SampleValue::F64(_) => None,
    }
}

/// The timestamp after which samples are new: the one last seen, or one reading ago if that lies in the future.
///
/// After a step back of the clock the driver's new samples are older than the last one seen; waiting for the
/// clock to catch up would lose all of them.
fn believable(last_sample: u64, now: Duration, interval: Duration) -> u64 {
    if last_sample > micros(now + RING_IDLE) {
        micros(now.saturating_sub(interval))
    } else {
        last_sample
    }
}

fn micros(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// Repeats a size-then-fetch call whose list grew in between.
pub(super) fn retry_growth<T>(mut call: impl FnMut() -> Result<T, NvmlError>) -> Result<T, NvmlError> {
    let mut answer = call();
    for _ in 1..GROWTH_RETRIES {
        if !matches!(answer, Err(NvmlError::InsufficientSize(_))) {
            break;
        }
        answer = call();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g23_samples_last_seen_beyond_now_are_forgotten() {
        let at = |seconds: u64| Duration::from_secs(seconds);
        let (now, interval) = (at(900), at(2));
        assert_eq!(believable(micros(at(892)), now, interval), micros(at(892)));
        // The driver's stamps may run a little ahead of our clock.
        assert_eq!(believable(micros(at(901)), now, interval), micros(at(901)));
        assert_eq!(believable(micros(at(1200)), now, interval), micros(at(898)));
    }
}
