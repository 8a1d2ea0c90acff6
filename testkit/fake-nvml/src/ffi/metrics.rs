//! What a device measures.

use std::ffi::{c_int, c_uint, c_ulonglong};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper_sys::bindings::{
    self as sys, field_id, nvmlBAR1Memory_t, nvmlClockType_t, nvmlEccCounterType_t, nvmlEnableState_t,
    nvmlFieldValue_t, nvmlMemory_v2_t, nvmlMemoryErrorType_t, nvmlPageRetirementCause_t,
    nvmlPcieUtilCounter_t, nvmlPerfPolicyType_t, nvmlPstates_t, nvmlSample_t, nvmlSamplingType_t,
    nvmlTemperature_t, nvmlTemperatureSensors_t, nvmlUtilization_t, nvmlValue_t, nvmlValueType_t,
    nvmlViolationTime_t,
};

use super::device_functions;
use super::pointers::Out;
use crate::answers::GpuAt;
use crate::code::{Answer, Code};
use crate::fields::{self, Number};
use crate::ring::{RING_CAPACITY, whole};
use crate::track::Track;

/// The encoder's and decoder's sampling period: one sixth of a second.
const CODEC_PERIOD_US: c_uint = 166_667;

/// Why a client must not call it: NVML counts for this long before it answers.
const PCIE_THROUGHPUT_BLOCKS_MS: u64 = 20;

/// The part of the memory that the CPU can map, and what the driver itself maps of it.
const BAR1_TOTAL: u64 = 256 << 20;
const BAR1_USED: u64 = 2 << 20;

