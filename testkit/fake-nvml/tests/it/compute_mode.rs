//! The compute mode belongs to the GPU, not to the process that sets it.

use nvml_wrapper::enum_wrappers::device::ComputeMode;
use nvml_wrapper::error::NvmlError;

use crate::stage::{EPOCH_MS, NOTICED, Stage, gpu};

/// Loads the library afresh, sets the mode of a GPU if there is one to set, and reads it back.
fn mode(stage: &Stage, index: u32, set: Option<ComputeMode>) -> Result<ComputeMode, NvmlError> {
    let nvml = stage.nvml().expect("init");
    let mut device = nvml.device_by_index(index).expect("device");
    if let Some(mode) = set {
        device.set_compute_mode(mode)?;
    }
    device.compute_mode()
}

#[test]
fn is_seen_by_every_process_until_the_driver_is_loaded_afresh() {
    const TEST: &str = "compute_mode::is_seen_by_every_process_until_the_driver_is_loaded_afresh";
    let scenario = format!("{}{}", gpu(0, ""), gpu(1, "compute_mode = \"prohibited\""));
    let Some(stage) = Stage::enter(TEST, &scenario) else {
        return;
    };
    let read = |index| mode(&stage, index, None).expect("readable");
    match Stage::part().as_deref() {
        None => {}
        Some("sets") => {
            mode(&stage, 0, Some(ComputeMode::ExclusiveProcess)).expect("set");
            return;
        }
        Some(_) => return assert_eq!(read(0), ComputeMode::Default, "another boot has forgotten it"),
    }
    let epoch = std::env::var(EPOCH_MS).expect("set");
    assert_eq!(read(0), ComputeMode::Default);
    assert_eq!(read(1), ComputeMode::Prohibited, "as the scenario has it");
    stage.another_process(TEST, "sets", |command| {
        command.env(EPOCH_MS, &epoch);
    });
    assert_eq!(read(0), ComputeMode::ExclusiveProcess);
    assert_eq!(read(1), ComputeMode::Prohibited, "that of the other GPU");
    stage.another_process(TEST, "after a boot", |command| {
        command.env(EPOCH_MS, format!("{epoch}0"));
    });
    stage.play(&format!("driver = \"590.1\"\n{scenario}"));
    std::thread::sleep(NOTICED);
    assert_eq!(
        read(0),
        ComputeMode::ExclusiveProcess,
        "another scenario is the same driver"
    );
    let since = stage.ms_now();
    stage.play(&format!(
        "{scenario}[[driver_gone]]\nat_ms = {since}\nclears_ms = {since}\n"
    ));
    std::thread::sleep(NOTICED);
    assert_eq!(read(0), ComputeMode::Default);
}

#[test]
fn is_refused_with_mig_and_to_those_who_are_no_administrators() {
    const TEST: &str = "compute_mode::is_refused_with_mig_and_to_those_who_are_no_administrators";
    let scenario = format!(
        "{}{}{}",
        gpu(0, "mig = true"),
        gpu(1, "mig = false"),
        gpu(2, "[gpu.errors]\nnvmlDeviceSetComputeMode = 4")
    );
    let Some(stage) = Stage::enter(TEST, &scenario) else {
        return;
    };
    let set = |index| mode(&stage, index, Some(ComputeMode::Prohibited));
    assert!(matches!(set(0), Err(NvmlError::NotSupported)));
    assert_eq!(
        set(1).expect("capable of MIG, and it is off"),
        ComputeMode::Prohibited
    );
    assert!(matches!(set(2), Err(NvmlError::NoPermission)));

    stage.play(&format!("needs_admin = true\n{scenario}"));
    std::thread::sleep(NOTICED);
    let status = fs_err::read_to_string("/proc/thread-self/status").expect("readable");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = u64::from_str_radix(effective.expect("in every status").trim(), 16).expect("hexadecimal");
    let may = bits >> 21 & 1 == 1;
    assert_eq!(set(1).is_ok(), may, "CapEff: {bits:x}");
    assert_eq!(
        mode(&stage, 1, None).expect("anybody reads"),
        ComputeMode::Prohibited
    );
}
