//! What a device is: names, addresses, modes.

use std::ffi::{c_char, c_int, c_uint};

use nvml_wrapper_sys::bindings::{
    self as sys, nvmlBrandType_t, nvmlComputeMode_t, nvmlDevice_t, nvmlDeviceArchitecture_t,
    nvmlEnableState_t, nvmlPciInfo_t,
};

use super::device_functions;
use super::pointers::Out;
use crate::answers::GpuAt;
use crate::code::{Answer, Code};
use crate::driver;
use crate::scenario::{Architecture, pci_address, version_pair};

/// NVIDIA's PCI vendor id; the upper half would be the product's, which no client of ours reads.
const PCI_VENDOR: u32 = 0x10de;

/// Most instances that a MIG-capable GPU can be cut into.
const MAX_MIG_DEVICES: u32 = 7;

device_functions! {
    fn nvmlDeviceGetUUID(at, uuid: Out<c_char>, length: c_uint) { uuid.text(length, &at.gpu.uuid) }
    fn nvmlDeviceGetName(at, name: Out<c_char>, length: c_uint) { name.text(length, &at.gpu.name) }
    fn nvmlDeviceGetIndex(at, index: Out<c_uint>) { index.set(number(at.index)?) }
    fn nvmlDeviceGetMinorNumber(at, minor: Out<c_uint>) {
        minor.set(at.gpu.minor.map_or_else(|| number(at.index), Ok)?)
    }
    fn nvmlDeviceGetPciInfo_v3(at, pci: Out<nvmlPciInfo_t>) { pci.set(pci_info(at)?) }
    fn nvmlDeviceGetSerial(at, serial: Out<c_char>, length: c_uint) {
        serial.text(length, at.gpu.serial.as_deref().ok_or(Code::NOT_SUPPORTED)?)
    }
    fn nvmlDeviceGetBrand(_at, brand: Out<nvmlBrandType_t>) {
        brand.set(sys::nvmlBrandType_enum_NVML_BRAND_NVIDIA)
    }
    fn nvmlDeviceGetArchitecture(at, architecture: Out<nvmlDeviceArchitecture_t>) {
        architecture.set(architecture_number(at.gpu.architecture))
    }
    fn nvmlDeviceGetCudaComputeCapability(at, major: Out<c_int>, minor: Out<c_int>) {
        let named = at.gpu.compute_capability.as_deref();
        let text = named.unwrap_or(at.gpu.architecture.compute_capability());
        let capability = version_pair(text).ok_or(Code::UNKNOWN)?;
        major.set(capability.0)?;
        minor.set(capability.1)
    }
    fn nvmlDeviceGetNumGpuCores(at, cores: Out<c_uint>) { cores.set(at.gpu.cores.ok_or(Code::NOT_SUPPORTED)?) }
    fn nvmlDeviceGetComputeMode(at, mode: Out<nvmlComputeMode_t>) { mode.set(driver::compute_mode(at)?) }
    fn nvmlDeviceSetComputeMode(at, mode: nvmlComputeMode_t) {
        if mode >= sys::nvmlComputeMode_enum_NVML_COMPUTEMODE_COUNT {
            return Err(Code::INVALID_ARGUMENT);
        }
        driver::admit_changes(&at.moment)?;
        at.unless_mig()?;
        if at.gpu.ignores_compute_mode {
            return Ok(());
        }
        driver::set_compute_mode(at, mode)
    }
    fn nvmlDeviceGetPersistenceMode(_at, mode: Out<nvmlEnableState_t>) { mode.set(1) }
    fn nvmlDeviceGetEccMode(at, current: Out<nvmlEnableState_t>, pending: Out<nvmlEnableState_t>) {
        current.set(at.gpu.ecc.into())?;
        pending.set(at.gpu.ecc.into())
    }
    fn nvmlDeviceGetMigMode(at, current: Out<c_uint>, pending: Out<c_uint>) {
        let is_on = at.gpu.mig.ok_or(Code::NOT_SUPPORTED)?;
        current.set(is_on.into())?;
        pending.set(is_on.into())
    }
    fn nvmlDeviceGetMaxMigDeviceCount(at, count: Out<c_uint>) {
        count.set(at.gpu.mig.map_or(0, |_| MAX_MIG_DEVICES))
    }
    fn nvmlDeviceGetMigDeviceHandleByIndex(at, _index: c_uint, _found: Out<nvmlDevice_t>) {
        // No instance was ever created, whether or not the GPU could be cut.
        Err(at.gpu.mig.map_or(Code::NOT_SUPPORTED, |_| Code::NOT_FOUND))
    }
    fn nvmlDeviceGetDeviceHandleFromMigDeviceHandle(_at, _found: Out<nvmlDevice_t>) { Err(Code::INVALID_ARGUMENT) }
    fn nvmlDeviceGetGpuInstanceId(_at, _id: Out<c_uint>) { Err(Code::NOT_SUPPORTED) }
    fn nvmlDeviceGetComputeInstanceId(_at, _id: Out<c_uint>) { Err(Code::NOT_SUPPORTED) }
}

fn number(index: usize) -> Answer<c_uint> {
    c_uint::try_from(index).map_err(|_| Code::UNKNOWN)
}

fn architecture_number(architecture: Architecture) -> nvmlDeviceArchitecture_t {
    match architecture {
        Architecture::Volta => sys::NVML_DEVICE_ARCH_VOLTA,
        Architecture::Turing => sys::NVML_DEVICE_ARCH_TURING,
        Architecture::Ampere => sys::NVML_DEVICE_ARCH_AMPERE,
        Architecture::Ada => sys::NVML_DEVICE_ARCH_ADA,
        Architecture::Hopper => sys::NVML_DEVICE_ARCH_HOPPER,
        Architecture::Blackwell => sys::NVML_DEVICE_ARCH_BLACKWELL,
    }
}

/// The address in both spellings: four digits of domain for old clients, eight for new ones.
fn pci_info(at: &GpuAt<'_>) -> Answer<nvmlPciInfo_t> {
    let (domain, bus, device) = pci_address(&at.gpu.pci).ok_or(Code::UNKNOWN)?;
    Ok(nvmlPciInfo_t {
        busIdLegacy: characters(&format!("{domain:04X}:{bus:02X}:{device:02X}.0")),
        domain,
        bus,
        device,
        pciDeviceId: PCI_VENDOR,
        pciSubSystemId: PCI_VENDOR,
        busId: characters(&format!("{domain:08X}:{bus:02X}:{device:02X}.0")),
    })
}

/// A C string in an array that is longer than it.
fn characters<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (place, byte) in array[..N - 1].iter_mut().zip(text.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    array
}
