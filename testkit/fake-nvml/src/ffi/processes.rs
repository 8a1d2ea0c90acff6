//! The processes on a device, and their utilisation.

use std::ffi::{c_uint, c_ulonglong};

use nvml_wrapper_sys::bindings::{
    nvmlProcessInfo_t, nvmlProcessUtilizationInfo_v1_t, nvmlProcessUtilizationSample_t,
    nvmlProcessesUtilizationInfo_t,
};

use super::device_functions;
use super::metrics::check_version;
use super::pointers::Out;
use crate::answers::GpuAt;
use crate::code::{Answer, Code};
use crate::driver;
use crate::scenario::List;

/// `NVML_VALUE_NOT_AVAILABLE` as the unsigned 64 bits in which memory is given.
const NOT_AVAILABLE: u64 = u64::MAX;

/// The instance ids of a process on a GPU that is not cut by MIG.
const NO_INSTANCE: u32 = u32::MAX;

/// The first process id of those that a list grows by: high in Linux's range, where no real one is likely to be.
const FIRST_GROWN_PID: u32 = 4_100_000;

/// Memory of a process that a list grew by.
const GROWN_MEMORY: u64 = 1 << 20;

device_functions! {
    fn nvmlDeviceGetComputeRunningProcesses_v3(at, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) {
        running(at, List::Compute, count, infos)
    }
    fn nvmlDeviceGetMPSComputeRunningProcesses_v3(at, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) {
        running(at, List::Mps, count, infos)
    }
    fn nvmlDeviceGetGraphicsRunningProcesses_v3(at, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) {
        running(at, List::Graphics, count, infos)
    }
    fn nvmlDeviceGetProcessUtilization(at, samples: Out<nvmlProcessUtilizationSample_t>, count: Out<c_uint>, last_seen_us: c_ulonglong) {
        utilization(at, samples, count, last_seen_us)
    }
    fn nvmlDeviceGetProcessesUtilizationInfo(at, info: Out<nvmlProcessesUtilizationInfo_t>) {
        utilization_info(at, info)
    }
}

fn running(at: &GpuAt<'_>, list: List, count: Out<c_uint>, infos: Out<nvmlProcessInfo_t>) -> Answer<()> {
    let room = if infos.is_null() { 0 } else { count.get()? as usize };
    let grown =
        (0..driver::grown(at.index, list)).map(|number| (FIRST_GROWN_PID + number, Some(GROWN_MEMORY)));
    let processes: Vec<_> = at.processes(list).into_iter().chain(grown).collect();
    set_length(count, processes.len())?;
    if processes.len() > room {
        driver::grow(at.index, list, at.gpu.grow_per_call);
        return Err(Code::INSUFFICIENT_SIZE);
    }
    driver::grow(at.index, list, 0);
    if processes.is_empty() {
        return Ok(());
    }
    infos.fill(processes.into_iter().map(|(pid, memory)| nvmlProcessInfo_t {
        pid,
        usedGpuMemory: memory.unwrap_or(NOT_AVAILABLE),
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    }))
}

fn utilization(
    at: &GpuAt<'_>,
    samples: Out<nvmlProcessUtilizationSample_t>,
    count: Out<c_uint>,
    last_seen_us: u64,
) -> Answer<()> {
    let shares = at.process_shares(last_seen_us)?;
    let room = if samples.is_null() {
        0
    } else {
        count.get()? as usize
    };
    set_length(count, shares.len())?;
    if shares.len() > room {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    samples.fill(shares.into_iter().map(|share| nvmlProcessUtilizationSample_t {
        pid: share.pid,
        timeStamp: share.unix_us,
        smUtil: share.sm_percent,
        memUtil: 0,
        encUtil: 0,
        decUtil: 0,
    }))
}

fn utilization_info(at: &GpuAt<'_>, info: Out<nvmlProcessesUtilizationInfo_t>) -> Answer<()> {
    let mut list = info.get()?;
    check_version::<nvmlProcessesUtilizationInfo_t>(list.version, 1)?;
    let shares = at.process_shares(list.lastSeenTimeStamp)?;
    let array = Out::from_raw(list.procUtilArray);
    let room = if array.is_null() {
        0
    } else {
        list.processSamplesCount as usize
    };
    list.processSamplesCount = c_uint::try_from(shares.len()).map_err(|_| Code::UNKNOWN)?;
    info.set(list)?;
    if shares.len() > room {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    array.fill(shares.into_iter().map(|share| nvmlProcessUtilizationInfo_v1_t {
        timeStamp: share.unix_us,
        pid: share.pid,
        smUtil: share.sm_percent,
        memUtil: 0,
        encUtil: 0,
        decUtil: 0,
        jpgUtil: 0,
        ofaUtil: 0,
    }))
}

fn set_length(count: Out<c_uint>, length: usize) -> Answer<()> {
    count.set(c_uint::try_from(length).map_err(|_| Code::UNKNOWN)?)
}
