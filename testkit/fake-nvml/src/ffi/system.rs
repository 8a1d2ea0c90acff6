//! Initialisation, versions, and finding devices.

use std::ffi::{CStr, c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{self as sys, nvmlDevice_t, nvmlReturn_t};

use super::handle;
use super::pointers::{Out, Text};
use super::system_functions;
use crate::code::Code;
use crate::driver;
use crate::scenario::{pci_address, version_pair};

/// Those that need no initialised library.
pub(super) const BARE_NAMES: &[&str] = &[
    "nvmlInit_v2",
    "nvmlInitWithFlags",
    "nvmlShutdown",
    "nvmlErrorString",
];

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> nvmlReturn_t {
    driver::init("nvmlInit_v2")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> nvmlReturn_t {
    driver::init("nvmlInitWithFlags")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> nvmlReturn_t {
    driver::shutdown("nvmlShutdown")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlErrorString(result: nvmlReturn_t) -> *const c_char {
    meaning(result).as_ptr()
}

system_functions! {
    fn nvmlSystemGetDriverVersion(moment, version: Out<c_char>, length: c_uint) {
        version.text(length, &moment.scenario.driver)
    }
    fn nvmlSystemGetNVMLVersion(moment, version: Out<c_char>, length: c_uint) {
        version.text(length, &moment.scenario.nvml)
    }
    fn nvmlSystemGetCudaDriverVersion_v2(moment, version: Out<c_int>) {
        let (major, minor) = version_pair(&moment.scenario.cuda).ok_or(Code::UNKNOWN)?;
        version.set(major * 1000 + minor * 10)
    }
    fn nvmlDeviceGetCount_v2(moment, count: Out<c_uint>) {
        count.set(c_uint::try_from(moment.scenario.gpus.len()).map_err(|_| Code::UNKNOWN)?)
    }
    fn nvmlDeviceGetHandleByIndex_v2(moment, index: c_uint, device: Out<nvmlDevice_t>) {
        let wanted = index as usize;
        if wanted >= moment.scenario.gpus.len() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let gpu = moment.gpu(wanted)?;
        gpu.refusal("nvmlDeviceGetHandleByIndex_v2").map_or(Ok(()), Err)?;
        device.set(handle(gpu.index))
    }
    fn nvmlDeviceGetHandleByUUID(moment, uuid: Text, device: Out<nvmlDevice_t>) {
        let uuid = uuid.read()?;
        let gpu = moment.find("nvmlDeviceGetHandleByUUID", |gpu| gpu.uuid == uuid)?;
        device.set(handle(gpu.index))
    }
    fn nvmlDeviceGetHandleByPciBusId_v2(moment, bus_id: Text, device: Out<nvmlDevice_t>) {
        let address = pci_address(bus_id.read()?).ok_or(Code::INVALID_ARGUMENT)?;
        let is_it = |gpu: &crate::scenario::Gpu| pci_address(&gpu.pci) == Some(address);
        device.set(handle(moment.find("nvmlDeviceGetHandleByPciBusId_v2", is_it)?.index))
    }
    fn nvmlSystemGetProcessName(moment, pid: c_uint, name: Out<c_char>, length: c_uint) {
        let mut processes = moment.scenario.gpus.iter().flat_map(|gpu| &gpu.processes);
        let process = processes.find(|process| process.pid == pid && process.name.is_some());
        name.text(length, process.and_then(|process| process.name.as_deref()).ok_or(Code::NOT_FOUND)?)
    }
}

/// What `nvmlErrorString` says, in words of our own.
fn meaning(code: nvmlReturn_t) -> &'static CStr {
    match code {
        sys::nvmlReturn_enum_NVML_SUCCESS => c"no error",
        sys::nvmlReturn_enum_NVML_ERROR_UNINITIALIZED => c"NVML is not initialised",
        sys::nvmlReturn_enum_NVML_ERROR_INVALID_ARGUMENT => c"an argument is wrong",
        sys::nvmlReturn_enum_NVML_ERROR_NOT_SUPPORTED => c"not supported by this device",
        sys::nvmlReturn_enum_NVML_ERROR_NO_PERMISSION => c"permission denied",
        sys::nvmlReturn_enum_NVML_ERROR_NOT_FOUND => c"nothing found",
        sys::nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE => c"the buffer is too small",
        sys::nvmlReturn_enum_NVML_ERROR_DRIVER_NOT_LOADED => c"the driver is not loaded",
        sys::nvmlReturn_enum_NVML_ERROR_TIMEOUT => c"the time is up",
        sys::nvmlReturn_enum_NVML_ERROR_GPU_IS_LOST => c"the GPU is lost",
        sys::nvmlReturn_enum_NVML_ERROR_RESET_REQUIRED => c"the GPU needs a reset",
        sys::nvmlReturn_enum_NVML_ERROR_LIB_RM_VERSION_MISMATCH => c"driver and library differ in version",
        sys::nvmlReturn_enum_NVML_ERROR_ARGUMENT_VERSION_MISMATCH => {
            c"the version word of a structure is wrong"
        }
        _ => c"unknown error",
    }
}
