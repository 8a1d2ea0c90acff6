//! Process lists and their traps.

use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{nvmlProcessUtilizationInfo_v1_t, nvmlProcessesUtilizationInfo_t};

use crate::stage::{Stage, gpu};

const BLANK: nvmlProcessUtilizationInfo_v1_t = nvmlProcessUtilizationInfo_v1_t {
    timeStamp: 0,
    pid: 0,
    smUtil: 0,
    memUtil: 0,
    encUtil: 0,
    decUtil: 0,
    jpgUtil: 0,
    ofaUtil: 0,
};

fn process(pid: u32, keys: &str) -> String {
    format!("[[gpu.process]]\npid = {pid}\n{keys}\n")
}

#[test]
fn stand_in_their_lists_for_their_time() {
    let scenario = [
        gpu(0, ""),
        process(10, "memory_mib = 25\nname = \"nvidia-cuda-mps-server\""),
        process(11, "memory_mib = 107\nlists = [\"compute\", \"mps\"]"),
        process(12, "lists = [\"graphics\"]"),
        process(13, "memory_mib = 1\nto_ms = 1000"),
    ]
    .concat();
    let Some(stage) = Stage::enter_late("processes::stand_in_their_lists_for_their_time", &scenario, 5_000)
    else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    let compute = device.running_compute_processes().expect("compute");
    assert_eq!(
        compute.iter().map(|process| process.pid).collect::<Vec<_>>(),
        [10, 11]
    );
    assert!(matches!(compute[1].used_gpu_memory, UsedGpuMemory::Used(bytes) if bytes == 107 << 20));
    let mps = device.mps_running_compute_processes().expect("mps");
    assert_eq!(mps.iter().map(|process| process.pid).collect::<Vec<_>>(), [11]);
    let graphics = device.running_graphics_processes().expect("graphics");
    assert_eq!(graphics[0].pid, 12);
    assert!(matches!(graphics[0].used_gpu_memory, UsedGpuMemory::Unavailable));
    assert_eq!(
        nvml.sys_process_name(10, 64).expect("name"),
        "nvidia-cuda-mps-server"
    );
    assert_eq!(
        device.memory_info().expect("memory").used,
        132 << 20,
        "used is the sum by default"
    );
}

#[test]
fn list_that_grows_by_five_fits_the_wrapper_and_by_six_does_not() {
    let scenario = |grow| {
        gpu(0, &format!("grow_per_call = {grow}"))
            + &process(10, "lists = [\"compute\", \"mps\"]\nmemory_mib = 1")
    };
    let name = "processes::list_that_grows_by_five_fits_the_wrapper_and_by_six_does_not";
    let Some(stage) = Stage::enter(name, &scenario(5)) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    for _ in 0..2 {
        assert_eq!(
            device
                .running_compute_processes()
                .expect("room for five more")
                .len(),
            6
        );
    }
    assert!(matches!(
        device.mps_running_compute_processes(),
        Err(NvmlError::InsufficientSize(_))
    ));
    stage.play(&scenario(6));
    std::thread::sleep(crate::stage::NOTICED);
    assert!(matches!(
        device.running_compute_processes(),
        Err(NvmlError::InsufficientSize(_))
    ));
}

#[test]
#[expect(
    unsafe_code,
    reason = "the wrapper lacks nvmlDeviceGetProcessesUtilizationInfo"
)]
fn utilisation_is_told_by_both_calls_once() {
    let scenario = [
        gpu(0, ""),
        process(10, "utilization = 30"),
        process(11, "utilization = 0"),
    ]
    .concat();
    let Some(stage) = Stage::enter_late(
        "processes::utilisation_is_told_by_both_calls_once",
        &scenario,
        5_000,
    ) else {
        return;
    };
    let nvml = stage.nvml().expect("init");
    let device = nvml.device_by_index(0).expect("device");
    let samples = device.process_utilization_stats(None).expect("one works");
    assert_eq!(
        samples
            .iter()
            .map(|sample| (sample.pid, sample.sm_util))
            .collect::<Vec<_>>(),
        [(10, 30)]
    );
    let future = samples[0].timestamp + 10_000_000;
    assert!(matches!(
        device.process_utilization_stats(future),
        Err(NvmlError::NotFound)
    ));

    let call = nvml
        .lib()
        .nvmlDeviceGetProcessesUtilizationInfo
        .as_ref()
        .expect("symbol");
    let version = u32::try_from(size_of::<nvmlProcessesUtilizationInfo_t>()).expect("small") | 1 << 24;
    let mut list = nvmlProcessesUtilizationInfo_t {
        version,
        processSamplesCount: 0,
        lastSeenTimeStamp: 0,
        procUtilArray: std::ptr::null_mut(),
    };
    // SAFETY: a live device, and a structure of this function; a null array only asks for the size.
    assert_eq!(unsafe { call(device.handle(), &raw mut list) }, 7);
    assert_eq!(list.processSamplesCount, 1);
    let mut array = [BLANK; 1];
    list.procUtilArray = array.as_mut_ptr();
    // SAFETY: the array has the one element that the count says.
    assert_eq!(unsafe { call(device.handle(), &raw mut list) }, 0);
    assert_eq!((array[0].pid, array[0].smUtil), (10, 30));
}