device_functions! {
    fn nvmlDeviceGetUtilizationRates(at, utilization: Out<nvmlUtilization_t>) {
        let (gpu, memory) = at.utilization()?;
        utilization.set(nvmlUtilization_t { gpu, memory })
    }
    fn nvmlDeviceGetSamples(
        at,
        kind: nvmlSamplingType_t,
        last_seen_us: c_ulonglong,
        value_type: Out<nvmlValueType_t>,
        count: Out<c_uint>,
        samples: Out<nvmlSample_t>
    ) {
        ring(at, kind, last_seen_us, value_type, count, samples)
    }
    fn nvmlDeviceGetMemoryInfo_v2(at, memory: Out<nvmlMemory_v2_t>) { memory_v2(at, memory) }
    fn nvmlDeviceGetFieldValues(at, count: c_int, values: Out<nvmlFieldValue_t>) {
        field_values(at, count, values)
    }
    fn nvmlDeviceGetTemperature(at, sensor: nvmlTemperatureSensors_t, celsius: Out<c_uint>) {
        celsius.set(temperature(at, sensor)?)
    }
    fn nvmlDeviceGetTemperatureV(at, temperature_v1: Out<nvmlTemperature_t>) {
        let mut answer = temperature_v1.get()?;
        check_version::<nvmlTemperature_t>(answer.version, 1)?;
        answer.temperature = temperature(at, answer.sensorType)?.cast_signed();
        temperature_v1.set(answer)
    }
    fn nvmlDeviceGetPowerUsage(at, milliwatts: Out<c_uint>) { milliwatts.set(at.power_mw()) }
    fn nvmlDeviceGetEnforcedPowerLimit(at, milliwatts: Out<c_uint>) { milliwatts.set(at.power_limit_mw()) }
    fn nvmlDeviceGetTotalEnergyConsumption(at, millijoules: Out<c_ulonglong>) {
        millijoules.set(fields::count(at, field_id::NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION)?)
    }
    fn nvmlDeviceGetClockInfo(at, kind: nvmlClockType_t, megahertz: Out<c_uint>) {
        let track = match kind {
            sys::nvmlClockType_enum_NVML_CLOCK_MEM => &at.gpu.memory_clock_mhz,
            kind if kind < sys::nvmlClockType_enum_NVML_CLOCK_COUNT => &at.gpu.sm_clock_mhz,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        megahertz.set(whole(at.track(track)))
    }
    fn nvmlDeviceGetMaxClockInfo(at, kind: nvmlClockType_t, megahertz: Out<c_uint>) {
        match kind {
            sys::nvmlClockType_enum_NVML_CLOCK_MEM => megahertz.set(highest(&at.gpu.memory_clock_mhz)),
            kind if kind < sys::nvmlClockType_enum_NVML_CLOCK_COUNT => megahertz.set(at.gpu.max_sm_clock_mhz),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetCurrentClocksThrottleReasons(at, reasons: Out<c_ulonglong>) { reasons.set(at.throttle_reasons()) }
    fn nvmlDeviceGetCurrentClocksEventReasons(at, reasons: Out<c_ulonglong>) { reasons.set(at.throttle_reasons()) }
    fn nvmlDeviceGetPerformanceState(at, state: Out<nvmlPstates_t>) { state.set(at.performance_state()) }
    fn nvmlDeviceGetEncoderUtilization(at, percent: Out<c_uint>, period_us: Out<c_uint>) {
        codec(at, &at.gpu.encoder, percent, period_us)
    }
    fn nvmlDeviceGetDecoderUtilization(at, percent: Out<c_uint>, period_us: Out<c_uint>) {
        codec(at, &at.gpu.decoder, percent, period_us)
    }
    fn nvmlDeviceGetTotalEccErrors(at, kind: nvmlMemoryErrorType_t, counter: nvmlEccCounterType_t, count: Out<c_ulonglong>) {
        if kind > 1 || counter > 1 {
            return Err(Code::INVALID_ARGUMENT);
        }
        // Fields 3 to 6: volatile single and double bit, then the same aggregate.
        count.set(fields::count(at, field_id::NVML_FI_DEV_ECC_SBE_VOL_TOTAL + 2 * counter + kind)?)
    }
    fn nvmlDeviceGetRetiredPages_v2(
        at,
        cause: nvmlPageRetirementCause_t,
        count: Out<c_uint>,
        _addresses: Out<c_ulonglong>,
        _times: Out<c_ulonglong>
    ) {
        if cause >= sys::nvmlPageRetirementCause_enum_NVML_PAGE_RETIREMENT_CAUSE_COUNT {
            return Err(Code::INVALID_ARGUMENT);
        }
        // Where the fields count none there is no address to list.
        match fields::count(at, field_id::NVML_FI_DEV_RETIRED_SBE + cause)? {
            0 => count.set(0),
            _ => Err(Code::NOT_SUPPORTED),
        }
    }
    fn nvmlDeviceGetRemappedRows(
        at,
        correctable: Out<c_uint>,
        uncorrectable: Out<c_uint>,
        is_pending: Out<c_uint>,
        has_failed: Out<c_uint>
    ) {
        for (place, out) in (field_id::NVML_FI_DEV_REMAPPED_COR..).zip([correctable, uncorrectable, is_pending, has_failed]) {
            out.set(narrow(fields::count(at, place)?))?;
        }
        Ok(())
    }
    fn nvmlDeviceGetPcieReplayCounter(at, count: Out<c_uint>) {
        count.set(narrow(fields::count(at, field_id::NVML_FI_DEV_PCIE_REPLAY_COUNTER)?))
    }
    fn nvmlDeviceGetPcieThroughput(at, counter: nvmlPcieUtilCounter_t, kilobytes_per_second: Out<c_uint>) {
        pcie_throughput(at, counter, kilobytes_per_second)
    }
    fn nvmlDeviceGetCurrPcieLinkGeneration(at, generation: Out<c_uint>) { generation.set(at.gpu.pcie_generation) }
    fn nvmlDeviceGetCurrPcieLinkWidth(at, lanes: Out<c_uint>) { lanes.set(at.gpu.pcie_width) }
    fn nvmlDeviceGetNvLinkState(at, link: c_uint, is_active: Out<nvmlEnableState_t>) {
        match at.gpu.nvlinks {
            0 => Err(Code::NOT_SUPPORTED),
            links if link < links => is_active.set(1),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }
    fn nvmlDeviceGetBAR1MemoryInfo(_at, memory: Out<nvmlBAR1Memory_t>) {
        memory.set(nvmlBAR1Memory_t { bar1Total: BAR1_TOTAL, bar1Free: BAR1_TOTAL - BAR1_USED, bar1Used: BAR1_USED })
    }
    fn nvmlDeviceGetViolationStatus(at, policy: nvmlPerfPolicyType_t, times: Out<nvmlViolationTime_t>) {
        let field = match policy {
            0..=5 => field_id::NVML_FI_DEV_PERF_POLICY_POWER + policy,
            10 | 11 => field_id::NVML_FI_DEV_PERF_POLICY_TOTAL_APP_CLOCKS + policy - 10,
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        times.set(nvmlViolationTime_t { referenceTime: at.moment.now_us, violationTime: fields::count(at, field)? })
    }
}

/// The ring of one kind of sample. A null buffer asks how many there can be at most, and success tells.
fn ring(
    at: &GpuAt<'_>,
    kind: nvmlSamplingType_t,
    last_seen_us: u64,
    value_type: Out<nvmlValueType_t>,
    count: Out<c_uint>,
    samples: Out<nvmlSample_t>,
) -> Answer<()> {
    at.unless_mig()?;
    let power_mw;
    let track = match kind {
        sys::nvmlSamplingType_enum_NVML_TOTAL_POWER_SAMPLES => {
            power_mw = scaled(&at.gpu.power_watts, 1e3);
            &power_mw
        }
        sys::nvmlSamplingType_enum_NVML_GPU_UTILIZATION_SAMPLES => &at.gpu.utilization,
        sys::nvmlSamplingType_enum_NVML_MEMORY_UTILIZATION_SAMPLES => &at.gpu.memory_busy,
        sys::nvmlSamplingType_enum_NVML_ENC_UTILIZATION_SAMPLES => &at.gpu.encoder,
        sys::nvmlSamplingType_enum_NVML_DEC_UTILIZATION_SAMPLES => &at.gpu.decoder,
        sys::nvmlSamplingType_enum_NVML_PROCESSOR_CLK_SAMPLES => &at.gpu.sm_clock_mhz,
        sys::nvmlSamplingType_enum_NVML_MEMORY_CLK_SAMPLES => &at.gpu.memory_clock_mhz,
        _ => return Err(Code::NOT_SUPPORTED),
    };
    let held = at.ring(track, last_seen_us)?;
    value_type.set(sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT)?;
    if samples.is_null() {
        // The capacity, so that a sample taken between this call and the next does not make the buffer short.
        return count.set(narrow(RING_CAPACITY as u64));
    }
    let room = count.get()?;
    count.set(narrow(held.len() as u64))?;
    if held.len() > room as usize {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    samples.fill(held.iter().map(|sample| nvmlSample_t {
        timeStamp: sample.unix_us,
        sampleValue: nvmlValue_t { uiVal: sample.value },
    }))
}

fn memory_v2(at: &GpuAt<'_>, memory: Out<nvmlMemory_v2_t>) -> Answer<()> {
    let version = memory.get()?.version;
    check_version::<nvmlMemory_v2_t>(version, 2)?;
    let now = at.memory();
    memory.set(nvmlMemory_v2_t {
        version,
        total: now.total,
        reserved: now.reserved,
        free: now.free,
        used: now.used,
    })
}

fn field_values(at: &GpuAt<'_>, count: c_int, mut values: Out<nvmlFieldValue_t>) -> Answer<()> {
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count > 0)
        .ok_or(Code::INVALID_ARGUMENT)?;
    for entry in values.array(count)? {
        let began = Instant::now();
        let answer = fields::value(at, entry.fieldId, entry.scopeId);
        let (value_type, value) = answer.map_or((0, nvmlValue_t { ullVal: 0 }), c_value);
        entry.nvmlReturn = Code::of(&answer);
        entry.timestamp = at.moment.now_us.cast_signed();
        entry.latencyUsec = i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX);
        entry.valueType = value_type;
        entry.value = value;
    }
    Ok(())
}

fn c_value(number: Number) -> (nvmlValueType_t, nvmlValue_t) {
    // The widest member first, so that no byte of the union is left over from the caller.
    let mut value = nvmlValue_t { ullVal: 0 };
    let value_type = match number {
        Number::Uint(number) => {
            value.uiVal = number;
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_INT
        }
        Number::UlongLong(number) => {
            value.ullVal = number;
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
        }
        Number::SlongLong(number) => {
            value.sllVal = number;
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_SIGNED_LONG_LONG
        }
        Number::Double(number) => {
            value.dVal = number;
            sys::nvmlValueType_enum_NVML_VALUE_TYPE_DOUBLE
        }
    };
    (value_type, value)
}

fn temperature(at: &GpuAt<'_>, sensor: nvmlTemperatureSensors_t) -> Answer<c_uint> {
    match sensor {
        sys::nvmlTemperatureSensors_enum_NVML_TEMPERATURE_GPU => Ok(whole(at.track(&at.gpu.temperature))),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

fn codec(at: &GpuAt<'_>, track: &Track, percent: Out<c_uint>, period_us: Out<c_uint>) -> Answer<()> {
    percent.set(whole(at.track(track)))?;
    period_us.set(CODEC_PERIOD_US)
}

/// KB/s over the blocking period, from the counters that the cheap fields read.
fn pcie_throughput(at: &GpuAt<'_>, counter: nvmlPcieUtilCounter_t, rate: Out<c_uint>) -> Answer<()> {
    let field = match counter {
        sys::nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_TX_BYTES => field_id::NVML_FI_DEV_PCIE_COUNT_TX_BYTES,
        sys::nvmlPcieUtilCounter_enum_NVML_PCIE_UTIL_RX_BYTES => field_id::NVML_FI_DEV_PCIE_COUNT_RX_BYTES,
        _ => return Err(Code::INVALID_ARGUMENT),
    };
    let before = fields::count(at, field)?;
    thread::sleep(Duration::from_millis(PCIE_THROUGHPUT_BLOCKS_MS));
    let mut after = *at;
    after.moment.now_us += PCIE_THROUGHPUT_BLOCKS_MS * 1000;
    let moved = fields::count(&after, field)?.saturating_sub(before);
    // Bytes per millisecond are kilobytes per second.
    rate.set(whole(moved as f64 / PCIE_THROUGHPUT_BLOCKS_MS as f64))
}

/// NVML's version word: the size of the structure and its version in the top byte.
pub(super) fn check_version<T>(word: c_uint, version: usize) -> Answer<()> {
    let expected = size_of::<T>() | version << 24;
    if word as usize == expected {
        Ok(())
    } else {
        Err(Code::ARGUMENT_VERSION_MISMATCH)
    }
}

fn scaled(track: &Track, factor: f64) -> Track {
    match track {
        Track::Constant(value) => Track::Constant(value * factor),
        Track::Curve(points) => {
            Track::Curve(points.iter().map(|&(ms, value)| (ms, value * factor)).collect())
        }
    }
}

fn highest(track: &Track) -> c_uint {
    whole(track.values().fold(0.0, f64::max))
}

/// A counter in the narrower type of an older call.
fn narrow(count: u64) -> c_uint {
    c_uint::try_from(count).unwrap_or(c_uint::MAX)
}
