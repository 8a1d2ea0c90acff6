//! The processes on a GPU: compute, MPS and graphics lists, merged by process.
//!
//! Read with the raw calls: the wrapper's MPS list has no room for a client that starts between its two calls.
//! A process may stand in more than one list with different amounts of memory; the largest is the truth, the sum
//! would count it twice.
#![expect(
    unsafe_code,
    reason = "nvml-wrapper has no growth-safe call for the process lists"
)]

use std::collections::BTreeMap;
use std::os::raw::c_uint;

use nvml_wrapper::Device;
use nvml_wrapper::error::{NvmlError, nvml_try};
use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDevice_t, nvmlProcessInfo_t, nvmlReturn_t};

use super::device::{Item, retry_growth};
use crate::gpu::GpuProcess;

/// Room for processes that start between the size query and the fetch.
const HEADROOM: c_uint = 16;

/// `NVML_VALUE_NOT_AVAILABLE`: the driver does not say.
const NOT_AVAILABLE: u64 = u64::MAX;

type List = Result<Vec<GpuProcess>, NvmlError>;
type ListCall = unsafe extern "C" fn(nvmlDevice_t, *mut c_uint, *mut nvmlProcessInfo_t) -> nvmlReturn_t;

type ReadList = fn(&NvmlLib, &Device<'static>) -> List;

/// The lists, each with the item under which its support is remembered.
pub(super) const LISTS: [(Item, ReadList); 3] = [
    (Item::ComputeProcesses, |lib, device| {
        fetch(
            symbol(&lib.nvmlDeviceGetComputeRunningProcesses_v3)?,
            device,
            true,
        )
    }),
    (Item::MpsProcesses, |lib, device| {
        fetch(
            symbol(&lib.nvmlDeviceGetMPSComputeRunningProcesses_v3)?,
            device,
            true,
        )
    }),
    (Item::GraphicsProcesses, |lib, device| {
        fetch(
            symbol(&lib.nvmlDeviceGetGraphicsRunningProcesses_v3)?,
            device,
            false,
        )
    }),
];

fn symbol<E: std::fmt::Display>(symbol: &Result<ListCall, E>) -> Result<ListCall, NvmlError> {
    symbol
        .as_ref()
        .copied()
        .map_err(|error| NvmlError::FailedToLoadSymbol(error.to_string()))
}

fn fetch(call: ListCall, device: &Device<'static>, computes: bool) -> List {
    retry_growth(|| {
        let mut count: c_uint = 0;
        // SAFETY: the handle is valid as long as the library, which is never unloaded. A null buffer with the
        // count 0 asks for the size; the library writes nothing but `count`.
        let size = nvml_try(unsafe { call(device.handle(), &raw mut count, std::ptr::null_mut()) });
        match size {
            Err(NvmlError::InsufficientSize(_)) => {}
            // "Not found" is what some drivers say of an idle GPU.
            Ok(()) | Err(NvmlError::NotFound) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        count = count.saturating_add(HEADROOM);
        let empty = nvmlProcessInfo_t {
            pid: 0,
            usedGpuMemory: 0,
            gpuInstanceId: 0,
            computeInstanceId: 0,
        };
        let mut processes = vec![empty; count as usize];
        // SAFETY: as above, and the buffer holds `count` elements; the library fills at most that many and sets
        // `count` to how many it filled.
        nvml_try(unsafe { call(device.handle(), &raw mut count, processes.as_mut_ptr()) })?;
        processes.truncate(count as usize);
        Ok(processes.iter().map(|raw| process(raw, computes)).collect())
    })
}

fn process(raw: &nvmlProcessInfo_t, computes: bool) -> GpuProcess {
    let known = raw.usedGpuMemory != NOT_AVAILABLE;
    GpuProcess {
        pid: raw.pid,
        memory_bytes: known.then_some(raw.usedGpuMemory),
        computes,
    }
}

/// One entry per process over all lists; `None` when there is no list, which is not an empty one.
pub(super) fn merge(lists: Vec<Vec<GpuProcess>>) -> Option<Vec<GpuProcess>> {
    (!lists.is_empty()).then(|| {
        let mut merged = BTreeMap::<u32, GpuProcess>::new();
        for process in lists.into_iter().flatten() {
            let known = merged.entry(process.pid).or_insert(process);
            known.memory_bytes = known.memory_bytes.max(process.memory_bytes);
            known.computes |= process.computes;
        }
        merged.into_values().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, memory_bytes: Option<u64>) -> GpuProcess {
        GpuProcess {
            pid,
            memory_bytes,
            computes: true,
        }
    }

    #[test]
    fn a_process_in_two_lists_counts_once_with_its_largest_memory() {
        let compute = vec![process(7, Some(100)), process(9, None)];
        let mps = vec![process(7, Some(40)), process(9, Some(1))];
        assert_eq!(
            merge(vec![compute, mps]),
            Some(vec![process(7, Some(100)), process(9, Some(1))])
        );
    }

    #[test]
    fn a_process_that_draws_and_computes_computes() {
        let drawing = |pid| GpuProcess {
            computes: false,
            ..process(pid, Some(1))
        };
        let merged = merge(vec![vec![process(7, None)], vec![drawing(7), drawing(8)]]);
        assert_eq!(merged, Some(vec![process(7, Some(1)), drawing(8)]));
    }

    #[test]
    fn unknown_memory_stays_unknown_and_no_list_is_not_an_empty_list() {
        assert_eq!(merge(vec![vec![process(3, None)]]), Some(vec![process(3, None)]));
        assert_eq!(merge(vec![vec![]]), Some(vec![]));
        assert_eq!(merge(vec![]), None);
    }
}
