//! What devices are and what they measure.

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper_sys::bindings::nvmlMemory_v2_t;

use crate::stage::{NOTICED, Stage, gpu};

const MIB: u64 = 1 << 20;

#[test]
fn are_found_by_index_uuid_and_bus_id() {
    let scenario = format!(
        "driver = \"570.1\"\ncuda = \"12.8\"\n{}{}",
        gpu(0, ""),
        gpu(1, "minor = 7")
    );
    let Some(stage) = Stage::enter("devices::are_found_by_index_uuid_and_bus_id", &scenario) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    assert_eq!(nvml.device_count().expect("count"), 2);
    assert_eq!(nvml.sys_driver_version().expect("driver"), "570.1");
    assert_eq!(nvml.sys_cuda_driver_version().expect("cuda"), 12080);
    let device = nvml.device_by_index(1).expect("device 1");
    assert_eq!(device.name().expect("name"), "Fake 1");
    assert_eq!(device.minor_number().expect("minor"), 7);
    let pci = device.pci_info().expect("pci");
    assert_eq!(
        (pci.bus_id.as_str(), pci.bus, pci.device),
        ("00000000:00:11.0", 0, 0x11)
    );
    assert_eq!(
        nvml.device_by_uuid("GPU-1")
            .expect("by uuid")
            .index()
            .expect("index"),
        1
    );
    assert_eq!(
        nvml.device_by_pci_bus_id("0000:00:11.0")
            .expect("by bus")
            .index()
            .expect("index"),
        1
    );
    assert!(matches!(nvml.device_by_index(2), Err(NvmlError::InvalidArg)));
    assert!(matches!(nvml.device_by_uuid("GPU-x"), Err(NvmlError::NotFound)));
    assert!(matches!(device.mig_mode(), Err(NvmlError::NotSupported)));
}

#[test]
fn measure_what_the_scenario_says() {
    let keys = "utilization = 42\nmemory_busy = 17\npower_watts = 71.25\npower_limit_watts = 150.0\n\
                temperature = 63\nsm_clock_mhz = 1500\nmemory_clock_mhz = 5000\nmax_sm_clock_mhz = 1590\nencoder = 3";
    let Some(stage) = Stage::enter("devices::measure_what_the_scenario_says", &gpu(0, keys)) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    let utilization = device.utilization_rates().expect("utilisation");
    assert_eq!((utilization.gpu, utilization.memory), (42, 17));
    assert_eq!(device.power_usage().expect("power"), 71_250);
    assert_eq!(device.enforced_power_limit().expect("limit"), 150_000);
    assert_eq!(
        device.temperature(TemperatureSensor::Gpu).expect("temperature"),
        63
    );
    assert_eq!(device.clock_info(Clock::SM).expect("clock"), 1500);
    assert_eq!(device.clock_info(Clock::Memory).expect("clock"), 5000);
    assert_eq!(device.max_clock_info(Clock::SM).expect("clock"), 1590);
    assert_eq!(device.encoder_utilization().expect("encoder").utilization, 3);
    assert!(device.current_throttle_reasons().expect("reasons").is_empty());
}

#[test]
#[expect(unsafe_code, reason = "only a raw call can send a wrong version word")]
fn memory_is_version_two_and_says_so() {
    let keys = "reserved_mib = 100\nused_mib = 250";
    let Some(stage) = Stage::enter("devices::memory_is_version_two_and_says_so", &gpu(0, keys)) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    let memory = device.memory_info().expect("memory");
    assert_eq!(
        (memory.total, memory.reserved, memory.used, memory.free),
        (1000 * MIB, 100 * MIB, 250 * MIB, 650 * MIB)
    );
    let call = nvml.lib().nvmlDeviceGetMemoryInfo_v2.as_ref().expect("symbol");
    for (version, code) in [(0x0200_0028, 0), (0x0100_0028, 25), (0, 25)] {
        let mut raw = nvmlMemory_v2_t {
            version,
            total: 0,
            reserved: 0,
            free: 0,
            used: 0,
        };
        // SAFETY: the handle is that of a live device, and the structure is this function's own.
        assert_eq!(
            unsafe { call(device.handle(), &raw mut raw) },
            code,
            "version word {version:#x}"
        );
    }
}

#[test]
fn field_batch_has_a_code_for_each_field() {
    let keys = "power_watts = 100\n[gpu.fields]\n82 = { error = 15 }\n4 = { value = 3 }";
    let Some(stage) = Stage::enter_late(
        "devices::field_batch_has_a_code_for_each_field",
        &gpu(0, keys),
        60_000,
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    let ids = [83, 82, 4, 186, 230, 9999].map(FieldId);
    let batch = device.field_values_for(&ids).expect("the call itself works");
    let mut values = batch.into_iter().map(|field| field.and_then(|field| field.value));
    let mut next = || values.next().expect("one answer for each");
    // 100 W for a minute and a bit.
    assert!(matches!(next(), Ok(SampleValue::U64(mj)) if (6_000_000..9_000_000).contains(&mj)));
    assert!(matches!(next(), Err(NvmlError::GpuLost)));
    assert!(matches!(next(), Ok(SampleValue::U64(3))));
    assert!(matches!(next(), Ok(SampleValue::U32(100_000))));
    assert!(matches!(next(), Ok(SampleValue::U32(0))));
    assert!(matches!(next(), Err(NvmlError::NotSupported)));
}

#[test]
fn scenario_is_switched_by_renaming_a_file() {
    let Some(stage) = Stage::enter(
        "devices::scenario_is_switched_by_renaming_a_file",
        &gpu(0, "temperature = 40"),
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    assert_eq!(device.temperature(TemperatureSensor::Gpu).expect("before"), 40);
    stage.play(&gpu(0, "temperature = 77"));
    std::thread::sleep(NOTICED);
    assert_eq!(device.temperature(TemperatureSensor::Gpu).expect("after"), 77);
    stage.play("no scenario at all");
    std::thread::sleep(NOTICED);
    assert_eq!(
        device
            .temperature(TemperatureSensor::Gpu)
            .expect("the last good one goes on"),
        77
    );
}

#[test]
fn ordered_error_concerns_that_call_of_that_gpu_only() {
    let scenario = format!(
        "{}{}",
        gpu(0, "[gpu.errors]\nnvmlDeviceGetTemperature = 3"),
        gpu(1, "")
    );
    let Some(stage) = Stage::enter(
        "devices::ordered_error_concerns_that_call_of_that_gpu_only",
        &scenario,
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let (first, second) = (
        nvml.device_by_index(0).expect("0"),
        nvml.device_by_index(1).expect("1"),
    );
    assert!(matches!(
        first.temperature(TemperatureSensor::Gpu),
        Err(NvmlError::NotSupported)
    ));
    assert!(first.power_usage().is_ok());
    assert!(second.temperature(TemperatureSensor::Gpu).is_ok());
}
